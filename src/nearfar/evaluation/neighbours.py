"""Exact nearest neighbours in bounded memory.

A `Scorer` gives any tile of the score matrix (queries x gallery); nobody ever builds the matrix. Tiles are computed in
float64 and cosines rounded to multiples of 2^-24, so that equal vectors get equal scores wherever they stand and no
result depends on the size of a tile.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nearfar.errors import InputError

QUERY_TILE, GALLERY_TILE = 256, 16_384
GRID = 2.0**24


class Scorer(Protocol):
    """Scores of `queries` x `gallery` items, tile by tile; higher is nearer."""

    queries: int
    gallery: int

    def tile(self, rows: slice, columns: slice) -> np.ndarray:
        """float32 (rows, columns), in memory of the caller."""
        ...


def as_vectors(z: Any, name: str = "embeddings") -> np.ndarray:
    """A finite (n, d) float array from numpy or torch. Raises InputError naming the first row that is not finite."""
    array = z.detach().float().cpu().numpy() if hasattr(z, "detach") else np.asarray(z)
    if array.ndim != 2:
        raise InputError(f"The {name} must have the shape (items, dimensions). Got {array.shape} instead.")
    array = array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(array).all(1))
    if len(bad):
        raise InputError(f"The {name} hold values that are not finite in {len(bad)} of {len(array)} rows "
                         f"(first: row {bad[0]}).", "Train with a lower rate or in float32.")
    return array


def normalise(z: Any, name: str = "embeddings") -> np.ndarray:
    """Rows of length 1 in float64 (n, d); a zero row stays zero, so that its cosine with everything is 0."""
    return _unit(as_vectors(z, name))


def _unit(z: np.ndarray) -> np.ndarray:
    z = z.astype(np.float64)
    length = np.linalg.norm(z, axis=1, keepdims=True)
    return z / np.where(length > 0, length, 1)


class VectorScorer:
    """Cosine (or, with `cosine=False`, inner product) of query (n, d) with gallery (m, d) vectors."""

    def __init__(self, query: Any, gallery: Any, *, cosine: bool = True):
        self.query, self.keys = as_vectors(query, "query embeddings"), as_vectors(gallery, "gallery embeddings")
        self.queries, self.gallery, self.cosine = len(self.query), len(self.keys), cosine
        if self.query.shape[1] != self.keys.shape[1]:
            raise InputError(f"Queries have {self.query.shape[1]} dimensions, the gallery has {self.keys.shape[1]}.",
                             "Both must come from the same model.")

    def tile(self, rows: slice, columns: slice) -> np.ndarray:
        if not self.cosine:
            return (self.query[rows].astype(np.float64) @ self.keys[columns].T.astype(np.float64)).astype(np.float32)
        exact = (_unit(self.query[rows]) * GRID) @ _unit(self.keys[columns]).T
        tile = np.rint(exact, out=exact).astype(np.float32)
        tile *= 1 / GRID                                    # a power of two: nothing is rounded again
        return tile


class SparseScorer:
    """Inner product of two scipy CSR matrices, (n, d) and (m, d)."""

    def __init__(self, query: Any, gallery: Any):
        self.query, self.keys = query, gallery
        self.queries, self.gallery = query.shape[0], gallery.shape[0]

    def tile(self, rows: slice, columns: slice) -> np.ndarray:
        return (self.query[rows] @ self.keys[columns].T).toarray().astype(np.float32)


class FunctionScorer:
    """The door for what is not a vector: `score(rows) -> (rows, gallery)` for an array of query numbers (BM25, a
    cross-encoder). The last block is kept, since its tiles are asked for one after the other."""

    def __init__(self, score: Callable[[np.ndarray], np.ndarray], queries: int, gallery: int):
        self.score, self.queries, self.gallery = score, queries, gallery
        self._block: tuple[tuple[int, int], np.ndarray] | None = None

    def tile(self, rows: slice, columns: slice) -> np.ndarray:
        key = (rows.start, rows.stop)
        if self._block is None or self._block[0] != key:
            self._block = key, np.asarray(self.score(np.arange(*key)), np.float32)
        return self._block[1][:, columns].copy()


def spans(size: int, step: int) -> Iterator[slice]:
    """Slices of at most `step` that cover range(size)."""
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


@dataclass(frozen=True)
class Neighbours:
    """The nearest gallery items of each query, best first: scores float32 (n, k), indices int64 (n, k).

    Where fewer than k items may be seen, the rest is -inf and -1.
    """

    scores: np.ndarray
    indices: np.ndarray


def topk(scorer: Scorer, k: int, hidden: Any = None, *, query_tile: int = QUERY_TILE,
         gallery_tile: int = GALLERY_TILE) -> Neighbours:
    """Exact k nearest of every query; equal scores in the order of the gallery. k is cut to the gallery's size.

    hidden: a `Relation` of gallery items that a query may not see (itself, its copies).
    """
    k = min(k, scorer.gallery)
    if k < 1:
        raise InputError(f"k and the gallery must hold at least one item. Got k={k} of {scorer.gallery} instead.")
    scores = np.full((scorer.queries, k), -np.inf, np.float32)
    indices = np.full((scorer.queries, k), -1, np.int64)
    for rows in spans(scorer.queries, query_tile):
        unseen = hidden.rows(rows) if hidden is not None else None
        for columns in spans(scorer.gallery, gallery_tile):
            tile = scorer.tile(rows, columns)
            if unseen is not None:
                unseen.write(tile, columns, -np.inf)
            _merge(scores, indices, rows, tile, columns.start)
    return Neighbours(scores, indices)


def _merge(scores: np.ndarray, indices: np.ndarray, rows: slice, tile: np.ndarray, first: int) -> None:
    k = scores.shape[1]
    near, places = _largest(tile, k) if first == 0 else _above(tile, scores[rows, -1:])
    places = np.where(np.isneginf(near), -1, places + first)
    both, where = np.hstack([scores[rows], near]), np.hstack([indices[rows], places])
    order = np.argsort(-both, axis=1, kind="stable")[:, :k]        # earlier tiles stand first: ties keep their order
    scores[rows], indices[rows] = np.take_along_axis(both, order, 1), np.take_along_axis(where, order, 1)


def _above(tile: np.ndarray, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The entries of each row above its floor, by column, filled up with -inf: after the first tiles they are few."""
    row, column = np.nonzero(tile > floor)
    counts = np.bincount(row, minlength=len(tile))
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    near = np.full((len(tile), counts.max(initial=0)), -np.inf, np.float32)
    places = np.zeros(near.shape, np.int64)
    near[row, place], places[row, place] = tile[row, column], column
    return near, places


def _largest(tile: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest of each row in order, equal ones by column: argpartition alone would choose among ties freely."""
    if k >= tile.shape[1] or k > 256:
        order = np.argsort(-tile, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(tile, order, 1), order
    floor = -np.partition(-tile, k - 1, axis=1)[:, k - 1: k]
    above = tile > floor
    room = k - above.sum(1, keepdims=True)
    level = tile == floor
    keep = above | (level & (np.cumsum(level, axis=1) <= room))
    places = np.nonzero(keep)[1].reshape(len(tile), k)
    order = np.argsort(-np.take_along_axis(tile, places, 1), axis=1, kind="stable")
    places = np.take_along_axis(places, order, 1)
    return np.take_along_axis(tile, places, 1), places
