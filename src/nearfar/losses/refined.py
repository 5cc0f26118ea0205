"""Sentences among entailments and contradictions, without those that a frozen encoder takes for false negatives
(MultiCSR, NAACL 2024).

A = [ cos(z0_i, z1_j) | cos(z0_i, z2_j) ] / T        S = [ cos(m0_i, m1_j) | cos(m0_i, m2_j) ]        n x 2n
K_ij = 0 where S_ij > phi, else 1; the own positive K_ii of the left block is always 1
intended: L = -mean_i log [ e^A_ii / sum over K_ij = 1 of e^A_ij ]
released: P = softmax of the rows of A * K;   L = -mean_ij [ Y_ij log P_ij + (1 - Y_ij) log(1 - P_ij) ],   Y = [I | 0]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from nearfar.errors import InputError
from nearfar.losses.rows import info_nce_rows
from nearfar.similarity import Anchors, ExtraCandidates, Layout, Similarity, nearer, normalise, one_way
from nearfar.similarity.answer.numerics import full_precision


def hide_similar(frozen: Sequence[Tensor], phi: float) -> Callable[[Anchors], ExtraCandidates]:
    """What hides positives and hard negatives from the anchors to which a frozen encoder finds them similar.

    frozen: its vectors of anchors, positives and hard negatives, (n, d) each; no gradient reaches them."""
    anchor, keys = normalise(frozen[0].detach()), normalise(torch.cat(list(frozen[1:])).detach())

    def extra_candidates(anchors: Anchors) -> ExtraCandidates:
        return ExtraCandidates(excluded=nearer(anchor[anchors.items], anchors.net.gather(keys)[0], phi))

    return extra_candidates


def triplet_layout(
    vectors: Sequence[Tensor], frozen: Sequence[Tensor] | None = None, *, phi: float = 0.95, **options: Any
) -> Layout:
    """Each anchor against all positives and all hard negatives, (n, 2n); without `frozen` nothing is hidden.

    vectors: of anchors, positives and hard negatives, (n, d) each. options: of `one_way`. Raises InputError for other
    shapes, and for a phi that is no number."""
    _check_sides("vectors", vectors, len(vectors[0]))
    if frozen is not None:
        _check_sides("frozen vectors", frozen, len(vectors[0]))
    if not math.isfinite(phi):
        raise InputError(f"phi is a cosine. Got {phi}.", "A phi of 1 hides nothing.")
    hidden = () if frozen is None else hide_similar(frozen, phi)
    return one_way(vectors[0], torch.cat(list(vectors[1:])), extra_candidates=hidden, **options)


def _check_sides(what: str, sides: Sequence[Tensor], n: int) -> None:
    shapes = [tuple(x.shape) for x in sides]
    if len(shapes) != 3 or len(set(shapes)) != 1 or sides[0].dim() != 2 or len(sides[0]) != n:
        raise InputError(f"The {what} of anchors, positives and negatives must be three of ({n}, d) alike. Got "
                         f"{', '.join(map(str, shapes))}.")  # fmt: skip


def similarity_mask(
    anchor: Float[Tensor, "n d"],
    positive: Float[Tensor, "n d"],
    negative: Float[Tensor, "n d"],
    *,
    phi: float = 0.95,
) -> Bool[Tensor, "n 2n"]:
    """K as a whole matrix, to look at: False where the cosine of the frozen vectors is above phi, but for the own
    positives. phi >= 1: all True. Source: MultiCSR, stage 3; the released constant 20 phi is phi / T at T = 0.05."""
    s = triplet_layout((anchor, positive, negative), (anchor, positive, negative), phi=phi).parts[0]
    return s.mask(s.visible)


def released_rows(s: Similarity) -> Tensor:
    """Binary cross-entropy over the softmax, the mean over the columns of each row, (N,): hidden entries get the logit
    0 and stay in the denominator. Logarithms are at least -100. In [0, inf), 0 only where all weight is on the
    positive."""
    with full_precision(s.query.device):
        logits = torch.where(s.mask(s.visible), s.dense(), 0.0)
        target = s.mask(s.positive).to(logits.dtype)
        return binary_cross_entropy(logits.softmax(1), target, reduction="none").mean(1)


def multicsr(
    anchor: Float[Tensor, "n d"],
    positive: Float[Tensor, "n d"],
    negative: Float[Tensor, "n d"],
    frozen: Sequence[Float[Tensor, "n r"]] | None = None,
    *,
    phi: float = 0.95,
    temperature: float | Tensor = 0.05,
    official: bool = False,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """InfoNCE of anchors among the positives and hard negatives of all, without what a frozen encoder finds similar.

    frozen: its vectors of the same three texts; None: nothing is hidden (SimCSE with hard negatives). A candidate is
    hidden where their cosine is above phi; the own positive never is, the own hard negative may be. official: the
    released loss (`released_rows`) in place of InfoNCE. No gradient reaches `frozen`. Range [0, inf); log(2n) at
    collapse (official: (log 2n - (2n - 1) log(1 - 1/2n)) / 2n), 0 of a row whose negatives are all hidden. Raises
    InputError for shapes that do not fit.
    Source: MultiCSR, NAACL 2024, stage 3."""
    options = {"temperature": temperature, "negatives": negatives}
    layout = triplet_layout((anchor, positive, negative), frozen, phi=phi, **options)
    return layout.loss(released_rows if official else info_nce_rows)


__all__ = ["hide_similar", "multicsr", "released_rows", "similarity_mask", "triplet_layout"]
