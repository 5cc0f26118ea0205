"""The table that the page shows, a row for each item of the index."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa

from nearfar.checks import PositiveInt, Range, checked
from nearfar.errors import InputError
from nearfar.evaluation import issues
from nearfar.evaluation.neighbours import Neighbours
from nearfar.exploring import charts
from nearfar.exploring.facts import Facts, gather
from nearfar.exploring.places import NEAR, Projection, kept, project
from nearfar.indexing import Index, open_index
from nearfar.indexing.stored import EXPLORED
from nearfar.progress import Say, silent
from nearfar.stores import local
from nearfar.training.settings import DataSettings
from nearfar.vectors import normalise

NEIGHBOURS = NEAR  # that are kept of each row
SEED = 0


@dataclass(frozen=True)
class Atlas:
    """`table`: what the page shows, a row an item; `props`: how; `found`: how many rows are odd, by kind; `of`: rows
    of the index."""

    name: str
    table: pa.Table
    props: dict[str, Any]
    found: dict[str, int]
    of: int

    def serve(self, port: int = 5055, started: Callable[[str], None] | None = None) -> None:
        """Shows the page on this machine until it is stopped; `started` is told its address. Raises InputError for a
        port in use, and where Embedding Atlas is not installed."""
        from nearfar.exploring.page import serve

        serve(self, port, started)


@checked
def explore(
    index: str | Path,
    data: Any = None,
    *,
    projection: Projection = "umap",
    label: str | None = None,
    rows: PositiveInt = 100_000,
    k: Annotated[int, Range(1, NEIGHBOURS)] = issues.K,
    thumbnail: Annotated[int, Range(0, 512)] = 64,
    data_settings: DataSettings | None = None,
    say: Say = silent,
) -> Atlas:
    """An index as a map to look at: vectors on a plane, their columns, splits and images, the nearest of each, near
    copies, outliers, labels unlike those around them, and candidates for false negatives.

    Args:
        index: folder or URL of an index that `embed` made; data: the data, where they are not those that it names.
        projection: "umap", or "pca", which is quick and shows less.
        label: column of labels that colours the map; default the first.
        rows: most rows that are shown; of more, so many are drawn.
        k: neighbours by which rows are judged.
        thumbnail: pixels a side of images; 0 for none.

    Places and neighbours are computed once and kept in the folder of the index.
    Raises InputError: no index, a damaged or an empty one, a column of labels that is not there.
    """
    opened = open_index(local(index))
    if not len(opened):
        raise InputError(f"The index {opened.path} holds no items.", "Embed data that have rows.")
    chosen = drawn(len(opened), rows)
    if len(chosen) < len(opened):
        say(f"{len(chosen):,} of {len(opened):,} rows are drawn; --rows shows more")
    held = opened.rows(["key", *opened.columns])
    held = held if len(chosen) == len(opened) else held.take(chosen)
    keys = held["key"].to_pylist()
    facts = gather(opened, keys, chosen, data, data_settings or DataSettings(), thumbnail, say)
    column, codes, names = labels_of(facts, held, label)
    z = normalise(opened.vectors(chosen))
    near, places = computed(opened, z, chosen, facts, projection, say)
    first = Neighbours(near.scores[:, :k], near.indices[:, :k])
    ids = issues.positives_of(facts.groups if (facts.groups >= 0).any() else None, codes)
    odd = issues.issues_of(first, labels={} if codes is None else {column: codes}, ids=ids, contents=facts.contents)
    made, found = table_of(held, facts, near, places, odd, (column, names))
    return Atlas(opened.path.resolve().name, made, charts.props(made, facts, column), found, len(opened))


def drawn(count: int, most: int) -> np.ndarray:
    """Row numbers, rising: all, or so many of them by chance (seeded)."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(SEED).choice(count, most, replace=False))


