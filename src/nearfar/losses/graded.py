"""Losses of pairs with a score: how far the two sides of a pair belong together, instead of whether they do."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import InputError
from nearfar.similarity import check_temperature, normalise
from nearfar.similarity.exchange import Exchange, exchange


def cosine_regression(
    a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], score: Float[Tensor, "n"], *, negatives: str = "local"
) -> Float[Tensor, ""]:
    """The mean of (cos(a_i, b_i) - score_i)^2; scores are cosines, -1..1.

    In [0, 4] for such scores; 0 where every cosine is its score. Raises InputError for other shapes and scores that are
    no finite numbers. Source: Reimers and Gurevych, EMNLP 2019, sec. 3 (regression objective).
    """
    net = exchange(negatives)
    cosine, score = _cosines(a, b, score, net)
    return net.mean((cosine - score).square())


def cosent(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "n d"],
    score: Float[Tensor, "n"],
    *,
    temperature: float | Tensor = 0.05,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """log(1 + sum over score_i > score_j of e^{(cos_j - cos_i) / t}): every pair of a higher score should be the nearer
    one. Only the order of the scores counts; equal ones are not compared.

    In [0, inf); 0 where no two scores differ; log(1 + the number of unequal pairs) at collapse. O(n log n). Raises
    InputError as `cosine_regression`. Source: CoSENT, Su 2022 (kexue.fm/archives/8847).
    """
    check_temperature(temperature)
    net = exchange(negatives)
    cosine, score = _cosines(a, b, score, net)
    cosine, score = net.gather(cosine)[0], net.gather(score)[0]
    score, order = score.sort()
    s = cosine[order] / temperature
    lower = torch.searchsorted(score, score)  # how many have a lower score
    above = lower > 0
    terms = s.logcumsumexp(0)[lower[above] - 1] - s[above]
    return torch.cat([s.new_zeros(1) + 0 * s.sum(), terms]).logsumexp(0)


def _cosines(a: Tensor, b: Tensor, score: Tensor, net: Exchange) -> tuple[Tensor, Tensor]:
    """The cosine of each pair, and its score in the same type."""
    with net.together():
        if a.dim() != 2 or a.shape != b.shape or score.shape != a.shape[:1]:
            raise InputError(
                "The two sides must be (n, D) and scores (n,). "
                f"Got {tuple(a.shape)}, {tuple(b.shape)} and {tuple(score.shape)}."
            )
        if not bool(score.isfinite().all()):
            raise InputError("A score must be a finite number.", "Leave such pairs out.")
    net.widths(a, b)
    cosine = (normalise(a) * normalise(b)).sum(-1)
    return cosine, score.to(cosine.dtype)
