"""Views that a network learns (AutoTCL, ICLR 2024): a mask that keeps what tells, and what trains the network."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from nearfar.checks import NonNegativeFloat, Range, ShareBelowOne, checked
from nearfar.errors import InputError

KERNELS = 5
LEAST = 1e-6  # distance of the noise from 0 and 1


@checked
def relaxed_mask(
    logit: Float[Tensor, "n t c"],
    u: Float[Tensor, "n t c"] | None = None,
    *,
    bias: Annotated[float, Range(0, 0.5)] = 0.05,
    stretch: ShareBelowOne = 0.05,
    hard: bool = False,
) -> Tensor:
    """Values in [0, 1] that keep (1) or drop (0), a relaxed Bernoulli draw with stretched ends.

    m = clip(sigmoid(log e - log(1 - e) + logit) (1 + stretch) - stretch, 0, 1), e = (2 bias - 1) u + 1 - bias.
    u: from [0, 1), None for no noise (e = 1/2); bias 1/2 means none either. hard: 1[m > 1/2], with the gradient of m.
    Source: AutoTCL; Louizos et al., ICLR 2018 (b: gumbel_bias, stretch: gamma_zeta).
    """
    noise = torch.zeros_like(logit)
    if u is not None:
        e = ((2 * bias - 1) * u + 1 - bias).clamp(LEAST, 1 - LEAST)
        noise = e.log() - (1 - e).log()
    m = (torch.sigmoid(noise + logit) * (1 + stretch) - stretch).clamp(0, 1)
    return m + ((m > 0.5).to(m.dtype) - m).detach() if hard else m


@checked
def segment_contrast(
    z: Float[Tensor, "n t d"],
    start: int = 0,
    *,
    segments: Annotated[int, Range(4)] = 16,
    first_only: bool = False,
) -> Tensor:
    """A run of a series finds the next one (the last one the run before) among the others: a scalar, 0 for fewer steps
    than segments.

    Steps are brought to length 1 and cut from `start` on into so many runs of floor(T / segments) steps, each
    max-pooled to q_i; negatives are all but i and its neighbours (of the first and the last run the two next to it),
    so that each has segments - 3; the mean of -log( e^(q_i.q_p) / (e^(q_i.q_p) + sum of e^(q_i.q_j)) ).
    first_only: of the first series alone, as the released code has it. Source: AutoTCL.
    """
    z = z.float() if z.dtype in (torch.float16, torch.bfloat16) else z
    length = z.shape[1] // segments
    if not length or not len(z):
        return z.sum() * 0.0
    if not 0 <= start <= z.shape[1] - segments * length:
        raise InputError(f"{segments} runs of {length} steps do not fit into {z.shape[1]} steps from {start} on.")
    z = F.normalize(z[:1] if first_only else z, dim=2)[:, start : start + segments * length]
    q = z.unflatten(1, (segments, length)).amax(2)
    scores = q @ q.transpose(1, 2)
    positive, hidden = segment_roles(segments)
    logits = scores.masked_fill(hidden.to(z.device), -torch.inf)
    own = torch.arange(segments)
    return (torch.logsumexp(logits, 2) - scores[:, own, positive]).mean()


def segment_roles(segments: int) -> tuple[Int[Tensor, " k"], Bool[Tensor, "k k"]]:
    """The positive of each run, and which runs are neither its positive nor its negatives."""
    i = torch.arange(segments)
    positive = torch.where(i < segments - 1, i + 1, i - 1)
    centre = i.clamp(1, segments - 2)
    hidden = (centre[:, None] - i).abs() <= 1
    hidden[i, positive] = False
    return positive, hidden


def feature_mmd(x: Float[Tensor, "n d"], v: Float[Tensor, "n d"]) -> Tensor:
    """Squared maximum mean discrepancy of two sets of vectors: a scalar, 0 where they are the same.

    The mean of K_xx + K_vv - K_xv - K_vx, K(a, b) = sum over k < 5 of exp(-|a - b|^2 / (s 2^k)); s, a constant, is a
    quarter of the mean squared distance of different rows of both sets. Source: AutoTCL; Gretton et al., JMLR 2012.
    """
    if x.ndim != 2 or x.shape != v.shape:
        raise InputError(f"Two sets of vectors are (n, d) and of one shape. Got {tuple(x.shape)}, {tuple(v.shape)}.")
    both, n = torch.cat([x, v]).float() if x.dtype in (torch.float16, torch.bfloat16) else torch.cat([x, v]), len(x)
    distance = (both[:, None] - both[None]).square().sum(2)
    width = (distance.detach().sum() / (2 * n * (2 * n - 1)) / 4).clamp(min=torch.finfo(both.dtype).tiny)
    kernel = torch.stack([torch.exp(-distance / (width * 2**k)) for k in range(KERNELS)]).sum(0)
    return (kernel[:n, :n] + kernel[n:, n:] - kernel[:n, n:] - kernel[n:, :n]).mean()


@checked
def kept_excess(w: Float[Tensor, "n t c"], threshold: NonNegativeFloat = 0.4) -> Tensor:
    """How much more is kept than the threshold: relu(mean over series and steps of the sum over channels - threshold),
    a scalar. Source: AutoTCL (R_h)."""
    return F.relu(w.sum(2).mean() - threshold)


def step_consistency(
    w: Float[Tensor, "n t c"], first: Int[Tensor, " k"], second: Int[Tensor, " k"], *, released: bool = False
) -> Tensor:
    """How unlike the mask is at neighbouring steps, and how like at far ones: a scalar.

    For each pair of steps s0, s1: |w(s0) - w(s0 - 1)| + |w(s0) - w(s0 + 1)| + d for near pairs (|s1 - s0| <= 1) or
    1 - d for far ones, d = |w(s0) - w(s1)|; the mean over pairs, series and channels. first, second: s0, s1, within
    1 ... T - 2. released: far pairs (s1 > s0 + 1) are pulled together and near ones pushed apart, as the released code
    has it. Source: AutoTCL (temporal consistency).
    """
    at = w[:, first]
    smooth = (at - w[:, first - 1]).abs() + (at - w[:, first + 1]).abs()
    d = (at - w[:, second]).abs()
    far = (second - first > 1) if released else ((second - first).abs() > 1)
    alike = far if released else ~far
    return (smooth + torch.where(alike[None, :, None], d, 1 - d)).mean()
