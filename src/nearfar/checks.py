"""Which values an option may take: written once, in the type of the signature, and refused in one form of words.

    def __init__(self, size: PositiveInt | Literal["auto"] = "auto", start: UnitInterval = 0.1): ...

The command line, a config file and keyword arguments are checked by `options.checked`; a method that is called by hand
by `options.complete`, another class by `checked_init`; the fields of a settings dataclass by `check_fields`.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from nearfar.errors import InputError, did_you_mean

TYPES_ALONE = ("Batch", "Data", "Method", "Setup", "Task")


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; `open_low` and `open_high` leave out the ends. NaN lies in none."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return math.isfinite(value) and above and (value < self.high if self.open_high else value <= self.high)

    def words(self, whole: bool, above: bool = False) -> str:
        """ "a whole number of at least 1", "a number in (0, inf)"; `above`: the value was too large."""
        if not whole and self == ANY:
            return "a finite number"
        if not whole:
            left = "(" if self.open_low or self.low == -math.inf else "["
            right = ")" if self.open_high or self.high == math.inf else "]"
            return f"a number in {left}{self.low:g}, {self.high:g}{right}"
        if whole and self == ANY:
            return "a whole number"
        if self.high in (math.inf, MOST):
            return f"a whole number of at least {self.low:.0f}{' (and at most 10^9)' if above else ''}"
        return f"a whole number from {self.low:.0f} to {self.high:.0f}"


ANY = Range()
F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)
MOST = 10**9
"""No count of anything is larger."""
PositiveInt = Annotated[int, Range(1, MOST)]
NonNegativeInt = Annotated[int, Range(0, MOST)]
Width = Annotated[int, Range(1, 65_536)]
"""Numbers of a vector or of a hidden layer."""
WidthOrNone = Annotated[int, Range(0, 65_536)]
"""A width, 0 for no layer at all."""
Seed = Annotated[int, Range(0, 2**32 - 1)]
PositiveFloat = Annotated[float, Range(0, open_low=True)]
NonNegativeFloat = Annotated[float, Range(0)]
UnitInterval = Annotated[float, Range(0, 1)]
PositiveShare = Annotated[float, Range(0, 1, open_low=True)]
"""A share that is not nothing."""
ShareBelowOne = Annotated[float, Range(0, 1, open_high=True)]


def check(name: str, value: Any, kind: Any, what: str = "option") -> None:
    """Raises InputError unless `value` is what its type `kind` says, for example `PositiveInt | Literal["auto"]`,
    `str | Path` or `tuple[UnitInterval, UnitInterval]`. Types that are more than numbers, words and paths are left to
    others, but a number beside them must lie in its range."""
    kinds = _alternatives(kind)
    if any(_accepts(value, one) for one in kinds):
        return
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if (number and any(_range(one) for one in kinds)) or all(_simple(one) for one in kinds):
        words = list(dict.fromkeys(_words(one, value) for one in kinds))
        raise InputError(f"The {what} '{name}' must be {' or '.join(words)}. Got {_shown(value)} instead.")


@functools.cache
def hints(target: Any, *, ranges: bool = True) -> Mapping[str, Any]:
    """The types in a signature or a dataclass by name. What a file names for type checkers alone (the data, a task) is
    no option and may be anything.

    ranges: with the ranges that stand beside the types.
    """
    found = typing.get_type_hints(target, localns=dict.fromkeys(TYPES_ALONE, Any), include_extras=ranges)
    return types.MappingProxyType(found)


def check_arguments(target: Callable[..., Any], given: Mapping[str, Any], what: str = "option") -> None:
    """`check` of values by name against the annotations of a function, a constructor or a dataclass."""
    kinds = hints(target)
    for name, value in given.items():
        if name in kinds:
            check(name, value, kinds[name], what)


def check_fields(settings: Any) -> None:
    """`check` of all fields of a dataclass."""
    check_arguments(type(settings), {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)})


def _named(order: inspect.Signature, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments by name, without *args and **kwargs; none where there are too many or too few, which Python itself
    tells."""
    try:
        given = order.bind(*args, **kwargs).arguments
    except TypeError:
        return {}
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: value for name, value in given.items() if order.parameters[name].kind not in several}


