"""Understanding the behaviour of contrastive loss: temperature and hard negatives (Wang and Liu, CVPR 2021).

    x --two views--> a, b --encoder--> h --projector--> f(x), g(x)
    s_ij = f(x_i).g(x_j);   only negatives in [s_alpha, 1] count, s_alpha the upper alpha quantile of each anchor

The softmax of InfoNCE weights negatives by hardness, and the temperature says how sharply: too small, and neighbours of
one class are torn apart; too large, and nothing is told apart. Keeping the hard negatives alone frees the loss from its
temperature, and rescues even the simple loss, which has none. The equations are `nearfar.losses.hard_contrastive` and
`nearfar.losses.simple`; `relative_penalty` and `entropy_rows` (of `nearfar.losses.rows`) are the paper's measures of
hardness, uniformity and tolerance are among the numbers of `nearfar diagnose`.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, Literal

import torch

from nearfar.checks import NonNegativeFloat, PositiveShare
from nearfar.encoders import Encoder
from nearfar.losses.parts import Hard, InfoNCE, RowLoss, Simple
from nearfar.losses.rows import entropy_rows
from nearfar.methods import Batch, Loss, Paper, ViewContrast, against_targets, register
from nearfar.similarity import Layout, both_ways, one_way


@register("contrastive-behaviour", family="image")
class HardContrast(ViewContrast):
    """Only each anchor's hardest negatives count; the curve shows `penalty_entropy`, how many share the push.

    Args:
        form: ordinary (InfoNCE over the cross-view negatives), simple (no softmax), hard, hard-simple (the hardest
            alone).
        temperature: tau; of the variants with a softmax. Paper: 0.07, 0.3, 0.7, 1.0.
        alpha: share of the negatives that count as hard. Paper: 0.0819, the 4095 nearest of 50,000.
        weight: lambda of the simple variants (none: 1 over the number of negatives that count).
        symmetric: both views are anchors, each direction with its own thresholds.
        last_norm: batch norm after the projection head: hard losses do not leave a narrow cone by themselves.
    """

    paper = Paper(
        "Understanding the Behaviour of Contrastive Loss",
        "CVPR 2021",
        "The temperature decides how hard the hardest negatives are pushed; keeping only those frees the loss of it.",
        arxiv="2012.09740",
        differs="no code was released; negatives are in the batch (or in --negatives queue) in place of a bank of all "
        "data",
    )
    preset_paper = {"temperature": 0.3, "alpha": 0.0819, "dim": 128}

    defaults = {"temperature": 0.3}
    fixed = ("learn_temperature", "loss")
    follows = {"alpha": "temperature", "last_norm": "dim"}

    def __init__(
        self,
        encoder: Encoder,
        *,
        form: Literal["ordinary", "simple", "hard", "hard-simple"] = "hard",
        alpha: PositiveShare = 0.1,
        weight: NonNegativeFloat | None = None,
        symmetric: bool = True,
        last_norm: bool = True,
        **shared: Any,
    ):
        super().__init__(encoder, loss=row_loss(form, alpha, weight), last_norm=last_norm, **shared)
        self.symmetric = symmetric

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        z, options = embedded["views"], self.layout_options(batch)
        if self.teacher is not None:
            queries = z if self.symmetric else z[:1]
            layout = against_targets(queries, embedded["targets"], self.in_batch, options)
        elif self.symmetric:
            back = options["extra_candidates"]
            both = [both_ways(a, b, extra_candidates_back=back, **options) for a, b in combinations(z, 2)]
            layout = both[0] if len(both) == 1 else Layout([part for made in both for part in made.parts])
        else:
            layout = Layout([part for b in z[1:] for part in one_way(z[0], b, **options).parts])
        loss = self.report(layout, z[0], batch)
        if self.row_loss.tempered and self.logged(batch):
            with torch.no_grad():
                loss.terms["penalty_entropy"] = entropy_rows(layout.parts[0]).mean()
        return loss


def row_loss(variant: str, alpha: float, weight: float | None) -> RowLoss:
    """The loss of each of the paper's four variants."""
    if variant == "ordinary":
        return InfoNCE()
    return Hard(alpha) if variant == "hard" else Simple(weight, alpha if variant == "hard-simple" else None)
