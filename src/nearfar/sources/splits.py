"""Splits by unit and content: what belongs together never stands on both sides."""

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}
_WORDS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "development": "val", "eval": "val", "test": "test", "testing": "test", "holdout": "test", "held-out": "test",
    "trainval": "train", "trainset": "train", "valset": "val", "testset": "test",
    "extra": "train", "unlabeled": "train", "unlabelled": "train", "unsupervised": "train", "unsup": "train",
}  # fmt: skip
_ANY = "|".join(sorted(_WORDS, key=len, reverse=True))
_IN_FRONT = re.compile(rf"(?:split=)?({_ANY})(?![a-z])")  # train, train2017, validation_matched, train-00000-of-00004
_AT_END = re.compile(rf"[^a-z]({_ANY})\d*$")  # seg_train, images-test
_UNLABELLED = re.compile(r"(?:unlabell?ed|unsup(?:ervised)?)(?![a-z])")


UNUSED = "unused"  # in a column of splits: a row of none of them


def standard_name(name: str) -> str | None:
    """ "train", "val" or "test" for the usual spellings (train2017, validation_matched, seg_test...), None for others.

    What is unlabelled or extra is there to be trained on.
    """
    plain = name.strip().casefold()
    found = _IN_FRONT.match(plain) or _AT_END.search(plain)
    return _WORDS[found.group(1)] if found else None


def unlabelled(name: str) -> bool:
    """Whether a folder (unlabeled, unsup...) says that what lies in it has no class."""
    return _UNLABELLED.match(name.strip().casefold()) is not None


def components(columns: Sequence[np.ndarray]) -> np.ndarray:
    """int64 (N,): rows that share a value in any column, directly or over other rows, get the same number."""
    rows = len(columns[0])
    sources, targets, nodes = [], [], rows
    for column in columns:
        codes = np.unique(column, return_inverse=True)[1].reshape(-1)
        sources.append(np.arange(rows))
        targets.append(codes + nodes)
        nodes += int(codes.max(initial=-1)) + 1
    row, column = np.concatenate(sources), np.concatenate(targets)
    graph = coo_matrix((np.ones(len(row), bool), (row, column)), shape=(nodes, nodes))
    return connected_components(graph, directed=False)[1][:rows].astype(np.int64)


def hang_together(joined: np.ndarray, fewer: np.ndarray) -> bool:
    """Whether components (N,) over all columns are too coarse to be divided, where `fewer` are those of some columns:
    one of them holds more than half of the rows, or five of `fewer` make one of them on average."""
    largest, largest_of_fewer = (int(np.bincount(c, minlength=1).max()) for c in (joined, fewer))
    if max(0.5 * len(joined), 1) < largest and largest_of_fewer < largest:
        return True
    return len(joined) > 0 and 5 * (int(joined.max()) + 1) <= int(fewer.max()) + 1


def assign(component: np.ndarray, mark: np.ndarray, seed: int, shares: dict[str, float]) -> dict[str, np.ndarray]:
    """Sorted row numbers of each split: whole components, `shares` of their number, in an order drawn from the seed.

    The order hashes the seed with the smallest `mark` (an int64 id of unit or content) of each component, so it does
    not depend on the order of the rows. With three or more components no split is empty.
    """
    count = int(component.max(initial=-1)) + 1
    smallest = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(smallest, component, mark)
    order = sorted(
        range(count), key=lambda c: hashlib.blake2b(f"{seed}:{smallest[c]}".encode(), digest_size=16).digest()
    )
    place = np.empty(count, np.int64)
    place[order] = np.repeat(np.arange(len(shares)), _sizes(count, shares))
    return {name: np.flatnonzero(place[component] == i) for i, name in enumerate(shares)}


def _sizes(count: int, shares: dict[str, float]) -> list[int]:
    """Whole numbers of `count` near the shares; what rounding leaves goes to the first."""
    rest = [round(count * share) for share in list(shares.values())[1:]]
    if count >= len(shares):
        rest = [max(1, r) for r in rest]
    return [count - sum(rest), *rest]


def digest(splits: dict[str, np.ndarray]) -> str:
    """Hex digest of names and rows."""
    state = hashlib.sha256()
    for name, rows in splits.items():
        state.update(f"{name}:{len(rows)}:".encode())
        state.update(np.ascontiguousarray(rows, np.int64).tobytes())
    return state.hexdigest()[:32]
