"""Margin scores: a similarity beside those of the nearest neighbours of its two sides, so that items that are near to
everything (hubs) are no translation of everything.

Source: Artetxe and Schwenk, "Margin-based Parallel Corpus Mining with Multilingual Sentence Embeddings", ACL 2019,
eq. 2 to 4; the ratio is that of xsim.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nearfar.evaluation.neighbours import topk
from nearfar.similarity import Source

Margin = Literal["none", "distance", "ratio"]
LEAST = 1e-6  # of what a similarity is divided by


def margin_scores(cosines: Tensor, queries: Tensor, gallery: Tensor, margin: Margin) -> Tensor:
    """(n, m) of cosines (n, m) and the mean cosines of the nearest neighbours of each query (n,) and of each gallery
    item (m,): with their mean c, the difference cos - c (distance) or the ratio cos / c, where c counts as 1e-6 at
    least."""
    if margin == "none":
        return cosines
    mean = (queries[:, None] + gallery[None]) / 2
    return cosines - mean if margin == "distance" else cosines / mean.clamp(min=LEAST)


class Turned(Source):
    """Gallery and queries of a source, each in the other's place."""

    def __init__(self, source: Source):
        self.source, self.shape = source, (source.shape[1], source.shape[0])
        self.dtype, self.device, self.rounding = source.dtype, source.device, source.rounding
        self.tile_shape = None if source.tile_shape is None else (source.tile_shape[1], source.tile_shape[0])

    def tile(self, rows: slice, columns: slice, tensors: Sequence[Tensor] = ()) -> Tensor:
        return self.source.tile(columns, rows, self.source.tensors()).T


class MarginScorer(Source):
    """`margin_scores` of any source, each side with its `k` nearest neighbours on the other side."""

    def __init__(self, source: Source, margin: Margin = "ratio", k: int = 4):
        self.source, self.shape = source, source.shape
        self.margin: Margin = margin
        self.dtype, self.device, self.rounding = source.dtype, source.device, source.rounding
        self.tile_shape = source.tile_shape
        self.queries, self.gallery = (mean_of_nearest(side, k) for side in (source, Turned(source)))

    def tile(self, rows: slice, columns: slice, tensors: Sequence[Tensor] = ()) -> Tensor:
        found = self.source.tile(rows, columns, self.source.tensors())
        return margin_scores(found, self.queries[rows], self.gallery[columns], self.margin)


def mean_of_nearest(source: Source, k: int) -> Tensor:
    """float32 (n,): the mean of the k highest scores of each query (of all, where there are fewer)."""
    return torch.from_numpy(np.ascontiguousarray(topk(source, k).scores.mean(1), np.float32))
