"""`nearfar.fit`: one method on one data set, from rows to a model folder with its scores."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import platform
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nearfar import files, methods, modalities, processes, stores, workers
from nearfar import trained as seen_rows
from nearfar.encoders.base import evaluating
from nearfar.errors import InputError, NearfarError
from nearfar.files import write_json
from nearfar.methods.tower import with_heads
from nearfar.progress import Say, silent
from nearfar.sources.storage import cache_dir
from nearfar.training import building
from nearfar.training.callbacks import (
    BROKEN,
    Checkpoint,
    CheckpointFile,
    Curve,
    Progress,
    Signals,
    Stages,
    Stopped,
    curve_lines,
)
from nearfar.training.embedding import Embedder
from nearfar.training.loggers import FOLDER as LOGS
from nearfar.training.loggers import Loggers, names_of
from nearfar.training.settings import DataSettings, TrainSettings
from nearfar.training.shaping import eagerly
from nearfar.training.sharding import Whole, sharded_strategy
from nearfar.training.stopping import Patience, check_patience

if TYPE_CHECKING:
    from nearfar.evaluation.task import Task
    from nearfar.methods.base import Method
    from nearfar.methods.inference import Inference
    from nearfar.sources.data import Data

CONFIG = {
    "method": str,
    "options": dict,
    "settings": dict,
    "data": str,
    "data_settings": dict,
    "data_hash": str,
    "split_hash": str,
    "command": str,
}  # what is read again of a run's config.json
SCORES = {"data_hash": str, "split_hash": str, "summary": (dict, type(None)), "scores": dict, "cost": dict}
DAMAGED = "Delete the run's folder and train anew, or restore it from a copy."
LATEST = "checkpoints/last.ckpt"
MARK = ".nearfar-cluster"  # there while the workers of a cluster train: who does not see it has another folder
OWN = (
    "config.json",
    "curve.jsonl",
    "stages.json",
    "checkpoints",
    LOGS,
    files.LOCK,
    MARK,
)  # what a run that was cut off may leave


@dataclass
class Run:
    """A finished (or planned) run. `path`: its folder or URL; `scores`: split -> scores as JSON values; `plan`: what
    was resolved; `cost`: seconds, samples, peak memory; `task`: the summary of what was measured."""

    path: Path | str | None
    method: str
    plan: dict[str, Any]
    scores: dict[str, Any]
    cost: dict[str, float]
    task: dict[str, Any] | None = None

    def model(self) -> Any:
        """The trained model, as `nearfar.load` gives it."""
        from nearfar.models import load

        if self.path is None:
            raise InputError("This run was only planned.")
        return load(stores.below(self.path, "model"))


def fit(
    method: str | None,
    data: Any,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    dry_run: bool = False,
    settings: TrainSettings | None = None,
    data_settings: DataSettings | None = None,
    progress: bool = True,
    say: Say = silent,
    command: str = "",
    on: str | None = None,
    **given: Any,
) -> Run:
    """Trains a method on data and leaves a folder with the model, its curve and its scores.

    Args:
        method: slug, or None for one that fits the data.
        data: a path, the name of a built-in set, an object in memory (`nearfar.data` says which), or an opened
            `nearfar.sources.Data`.
        out: the run's folder; default runs/METHOD-DATA, numbered. Also a URL of an object store (s3://...), to which
            the run is sent as it grows: each checkpoint, and at the end all of it.
        resume: go on from the last checkpoint of `out`; equals an uninterrupted run. At a URL also on another machine.
        dry_run: time a few steps and return the plan; nothing is written.
        on: None: this process trains, with others that it or a launcher starts. "ray" or "ray://HOST:PORT": workers of
            a Ray cluster train together, through Ray Train, as many as `devices` times `nodes`; `out` must lie where
            all of them reach it. The run goes on from its checkpoint where one dies.
        given: fields of TrainSettings and DataSettings, and options of the method, by name.

    Raises:
        InputError: wrong data, options or folder (nothing is written), a cluster out of reach or too small.
        NearfarError: the training failed; the last checkpoint is kept. Or an object store did not take everything.
    """
    processes.follow_parent()
    if out is not None and not isinstance(out, str | Path):
        raise InputError(f"'out' takes the path of a folder. Got {out!r}.")
    settings, data_settings, given = split_options(method, given, settings, data_settings)
    opened = handed_over() or data_settings.open(data)
    if method is None:
        method, why = building.choose(opened)
        say(f"method: {method} ({why})")
    else:
        methods.get(method)
    asked = Asked(workers.named(data), data_settings, command)
    if on is None:
        return fit_opened(method, opened, asked, settings, given, out, resume, dry_run, progress, say)
    if dry_run:
        raise InputError("--dry-run times steps on this machine.", "Leave out --on.")
    return fit_on(on, method, opened, asked, settings, given, out, resume, progress, say)


@contextmanager
def handing_over(opened: Data, settings: TrainSettings) -> Iterator[None]:
    """While the block runs, the processes that are started on this machine find data that were given in memory, or as a
    stream, as they were opened here: by their file in the cache."""
    if opened.given is None or settings.devices == 1 or processes.started() > 1:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="nearfar-") as place:
        path = Path(place) / "data"
        path.write_bytes(pickle.dumps(opened))
        os.environ[processes.DATA] = str(path)
        try:
            yield
        finally:
            os.environ.pop(processes.DATA, None)


def handed_over() -> Data | None:
    """The data that the process which started this one has opened."""
    path = os.environ.get(processes.DATA)
    return None if path is None or processes.leader() else pickle.loads(Path(path).read_bytes())


@dataclass(frozen=True)
class Asked:
    """How a run was asked for, as config.json holds it: the data's name or path (None where they were given in memory),
    how they were opened, the command."""

    spec: str | None
    data_settings: DataSettings
    command: str


def fit_opened(
    method: str,
    opened: Data,
    asked: Asked,
    settings: TrainSettings,
    given: Mapping[str, Any],
    out: str | Path | None,
    resume: bool,
    dry_run: bool = False,
    progress: bool = False,
    say: Say = silent,
) -> Run:
    """`fit` on opened data, with checked settings."""
    processes.check_launch(settings.devices, settings.nodes)
    say = say if processes.leader() else silent
    task = understood(method, opened, settings, say)
    claimed = contextlib.nullcontext() if dry_run else claim(out, method, opened, resume, say)
    with claimed as folder:
        setup = ready(method, opened, settings, given, task)
        record = describe(method, opened, setup, asked)
        for line in summary_lines(setup):
            say(line)
        if folder is None:
            return timed_plan(method, opened, setup, task, record, say)
        with recorded(folder, record, resume), handing_over(opened, settings):
            run = train(folder, method, opened, setup, task, record, resume, progress, say)
    return dataclasses.replace(run, path=str(out)) if stores.is_url(out) else run


def understood(method: str, opened: Data, settings: TrainSettings, say: Say) -> Task:
    """What the run is measured by, once data and settings are known to fit the method; says what flatters scores."""
    building.check_needs(method, opened)
    building.check_settings(settings)
    tell_overlaps(opened, building.weights_of(settings), say)
    return building.task_of(method, opened, settings)


def ready(method: str, opened: Data, settings: TrainSettings, given: Mapping[str, Any], task: Task) -> building.Setup:
    """What the run trains, after all checks that need no training."""
    setup = building.prepare(method, opened, settings, given, cache=cache_dir())
    building.check_batch(setup)
    check_variant_of(setup)
    able = can_measure(setup.method.towers(), task)
    check_patience(settings, setup.method, task, able, opened.splits.get("val"))
    if able:
        if settings.val_every != 0:
            task.rows("val")
        task.check()
    return setup


def fit_on(
    on: str,
    method: str,
    opened: Data,
    asked: Asked,
    settings: TrainSettings,
    given: Mapping[str, Any],
    out: str | Path | None,
    resume: bool,
    progress: bool,
    say: Say,
) -> Run:
    """`fit` by workers of a Ray cluster. All that can be wrong with data and options is told before it is asked."""
    from nearfar.training.clustered import Order, train_on

    workers.check_on(on)
    if processes.started() > 1:
        raise InputError("--on starts the processes of a run; a launcher has started some already.", "Leave one out.")
    task = understood(method, opened, settings, say)
    setup = ready(method, opened, settings, given, task)
    for line in summary_lines(setup):
        say(line)
    bar = Progress(f"{method} on {opened.name}", written=task.metric().written.text) if progress else None
    if stores.is_url(out):
        store = stores.Store(str(out))
        check_held(set(store.listed()), store.url, resume)
        store.check_writable()
        folder, made = store.url, []
    else:
        folder, made = _made(None if out is None else Path(out), method, opened, resume)
    data = workers.SameData(opened, asked.spec, asked.data_settings)
    run = folder.absolute() if isinstance(folder, Path) else folder
    try:
        train_on(on, Order(method, data, run, resume, settings, dict(given), asked), say, bar, setup.loader.steps)
    finally:
        files.remove_empty(made)
    there = stores.local(folder, lambda name: name in ("scores.json", "config.json"))
    stored = files.read_json(there / "scores.json", SCORES, DAMAGED)
    plan = files.read_json(there / "config.json", CONFIG, DAMAGED)
    return Run(folder, method, plan, stored["scores"], stored["cost"], stored["summary"])


def check_variant_of(setup: building.Setup) -> None:
    """Raises, before anything is trained, where the method gives no such variant of its vectors."""
    from nearfar.models import check_variant

    if setup.settings.variant is not None:
        check_variant(setup.settings.variant, with_heads(setup.method.towers()))


def tell_overlaps(data: Data, weights: Sequence[str], say: Say) -> list[str]:
    """Says, and returns, what makes scores look better than they are: contents, groups and units in two splits, and
    weights that were trained on rows of the test split."""
    warnings = [f"warning: {one}" for one in data.shared()]
    test = data.splits["test"]
    for one in weights:
        count = int(seen_rows.seen(seen_rows.read(one), data, test).sum())
        if count:
            warnings.append(seen_rows.warning(one, count, len(test), "test rows"))
    for line in warnings:
        say(line)
    return warnings


def split_options(
    method: str | None, given: Mapping[str, Any], settings: TrainSettings | None, data_settings: DataSettings | None
) -> tuple[TrainSettings, DataSettings, dict[str, Any]]:
    """Keyword options to settings, data settings and what is the method's own; unknown ones raise."""
    from nearfar import options

    modalities.everyone()  # those of other packages add options of theirs
    for name, held, kind in (("settings", settings, TrainSettings), ("data_settings", data_settings, DataSettings)):
        if held is not None and not isinstance(held, kind):
            raise InputError(f"'{name}' takes {kind.__name__}(...). Got {str(held)[:80]}.",
                             "Or give its fields as arguments of their own: steps=100.")  # fmt: skip
    mine = {f.name for f in dataclasses.fields(TrainSettings)}
    roles = {f.name for f in dataclasses.fields(DataSettings)}
    own = {k: v for k, v in given.items() if k not in mine and k not in roles}
    targets = [TrainSettings, DataSettings] + ([methods.get(method)] if method else [])
    checked = vars(options.checked(targets, given)) if given else {}
    if settings is None:
        settings = TrainSettings(**{k: checked[k] for k in mine if k in checked})
    if data_settings is None:
        data_settings = DataSettings(**{k: checked[k] for k in roles if k in checked})
    return settings, data_settings, own


