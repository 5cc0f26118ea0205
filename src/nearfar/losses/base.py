"""A loss as a part of a method: what it promises, and how a function of one similarity becomes one."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

from torch import Tensor

from nearfar.checks import checked_init
from nearfar.errors import InputError, did_you_mean
from nearfar.options import read
from nearfar.similarity import Similarity

F = TypeVar("F", bound=FunctionType)
parts: dict[str, type[RowLoss]] = {}


class RowLoss:
    """A loss over one similarity; the temperature belongs to the method that makes the similarity.

    `bounded_below`: whether the loss cannot be negative (for the reader of a curve).
    `tempered`: whether it has a temperature; else it gets similarities at temperature 1.
    `positives`: None for one declared positive an anchor; else which items of a batch are positives of each other
    besides: "group", a column of labels, or "auto" (the first column of labels, else the groups).
    `several`: whether it reads all declared positives of an anchor at once, where a layout can declare several.
    `graded`: whether it reads the scores of given pairs (`of_pairs`) and not who is a positive.
    A subclass is known by its `name` on the command line, default its own in lower case.
    """

    bounded_below = True
    tempered = True
    positives: str | None = None
    several = False
    graded = False

    def __init_subclass__(cls, name: str = "", **kwargs):
        super().__init_subclass__(**kwargs)
        checked_init(cls)
        parts.setdefault(name or cls.__name__.lower(), cls)  # a namesake of one's own does not displace a built-in one

    def __call__(self, s: Similarity) -> Tensor:
        raise TypeError(f"{type(self).__name__} is not a loss of one similarity")

    def of_pairs(self, a: Tensor, b: Tensor, score: Tensor, temperature: Tensor) -> Tensor:
        """The loss of pairs (n, D) with scores (n,), over all processes."""
        raise TypeError(f"{type(self).__name__} does not read scores")


def build(name: str, **options: Any) -> RowLoss:
    """The loss of that name on the command line with its options; InputError for a wrong name or option."""
    if name not in parts:
        raise InputError(f"There is no loss '{name}'.{did_you_mean(name, parts)}", f"Known: {', '.join(parts)}.")
    known = list(read(parts[name]))
    for option in options:
        if option not in known:
            raise InputError(f"The loss '{name}' has no option '{option}'.{did_you_mean(option, known)}",
                             f"Options: {', '.join(known) or 'none'}.")  # fmt: skip
    return parts[name](**options)


def row_loss(
    name: str, *, bounded_below: bool = True, tempered: bool = True, several: bool = False
) -> Callable[[F], F]:
    """Decorator of a function `rows(s, *, options) -> (N,)`: makes it a part, `--loss name` in lower case.

    The part is a class `name` in the function's module; its options are the function's keyword arguments, with their
    types, defaults and descriptions. The function itself stays as it is. See `RowLoss` for the three facts.
    """

    def add(function: F) -> F:
        facts = {"bounded_below": bounded_below, "tempered": tempered, "several": several}
        function.__globals__[name] = _part(name, function, facts)  # where a stored run finds it again
        return function

    return add


def _part(name: str, function: Callable[..., Tensor], facts: dict[str, Any]) -> type[RowLoss]:
    _, *options = inspect.signature(function).parameters.values()
    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    order = inspect.Signature([this, *(p.replace(kind=this.kind) for p in options)])

    def __init__(self: Any, *args: Any, **given: Any) -> None:
        bound = order.bind(self, *args, **given)
        bound.apply_defaults()
        for option in options:
            setattr(self, option.name, bound.arguments[option.name])

    def __call__(self: Any, s: Similarity) -> Tensor:
        return function(s, **{option.name: getattr(self, option.name) for option in options})

    made: Any = __init__
    hints = typing.get_type_hints(function, include_extras=True)
    made.__signature__, made.__annotations__ = order, {p.name: hints[p.name] for p in options if p.name in hints}
    made.__qualname__ = f"{name}.__init__"
    body = {"__init__": made, "__call__": __call__, "__doc__": function.__doc__, "__module__": function.__module__}
    return type(name, (RowLoss,), body | facts)
