"""Losses that are not reductions of a similarity: ordinary functions of tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import InputError
from nearfar.similarity import LogSumExp, Similarity, listed, normalise


def align_uniform(view_a: Float[Tensor, "n d"], view_b: Float[Tensor, "n d"], *, alpha: float = 2.0, t: float = 2.0,
                  weight: float = 1.0) -> Float[Tensor, ""]:
    """mean ||a - b||^alpha + weight * mean over the views of log mean_{i != j} e^{-t ||z_i - z_j||^2}.

    Unit vectors. Needs n >= 2. Source: Wang and Isola, ICML 2020.
    """
    a, b = normalise(view_a), normalise(view_b)
    distance = (a - b).square().sum(-1)
    alignment = distance.mean() if alpha == 2 else (distance + 1e-24).pow(alpha / 2).mean()
    return alignment + weight * (uniformity(a, t=t) + uniformity(b, t=t)) / 2


def uniformity(z: Float[Tensor, "n d"], *, t: float = 2.0) -> Float[Tensor, ""]:
    """log mean_{i != j} e^{-t ||z_i - z_j||^2} of unit vectors, in [-4t, 0]; exact, never builds n x n."""
    n = z.shape[0]
    if n < 2:
        raise InputError("Uniformity needs at least two vectors.")
    itself = listed(torch.arange(n, device=z.device))
    s = Similarity(z, z, itself=itself, temperature=1 / (2 * t))
    rows = s.reduce(LogSumExp(where=~itself))
    return torch.logsumexp(rows, 0) - 2 * t - torch.log(rows.new_tensor(n * (n - 1.0)))


def barlow_twins(view_a: Float[Tensor, "n d"], view_b: Float[Tensor, "n d"], *, weight: float = 0.005,
                 eps: float = 1e-5) -> Float[Tensor, ""]:
    """sum_i (1 - C_ii)^2 + weight sum_{i != j} C_ij^2, C the cross-correlation of the standardised features.

    Source: Zbontar et al., ICML 2021. Needs n >= 2.
    """
    if view_a.shape[0] < 2:
        raise InputError("Barlow Twins needs at least two items: a correlation over a batch of one is undefined.")
    a, b = (((z - z.mean(0)) / (z.var(0, unbiased=False) + eps).sqrt()) for z in (_wide(view_a), _wide(view_b)))
    c = a.T @ b / a.shape[0]
    diagonal = c.diagonal()
    return (1 - diagonal).square().sum() + weight * (c.square().sum() - diagonal.square().sum())


def vicreg(view_a: Float[Tensor, "n d"], view_b: Float[Tensor, "n d"], *, invariance: float = 25.0,
           variance: float = 25.0, covariance: float = 1.0, eps: float = 1e-4) -> Float[Tensor, ""]:
    """Mean squared distance + hinge on the standard deviation (>= 1) + off-diagonal covariance^2 / d.

    Source: Bardes et al., ICLR 2022. Needs n >= 2.
    """
    if view_a.shape[0] < 2:
        raise InputError("VICReg needs at least two items: a variance over a batch of one is undefined.")
    a, b = _wide(view_a), _wide(view_b)
    loss = invariance * F.mse_loss(a, b)
    for z in (a, b):
        z = z - z.mean(0)
        spread = (z.var(0) + eps).sqrt()
        c = z.T @ z / (z.shape[0] - 1)
        off = c.square().sum() - c.diagonal().square().sum()
        loss = loss + variance * F.relu(1 - spread).mean() / 2 + covariance * off / z.shape[1]
    return loss


def byol(prediction: Float[Tensor, "n d"], target: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """mean(2 - 2 cos(prediction, target)), no gradient into the target; in [0, 4]. Source: Grill et al., 2020."""
    return (2 - 2 * (normalise(prediction) * normalise(target.detach())).sum(-1)).mean()


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
