"""MCL: multistage contrastive learning against feature suppression (Zhang et al., ECCV 2024).

    stage 0: any contrast --> f_0
    stage s: clusters c^{s-1} of f_{s-1}(x_i), i = 1..N;   p_i = (c^0_i, ..., c^{s-1}_i)
             the same contrast with negatives of equal p alone, fresh weights --> f_s
    z(x) = [f_0(x); f_1(x); ...; f_S(x)] / || . ||

One run of contrast solves its task by the easiest features and ignores the rest. Where all negatives agree with the
anchor in those features, they tell nothing apart any longer, and the next stage must learn others; the stages side by
side keep both. Works over every loss, negatives and views (`--loss dcl --negatives mixing`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nearfar import processes
from nearfar.checks import PositiveInt
from nearfar.clustering import k_means
from nearfar.encoders import Encoder, Frozen, Joined
from nearfar.errors import InputError
from nearfar.methods import Batch, Facts, Loss, Paper, Staged, Tower, ViewContrast, register
from nearfar.momentum import Teacher
from nearfar.samplers import InTurn, Sampler
from nearfar.similarity import Layout, normalise


def joint_labels(clusters: Int[np.ndarray, "s n"], k: int, how: str = "all") -> Int[np.ndarray, "n"]:
    """p_i = sum_t c^t_i K^{s-1-t}: equal where the clusters of all s stages are equal.

    how: "all"; or "last": what the released script computes, which reads the newest stage's file for every stage, so
    that p = c^{s-1} (1 + K + K^2 + ...) and the last stage alone counts.
    Raises InputError: an unknown `how`, or K^s beyond 64-bit integers.
    """
    if how not in ("all", "last"):
        raise InputError(f"joint_labels must be all or last. Got {how}.")
    if k ** len(clusters) >= 1 << 62:
        raise InputError(f"{k} clusters in {len(clusters)} stages give more labels than can be counted.")
    p = np.zeros(clusters.shape[1], np.int64)
    for c in clusters:
        p = p * k + (c if how == "all" else clusters[-1])
    return p


def auto_clusters(facts: Facts, stages: int, batches: bool) -> int:
    """10 (the paper); fewer, at least 2, so that K^S groups hold two batches each (or a batch four items of each)."""
    room = facts.items / (2 * facts.batch_size) if batches else facts.batch_size / 4
    return max(2, min(10, int(room ** (1 / stages))))


def concatenated(outputs: Sequence[Float[Tensor, "n d"]]) -> Float[Tensor, "n sd"]:
    """The raw outputs of all stages side by side, with one normalisation of the whole: a stage with longer vectors
    weighs more in the cosine."""
    return normalise(torch.cat(list(outputs), 1))


@register("mcl", family="image")
class MCL(Staged, ViewContrast):
    """Contrast in stages, each with negatives from the clusters of the earlier ones; the stages' vectors side by side.

    Args:
        stages: S; stages after the first. The steps are divided evenly among the 1 + S stages.
        clusters: K; of the features of each stage. auto: the paper's 10, fewer where the groups of the last stage
            would not fill two batches on average (form batch), or a batch not hold four of each (form mask).
        form: batch draws each batch from a single group and leaves the loss as it is (as released); mask draws mixed
            batches and hides the other groups.
        joint_labels: all joins the clusters of all earlier stages; last counts the newest alone, as the released
            script does by mistake.
        stage_weights: fresh starts each stage from new random (or the pretrained) weights; continue goes on from the
            last.
        temperature: tau; divides the cosine.

    Groups smaller than a batch are not seen in a stage (form batch); their share is told and stands in the curve
    (`dropped`). Negatives' shares of the run (`--negatives.start`) are shares of each stage. Raises InputError: counts
    below 1, fewer steps than stages, a frozen encoder, which cannot change between stages.
    """

    paper = Paper(
        "Learning the Unlearned: Mitigating Feature Suppression in Contrastive Learning",
        "ECCV 2024",
        "Train in stages whose negatives agree in all that earlier stages learned, and keep every stage's features.",
        arxiv="2402.11816",
        differs="the labels of all stages are joined, as the paper says (joint_labels=last: as the released script "
        "does); all processes draw from one permutation",
    )
    preset_paper = {"stages": 3, "clusters": 10}
    paper_training = {
        "optimiser": "adamw",
        "lr": 5e-4,
        "betas": (0.9, 0.98),
        "eps": 1e-6,
        "weight_decay": 0.2,
        "schedule": "constant",
    }
    labels: Tensor
    stage: Tensor

    defaults = {"temperature": 0.2}

    def __init__(
        self,
        encoder: Encoder,
        *,
        stages: PositiveInt = 1,
        clusters: PositiveInt | Literal["auto"] = "auto",
        form: Literal["batch", "mask"] = "batch",
        joint_labels: Literal["all", "last"] = "all",
        stage_weights: Literal["fresh", "continue"] = "fresh",
        **shared: Any,
    ):
        if isinstance(encoder, Frozen):
            raise InputError("A frozen encoder is the same in every stage.", "Leave out --freeze.")
        super().__init__(encoder, **shared)
        self.stages, self.wanted, self.stage_weights = stages, clusters, stage_weights
        self.clusters = 10 if clusters == "auto" else clusters
        self.by_batch, self.joined = form == "batch", joint_labels
        self.past = nn.ModuleList(copy.deepcopy(encoder).requires_grad_(False) for _ in range(stages))
        self.first_tau = self.tau.log_tau.detach().clone()
        self.register_buffer("labels", torch.empty(stages, 0, dtype=torch.long))
        self.register_buffer("stage", torch.zeros((), dtype=torch.long))

    def resolve(self, facts: Facts) -> dict[str, Any]:
        if facts.steps <= self.stages:
            raise InputError(f"{facts.steps} steps are too few for {1 + self.stages} stages.", "Use more --steps.")
        self.labels = torch.full((self.stages, facts.samples), -1, dtype=torch.long)
        if self.wanted == "auto":
            self.clusters = auto_clusters(facts, self.stages, self.by_batch)
        return super().resolve(facts) | {"clusters": self.clusters, "steps_a_stage": self.within(0)[1]}

    def stage_starts(self) -> Sequence[int]:
        return [s * self.facts.steps // (self.stages + 1) for s in range(self.stages + 1)]

    def begin_stage(self, stage: int) -> None:
        """Clusters the present encoder's features, keeps the encoder, and begins anew."""
        features = self.survey.features(Tower(self.tower.encoder)).cpu().numpy()
        found = k_means(features, min(self.clusters, len(features)), seed=self.seed + stage)
        self.labels[stage - 1] = processes.broadcast(torch.from_numpy(found)).to(self.labels.device)
        self.past[stage - 1].load_state_dict(self.tower.encoder.state_dict())
        self.stage.fill_(stage)
        if self.stage_weights == "fresh":
            self.start_over(self.survey.fresh(self.seed + 1000 * stage))
        if self.negatives is not None:
            self.negatives.reset()
        self.survey.tell(self.account(stage))

    @torch.no_grad()
    def start_over(self, encoder: Encoder) -> None:
        """The weights of a new encoder, a new head, the first temperature; the teacher follows from there."""
        self.tower.encoder.load_state_dict(encoder.state_dict())
        for module in self.tower.head.modules() if self.tower.head is not None else ():
            begin: Any = getattr(module, "reset_parameters", None)
            if begin is not None:
                begin()
        self.tau.log_tau.copy_(self.first_tau.to(self.tau.log_tau.device))
        if isinstance(self.teacher, Teacher):
            self.teacher.module.load_state_dict(self.tower.state_dict())

    def negative_groups(self) -> np.ndarray | None:
        stage = int(self.stage)
        if stage == 0:
            return None
        return joint_labels(self.labels[:stage].cpu().numpy(), self.clusters, self.joined)

    def sampler(self, stage: int) -> Sampler:
        negative_groups, base = self.negative_groups(), super().sampler(stage)
        return (
            base
            if negative_groups is None or not self.by_batch
            else InTurn(negative_groups, base.members).within(negative_groups)
        )

    def account(self, stage: int) -> str:
        """What a stage begins with, in a sentence."""
        negative_groups = self.negative_groups()
        sizes = np.unique(negative_groups, return_counts=True)[1] if negative_groups is not None else np.zeros(0, int)
        line = f"stage {stage}: {len(sizes)} groups of {sizes.min()} to {sizes.max()} items"
        return line + (f"; {self.dropped():.0%} of the items are in no full batch" if self.by_batch else "")

    def dropped(self) -> float:
        """The share of the rows that no batch of an epoch of this stage holds."""
        negative_groups = self.negative_groups()
        if negative_groups is None or not self.by_batch:
            return 0.0
        sizes, batch = np.unique(negative_groups, return_counts=True)[1], self.facts.batch_size
        return float(1 - (sizes // batch * batch).sum() / sizes.sum())

    def report(self, layout: Layout, z: Tensor, batch: Batch) -> Loss:
        loss = super().report(layout, z, batch)
        if self.logged(batch):
            loss.terms |= {"stage": float(self.stage), "dropped": self.dropped()}
        return loss

    def towers(self) -> dict[str, Tower]:
        kept: list[Any] = [*list(self.past)[: int(self.stage)], self.tower.encoder]
        return {self.role: Tower(Joined(kept)) if len(kept) > 1 else self.tower}
