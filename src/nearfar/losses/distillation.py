"""Distillation of pair scores: labels of pairs, and the scores that a cross-encoder gave them, of one prediction.

Source: DSE (arXiv 1908.05161) and its official code. Predictions p are (n, outputs): one output for a binary label (a
logit) and for a number, a logit of each class otherwise.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nearfar.checks import one_of
from nearfar.errors import InputError
from nearfar.similarity.exchange import exchange

Judgement = Literal["binary", "number", "classes"]


def outputs_of(judgement: str, classes: int) -> int:
    """How many outputs a prediction has."""
    return classes if judgement == "classes" else 1


def pair_label_rows(
    p: Float[Tensor, "n outputs"], labels: Float[Tensor, "n"], judgement: Judgement = "binary"
) -> Float[Tensor, "n"]:
    """What the prediction of each pair costs beside its label: cross-entropy with logits of a binary label (0 or 1) or
    of a class (0 .. outputs - 1), the squared difference of a number. NaN where the label is (missing).

    Raises InputError for other shapes.
    """
    one_of("judgement", judgement, ("binary", "number", "classes"))
    if p.dim() != 2 or labels.shape != p.shape[:1] or (judgement != "classes" and p.shape[1] != 1):
        raise InputError(f"Predictions must be (n, outputs), one output but for classes, and labels (n,). Got "
                         f"{tuple(p.shape)} and {tuple(labels.shape)} of kind '{judgement}'.")  # fmt: skip
    known = ~labels.isnan()
    y = labels.where(known, torch.zeros_like(labels))
    if judgement == "classes":
        rows = F.cross_entropy(p, y.long(), reduction="none")
    elif judgement == "number":
        rows = (p[:, 0] - y.to(p.dtype)).square()
    else:
        rows = F.binary_cross_entropy_with_logits(p[:, 0], y.to(p.dtype), reduction="none")
    return rows.where(known, torch.full_like(rows, float("nan")))


def distillation_rows(p: Float[Tensor, "n outputs"], teacher: Float[Tensor, "n outputs"]) -> Float[Tensor, "n"]:
    """sum over outputs k of (p_ik - t_ik)^2: raw scores, no temperature, no softmax; NaN where the teacher's is.

    Raises InputError unless both have one shape: (n,) beside (n, 1) would compare every pair with every other.
    """
    if p.dim() != 2 or p.shape != teacher.shape:
        raise InputError("Predictions and the teacher's scores must have one shape, (n, outputs). "
                         f"Got {tuple(p.shape)} and {tuple(teacher.shape)}.")  # fmt: skip
    known = ~teacher.isnan().any(1)
    rows = (p - teacher.to(p.dtype).where(known[:, None], p.detach())).square().sum(1)
    return rows.where(known, torch.full_like(rows, float("nan")))


def mean_of_known(rows: Float[Tensor, "n"], *, negatives: str = "local") -> Float[Tensor, ""]:
    """The mean of the rows that are no NaN; 0, with a gradient of 0, where all are. negatives: "global" counts the rows
    of all processes."""
    net, known = exchange(negatives), rows[~rows.isnan()]
    return net.sum(known.sum()) / max(1, net.count(known))


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

    In [0, inf). alpha 0: labels alone, no teacher is needed; 1: the teacher alone. Raises InputError for other shapes.
    """
    total = p.sum() * 0
    if alpha < 1:
        total = total + (1 - alpha) * mean_of_known(pair_label_rows(p, labels, judgement), negatives=negatives)
    if alpha > 0:
        if teacher is None:
            raise InputError(f"alpha = {alpha:g} needs the teacher's scores.", "Give them, or alpha = 0.")
        total = total + alpha * mean_of_known(distillation_rows(p, teacher), negatives=negatives)
    return total


def margin(logits: Float[Tensor, "n 2"]) -> Float[Tensor, "n 1"]:
    """The logit of label 1 less that of label 0: what a binary teacher of two outputs says, in one number."""
    if logits.dim() != 2 or logits.shape[1] != 2:
        raise InputError(f"A margin is of two logits a pair, (n, 2). Got {tuple(logits.shape)}.")
    return logits[:, 1:] - logits[:, :1]
