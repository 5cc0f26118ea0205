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


def run_evaluate(words: list[str]) -> None:
    found, as_json = measured("evaluate", words, "measuring", say=speaker(True))
    emit(found) if as_json else tables.evaluation(found)


def run_diagnose(words: list[str]) -> None:
    found, as_json = measured("diagnose", words, "reading factors")
    emit(found) if as_json else tables.diagnosis(found)


def measured(command: str, words: list[str], what: str, **more: Any) -> tuple[Any, bool]:
    """What the function of `using` with the command's name found, and whether it is printed as JSON."""
    base, usage = [MeasureOptions, Output, DataSettings], f"nearfar {command} MODEL DATA"
    if wants_help(words):
        show_help(usage, base, helping.tasks())
    from nearfar import using
    from nearfar.evaluation import tasks

    targets = [*base, *tasks.classes()]
    places, given = parse(words, targets, (2,), usage)
    checked = options.checked(targets, given)
    own = {name: getattr(checked, name) for name in tasks.option_names() if name in given}
    with tables.bar(what) as progress:
        found = getattr(using, command)(
            *places,
            task=checked.task,
            on=checked.on,
            variant=checked.variant,
            dims=checked.dims,
            data_settings=options.build(DataSettings, checked),
            progress=progress,
            **more,
            **own,
        )
    return found, checked.json
