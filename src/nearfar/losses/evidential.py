"""Evidence for classes as Dirichlet opinions, their fusion, and the loss that they are learned by.

    e >= 0 (n, C), alpha = e + 1, S = sum alpha:   belief b = e / S, uncertainty u = C / S, probability p = alpha / S
    fusion (reduced Dempster rule), k = sum over i != j of b_i b'_j:
        b = (b b' + b u' + b' u) / (1 - k),  u = u u' / (1 - k)      which in evidence is      e + e' + e e' / C
    loss = digamma(S) - digamma(alpha_y) + min(1, t / T) KL( Dir(alpha with 1 at y) || Dir(1) )

Sources: Sensoy et al., NeurIPS 2018; Han et al. (TMC), ICLR 2021, its code; used by CREST (arXiv 2404.09640).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.checks import NonNegativeInt, PositiveInt, UnitInterval, check, one_of
from nearfar.errors import InputError
from nearfar.similarity import accumulated

Evidence = Literal["softplus", "exp"]
Fusion = Literal["dempster", "sum", "mean"]
MOST = 10.0  # of a logit whose exponential is taken, in size
LARGE = 1e4  # from here on the series of `_apart` is as exact as double precision


class Opinion(NamedTuple):
    """belief (n, C) >= 0 and uncertainty (n,) in (0, 1], which sum to 1; probability (n, C) of each class."""

    belief: Tensor
    uncertainty: Tensor
    probability: Tensor


def evidence(logits: Float[Tensor, "n c"], kind: str = "softplus") -> Float[Tensor, "n c"]:
    """e >= 0 of each class in single precision at least: log(1 + exp(o)), or exp of o held within -10 and 10."""
    one_of("evidence", kind, get_args(Evidence))
    wide = accumulated(logits)
    return F.softplus(wide) if kind == "softplus" else wide.clamp(-MOST, MOST).exp()


def opinion(found: Float[Tensor, "n c"]) -> Opinion:
    """b = e / S, u = C / S and p = (e + 1) / S, S = sum (e + 1). u depends on C: opinions on different classes do not
    compare."""
    wide = accumulated(found)
    total = wide.sum(1, keepdim=True) + wide.shape[1]
    return Opinion(wide / total, wide.shape[1] / total[:, 0], (wide + 1) / total)


def fused_evidence(a: Float[Tensor, "n c"], b: Float[Tensor, "n c"], fusion: str = "dempster") -> Float[Tensor, "n c"]:
    """The evidence of two opinions on the same classes as one.

    dempster: the reduced rule of Dempster, e + e' + e e' / C: nothing is divided by 1 - k, so opinions in total
    conflict need no clamp. Symmetric, without evidence in one the other, never less sure than either. sum: e + e', the
    product of the two densities; mean: (e + e') / 2."""
    one_of("fusion", fusion, get_args(Fusion))
    if a.shape != b.shape:
        raise InputError(f"Both opinions must be on the same classes. Got {tuple(a.shape)} and {tuple(b.shape)}.")
    a, b = accumulated(a), accumulated(b)
    if fusion == "mean":
        return (a + b) / 2
    return a + b if fusion == "sum" else a + b + a * (b / a.shape[1])


def conflict(a: Float[Tensor, "n c"], b: Float[Tensor, "n c"]) -> Float[Tensor, "n"]:
    """k = sum over i != j of b_i b'_j in [0, 1) of two evidences: the belief that the opinions give to different
    classes."""
    first, second = opinion(a).belief, opinion(b).belief
    return (first.sum(1) * second.sum(1) - (first * second).sum(1)).clamp(min=0)


def _apart(x: Tensor) -> Tensor:
    """lgamma(x) - (x - 1) digamma(x) + x for x >= 1, which grows as log(x) / 2; by a series where the three terms would
    cancel."""
    small = x.clamp(max=LARGE)
    exact = small.lgamma() - (small - 1) * small.digamma() + small
    large = x.clamp(min=LARGE)
    series = large.log() / 2 + (math.log(2 * math.pi) + 1) / 2 - 1 / (3 * large) - 1 / (12 * large.square())
    return torch.where(x < LARGE, exact, series)


def dirichlet_kl(alpha: Float[Tensor, "n c"]) -> Float[Tensor, "n"]:
    """KL( Dir(alpha) || Dir(1) ) of alpha >= 1, in nats, >= 0; 0 for ones alone.

    = lgamma(S) - sum lgamma(alpha) - lgamma(C) + sum (alpha - 1)(digamma(alpha) - digamma(S)), in double precision and
    rearranged, so that large evidence does not cancel."""
    wide = alpha if alpha.device.type == "mps" else alpha.double()
    total, classes = wide.sum(1), wide.shape[1]
    found = _apart(total) - _apart(wide).sum(1) + (classes - 1) * total.digamma() - math.lgamma(classes)
    return found.to(accumulated(alpha).dtype)


def annealing(epoch: NonNegativeInt, epochs: PositiveInt = 10) -> float:
    """min(1, t / T): how far the divergence counts in epoch t, the first being 1."""
    return min(1.0, epoch / epochs)


def evidential_rows(
    found: Float[Tensor, "n c"], target: Int[Tensor, "n"], weight: UnitInterval = 1.0
) -> Float[Tensor, "n"]:
    """digamma(S) - digamma(alpha_y) + weight * KL( Dir(alpha~) || Dir(1) ) of each row, >= 0; alpha~ = alpha, 1 at y.

    The expected cross-entropy of an opinion, which evidence for the true class brings to 0, and what evidence for wrong
    classes costs. found: evidence >= 0; weight: `annealing`. 0 with a single class."""
    check("weight", weight, UnitInterval, "argument")
    alpha = accumulated(found) + 1
    own = torch.zeros_like(alpha, dtype=torch.bool).scatter(1, target[:, None], True)
    wide = alpha if alpha.device.type == "mps" else alpha.double()
    missed = (wide.sum(1).digamma() - wide[own].digamma()).to(alpha.dtype)
    return missed + weight * dirichlet_kl(torch.where(own, 1, alpha))


class PathTerms(NamedTuple):
    """rows: the loss (n,) of each path's opinion and, of two, of both fused; of_path: the uncertainty (n,) of each;
    uncertainty (n,): of both fused; conflict (n,): of two paths, else None."""

    rows: list[Tensor]
    of_path: list[Tensor]
    uncertainty: Tensor
    conflict: Tensor | None


def path_terms(
    logits: Sequence[Float[Tensor, "n c"]],
    target: Int[Tensor, "n"],
    weight: UnitInterval = 1.0,
    *,
    kind: str = "softplus",
    fusion: str = "dempster",
) -> PathTerms:
    """`evidential_rows` of the scores of one path or two on the same classes, and of the evidence of both together.

    kind: of `evidence`; fusion: of `fused_evidence`; weight: `annealing`. Gradients flow through the uncertainties of
    the paths, not through those of both."""
    found = [evidence(x, kind) for x in logits]
    fused = [fused_evidence(found[0], found[1], fusion)] if len(found) == 2 else []
    return PathTerms(
        [evidential_rows(e, target, weight) for e in [*found, *fused]],
        [opinion(e).uncertainty for e in found],
        opinion([*found, *fused][-1].detach()).uncertainty,
        conflict(found[0].detach(), found[1].detach()) if fused else None,
    )


__all__ = [
    "Evidence",
    "Fusion",
    "Opinion",
    "PathTerms",
    "annealing",
    "conflict",
    "dirichlet_kl",
    "evidence",
    "evidential_rows",
    "fused_evidence",
    "opinion",
    "path_terms",
]
