"""Losses of episodes, in which the vectors of a few classes are told apart (SuSana Distancia, arXiv 2305.09062).

    D(a, b) = sqrt(|a - b|^2 + 1e-6);    p_c = the mean of the support of class c
    proto_cross_entropy    cross-entropy of -|z - p_c|^2 / T over the classes c
    proto_triplet          max(D(z, p_own) - D(z, the nearest wrong p) + margin, 0)
    icnn                   -log Score; Score is high where the k nearest of a point are of its class and near, and
                           those of other classes far

All are Euclidean: vectors are taken as they are, not brought to unit length.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from nearfar.errors import InputError
from nearfar.similarity import accumulated, check_temperature
from nearfar.similarity.answer.numerics import full_precision

NEAR = 1e-6  # added to squared distances: a point is 0.001 from itself
EPS = 1e-7


def proto_cross_entropy(
    z: Float[Tensor, "n d"],
    labels: Int[Tensor, "n"],
    prototypes: Float[Tensor, "c d"],
    *,
    temperature: float | Tensor = 1.0,
) -> Float[Tensor, ""]:
    """The mean over queries z of the cross-entropy of -|z - p_c|^2 / temperature; labels: the row of the own prototype.

    In [0, inf); log c where all distances are equal, 0 with one class. Raises InputError: other shapes, labels that are
    no row, a temperature that is not above 0. Source: Snell et al., NeurIPS 2017; term "cross" of SuSana.
    """
    check_temperature(temperature)
    _check(z, labels, prototypes)
    with full_precision(z.device):
        return cross_entropy(-_plain(z, prototypes).square() / temperature, labels)


def proto_triplet(
    z: Float[Tensor, "n d"], labels: Int[Tensor, "n"], prototypes: Float[Tensor, "c d"], *, margin: float = 0.5
) -> Float[Tensor, ""]:
    """The mean over queries z of max(D(z, own prototype) - D(z, nearest wrong prototype) + margin, 0).

    In [0, inf); 0 where every query is nearer to its own prototype by the margin, and with one class; the margin at
    collapse. Raises InputError: other shapes, labels that are no row, a negative margin. Source: SuSana Distancia,
    Proto-Triplet loss (paper: margin 0.5).
    """
    if not margin >= 0:
        raise InputError(f"The margin must be in [0, inf). Got {margin}.")
    _check(z, labels, prototypes)
    with full_precision(z.device):
        far = distances(z, prototypes)
        own = torch.arange(len(prototypes), device=z.device) == labels[:, None]
        wrong = far.masked_fill(own, math.inf).amin(1)
        return (far[own] - wrong + margin).relu().mean()


def icnn(
    origin: Float[Tensor, "n d"],
    labels: Int[Tensor, "n"],
    target: Float[Tensor, "m d"] | None = None,
    target_labels: Int[Tensor, "m"] | None = None,
    *,
    neighbours: int = 4,
    retrieved: int | None = None,
    drop_nearest: bool = False,
) -> Float[Tensor, ""]:
    """-log of `icnn_score`, with its arguments. In [0, inf); 0 for tight classes far from each other.

    Source: SuSana Distancia, ICNN loss.
    """
    score = icnn_score(origin, labels, target, target_labels, neighbours=neighbours, retrieved=retrieved,
                       drop_nearest=drop_nearest)  # fmt: skip
    return -score.clamp(min=torch.finfo(score.dtype).tiny).log()


def icnn_score(
    origin: Float[Tensor, "n d"],
    labels: Int[Tensor, "n"],
    target: Float[Tensor, "m d"] | None = None,
    target_labels: Int[Tensor, "m"] | None = None,
    *,
    neighbours: int = 4,
    retrieved: int | None = None,
    drop_nearest: bool = False,
) -> Float[Tensor, ""]:
    """How well the neighbourhoods of points agree with their classes: ((same + other) / 2 + share) / 2, in [0, 1].

    Of the R nearest targets of each point, the k nearest count. same: 1 less their mean distance where they are of the
    point's class, in units of its nearest of another class; other: their mean distance where they are not, in units of
    the farthest of all these; share: how many are of its class (a count, without gradient; 1 where there are hardly
    more targets than k). Up to rounding nothing changes where all vectors are turned, moved or scaled together.

    Args: target: where neighbours are looked for; None: among the points themselves, of which none is its own
    neighbour. neighbours: k; at most m - 2. retrieved: R; None: k + 1. drop_nearest: leave out the nearest target of
    every point, as the released code does.
    Raises InputError: other shapes, k or R below 1. Source: SuSana Distancia; the score of its released loss.
    """
    alone = target is None
    target, known = (origin, labels) if target is None else (target, target_labels)
    _check_neighbours(origin, labels, target, known, neighbours, retrieved)
    assert known is not None
    with full_precision(origin.device):
        m = len(target)
        few = neighbours + 2 >= m
        k = max(0, m - 2) if few else neighbours
        count = min(k + 1 if retrieved is None else retrieved, m - (alone or drop_nearest))
        k = min(k, count)
        if not len(origin) or k < 1:
            return 1 + 0 * (accumulated(origin).sum() + accumulated(target).sum())
        near, match = _nearest(origin, labels, target, known, count, alone, drop_nearest)
        same, other = _same(near, match, k), _other(near[:, :k], match[:, :k])
        share = near.new_ones(()) if few else match[:, :k].to(near.dtype).mean()
        return ((same + other) / 2 + share) / 2


def distances(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """D = sqrt(|a_i - b_j|^2 + 1e-6); 0.001 between equal points, where its gradient is 0. Source: SuSana Distancia."""
    return (_plain(a, b).square() + NEAR).sqrt()


def _plain(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(accumulated(a), accumulated(b), compute_mode="donot_use_mm_for_euclid_dist")


def _nearest(
    origin: Tensor, labels: Tensor, target: Tensor, known: Tensor, count: int, alone: bool, drop: bool
) -> tuple[Tensor, Tensor]:
    """Distances (n, count) to the nearest targets, in order, and which are of the point's class."""
    far = distances(origin, target)
    if alone:
        far = far.masked_fill(torch.eye(len(far), dtype=torch.bool, device=far.device), math.inf)
    first = int(drop and not alone)
    near, place = far.sort(dim=1, stable=True)
    chosen = slice(first, first + count)
    return near[:, chosen], known[place[:, chosen]] == labels[:, None]


