"""What happens beside the training steps: the learning curve, validation, checkpoints, warnings, progress."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from nearfar import processes, terminal
from nearfar.evaluation.diagnostics import spread


class Curve(pl.Callback):
    """curve.jsonl: one JSON object a logged step (step, seconds, samples, loss, terms, lr, spread, val scores).

    On resuming, lines after the checkpoint's step are dropped first.
    """

    def __init__(
        self,
        path: Path,
        every: int,
        validate: Callable[[], dict[str, float]] | None,
        val_every: int,
        on_log: Callable[[dict[str, Any]], None] | None = None,
    ):
        self.path, self.every, self.validate, self.val_every, self.on_log = path, every, validate, val_every, on_log
        self.seconds, self.samples, self.last, self.warned = 0.0, 0, 0.0, False

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "samples": self.samples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.samples = state_dict["seconds"], state_dict["samples"]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if processes.leader():
            kept = [line for line in _lines(self.path) if json.loads(line)["step"] <= trainer.global_step]
            self.path.write_text("".join(kept))
        self.last = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        now = time.perf_counter()
        self.seconds += now - self.last
        self.samples += batch.everywhere
        self.last = now
        if batch.last_turn:
            self.at_step(trainer, pl_module)
            self.last = time.perf_counter()

    def at_step(self, trainer: Any, pl_module: Any) -> None:
        """After an optimiser step: a line of the curve, where one is due; its terms are means over all processes."""
        step = trainer.global_step
        last = step >= trainer.max_steps
        due = self.validate is not None and self.val_every and (step % self.val_every == 0 or last)
        if step % self.every == 0 or step == 1 or last or due:
            line = {
                "step": step,
                "seconds": round(self.seconds, 3),
                "samples": self.samples,
                **processes.mean(pl_module.terms),
                "lr": trainer.optimizers[0].param_groups[0]["lr"],
            }
            if pl_module.watched is not None:
                line["spread"] = spread(pl_module.watched.float())
                self.warn(line["spread"], step)
            if not processes.leader():
                return
            if due and self.validate is not None:
                line.update({f"val_{k}": v for k, v in self.validate().items()})
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            if self.on_log:
                self.on_log(line)

    def warn(self, value: float, step: int) -> None:
        if value < 0.05 and step > 20 and not self.warned:
            self.warned = True
            warnings.warn(
                f"The representation is collapsing at step {step}: the spread of the embeddings is {value:.3f} "
                "(1 is even, 0 is a single point). Try a lower learning rate, a lower temperature or "
                "stronger views; `nearfar diagnose` shows more.",
                stacklevel=2,
            )


def _lines(path: Path) -> list[str]:
    """Whole lines of a curve file; a torn last line (killed while writing) is left out."""
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


class Checkpoint(pl.Callback):
    """checkpoints/last.ckpt, replaced atomically, so that a run killed at any moment can be resumed."""

    def __init__(self, folder: Path, every: int):
        self.path, self.every = folder / "last.ckpt", every

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch.last_turn and (trainer.global_step % self.every == 0 or trainer.global_step >= trainer.max_steps):
            self.save(trainer)

    def save(self, trainer: Any) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".tmp")
        trainer.save_checkpoint(part)  # by all processes together; the first one writes
        if processes.leader():
            os.replace(part, self.path)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        alone = processes.place()[1] == 1  # several processes do not stop at one step: their last checkpoint stands
        if isinstance(exception, KeyboardInterrupt) and alone and trainer.global_step > 0 and not pl_module._pending:
            self.save(trainer)


class Progress(pl.Callback):
    """A live bar on a terminal; a line now and then elsewhere. Writes to standard error only."""

    def __init__(self, title: str, every_seconds: float = 10.0):

        self.title, self.every = title, every_seconds
        self.console = terminal.console(stderr=True)
        self.bar: Any = None
        self.task: Any = None
        self.shown = time.monotonic()
        self.note = self.val = ""

    def log(self, line: dict[str, Any]) -> None:
        if "val_primary" in line:
            self.val = f"val {line['val_primary']:.1%}"
        stage = f"stage {line['stage']:.0f}" if "stage" in line else ""
        self.note = "  ".join(part for part in (stage, f"loss {line['loss']:.3f}", self.val) if part)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if not self.console.is_terminal:
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.bar = Bar(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            transient=True,
        )
        self.bar.start()
        self.task = self.bar.add_task(self.title, total=trainer.max_steps, completed=trainer.global_step, note="")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=trainer.global_step, note=self.note)
        elif time.monotonic() - self.shown > self.every:
            self.shown = time.monotonic()
            terminal.say(f"{self.title}: step {trainer.global_step}/{trainer.max_steps}  {self.note}")
            sys.stderr.flush()

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.stop()
