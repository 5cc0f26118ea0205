"""Texts: their normal form, digests and near-copies."""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
_TOKEN = re.compile(r"\w+", re.UNICODE)
_PRIME = np.uint64((1 << 61) - 1)
_BAND = 4
_FACTORS = np.random.default_rng(1).integers(1, 1 << 31, (32, 1), np.uint64)
_OFFSETS = np.random.default_rng(2).integers(0, 1 << 60, (32, 1), np.uint64)


def normal(text: str) -> str:
    """Compatible forms joined (NFKC), case folded, every run of white space one blank."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def shingles(text: str, size: int = 3) -> set[str]:
    """The runs of `size` words of a text's normal form (the whole text where it is shorter)."""
    tokens = _TOKEN.findall(normal(text)) or [""]
    return {" ".join(tokens[i : i + size]) for i in range(max(1, len(tokens) - size + 1))}


def min_hashes(runs: set[str]) -> np.ndarray:
    """uint64 (32,): minima of 32 hashes over the runs. Two sets that overlap by a share J (Jaccard) agree in about J
    of the entries."""
    marks = np.frombuffer(
        b"".join(hashlib.blake2b(r.encode("utf-8", "replace"), digest_size=4).digest() for r in runs), "<u4"
    )
    return ((_FACTORS * marks.astype(np.uint64) + _OFFSETS) % _PRIME).min(axis=1)


def first_of_equal(items: Iterable[T], key: Callable[[T], Hashable]) -> list[T]:
    """The first item of each key, in their order."""
    found: dict[Hashable, T] = {}
    for item in items:
        found.setdefault(key(item), item)
    return list(found.values())


def near_copies(
    texts: Sequence[str], least: float = 0.8, advance: Callable[[int], None] = lambda count: None
) -> np.ndarray:
    """int64 (N,): the first text that each one nearly repeats, its own number where there is none.

    Near means that the runs of three words overlap by `least` (Jaccard, exact). Candidates are texts with an equal
    band of four hashes: of eight bands a pair at 0.8 shares one with a probability of 0.98.
    """
    first = np.arange(len(texts), dtype=np.int64)
    if not len(texts):
        return first
    runs, marks = [], []
    for text in texts:
        runs.append(shingles(text))
        marks.append(min_hashes(runs[-1]))
        advance(1)
    table = np.stack(marks)
    for start in range(0, table.shape[1], _BAND):
        _, head, code = np.unique(table[:, start : start + _BAND], axis=0, return_index=True, return_inverse=True)
        candidates = head[code.reshape(-1)]
        for row in np.flatnonzero((candidates < np.arange(len(texts))) & (candidates < first)):
            a, b = runs[row], runs[candidates[row]]
            if len(a & b) >= least * len(a | b):
                first[row] = candidates[row]
    return first[first]
