"""`nearfar evaluate` and `nearfar diagnose`: what a model is worth on data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from nearfar import options
from nearfar.checks import PositiveInt
from nearfar.cli import help as helping
from nearfar.cli import tables
from nearfar.cli.common import Output, emit, parse, show_help, speaker, wants_help
from nearfar.training.settings import DataSettings, with_tasks


@with_tasks
@dataclass
class MeasureOptions:
    """What is measured.

    Args:
        task: {tasks}; default what the method of the model names, else the first that the data hold. The options of a
            task stand beside it.
        on: the split that is looked at.
        variant: which of the vectors of one input, where the model gives several.
        dims: of every vector its first numbers alone, of length 1 by themselves; default all, and in `evaluate` beside
            them the prefixes that the model was trained for.
    """

    task: str | None = None
    variant: str | None = None
    dims: PositiveInt | None = None
    on: Literal["train", "val", "test"] = "test"


def measuring(words: list[str], usage: str) -> tuple[list[str], Any, dict[str, Any]]:
    """Positional words, checked options, and those of a task among them, of a command that measures."""
    base = [MeasureOptions, Output, DataSettings]
    if wants_help(words):
        show_help(usage, base, helping.tasks())
    from nearfar.evaluation import tasks

    targets = [*base, *tasks.classes()]
    places, given = parse(words, targets, (2,), usage)
    checked = options.checked(targets, given)
    return places, checked, {name: getattr(checked, name) for name in tasks.option_names() if name in given}


def run_evaluate(words: list[str]) -> None:
    places, checked, own = measuring(words, "nearfar evaluate MODEL DATA")
    from nearfar import using

    with tables.bar("measuring") as progress:
        found = using.evaluate(
            places[0],
            places[1],
            task=checked.task,
            on=checked.on,
            variant=checked.variant,
            dims=checked.dims,
            data_settings=options.build(DataSettings, checked),
            say=speaker(True),
            progress=progress,
            **own,
        )
    emit(found) if checked.json else tables.evaluation(found)


def run_diagnose(words: list[str]) -> None:
    places, checked, own = measuring(words, "nearfar diagnose MODEL DATA")
    from nearfar import using

    with tables.bar("reading factors") as progress:
        found = using.diagnose(
            places[0],
            places[1],
            task=checked.task,
            on=checked.on,
            variant=checked.variant,
            dims=checked.dims,
            progress=progress,
            data_settings=options.build(DataSettings, checked),
            **own,
        )
    emit(found) if checked.json else tables.diagnosis(found)
