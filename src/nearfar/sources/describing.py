"""What was understood of a data set: as plain values, and printed."""

from typing import Any

import numpy as np

from nearfar.sources import words
from nearfar.sources.data import Data
from nearfar.sources.masks import IGNORE

COMPARED = 20_000  # rows at most that are compared for near copies
NEAR_BITS = 2  # of 64: pictures whose difference hashes differ in no more count as near copies


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
        "masks": _masks(data) if "mask" in data.roles else None,
        "groups": _groups(data.groups),
        "units": None if data.units is None else len(np.unique(data.units)),
        "domains": {n: int((data.domains == i).sum()) for i, n in enumerate(data.domain_names)}
        if data.domains is not None
        else {},
        "split": data.split_name,
        "splits": {name: len(rows) for name, rows in data.splits.items()},
        "split_hash": data.split_hash,
        "leaks": data.leaks(),
        "shared": [vars(one) | {"text": str(one)} for one in data.shared()],
        "corpus": {role: len(texts) for role, texts in (data.corpus or {}).items()},
        "problems": [str(p) for p in data.problems],
        "notes": list(dict.fromkeys(data.notes)),
    }


def _column(data: Data, role: str, samples: int) -> dict[str, Any]:
    content = data.content(role)
    _, first, counts = np.unique(content, return_index=True, return_counts=True)
    image = data.is_image(role)
    near = _near_images(data, role) if image else _near_texts(data, role)
    rows = np.linspace(0, len(data) - 1, min(samples, len(data))).round().astype(int)
    shown = _picture_samples(data, role, rows) if image else [" ".join(t.split())[:300] for t in data.texts(role, rows)]
    return {
        "column": data.column(role),
        "type": "picture" if image else "text",
        "distinct": len(first),
        "duplicates": int(len(data) - len(first)),
        "most_repeated": int(counts.max(initial=0)),
        "near_copies": near,
        "sizes": _sizes(data, role),
        "samples": [{"key": data.keys[r], "value": v} for r, v in zip(rows.tolist(), shown, strict=True)],
    }


def _sizes(data: Data, role: str) -> dict[str, Any]:
    """Smallest, median and largest: width x height by area, or the number of words."""
    sizes = data._scan.sizes[data.column(role)]
    order = np.argsort(sizes.prod(axis=1) if sizes.ndim == 2 else sizes, kind="stable")
    chosen = {"least": order[0], "median": order[len(order) // 2], "most": order[-1]}
    return {name: sizes[row].tolist() for name, row in chosen.items()}


def _picture_samples(data: Data, role: str, rows: np.ndarray) -> list[str]:
    sizes = data._scan.sizes[data.column(role)]
    return [f"{sizes[row][0]} x {sizes[row][1]} pixels" for row in rows]


def _label(data: Data, column: str) -> dict[str, Any]:
    codes, names = data.labels[column], data.label_names[column]
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    top = np.argsort(-counts, kind="stable")[:8]
    return {
        "classes": len(names),
        "missing": int((codes < 0).sum()),
        "largest": {names[i]: int(counts[i]) for i in top},
        "least": int(counts.min()) if len(counts) else 0,
    }


def _masks(data: Data) -> dict[str, Any]:
    """Each class with the number of pictures that hold it, and what is left out of the count."""
    counts = data.mask_counts()
    return {
        "pictures": int(data.masked.sum()),
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


def _near_images(data: Data, role: str) -> dict[str, Any]:
    """Pictures of another content whose difference hash is at most two bits away. Rows of one group are not counted."""
    content = data.content(role)
    first = np.sort(np.unique(content, return_index=True)[1])[:COMPARED]
    hashes = data._scan.hashes[data.column(role)][first]
    flat = np.bitwise_count(hashes) < 6  # hardly any edge: unlike pictures look alike
    pairs = [(int(first[a]), int(first[b])) for a, b in _hamming_pairs(hashes) if not (flat[a] or flat[b])]
    return _near(data, pairs, len(first))


def _hamming_pairs(hashes: np.ndarray) -> list[tuple[int, int]]:
    """Pairs at most NEAR_BITS apart: with four bands of 16 bits, one band of such a pair is equal."""
    found: set[tuple[int, int]] = set()
    for shift in range(0, 64, 16):
        band = (hashes >> np.uint64(shift)) & np.uint64(0xFFFF)
        order = np.argsort(band, kind="stable")
        for step in range(1, 9):  # neighbours in the sorted band; a crowded band is sampled
            a, b = order[:-step], order[step:]
            near = (band[a] == band[b]) & (np.bitwise_count(hashes[a] ^ hashes[b]) <= NEAR_BITS)
            found.update((int(min(x, y)), int(max(x, y))) for x, y in zip(a[near], b[near], strict=True))
    return sorted(found)


def _near_texts(data: Data, role: str) -> dict[str, Any]:
    """Texts whose word triples overlap by 80 % or more (estimated), among the distinct ones."""
    first = np.sort(np.unique(data.content(role), return_index=True)[1])[:COMPARED]
    texts = data.texts(role, first)
    long = [i for i, text in enumerate(texts) if len(text.split()) >= 5]
    if not long:
        return _near(data, [], len(first))
    head = words.near_copies([texts[i] for i in long])
    rows = first[long]
    return _near(data, [(int(rows[h]), int(rows[i])) for i, h in enumerate(head) if h != i], len(first))


def _near(data: Data, pairs: list[tuple[int, int]], compared: int) -> dict[str, Any]:
    """How many of the distinct contents have a near copy outside their group, and how many have one in another
    split."""
    groups = data.groups
    pairs = [(a, b) for a, b in pairs if groups is None or groups[a] != groups[b]]
    place = np.full(len(data), -1)
    for i, rows in enumerate(data.splits.values()):
        place[rows] = i
    across = [(a, b) for a, b in pairs if place[a] != place[b]]
    examples = [[data.keys[a], data.keys[b]] for a, b in (across or pairs)[:3]]
    return {
        "rows": len({row for pair in pairs for row in pair}),
        "rows_across_splits": len({row for pair in across for row in pair}),
        "compared": int(compared),
        "examples": examples,
    }
