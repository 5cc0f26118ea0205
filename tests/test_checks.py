"""Values against the types of signatures."""

import math
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar import checks, methods, options
from nearfar.checks import NonNegativeInt, PositiveFloat, PositiveInt, Range, ShareBelowOne, UnitInterval, Width
from nearfar.cli.answer import GenerateOptions, PredictOptions
from nearfar.cli.common import Output
from nearfar.cli.compare import CompareOptions
from nearfar.cli.embed import EmbedOptions
from nearfar.cli.fit import FitOptions
from nearfar.cli.measure import MeasureOptions
from nearfar.cli.search import SearchOptions
from nearfar.errors import InputError
from nearfar.training.settings import DataSettings, TrainSettings

KINDS = [
    (PositiveInt, [1, 10**9, np.int64(3)], [0, -1, 1.0, True, "1", None, 10**10, math.nan]),
    (PositiveInt | Literal["auto"], [1, "auto"], [0, "car", None]),
    (NonNegativeInt | None, [0, None], [-1, "0", 0.5]),
    (PositiveFloat, [0.1, 1, 1e30, np.float32(2)], [0, -0.1, math.nan, math.inf, "0.1", True, [1]]),
    (UnitInterval, [0, 1, 0.5], [-1e-9, 1.0000001, math.nan]),
    (ShareBelowOne, [0, 0.999], [1, -0.1]),
    (tuple[UnitInterval, UnitInterval], [(0, 1), [0.5, 0.5]], [(0, 2), (1,), (0, 0, 0), 0.5, "01"]),
    (float, [0, -1.5], [math.nan, math.inf, "x"]),
    (bool, [True, False], [1, "yes", None]),
    (str | Path, ["a", Path("a")], [3, None, b"a", ["a"]]),
    (list[str], [["a"], []], ["a", [3], None]),
    (Literal["a", "b"], ["a"], ["c", 1, None, ["a"]]),
]


@pytest.mark.parametrize(("kind", "right", "wrong"), KINDS)
def test_values(kind, right, wrong):
    for value in right:
        checks.check("x", value, kind)
    for value in wrong:
        with pytest.raises(InputError, match=r"'x' must be .* Got .* instead"):
            checks.check("x", value, kind)


def test_types_that_cannot_be_told_are_left_to_others():
    checks.check("x", object(), options.Any)
    checks.check("x", object(), PositiveInt | dict)
    with pytest.raises(InputError):
        checks.check("x", 0, PositiveInt | dict)


@given(st.floats(), st.floats(), st.floats(), st.booleans(), st.booleans())
def test_ranges(low, high, value, open_low, open_high):
    inside = (low < value if open_low else low <= value) and (value < high if open_high else value <= high)
    assert (value in Range(low, high, open_low, open_high)) == (inside and math.isfinite(value))


@checks.checked
def sample(a: PositiveInt, b: UnitInterval = 0.5, *rest: int, c: str = "x") -> tuple:
    return a, b, rest, c


def test_functions_and_classes():
    assert sample(1, 0.1, 5, c="y") == (1, 0.1, (5,), "y")
    for wrong in [lambda: sample(0), lambda: sample(1, b=2), lambda: sample(1, c=3)]:
        with pytest.raises(InputError, match="The argument"):
            wrong()
    with pytest.raises(TypeError):
        sample()

    @checks.checked_init
    class Thing:
        def __init__(self, size: Width = 3):
            self.size = size

    assert Thing().size == 3
    with pytest.raises(InputError, match="from 1 to 65536"):
        Thing(0)


def test_every_default_is_allowed():
    targets = [TrainSettings, DataSettings, CompareOptions, EmbedOptions, SearchOptions]
    for target in [*targets, *(methods.get(slug) for slug in methods.slugs())]:
        values = {name: default for name, (_, default) in options.signature(target).items()}
        checks.check_arguments(target if target in targets else target.__init__, values)


def test_no_option_of_a_method_bears_the_name_of_one_of_the_commands():
    """`fit mcl DATA --weights x` could mean either, and silently meant the wrong one."""
    commons = [TrainSettings, DataSettings, FitOptions, CompareOptions, MeasureOptions, EmbedOptions, PredictOptions,
               GenerateOptions, Output]  # fmt: skip
    taken = {name for target in commons for name in options.signature(target)}
    for slug in methods.slugs():
        assert not taken & set(options.signature(methods.get(slug))), slug
