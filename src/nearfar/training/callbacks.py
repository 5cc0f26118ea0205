"""What happens beside the training steps: the learning curve, validation, checkpoints, warnings, progress."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from nearfar import files, processes, terminal
from nearfar.evaluation.diagnostics import spread
from nearfar.units import UNITS

if TYPE_CHECKING:
    from nearfar.methods.batch import Batch


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
        on_log: Sequence[Callable[[dict[str, Any]], None]] = (),
        gather: Callable[[Any], None] | None = None,
    ):
        """gather: what all processes do with the method before the first one measures it."""
        self.gather = gather
        self.path, self.every, self.validate, self.val_every, self.on_log = path, every, validate, val_every, on_log
        self.seconds, self.samples, self.last, self.warned = 0.0, 0, 0.0, False

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "samples": self.samples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.samples = state_dict["seconds"], state_dict["samples"]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if processes.leader():
            kept = [line for line in curve_lines(self.path) if line["step"] <= trainer.global_step]
            files.replaced_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self.last = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        now = time.perf_counter()
        self.seconds += now - self.last
        self.samples += batch.everywhere
        self.last = now
        if batch.last_accumulation_step:
            self.at_step(trainer, pl_module)
            self.last = time.perf_counter()

    def at_step(self, trainer: Any, pl_module: Any) -> None:
        """After an optimiser step: a line of the curve, where one is due; its terms are means over all processes."""
        step = trainer.global_step
        last, due = step >= trainer.max_steps, self.due(trainer)
        if step % self.every == 0 or step == 1 or last or due:
            line = {
                "step": step,
                "seconds": round(self.seconds, 3),
                "samples": self.samples,
                **processes.mean(pl_module.terms),
                "lr": trainer.optimizers[0].param_groups[0]["lr"],
            }
            if pl_module.monitored is not None:
                line["spread"] = spread(pl_module.monitored.float())
                self.warn(line["spread"], step)
            if due and self.gather is not None:
                self.gather(pl_module)
            if not processes.leader():
                return
            if due and self.validate is not None:
                line.update({f"val_{k}": v for k, v in self.validate().items()})
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            for told in self.on_log:
                told(line)

    def due(self, trainer: Any) -> bool:
        """Whether validation data are measured after this step."""
        step = trainer.global_step
        measured = self.validate is not None and self.val_every > 0
        return measured and (step % self.val_every == 0 or step >= trainer.max_steps)

    def warn(self, value: float, step: int) -> None:
        if value < 0.05 and step > 20 and not self.warned:
            self.warned = True
            warnings.warn(
                f"The representation is collapsing at step {step}: the spread of the embeddings is {value:.3f} "
                "(1 is even, 0 is a single point). Try a lower learning rate, a lower temperature or "
                "stronger views; `nearfar diagnose` shows more.",
                stacklevel=2,
            )


def curve_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a learning curve. Raises InputError where they are damaged."""
    return files.read_lines(path, {"step": int}, "Delete it: a run that goes on begins it anew.")


class Stages(pl.Callback):
    """stages.json: of each stage that has ended its steps, the scores on validation data and what the method tells of
    it (`Staged.end_stage`). It runs before the checkpoint, which so holds what a stage's end has changed.

    On resuming, stages that end after the checkpoint's step are dropped first.
    """

    def __init__(self, path: Path, curve: Curve, validate: Callable[[], dict[str, float]] | None):
        self.path, self.curve, self.validate = path, curve, validate

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if processes.leader() and self.path.exists():
            self.write([one for one in stages_of(self.path) if one["steps"][1] <= trainer.global_step])

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        stages = pl_module.steps_of_stages()
        ended = [k for k, (_, last) in enumerate(stages) if last == trainer.global_step]
        if not ended or not batch.last_accumulation_step:
            return
        record, began = pl_module.finish_stage(ended[0]), time.perf_counter()
        if processes.leader() and (record or len(stages) > 1):
            scores = {"val": self.validate()} if self.validate is not None else {}
            known = stages_of(self.path) if self.path.exists() else []
            self.write([*known, {"stage": ended[0], "steps": list(stages[ended[0]]), **scores, **record}])
        self.curve.last += time.perf_counter() - began

    def write(self, stages: list[dict[str, Any]]) -> None:
        files.write_json(self.path, {"stages": stages})


