"""AutoTCL: parametric augmentation for time series contrastive learning (Zheng et al., ICLR 2024).

    e = a(x);  h = mask of Linear(e), in [0, 1];  g = sigmoid(Linear(e));  v = g * h * x     (x in deviations)
    augmenter: MMD(f(x), f(v)) + reg_weight * relu(mean h - threshold) + regular_weight * consistency of h
    encoder:   InfoNCE(f(x), f(v)) over the batch + local_weight * contrast of runs within f(x)

Both are updated in turn: the augmenter through the encoder as it is used (no step hidden), then the encoder with random
steps hidden in x and in v. What is kept is the mean of the encoder's weights over the training.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from nearfar.checks import MOST, NonNegativeFloat, PositiveFloat, PositiveInt, Range, ShareBelowOne, Width
from nearfar.encoders import Encoder
from nearfar.encoders.series import SeriesEncoder, inside, pooled
from nearfar.losses import (
    feature_mmd,
    info_nce,
    kept_excess,
    relaxed_mask,
    segment_contrast,
    step_consistency,
)
from nearfar.methods import Batch, Loss, Paper, Phase, Tower, register
from nearfar.methods.stepwise import Averaged, StepMask, kept_steps, stepwise
from nearfar.momentum import Average


class Augmenter(nn.Module):
    """Of each value how likely it is kept, and by how much it is scaled, both in (0, 1)."""

    def __init__(self, encoder: SeriesEncoder, dim: int, width: int, depth: int):
        super().__init__()
        channels = len(encoder.channels)
        self.backbone = SeriesEncoder(encoder.channels, dim, width, depth, encoder.scales)
        self.keep, self.scale = nn.Linear(dim, channels), nn.Linear(dim, channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Series in deviations (n, T, C) -> the logit of keeping and the factor, (n, T, C)."""
        e = self.backbone.steps(x)
        return self.keep(e), torch.sigmoid(self.scale(e))