@contextmanager
def claim(out: str | Path | None, method: str, data: Data, resume: bool, say: Say = silent) -> Iterator[Path]:
    """The run's folder, owned by this process (of several that train together: by the first) while the block runs. Of a
    URL it is one of this machine, whose changes are sent there by the first process.

    Raises InputError where it holds something else, or another process works in it. A block that fails before its
    first checkpoint leaves a new folder as it found it.
    """
    if not processes.leader():
        folder = os.environ.get(processes.FOLDER, out)
        if folder is None:
            raise InputError("Processes that are started together need one folder.", "Add --out FOLDER.")
        yield followed(folder, resume)
        return
    with _mirrored(out, resume, say) as place, _claimed(*_made(place, method, data, resume), resume) as folder:
        os.environ[processes.FOLDER] = str(folder)
        try:
            yield folder
        finally:
            os.environ.pop(processes.FOLDER, None)


def _mirrored(out: str | Path | None, resume: bool, say: Say) -> contextlib.AbstractContextManager[Path | None]:
    if out is None:
        return contextlib.nullcontext()
    return stores.mirrored(
        out,
        again="the same command with --resume",
        goes_on=resume,
        alone=processes.started() == 1,
        check=lambda names: check_held(names, out, resume),
        say=say,
    )


def followed(folder: str | Path, resume: bool) -> Path:
    """The run's folder as a process sees it that writes nothing there: of a URL it has what a run goes on from."""
    if not stores.is_url(folder):
        return Path(folder)
    url = str(folder)
    return (
        stores.fetched(url, lambda name: name.startswith(("config", "checkpoints/"))) if resume else stores.copy_of(url)
    )


