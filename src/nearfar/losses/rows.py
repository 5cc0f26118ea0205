"""Losses as rows: functions `rows(s) -> (N,)` of one similarity, one line or two for each paper's equation.

Under a layout (one way, both ways, all views) and with further blocks of negatives they become whole losses; see
`nearfar.losses` for the doors that take plain tensors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nearfar.checks import NonNegativeFloat, PositiveFloat, PositiveInt, PositiveShare, ShareBelowOne, UnitInterval
from nearfar.errors import InputError
from nearfar.losses.base import row_loss
from nearfar.losses.sorting import group_ordering
from nearfar.similarity import (
    Count,
    CrossEntropy,
    LogSumExp,
    Max,
    Mean,
    Min,
    Relation,
    Similarity,
    SoftmaxMean,
    Sum,
    at_least,
)


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), exact in float64 too (torch's default turns linear from 20 on)."""
    return torch.nn.functional.softplus(x, 1, 40)


@row_loss("InfoNCE")
def info_nce_rows(s: Similarity) -> Tensor:
    """InfoNCE: -log softmax of the positive (CPC; NT-Xent over two views).

    -log( p / (p + sum_n e^{s_n}) ) = softplus( logsumexp(negatives) - s_positive ), in [0, inf).
    """
    return s.reduce(CrossEntropy(where=s.negative))


@row_loss("Smoothed")
def smoothed_rows(s: Similarity, *, smoothing: UnitInterval = 0.1) -> Tensor:
    """InfoNCE against smoothed targets (ALIGN).

    Cross-entropy against (1 - eps) on the positive plus eps / M on each of the M candidates, positive included.

    Args: smoothing: eps; share of the target spread over all candidates. Paper: 0.1.
    """
    seen = s.visible & ~s.itself
    positive = s.paired()
    entropy, average = s.reduce(CrossEntropy(where=s.negative, of=positive), Mean(where=seen))
    return entropy + smoothing * (positive - average)


def require_negatives(s: Similarity, negatives: Tensor, name: str) -> Tensor:
    """The rows with a negative; raises on every rank if no rank has one, since the loss is then -inf."""
    some = negatives.detach() > -math.inf
    if not s.any_rank(some):
        raise InputError(
            f"{name} is undefined without negatives: the global batch holds one item only.",
            "Use a batch of at least two different items, or add a queue.",
        )
    return some


def positive_weights(s: Similarity, sigma: float) -> Tensor:
    """w_i = 2 - e^{c_i / sigma} / mean_j e^{c_j / sigma}, c = cosine of the positive pair; the mean over all processes.

    Their mean is 1; a pair that is far apart weighs more; from 2 - n to 2. Source: DCL, eq. 6."""
    closeness = s.paired() * s.row_temperature() / sigma
    return 2 - (closeness - s.log_mean_exp(closeness)).exp()


@row_loss("DCL", bounded_below=False)
def dcl_rows(s: Similarity, *, sigma: PositiveFloat | None = None, detach: bool = True) -> Tensor:
    """Decoupled contrast: the positive leaves the denominator.

    -w_i s_positive + logsumexp(negatives).

    sigma None: w = 1 (DCL). Else DCLW: the `positive_weights` w. May be negative. Rows without a negative count 0.
    Source: DCL, eq. 4 and 6.

    Args: sigma: width of the von Mises-Fisher weights of the positives (DCLW, paper 0.5); unweighted without it;
        detach: the weights are constants in the gradient (as described; the first implementation differentiates them).
    """
    negatives, positive = s.reduce(LogSumExp(where=s.negative)), s.paired()
    some = require_negatives(s, negatives, "The decoupled loss")
    if sigma is not None:
        w = positive_weights(s, sigma)
        positive = positive * (w.detach() if detach else w)
    return torch.where(some, negatives - positive, 0)


def sup_con_rows(s: Similarity) -> Tensor:
    """logsumexp(all others) - mean over the positives of s: the mean outside the log (SupCon, L_out)."""
    positives = s.positive & s.visible & ~s.itself
    everyone_else, mean = s.reduce(LogSumExp(where=s.visible & ~s.itself), Mean(where=positives))
    return everyone_else - mean


