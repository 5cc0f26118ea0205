"""Contrast in stages, each with negatives from the clusters of the earlier ones (MCL, arXiv 2402.11816), over views
and over pairs alike."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nearfar import processes
from nearfar.checks import PositiveInt
from nearfar.clustering import k_means
from nearfar.encoders import Encoder, Frozen, Joined
from nearfar.encoders.base import load_tower
from nearfar.errors import InputError
from nearfar.methods.base import Loss
from nearfar.methods.batch import Batch, Facts
from nearfar.methods.staged import Staged
from nearfar.methods.tower import Tower
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


class Multistage(Staged):
    """`class MCL(Multistage, ViewContrast)`: stages over any contrast.

    Args:
        stages: S; stages after the first. The steps are divided evenly among the 1 + S stages, or among S where the
            first is given.
        clusters: K; of the features of each stage. auto: the paper's 10, fewer where the groups of the last stage
            would not fill two batches on average (form batch), or a batch not hold four of each (form mask).
        form: batch draws each batch from a single group and leaves the loss as it is (as released); mask draws mixed
            batches and hides the other groups.
        joint_labels: all joins the clusters of all earlier stages; last counts the newest alone, as the released
            script does by mistake.
        stage_weights: fresh starts each stage from new random (or the given) weights; continue goes on from the last.
        first: stage 0: train; given, the pretrained encoder as it is; or the folder of a nearfar model with such
            encoders, whose towers are stage 0 and the start of every later one.

    Groups smaller than a batch are not seen in a stage (form batch); their share is told and stands in the curve
    (`dropped`). Negatives' shares of the run (`--negatives.start`) are shares of each stage. Raises InputError: counts
    below 1, fewer steps than stages, a frozen encoder, which cannot change between stages, a first stage that is given
    without trained weights, a folder that does not fit.
    """

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

    def __init__(
        self,
        encoder: Encoder,
        encoder_b: Encoder | None = None,
        *,
        stages: PositiveInt = 1,
        clusters: PositiveInt | Literal["auto"] = "auto",
        form: Literal["batch", "mask"] = "batch",
        joint_labels: Literal["all", "last"] = "all",
        stage_weights: Literal["fresh", "continue"] = "fresh",
        first: str = "train",
        **shared: Any,
    ):
        both = [e for e in (encoder, encoder_b) if e is not None]
        if any(isinstance(e, Frozen) for e in both):
            raise InputError("A frozen encoder is the same in every stage.", "Leave out --freeze.")
        super().__init__(*both, **shared)  # pyright: ignore[reportCallIssue]
        self.stages, self.wanted, self.stage_weights, self.first = stages, clusters, stage_weights, first
        self.clusters = 10 if clusters == "auto" else clusters
        self.by_batch, self.joined = form == "batch", joint_labels
        self._check_first(both)
        self.past = nn.ModuleList(nn.ModuleList(map(_kept, self.staged())) for _ in range(stages))
        self.register_buffer("labels", torch.empty(stages, 0, dtype=torch.long))
        self.register_buffer("stage", torch.zeros((), dtype=torch.long))

    def staged(self) -> list[Tower]:
        """The towers that each stage trains anew and keeps; the vectors of the first are clustered."""
        raise TypeError(f"{type(self).__name__} does not say which towers have stages")

    def _check_first(self, both: Iterable[Encoder]) -> None:
        if self.first == "given" and not all(e.pretrained for e in both):
            raise InputError("The first stage is given, but the encoder has random weights.", "Name pretrained ones "
                             "(--weights, --text-encoder), or the folder of a model: --first FOLDER.")  # fmt: skip
        if self.first == "given" and any(t.kept and t.head is not None for t in self.staged()):
            raise InputError("The first stage is given, but the heads over its encoders are new.",
                             "Use --head none, or name the folder of a model with heads: --first FOLDER.")  # fmt: skip

    @property
    def given(self) -> int:
        """1 where stage 0 is not trained."""
        return int(self.first != "train")

    def columns(self, roles: Any) -> None:
        super().columns(roles)
        if self.given:
            self._load_first()

    def _load_first(self) -> None:
        """The weights of the folder's towers (of `given`, none) into those that are staged."""
        if self.first == "given":
            return
        for role, tower in zip(self.reads, self.staged()):
            load_tower(Path(self.first), role, tower.encoder, tower.head if tower.kept else None)

    def resolve(self, facts: Facts) -> dict[str, Any]:
        trained = 1 + self.stages - self.given
        if facts.steps < trained:
            raise InputError(f"{facts.steps} steps are too few for {trained} stages.", "Use more --steps.")
        self.labels = torch.full((self.stages, facts.samples), -1, dtype=torch.long)
        if self.wanted == "auto":
            self.clusters = auto_clusters(facts, self.stages, self.by_batch)
        return super().resolve(facts) | {"clusters": self.clusters, "steps_a_stage": self.within(0)[1]}

    def stage_starts(self) -> Sequence[int]:
        trained = 1 + self.stages - self.given
        return [s * self.facts.steps // trained for s in range(trained)]

    def before_draw(self, step: int) -> None:
        if step == 0 and self.given and int(self.stage) == 0:
            torch.manual_seed(int(self.seed) * 1_000_003)
            self.begin_stage(0)
        super().before_draw(step)

    def begin_stage(self, stage: int) -> None:
        """Clusters the present encoder's features, keeps the towers, and begins anew."""
        number = stage + self.given
        first = self.staged()[0]
        features = self.survey.features(Tower(first.encoder, first.head if first.kept else None, first.kept))
        found = k_means(features.cpu().numpy(), min(self.clusters, len(features)), seed=self.seed + number)
        self.labels[number - 1] = processes.broadcast(torch.from_numpy(found)).to(self.labels.device)
        for kept, tower in zip(self.past[number - 1], self.staged(), strict=True):  # pyright: ignore[reportArgumentType]
            kept.encoder.load_state_dict(tower.encoder.state_dict())  # pyright: ignore
            if kept.head is not None:  # pyright: ignore
                kept.head.load_state_dict(tower.head.state_dict())  # pyright: ignore
        self.stage.fill_(number)
        if self.stage_weights == "fresh":
            self.start_over(number)
        if self.negatives is not None:  # pyright: ignore
            self.negatives.reset()  # pyright: ignore
        self.survey.tell(self.account(number))

    @torch.no_grad()
    def start_over(self, number: int) -> None:
        """The weights of new encoders, new heads, the first temperature."""
        self.renew(number, zip(self.reads, self.staged()))
        if self.given:
            self._load_first()
        self.tau.restart()  # pyright: ignore

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
        loss = super().report(layout, z, batch)  # pyright: ignore[reportAttributeAccessIssue]
        if self.logged(batch):
            loss.terms |= {"stage": float(self.stage), "dropped": self.dropped()}
        return loss

    def joined_tower(self, place: int) -> Tower:
        """The stages so far of one tower, side by side."""
        now = self.staged()[place]
        if int(self.stage) == 0:
            return now
        kept: list[Any] = [stage[place] for stage in list(self.past)[: int(self.stage)]] + [now]  # pyright: ignore
        headed = now.kept and now.head is not None
        return Tower(Joined([t.encoder for t in kept], [t.head for t in kept] if headed else None))


def _kept(tower: Tower) -> Tower:
    """A copy of what a tower gives at inference, which learns nothing."""
    head = copy.deepcopy(tower.head) if tower.kept else None
    return Tower(copy.deepcopy(tower.encoder), head, tower.kept).requires_grad_(False)
