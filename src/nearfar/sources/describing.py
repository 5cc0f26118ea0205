"""What was understood of a data set: as plain values, and printed."""

from typing import Any

import numpy as np

from nearfar.sources.bags import bag_targets
from nearfar.sources.compositions import compositions, has_compositions
from nearfar.sources.data import Data
from nearfar.sources.masks import IGNORE
from nearfar.sources.raw import filled
from nearfar.sources.trees import LEVELS

COMPARED = 20_000  # rows at most that are compared for near copies
FEW = 12  # different scores that are counted one by one


def describe(data: Data, samples: int = 3) -> dict[str, Any]:
    """All of it as values that JSON takes."""
    columns = {role: _column(data, role, samples) for role in data.content_roles}
    return {
        "name": data.name,
        "path": str(data.path) if data.path else None,
        "kind": data.kind,
        "rows": len(data),
        "hash": data.hash,
        "roles": data.roles,
        "reasons": {role: data.reasons.get(role, "") for role in data.roles},
        "columns": [c for c in data.table.column_names if not c.startswith("__")],
        "content": columns,
        "labels": {c: _label(data, c) for c in data.labels},
        "scores": _scores(data) if data.scores is not None else None,
        "target": _target(data) if "target" in data.roles else None,
        "bags": _bags(data) if data.bags is not None else None,
        "trees": _trees(data),
        "compositions": _compositions(data) if has_compositions(data) else None,
        "masks": _masks(data) if "mask" in data.roles else None,
        "groups": _groups(data.groups),
        "units": None if data.units is None or data.dividing is not None else len(np.unique(data.units)),
        "domains": {n: int((data.domains == i).sum()) for i, n in enumerate(data.domain_names)}
        if data.domains is not None
        else {},
        "split": data.split_name,
        "splits": {name: len(rows) for name, rows in data.splits.items()},
        "split_hash": data.split_hash,
        "leaks": data.leaks(),
        "shared": [vars(one) | {"text": str(one)} for one in data.shared()],
        "corpus": {role: len(texts) for role, texts in data.corpus.items()},
        "problems": [str(p) for p in data.problems],
        "notes": list(dict.fromkeys(data.notes)),
    }


def _column(data: Data, role: str, samples: int) -> dict[str, Any]:
    content, kind = data.content(role), data.modality(role)
    there = np.flatnonzero(content >= 0)
    counts = np.unique(content[there], return_counts=True)[1]
    rows = np.linspace(0, len(data) - 1, min(samples, len(data))).round().astype(int)
    compared = distinct_rows(data, role)[:COMPARED]
    sizes, shown = _sizes(data, role, there), kind.samples(data, role, rows)
    return {
        "column": data.key(role),
        "type": kind.word,
        "distinct": len(counts),
        "duplicates": int(len(there) - len(counts)),
        "most_repeated": int(counts.max(initial=0)),
        "near_copies": _near(data, near_pairs(data, role, compared), len(compared)),
        "sizes": sizes,
        "sizes_in_words": kind.sizes_in_words(sizes),
        "samples": [{"key": data.keys[r], "value": v} for r, v in zip(rows.tolist(), shown, strict=True)],
    }


def distinct_rows(data: Data, role: str) -> np.ndarray:
    """The first row of each content of a role, in order."""
    content = data.content(role)
    there = np.flatnonzero(content >= 0)
    return np.sort(there[np.unique(content[there], return_index=True)[1]])


