"""Pairs that are sampled by what they mean, divided by how likely their surface makes them (DebCSE, CIKM 2023; a
reconstruction from the abstract).

a: similarity of the surface, s: of the meaning; M positive and K negative candidates of an anchor
positives  e = softmax(a / t_a),   pi ~ exp(s / t_p) [s >= theta_p] / max(e, eps)
negatives  e = softmax(-a / t_a),  pi ~ exp(-s / t_n) [s <= theta_n] / max(e, eps)
L = mean over i of log sum over all columns of e^(c(z_i, .) / T) - c(z_i, z+_i) / T,   columns: z+_j and z-_j,h of all j
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nearfar.checks import NonNegativeFloat, NonNegativeInt, check
from nearfar.errors import InputError
from nearfar.losses.rows import info_nce_rows, softplus
from nearfar.similarity import (
    ExcludedPairs,
    Layout,
    LogSumExp,
    Relation,
    Similarity,
    accumulated,
    dense,
    nobody,
    normalise,
    one_way,
    per_column,
    same,
)
from nearfar.similarity.exchange import Exchange, exchange

Weighting = Callable[[Tensor, Tensor, float], Tensor]
"""(log preference, log propensity, eps) -> log weight, (n, m) each, which is normalised over admissible candidates."""


def semantic_similarity(x: Float[Tensor, "n d"], candidates: Float[Tensor, "n m d"]) -> Float[Tensor, "n m"]:
    """The cosine of each anchor's vector and its candidates', negative ones as 0: in [0, 1]. A zero vector gives 0."""
    unit = normalise(candidates.flatten(0, 1)).view(candidates.shape)
    return (normalise(x)[:, None] * unit).sum(-1).clamp(0, 1)


def log_propensity(
    a: Float[Tensor, "n m"], temperature: float = 0.2, where: Bool[Tensor, "n m"] | None = None
) -> Float[Tensor, "n m"]:
    """log softmax(a / t) over the candidates that are there: how likely the surface alone makes each of them; -inf for
    the others. a negated for negatives; temperature inf: all as likely."""
    if not temperature > 0:
        raise InputError(f"The temperature of a propensity must be above 0, inf for none. Got {temperature}.")
    there = torch.ones_like(a, dtype=torch.bool) if where is None else where
    x = torch.where(there, a / temperature, -math.inf)
    return torch.where(there, x - x.logsumexp(1, keepdim=True), -math.inf)


def inverse_propensity(log_preference: Tensor, log_e: Tensor, eps: float) -> Tensor:
    """log of preference / max(e, eps): the weight of DebCSE. eps bounds it; from the largest e on nothing is left of
    the propensity."""
    return log_preference - log_e.clamp(min=math.log(eps) if eps > 0 else -math.inf)


def positive_probabilities(
    surface: Float[Tensor, "n m"],
    semantic: Float[Tensor, "n m"],
    *,
    surface_temperature: float = 0.2,
    temperature: float = 0.1,
    threshold: float = 0.5,
    eps: float = 0.01,
    where: Bool[Tensor, "n m"] | None = None,
    weighting: Weighting = inverse_propensity,
) -> Float[Tensor, "n m"]:
    """How likely each positive candidate is drawn: pi ~ exp(s / t_p) [s >= theta_p] / max(e, eps), e = softmax(a / t_a)
    (`log_propensity`).

    surface, semantic: a and s in [0, 1]. where: which candidates are there. Rows sum to 1; where no candidate passes
    the threshold, the largest s takes all (equal ones in equal shares), and where there is none, all are 0. eps -> 0:
    softmax(s / t_p - a / t_a) over those that pass; surface_temperature inf: softmax(s / t_p). No gradient. Source:
    DebCSE (a reconstruction)."""
    surface, semantic, there = _checked(surface, semantic, eps, where, temperature, threshold)
    pi = _normalised(surface, semantic / temperature, there & (semantic >= threshold), there, surface_temperature, eps,
                     weighting)  # fmt: skip
    best = torch.where(there, semantic, -math.inf)
    best = there & (best == best.amax(1, keepdim=True)) if semantic.shape[1] else there
    left = best.to(pi.dtype) / best.sum(1, keepdim=True).clamp(min=1)
    return torch.where(pi.sum(1, keepdim=True) > 0, pi, left)


def negative_probabilities(
    surface: Float[Tensor, "n k"],
    semantic: Float[Tensor, "n k"],
    *,
    surface_temperature: float = 0.2,
    temperature: float = 0.5,
    threshold: float = 0.8,
    eps: float = 0.01,
    where: Bool[Tensor, "n k"] | None = None,
    weighting: Weighting = inverse_propensity,
) -> Float[Tensor, "n k"]:
    """How likely each negative candidate is drawn: pi ~ exp(-s / t_n) [s <= theta_n] / max(e, eps), with the propensity
    e = softmax(-a / t_a).

    Rows sum to 1; where no candidate passes the threshold, all are 0. eps -> 0: softmax(a / t_a - s / t_n) over those
    that pass. Arguments and source as of `positive_probabilities`."""
    surface, semantic, there = _checked(surface, semantic, eps, where, temperature, threshold)
    return _normalised(-surface, -semantic / temperature, there & (semantic <= threshold), there, surface_temperature,
                       eps, weighting)  # fmt: skip


def _checked(
    surface: Tensor, semantic: Tensor, eps: float, where: Tensor | None, temperature: float, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Both similarities, at least float32, and which candidates are there."""
    if surface.shape != semantic.shape or surface.dim() != 2:
        raise InputError("Both similarities must be (n, m), of each anchor and its candidates. "
                         f"Got {tuple(surface.shape)} and {tuple(semantic.shape)}.")  # fmt: skip
    check("eps", eps, NonNegativeFloat, "argument")
    if not temperature > 0 or math.isnan(threshold):
        raise InputError(
            f"The temperature must be above 0 and the threshold a number. Got {temperature} and {threshold}."
        )
    there = torch.ones_like(surface, dtype=torch.bool) if where is None else where
    return accumulated(surface), accumulated(semantic), there