def computed(
    index: Index, z: np.ndarray, rows: np.ndarray, facts: Facts, projection: Projection, say: Say
) -> tuple[Neighbours, np.ndarray]:
    """The neighbours of each vector, rows of equal content left out, and where it stands."""
    state = hashlib.sha256(rows.tobytes() + facts.contents.tobytes()).hexdigest()
    made_of = f"{index.vectors_hash} {state} {NEIGHBOURS}"
    both: list[Neighbours] = []

    def nearest() -> Neighbours:
        if not both:
            say(f"comparing {len(z):,} vectors with each other")
            both.append(issues.neighbours(z, NEIGHBOURS, facts.contents))
        return both[0]

    folder = index.path / EXPLORED
    indices = kept(folder, "nearest", made_of, lambda: nearest().indices, say)
    scores = kept(folder, "cosines", made_of, lambda: nearest().scores, say)
    near = Neighbours(scores, indices)

    def placed() -> np.ndarray:
        say(f"projecting {len(z):,} vectors ({projection})")
        return project(z, near, projection)

    return near, kept(folder, projection, made_of, placed, say)


def labels_of(facts: Facts, held: pa.Table, wanted: str | None) -> tuple[str, np.ndarray | None, list[str]]:
    """The column of labels, its codes and names: the one that is wanted, of the data or of the index, or the first of
    the data. Raises InputError for one that is not there."""
    column = wanted or next(iter(facts.labels), "")
    if not column:
        return "", None, []
    if column not in facts.labels:
        if column not in held.column_names:
            known = ", ".join([*facts.labels, *(name for name in held.column_names if name != "key")]) or "none"
            raise InputError(f"There is no column '{column}' for --label.", f"Columns: {known}.")
        values = held[column].to_pylist()
        facts.labels[column] = [None if value is None else str(value) for value in values]
    codes, names = facts.label(column)
    return column, codes, names


def table_of(
    held: pa.Table,
    facts: Facts,
    near: Neighbours,
    places: np.ndarray,
    odd: issues.Issues,
    label: tuple[str, list[str]],
) -> tuple[pa.Table, dict[str, int]]:
    """The table, and how many rows are odd by kind. Names that the index has are kept; what is computed yields."""
    keys, (column, names) = held["key"].to_pylist(), label
    around = odd.unlike[column][0] if column in odd.unlike else np.full(len(keys), -1)
    closer = np.full(len(keys), -1) if odd.false_negative is None else odd.false_negative
    kinds = {"near copy": odd.near_copy, "outlier": odd.outlier, "unlike label": around >= 0,
             "false negative candidate": closer >= 0}  # fmt: skip
    words = [", ".join(name for name, rows in kinds.items() if rows[row]) or "none" for row in range(len(keys))]
    columns: dict[str, Any] = {"key": held["key"]}

    def add(name: str, values: Any, kind: pa.DataType) -> None:
        while name in held.column_names or name in columns:
            name += "_"
        columns[name] = pa.array(values, kind, from_pandas=True)

    if facts.shown == "image":
        add(charts.CELL, facts.cells, pa.string())
    elif facts.shown == "text" and not any(name in held.column_names for name in as_list(facts.columns.values())):
        add("item", facts.cells, pa.string())
    first = near.indices[:, 0]
    add(charts.MAPPED, [keys[b] if copy else None for copy, b in zip(odd.near_copy, first, strict=True)], pa.string())
    columns["issue"] = pa.array(words, pa.string())
    columns |= {name: held[name] for name in held.column_names if name != "key"}
    if column and column not in columns:
        add(column, facts.labels[column], pa.string())
    if any(facts.splits):
        add("split", facts.splits, pa.string())
    add("isolation", odd.isolation, pa.float32())
    if names:
        add("label_around", [names[code] if code >= 0 else None for code in around], pa.string())
    if odd.false_negative is not None:
        add("false_negative", [keys[row] if row >= 0 else None for row in closer], pa.string())
    columns |= charts.hidden(near, places)
    return pa.table(columns), {name: int(rows.sum()) for name, rows in kinds.items()}


def as_list(values: Sequence[Any] | Any) -> list[str]:
    """Names of columns out of names and lists of them."""
    return [name for value in values for name in (value if isinstance(value, list) else [value])]
