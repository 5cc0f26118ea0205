"""Early stopping: the weights that are best on validation are kept, and a run ends when they have been the best for
long."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch

from nearfar import files, processes
from nearfar.errors import InputError
from nearfar.methods.staged import Staged
from nearfar.training.callbacks import BROKEN, CheckpointFile, Curve

if TYPE_CHECKING:
    from nearfar.evaluation.task import Task
    from nearfar.methods.base import Method
    from nearfar.methods.batch import Batch
    from nearfar.training.settings import TrainSettings
    from nearfar.units import Metric


class Patience(pl.Callback):
    """checkpoints/best.ckpt: the weights at the measurement that was the best on validation so far. Training ends once
    `checks` measurements in a row were no better.

    What it knows is part of the checkpoint, which is written where the run ends, so that a run that goes on takes the
    same decisions. `hear` is told every line of the learning curve (by the first process alone).
    """

    def __init__(self, path: Path, checks: int, metric: Metric, curve: Curve, measured: Any = None):
        self.measured = measured
        self.path, self.checks, self.metric, self.curve = path, checks, metric, curve
        self.best: float | None = None
        self.step = self.since = 0
        self.heard: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "step": self.step, "since": self.since}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.step, self.since = (state_dict[name] for name in ("best", "step", "since"))

    @property
    def ended(self) -> bool:
        """Whether it has seen enough."""
        return self.since >= self.checks

    def hear(self, line: dict[str, Any]) -> None:
        self.heard = line.get("val_primary")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if not batch.last_accumulation_step or not self.curve.due(trainer):
            return
        if self.heard is not None:
            self.judge(self.heard, trainer.global_step, self.measured or pl_module)
            self.heard = None
        if processes.any_rank(self.ended):
            trainer.should_stop = True

    def judge(self, score: float, step: int, method: Any) -> None:
        """Takes the score of a step into account, and keeps the weights where it is the best."""
        best = self.best
        if best is not None and not math.isnan(best) and not self.metric.key(score) < self.metric.key(best):
            self.since += 1
            return
        self.best, self.step, self.since = score, step, 0
        kept = {"step": step, "score": score, "state_dict": method.state_dict()}
        CheckpointFile().save_checkpoint(kept, self.path)

    def restore(self, method: Method) -> dict[str, int]:
        """Gives a method the weights that were kept; returns their step."""
        with files.reading(self.path, BROKEN):
            kept = torch.load(self.path, map_location="cpu", weights_only=True)
            method.load_state_dict(kept["state_dict"])
            self.step, self.best = int(kept["step"]), float(kept["score"])
        return {"kept_step": self.step}

    def words(self, last: int) -> str:
        """What became of the run, whose last step it was, for the reader."""
        assert self.best is not None
        reached = f"{self.metric.label} {self.metric.written.text(self.best)}"
        kept = f"the model is that of step {self.step}, the best on validation ({reached})"
        if not self.ended:
            return kept
        checks = f"{self.checks} checks were" if self.checks > 1 else "one check was"
        return f"stopped at step {last}: {checks} no better; {kept}"


def check_patience(settings: TrainSettings, method: Method, task: Task, able: bool, rows: Any) -> None:
    """Raises InputError where nothing is measured on validation data while a method trains, or where it trains in
    stages, of which the later ones would be left out. able: whether the task can measure the method; rows: those of
    validation, or None."""
    if settings.patience is None:
        return
    why = ""
    if not method.trained:
        why = f"'{method.slug}' trains nothing"
    elif isinstance(method, Staged):
        why = f"'{method.slug}' trains in stages, of which the later ones would be left out"
    elif not able:
        why = f"'{task.describe()}' does not measure what '{method.slug}' gives"
    elif settings.val_every == 0:
        why = "--val-every 0 measures nothing while it trains"
    elif rows is None or not len(rows):
        why = "the data have no validation rows"
    if why:
        raise InputError(f"--patience stops by scores on validation data; {why}.", "Leave it out.")
