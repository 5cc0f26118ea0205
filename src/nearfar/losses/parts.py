"""Losses as parts of a method: `--loss dcl --loss.sigma 0.5`. Each wraps one row function of `losses.rows`."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from nearfar.errors import InputError
from nearfar.losses import rows
from nearfar.similarity import Similarity

parts: dict[str, type[RowLoss]] = {}


class RowLoss:
    """A loss over one similarity; the temperature belongs to the method that makes the similarity.

    `bounded_below`: whether the loss cannot be negative (for the reader of a curve).
    """

    bounded_below = True

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        parts.setdefault(cls.__name__.lower(), cls)  # a namesake of one's own does not displace a built-in one

    def __call__(self, s: Similarity) -> Tensor:
        raise TypeError(f"{type(self).__name__} is not a loss")


class InfoNCE(RowLoss):
    """InfoNCE: -log softmax of the positive (CPC; NT-Xent over two views)."""

    def __call__(self, s: Similarity) -> Tensor:
        return rows.info_nce_rows(s)


class Smoothed(RowLoss):
    """InfoNCE against smoothed targets (ALIGN).

    Args: smoothing: eps; share of the target spread over all candidates. Paper: 0.1.
    """

    def __init__(self, smoothing: float = 0.1):
        if not 0 <= smoothing <= 1:
            raise InputError(f"smoothing must be in [0, 1]. Got {smoothing}.")
        self.smoothing = smoothing

    def __call__(self, s: Similarity) -> Tensor:
        return rows.smoothed_rows(s, smoothing=self.smoothing)


class DCL(RowLoss):
    """Decoupled contrast: the positive leaves the denominator.

    Args: sigma: width of the von Mises-Fisher weights of the positives (DCLW; paper: 0.5); none: unweighted.
    """

    bounded_below = False

    def __init__(self, sigma: float | None = None):
        if sigma is not None and not sigma > 0:
            raise InputError(f"sigma must be in (0, inf). Got {sigma}.")
        self.sigma = sigma

    def __call__(self, s: Similarity) -> Tensor:
        return rows.dcl_rows(s, sigma=self.sigma)


class HCL(RowLoss):
    """Hard-negative contrast.

    Args: tau_plus: class prior, the expected share of false negatives; beta: concentration on hard negatives.
    """

    def __init__(self, tau_plus: float = 0.1, beta: float = 1.0):
        if not 0 <= tau_plus < 1 or beta < 0:
            raise InputError(f"tau_plus must be in [0, 1) and beta in [0, inf). Got {tau_plus} and {beta}.")
        self.tau_plus, self.beta = tau_plus, beta

    def __call__(self, s: Similarity) -> Tensor:
        return rows.hcl_rows(s, tau_plus=self.tau_plus, beta=self.beta)


class Debiased(HCL):
    """Debiased contrast: `hcl` with beta = 0.

    Args: tau_plus: class prior, the expected share of false negatives.
    """

    def __init__(self, tau_plus: float = 0.1):
        super().__init__(tau_plus, 0.0)


class Hard(RowLoss):
    """InfoNCE over the hardest share of the negatives.

    Args: alpha: the share that is kept.
    """

    def __init__(self, alpha: float = 0.1):
        if not 0 < alpha <= 1:
            raise InputError(f"alpha must be in (0, 1]. Got {alpha}.")
        self.alpha = alpha

    def __call__(self, s: Similarity) -> Tensor:
        return rows.hard_rows(s, alpha=self.alpha)


class Triplet(RowLoss):
    """Triplet loss with mining in the batch; the temperature should be 1.

    Args: margin: least gap between positive and negative; mining: "hard" or "semi-hard".
    """

    def __init__(self, margin: float = 0.2, mining: Literal["hard", "semi-hard"] = "hard"):
        self.margin, self.mining = margin, mining

    def __call__(self, s: Similarity) -> Tensor:
        return rows.triplet_rows(s, margin=self.margin, mining=self.mining)
