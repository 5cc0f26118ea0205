"""CACR: contrastive attraction and contrastive repulsion (Zheng et al., TMLR 2023).

    x --K + 1 views--> z^0 .. z^K   attraction: the farther a positive, the more it is pulled
                                    repulsion:  the nearer a negative, the more it is pushed

Both are expectations over a distribution given the anchor, and they share no denominator: a good positive does not
switch the negatives off. The equations are `nearfar.losses.cacr` (in the batch), `cacr_queue` (a queue of past keys)
and `cacr_targets` (the targets of a momentum encoder).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar import heads
from nearfar.checks import NonNegativeFloat, PositiveFloat, PositiveInt, ShareBelowOne, UnitInterval
from nearfar.encoders import Encoder
from nearfar.errors import InputError
from nearfar.losses import cacr, cacr_queue, cacr_targets
from nearfar.losses.parts import CACR
from nearfar.losses.rows import entropy_rows
from nearfar.methods import Batch, Facts, Loss, Paper, ViewContrast, forward_views, register
from nearfar.momentum import momentum_at
from nearfar.negatives import Negatives
from nearfar.similarity import one_way


def weight_entropy(view_a: Float[Tensor, "n d"], view_b: Float[Tensor, "n d"], tau_neg: float) -> Float[Tensor, ""]:
    """Mean entropy of the negatives' weights v = softmax_j(-tau_neg D_ij): log(n - 1) when all count alike."""
    with torch.no_grad():
        s = one_way(view_a, view_b, temperature=1 / (2 * max(tau_neg, 1e-6)), negatives="global").parts[0]
        return s.mean(entropy_rows(s))


FORMS: dict[str, dict[str, Any]] = {
    "batch": {},
    "queue": {"tau_neg": 2.0, "momentum": 0.999, "negatives": {"name": "queue", "size": 65536, "random_start": True},
              "projector": 2048},
    "momentum": {"positives": 1, "temperature": 1.0, "momentum": 0.996, "projector": 4096, "dim": 256},
}  # fmt: skip
"""What the paper sets in each form beside `preset_paper`: CIFAR-10, ImageNet as MoCo-v2, ImageNet as MoCo-v3."""

TRAINING: dict[str, dict[str, Any]] = {
    "batch": {"optimiser": "sgd", "lr": 0.12, "lr_batch": 256, "weight_decay": 1e-4, "decay_all": True},
    "queue": {"optimiser": "sgd", "lr": 0.03, "weight_decay": 1e-4, "decay_all": True},
    "momentum": {"optimiser": "lars", "lr": 0.3, "lr_batch": 256, "weight_decay": 1.5e-6},
}


