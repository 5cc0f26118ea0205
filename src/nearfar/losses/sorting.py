"""GroCo: positives before negatives by differentiable sorting (Shvetsova et al., ICCV 2023).

    x: K nearest negatives, then m positives, each group ascending   -- so that the ideal order is the one they stand in
    odd-even sorting network, its swaps soft: a = atan(beta (x_q+1 - x_q)) / pi + 1/2
    u_r: how much of input r ends among the K smallest;  loss = cross-entropy of u with "r is a negative"

The network is that of Petersen et al., "Monotonic Differentiable Sorting Networks", ICLR 2022, with the Cauchy swap.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from nearfar.checks import PositiveFloat, check
from nearfar.errors import InputError
from nearfar.similarity.answer.numerics import full_precision


def swap_share(
    first: Float[Tensor, "..."], second: Float[Tensor, "..."], steepness: float = 1.0
) -> Float[Tensor, "..."]:
    """alpha = atan(beta (second - first)) / pi + 1/2 in (0, 1): how much of the smaller one `first` is.

    1/2 where both are equal; 1 - alpha with the two exchanged. Source: Petersen et al., ICLR 2022, Cauchy distribution.
    """
    return torch.atan(steepness * (second - first)) / math.pi + 0.5


def soft_sort(
    x: Float[Tensor, "*b n"], steepness: float = 1.0
) -> tuple[Float[Tensor, "*b n"], Float[Tensor, "*b n n"]]:
    """Softly ascending values, and the soft permutation P: P[r, c] is how much of input r ends at rank c.

    Rows and columns of P sum to 1. steepness: beta; the larger, the harder the swaps. Only differences of the values
    matter for P. Memory O(b n^2) a layer, n layers. Raises InputError for a steepness that is not positive.
    Source: GroCo, sec. 3 (odd-even network of n layers).
    """
    values, shares = _sorted(x, steepness)
    matrix = torch.eye(x.shape[-1], dtype=values.dtype, device=x.device).expand(*x.shape, x.shape[-1])
    for layer, share in enumerate(shares):
        matrix = _mixed(matrix, share.unsqueeze(-2), layer % 2)
    return values, matrix


def group_mass(x: Float[Tensor, "*b n"], smallest: int, steepness: float = 1.0) -> Float[Tensor, "*b n"]:
    """u_r = sum over the ranks c < K of P[r, c] of `soft_sort`: how much of input r ends among the K `smallest`.

    In [0, 1], with sum K. P is a product of symmetric layers and is never built: the indicator of the K lowest ranks
    passes the layers backwards, O(b n) each."""
    _, shares = _sorted(x, steepness)
    mass = (torch.arange(x.shape[-1], device=x.device) < smallest).to(shares[0] if shares else x).expand(x.shape)
    for layer in range(len(shares) - 1, -1, -1):
        mass = _mixed(mass, shares[layer], layer % 2)
    return mass.clamp(0, 1)


def group_ordering(
    negatives: Float[Tensor, "n k"], positives: Float[Tensor, "n m"], steepness: float = 1.0
) -> Float[Tensor, "n"]:
    """GroCo's loss of each anchor, from its similarities to negatives and to positives, in any order.

    -(1 / (k + m)) [ sum of log u over the negatives + sum of log(1 - u) over the positives ], u the `group_mass` of the
    k smallest; logs not below -100. -inf stands for a negative or positive that an anchor does not have; without any
    negative or any positive its loss is 0. One of each: -log( atan(beta (p - n)) / pi + 1/2 ). At least float32.
    Cosines and steepness 1 leave it far above 0: 0.147 at best for k = 10 and m = 1.
    Source: GroCo, sec. 3. Raises InputError for shapes that do not fit.
    """
    if negatives.dim() != 2 or positives.dim() != 2 or len(negatives) != len(positives):
        raise InputError(f"Similarities must be (n, k) of negatives and (n, m) of positives. Got "
                         f"{tuple(negatives.shape)} and {tuple(positives.shape)}.")  # fmt: skip
    with full_precision(negatives.device):
        wide = torch.promote_types(negatives.dtype, torch.float32)
        broken = negatives.isnan().any(1) | positives.isnan().any(1)
        near, good = (
            x.to(wide).nan_to_num(-math.inf, math.inf, -math.inf).sort(1).values for x in (negatives, positives)
        )
        counts = torch.stack([(x > -math.inf).sum(1) for x in (near, good)], 1)
        losses = near.new_zeros(len(near)) + 0 * (_finite(near).sum(1) + _finite(good).sum(1))
        for k, m in counts.unique(dim=0).tolist():
            if k and m:
                rows = ((counts[:, 0] == k) & (counts[:, 1] == m)).nonzero()[:, 0]
                x = torch.cat([near[rows, near.shape[1] - k :], good[rows, good.shape[1] - m :]], 1)
                losses = losses.index_put((rows,), _ordered(x, k, steepness))
        return losses.masked_fill(broken, math.nan)


def _ordered(x: Tensor, k: int, steepness: float) -> Tensor:
    mass = group_mass(x, k, steepness)
    below = (torch.arange(x.shape[1], device=x.device) < k).to(mass).expand_as(mass)
    return binary_cross_entropy(mass, below, reduction="none").mean(1)


def _finite(x: Tensor) -> Tensor:
    return torch.where(x > -math.inf, x, 0)


def _sorted(x: Tensor, steepness: float) -> tuple[Tensor, list[Tensor]]:
    """Softly ascending values, and the share of each comparison (..., pairs) of each layer."""
    check("steepness", steepness, PositiveFloat, "argument")
    values, shares = x.to(torch.promote_types(x.dtype, torch.float32)), []
    for layer in range(x.shape[-1]):
        first, second = _pairs(values, layer % 2)
        shares.append(swap_share(first, second, steepness))
        values = _mixed(values, shares[-1], layer % 2)
    return values, shares


def _pairs(x: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """The wires q and q + 1 for q = start, start + 2, ..., along the last dimension."""
    count = max(0, (x.shape[-1] - start) // 2)
    first, second = x[..., start : start + 2 * count].unflatten(-1, (count, 2)).unbind(-1)
    return first, second


def _mixed(x: Tensor, share: Tensor, start: int) -> Tensor:
    """x with each pair of wires replaced by share * first + (1 - share) * second and the other way round."""
    first, second = _pairs(x, start)
    moved = (1 - share) * (second - first)
    both = torch.stack([first + moved, second - moved], -1).flatten(-2)
    return torch.cat([x[..., :start], both, x[..., start + both.shape[-1] :]], -1)


__all__ = ["group_mass", "group_ordering", "soft_sort", "swap_share"]
