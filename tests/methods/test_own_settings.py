"""A method's own settings hold for the parts that a user names, as far as the user does not name them too."""

import pytest
import torch

from nearfar import methods, options
from nearfar.checks import check
from nearfar.errors import InputError
from nearfar.losses.parts import Triplet
from nearfar.negatives import Mixing, Queue
from nearfar.training import building
from nearfar.training.settings import TrainSettings
from nearfar.views import MultiCrop

PARTS = ("views", "loss", "negatives")
PRESETS = ("auto", "paper")


def checked(slug, given, preset="auto"):
    return options.plain(building.method_options(slug, given, preset))


def own(slug, preset, **given):
    """Option -> the settings of the default part of a method, the paper's over its own."""
    cls = methods.get(slug)
    chosen = vars(building.method_options(slug, given, preset))
    paper = cls.paper_preset(given) if preset == "paper" else {}
    found = {k: {**cls.parts(chosen).get(k, {}), **(paper.get(k) or {})} for k in PARTS if k in options.read(cls)}
    return {k: v for k, v in found.items() if "name" in v}


def suits(value, kind):
    try:
        check("", value, kind)
    except InputError:
        return False
    return True


CASES = [(slug, preset) for slug in methods.slugs() for preset in PRESETS if own(slug, preset)]


def test_every_method_with_settings_of_its_own_is_asked():
    assert {"mochi", "contriever", "swav", "pairs", "align", "cwcl", "dcl"} <= {slug for slug, _ in CASES}


@pytest.mark.parametrize(("slug", "preset"), CASES)
def test_naming_the_default_part_is_the_default(slug, preset):
    """By its name, its class and as {"name": ...}; all say the method's settings, and none is lost."""
    for option, settings in own(slug, preset).items():
        cls = options.registries()[option][settings["name"]]
        for value in (settings["name"], cls, {"name": settings["name"]}):
            found = checked(slug, {option: value}, preset)[option]
            expected = checked(slug, {option: settings}, preset)[option]
            assert found == expected
            assert {k: tuple(v) if isinstance(v, list) else v for k, v in found.items() if k in settings} == {
                k: tuple(v) if isinstance(v, list | tuple) else v for k, v in settings.items()
            }


@pytest.mark.parametrize(("slug", "preset"), CASES)
def test_one_setting_changed_leaves_all_others(slug, preset):
    for option, settings in own(slug, preset).items():
        whole = checked(slug, {option: settings["name"]}, preset)[option]
        for name, kind in options.read(options.registries()[option][settings["name"]]).items():
            if not isinstance(whole.get(name), bool | int | float):
                continue
            value = not whole[name] if isinstance(whole[name], bool) else whole[name] / 2 or 1
            value = (
                max(1, int(value))
                if kind.type is int or (isinstance(whole[name], int) and not isinstance(whole[name], bool))
                else value
            )
            value = next(x for x in (value, whole[name] + 1, 0.5) if suits(x, kind.ranged))
            for given in ({"name": settings["name"], name: value}, {name: value}):
                found = checked(slug, {option: given}, preset)[option]
                assert found == whole | {name: value}


@pytest.mark.parametrize("slug", [slug for slug, preset in CASES if preset == "auto"])
def test_naming_the_default_part_changes_no_number(slug, emoji_few, shapes_few):
    """The loss of a step, bit for bit."""
    settings = TrainSettings(batch_size=8, steps=4, by="columns" if slug in ("align", "cwcl") else "auto")

    def loss(**given):
        made = building.prepare(slug, shapes_few if slug == "cot" else emoji_few, settings, given)
        batch = made.loader.at(0)
        batch.views = made.method.make_views(batch)
        embedded = made.method.encode(batch)
        with torch.no_grad():
            embedded |= made.method.targets(batch)
        return float(made.method.loss(embedded, batch).total.detach())

    expected = loss()
    for option, part in own(slug, "auto").items():
        assert loss(**{option: part["name"]}) == expected


def test_a_part_of_another_kind_keeps_what_both_have():
    """MoCo-v2 with the same everything: mixing's settings of the queue, without those of the mixtures."""
    assert checked("mochi", {"negatives": "queue"})["negatives"] == {
        "name": "queue", "size": "auto", "in_batch": False, "random_start": True}  # fmt: skip
    paper = checked("mochi", {"negatives": "queue"}, "paper")["negatives"]
    assert paper == {"name": "queue", "size": 16384, "in_batch": False, "random_start": True}
    other = checked("mochi", {"negatives": "cross-batch"}, "paper")["negatives"]
    assert other["size"] == 16384
    assert other["start"] == 0.1, "`start` is of another type there, so another option"
    assert checked("swav", {"views": "two-crops"}, "paper")["views"]["strength"] == 1.0


def test_a_part_that_was_built_is_taken_as_it_is():
    assert checked("mochi", {"negatives": Queue(64)})["negatives"]["in_batch"] is True
    assert checked("mochi", {"negatives": Mixing(hard=9)}, "paper")["negatives"]["size"] == "auto"
    assert checked("swav", {"views": MultiCrop()})["views"]["small"] == 6


def test_the_default_part_need_not_be_named():
    assert checked("mochi", {"negatives": {"hard": 64}})["negatives"] == {
        "name": "mixing", "size": "auto", "hard": 64, "mixed": "auto", "with_query": "auto", "start": "auto",
        "in_batch": False, "random_start": True}  # fmt: skip
    with pytest.raises(InputError, match="needs --negatives NAME"):
        checked("simclr", {"negatives": {"size": 64}})


def test_none_stays_none():
    for preset in PRESETS:
        assert checked("mochi", {"negatives": None}, preset)["negatives"] is None
        assert checked("contriever", {"momentum": "none"}, preset)["negatives"] in (None, "auto")