def mil_nce_rows(s: Similarity) -> Tensor:
    """-log( sum_p e^{s_p} / (sum_p e^{s_p} + sum_n e^{s_n}) ): the sum of the positives inside the log (MIL-NCE)."""
    positives = s.positive & s.visible & ~s.itself
    bag, negatives = s.reduce(LogSumExp(where=positives), LogSumExp(where=s.negative))
    return torch.where(bag > -math.inf, softplus(negatives - torch.where(bag > -math.inf, bag, 0)), 0)


def log_difference(a: Tensor, b: Tensor, share: float) -> Tensor:
    """log(e^a - share e^b), -inf where the difference is not positive."""
    if share == 0:
        return a
    ratio = b + math.log(share) - a
    inside = ratio < 0
    return torch.where(inside, a + torch.log(-torch.expm1(torch.where(inside, ratio, -1.0))), -math.inf)


@row_loss("HCL")
def hcl_rows(s: Similarity, *, tau_plus: ShareBelowOne = 0.1, beta: NonNegativeFloat = 1.0) -> Tensor:
    """Hard-negative contrast.

    -log( p / (p + M G) ), G = max( (Q - tau_plus p) / (1 - tau_plus), e^{-1/t} ),
    Q = sum_k w_k e^{s_k}, w_k = e^{beta s_k} / sum_j e^{beta s_j} over the M negatives.

    Source: Robinson et al., ICLR 2021. beta = 0: the debiased loss; tau_plus = 0 too: InfoNCE.

    Args: tau_plus: class prior, the expected share of false negatives; beta: concentration on hard negatives.
    """
    hard, base, m = s.reduce(
        LogSumExp(scale=1 + beta, where=s.negative), LogSumExp(scale=beta, where=s.negative), Count(where=s.negative)
    )
    some = m > 0
    positive = s.paired()
    estimate = log_difference(torch.where(some, hard, 0) - torch.where(some, base, 0), positive, tau_plus)
    log_g = torch.maximum(estimate - math.log1p(-tau_plus), -1 / s.row_temperature().detach())
    return torch.where(some, softplus(torch.where(some, m, 1).log() + log_g - positive), 0)


@row_loss("Debiased")
def debiased_rows(s: Similarity, *, tau_plus: ShareBelowOne = 0.1) -> Tensor:
    """Debiased contrast: `hcl` with beta = 0.

    Source: Chuang et al., NeurIPS 2020.

    Args: tau_plus: class prior, the expected share of false negatives.
    """
    return hcl_rows(s, tau_plus=tau_plus, beta=0.0)


@row_loss("Hard")
def hard_rows(s: Similarity, *, alpha: PositiveShare = 0.1) -> Tensor:
    """InfoNCE over the hardest share of the negatives.

    Those at least as similar as the m-th of all blocks; m = alpha M rounded, at least 1, of each row's own M
    negatives. Ties are kept; one threshold a row, a constant in the gradient. In [0, inf), at most InfoNCE.
    Source: Wang and Liu, CVPR 2021, sec. 4.3.

    Args: alpha: the share that is kept.
    """
    return s.reduce(CrossEntropy(where=hardest(s, alpha)))


def hardest(s: Similarity, alpha: float) -> Relation:
    """Each row's m = max(1, round(alpha M)) most similar negatives over all blocks, ties kept."""
    total = s.reduce(Count(where=s.negative)).detach()
    m = (alpha * total + 0.5).floor().long().clamp(min=1)
    return s.negative & at_least(s.threshold(m, where=s.negative, block=None))


def nearest(s: Similarity, k: int, where: Relation) -> Tensor:
    """The k largest similarities of each row among those of `where` over all blocks, (N, k), with gradient.

    In falling order; -inf where a row has fewer, and fewer columns where there are not k candidates at all. NaN in the
    row of a query that is not finite, which is near to nothing."""
    values, exact = [], []
    for block in range(len(s.blocks)):
        value, columns = s.topk(k, where=where, block=block)
        some = columns >= 0
        if bool(some.any()):
            values.append(value)
            exact.append(torch.where(some, s.at(columns.clamp(min=0), block), -math.inf))
    if not values:
        few = s.query.sum(-1, keepdim=True)
        return few[..., :0] if bool(s.query.isfinite().all()) else few.float() * math.nan
    broken = ~s.query.isfinite().all(-1, keepdim=True)
    return torch.cat(exact, -1).gather(-1, torch.cat(values, -1).topk(k, -1).indices).masked_fill(broken, math.nan)