def stages_of(path: Path) -> list[dict[str, Any]]:
    """What stages.json holds. Raises InputError where it is damaged."""
    return files.read_json(path, {"stages": list}, "Delete it: a run that goes on begins it anew.")["stages"]


class Stopped(KeyboardInterrupt):
    """Training was stopped by a signal. `number`: which one."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


class Signals:
    """Ctrl-C and SIGTERM wait for the end of the step; a second one stops at once, at the last checkpoint.

    A step that is cut off has moved teachers and running statistics already, so its state is none of the run. In a
    thread, where Python gives no signals, and on several processes, which do not stop at one step, nothing is changed.
    """

    def __init__(self, say: Callable[[str], None], alone: bool):
        self.say, self.asked = say, 0
        self.heard = (signal.SIGINT, signal.SIGTERM)
        self.active = alone and threading.current_thread() is threading.main_thread()
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if self.active:
            self.before = {number: signal.getsignal(number) for number in self.heard}
            self.listen()
        return self

    def listen(self) -> None:
        """Takes the signals (again: Lightning sets a handler of its own when it starts)."""
        for number in self.heard if self.active else ():
            signal.signal(number, self.note)

    def note(self, number: int, frame: Any) -> None:
        if self.asked:
            raise Stopped(number)
        self.asked = number
        self.say("stopping at the end of this step (once more: at once)")

    def check(self) -> None:
        """Raises Stopped where a signal came."""
        if self.asked:
            raise Stopped(self.asked)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


BROKEN = "The run cannot go on from it: start a new one, or put a copy of the file back."


class Checkpoint(pl.Callback):
    """checkpoints/last.ckpt, replaced atomically, so that a run killed at any moment can be resumed. It is written
    between two steps only, also where a signal ends the run."""

    def __init__(self, folder: Path, every: int, signals: Signals):
        self.path, self.every, self.signals = folder / "last.ckpt", every, signals

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.signals.listen()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if not batch.last_accumulation_step:
            return
        step, asked = trainer.global_step, self.signals.asked  # once: one that comes while this runs waits for its step
        if step % self.every == 0 or step >= trainer.max_steps or trainer.should_stop or asked:
            self.save(trainer)
        if asked:
            self.signals.check()

    def save(self, trainer: Any) -> None:
        trainer.save_checkpoint(self.path)  # by all processes together; the first one writes


class CheckpointFile(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, into its own folder and with ordinary permissions."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            with files.whole(Path(path)) as fresh, fresh.open("wb") as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # torch closes its archive over what the system said, a full disk for instance
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


class Progress(pl.Callback):
    """A live bar on a terminal; a line now and then elsewhere. Writes to standard error only."""

    def __init__(self, title: str, every_seconds: float = 10.0, written: Callable[[float], str] = UNITS["share"].text):
        """written: how a score on validation data is shown."""
        self.title, self.every, self.written = title, every_seconds, written
        self.console = terminal.console(stderr=True)
        self.bar: Any = None
        self.task: Any = None
        self.shown, self.steps = time.monotonic(), 0
        self.note = self.val = ""

    def log(self, line: dict[str, Any]) -> None:
        if "val_primary" in line:
            self.val = f"val {self.written(line['val_primary'])}"
        stage = f"stage {line['stage']:.0f}" if "stage" in line else ""
        self.note = "  ".join(part for part in (stage, f"loss {line['loss']:.3f}", self.val) if part)

    def begin(self, steps: int, done: int = 0) -> None:
        """Of so many steps, some of which are done."""
        self.steps = steps
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
        self.task = self.bar.add_task(self.title, total=steps, completed=done, note="")

    def reach(self, step: int) -> None:
        """So many steps are done."""
        if self.bar is not None:
            self.bar.update(self.task, completed=step, note=self.note)
        elif time.monotonic() - self.shown > self.every:
            self.shown = time.monotonic()
            terminal.say(f"{self.title}: step {step}/{self.steps}  {self.note}")
            sys.stderr.flush()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.begin(trainer.max_steps, trainer.global_step)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.reach(trainer.global_step)

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.stop()