@torch.no_grad()
def _normalised(
    surface: Tensor, preference: Tensor, fits: Tensor, there: Tensor, t: float, eps: float, weighting: Weighting
) -> Tensor:
    """The softmax of the weighting over `fits`, 0 elsewhere; propensities over all that are `there`."""
    log_e = log_propensity(surface, t, there)
    x = torch.where(fits, weighting(preference, torch.where(there, log_e, 0), eps), -math.inf)
    some = fits.any(1, keepdim=True)
    return torch.where(fits & some, torch.where(some, x, 0).softmax(1), 0)


def gumbel_top_k(pi: Float[Tensor, "n m"], k: int, u: Float[Tensor, "n m"]) -> Int[Tensor, "n k"]:
    """k different candidates of each row, drawn without replacement with the probabilities pi: the largest
    log pi - log(-log u), the first drawn first. -1 where fewer have a probability.

    u: uniform numbers of [0, 1). Source: Kool et al., ICML 2019."""
    check("k", k, NonNegativeInt, "argument")
    tiny = torch.finfo(u.dtype).tiny
    score = pi.to(u.dtype).log() - (-u.clamp(tiny, 1 - torch.finfo(u.dtype).eps / 2).log()).log()
    value, place = score.topk(min(k, pi.shape[1]), dim=1)
    place = torch.where(value > -math.inf, place, -1)
    return torch.nn.functional.pad(place, (0, k - place.shape[1]), value=-1)


def _check_sides(anchors: Tensor, positives: Tensor, negatives: Tensor) -> None:
    if anchors.dim() != 2 or positives.shape != anchors.shape or negatives.dim() != 3 or (
            negatives.shape[::2] != anchors.shape):  # fmt: skip
        raise InputError("Anchors and positives must be (n, d), negatives (n, h, d). Got "
                         f"{tuple(anchors.shape)}, {tuple(positives.shape)} and {tuple(negatives.shape)}.")  # fmt: skip


def debcse_layout(
    anchors: Tensor,
    positives: Tensor,
    sampled: Tensor,
    where: Tensor | None = None,
    *,
    excluded: ExcludedPairs | None = None,
    **options: Any,
) -> Layout:
    """Each anchor (n, d) against all positives (n, d) and all `sampled` negatives (n, H, d) of the batch; only the own
    positive is one. where: bool (n, H), which of them are there. excluded: kinds of identities with a value of each
    column: n of the positives, then n H of the negatives, anchor after anchor. options: of `one_way`."""
    _check_sides(anchors, positives, sampled)
    if where is not None and where.shape != sampled.shape[:2]:
        raise InputError(f"'where' must be (n, h), as the negatives. Got {tuple(where.shape)} beside "
                         f"{tuple(sampled.shape)}.")  # fmt: skip
    kinds = [] if excluded is None else list(excluded.kinds)
    if where is not None:
        missing = torch.where(where.flatten(), -1, 0)
        kinds.append((missing.new_zeros(len(anchors)), torch.cat([missing.new_full((len(anchors),), -1), missing])))
    return one_way(anchors, torch.cat([positives, sampled.flatten(0, 1)]), excluded=ExcludedPairs(kinds), **options)