@row_loss("Nearest")
def nearest_rows(s: Similarity, *, top_k: PositiveInt = 10) -> Tensor:
    """InfoNCE over each row's most similar negatives alone.

    softplus( logsumexp(the K largest negatives) - s_positive ). In [0, inf), at most InfoNCE. Unlike `hard_rows` it
    keeps a number and not a share of them. Source: the control of GroCo, ICCV 2023.

    Args: top_k: K; how many negatives are kept.
    """
    far = nearest(s, top_k, s.negative)
    some = (far != -math.inf).any(-1)
    return torch.where(some, softplus(torch.where(some[..., None], far, 0).logsumexp(-1) - s.paired()), 0)


@row_loss("GroCo", tempered=False, several=True)
def groco_rows(s: Similarity, *, top_k: PositiveInt = 10, steepness: PositiveFloat = 1.0) -> Tensor:
    """Positives rank before each row's most similar negatives, by a differentiable sorting network.

    `group_ordering` of the K largest negatives and all positives of the row. `s` needs temperature 1. In [0, inf), with
    cosines and steepness 1 never near 0. Source: GroCo, ICCV 2023, sec. 3.

    Args: top_k: K; how many negatives are kept; steepness: beta; how hard the swaps of the network are.
    """
    positives = s.positive & s.visible & ~s.itself
    most = int(s.reduce(Count(where=positives)).max()) if s.shape[-2] else 0
    far, good = nearest(s, top_k, s.negative), nearest(s, max(1, most), positives)
    return group_ordering(far, good, steepness)


def in_order(s: Similarity) -> Tensor:
    """Which rows have every positive before every negative, bool (N,), without gradient."""
    positives = s.positive & s.visible & ~s.itself
    with torch.no_grad():
        worst, best = s.reduce(Min(where=positives), Max(where=s.negative))
        return worst > best


@row_loss("Simple", bounded_below=False, tempered=False)
def simple_rows(s: Similarity, *, weight: NonNegativeFloat | None = None, alpha: PositiveShare | None = None) -> Tensor:
    """Positive minus the mean of the negatives, without a softmax (and so without a temperature).

    -s_ii + weight sum_j s_ij over the negatives, or over the share alpha of the hardest. `s` needs temperature 1.
    In [-2, 2] under cosine with weight None, 0 at collapse. Source: Wang and Liu, CVPR 2021, sec. 3.3 and 4.3.

    Args: weight: lambda, of the sum of the negatives (none: 1 over their number); alpha: only the hardest share.
    """
    kept = s.negative if alpha is None else hardest(s, alpha)
    far = s.reduce(Mean(where=kept)) if weight is None else weight * s.reduce(Sum(where=kept))
    return far - s.paired()


def relative_penalty(s: Similarity) -> Tensor:
    """r_ij = |dL_i/ds_ij| / |dL_i/ds_ii| = softmax over the negatives of s_i, 0 elsewhere: independent of the positive.

    The whole matrix, for small cases and teaching; rows without a negative are 0.
    """
    negative = s.mask(s.negative)
    return torch.softmax(s.dense().masked_fill(~negative, -torch.inf), -1).nan_to_num(0.0)


def entropy_rows(s: Similarity) -> Tensor:
    """H_i = -sum_j r_ij log r_ij of the relative penalty r_i = softmax of the negatives' similarities.

    How many negatives share the push: from 0 (the nearest alone) to log M (all alike); it rises with the temperature.
    Source: Wang and Liu, CVPR 2021, sec. 3.2 (r) and 3.3.
    """
    total, mean = s.reduce(LogSumExp(where=s.negative), SoftmaxMean(where=s.negative))
    return torch.where(total > -math.inf, total - mean, 0)