def near_pairs(data: Data, role: str, rows: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of some distinct rows whose items are nearly the same, but for those of one group."""
    groups, pairs = data.groups, data.modality(role).near_copies(data, role, rows)
    return [(a, b) for a, b in pairs if groups is None or groups[a] != groups[b]]


def split_of(data: Data) -> np.ndarray:
    """int64 (N,): the number of each row's split among `data.splits`; -1 where it is in none."""
    place = np.full(len(data), -1)
    for i, rows in enumerate(data.splits.values()):
        place[rows] = i
    return place


def _sizes(data: Data, role: str, rows: np.ndarray) -> dict[str, Any]:
    """Smallest, median and largest, as the kind of data counts it: width x height by area, the number of words..."""
    sizes = data.facts("sizes", role)[rows]
    order = np.argsort(sizes.prod(axis=1) if sizes.ndim == 2 else sizes, kind="stable")
    chosen = {"least": order[0], "median": order[len(order) // 2], "most": order[-1]}
    return {name: sizes[row].tolist() for name, row in chosen.items()}


def _scores(data: Data) -> dict[str, Any]:
    """How the scores of pairs are spread, and how many pairs of each split have each, where they are few."""
    assert data.scores is not None
    known, column = np.unique(data.scores[np.isfinite(data.scores)]), data.roles["score"]
    found = {"column": column, "distinct": len(known), "least": float(known[0]), "most": float(known[-1])}
    if len(known) > FEW:
        return found
    parts = {name: data.scores[rows] for name, rows in data.splits.items()}
    counts = {f"{value:g}": {name: int((part == value).sum()) for name, part in parts.items()} for value in known}
    return found | {"counts": counts}


def _label(data: Data, column: str) -> dict[str, Any]:
    return _classes(data, data.labels[column], data.label_names[column])


def _target(data: Data) -> dict[str, Any]:
    """What is to be learned: how its numbers are spread, or its classes."""
    values = data.target_values
    if values is None:
        assert data.targets is not None
        return _classes(data, data.targets, data.target_names)
    known = values[np.isfinite(values)].astype(np.float64)
    counts = {"numbers": len(known), "missing": len(values) - len(known), "distinct": len(np.unique(known))}
    if not len(known):
        return counts
    least, median, most = np.quantile(known, [0, 0.5, 1]).tolist()
    return counts | {"least": least, "median": median, "most": most, "mean": float(known.mean()),
                     "deviation": float(known.std())}  # fmt: skip


def _classes(data: Data, codes: np.ndarray, names: list[str]) -> dict[str, Any]:
    """Counts, how uneven they are (`ratio`: the largest by the smallest), classes with a single row, and those of test
    rows that no training row has."""
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    top = np.argsort(-counts, kind="stable")[:8]
    train, test = (codes[data.splits[part]] for part in ("train", "test"))
    return {
        "classes": len(names),
        "missing": int((codes < 0).sum()),
        "largest": {names[i]: int(counts[i]) for i in top},
        "least": int(counts.min()) if len(counts) else 0,
        "ratio": float(counts.max() / counts.min()) if len(counts) else 1.0,
        "single": int((counts == 1).sum()),
        "train": int((train >= 0).sum()),
        "untrained": len(np.setdiff1d(test[test >= 0], train)),
    }


def _trees(data: Data) -> dict[str, Any] | None:
    """How many rows of each split have an annotation tree, and how many different names stand at each level."""
    if data.trees is None:
        return None
    held = {name: sum(bool(data.trees[row]) for row in rows) for name, rows in data.splits.items()}
    names = {level: len({path[k] for tree in data.trees for path in tree} - {""}) for k, level in enumerate(LEVELS)}
    return {"rows": held, "names": names}


def _bags(data: Data) -> dict[str, Any]:
    """How many bags, of how many rows, and how many have each class of the target (or of the first column of labels),
    none, or several."""
    assert data.bags is not None
    first, sizes = np.unique(data.bags, return_index=True, return_counts=True)[1:]
    low, high = (part[first] for part in bag_targets(data))
    counts = np.bincount(high[(low == high) & (high >= 0)], minlength=len(data.target_names))
    column = data.roles.get("target") or next(iter(data.labels), None)
    alone = [v for v in data.values("bag", first) if not filled(v)]
    return {
        "bags": len(first),
        "least": int(sizes.min()),
        "median": int(np.median(sizes)),
        "most": int(sizes.max()),
        "alone": len(alone),
        "labelled_by": column,
        "classes": {name: int(n) for name, n in zip(data.target_names, counts, strict=True)},
        "without": int((high < 0).sum()),
        "mixed": int((low < high).sum()),
    }


def _compositions(data: Data) -> dict[str, Any]:
    """How many attributes, objects and compositions, how many of these are trained on, and of each later part how many
    compositions are so and how many are not."""
    found, splits = compositions(data), data.splits
    seen = found.within(splits["train"])
    parts = {name: found.within(splits[name]) for name in ("val", "test")}
    return {
        "attributes": len(found.attributes),
        "objects": len(found.objects),
        "pairs": len(found),
        "seen": int(seen.sum()),
        "parts": {name: [int((seen & mine).sum()), int((mine & ~seen).sum())] for name, mine in parts.items()},
        "without": int((found.of < 0).sum()),
    }


def _masks(data: Data) -> dict[str, Any]:
    """Each class with the number of images that hold it, and what is left out of the count."""
    counts = data.mask_counts()
    return {
        "images": int(data.masked.sum()),
        "without": int((~data.masked).sum()),
        "classes": {name: counts[value] for value, name in data.mask_names.items()},
        "ignore": bool((data.mask_values == IGNORE).any()),
    }


def _groups(groups: np.ndarray | None) -> dict[str, int] | None:
    if groups is None:
        return None
    counts = np.bincount(groups)
    counts = counts[counts > 0]
    return {"count": len(counts), "least": int(counts.min()), "most": int(counts.max())}


def _near(data: Data, pairs: list[tuple[int, int]], compared: int) -> dict[str, Any]:
    """How many of the distinct contents have a near copy, and how many have one in another split."""
    place = split_of(data)
    across = [(a, b) for a, b in pairs if place[a] != place[b]]
    examples = [[data.keys[a], data.keys[b]] for a, b in (across or pairs)[:3]]
    return {
        "rows": len({row for pair in pairs for row in pair}),
        "rows_across_splits": len({row for pair in across for row in pair}),
        "compared": int(compared),
        "examples": examples,
    }