def _made(out: Path | None, method: str, data: Data, resume: bool) -> tuple[Path, list[Path]]:
    """The folder that was asked for, or the next free one of this name, and which folders had to be made."""
    if out is None and resume:
        raise InputError("--resume needs the run's folder.", "Add --out FOLDER.")
    if out is not None:
        check_folder(out, resume)
        with files.refused(out):
            return out, files.make_folders(out)
    number = 1
    while True:
        folder = Path("runs") / f"{method}-{data.short_name}-{number}"
        with files.refused(folder):
            made = files.make_folders(folder)
        if folder in made:
            return folder, made
        number += 1


@contextmanager
def _claimed(folder: Path, made: list[Path], resume: bool) -> Iterator[Path]:
    try:
        with contextlib.ExitStack() as held:
            with files.refused(folder):
                held.enter_context(files.lock(folder / files.LOCK, f"'{folder}'"))
            check_folder(folder, resume)
            files.tidy_inside(folder)
            files.tidy_inside(folder / "checkpoints")
            try:
                yield folder
            except BaseException:
                if not resume and not (folder / "checkpoints" / "last.ckpt").exists():
                    for path in [p for p in folder.iterdir() if p.name != files.LOCK]:
                        files.remove(path)
                raise
    except BaseException:
        files.remove_empty(made)
        raise


