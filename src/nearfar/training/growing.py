"""Settings that others add fields to."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nearfar.checks import hints
from nearfar.options import forget

_MADE = ("__init__", "__repr__", "__eq__", "__hash__", "__match_args__")


@dataclass(frozen=True)
class Added:
    """A field: its name, type, default, and what it means."""

    name: str
    type: Any
    default: Any
    meaning: str

    @staticmethod
    def of(settings: type) -> list[Added]:
        """The fields of a dataclass, with the words of its `Args:`."""
        from nearfar.methods.documentation import arguments

        kinds, words = typing.get_type_hints(settings, include_extras=True), arguments(settings)
        return [Added(f.name, kinds[f.name], f.default, words.get(f.name, "")) for f in dataclasses.fields(settings)]


def grown(cls: type, added: Sequence[Added]) -> None:
    """Makes a dataclass have these fields in front of its own; fields that were added earlier go.

    Raises TypeError for a name that stands twice.
    """
    first: dict[str, Any] = cls.__dict__.get("_written") or dict(cls.__annotations__)
    words: str = cls.__dict__.get("_words") or inspect.cleandoc(cls.__doc__ or "")
    names = [*first, *(one.name for one in added)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TypeError(f"The option '{twice[0]}' of {cls.__name__} stands twice: name it differently.")
    for name in cls.__annotations__.keys() - set(names):
        delattr(cls, name)
    for one in added:
        setattr(cls, one.name, one.default)
    for name in _MADE:
        if name in cls.__dict__:
            delattr(cls, name)
    cls.__annotations__ = {one.name: one.type for one in added} | first
    head, mark, own = words.partition("Args:\n")
    cls.__doc__ = head + mark + "".join(f"    {one.name}: {one.meaning}\n" for one in added) + own
    cls._written, cls._words = first, words  # pyright: ignore[reportAttributeAccessIssue]
    dataclass(cls)
    hints.cache_clear()
    forget()
