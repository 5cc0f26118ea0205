"""Options of methods: what each offered stays, and how a class shares, changes and fixes those of its base."""

import inspect
import json
import sys
from pathlib import Path
from typing import Annotated

import pytest

from nearfar import methods, options
from nearfar.checks import Range, UnitInterval
from nearfar.encoders import image
from nearfar.errors import InputError
from nearfar.losses.parts import DCL, InfoNCE
from nearfar.methods import Method, Paper, ViewContrast, register, registry
from nearfar.methods.image.dcl import DecoupledContrast
from nearfar.methods.image.simclr import SimCLR

STORED = json.loads((Path(__file__).parent / "options.json").read_text())


def plain(cls):
    return json.loads(json.dumps(registry.options(cls), default=str))


@pytest.mark.parametrize("slug", STORED["methods"])
def test_a_method_offers_what_it_did(slug):
    """Names, order, types, defaults, the paper's values and descriptions. A change that is meant is made in
    options.json too, and in the changelog."""
    assert plain(methods.get(slug)) == STORED["methods"][slug]


@pytest.mark.parametrize("part", STORED["parts"])
def test_a_part_offers_what_it_did(part):
    kind, _, name = part.partition(".")
    assert plain(options.registries()[kind][name]) == STORED["parts"][part]


def small():
    return image("small", size=32)


@pytest.fixture(scope="module")
def toy():
    """A method that changes a default, fixes an option and adds two, without repeating any other."""

    @register("toy-shared", family="test")
    class Toy(ViewContrast):
        """A toy. Args: share: of nothing; more: of the same."""

        paper = Paper("A toy", "nowhere", "Nothing.")
        defaults = {"temperature": 0.3, "dim": 16}
        fixed = ("momentum", "loss")
        follows = {"share": "views"}

        def __init__(self, encoder, *, share: float = 0.5, more: int = 2, **shared):
            super().__init__(encoder, loss=DCL(), **shared)
            self.share, self.more = share, more

    yield Toy
    registry._registered.pop("toy-shared")


def test_shared_options_come_in_order_with_changed_defaults(toy):
    found = options.signature(toy)
    assert list(found) == ["temperature", "learn_temperature", "views", "share", "more", "negatives", "projector",
                           "dim", "mask_duplicates"]  # fmt: skip
    assert (found["temperature"], found["dim"], found["projector"][1]) == ((float, 0.3), (int, 16), 512)
    assert [o["name"] for o in methods.describe("toy-shared")["options"]] == list(found)
    shown = inspect.signature(toy).parameters
    assert list(shown) == ["encoder", *found]
    assert {p.default for n, p in shown.items() if n == "dim"} == {16}
    assert "share" not in inspect.signature(SimCLR).parameters


def test_the_constructor_fills_in_and_hands_on(toy):
    made = toy(small(), more=3)
    assert (made.dim, made.share, made.more, type(made.row_loss)) == (16, 0.5, 3, DCL)
    assert float(made.tau()) == pytest.approx(0.3)
    assert toy(encoder=small(), temperature=0.7).tau().item() == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"temprature": 0.1}, "Unknown option 'temprature'. Did you mean 'temperature'?"),
        ({"loss": InfoNCE()}, "Unknown option 'loss'."),
        ({"last_norm": True}, "Unknown option 'last_norm'."),
        ({"temperature": -1.0}, r"'temperature' must be a number in \(0, inf\)"),
        ({"more": "x"}, "'more' must be a whole number"),
    ],
)
def test_wrong_keywords_are_told_as_on_the_command_line(toy, given, says):
    with pytest.raises(InputError, match=says):
        toy(small(), **given)
    if "loss" not in given:
        with pytest.raises(InputError, match=says.split(".")[0]):
            options.checked([toy], given)


def test_without_an_encoder_python_says_so(toy):
    with pytest.raises(TypeError, match="encoder"):
        toy()


def test_a_class_without_a_constructor_may_change_those_of_a_finished_method():
    @register("toy-softer", family="test")
    class Softer(DecoupledContrast):
        """DCL, softer."""

        defaults = {"temperature": 0.5, "sigma": 0.25}
        fixed = ("negatives",)

    try:
        before, after = options.signature(DecoupledContrast), options.signature(Softer)
        assert list(after) == [name for name in before if name != "negatives"]
        made = Softer(small())
        assert float(made.tau()) == pytest.approx(0.5)
        assert made.row_loss.sigma == 0.25
        assert float(DecoupledContrast(small()).tau()) == pytest.approx(0.1)
    finally:
        registry._registered.pop("toy-softer")


@pytest.mark.parametrize("attribute", [{"defaults": {"temprature": 1.0}}, {"fixed": ("temprature",)}])
def test_a_change_of_an_option_that_is_not_there_is_refused(attribute):
    with pytest.raises(TypeError, match=r"no option 'temprature' to change\. Did you mean 'temperature'"):
        register("toy-wrong", family="test")(type("Wrong", (ViewContrast,), attribute))
    assert "toy-wrong" not in methods.slugs()


def test_a_constructor_of_its_own_shares_nothing():
    @register("toy-alone", family="test")
    class Alone(Method):
        def __init__(self, encoder, alpha: float = 1.0):
            super().__init__()
            self.alpha = alpha

    try:
        assert options.signature(Alone) == {"alpha": (float, 1.0)}
        assert Alone(small(), 2.0).alpha == Alone(small(), alpha=2.0).alpha == 2.0
    finally:
        registry._registered.pop("toy-alone")


def test_types_are_named_as_written_where_annotations_are_not_postponed():
    told = {o["name"]: o["type"] for o in methods.describe("nnclr")["options"]}
    assert told["queue"] == "PositiveInt | Literal['auto']"
    assert told["predictor"] == "Width"
    assert registry._type_name(tuple[UnitInterval, ...]) == "tuple[UnitInterval, ...]"
    assert registry._type_name(Annotated[int, Range(1, 3)] | None) == "int | None"
    assert registry._type_name(list[int]) == "list[int]"


def test_no_method_file_imports_another():
    modules = {m for m in (methods.get(slug).__module__ for slug in methods.slugs()) if m.startswith("nearfar.")}
    for module in modules:
        source = Path(inspect.getfile(sys.modules[module])).read_text()
        assert not [other for other in modules - {module} if f"from {other} import" in source], module