@register("autotcl", family="series")
class AutoTCL(Averaged):
    """A series and a view of it that a network learns: what tells is kept and rescaled, the rest is dropped.

    Args:
        temperature: t; divides the cosine of series.
        local_weight: of the contrast of runs within a series (paper: 3e-4 to 0.3).
        segments: k; runs of that contrast.
        local_series: all series of the batch, or the first, as the released code has it.
        step_mask: steps that are hidden from the encoder in training: binomial, continuous, last or none.
        objective: of the augmenter: pri (principle of relevant information), adversarial (the encoder's loss,
            negative), or none: there is no augmenter and the view is the series itself.
        reg_weight: of what is kept beyond the threshold (paper: 0.003 to 0.1, with --double-sigmoid, whose mask cannot
            open fully; without it, less than the divergence weighs, about 7 at first, leaves a mask of 1 everywhere).
        threshold: of the share that is kept, summed over channels.
        regular_weight: of the temporal consistency of the mask (paper: 0 to 3e-4).
        consistency: near (steps beside each other are alike, far ones unlike), or released (the other way about).
        gumbel_bias: b; the less, the more noise in the mask, 0.5 for none (paper: 6e-4 to 0.05).
        gamma_zeta: by how much the mask is stretched below 0 (paper: 0.02 to 0.5).
        hard: the mask is 0 or 1, with the gradient of the soft one.
        double_sigmoid: the probability of keeping itself is the logit of the mask, as in the released code, so that a
            mask is never closed without noise.
        aug_dim: D_a; width of the augmenter's vectors.
        aug_width: width of its convolutions.
        aug_depth: how often their distance doubles.
        meta_lr: learning rate of the augmenter.
        ratio_step: the augmenter takes part in every step whose number it divides.
        average: keep the mean of the weights over all steps, the first ones included.
    """

    paper = Paper(
        "Parametric Augmentation for Time Series Contrastive Learning",
        "ICLR 2024",
        "A network learns which parts of a series a view keeps, and how it scales them.",
        arxiv="2402.10434",
        differs="the local contrast takes all series of the batch, cut to the shortest, and the consistency keeps "
        "neighbouring steps alike, where the released code does not (--local-series first, --consistency released); "
        "the mask's logit is the network's and not its sigmoid (--double-sigmoid, which --preset paper has), so what"
        " is kept beyond the threshold weighs 10: with the paper's 0.1 such a mask is 1 everywhere after a dozen "
        "steps; as in the paper it is summed over channels, so that the mask of six keeps 7 % of the values before "
        "that weighs, by --threshold 0.4, and 40 % by --threshold 2.4 (in the check of the claim the mask of six "
        "closes; the other threshold was not measured there); options of the released code that do nothing (depth, "
        "dropout, bias_init, mask_mode, aug_depth) are left out or work; --preset paper has the numbers of ETTh1, "
        "the descriptions those of other data; the run ends by --steps, where the code stops after 4,000 iterations;"
        " test data are measured once, at the end; a missing value stays missing in the view; a warm-up of a "
        "twentieth of the run (none in the code: --warmup 0); its encoder is --series-dim 320 --series-depth 10 "
        "--series-scales 8, its windows and batches of ETTh1 are --series-window 257 --batch-size 32; C of the "
        "support vector machine is chosen on validation rows, not by cross-validation",
    )
    needs = (frozenset({"series"}),)
    splits = False
    distributed = False
    preset_paper = {"temperature": 1.0, "local_weight": 0.3, "segments": 16, "step_mask": "binomial",
                    "reg_weight": 0.003, "threshold": 0.4,
                    "regular_weight": 0.0, "gumbel_bias": 0.05, "gamma_zeta": 0.05, "hard": True,
                    "double_sigmoid": True, "aug_dim": 16,
                    "aug_depth": 3, "meta_lr": 0.01, "ratio_step": 1, "average": True}  # fmt: skip
    paper_training = {"optimiser": "adamw", "lr": 3e-5, "weight_decay": 0.01, "schedule": "constant"}
    only_with = {"reg_weight": {"objective": ("pri",)}, "threshold": {"objective": ("pri",)},
                 "regular_weight": {"objective": ("pri",)}, "consistency": {"objective": ("pri",)}}  # fmt: skip

    def __init__(
        self,
        encoder: Encoder,
        *,
        temperature: PositiveFloat = 1.0,
        local_weight: NonNegativeFloat = 0.1,
        segments: Annotated[int, Range(4, MOST)] = 16,
        local_series: Literal["all", "first"] = "all",
        step_mask: StepMask = "binomial",
        objective: Literal["pri", "adversarial", "none"] = "pri",
        reg_weight: NonNegativeFloat = 10.0,
        threshold: NonNegativeFloat = 0.4,
        regular_weight: NonNegativeFloat = 0.0,
        consistency: Literal["near", "released"] = "near",
        gumbel_bias: Annotated[float, Range(0, 0.5)] = 0.05,
        gamma_zeta: ShareBelowOne = 0.05,
        hard: bool = False,
        double_sigmoid: bool = False,
        aug_dim: Width = 16,
        aug_width: Width = 64,
        aug_depth: PositiveInt = 3,
        meta_lr: PositiveFloat = 0.01,
        ratio_step: PositiveInt = 1,
        average: bool = True,
    ):
        super().__init__()
        inner = stepwise(encoder, "autotcl")
        self.role, self.tower = encoder.modality, Tower(inner)
        self.augmenter = None if objective == "none" else Augmenter(inner, aug_dim, aug_width, aug_depth)
        self.tau, self.local, self.objective = temperature, local_weight, objective
        self.step_mask: StepMask = step_mask
        self.segments, self.first_only = segments, local_series == "first"
        self.weights, self.threshold, self.released = (reg_weight, regular_weight), threshold, consistency == "released"
        self.noise = {"bias": gumbel_bias, "stretch": gamma_zeta, "hard": hard}
        self.double_sigmoid, self.meta_lr, self.ratio_step = double_sigmoid, meta_lr, ratio_step
        self.average = Average(self.tower) if average else None

    def phases(self) -> list[Phase]:
        encoder = Phase("encoder", [self.tower], self.encoder_loss, main=True)
        if self.augmenter is None:
            return [encoder]
        learned = [self.augmenter]
        return [Phase("augmenter", learned, self.augmenter_loss, every=self.ratio_step, lr=self.meta_lr), encoder]

    def make_views(self, batch: Batch) -> dict[str, list]:
        """The series, which steps of x and of v are seen, the noise of the mask in both phases, pairs of steps (n, 2)
        and, between 0 and 1 (n,), where the runs begin."""
        x, g = batch.inputs[self.role], batch.generator()
        n, steps = x.shape[:2]
        seen = [kept_steps(self.step_mask, n, steps, g) for _ in range(2)]
        noise = [torch.rand(x.shape, generator=g, device=g.device) for _ in range(2)]
        pairs = torch.randint(1, max(2, steps - 2), (n, 2), generator=g, device=g.device)
        start = torch.rand(n, generator=g, device=g.device)
        return {self.role: [x, *(one.to(x.device) for one in (*seen, *noise, pairs, start))]}

    def view(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Series as they stand -> v as it would stand, the mask m and the probability of keeping w."""
        assert self.augmenter is not None
        encoder: Any = self.tower.encoder
        values = encoder.scaled(x)
        logit, g = self.augmenter(values.masked_fill(x.isnan(), torch.nan))
        w = torch.sigmoid(logit)
        m = relaxed_mask(w if self.double_sigmoid else logit, u if self.training else None, **self.noise)
        v = (g * m * values * encoder.std + encoder.mean).masked_fill(x.isnan(), torch.nan)
        return v, m, w

    def pooled(self, x: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """The vectors of steps (n, T, d) and of series (n, d), the largest values over the steps."""
        z = self.tower.encoder.steps(x, keep if self.training else None)
        return z, pooled(z, inside(x), "max")

    def augmenter_loss(self, batch: Batch) -> Loss:
        """Through the encoder as it is used."""
        x, _, _, u, _, pairs, _ = batch.views[self.role]
        v, m, w = self.view(x, u)
        (_, z_x), (_, z_v) = self.pooled(x, None), self.pooled(v, None)
        known, mask = inside(x), m.detach()
        there = known[..., None].to(w.dtype)
        share = there.mean().clamp(min=1e-6)
        apart = (mask - pooled(mask, known, "mean")[:, None]).square() * there
        spread = apart.sum(1) / (there.sum(1) - 1).clamp(min=1)
        shown: dict[str, Tensor | float] = {"kept": (mask * there).mean() / share, "kept_spread": spread.mean()}
        if self.objective == "adversarial":
            return Loss(-info_nce(z_x, z_v, temperature=self.tau), shown)
        near = feature_mmd(z_x, z_v)
        total = near + self.weights[0] * kept_excess(w * there / share, self.threshold)
        if self.weights[1] > 0 and x.shape[1] > 3:
            total = total + self.weights[1] * step_consistency(w, *pairs.T, released=self.released)
        return Loss(total, shown | {"mmd": near.detach()})

    def encoder_loss(self, batch: Batch) -> Loss:
        x, keep_x, keep_v, _, u, _, start = batch.views[self.role]
        v = x if self.augmenter is None else self.view(x, u)[0]
        steps, z_x = self.pooled(x, keep_x)
        z_v = self.pooled(v, keep_v)[1]
        self.monitored = z_x.detach()
        alike = info_nce(z_x, z_v, temperature=self.tau)
        if not self.local:
            return Loss(alike)
        shortest = int(inside(x).sum(1).min())
        left = shortest - shortest // self.segments * self.segments
        place = min(left, int(start[0] * (left + 1)))
        local = segment_contrast(steps[:, :shortest], place, segments=self.segments, first_only=self.first_only)
        return Loss(alike + self.local * local, {"contrast": alike.detach(), "local": local.detach()})
