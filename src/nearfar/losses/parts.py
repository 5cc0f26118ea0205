"""Losses as parts of a method: `--loss dcl --loss.sigma 0.5`.

Here stand those with a state, or with more options than their row function has; the others are made by `row_loss` from
the functions in `losses.rows`, and found here too: `from nearfar.losses.parts import HCL`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from nearfar.checks import NonNegativeFloat
from nearfar.losses import rows
from nearfar.losses.base import RowLoss, build, parts, row_loss
from nearfar.losses.graded import cosent, cosine_regression
from nearfar.similarity import Count, Similarity


def __getattr__(name: str) -> Callable[..., RowLoss]:
    for cls in parts.values():
        if cls.__name__ == name and cls.__module__ == rows.__name__:
            return cls
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


class Triplet(RowLoss):
    """Triplet loss with mining in the batch, without a temperature.

    Args: margin: least gap between positive and negative; mining: "hard" or "semi-hard"; positives: which items are
        positives of each other: none (its own views only), auto, group, or a column of labels.
    """

    tempered = False

    def __init__(
        self,
        margin: NonNegativeFloat = 0.2,
        mining: Literal["hard", "semi-hard"] = "hard",
        positives: str | None = None,
    ):
        self.margin, self.mining, self.positives = margin, mining, positives

    def __call__(self, s: Similarity) -> Tensor:
        return rows.triplet_rows(s, margin=self.margin, mining=self.mining)


class SupCon(RowLoss):
    """Supervised contrast: the mean over all positives outside the log (L_out).

    Args: positives: which items are positives of each other besides their views: auto (the first column of labels, else
        the groups), group, or a column of labels.
    """

    def __init__(self, positives: str = "auto"):
        self.positives = positives

    def __call__(self, s: Similarity) -> Tensor:
        return rows.sup_con_rows(s)


class MILNCE(SupCon):
    """All positives of an anchor as one bag, summed inside the log.

    Args: positives: which items are positives of each other besides their views: auto, group, or a column of labels.
    """

    def __call__(self, s: Similarity) -> Tensor:
        return rows.mil_nce_rows(s)


class SigLIP(nn.Module, RowLoss):
    """Pairwise sigmoid loss with a learned bias.

    Args: bias: start of b (auto: minus the log of the number of candidates, the paper's -10 at its batch of 32768).
    """

    fitted: Tensor

    def __init__(self, bias: float | Literal["auto"] = "auto"):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(0.0 if bias == "auto" else float(bias)))
        self.register_buffer("fitted", torch.tensor(bias != "auto"))

    def forward(self, s: Similarity) -> Tensor:
        if not self.fitted:
            with torch.no_grad():
                candidates = s.reduce(Count())
                self.bias.fill_(-math.log(max(1.0, *candidates.tolist()[:1])))
                self.fitted.fill_(True)
        return rows.siglip_rows(s, bias=self.bias)


class CosineRegression(RowLoss, name="cosine-regression"):
    """Mean squared difference of each pair's cosine and its score (without a temperature), for pairs with a score.
    Scores beyond [-1, 1] are scaled to 0 (the lowest of the data) to 1 (the highest)."""

    graded = True
    tempered = False

    def of_pairs(self, a: Tensor, b: Tensor, score: Tensor, temperature: Tensor) -> Tensor:
        return cosine_regression(a, b, score, negatives="global")


class CoSENT(RowLoss):
    """Pairs of a higher score are nearer than those of a lower one, for pairs with a score."""

    graded = True

    def of_pairs(self, a: Tensor, b: Tensor, score: Tensor, temperature: Tensor) -> Tensor:
        return cosent(a, b, score, temperature=temperature, negatives="global")


__all__ = [
    "MILNCE",
    "CoSENT",
    "CosineRegression",
    "RowLoss",
    "SigLIP",
    "SupCon",
    "Triplet",
    "build",
    "parts",
    "row_loss",
]