def checked_init(cls: C) -> C:
    """Class decorator: the constructor's own arguments are checked before it runs."""
    if "__init__" not in cls.__dict__ or hasattr(cls.__init__, "__wrapped__"):
        return cls
    init, order = cls.__init__, inspect.signature(cls.__init__)

    @functools.wraps(init)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        check_arguments(init, _named(order, self, *args, **kwargs))
        init(self, *args, **kwargs)

    cls.__init__ = __init__  # pyright: ignore[reportAttributeAccessIssue]
    return cls


def checked(function: F) -> F:
    """Decorator of a public function: its arguments are checked against their annotations before it runs."""
    order = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        check_arguments(function, _named(order, *args, **kwargs), "argument")
        return function(*args, **kwargs)

    return typing.cast(F, call)


def one_of(name: str, value: Any, known: typing.Iterable[Any]) -> None:
    """Raises InputError unless the value is one of the known words."""
    known = list(known)
    if value not in known:
        raise InputError(
            f"The option '{name}' must be {' or '.join(repr(k) for k in known)}. Got {value!r} instead."
            f"{did_you_mean(str(value), [str(k) for k in known])}"
        )


def _alternatives(kind: Any) -> list[Any]:
    """The members of a union, or the type itself."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return [one for part in typing.get_args(kind) for one in _alternatives(part)] if union else [kind]


def _range(kind: Any) -> tuple[bool, Range] | None:
    """(whether whole, range) of a number's type; None for what is not one."""
    if typing.get_origin(kind) is Annotated:
        base, *notes = typing.get_args(kind)
        limits = next((note for note in notes if isinstance(note, Range)), ANY)
        return (base is int, limits) if base in (int, float) else None
    return (kind is int, ANY) if kind in (int, float) else None


def _accepts(value: Any, kind: Any) -> bool:
    number, origin = _range(kind), typing.get_origin(kind)
    if number:
        whole, limits = number
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        return real and not (whole and not isinstance(value, numbers.Integral)) and float(value) in limits
    if kind is Any or kind in (None, type(None)):
        return kind is Any or value is None
    if origin is Literal:
        return any(value == word and type(value) is type(word) for word in typing.get_args(kind))
    if origin in _LISTS:
        return isinstance(value, list | tuple) and _each(value, typing.get_args(kind))
    if kind is Path:
        return isinstance(value, os.PathLike)
    return isinstance(value, origin or kind) if isinstance(origin or kind, type) else True


def _each(values: Any, kinds: tuple[Any, ...]) -> bool:
    if not kinds:
        return True
    if len(kinds) == 1 or (len(kinds) == 2 and kinds[1] is Ellipsis):
        kinds = kinds[:1] * len(values)
    return len(values) == len(kinds) and all(
        any(_accepts(value, one) for one in _alternatives(kind)) for value, kind in zip(values, kinds, strict=True)
    )


def _simple(kind: Any) -> bool:
    """Whether a value of this type can be told by looking at it."""
    if typing.get_origin(kind) in _LISTS:
        inner = [one for part in typing.get_args(kind) if part is not Ellipsis for one in _alternatives(part)]
        return all(_simple(one) for one in inner)
    plain = kind in (str, bool, Path, None, type(None))
    return plain or _range(kind) is not None or typing.get_origin(kind) is Literal


_LISTS = (list, tuple, collections.abc.Sequence)


def _words(kind: Any, value: Any) -> str:
    number = _range(kind)
    if number:
        return number[1].words(number[0], isinstance(value, numbers.Real) and float(value) > MOST)
    if typing.get_origin(kind) is Literal:
        return " or ".join(f"'{word}'" for word in typing.get_args(kind))
    if typing.get_origin(kind) in _LISTS:
        parts = [part for part in typing.get_args(kind) if part is not Ellipsis]
        one = " or ".join(dict.fromkeys(_words(k, value) for part in parts[:1] for k in _alternatives(part)))
        fixed = typing.get_origin(kind) is tuple and Ellipsis not in typing.get_args(kind)
        return f"{len(parts)} values, each {one}" if fixed else f"a list of values, each {one}" if one else "a list"
    named = {str: "a text", bool: "true or false", Path: "a path", None: "none", type(None): "none"}
    return named.get(kind, getattr(kind, "__name__", str(kind)))


def _shown(value: Any) -> str:
    text = str(value) if isinstance(value, numbers.Real) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