def debcse(
    anchors: Float[Tensor, "n d"],
    positives: Float[Tensor, "n d"],
    negatives: Float[Tensor, "n h d"],
    *,
    where: Bool[Tensor, "n h"] | None = None,
    temperature: float | Tensor = 0.05,
    gather: str = "local",
) -> Float[Tensor, ""]:
    """The mean over anchors of -log softmax of the own positive among the positives of all and the negatives of all.

    Compared by cosine. where: False for an empty place. gather: "global": columns of all processes. In [0, inf);
    without negatives and with the anchor's other copy as the positive it is SimCSE's. Source: DebCSE (a
    reconstruction)."""
    layout = debcse_layout(anchors, positives, negatives, where, temperature=temperature, negatives=gather)
    return layout.loss(info_nce_rows)


def debcse_expected(
    anchors: Float[Tensor, "n d"],
    positives: Float[Tensor, "n m d"],
    pi: Float[Tensor, "n m"],
    negatives: Float[Tensor, "n k d"],
    pi_negative: Float[Tensor, "n k"],
    *,
    drawn: int = 1,
    temperature: float | Tensor = 0.05,
    kinds: Sequence[tuple[Tensor, Tensor]] = (),
    hidden: Callable[[Exchange], Relation] | None = None,
    gather: str = "local",
) -> Float[Tensor, ""]:
    """All candidates by their weight in place of a draw: `debcse` with each pi on one candidate and H = 1, else near
    what it gives on average (H negatives count as drawn with replacement, and the mean stands inside the log).

    The mean over i of sum_m pi_im -log [ e_im / (e_im + R_i) ], e the exponentials of cosine / T, R_i = sum over the
    others j of sum_m pi_jm e_i,jm + H sum over all j of sum_k pi-_jk e_i,jk. drawn: H. kinds: (values of
    anchors (n,), values of columns (n m + n k,)) that hide equal ones; hidden: further pairs of an anchor and a column
    of any process. gather: as in `debcse`.
    """
    for side, p in ((positives, pi), (negatives, pi_negative)):
        if side.dim() != 3 or side.shape[::2] != anchors.shape or p.shape != side.shape[:2]:
            raise InputError("Anchors must be (n, d), candidates (n, m, d) and their probabilities (n, m). Got "
                             f"{tuple(anchors.shape)}, {tuple(side.shape)} and {tuple(p.shape)}.")  # fmt: skip
    net, n, m = exchange(gather), len(anchors), positives.shape[1]
    net.widths(anchors)
    own = torch.cat([positives.flatten(0, 1), negatives.flatten(0, 1)])
    keys, first, _ = net.keys(own, whole=True)
    weight = torch.cat([pi.flatten(), drawn * pi_negative.flatten()])
    weight = weight.to(torch.promote_types(anchors.dtype, torch.float32))
    items = torch.arange(n, device=anchors.device)
    mine = items + first
    columns = torch.cat([mine.repeat_interleave(m), mine.new_full((len(own) - n * m,), -1)])
    away = ExcludedPairs(kinds).relation(items, net, len(own))
    away = away | same(mine, net.gather(columns)[0]) | (nobody if hidden is None else hidden(net))
    s = Similarity(anchors, keys, temperature=temperature, group=net.group)
    rest = s.reduce(LogSumExp(where=~away, weight=per_column(net.gather(weight)[0])))
    each = softplus(rest[:, None] - s.at(first + torch.arange(n * m, device=anchors.device).view(n, m)))
    return net.mean((pi.to(each.dtype) * each).sum(1))


def near_columns(x: Float[Tensor, "n d"], columns: Float[Tensor, "m d"], threshold: float, net: Exchange) -> Relation:
    """The pairs of an anchor and a column of any process whose cosine, of vectors of a teacher, is above the threshold:
    probably no negatives. x: of the anchors; columns: of this process's."""
    return dense(normalise(x) @ normalise(net.gather(columns)[0]).T > threshold)


__all__ = [
    "debcse",
    "debcse_expected",
    "debcse_layout",
    "gumbel_top_k",
    "inverse_propensity",
    "log_propensity",
    "near_columns",
    "negative_probabilities",
    "positive_probabilities",
    "semantic_similarity",
]