def check_folder(folder: Path, resume: bool) -> None:
    """Raises where a folder holds a run that is not to be resumed, no run to resume, or something else."""
    if folder.exists() and not folder.is_dir():
        check_held({""}, folder, resume)
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    check_held(names | {LATEST} if (folder / LATEST).exists() else names, stores.named(folder), resume)


def check_held(names: set[str], folder: str | Path, resume: bool) -> None:
    """`check_folder` by the names of what is below it."""
    if "" in names:
        raise InputError(f"'{folder}' is a file, not a folder.", "Choose another --out.")
    held = "config.json" in names
    if held and not resume:
        raise InputError(f"'{folder}' already holds a run.", "Go on with it (--resume), or choose another --out.")
    if resume and not held:
        raise InputError(f"'{folder}' holds no run to resume.", "Leave out --resume to start one.")
    tops = {name.partition("/")[0] for name in names}
    if not held and (LATEST in names or any(top not in OWN and not files.is_temporary(top) for top in tops)):
        raise InputError(f"'{folder}' is not empty and is not a run of nearfar.", "Choose another --out.")


@contextmanager
def recorded(folder: Path, record: dict[str, Any], resume: bool) -> Iterator[None]:
    """Writes config.json first, or compares it with what is asked for now; a failure to write later is explained."""
    path, last = folder / "config.json", folder / "checkpoints" / "last.ckpt"
    try:
        if processes.leader() and resume:
            check_same_run(files.read_json(path, CONFIG, DAMAGED), record, stores.named(folder))
        elif processes.leader():
            write_json(path, record)
        yield
    except OSError as error:
        mend = "Free some space" if error.errno in files.FULL else "Mend that"
        again = "go on with --resume" if resume or last.exists() else "start it again"
        raise NearfarError(
            f"Writing to '{folder}' failed: {error.strerror or error}.", f"{mend}, then {again}."
        ) from error


def check_same_run(before: dict[str, Any], now: dict[str, Any], folder: str | Path) -> None:
    """A run is only resumed as what it was."""
    if before["method"] != now["method"]:
        raise InputError(
            f"'{folder}' is a run of '{before['method']}', not of '{now['method']}'.",
            "Choose another --out, or resume with the same method.",
        )
    for name in ("data_hash", "split_hash"):
        if before[name] != now[name]:
            raise InputError(
                f"The data have changed since the run in '{folder}' began ({name} differs).", "Start a new run."
            )
    for group in ("options", "settings"):
        for key, value in now[group].items():
            if key in before[group] and json.loads(json.dumps(value)) != before[group][key]:
                raise InputError(
                    f"The run in '{folder}' has {key} = {before[group][key]}, not {value}.",
                    "Resume it with the same options, or start a new run.",
                )


