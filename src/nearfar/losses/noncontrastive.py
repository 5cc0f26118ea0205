"""Losses that are not reductions of a similarity: ordinary functions of tensors."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import InputError
from nearfar.similarity import Block, LogSumExp, Similarity, accumulated, diagonal, normalise
from nearfar.similarity.answer.numerics import full_precision
from nearfar.similarity.exchange import Exchange, exchange


def align_uniform(
    view_a: Float[Tensor, "n d"],
    view_b: Float[Tensor, "n d"],
    *,
    alpha: float = 2.0,
    t: float = 2.0,
    weight: float = 1.0,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """mean ||a - b||^alpha + weight * mean over the views of log mean_{i != j} e^{-t ||z_i - z_j||^2}.

    Unit vectors. In [-4 t weight, 2^alpha], 0 at collapse. Needs n >= 2 (of all processes with "global").
    Source: Wang and Isola, ICML 2020.
    """
    net = exchange(negatives)
    a, b = normalise(view_a), normalise(view_b)
    distance = (a - b).square().sum(-1)
    total = net.sum((distance if alpha == 2 else (distance + 1e-24).pow(alpha / 2)).sum())
    spread = (uniformity(a, t=t, negatives=negatives) + uniformity(b, t=t, negatives=negatives)) / 2
    return total / net.count(a) + weight * spread


def uniformity(z: Float[Tensor, "n d"], *, t: float = 2.0, negatives: str = "local") -> Float[Tensor, ""]:
    """log mean_{i != j} e^{-t ||z_i - z_j||^2} of unit vectors, in [-4t, 0]; exact, never builds n x n."""
    return uniformity_among(z, t, exchange(negatives))


def uniformity_among(z: Tensor, t: float, net: Exchange, unit: bool = True) -> Tensor:
    """The uniformity of the vectors of the processes of `net`; unit: they are brought to length 1."""
    keys, offset, ring = net.keys(z)
    n = net.count(z)
    if n < 2:
        raise InputError("Uniformity needs at least two vectors.")
    itself = diagonal(z.shape[0], offset, z.device)
    s = Similarity(z, Block(keys, ring=ring), itself=itself, temperature=1 / (2 * t if unit else t),
                   similarity="cosine" if unit else "euclidean", group=net.group)  # fmt: skip
    rows = s.reduce(LogSumExp(where=~itself))
    shift = 2 * t if unit else 0.0  # |a - b|^2 = 2 - 2 a.b
    return s.log_mean_exp(rows, where=torch.ones_like(rows, dtype=torch.bool)) - shift - math.log(n - 1)


def _product(a: Tensor, b: Tensor) -> Tensor:
    with full_precision(a.device):
        return a.T @ b


def barlow_twins(
    view_a: Float[Tensor, "n d"],
    view_b: Float[Tensor, "n d"],
    *,
    weight: float = 0.005,
    eps: float = 1e-5,
    unbiased: bool = False,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """sum_i (1 - C_ii)^2 + weight sum_{i != j} C_ij^2, C the cross-correlation of the standardised features.

    In [0, inf); D at collapse. Needs n >= 2. unbiased: variances over n - 1, while C is still a mean over n.
    negatives="global": mean, variance and correlation over the items of all processes.
    Source: Zbontar et al., ICML 2021.
    """
    net = exchange(negatives)
    n = net.count(view_a)
    if n < 2:
        raise InputError("Barlow Twins needs at least two items: a correlation over a batch of one is undefined.")
    centred = [z - net.sum(z.sum(0)) / n for z in (accumulated(view_a), accumulated(view_b))]
    a, b = (z / (net.sum(z.square().sum(0)) / (n - unbiased) + eps).sqrt() for z in centred)
    return from_identity(net.sum(_product(a, b)) / n, weight)


def from_identity(c: Tensor, weight: float) -> Tensor:
    """sum_i (1 - C_ii)^2 + weight sum_{i != j} C_ij^2 of a square matrix: 0 for the identity alone."""
    diagonal_of_c = c.diagonal()
    return (1 - diagonal_of_c).square().sum() + weight * (c.square().sum() - diagonal_of_c.square().sum())


def cross_correlation(
    view_a: Float[Tensor, "n d"],
    view_b: Float[Tensor, "n d"],
    *,
    weight: float = 0.005,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """sum_i (1 - C_ii)^2 + weight sum_{i != j} C_ij^2, C = A^T B / n of the vectors as they are: `barlow_twins` of what
    a batch norm has brought to mean 0 and variance 1.

    In [0, inf), 0 where C is the identity alone. negatives="global": C over the items of all processes.
    Raises InputError for no rows. Source: BarLIP (arXiv 2305.08675), after Zbontar et al., ICML 2021.
    """
    net = exchange(negatives)
    if not (n := net.count(view_a)):
        raise InputError("A correlation over no items is undefined.")
    return from_identity(net.sum(_product(accumulated(view_a), accumulated(view_b))) / n, weight)


def graph_barlow_twins(
    view_a: Float[Tensor, "n d"], view_b: Float[Tensor, "n d"], *, eps: float = 1e-12, negatives: str = "local"
) -> Float[Tensor, ""]:
    """sum_i (1 - C_ii)^2 + (1/d) sum_{i != j} C_ij^2: `barlow_twins` without a weight to choose.

    Columns are standardised by the unbiased variance + eps, C is a mean over n, so that C_ii is at most (n - 1) / n and
    the least value is d / n^2; d at collapse. negatives="global": over the nodes of all processes.
    Source: Graph Barlow Twins, Bielak et al., Knowledge-Based Systems 2022 (there 1e-15 is added to the deviation).
    """
    return barlow_twins(view_a, view_b, weight=1 / view_a.shape[1], eps=eps, unbiased=True, negatives=negatives)


def vicreg(
    view_a: Float[Tensor, "n d"],
    view_b: Float[Tensor, "n d"],
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    eps: float = 1e-4,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """Mean squared distance + hinge on the standard deviation (>= 1) + off-diagonal covariance^2 / d.

    In [0, inf); variance (1 - sqrt(eps)) at collapse. Needs n >= 2.
    negatives="global": statistics over the items of all processes. Source: Bardes et al., ICLR 2022.
    """
    net = exchange(negatives)
    n = net.count(view_a)
    if n < 2:
        raise InputError("VICReg needs at least two items: a variance over a batch of one is undefined.")
    a, b = accumulated(view_a), accumulated(view_b)
    loss = invariance * net.sum((a - b).square().sum()) / (n * a.shape[1])
    for z in (a, b):
        z = z - net.sum(z.sum(0)) / n
        c = net.sum(_product(z, z)) / (n - 1)
        spread = (c.diagonal() + eps).sqrt()
        off = c.square().sum() - c.diagonal().square().sum()
        loss = loss + variance * F.relu(1 - spread).mean() / 2 + covariance * off / z.shape[1]
    return loss


def byol(prediction: Float[Tensor, "n d"], target: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """mean(2 - 2 cos(prediction, target)), no gradient into the target; in [0, 4], 0 at collapse.

    Source: BYOL, Grill et al., NeurIPS 2020, eq. 2.
    """
    return byol_rows(prediction, target).mean()


def byol_rows(prediction: Float[Tensor, "n d"], target: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
    """2 - 2 cos(prediction, target) of each row, no gradient into the target."""
    return 2 - 2 * (normalise(prediction) * normalise(target.detach())).sum(-1)


def bgrl(
    prediction_a: Float[Tensor, "n d"],
    target_b: Float[Tensor, "n d"],
    prediction_b: Float[Tensor, "n d"],
    target_a: Float[Tensor, "n d"],
) -> Float[Tensor, ""]:
    """2 - mean cos(prediction_a, target_b) - mean cos(prediction_b, target_a), no gradient into the targets.

    In [0, 4], 0 where each prediction points as its target does. Source: BGRL, Thakoor et al., ICLR 2022.
    """
    return (byol(prediction_a, target_b) + byol(prediction_b, target_a)) / 2
