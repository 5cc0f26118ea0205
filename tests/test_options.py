"""Parts by short name, dotted path, class or instance; each must survive the way into a config file and back."""

import json

import pytest

from nearfar import methods, options
from nearfar.errors import InputError
from nearfar.losses import rows
from nearfar.losses.parts import HCL, RowLoss, parts
from nearfar.methods.image.simclr import SimCLR
from nearfar.negatives import Queue
from nearfar.training.engine import fit
from nearfar.training.settings import TrainSettings
from nearfar.views import TwoCrops


class Halved(RowLoss):
    """A loss of one's own. Args: share: factor."""

    def __init__(self, share: float = 0.5):
        self.share = share

    def __call__(self, s):
        return self.share * rows.info_nce_rows(s)


class Secretive(RowLoss):
    """Keeps its option under another name."""

    def __init__(self, share: float = 0.5):
        self.kept = share


@pytest.fixture(autouse=True, scope="module")
def only_built_in_parts():
    yield
    for name in ("halved", "secretive"):
        parts.pop(name, None)


def checked(**given):
    return options.plain(options.checked([SimCLR], given))


def test_instances_classes_and_paths_say_the_same():
    by_name = checked(loss={"name": "hcl", "beta": 2.0}, negatives={"name": "queue", "size": 64})
    assert checked(loss=HCL(beta=2.0), negatives=Queue(64)) == by_name
    path = {"name": "nearfar.losses.parts.HCL", "beta": "2.0"}
    assert checked(loss=path, negatives={"name": Queue, "size": 64}) == by_name
    assert checked(views=TwoCrops(crop=(0.5, 1.0)))["views"]["crop"] == [0.5, 1.0]


def test_the_way_into_a_config_file_and_back():
    first = checked(views=TwoCrops(strength=0.3), loss=HCL(beta=2.0), negatives=Queue(64))
    assert checked(**json.loads(json.dumps(first))) == first


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"loss": Queue(3)}, "'loss' takes a part or a name of"),
        ({"loss": 3}, "'loss' takes a part or a name of"),
        ({"loss": "hlc"}, "Did you mean 'hcl'"),
        ({"loss": "nearfar.losses.parts.Nope"}, "cannot be imported"),
        ({"loss": "no_such_module.Loss"}, "PYTHONPATH"),
        ({"loss": "nearfar.negatives.Queue"}, "does not fit --loss"),
        ({"loss": Secretive()}, "keeps no attribute 'share'"),
        ({"loss": {"name": "hcl", "bta": 1}}, "has no option 'bta'"),
    ],
)
def test_wrong_parts(given, says):
    with pytest.raises(InputError, match=says):
        checked(**given)


def test_a_part_that_could_not_be_found_again():
    class Inner(Halved):
        pass

    parts.pop("inner")
    with pytest.raises(InputError, match="found again"):
        checked(loss=Inner())


def test_a_namesake_does_not_displace_a_built_in_part():
    before = parts["hcl"]
    type("HCL", (RowLoss,), {})
    assert parts["hcl"] is before


def test_a_loss_of_ones_own_trains_and_resumes(emoji_few, tmp_path):
    given = {"out": tmp_path / "run", "steps": 4, "batch_size": 16, "val_every": 0, "progress": False}
    run = fit("simclr", emoji_few, loss=Halved(0.25), **given)
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["options"]["loss"]
    assert recorded["share"] == 0.25
    assert recorded["name"].rpartition(".")[2] in ("Halved", "halved")
    again = fit("simclr", emoji_few, resume=True, loss=Halved(0.25), **given)
    assert again.scores["test"]["primary"] == run.scores["test"]["primary"]


def test_values_that_begin_with_dashes():
    from nearfar.training.settings import DataSettings

    given = options.from_command_line([DataSettings], ["--label=--x", "--text", "t"])
    assert given == {"label": "--x", "text": "t"}
    assert options.checked([DataSettings], given).label == "--x"
    with pytest.raises(InputError, match=r"'--label' needs a value\. .*--label=--x"):
        options.from_command_line([DataSettings], ["--label", "--x"])
    places: list[str] = []
    options.from_command_line([DataSettings], ["a", "--text=t", "--", "--b", "-c"], places)
    assert places == ["a", "--b", "-c"]


def test_none_is_a_word_where_the_option_has_that_word():
    """--weighted none of cwcl, in a file and in Python."""
    for slug, name in (("cwcl", "weighted"), ("pairs", "head"), ("supremix", "mix")):
        cls = methods.get(slug)
        assert getattr(options.checked([cls], {name: "none"}), name) == "none"
        given = options.from_command_line([cls], [f"--{name}", "none"])
        assert getattr(options.checked([cls], given), name) == "none"
    assert options.checked([methods.get("simclr")], {"negatives": "none"}).negatives is None


def test_several_numbers_are_written_with_commas():
    """On a command line, in a file and in Python."""
    targets = [TrainSettings]
    given = options.from_command_line(targets, ["--betas", "0.9,0.98"])
    assert options.checked(targets, given).betas == (0.9, 0.98)
    for value in ("[0.9, 0.98]", [0.9, 0.98], (0.9, 0.98)):
        assert tuple(options.checked(targets, {"betas": value}).betas) == (0.9, 0.98)
    assert options.checked(targets, {"betas": "none"}).betas is None
    for wrong in ("0.9", "0.9,1.2", "0.9,0.98,0.99", "a,b"):
        with pytest.raises(InputError, match="betas"):
            options.checked(targets, {"betas": wrong})
    beclr = [methods.get("beclr")]
    assert options.checked(beclr, {"mask_ratio": "0.1,0.3"}).mask_ratio == (0.1, 0.3)
