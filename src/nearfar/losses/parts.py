"""Losses as parts of a method: `--loss dcl --loss.sigma 0.5`. Each wraps one row function of `losses.rows`."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from nearfar.checks import NonNegativeFloat, PositiveFloat, PositiveShare, ShareBelowOne, UnitInterval, checked_init
from nearfar.losses import rows
from nearfar.losses.graded import cosent, cosine_regression
from nearfar.similarity import Count, Similarity

parts: dict[str, type[RowLoss]] = {}


class RowLoss:
    """A loss over one similarity; the temperature belongs to the method that makes the similarity.

    `bounded_below`: whether the loss cannot be negative (for the reader of a curve).
    `tempered`: whether it has a temperature; else it gets similarities at temperature 1.
    `positives`: None for one declared positive an anchor; else which items of a batch are positives of each other
    besides: "group", a column of labels, or "auto" (the first column of labels, else the groups).
    `graded`: whether it reads the scores of given pairs (`of_pairs`) and not who is a positive.
    A subclass is known by its `name` on the command line, default its own in lower case.
    """

    bounded_below = True
    tempered = True
    positives: str | None = None
    graded = False

    def __init_subclass__(cls, name: str = "", **kwargs):
        super().__init_subclass__(**kwargs)
        checked_init(cls)
        parts.setdefault(name or cls.__name__.lower(), cls)  # a namesake of one's own does not displace a built-in one

    def __call__(self, s: Similarity) -> Tensor:
        raise TypeError(f"{type(self).__name__} is not a loss of one similarity")

    def of_pairs(self, a: Tensor, b: Tensor, score: Tensor, temperature: Tensor) -> Tensor:
        """The loss of pairs (n, D) with scores (n,), over all processes."""
        raise TypeError(f"{type(self).__name__} does not read scores")


class InfoNCE(RowLoss):
    """InfoNCE: -log softmax of the positive (CPC; NT-Xent over two views)."""

    def __call__(self, s: Similarity) -> Tensor:
        return rows.info_nce_rows(s)


class Smoothed(RowLoss):
    """InfoNCE against smoothed targets (ALIGN).

    Args: smoothing: eps; share of the target spread over all candidates. Paper: 0.1.
    """

    def __init__(self, smoothing: UnitInterval = 0.1):
        self.smoothing = smoothing

    def __call__(self, s: Similarity) -> Tensor:
        return rows.smoothed_rows(s, smoothing=self.smoothing)


class DCL(RowLoss):
    """Decoupled contrast: the positive leaves the denominator.

    Args: sigma: width of the von Mises-Fisher weights of the positives (DCLW, paper 0.5); unweighted without it.
    """

    bounded_below = False

    def __init__(self, sigma: PositiveFloat | None = None):
        self.sigma = sigma

    def __call__(self, s: Similarity) -> Tensor:
        return rows.dcl_rows(s, sigma=self.sigma)


class HCL(RowLoss):
    """Hard-negative contrast.

    Args: tau_plus: class prior, the expected share of false negatives; beta: concentration on hard negatives.
    """

    def __init__(self, tau_plus: ShareBelowOne = 0.1, beta: NonNegativeFloat = 1.0):
        self.tau_plus, self.beta = tau_plus, beta

    def __call__(self, s: Similarity) -> Tensor:
        return rows.hcl_rows(s, tau_plus=self.tau_plus, beta=self.beta)


class Debiased(HCL):
    """Debiased contrast: `hcl` with beta = 0.

    Args: tau_plus: class prior, the expected share of false negatives.
    """

    def __init__(self, tau_plus: ShareBelowOne = 0.1):
        super().__init__(tau_plus, 0.0)


class Hard(RowLoss):
    """InfoNCE over the hardest share of the negatives.

    Args: alpha: the share that is kept.
    """

    def __init__(self, alpha: PositiveShare = 0.1):
        self.alpha = alpha

    def __call__(self, s: Similarity) -> Tensor:
        return rows.hard_rows(s, alpha=self.alpha)


class Simple(RowLoss):
    """Positive minus the mean of the negatives, without a softmax (and so without a temperature).

    Args: weight: lambda, of the sum of the negatives (none: 1 over their number); alpha: only the hardest share.
    """

    bounded_below = False
    tempered = False

    def __init__(self, weight: NonNegativeFloat | None = None, alpha: PositiveShare | None = None):
        self.weight, self.alpha = weight, alpha

    def __call__(self, s: Similarity) -> Tensor:
        return rows.simple_rows(s, weight=self.weight, alpha=self.alpha)


class Triplet(RowLoss):
    """Triplet loss with mining in the batch, without a temperature.

    Args: margin: least gap between positive and negative; mining: "hard" or "semi-hard"; positives: which items are
        positives of each other: none (its own views only), auto, group, or a column of labels.
    """

    tempered = False

    def __init__(self, margin: NonNegativeFloat = 0.2, mining: Literal["hard", "semi-hard"] = "hard",
                 positives: str | None = None):
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


class CACR(RowLoss):
    """Attraction and repulsion with one positive: the nearer a negative, the more it is pushed; no temperature.

    Args: alpha: of the attraction; beta: of the repulsion; tau_neg: how sharply near negatives count more (0: all
        alike); detach: the weights are constants in the gradient.
    """

    bounded_below = False
    tempered = False

    def __init__(self, alpha: NonNegativeFloat = 1.0, beta: NonNegativeFloat = 1.0,
                 tau_neg: NonNegativeFloat = 2.0, detach: bool = False):
        self.alpha, self.beta, self.tau_neg, self.detach = alpha, beta, tau_neg, detach

    def __call__(self, s: Similarity) -> Tensor:
        return rows.cacr_rows(s, alpha=self.alpha, beta=self.beta, tau_neg=self.tau_neg, detach=self.detach)


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
