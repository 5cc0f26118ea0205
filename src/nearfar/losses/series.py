"""Contrast of series step by step and series by series, at scales that halve (Yue et al., TS2Vec, AAAI 2022)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nearfar.checks import UnitInterval, checked
from nearfar.errors import InputError


def _aligned(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.ndim != 3 or a.shape != b.shape:
        raise InputError(f"Two views of series are (n, T, d) and of one shape. Got {tuple(a.shape)}, {tuple(b.shape)}.")
    return (a.float(), b.float()) if a.dtype in (torch.float16, torch.bfloat16) else (a, b)


def _twofold(z: Tensor) -> Tensor:
    """Cross-entropy of the partner among the other rows: z (m, 2 k, d), partners k rows apart; (m, 2 k)."""
    k = z.shape[1] // 2
    scores = z @ z.transpose(1, 2)
    own = torch.eye(2 * k, dtype=torch.bool, device=z.device)
    logits = scores.masked_fill(own, -torch.inf)
    partner = torch.arange(2 * k, device=z.device).roll(k)
    return torch.logsumexp(logits, 2) - scores[:, torch.arange(2 * k, device=z.device), partner]


def instance_contrast(a: Float[Tensor, "n t d"], b: Float[Tensor, "n t d"]) -> Tensor:
    """The same step of two views of a series finds itself among that step of all series of both views: a scalar.

    -log( e^(a_i.b_i) / (sum_j e^(a_i.b_j) + sum over j != i of e^(a_i.a_j)) ), the mean over series, steps and both
    views; products of vectors as they are. 0 for one series. Source: TS2Vec, eq. 2. O(T n^2 d).
    """
    a, b = _aligned(a, b)
    if len(a) == 1 or not a.shape[1]:
        return (a.sum() + b.sum()) * 0.0
    return _twofold(torch.cat([a, b]).transpose(0, 1)).mean()


def temporal_contrast(a: Float[Tensor, "n t d"], b: Float[Tensor, "n t d"]) -> Tensor:
    """A step finds itself in the other view among all steps of the series in both views: a scalar, 0 for one step.

    Source: TS2Vec, eq. 1. O(n T^2 d).
    """
    a, b = _aligned(a, b)
    if a.shape[1] < 2 or not len(a):
        return (a.sum() + b.sum()) * 0.0
    return _twofold(torch.cat([a, b], 1)).mean()


@checked
def hierarchical_contrast(
    a: Float[Tensor, "n t d"], b: Float[Tensor, "n t d"], *, alpha: UnitInterval = 0.5, temporal_from: int = 0
) -> Tensor:
    """`instance_contrast` (weight alpha) and `temporal_contrast` (1 - alpha) at every scale: a scalar.

    Max-pooled by two over time until one step is left, where the instances alone count; the mean over the scales.
    temporal_from: the first scale with the temporal term. Source: TS2Vec, algorithm 1.
    """
    a, b = _aligned(a, b)
    total, scale = (a.sum() + b.sum()) * 0.0, 0
    while True:
        last = a.shape[1] <= 1
        if alpha > 0:
            total = total + alpha * instance_contrast(a, b)
        if alpha < 1 and not last and scale >= temporal_from:
            total = total + (1 - alpha) * temporal_contrast(a, b)
        scale += 1
        if last:
            return total / scale
        a, b = (F.max_pool1d(z.transpose(1, 2), 2).transpose(1, 2) for z in (a, b))
