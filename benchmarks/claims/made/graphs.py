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


def near_digits(count: int, neighbours: int, shares: tuple[float, float, float], out: Path) -> Path:
    """Digits of scikit-learn as nodes.csv and edges.csv, each joined to its nearest by cosine. Written once."""
    from sklearn.datasets import load_digits
    from sklearn.neighbors import NearestNeighbors

    folder = out / "data" / f"digits-{count}-{neighbours}-{shares[0]:g}"
    if (folder / "edges.csv").exists():
        return folder
    x, y = load_digits(return_X_y=True)
    x, y = x[:count], y[:count]
    found = NearestNeighbors(n_neighbors=neighbours, metric="cosine").fit(x).kneighbors(return_distance=False)
    names = [f"p{k}" for k in range(64)]
    rows = [[i, f"d{y[i]}", part, *x[i].astype(int)] for i, part in enumerate(parts(count, shares))]
    write_csv(folder / "nodes.csv", ["id", "label", "split", *names], rows)
    write_csv(folder / "edges.csv", ["source", "target"], [[i, j] for i in range(count) for j in found[i]])
    return folder


def modules(libraries: tuple[str, ...], shares: tuple[float, float, float], out: Path) -> Path:
    """Modules of some installed libraries that belong to a part with 12 modules or more, and what they import of each
    other; written once."""
    from nearfar.sources import installed
    from nearfar.sources.sets.packages import read, rows_of

    folder = out / "data" / f"modules-{'-'.join(libraries)}"
    if (folder / "edges.csv").exists():
        return folder
    found = {name: place for name, place in installed.packages().items() if name in libraries}
    rows = rows_of(installed.found_in(found, "modules", lambda path, module, _: read(path, module), None), True)
    rows = [row for row in rows if row.part]
    known = {row.id for row in rows}
    own = [[row.id, row.part, part, row.text] for row, part in zip(rows, parts(len(rows), shares), strict=True)]
    write_csv(folder / "nodes.csv", ["id", "label", "split", "text"], own)
    pairs = [[row.id, other] for row in rows for other in row.imports.split() if other in known]
    write_csv(folder / "edges.csv", ["source", "target"], pairs)
    return folder
