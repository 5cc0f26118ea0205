"""TS2Vec: contrast of two overlapping crops at all scales of time (Yue et al., AAAI 2022).

    x --two crops [a1, b1), [a2, b2), a1 <= a2 < b1 <= b2--> encoder, random steps hidden --> z1, z2 of each step
    loss = hierarchical contrast of z1 and z2 on the steps [a2, b1) that both crops have

Where a step lies in its crop, and what stands around it, differs between the crops; the step is the same. What is kept
is the mean of the weights over the training.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nearfar.checks import NonNegativeInt, ShareBelowOne, UnitInterval
from nearfar.encoders import Encoder
from nearfar.losses import hierarchical_contrast
from nearfar.methods import Batch, Loss, Paper, Tower, register
from nearfar.methods.stepwise import Averaged, StepMask, kept_steps, rows_from, stepwise
from nearfar.momentum import Average


def overlapping_crops(steps: int, scales: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """a1 <= a2 < b1 <= b2 within so many steps: two crops [a1, b1) and [a2, b2) that share [a2, b1), which has
    2^(scales + 1) steps at least, where there are as many. Source: TS2Vec, the released code."""

    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator, device=generator.device))

    shared = between(min(2 ** (scales + 1), steps), steps + 1)
    a2 = between(0, steps - shared + 1)
    b1 = a2 + shared
    return between(0, a2 + 1), a2, b1, between(b1, steps + 1)


@register("ts2vec", family="series")
class TS2Vec(Averaged):
    """Steps of series that are the same in two crops, at all scales of time.

    Args:
        alpha: weight of the contrast between series; the rest is that between the steps of a series.
        temporal_from: the first scale with the contrast between steps.
        scales: the crops share 2^(scales + 1) steps at least.
        step_mask: steps that are hidden in training: binomial (each with probability 1/2), continuous (5 runs of a
            tenth of the steps), last (the last step), or none.
        dropout: of the vectors of the steps, in training.
        average: keep the mean of the weights over all steps of the training, the first ones included.
    """

    paper = Paper(
        "TS2Vec: Towards Universal Representation of Time Series",
        "AAAI 2022",
        "The same step of a series in two overlapping crops, contrasted at every scale of time.",
        arxiv="2106.10466",
        differs="a step counts as missing where all of its channels are, not any; the padding of shorter series is "
        "masked in the encoder at every layer, so that a series has the same vectors in any batch; long series are cut "
        "by --series-window; a warm-up of a twentieth of the run (none in the code: --warmup 0); its encoder and batch "
        "are --series-dim 320 --series-depth 10 --batch-size 16; C of the support vector machine is chosen on "
        "validation rows, not by cross-validation",
    )
    needs = (frozenset({"series"}),)
    splits = False
    distributed = False
    preset_paper = {
        "alpha": 0.5,
        "temporal_from": 0,
        "scales": 0,
        "step_mask": "binomial",
        "dropout": 0.1,
        "average": True,
    }
    paper_training = {"optimiser": "adamw", "lr": 1e-3, "weight_decay": 0.01, "schedule": "constant"}

    def __init__(
        self,
        encoder: Encoder,
        *,
        alpha: UnitInterval = 0.5,
        temporal_from: NonNegativeInt = 0,
        scales: NonNegativeInt = 0,
        step_mask: StepMask = "binomial",
        dropout: ShareBelowOne = 0.1,
        average: bool = True,
    ):
        super().__init__()
        self.role, self.tower = encoder.modality, Tower(stepwise(encoder, "ts2vec"))
        self.alpha, self.temporal_from, self.scales = alpha, temporal_from, scales
        self.step_mask: StepMask = step_mask
        self.dropout = nn.Dropout(dropout)
        self.average = Average(self.tower) if average else None

    def make_views(self, batch: Batch) -> dict[str, list]:
        """Two crops, each from another step in each series, and which of their steps are seen; how many they share: the
        last of the first and the first of the second."""
        x, generator = batch.inputs[self.role], batch.generator()
        a1, a2, b1, b2 = overlapping_crops(x.shape[1], self.scales, generator)
        u = torch.rand(len(x), generator=generator, device=generator.device).to(x.device)
        shift = (u * (x.shape[1] - b2 + a1 + 1)).floor().long() - a1
        crops = [rows_from(x, shift + a1, b1 - a1), rows_from(x, shift + a2, b2 - a2)]
        seen = [kept_steps(self.step_mask, len(x), crop.shape[1], generator).to(x.device) for crop in crops]
        return {self.role: [*crops, *seen, torch.full((len(x),), b1 - a2)]}

    def encode(self, batch: Batch) -> dict[str, Any]:
        """steps: z1, z2 of the steps that both crops have, (n, T, d); views: the same, max-pooled over time."""
        first, second, *seen, shared = batch.views[self.role]
        many = int(shared[0])
        keep = seen if self.training else [None, None]
        encoder = self.tower.encoder
        z = [self.dropout(encoder.steps(x, k)) for x, k in zip((first, second), keep, strict=True)]
        z = [z[0][:, -many:], z[1][:, :many]]
        return {"steps": z, "views": [one.amax(1) for one in z]}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        self.monitored = embedded["views"][0].detach()
        a, b = embedded["steps"]
        return Loss(hierarchical_contrast(a, b, alpha=self.alpha, temporal_from=self.temporal_from))
