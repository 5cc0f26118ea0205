"""Built-in data sets: one file each, found by file. A file registers one function that returns a `Raw`; of `split`,
`seed`, `limit` and `cache` (the folder of derived data) it takes what it needs. Other packages name theirs as entry
points of the group "nearfar.data_sets"."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from nearfar.registry import DATA_SETS, name_of
from nearfar.sources.raw import Raw

F = TypeVar("F", bound=Callable[..., Raw])


def register(function: F) -> F:
    """Decorator: a data set is known by the name of its file."""
    DATA_SETS.add(name_of(function), function)
    return function


def names() -> list[str]:
    return DATA_SETS.names()


def open_set(name: str, **given: Any) -> Raw:
    """The rows of a built-in data set; given: split, seed, limit and cache."""
    function = DATA_SETS.get(name)
    taken = inspect.signature(function).parameters
    return function(**{key: value for key, value in given.items() if key in taken})
