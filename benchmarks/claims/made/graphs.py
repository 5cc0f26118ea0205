"""Graphs for the checks: digits joined to their nearest, and modules that import each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from made.writing import write_csv


def parts(count: int, shares: tuple[float, float, float], seed: int = 0) -> list[str]:
    """train, val and test, drawn once, by their shares."""
    ends = np.cumsum(np.round(np.array(shares) * count)).astype(int)
    names = np.repeat(["train", "val", "test"], np.diff([0, ends[0], ends[1], count]))
    return names[np.random.default_rng(seed).permutation(count)].tolist()


def few_of_each(labels: list[str], many: int, seed: int = 0) -> list[str]:
    """train: `many` of each label, or all but two; of the others a fifth val, the rest test; drawn once."""
    rng, found = np.random.default_rng(seed), np.full(len(labels), "test", object)
    for label in sorted(set(labels)):
        rows = rng.permutation(np.flatnonzero(np.array(labels) == label))
        first = min(many, len(rows) - 2)
        found[rows[:first]] = "train"
        found[rows[first : first + max(1, (len(rows) - first) // 5)]] = "val"
    return found.tolist()


def near_digits(count: int, neighbours: int, shares: tuple[float, float, float], out: Path) -> Path:
    """Digits of scikit-learn as nodes.csv and edges.csv, each joined to its nearest by cosine. Written once."""
    from sklearn.datasets import load_digits
    from sklearn.neighbors import NearestNeighbors

    folder = out / "data" / f"digits-of-1-{count}-{neighbours}-{shares[0]:g}"
    if (folder / "edges.csv").exists():
        return folder
    x, y = load_digits(return_X_y=True)
    x, y = x[:count], y[:count]
    found = NearestNeighbors(n_neighbors=neighbours, metric="cosine").fit(x).kneighbors(return_distance=False)
    names = [f"p{k}" for k in range(64)]
    rows = [[i, f"d{y[i]}", part, *(x[i] / 16).round(4)] for i, part in enumerate(parts(count, shares))]
    write_csv(folder / "nodes.csv", ["id", "label", "split", *names], rows)
    write_csv(folder / "edges.csv", ["source", "target"], [[i, j] for i in range(count) for j in found[i]])
    return folder


def modules(
    libraries: tuple[str, ...],
    shares: tuple[float, float, float] | int,
    out: Path,
    with_names: bool = False,
) -> Path:
    """Modules of some installed libraries that belong to a part with 12 modules or more, and what they import of each
    other; written once. with_names: beside them the names that two to 200 modules use, as nodes of another type, which
    have no label and are in no part of the splits. shares: of the splits, or so many labelled ones of each part."""
    from nearfar.sources import installed
    from nearfar.sources.sets.packages import NAME, read, rows_of

    few = f"-{shares}-each" if isinstance(shares, int) else ""
    folder = out / "data" / f"modules-{'-'.join(libraries)}{'-names' * with_names}{few}"
    if (folder / "edges.csv").exists():
        return folder
    found = {name: place for name, place in installed.packages().items() if name in libraries}
    every = rows_of(installed.found_in(found, "modules", lambda path, module, _: read(path, module), None),
                    not with_names)  # fmt: skip
    rows = [row for row in every if row.part]
    split = few_of_each([r.part for r in rows], shares) if isinstance(shares, int) else parts(len(rows), shares)
    rows += [row for row in every if row.type == NAME]
    known = {row.id for row in rows}
    split += ["unused"] * (len(rows) - len(split))
    own = [[row.id, row.type, row.part, part, row.text] for row, part in zip(rows, split, strict=True)]
    head = ["id", "type", "label", "split", "text"]
    if not with_names:
        own, head = [[row[0], *row[2:]] for row in own], [head[0], *head[2:]]
    write_csv(folder / "nodes.csv", head, own)
    pairs = [
        [row.id, other, relation]
        for row in rows
        for relation, ids in (("imports", row.imports), ("uses", row.uses))
        for other in ids.split()
        if other in known
    ]
    head, first = ["source", "target", "relation"], slice(3 if with_names else 2)
    write_csv(folder / "edges.csv", head[first], [pair[first] for pair in pairs])
    return folder
