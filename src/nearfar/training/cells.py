"""The cells of a comparison, one method with one seed each: trained by this process, or by the workers of a cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearfar import files, workers
from nearfar.progress import Say
from nearfar.training import engine
from nearfar.training.entries import Entry
from nearfar.training.settings import DataSettings, TrainSettings

PLAN = "plan.json"  # of the comparison (or round) that a cell belongs to
STAYS = ("checkpoints", files.LOCK)  # what nobody needs of a finished run


@dataclass(frozen=True)
class Cell:
    """A method with options of its own, settings with their seed, and the run's folder."""

    slug: str
    options: Mapping[str, Any]
    settings: TrainSettings
    run: Path

    @property
    def done(self) -> bool:
        return (self.run / "scores.json").exists()


Train = Callable[[Cell], None]
"""Trains a cell to its end, or raises what went wrong."""
Trained = Callable[[Path, Sequence[Cell]], contextlib.AbstractContextManager[Train]]
"""Takes the folder of a comparison and its cells that are not finished; `Train` is asked for these while it is open."""
Files = Mapping[str, bytes]


def cells_of(folder: Path, one: Entry, settings: TrainSettings, seeds: int) -> list[Cell]:
    """The cells of one row."""
    return [
        Cell(one.slug, one.options, dataclasses.replace(settings, seed=seed), folder / "cells" / f"{one.name}-s{seed}")
        for seed in range(seeds)
    ]


def train(data: Any, progress: bool, cell: Cell) -> None:
    """Trains a cell, or goes on with it where it was begun."""
    engine.fit(
        cell.slug,
        data,
        out=cell.run,
        resume=(cell.run / "config.json").exists(),
        progress=progress,
        settings=cell.settings,
        data_settings=DataSettings(),
        **cell.options,
    )


@contextmanager
def trained_here(data: Any, progress: bool, folder: Path, cells: Sequence[Cell]) -> Iterator[Train]:
    """One cell after the other."""
    yield functools.partial(train, data, progress)


@contextmanager
def trained_on(on: str, data: workers.SameData, say: Say, folder: Path, cells: Sequence[Cell]) -> Iterator[Train]:
    """All cells at once, as far as there are workers. Those that reach the comparison's folder write into it and resume
    there; others send what they made."""
    if not cells:
        yield functools.partial(train, data, False)
        return
    jobs = [dataclasses.replace(cell, run=cell.run.absolute()) for cell in cells]
    make = functools.partial(cell_trainer, data, folder.absolute() / PLAN, (folder / PLAN).read_bytes())
    answers: dict[Path, Files | Exception | None] = {}
    gpus = any(cell.settings.device != "cpu" for cell in cells)
    with workers.connected(on, gpus) as cluster, contextlib.closing(workers.spread(cluster, make, jobs)) as coming:
        say(cluster.words(len(jobs)))

        def wait(cell: Cell) -> None:
            while cell.run not in answers:
                number, answer = next(coming)
                answers[cells[number].run] = answer
            found = answers[cell.run]
            if isinstance(found, Exception):
                raise found
            if found is not None:
                receive(cell, found)

        yield wait


def cell_trainer(data: workers.SameData, plan: Path, content: bytes) -> Callable[[Cell], Files | None]:
    """What a worker keeps. It reaches the comparison's folder where it reads the same plan there."""
    opened = data.open()
    reached = plan.is_file() and plan.read_bytes() == content

    def trained(cell: Cell) -> Files | None:
        if reached:
            train(opened, False, cell)
            return None
        with tempfile.TemporaryDirectory(prefix="nearfar-") as place:
            own = dataclasses.replace(cell, run=Path(place) / cell.run.name)
            train(opened, False, own)
            return made(own.run)

    return trained


def made(run: Path) -> Files:
    """The files of a finished run by their paths in it."""
    there = [path for path in run.rglob("*") if path.is_file() and path.relative_to(run).parts[0] not in STAYS]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in there}


def receive(cell: Cell, found: Files) -> None:
    """Writes a run that another machine made."""
    with files.writing(cell.run), files.whole(cell.run) as fresh:
        for name, content in found.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_bytes(content)