def test_settings_that_depend_on_options():
    assert checked("dcl", {"loss": "dcl", "sigma": 0.3})["loss"]["sigma"] == 0.3
    assert checked("align", {"loss": "smoothed", "smoothing": 0.2})["loss"]["smoothing"] == 0.2
    assert checked("contriever", {"negatives": "queue"})["negatives"]["in_batch"] is False
    assert checked("contriever", {"negatives": "queue", "momentum": None})["negatives"]["in_batch"] is True


@pytest.mark.parametrize(
    ("slug", "given"),
    [("dcl", {"loss": "hcl", "sigma": 0.3}), ("align", {"loss": "dcl", "smoothing": 0.2}),
     ("contriever", {"loss": "hcl", "smoothing": 0.2})],
)  # fmt: skip
def test_an_option_of_a_part_that_is_not_there_is_refused(slug, given):
    with pytest.raises(InputError, match="belongs to the loss"):
        checked(slug, given)


@pytest.mark.parametrize(
    ("slug", "given", "says"),
    [("hydra", {"form": "views", "momentum": 0.9}, "--momentum 0.9 has no effect with --form views: .* momentum"),
     ("hydra", {"own_predictor": True}, "--own-predictor true has no effect with --form views"),
     ("hydra", {"gate": "none", "gate_width": 5}, "--gate-width 5 has no effect with --gate none: .* or gumbel"),
     ("hydra", {"alpha": 1.0, "coarse": "x", "pairs": "distinct"}, "--alpha 1.0 has no effect with --pairs distinct"),
     ("cacr", {"temperature": 0.3}, "--temperature 0.3 has no effect with --form batch"),
     ("cacr", {"form": "queue", "tau_plus": 0.1}, "--tau-plus 0.1 has no effect with --form queue"),
     ("groco", {"temperature": 0.2}, "--temperature 0.2 has no effect with --loss groco"),
     ("simclr", {"temperature": 0.2, "loss": {"name": "triplet", "margin": 0.3}}, "no effect with --loss triplet"),
     ("simclr", {"temperature": 0.2, "loss": Triplet}, "--temperature 0.2 has no effect with --loss Triplet"),
     ("pairs", {"temperature": 0.2, "loss": "cosine-regression"}, "--loss cosine-regression. Leave out one")],
)  # fmt: skip
@pytest.mark.parametrize("preset", PRESETS)
def test_an_option_without_effect_is_refused(slug, given, says, preset):
    with pytest.raises(InputError, match=says):
        checked(slug, given, preset)


def test_options_with_an_effect_and_defaults_that_are_written_out_are_taken():
    assert checked("hydra", {"form": "momentum", "momentum": 0.9, "gate_width": 5})["momentum"] == 0.9
    assert checked("hydra", {"momentum": "auto", "gate": "none", "gate_width": 512})["gate"] == "none"
    assert checked("groco", {"loss": "nearest", "temperature": 0.2})["temperature"] == 0.2
    assert checked("groco", {"temperature": 0.5})["temperature"] == 0.5
    assert checked("simclr", {"loss": "dcl", "temperature": 0.2})["temperature"] == 0.2
    for slug, given in (("hydra", {"form": "momentum"}), ("hydra", {"gate": "none"}), ("cacr", {"form": "queue"}),
                        ("simclr", {"loss": "triplet"}), ("nnclr", {"loss": "simple"})):  # fmt: skip
        for preset in PRESETS:
            stored = {k: v for k, v in checked(slug, given, preset).items() if v is not None}
            assert checked(slug, stored, preset) == checked(slug, given, preset)


def test_a_stored_run_is_read_again():
    """All options stand in a run's record; reading them gives the same."""
    for slug, preset in CASES:
        stored = checked(slug, {}, preset)
        given = {k: v for k, v in stored.items() if v is not None}
        assert checked(slug, given, preset) == stored


@pytest.mark.parametrize("form", ["batch", "queue", "momentum"])
def test_each_form_of_cacr_has_its_paper(form):
    found = checked("cacr", {"form": form}, "paper")
    assert found["tau_neg"] == {"batch": 0.9, "queue": 2.0, "momentum": 0.9}[form]
    assert found["momentum"] == {"batch": "auto", "queue": 0.999, "momentum": 0.996}[form]
    assert found["dim"] == (256 if form == "momentum" else 128)
    assert found["positives"] == (1 if form == "momentum" else 4)
    if form == "queue":
        assert found["negatives"] == {"name": "queue", "size": 65536, "in_batch": True, "random_start": True}
    assert methods.get("cacr").training_preset({"form": form})["optimiser"] == ("lars" if form == "momentum" else "sgd")


def test_contrievers_paper(emoji_few):
    """Keys of the batch are no negatives, and the queue is full of random unit columns from the start."""
    given = {"views": "crops", "negatives": {"size": 64}, "length": 8}
    made = building.prepare("contriever", emoji_few, TrainSettings(batch_size=8, steps=4, preset="paper"), given)
    queue = made.method.negatives
    assert not made.method.in_batch
    assert bool(queue.filled.all())
    assert torch.allclose(queue.keys.norm(dim=1), torch.ones(64))
    assert checked("contriever", {}, "paper")["negatives"]["size"] == 131_072
    o = made.method.optimisation
    assert (o.betas, o.eps, o.schedule, o.lr, o.weight_decay) == ((0.9, 0.98), 1e-6, "linear", 5e-5, 0.01)
    with pytest.raises(InputError, match="--stream"):
        building.prepare("contriever", emoji_few, TrainSettings(batch_size=8, steps=4), {"alpha": 0.5})
    plain = {"stream": False, "negatives": {"size": 64}}
    building.prepare("contriever", emoji_few, TrainSettings(batch_size=8, steps=4, preset="paper"), plain)
