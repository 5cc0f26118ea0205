"""Distillation of pair scores: labels of pairs, and the scores that a cross-encoder gave them, of one prediction.

Source: DSE (arXiv 1908.05161) and its official code. Predictions p are (n, outputs): one output for a binary label (a
logit) and for a number, a logit of each class otherwise.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nearfar.checks import one_of
from nearfar.errors import InputError
from nearfar.similarity import accumulated
from nearfar.similarity.exchange import exchange

Judgement = Literal["binary", "number", "classes"]


def outputs_of(judgement: str, classes: int) -> int:
    """How many outputs a prediction has."""
    return classes if judgement == "classes" else 1


def pair_label_rows(
    p: Float[Tensor, "n outputs"], labels: Float[Tensor, "n"], judgement: Judgement = "binary"
) -> Float[Tensor, "n"]:
    """What the prediction of each pair costs beside its label: cross-entropy with logits of a binary label (0 or 1) or
    of a class (0 .. outputs - 1), the squared difference of a number. NaN where the label is (missing), and where the
    prediction is. Computed in float32 at least.

    Raises InputError for other shapes, and for a label that is no 0 or 1, or none of the classes.
    """
    one_of("judgement", judgement, ("binary", "number", "classes"))
    if p.dim() != 2 or labels.shape != p.shape[:1] or (judgement != "classes" and p.shape[1] != 1):
        raise InputError(f"Predictions must be (n, outputs), one output but for classes, and labels (n,). Got "
                         f"{tuple(p.shape)} and {tuple(labels.shape)} of kind '{judgement}'.")  # fmt: skip
    p, known = accumulated(p), ~labels.isnan()
    y = labels.where(known, torch.zeros_like(labels))
    if judgement == "number":
        rows = (p[:, 0] - y.to(p.dtype)).square()
    else:
        _check_codes(y, p.shape[1] if judgement == "classes" else 2)
        if judgement == "classes":
            rows = F.cross_entropy(p, y.long(), reduction="none")
        else:
            rows = F.binary_cross_entropy_with_logits(p[:, 0], y.to(p.dtype), reduction="none")
    return rows.where(known, torch.full_like(rows, float("nan")))


def _check_codes(y: Tensor, classes: int) -> None:
    wrong = y[(y != y.round()) | (y < 0) | (y >= classes)]
    if len(wrong):
        raise InputError(f"Labels must be whole numbers from 0 to {classes - 1}, or NaN. Got {float(wrong[0]):g}.")


def distillation_rows(p: Float[Tensor, "n outputs"], teacher: Float[Tensor, "n outputs"]) -> Float[Tensor, "n"]:
    """sum over outputs k of (p_ik - t_ik)^2: raw scores, no temperature, no softmax; NaN where the teacher's is, and
    where the prediction is. Computed in float32 at least.

    Raises InputError unless both have one shape: (n,) beside (n, 1) would compare every pair with every other.
    """
    if p.dim() != 2 or p.shape != teacher.shape:
        raise InputError("Predictions and the teacher's scores must have one shape, (n, outputs). "
                         f"Got {tuple(p.shape)} and {tuple(teacher.shape)}.")  # fmt: skip
    p, known = accumulated(p), _scored(teacher)
    rows = (p - teacher.to(p.dtype).where(known[:, None], p.detach())).square().sum(1)
    return rows.where(known, torch.full_like(rows, float("nan")))


def _scored(teacher: Tensor) -> Tensor:
    return ~teacher.isnan().any(1)


def mean_of_known(rows: Float[Tensor, "n"], known: Bool[Tensor, "n"], *, negatives: str = "local") -> Float[Tensor, ""]:
    """The mean of the rows of which something is known; 0, with a gradient of 0, where of none. A known row that is NaN
    makes it NaN: what has diverged is no missing label. negatives: "global" counts the rows of all processes."""
    return exchange(negatives).mean(rows[known])


def label_term(
    p: Float[Tensor, "n outputs"],
    labels: Float[Tensor, "n"],
    judgement: Judgement = "binary",
    *,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """The mean of `pair_label_rows` over the pairs that have a label."""
    return mean_of_known(pair_label_rows(p, labels, judgement), ~labels.isnan(), negatives=negatives)


def distillation_term(
    p: Float[Tensor, "n outputs"], teacher: Float[Tensor, "n outputs"], *, negatives: str = "local"
) -> Float[Tensor, ""]:
    """The mean of `distillation_rows` over the pairs that have a teacher's score."""
    rows = distillation_rows(p, teacher)
    return mean_of_known(rows, _scored(teacher), negatives=negatives)


