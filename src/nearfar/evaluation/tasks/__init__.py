"""What "better" means on given data: a task, one file each, found by file. Chosen once from the data, the same for all.

<name>.py -> class with possible, priority, options, metrics, references, evaluate (`nearfar.evaluation.task.Task`)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nearfar import modalities as kinds
from nearfar import options
from nearfar.errors import InputError, did_you_mean
from nearfar.evaluation.task import Part, Reference, Scores, Table, Task, register
from nearfar.registry import TASKS
from nearfar.units import Metric

if TYPE_CHECKING:
    from nearfar.sources.data import Data

__all__ = [
    "Metric",
    "Part",
    "Reference",
    "Scores",
    "Table",
    "Task",
    "classes",
    "names",
    "option_names",
    "parsed",
    "possible",
    "register",
    "task_for",
]


def names() -> list[str]:
    """All tasks, nearfar's own first."""
    return TASKS.names()


def classes() -> list[type[Task]]:
    return [get(name) for name in names()]


def get(name: str) -> type[Task]:
    """The class of a task. Raises InputError, with the nearest name, for an unknown one."""
    cls = TASKS.get(name)
    cls.kind = name
    return cls


def option_names() -> list[str]:
    """Names of the options of all tasks."""
    return options.names(classes())


def possible(data: Data, modalities: Sequence[str] | None = None) -> list[str]:
    """Names of the tasks that the data allow, those of the highest priority first."""

    def order(name: str) -> float:
        priority = get(name).priority(data)
        return float("inf") if priority is None else -priority

    return sorted((name for name in names() if get(name).possible(data, modalities)), key=order)


def task_for(
    data: Data,
    kind: str | None = None,
    *,
    modalities: Sequence[str] | None = None,
    shared: Mapping[str, Any] | None = None,
    before: str | None = None,
    **given: Any,
) -> Task:
    """The task that the data allow: masks, else scores of pairs, else pairs, else groups, else labels, else a proxy
    (groups go before pairs where rows carry a domain).

    Args:
        kind: another one, with options if wanted: "few-shot --ways 3".
        modalities: the kinds of data that the models at hand embed; default all.
        shared: options of several tasks, of which the chosen one takes what it has.
        before: a task that goes before all others where the data allow it and `kind` names none.
        given: options of the task; None stands for the default.

    Raises InputError for an unknown kind, one that the data lack the roles for, and an option that is not the task's.
    """
    found = possible(data, modalities)
    if not found:
        raise InputError(f"{data.name} has no column of {kinds.words()} that a task asks for.", "Name one with a role.")
    if kind is None or kind == "auto":
        usual = next((name for name in found if get(name).priority(data) is not None), found[0])
        name = before if before in found else usual
    else:
        name, own = parsed(kind)
        given = own | given
    if name not in found:
        raise InputError(
            f"{data.name} cannot be measured by '{name}'.",
            f"{get(name).needs} Possible here: {', '.join(found)}.".strip(),
        )
    taken = {key: value for key, value in (shared or {}).items() if key in options.names([get(name)])}
    return get(name)(data, modalities=modalities, **checked_options(name, taken | given))


def parsed(spec: str) -> tuple[str, dict[str, Any]]:
    """ "few-shot --ways 3" -> name and options; values with blanks stand in quotes. Raises InputError for what is
    unknown."""
    name, *words = options.words_of("task", spec) or [""]
    return name, options.from_command_line([get(name)], words)


def checked_options(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options given, converted and checked; None is left out."""
    known, cls = options.names([get(name)]), get(name)
    given = {key: value for key, value in given.items() if value is not None}
    for key in given:
        if key not in known:
            owners = [other for other in names() if key in options.names([get(other)])]
            whose = f" It is one of {', '.join(owners)}." if owners else did_you_mean(key, known)
            raise InputError(
                f"The task '{name}' has no option '{key}'.{whose}", f"It has: {', '.join(known) or 'none'}."
            )
    checked = options.checked([cls], given)
    return {key: getattr(checked, key) for key in given}