def _same(near: Tensor, match: Tensor, k: int) -> Tensor:
    """1 less the mean distance of neighbours of the own class, in units of the nearest of another class."""
    wrong = near.masked_fill(match, math.inf).amin(1, keepdim=True)
    found = wrong.isfinite()
    h = torch.where(found, near[:, :k] / (torch.where(found, wrong, 1) + EPS), 0)
    h = h / h.amax(1, keepdim=True).clamp(min=1)
    hits = match[:, :k].sum(1).to(near.dtype)
    means = (h * match[:, :k]).sum(1) / (hits + EPS)
    return 1 - means.sum() / ((hits > 0).sum().to(near.dtype) + EPS)


def _other(near: Tensor, match: Tensor) -> Tensor:
    """The mean distance of neighbours of other classes, in units of the farthest; 1 without any."""
    misses = (~match).sum(1).to(near.dtype)
    some = misses.sum() > 0
    farthest = torch.where(some, near.masked_fill(match, -math.inf).amax(), 1)
    means = (near / (farthest + EPS)).masked_fill(match, 0).sum(1) / (misses + EPS)
    return torch.where(some, means.sum() / ((misses > 0).sum().to(near.dtype) + EPS), 1)


def _check(z: Tensor, labels: Tensor, prototypes: Tensor) -> None:
    if z.dim() != 2 or prototypes.dim() != 2 or labels.shape != z.shape[:1] or z.shape[1] != prototypes.shape[1]:
        raise InputError("Queries must be (n, D), labels (n,) and prototypes (c, D). "
                         f"Got {tuple(z.shape)}, {tuple(labels.shape)} and {tuple(prototypes.shape)}.")  # fmt: skip
    if not len(z) or not bool(((labels >= 0) & (labels < len(prototypes))).all()):
        raise InputError(f"Each of one or more queries needs a label from 0 to {len(prototypes) - 1}: the row of its "
                         "prototype.", "Count the classes of the episode anew.")  # fmt: skip


def _check_neighbours(
    origin: Tensor, labels: Tensor, target: Tensor, known: Tensor | None, k: int, count: int | None
) -> None:
    fits = origin.dim() == target.dim() == 2 and origin.shape[1] == target.shape[1]
    if not fits or labels.shape != origin.shape[:1] or known is None or known.shape != target.shape[:1]:
        raise InputError("Points must be (n, D) with labels (n,), targets (m, D) with labels (m,). Got "
                         f"{tuple(origin.shape)}, {tuple(labels.shape)}, {tuple(target.shape)} and "
                         f"{None if known is None else tuple(known.shape)}.")  # fmt: skip
    if k < 1 or (count is not None and count < 1):
        raise InputError(f"Neighbours are counted from 1. Got {k} that count and {count} that are retrieved.")


__all__ = ["icnn", "icnn_score", "proto_cross_entropy", "proto_triplet"]
