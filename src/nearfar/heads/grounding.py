"""Attributes of an image from its regions and from the words of the attributes, on two paths (CREST, arXiv
2404.09640, reconstructed)."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from nearfar.checks import NonNegativeInt, PositiveInt, Width, checked_init, one_of
from nearfar.losses.grounding import attend, grounded_scores, recall, region_scores

Paths = Literal["both", "visual", "attribute", "pooled"]


class Grounded(NamedTuple):
    """What the paths make of images: psi (n, K) of each of them; `seen` (n, K, d): what each attribute sees (visual);
    `read` (n, R, d): what each region reads, before patterns (attribute). None for a path that is not there."""

    psi: list[Tensor]
    seen: Tensor | None
    read: Tensor | None


class CrossAttention(nn.Module):
    """What queries (n, Q, a) or (Q, a) see among keys (n, R, b) or (R, b): (n, Q, dim); linear maps without bias."""

    def __init__(self, queries: int, keys: int, dim: int):
        super().__init__()
        self.query = nn.Linear(queries, dim, bias=False)
        self.key, self.value = (nn.Linear(keys, dim, bias=False) for _ in range(2))

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        q, k, v = self.query(queries), self.key(keys), self.value(keys)
        n = max(x.shape[0] if x.dim() == 3 else 1 for x in (q, k))
        return attend(*(x.expand(n, -1, -1) for x in (q, k, v)))


@checked_init
class Grounding(nn.Module):
    """Regions (n, R, channels) as attributes, by words (K, w) that stay as they are.

    paths: both; visual (attributes look at regions); attribute (regions look at attributes, and recall patterns);
    pooled (psi is linear in the mean region: no attention, no words).
    Args: words: A; channels: d_v; dim: d; patterns: M, kept: s of them are recalled.
    """

    words: Tensor
    patterns: Tensor

    def __init__(
        self, words: Tensor, channels: Width, dim: Width = 256, patterns: NonNegativeInt = 32, kept: PositiveInt = 4,
        paths: str = "both",
    ):  # fmt: skip
        super().__init__()
        one_of("paths", paths, get_args(Paths))
        count, width = words.shape
        self.sizes: dict[str, Any] = {"channels": channels, "dim": dim, "patterns": patterns, "kept": kept,
                                      "paths": paths}  # fmt: skip
        self.kept, self.paths = kept, paths
        self.register_buffer("words", words.clone())
        if paths in ("both", "visual"):
            self.visual, self.visual_words = CrossAttention(width, channels, dim), nn.Linear(width, dim, bias=False)
        if paths in ("both", "attribute"):
            self.attribute = CrossAttention(channels, width, dim)
            self.attribute_words = nn.Linear(width, dim, bias=False)
            if patterns:
                self.patterns = nn.Parameter(torch.randn(patterns, dim) / dim**0.5)
            else:
                self.register_buffer("patterns", torch.zeros(0, dim), persistent=False)
        if paths == "pooled":
            self.pooled = nn.Linear(channels, count)

    def forward(self, regions: Tensor) -> Grounded:
        psi, seen, read = [], None, None
        if self.paths in ("both", "visual"):
            seen = self.visual(self.words, regions)
            psi.append(grounded_scores(self.visual_words(self.words), seen))
        if self.paths in ("both", "attribute"):
            read = self.attribute(regions, self.words)
            psi.append(region_scores(self.attribute_words(self.words), recall(read, self.patterns, self.kept)))
        return Grounded(psi or [self.pooled(regions.mean(1))], seen, read)


__all__ = ["CrossAttention", "Grounded", "Grounding", "Paths"]