def dse(
    p: Float[Tensor, "n outputs"],
    labels: Float[Tensor, "n"],
    teacher: Float[Tensor, "n outputs"] | None = None,
    *,
    alpha: float = 0.5,
    judgement: Judgement = "binary",
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """(1 - alpha) times the mean of `pair_label_rows` plus alpha times the mean of `distillation_rows`, each over the
    pairs that have a label, or a teacher's score.

    In [0, inf). alpha 0: labels alone, no teacher is needed; 1: the teacher alone. Raises InputError for an alpha
    outside [0, 1], and for other shapes.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha must lie in [0, 1]. Got {alpha:g} instead.")
    if alpha == 0:
        return label_term(p, labels, judgement, negatives=negatives)
    if teacher is None:
        raise InputError(f"alpha = {alpha:g} needs the teacher's scores.", "Give them, or alpha = 0.")
    distilled = distillation_term(p, teacher, negatives=negatives)
    if alpha == 1:
        return distilled
    return (1 - alpha) * label_term(p, labels, judgement, negatives=negatives) + alpha * distilled


def symmetric_kl(
    a: Float[Tensor, "n classes"], b: Float[Tensor, "n classes"], *, negatives: str = "local"
) -> Float[Tensor, ""]:
    """The mean over rows of [KL(p || q) + KL(q || p)] / 2, p and q the softmax of the logits a and b.

    In [0, inf), 0 for logits that differ by a constant of each row. Computed in float32 at least. Raises InputError for
    other shapes. Source: R-Drop, NeurIPS 2021, eq. 2."""
    if a.dim() != 2 or a.shape != b.shape:
        raise InputError(f"Both logits must be (n, classes) alike. Got {tuple(a.shape)} and {tuple(b.shape)}.")
    p, q = (F.log_softmax(accumulated(x), 1) for x in (a, b))
    return exchange(negatives).mean(((p.exp() - q.exp()) * (p - q)).sum(1) / 2)


def r_drop(
    a: Float[Tensor, "n classes"],
    b: Float[Tensor, "n classes"],
    labels: Int[Tensor, "n"],
    *,
    weight: float = 5.0,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """The mean cross-entropy of the logits of two passes, and `weight` times their `symmetric_kl`.

    labels: 0 .. classes - 1. In [0, inf). Source: R-Drop, NeurIPS 2021, eq. 4 (there alpha beside the sum of both
    cross-entropies: the weight is half of it); SPACE-2, COLING 2022 (weight 5)."""
    apart = symmetric_kl(a, b, negatives=negatives)
    known = F.cross_entropy(torch.cat([accumulated(a), accumulated(b)]), labels.repeat(2), reduction="none")
    return exchange(negatives).mean(known.view(2, -1).mean(0)) + weight * apart


def margin(logits: Float[Tensor, "n 2"]) -> Float[Tensor, "n 1"]:
    """The logit of label 1 less that of label 0: what a binary teacher of two outputs says, in one number."""
    if logits.dim() != 2 or logits.shape[1] != 2:
        raise InputError(f"A margin is of two logits a pair, (n, 2). Got {tuple(logits.shape)}.")
    return logits[:, 1:] - logits[:, :1]