def siglip_rows(s: Similarity, bias: Tensor | float = 0.0) -> Tensor:
    """sum_j softplus( -y_ij (s_ij + b) ), y = 1 for the positive and -1 else (SigLIP, sec. 3.2)."""
    shift = torch.as_tensor(bias, dtype=s.query.dtype, device=s.query.device).expand(s.query.shape[:-1])
    others = s.reduce(Sum(phi=_sigmoid_loss, per_row=shift, where=s.negative))
    return others + softplus(-(s.paired() + shift))


def _sigmoid_loss(s: Tensor, bias: Tensor) -> Tensor:
    return softplus(s + bias)


def triplet_rows(s: Similarity, *, margin: float = 0.2, mining: str = "hard") -> Tensor:
    """max(0, s_negative - s_positive + margin), s at temperature 1.

    mining "hard": least similar positive and most similar negative of the batch (Hermans et al. 2017);
    "semi-hard": the most similar negative that is still farther than the positive (FaceNet), else the hardest.
    """
    if mining not in ("hard", "semi-hard"):
        raise InputError(f"mining must be 'hard' or 'semi-hard'. Got '{mining}'.")
    positives = s.positive & s.visible & ~s.itself
    positive, negative = s.reduce(Min(where=positives), Max(where=s.negative))
    if mining == "semi-hard":
        semi = s.reduce(Max(where=s.negative, below=positive.detach()))
        negative = torch.where(semi > -math.inf, semi, negative)
    valid = positive.isfinite() & negative.isfinite()
    gap = torch.where(valid, negative, 0) - torch.where(valid, positive, 0) + margin
    return torch.where(valid, gap.clamp(min=0), 0)


def weighted_rows(s: Similarity, weight: Relation) -> Tensor:
    """-sum_j w_ij / (sum_k w_ik) log softmax_j(s_i.): every candidate is a positive to its weight's degree."""
    everyone_else, mean = s.reduce(
        LogSumExp(where=s.visible & ~s.itself), Mean(where=s.visible & ~s.itself, weight=weight)
    )
    return everyone_else - mean


def repulsion_rows(s: Similarity, *, tau: float, detach: bool = False) -> Tensor:
    """sum_j v_ij D_ij, v = softmax_j(-tau D_ij) over the negatives, D = 2 - 2 s the squared distance (CACR).

    `s` needs temperature 1 and cosine. tau = 0: uniform weights. Rows without a negative give 0.
    """
    mean, count = s.reduce(SoftmaxMean(scale=2 * tau, where=s.negative, detach=detach), Count(where=s.negative))
    return torch.where(count > 0, 2 - 2 * mean, 0)


def rbf_repulsion_rows(s: Similarity, *, tau: float, t: float = 2.0, detach: bool = False) -> Tensor:
    """log sum_j v_ij e^{-t D_ij} with the v and D of `repulsion_rows`; -inf for rows without a negative (CACR).

    The log of the batch mean of its exponential is `s.log_mean_exp(rows)`: with tau = 0 the loss of uniformity.
    """
    near, base = s.reduce(LogSumExp(scale=2 * (tau + t), where=s.negative), LogSumExp(scale=2 * tau, where=s.negative))
    some = base > -math.inf
    near, base = torch.where(some, near, 0), torch.where(some, base, 0)
    if detach:  # d/dD of the log with constant weights is -t times the same softmax
        share = t / (tau + t)
        near, base = near * share + (near * (1 - share)).detach(), base.detach()
    return torch.where(some, near - base - 2 * t, -math.inf)


@row_loss("CACR", bounded_below=False, tempered=False)
def cacr_rows(
    s: Similarity,
    *,
    alpha: NonNegativeFloat = 1.0,
    beta: NonNegativeFloat = 1.0,
    tau_neg: NonNegativeFloat = 2.0,
    detach: bool = False,
) -> Tensor:
    """Attraction and repulsion with one positive: the nearer a negative, the more it is pushed; no temperature.

    alpha ||z - z+||^2 - beta sum_j v_ij D_ij. `s` needs temperature 1 and cosine. In [-4 beta, 4 alpha], 0 at collapse.

    Args: alpha: of the attraction; beta: of the repulsion; tau_neg: how sharply near negatives count more (0: all
        alike); detach: the weights are constants in the gradient.
    """
    return alpha * (2 - 2 * s.paired()) - beta * repulsion_rows(s, tau=tau_neg, detach=detach)
