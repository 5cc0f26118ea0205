"""SupReMix: supervised contrast of rows with a number each, among mixtures of their own batch (arXiv 2309.16633).

    mixed negatives of i    m = a z_i + (1 - a) z_k,  a ~ Beta(2, 8), for each k of another number
    mixed positives of i    m = a z_j + (1 - a) z_k,  y_j < y_i < y_k near y_i, by the a with a y_j + (1 - a) y_k = y_i

Mixtures are constants and not brought to unit length. None is ever made: z_i . m follows from the products z_i . z_k.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nearfar.checks import one_of
from nearfar.errors import InputError
from nearfar.similarity import check_temperature, normalise
from nearfar.similarity.answer.numerics import full_precision
from nearfar.similarity.exchange import Exchange, exchange

Weight = Literal["linear", "squared", "inverse", "inverse-squared", "none"]
CELLS = 1 << 24  # triples of rows that are looked at at once


def distance_weights(distance: Float[Tensor, "..."], kind: str = "linear") -> Float[Tensor, "..."]:
    """How much a candidate counts in the denominator, by how far its number lies from the anchor's: |d| + 1 (linear,
    the paper's), d^2 + 1 (squared), their reciprocals (inverse, inverse-squared), or 1 (none). 1 at distance 0.

    Source: SupReMix, distance magnifying ("L1_inv" of the released code is linear)."""
    one_of("weight", kind, get_args(Weight))
    if kind == "none":
        return torch.ones_like(distance)
    larger = distance.abs() + 1 if kind in ("linear", "inverse") else distance.square() + 1
    return larger if kind in ("linear", "squared") else larger.reciprocal()


def mixing_shares(
    anchors: int,
    rows: int,
    *,
    beta: tuple[float, float] = (2.0, 8.0),
    seed: int | Sequence[int] = 0,
) -> Float[Tensor, "n m"]:
    """The anchor's share a ~ Beta(beta) of its mixture with each row: one draw for every pair, in (0, 1), float32.

    Source: SupReMix; its Beta(2, 8) gives the anchor a fifth in the mean."""
    return torch.from_numpy(np.random.default_rng(seed).beta(*beta, size=(anchors, rows)).astype(np.float32))


def straddling(
    anchor: Float[Tensor, "n"],
    target: Float[Tensor, "m"],
    window: float,
) -> tuple[Int[Tensor, "t"], Int[Tensor, "t"], Int[Tensor, "t"], Float[Tensor, "t"]]:
    """The mixed positives of anchors i: (i, j, k, a), each (t,), ordered by anchor.

    y_j < y_i < y_k, both nearer than the window, and a = (y_k - y_i) / (y_k - y_j) in (0, 1) is the share of row j, so
    that the mixture's number is y_i. An anchor has (rows below within the window) x (rows above within it) of them.
    Source: SupReMix, anchor-exclusive mixtures."""
    gap = target[None] - anchor[:, None]
    below, above = (gap < 0) & (-gap < window), (gap > 0) & (gap < window)
    i, j, k = (below[:, :, None] & above[:, None, :]).nonzero(as_tuple=True)
    up, down = gap[i, k], -gap[i, j]
    return i, j, k, up / (up + down)


def supremix(
    z: Float[Tensor, "n d"],
    target: Float[Tensor, "n"],
    *,
    shares: Float[Tensor, "n m"] | None = None,
    window: float | None = 5.0,
    temperature: float | Tensor = 0.3,
    weight: str = "linear",
    identities: Sequence[Int[Tensor, "n"]] = (),
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """The mean over anchors of -mean_p [ s_ip - log sum_c w_ic e^(s_ic) ], s the cosine (of mixtures the product)
    divided by the temperature, p the positives, c all candidates.

    Positives: rows of the same number and mixed positives; negatives: all other rows and mixed negatives; w by
    `distance_weights`. An anchor without a positive leaves the mean. In [0, inf) for weights of at least 1, lowest log
    of the number of positives. Memory O(n^2), and up to n^3 / 6 mixed positives, which are found again in the backward
    pass where they are many.

    Args: z: views of a row are rows of their own, with its number again. target: finite numbers in the unit in which
    window and weight count: their range should be of the order of 10 to 100. shares: the anchor's share in its mixture
    with each row (m: rows of all processes), see `mixing_shares`; None: no mixed negatives. window: e; None or 0: no
    mixed positives. identities: rows that are equal in one of them (-1: unknown) are no negatives of each other.
    Raises InputError: other shapes, numbers that are not finite, an unknown weight. Source: SupReMix, sec. 3; without
    mixtures and weights it is `sup_con`.
    """
    net = exchange(negatives)
    with net.together():
        _check(z, target, shares, temperature, alone=net.group is None)
        one_of("weight", weight, get_args(Weight))
    net.widths(z)
    with full_precision(z.device):
        rows, counted = supremix_rows(z, target, shares, window, temperature, weight, identities, net)
        count = net.sum(counted.sum().to(rows.dtype)).detach()
        return net.sum(rows.sum()) / count.clamp(min=1)


def supremix_rows(
    z: Tensor,
    target: Tensor,
    shares: Tensor | None,
    window: float | None,
    temperature: float | Tensor,
    weight: str,
    identities: Sequence[Tensor],
    net: Exchange,
) -> tuple[Tensor, Tensor]:
    """The loss of each anchor of this process (n,), 0 without a positive; and which have one, bool (n,)."""
    u, y = normalise(z), target.to(torch.promote_types(target.dtype, torch.float32))
    every, first = net.gather(u)
    numbers = net.gather(y)[0]
    itself = torch.arange(len(every), device=z.device)[None] == torch.arange(len(u), device=z.device)[:, None] + first
    gap = (y[:, None] - numbers[None]).abs().to(u.dtype)
    positive, negative = (gap == 0) & ~itself, (gap > 0) & ~_equal(identities, net, gap)
    tau = torch.as_tensor(temperature, dtype=u.dtype, device=z.device)
    s, still = u @ every.T / tau, u @ every.detach().T / tau
    log_sum, total, count = _mixed_positives(still, y, numbers, window)
    count, total = count + positive.sum(1), total + s.masked_fill(~positive, 0).sum(1)
    kept = count > 0
    entries = [(s + distance_weights(gap, weight).log()).masked_fill(~(positive | negative), -math.inf)]
    if shares is not None:
        a = shares.to(u)
        mixed = a * (u * u.detach()).sum(1, keepdim=True) / tau + (1 - a) * still
        entries.append((mixed + distance_weights((1 - a) * gap, weight).log()).masked_fill(~negative, -math.inf))
    denominator = torch.cat([*entries, log_sum[:, None]], 1)[kept].logsumexp(1)
    found = denominator - total[kept] / count[kept]
    return u.new_zeros(len(u)).index_put((kept.nonzero()[:, 0],), found) + 0 * u.sum(), kept


def _mixed_positives(still: Tensor, y: Tensor, numbers: Tensor, window: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """log of the sum of e^s, sum of s, and number of the mixed positives of each anchor: (n,) each; -inf, 0, 0 without.
    still: (n, m) products of anchors and constant rows, divided by the temperature."""
    n, m = still.shape
    if not window or not n:
        return still.new_full((n,), -math.inf), still.new_zeros(n), torch.zeros_like(y, dtype=torch.long)
    size = max(1, CELLS // m**2)
    blocks = [slice(at, at + size) for at in range(0, n, size)]
    parts = [(still[b], y[b], numbers, window) for b in blocks]
    found = [
        checkpoint(_mixed_block, *part, use_reentrant=False) if len(blocks) > 1 else _mixed_block(*part)
        for part in parts
    ]
    log_sum, total, count = (torch.cat(one) for one in zip(*found, strict=True))
    return log_sum, total, count


def _mixed_block(still: Tensor, y: Tensor, numbers: Tensor, window: float) -> tuple[Tensor, Tensor, Tensor]:
    i, j, k, share = straddling(y, numbers, window)
    share = share.to(still.dtype)
    s = share * still[i, j] + (1 - share) * still[i, k]
    count, n = torch.bincount(i, minlength=len(y)), len(y)
    top = still.new_full((n,), -math.inf).scatter_reduce(0, i, s.detach(), "amax")
    top = torch.where(count > 0, top, 0)
    sums = still.new_zeros(n).index_add(0, i, (s - top[i]).exp())
    log_sum = torch.where(count > 0, torch.where(count > 0, sums, 1).log() + top, -math.inf)
    return log_sum, still.new_zeros(n).index_add(0, i, s), count


def _equal(identities: Sequence[Tensor], net: Exchange, like: Tensor) -> Tensor:
    """bool (n, m): pairs of rows that are equal in one of the identities."""
    found = torch.zeros_like(like, dtype=torch.bool)
    for ids in identities:
        found |= (ids[:, None] == net.gather(ids)[0][None]) & (ids[:, None] >= 0)
    return found


def _check(z: Tensor, target: Tensor, shares: Tensor | None, temperature: float | Tensor, alone: bool) -> None:
    if z.dim() != 2 or target.shape != z.shape[:1]:
        raise InputError(f"Vectors must be (n, D) and targets (n,). Got {tuple(z.shape)} and {tuple(target.shape)}.")
    if not bool(target.isfinite().all()):
        raise InputError("A target must be a finite number.", "Leave such rows out.")
    fits = shares is None or (shares.dim() == 2 and len(shares) == len(z) and (not alone or len(shares.T) == len(z)))
    if shares is not None and not fits:
        raise InputError(f"Shares must be (n, rows of all processes) for {len(z)} rows. Got {tuple(shares.shape)}.")
    check_temperature(temperature)


__all__ = ["distance_weights", "mixing_shares", "straddling", "supremix"]