def tell_threads(folder: Path, now: int, say: Say) -> None:
    """Sums are divided among the threads, and rounded as they are divided."""
    before = files.read_json(folder / "config.json", {}, DAMAGED).get("threads", now)
    if before != now:
        say(
            f"note: the run began on {before} thread{'s' * (before > 1)} and goes on on {now}: on the CPU its numbers "
            f"will differ by rounding from an undisturbed run's. With OMP_NUM_THREADS={before} they do not."
        )


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("nearfar", "torch", "lightning", "timm", "transformers", "datasets", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "source"
    return found


def describe(method: str, data: Data, setup: building.Setup, asked: Asked) -> dict[str, Any]:
    """config.json: all that is needed to understand and repeat the run."""
    return {
        "format": 1,
        "method": method,
        "options": setup.options,
        "settings": dataclasses.asdict(setup.settings),
        "resolved": setup.resolved,
        "data": asked.spec or data.name,
        **({} if data.given is None else {"data_given": data.given}),
        "data_settings": dataclasses.asdict(asked.data_settings),
        "data_hash": data.hash,
        "split_hash": data.split_hash,
        "rows": {k: len(v) for k, v in data.splits.items()},
        "roles": data.roles,
        "supervised": sees_labels(setup.method, data) or setup.settings.class_balanced,
        "parameters": sum(p.numel() for p in setup.method.parameters() if p.requires_grad),
        "command": asked.command,
        "versions": versions(),
        "threads": torch.get_num_threads(),
    }


def sees_labels(method: Method, data: Data) -> bool:
    """Whether it learns from labels or targets of the training rows."""
    return bool(method.supervised and (data.labels or {"target", "object"} & set(data.roles)))


def summary_lines(setup: building.Setup) -> list[str]:
    """The resolved defaults and what to mind, for the reader."""
    parts = ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in setup.resolved.items())
    many = sum(p.numel() for p in setup.method.parameters() if p.requires_grad)
    lines, batches = [f"resolved: {parts}", f"trained parameters: {many:,}"], setup.settings.accumulate
    if batches > 1 and setup.method.uses_batch:
        batch = setup.resolved["batch_size"]
        lines.append(
            f"note: --accumulate {batches} adds up gradients, not negatives: each item is contrasted within its own "
            f"batch of {batch}. For one large batch on the same memory use --batch-size {batches * batch} "
            f"--micro-batch {batch}."
        )
    return [*lines, *setup.notes]


def trainer_for(setup: building.Setup, callbacks: list[Any], steps: int) -> Any:
    import logging

    import lightning.pytorch as pl

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    precision: Any = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[setup.settings.precision]
    device, together = setup.settings.device, setup.settings.devices * setup.settings.nodes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pl.Trainer(
            max_steps=steps,
            accelerator=device,
            devices=setup.settings.devices,
            num_nodes=setup.settings.nodes,
            strategy="auto" if together == 1 else together_strategy(setup.settings),
            use_distributed_sampler=False,
            accumulate_grad_batches=setup.settings.accumulate,
            precision=precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=callbacks,
            plugins=[CheckpointFile()],
            max_epochs=-1,
            log_every_n_steps=1_000_000,
        )


def together_strategy(settings: TrainSettings) -> Any:
    """DDP, or with --strategy fsdp encoders that are divided. Of DDP every process keeps its own running statistics and
    the first one's are saved: queues and teachers are equal everywhere by construction, and sending them anew at each
    step would cost their size."""
    from lightning.pytorch.strategies import DDPStrategy

    backend = "gloo" if settings.device == "cpu" or not torch.cuda.is_available() else "nccl"
    if settings.strategy == "fsdp":
        return sharded_strategy(backend, settings.nodes)

    class OneMachine(DDPStrategy):
        def setup_distributed(self) -> None:
            processes.meet_here(self, backend)
            super().setup_distributed()  # leaves processes that are connected as they are

    strategy = DDPStrategy if settings.nodes > 1 else OneMachine
    return strategy(find_unused_parameters=True, broadcast_buffers=False, process_group_backend=backend)


