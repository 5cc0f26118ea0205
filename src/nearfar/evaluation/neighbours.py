"""Exact nearest neighbours in bounded memory: what can be searched, as sources of the core's similarity.

Vectors are multiplied in float64 and cosines rounded to multiples of 2^-24, so that equal vectors get equal scores
wherever they stand and no result depends on the size of a tile. Nobody ever builds the matrix queries x gallery.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.errors import InputError
from nearfar.progress import track
from nearfar.similarity import Relation, Similarity, Source
from nearfar.vectors import GRID, as_vectors, lengths

# Scores that a function of the rows gives at once.
AT_ONCE = 1 << 23


class VectorScorer(Source):
    """Cosine (or, with `cosine=False`, inner product) of query (n, d) with gallery (m, d) vectors."""

    dtype, device, rounding = torch.float32, torch.device("cpu"), 0.0

    def __init__(self, query: Any, gallery: Any, *, cosine: bool = True):
        sides = as_vectors(query, "query embeddings"), as_vectors(gallery, "gallery embeddings")
        self.shape, self.cosine = (len(sides[0]), len(sides[1])), cosine
        if sides[0].shape[1] != sides[1].shape[1]:
            raise InputError(
                f"Queries have {sides[0].shape[1]} dimensions, the gallery has {sides[1].shape[1]}.",
                "Both must come from the same model.",
            )
        self.query, self.keys = map(_tensor, sides)
        if cosine:
            self.lengths = [torch.from_numpy(lengths(z)) for z in sides]

    def tile(self, rows: slice, columns: slice, tensors: Sequence[Tensor] = ()) -> Tensor:
        query, keys = (x.to(torch.float64, copy=True) for x in (self.query[rows], self.keys[columns]))
        if not self.cosine:
            return (query @ keys.T).float()
        query /= self.lengths[0][rows]
        keys /= self.lengths[1][columns]
        tile = (query.mul_(GRID) @ keys.T).round_().float()
        return tile.mul_(1 / GRID)  # a power of two: nothing is rounded again


def _tensor(z: np.ndarray) -> Tensor:
    return torch.from_numpy(z if z.flags.writeable else z.copy())


class SparseScorer(Source):
    """Inner product of two scipy CSR matrices, (n, d) and (m, d)."""

    dtype, device, rounding, tile_shape = torch.float32, torch.device("cpu"), 0.0, (256, 16_384)

    def __init__(self, query: Any, gallery: Any):
        self.query, self.keys, self.shape = query, gallery, (query.shape[0], gallery.shape[0])

    def tile(self, rows: slice, columns: slice, tensors: Sequence[Tensor] = ()) -> Tensor:
        product = self.query[rows] @ self.keys[columns].T
        return torch.from_numpy(product.toarray().astype(np.float32, copy=False))


class FunctionScorer(Source):
    """The door for what is not a vector: `score(rows) -> (rows, gallery)` for an array of query numbers (BM25, a
    cross-encoder). It is asked once for each block of queries."""

    dtype, device, rounding = torch.float32, torch.device("cpu"), 0.0

    def __init__(self, score: Callable[[np.ndarray], np.ndarray], queries: int, gallery: int):
        self.score, self.shape = score, (queries, gallery)
        self.tile_shape = min(256, max(1, AT_ONCE // max(1, gallery))), max(1, gallery)
        self._block: tuple[tuple[int, int], Tensor] | None = None

    def tile(self, rows: slice, columns: slice, tensors: Sequence[Tensor] = ()) -> Tensor:
        key = (rows.start, rows.stop)
        if self._block is None or self._block[0] != key:  # tiles beside each other share their block
            self._block = key, self._scores(*key)
        return self._block[1][:, columns]

    def _scores(self, start: int, stop: int) -> Tensor:
        scores = np.asarray(self.score(np.arange(start, stop)), np.float32)
        wanted = (stop - start, self.shape[1])
        if scores.shape != wanted:
            raise InputError(
                f"The scores of the queries {start} to {stop - 1} must have the shape {wanted} (queries, "
                f"gallery). Got {scores.shape}."
            )
        bad = np.flatnonzero(np.isnan(scores).any(1))
        if len(bad):
            raise InputError(f"The scores of query {start + bad[0]} hold values that are not numbers.")
        return _tensor(scores)


@dataclass(frozen=True)
class Neighbours:
    """The nearest gallery items of each query, best first: scores float32 (n, k), indices int64 (n, k).

    Where fewer than k items may be seen, the rest is -inf and -1.
    """

    scores: np.ndarray
    indices: np.ndarray


def topk(scorer: Source, k: int, hidden: Relation | None = None) -> Neighbours:
    """Exact k nearest of every query; equal scores in the order of the gallery. k is cut to the gallery's size.

    hidden: gallery items that a query may not see (itself, its copies).
    """
    queries, gallery = scorer.shape
    k = min(k, gallery)
    if k < 1:
        raise InputError(f"k and the gallery must hold at least one item. Got k={k} of {gallery} instead.")
    with torch.no_grad(), track("nearest neighbours", queries, least=10_000) as on:
        found = Similarity(scorer).topk(k, where=None if hidden is None else ~hidden, progress=on)
    return Neighbours(*(x.numpy() for x in found))
