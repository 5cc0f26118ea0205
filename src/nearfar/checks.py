"""Which values an option may take: written once, in the type of the signature, and refused in one form of words.

    def __init__(self, size: PositiveInt | Literal["auto"] = "auto", start: UnitInterval = 0.1): ...

The command line, a config file and keyword arguments are checked by `options.checked`; a class that is called by
hand by `checked_init`; the fields of a settings dataclass by `check_fields`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import numbers
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from nearfar.errors import InputError


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
        """"a whole number of at least 1", "a number in (0, inf)"; `above`: the value was too large."""
        if not whole:
            left = "(" if self.open_low or self.low == -math.inf else "["
            right = ")" if self.open_high or self.high == math.inf else "]"
            return f"a number in {left}{self.low:g}, {self.high:g}{right}"
        if self.high in (math.inf, MOST):
            return f"a whole number of at least {self.low:.0f}{' (and at most 10^9)' if above else ''}"
        return f"a whole number from {self.low:.0f} to {self.high:.0f}"


ANY = Range()
MOST = 10**9
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


def check(name: str, value: Any, kind: Any) -> None:
    """Raises InputError unless the numbers of `value` lie in the ranges of its type `kind`, for example `PositiveInt |
    Literal["auto"]` or `tuple[UnitInterval, UnitInterval]`. Words, None and objects are left to others."""
    if isinstance(value, list | tuple):
        places = [found for found in _alternatives(kind) if typing.get_origin(found) in (tuple, list)]
        if places:
            _check_each(name, value, typing.get_args(places[0]))
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return
    found = [_range(one) for one in _alternatives(kind)]
    allowed = [(whole, limits) for whole, limits in (f for f in found if f is not None)]
    if not allowed or any(_holds(value, whole, limits) for whole, limits in allowed):
        return
    words = [f"'{word}'" for word in _words(kind)] + [limits.words(whole, value > MOST) for whole, limits in allowed]
    raise InputError(f"The option '{name}' must be {' or '.join(dict.fromkeys(words))}. Got {value} instead.")


def check_arguments(target: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """`check` of values by name against the annotations of a function, a constructor or a dataclass."""
    kinds = typing.get_type_hints(target, include_extras=True)
    for name, value in given.items():
        if name in kinds:
            check(name, value, kinds[name])


def check_fields(settings: Any) -> None:
    """`check` of all fields of a dataclass."""
    check_arguments(type(settings), {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)})


def checked_init(cls: type) -> type:
    """Class decorator: the constructor's own arguments are checked before it runs."""
    if "__init__" not in cls.__dict__ or hasattr(cls.__init__, "__wrapped__"):
        return cls
    init, order = cls.__init__, inspect.signature(cls.__init__)

    @functools.wraps(init)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            given = order.bind(self, *args, **kwargs).arguments
        except TypeError:
            given = {}  # too many or too few: Python itself says so below
        check_arguments(init, given)
        init(self, *args, **kwargs)

    cls.__init__ = __init__  # pyright: ignore[reportAttributeAccessIssue]
    return cls


def one_of(name: str, value: Any, known: typing.Iterable[Any]) -> None:
    """Raises InputError unless the value is one of the known words."""
    from nearfar.errors import did_you_mean

    known = list(known)
    if value not in known:
        raise InputError(
            f"The option '{name}' must be {' or '.join(repr(k) for k in known)}. Got {value!r} instead."
            f"{did_you_mean(str(value), [str(k) for k in known])}"
        )


def _check_each(name: str, values: Any, kinds: tuple[Any, ...]) -> None:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = kinds[:1] * len(values)
    if len(values) != len(kinds):
        raise InputError(f"The option '{name}' takes {len(kinds)} values. Got {len(values)}: {list(values)}.")
    for value, kind in zip(values, kinds, strict=True):
        check(name, value, kind)


def _alternatives(kind: Any) -> list[Any]:
    """The members of a union, or the type itself."""
    union = typing.get_origin(kind) is typing.Union or type(kind).__name__ == "UnionType"
    return [one for part in typing.get_args(kind) for one in _alternatives(part)] if union else [kind]


def _range(kind: Any) -> tuple[bool, Range] | None:
    """(whether whole, range) of a number's type; None for what is not one."""
    if typing.get_origin(kind) is Annotated:
        base, *notes = typing.get_args(kind)
        limits = next((note for note in notes if isinstance(note, Range)), ANY)
        return (base is int, limits) if base in (int, float) else None
    return (kind is int, ANY) if kind in (int, float) else None


def _words(kind: Any) -> list[str]:
    return [str(w) for one in _alternatives(kind) if typing.get_origin(one) is Literal for w in typing.get_args(one)]


def _holds(value: Any, whole: bool, limits: Range) -> bool:
    if whole and (not math.isfinite(value) or int(value) != value):
        return False
    return value in limits
