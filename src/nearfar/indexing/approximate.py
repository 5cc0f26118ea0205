"""The approximate index of a large table: LanceDB's IVF with scalar quantisation, whose candidates are compared by
their own vectors.

How many partitions are looked at is the least of 8, 16, 32... with which ENOUGH of the ten nearest are found, measured
against the exact product on items of the index.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import numpy as np

from nearfar.indexing.exact import Ranked, nearest
from nearfar.indexing.stored import ID, Rows

LARGE = 1 << 29  # bytes of vectors from which on an index is searched approximately: a million of 128 numbers
NEAREST, QUERIES, ENOUGH = 10, 256, 0.95
MOST = 2000  # hits; who asks for more gets all that there are, exactly
REFINE = 4  # candidates for each item asked for, which are compared by their own vectors

Facts = Mapping[str, Any]
FIELDS = {"type": str, "nprobes": int, "recall": float, "queries": int}


def build(table: Any) -> None:
    """Builds the index in the table, or adds new rows to the one that it has. Row ids may change."""
    from lancedb.index import IvfSq

    if list(table.list_indices()):
        with warnings.catch_warnings():  # nobody else reads this copy of the table
            warnings.simplefilter("ignore", UserWarning)
            table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)
    else:
        table.create_index("vector", config=IvfSq(distance_type="dot"))


def measured(table: Any, rows: Rows, vectors: np.ndarray) -> dict[str, Any]:
    """The type of the index, how many partitions are looked at, and the share of the ten nearest that it finds of items
    of the index."""
    chosen = np.random.default_rng(0).choice(len(vectors), min(QUERIES, len(vectors)), replace=False)
    right = [without(one, row) for one, row in zip(nearest(vectors[chosen], vectors, NEAREST + 1), chosen, strict=True)]
    facts: dict[str, Any] = {"type": "IVF_SQ", "nprobes": 8, "recall": 0.0, "queries": len(chosen)}
    most = max(8, len(vectors) // 64)
    while True:
        found = [without(ask(table, rows, vectors[row], NEAREST + 1, facts), row) for row in chosen]
        hit = sum(len(np.intersect1d(a, b)) for a, b in zip(found, right, strict=True))
        facts["recall"] = hit / max(1, sum(map(len, right)))
        if facts["recall"] >= ENOUGH or facts["nprobes"] >= most:
            return facts
        facts["nprobes"] *= 2


def without(ranked: Ranked, row: int) -> np.ndarray:
    """The ten nearest of an item but itself."""
    return ranked[0][ranked[0] != row][:NEAREST]


def ask(table: Any, rows: Rows, query: np.ndarray, k: int, facts: Facts) -> Ranked:
    """The k nearest of a query (d,), as far as they are found."""
    request = table.search(query.astype(np.float32), vector_column_name="vector").distance_type("dot")
    request = request.nprobes(facts["nprobes"]).refine_factor(REFINE).select(["key", "_distance"]).with_row_id(True)
    found = request.limit(k).to_arrow()
    places, scores = rows.rows_of(found[ID].to_numpy()), 1 - found["_distance"].to_numpy().astype(np.float64)
    order = np.lexsort((places, -scores))
    return places[order], scores[order]