def timed_plan(method: str, data: Data, setup: building.Setup, task: Task, record: dict[str, Any], say: Say) -> Run:
    """Times a few real steps; nothing is kept."""
    seconds, peak = timed_steps(setup, 4) if setup.method.trained else (0.0, 0.0)
    steps = setup.loader.steps
    plan = record | {
        "seconds_a_step": seconds,
        "estimated_seconds": seconds * steps,
        "peak_mib": peak,
        "task": task.describe(),
    }
    if setup.method.trained:
        say(
            f"{steps} steps of {setup.resolved['batch_size']} items: about {human(seconds * steps)} "
            f"({seconds * 1000:.0f} ms a step), about {peak:.0f} MiB of memory"
        )
    say(f"measured by: {task.describe()}")
    return Run(None, method, plan, {}, {})


def human(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def timed_steps(setup: building.Setup, count: int) -> tuple[float, float]:
    """Seconds of a step (median of the steps after the first) and peak memory in MiB, of a few real steps."""

    class Clock(Curve):
        def __init__(self):
            self.times = [time.perf_counter()]

        def state_dict(self):
            return {}

        def on_train_start(self, trainer, pl_module):
            self.times = [time.perf_counter()]

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch.last_accumulation_step:
                self.times.append(time.perf_counter())

    clock = Clock()
    reset_peak()
    steps = min(count + 1, setup.loader.steps)
    with warnings.catch_warnings(), processes.connected():
        warnings.simplefilter("ignore")
        trainer_for(setup, [clock], steps).fit(setup.method, setup.loader)
    gaps = sorted(b - a for a, b in zip(clock.times[1:], clock.times[2:], strict=False)) or [
        clock.times[-1] - clock.times[0]
    ]
    return gaps[len(gaps) // 2], peak_mib()


def reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_mib() -> float:
    """The most memory that was held since `reset_peak` (on Linux; elsewhere since the process began)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)


def embedder(setup: building.Setup, data: Data) -> Embedder:
    method: Method = setup.method
    return Embedder(
        with_heads(method.towers()),
        data,
        similarity=method.similarity,
        device=method.device,
        variant=setup.settings.variant,
        inference=method.inference(),
    )


def measured(task: Task, setup: building.Setup, data: Data, split: str) -> Any:
    """The scores of the method as it is, with what it answers in evaluation mode, as in the finished model."""
    embed = embedder(setup, data)
    with eagerly(setup.settings), evaluating(*([] if embed.inference is None else [embed.inference])):
        return task.evaluate(embed, split)


def can_measure(towers: Mapping[str, Any], task: Task) -> bool:
    """Whether the towers embed all that the task asks for."""
    return set(modalities.kinds(task.roles)) <= set(modalities.kinds(towers))


def train(
    folder: Path,
    method: str,
    data: Data,
    setup: building.Setup,
    task: Task,
    record: dict[str, Any],
    resume: bool,
    progress: bool,
    say: Say,
) -> Run:
    steps, measuring = setup.loader.steps, task if can_measure(setup.method.towers(), task) else None
    if measuring is not None:
        say(f"measured by: {task.describe()}")
    else:
        given = ", ".join(setup.method.towers()) or "nothing"
        say(f"{method} embeds {given}: it has no part in '{task.describe()}'")
    whole = Whole(setup.method)
    seen = watched(folder, method, data, setup, task, measuring is not None, whole, record, progress, say)
    curve, patience, last = seen.curve, seen.patience, seen.checkpoint.path
    reset_peak()
    if not setup.method.trained:
        curve.seconds = setup.seconds
        return logged(finish_alone(folder, method, data, setup, measuring, record, curve, say), seen.loggers, 0)
    start = resume_from(last) if resume else None
    if start is not None:
        setup.loader.start = start
        if patience is not None:
            patience.load_state_dict(loaded(last, "callbacks").get(patience.state_key, patience.state_dict()))
    if start is None or (start < steps and not (patience and patience.ended)):
        if start is not None and processes.leader():
            tell_threads(folder, record["threads"], say)
        with processes.connected(), seen.signals:
            trainer = trainer_for(setup, seen.callbacks, steps)
            run_trainer(trainer, setup, None if start is None else last, seen.signals)
            whole.gather(setup.method)
        setup = whole.of(setup)
    else:
        load_finished(setup, last, curve)
    kept = {}
    if patience is not None and processes.leader():
        kept = {"last_step": int(loaded(last, "global_step"))} | patience.restore(setup.method)
        say(patience.words(kept["last_step"]))
    done = finish_alone(folder, method, data, setup, measuring, record, curve, say, kept)
    return logged(done, seen.loggers, steps)


@dataclass(frozen=True)
class Watched:
    """What goes along with a training: `callbacks` of the trainer, those among them that are asked afterwards, and what
    hears of its numbers."""

    callbacks: list[Any]
    curve: Curve
    patience: Patience | None
    checkpoint: Checkpoint
    signals: Signals
    loggers: Loggers


def watched(
    folder: Path,
    method: str,
    data: Data,
    setup: building.Setup,
    task: Task,
    able: bool,
    whole: Whole,
    record: dict[str, Any],
    progress: bool,
    say: Say,
) -> Watched:
    """Learning curve, checkpoints, progress and signals of a run. able: whether the task measures on the way."""
    steps, settings = setup.loader.steps, setup.settings

    def validate() -> dict[str, float]:
        scores = measured(task, whole.of(setup), data, "val")
        return {"primary": scores.primary, **scores.metrics}

    title, validating = f"{method} on {data.name}", validate if able else None
    val_every = max(50, steps // 10) if settings.val_every == "auto" else int(settings.val_every)
    save_every = max(1, steps // 20) if settings.save_every == "auto" else int(settings.save_every)
    written = task.metric().written.text
    bar = Progress(title, written=written) if progress and processes.leader() else None
    loggers = Loggers(names_of(settings.logger) if processes.leader() else (), folder, title)
    loggers.described({"method": method, "data": data.name, **record["options"], **record["settings"]})
    listeners = [loggers.log, *([bar.log] if bar else [])]
    curve = Curve(folder / "curve.jsonl", max(1, steps // 200), validating, val_every, listeners, whole.gather)
    patience = None
    if settings.patience is not None:
        best = folder / "checkpoints" / "best.ckpt"
        patience = Patience(best, settings.patience, task.metric(), curve, whole.copy)
        listeners.append(patience.hear)
    signals = Signals(say, settings.devices * settings.nodes == 1 and processes.started() == 1)
    checkpoint = Checkpoint(folder / "checkpoints", save_every, signals)
    setup.method.log_every, setup.method.survey.folder, setup.method.survey.say = curve.every, folder, say
    stages = Stages(folder / "stages.json", curve, validating)
    callbacks = [curve, stages, *([patience] if patience else []), checkpoint, *([bar] if bar else [])]
    return Watched(callbacks, curve, patience, checkpoint, signals, loggers)


def logged(run: Run, loggers: Loggers, step: int) -> Run:
    """The run, its scores told to the loggers."""
    loggers.finished(run.scores, step)
    return run


def finish_alone(
    folder: Path,
    method: str,
    data: Data,
    setup: building.Setup,
    task: Task | None,
    record: dict[str, Any],
    curve: Curve,
    say: Say,
    kept: Mapping[str, int] | None = None,
) -> Run:
    """What the first process does once all have trained: costs, scores, the model's folder. kept: with --patience the
    step whose weights the model has, and the last one."""
    if not processes.leader():
        return Run(folder, method, record, {}, {})
    cost = {
        "seconds": curve.seconds,
        "samples": curve.samples,
        "peak_mib": peak_mib(),
        "samples_per_second": curve.samples / curve.seconds if curve.seconds else 0.0,
        **(kept or {}),
    }
    masked = masked_share(folder / "curve.jsonl")
    if masked:
        cost["masked"] = masked
        say(f"{masked:.2%} of the pairs in a batch were duplicates or known positives and were not pushed apart")
    return finish(folder, method, data, setup, task, record, cost)


def masked_share(curve: Path) -> float:
    """The mean share of pairs of a batch that were hidden from each other, as the curve logged it."""
    values = [line["masked"] for line in curve_lines(curve) if "masked" in line]
    return sum(values) / len(values) if values else 0.0


def run_trainer(trainer: Any, setup: building.Setup, checkpoint: Path | None, signals: Signals) -> None:
    with warnings.catch_warnings():
        for text in (
            ".*does not have many workers.*",
            ".*lr_scheduler.step.*",
            ".*treespec.*",
            ".*IterableDataset.*",
            ".*in eval mode.*",
            ".*dataloader is not resumable.*",
            ".*broadcast_buffers. is deprecated.*",
        ):
            warnings.filterwarnings("ignore", text)
        setup.method.train()  # pretrained encoders arrive in evaluation mode, with their dropout off
        resumed = {} if checkpoint is None else {"ckpt_path": str(checkpoint), "weights_only": True}
        try:
            trainer.fit(setup.method, setup.loader, **resumed)
        except SystemExit:  # Lightning's answer to a signal
            if not trainer.interrupted:
                raise
            raise Stopped(signals.asked or signal.SIGINT) from None
    signals.check()


def resume_from(path: Path) -> int | None:
    """The step to go on from; None where no checkpoint was written yet."""
    if not path.exists():
        return None
    files.check_zip(path, BROKEN)
    return int(loaded(path, "global_step"))


def loaded(path: Path, part: str) -> Any:
    """One part of a checkpoint. Raises InputError where the file is damaged or holds no such part."""
    with files.reading(path, BROKEN):
        return torch.load(path, map_location="cpu", weights_only=True)[part]


def load_finished(setup: building.Setup, path: Path, curve: Curve) -> None:
    with files.reading(path, BROKEN):
        setup.method.load_state_dict(loaded(path, "state_dict"))
        curve.load_state_dict(loaded(path, "callbacks")[curve.state_key])


def finish(
    folder: Path,
    method: str,
    data: Data,
    setup: building.Setup,
    task: Task | None,
    record: dict[str, Any],
    cost: dict[str, float],
) -> Run:
    """Scores on validation and test data, then the model folder."""
    scores: dict[str, Any] = {}
    answers = setup.method.inference()
    if task is not None:
        for split in ("val", "test"):
            if len(data.splits.get(split, ())):
                found = measured(task, setup, data, split)
                scores[split] = found.to_dict()
                if answers is not None and split == "val":
                    answers.keep(found.chosen)
    facts = {
        "method": method,
        "data_hash": data.hash,
        "split_hash": data.split_hash,
        "seed": setup.settings.seed,
        "precision": setup.settings.precision,
        "batch_size": setup.resolved["batch_size"],
        "steps": setup.loader.steps,
        "versions": record["versions"],
    }
    with eagerly(setup.settings):
        save_model(folder / "model", method, data, setup, task, record, scores, answers)
    summary = task.summary() if task else None
    write_json(
        folder / "scores.json",
        facts
        | {
            "task": task.describe() if task else None,
            "summary": summary,
            "scores": scores,
            "cost": cost,
        },
        checksum=True,
    )
    return Run(folder, method, record, scores, cost, summary)


def save_model(
    folder: Path,
    method: str,
    data: Data,
    setup: building.Setup,
    task: Task | None,
    record: dict[str, Any],
    scores: dict[str, Any],
    answers: Inference | None,
) -> None:
    from nearfar import models

    trained: Any = setup.method
    towers = {role: (t.encoder, t.head if t.kept else None) for role, t in trained.towers().items()}
    paper = type(trained).paper
    config = {
        "method": method,
        "options": record["options"],
        "similarity": trained.similarity,
        "trained_on": {
            "name": data.name,
            "rows": len(setup.rows),
            "data_hash": data.hash,
            "split_hash": data.split_hash,
        },
    }
    if trained.nesting is not None:
        config["dims"] = list(trained.nesting.widths)
    card = {
        "method": method,
        "paper": f"{paper.title} ({paper.venue})",
        "link": paper.link,
        "data": data.name,
        "rows": record["rows"],
        "resolved": record["resolved"],
        "task": task.describe() if task else "",
        "scores": {k: v["primary"] for k, v in scores.items()},
        "command": record["command"],
        "licence": data.meta.get("licence", ""),
        "versions": record["versions"],
    }
    known = seen_rows.merged(
        seen_rows.rows_of(data, trained.reads, setup.rows),
        *(seen_rows.read(one) for one in building.weights_of(setup.settings)),  # these had seen rows of their own
    )
    items = example_items(data, towers)
    models.save_model(folder, towers, config, card, items, known, answers)


def example_items(data: Data, towers: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    """A few real items a role, with which a saved model checks itself; none of a kind that the data lack (a text tower
    that reads prompts alone)."""
    rows, kinds = data.splits["train"][:16], modalities.kinds(data.content_roles)
    return {role: modalities.of(role).kept(data, role.partition("/")[0], rows, encoder)
            for role, (encoder, _) in towers.items() if modalities.of(role).name in kinds}  # fmt: skip
