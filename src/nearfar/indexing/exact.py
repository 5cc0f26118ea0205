"""The exact nearest of vectors: one product in float32; what comes near the k best is multiplied again in float64.

Scores are rounded to multiples of 2^-24 as everywhere in nearfar (of longer or shorter vectors in proportion), so equal
vectors get equal scores wherever they stand, and ties go in the order of the rows.
"""

from __future__ import annotations

import math

import numpy as np

from nearfar.vectors import GRID

SCORES = 1 << 24  # float32 scores that are in memory at once
ROWS = 1 << 16  # vectors that are in memory as float64 at once

Ranked = tuple[np.ndarray, np.ndarray]
"""Row numbers int64 (k,), best first, and their scores float64 (k,)."""


def nearest(
    queries: np.ndarray, vectors: np.ndarray, k: int, among: np.ndarray | None = None, longest: float = 1.0
) -> list[Ranked]:
    """The k rows of vectors (n, d) float32 with the largest inner product with each query (q, d), or all where there
    are fewer.

    among: row numbers, rising, of the only ones that are looked at. longest: no vector is longer.
    """
    seen = len(vectors) if among is None else len(among)
    if not seen:
        return [(np.zeros(0, np.int64), np.zeros(0)) for _ in queries]
    rough, found = queries.astype(np.float32), []
    many = max(1, SCORES // len(vectors))
    for start in range(0, len(queries), many):
        part = rough[start : start + many]
        products = (vectors @ part[0])[None] if len(part) == 1 else part @ vectors.T
        for query, scores in zip(queries[start : start + many], products, strict=True):
            scores = scores if among is None else scores[among]
            largest = longest * float(np.linalg.norm(query))
            near = _near(scores, min(k, seen), 2 * ((len(query) + 2) * 2.0**-24 * largest + _step(largest)))
            found.append(_best(query, vectors, near if among is None else among[near], k, _step(largest)))
    return found


def _near(scores: np.ndarray, count: int, slack: float) -> np.ndarray:
    """The places of all scores that may be among the `count` largest when none is wrong by more than slack / 2.

    An inner product of n numbers in float32 is wrong by at most n 2^-24 times both lengths (Higham, Accuracy and
    Stability of Numerical Algorithms, sec. 3.1), here 2 more for the query's own rounding.
    """
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    return np.flatnonzero(scores >= least - slack)


def _step(largest: float) -> float:
    """What scores are multiples of, where none is above `largest`: for unit vectors 2^-24."""
    return 2.0 ** round(math.log2(largest)) / GRID if largest > 0 else 1 / GRID


def _best(query: np.ndarray, vectors: np.ndarray, rows: np.ndarray, k: int, step: float) -> Ranked:
    query = query.astype(np.float64)
    parts = [vectors[rows[start : start + ROWS]].astype(np.float64) @ query for start in range(0, len(rows), ROWS)]
    scores = np.rint(np.concatenate(parts) / step) * step
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]