@register("cacr", family="image")
class ContrastiveAttraction(ViewContrast):
    """Far positives are pulled more, near negatives pushed more, each weighted given the anchor.

    Args:
        form: batch (negatives are the other items' views), queue (and past keys of a teacher, as in MoCo-v2), momentum
            (a predictor against a teacher's targets, as in MoCo-v3).
        positives: K; views beside the anchor. Views are drawn until there are K + 1; more stay. Paper: 4 (1 in form C
            without local crops).
        alpha: of the attraction (forms batch and queue).
        beta: of the repulsion (forms batch and queue).
        tau_pos: how sharply far positives count more; 0: all alike.
        tau_neg: how sharply near negatives count more; 0: all alike. Paper: 0.9 (CIFAR-10), 2 (CIFAR-100, STL-10,
            ImageNet).
        repulsion: euclidean, or rbf: the log of the mean kernel exp(-t D) (batch; in form momentum: its cost, where rbf
            is the paper's).
        t: sharpness of the rbf kernel.
        tau_plus: share of hidden positives taken out of the repulsion (batch). Paper: 0.1 in its debiased form.
        detach_weights: the weights are constants in the gradient (batch; queue and momentum follow the paper's code).
        temperature: T of form momentum. Paper: 1, and 0.2 for ViT.
        momentum: m of the teacher of queue (auto: a rule of queue and batch; paper 0.999) and of momentum (auto: 0.99,
            by cosine to 1; paper 0.996).
        negatives: the queue of form queue. Paper: 65536 keys.
        official: the released code's numbers: the sign of the tau_plus term, the first view's distances to the queue
            for every view, the euclidean cost of form momentum summed over the batch.
    """

    paper = Paper(
        "Contrastive Attraction and Contrastive Repulsion for Representation Learning",
        "TMLR 2023",
        "Pull far positives and push near negatives harder, by two weightings that share no denominator.",
        arxiv="2105.03746",
        differs="the projection head has two layers (one on CIFAR in the paper); cosine instead of steps in the "
        "learning rate; the three slips of the released code only "
        "with --official; one projector hidden width for projector and predictor",
    )
    preset_paper = {
        "positives": 4,
        "alpha": 1.0,
        "beta": 1.0,
        "tau_pos": 1.0,
        "tau_neg": 0.9,
        "temperature": 1.0,
        "dim": 128,
    }
    paper_training = TRAINING["batch"]

    defaults = {"temperature": 1.0}
    fixed = ("learn_temperature", "loss")
    only_with = {"temperature": {"form": ("momentum",)}, "momentum": {"form": ("queue", "momentum")},
                 "alpha": {"form": ("batch", "queue")}, "beta": {"form": ("batch", "queue")},
                 "tau_plus": {"form": ("batch",)}, "detach_weights": {"form": ("batch",)}}  # fmt: skip
    follows = {"momentum": "temperature", "negatives": "momentum", "official": "negatives"}

    def __init__(
        self,
        encoder: Encoder,
        *,
        form: Literal["batch", "queue", "momentum"] = "batch",
        positives: PositiveInt = 4,
        alpha: NonNegativeFloat = 1.0,
        beta: NonNegativeFloat = 1.0,
        tau_pos: NonNegativeFloat = 1.0,
        tau_neg: NonNegativeFloat = 2.0,
        repulsion: Literal["auto", "euclidean", "rbf"] = "auto",
        t: PositiveFloat = 2.0,
        tau_plus: ShareBelowOne = 0.0,
        detach_weights: bool = False,
        momentum: UnitInterval | Literal["auto"] = "auto",
        negatives: Negatives | Literal["auto"] | None = "auto",
        official: bool = False,
        **shared: Any,
    ):
        if form != "queue" and isinstance(negatives, Negatives):
            raise InputError(f"The form '{form}' of CACR has no further negatives.", "Use --form queue.")
        if negatives == "auto":
            negatives = self.default_part("negatives", form=form)
        super().__init__(
            encoder,
            loss=CACR(alpha, beta, tau_neg, detach_weights),
            negatives=negatives,
            momentum=None if form == "batch" else momentum,
            **shared,
        )
        self.predictor = heads.predictor(self.dim, shared["projector"] or self.dim) if form == "momentum" else None
        self.form, self.positives, self.official = form, positives, official
        self.taus = {"tau_pos": tau_pos, "tau_neg": tau_neg, "alpha": alpha, "beta": beta}
        self.repulsion = repulsion if repulsion != "auto" else "rbf" if form == "momentum" else "euclidean"
        self.further = {"t": t, "tau_plus": tau_plus, "detach": detach_weights}

    @classmethod
    def parts(cls, chosen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        return {"negatives": {"name": "queue", "in_batch": True}} if chosen["form"] == "queue" else {}

    @classmethod
    def paper_preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**cls.preset_paper, **FORMS[given.get("form", "batch")]}

    @classmethod
    def training_preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return TRAINING[given.get("form", "batch")]

    def resolve(self, facts: Facts) -> dict[str, Any]:
        given = self.momentum
        found = super().resolve(facts)
        if self.form == "momentum" and given == "auto":
            self.momentum = found["momentum"] = 0.99
        return found

    def make_views(self, batch: Batch) -> dict[str, list]:
        generator, made = batch.generator(), []
        while len(made) < self.positives + 1:
            made += self.plan(batch.inputs[self.role], generator)
        return {self.role: made if self.plan.count > self.positives + 1 else made[: self.positives + 1]}

    def encode(self, batch: Batch) -> dict[str, Any]:
        z = forward_views(self.tower, batch.views[self.role])
        return {"views": z if self.predictor is None else [self.predictor(v) for v in z]}

    def before_targets(self, batch: Batch) -> None:
        if self.teacher is not None:
            assert isinstance(self.momentum, float)
            schedule = "cosine" if self.form == "momentum" else "constant"
            self.teacher.follow(self.tower, momentum_at(batch.step, batch.steps, self.momentum, schedule=schedule))

    def targets(self, batch: Batch) -> dict[str, Any]:
        if self.teacher is None:
            return {}
        views = batch.views[self.role]
        return {"targets": forward_views(self.teacher, views if self.form == "queue" else views[: self.plan.targets])}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        z = embedded["views"]
        self.monitored = z[0].detach()
        place = {
            "negatives": "global",
            "excluded": batch.excluded() if self.mask_duplicates else None,
            "official": self.official,
        }
        if self.form == "batch":
            total = cacr(z, repulsion=self.repulsion, **self.taus, **self.further, **place)
        elif self.form == "queue":
            total = cacr_queue(
                z, embedded["targets"], self.extra_candidates(batch), in_batch=self.in_batch, **self.taus, **place
            )
        else:
            total = cacr_targets(
                z, embedded["targets"], temperature=float(self.temperature()), cost=self.repulsion, **place
            )
        terms: dict[str, Tensor | float] = {}
        if self.logged(batch):
            terms["weight_entropy"] = weight_entropy(z[0], z[1], self.taus["tau_neg"])
            if self.mask_duplicates:
                terms["masked"] = batch.masked_share()
        return Loss(total, terms)
