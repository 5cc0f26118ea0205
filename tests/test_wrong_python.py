"""Wrong values given from Python: each gives an InputError that names what is wrong, and leaves nothing behind.

Every option of the training settings, of the roles and of the methods, every public function and the losses get values
of a wrong type, out of range, not finite or far too large.
"""

import itertools
import typing
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import nearfar
from nearfar import options
from nearfar.errors import InputError
from nearfar.training.engine import split_options
from nearfar.training.settings import DataSettings, TrainSettings

NAN, HUGE = float("nan"), 10**30
NOTHING = object()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images, a table of pairs, a model of each and an index; the current folder of the tests."""
    folder = tmp_path_factory.mktemp("wrong")
    rng = np.random.default_rng(0)
    for k, name in itertools.product(range(12), "ab"):
        (folder / "pics" / name).mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / "pics" / name / f"{k}.png")
    lines = [f"what is {i} x,it is {i} indeed y,g{i // 2}" for i in range(40)]
    (folder / "pairs.csv").write_text("text,text_b,group\n" + "\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(folder)
        for method, data, out in (("simclr", "pics", "m1"), ("pairs", "pairs.csv", "m2")):
            nearfar.fit(method, data, out=out, steps=2, batch_size=8, val_every=0, progress=False)
        nearfar.embed("m2", "pairs.csv", out="index")
        yield folder


def fit(**given):
    return nearfar.fit(**({"method": "simclr", "data": "pics", "out": "new", "steps": 2, "batch_size": 8,
                           "val_every": 0, "progress": False} | given))  # fmt: skip


def compare(**given):
    return nearfar.compare(**({"data": "pairs.csv", "methods": "pairs", "out": "new", "steps": 2, "batch_size": 8,
                               "seeds": 1} | given))  # fmt: skip


def wrong_values(kind, default):
    """Values that no option of such a type takes."""
    found = [NOTHING, [NOTHING], {"a": NOTHING}]
    words = str(kind)
    if kind is bool:
        return [*found, 3, "perhaps"]
    if "int" in words or "float" in words:
        found += [NAN, "many", -HUGE, b"1"]
        found += [HUGE] if "int" in words else []
        found += [1.5] if "float" not in words else []
    elif "Literal" in words:
        found += ["nope", "", 3]
    else:
        found += [3, ["a", 3]]
    return found


def settings():
    for target in (TrainSettings, DataSettings):
        for name, (kind, default) in options.signature(target).items():
            for value in wrong_values(kind, default):
                yield f"{name}={value!r}"[:50], {name: value}


def method_options():
    """Each option once of each type and default that methods give it."""
    from nearfar import methods

    seen = set()
    for slug in methods.slugs():
        for name, (kind, default) in options.signature(methods.get(slug)).items():
            if name in options.registries() or (one := (name, str(kind), repr(default))) in seen:
                continue
            seen.add(one)
            for value in wrong_values(kind, default)[-4:]:
                if any(value is one for one in typing.get_args(kind)):
                    continue  # a number that is one of the choices
                yield f"{slug} {name}={value!r}"[:50], slug, {name: value}


def names_it(message, name):
    return name in message or name.replace("_", "-") in message


def refused(call, place, *names):
    before = sorted(place.rglob("*"))
    with pytest.raises(InputError) as error:
        call()
    message = str(error.value)
    assert len(message) > 20
    for name in names:
        assert names_it(message, name), message
    assert sorted(place.rglob("*")) == before, "something was left behind"


def test_settings(place):
    cases = list(settings())
    assert len(cases) > 150
    seen = set()
    for _, given in cases:
        name = next(iter(given))
        if name in seen:  # the whole way once for each option
            with pytest.raises(InputError) as error:
                split_options("simclr", given, None, None)
            assert names_it(str(error.value), name), str(error.value)
        else:
            refused(lambda given=given: fit(**given), place, name)
        seen.add(name)


def test_options_of_methods():
    from nearfar import methods

    cases = list(method_options())
    assert len(cases) > 300
    for _, slug, given in cases:
        with pytest.raises(InputError) as error:
            options.checked([methods.get(slug)], given)
        assert names_it(str(error.value), next(iter(given))), str(error.value)


PARTS = [
    {"loss": "hlc"}, {"loss": 3}, {"loss": ""}, {"loss": "os.system"}, {"loss": {"name": "hcl", "beta": -1}},
    {"loss": {"name": "hcl", "beta": NAN}}, {"loss": {"name": "hcl", "gamma": 1}}, {"loss": {"beta": 1}}, {"loss": []},
    {"loss": {"name": "triplet", "mining": "soft"}}, {"loss": {"name": "smoothed", "smoothing": 2}}, {"loss": NOTHING},
    {"negatives": "queues"}, {"negatives": {"name": "queue", "size": 0}}, {"views": 5},
    {"negatives": {"name": "queue", "size": "x"}},
    {"negatives": {"name": "mined", "margin": 3}}, {"negatives": {"name": "fnc", "strategy": "drop"}},
    {"negatives": {"name": "cluster", "clusters": 500}}, {"negatives": int},
    {"negatives": {"name": "mixing", "hard": 0}},
    {"views": "crops"}, {"views": "members"}, {"views": {"name": "two-crops", "crop": (0.5, 0.2)}}, {"views": "nope"},
    {"views": {"name": "two-crops", "crop": 3}}, {"views": {"name": "two-crops", "flip": 2}},
    {"views": {"name": "multi-crop", "big": 1, "small": 0}}, {"views": {"name": "two-crops", "size": -1}},
]  # fmt: skip


@pytest.mark.parametrize("given", PARTS, ids=lambda given: next(iter(given)))
def test_parts(given, place):
    refused(lambda: fit(**given), place)


WHO = [3, None, b"pics", [], {}, NOTHING, nearfar.losses, "", "nowhere"]


@pytest.mark.parametrize("value", WHO, ids=lambda v: type(v).__name__)
def test_places(value, place):
    """What stands for data, models, indexes and outputs."""
    for call in [
        lambda: fit(data=value), lambda: nearfar.data(value), lambda: nearfar.load(value),
        lambda: nearfar.evaluate(value, "pics"), lambda: nearfar.evaluate("m1", value),
        lambda: nearfar.diagnose(value, "pics"), lambda: nearfar.diagnose("m1", value),
        lambda: nearfar.embed(value, "pics", out="new.npy"), lambda: nearfar.embed("m1", value, out="new.npy"),
        lambda: nearfar.search(value, "cat"), lambda: nearfar.report(value),
        *([lambda: nearfar.embed("m1", "pics", out=value)] if value != "nowhere" else []),
        *([lambda: fit(method=value), lambda: compare(methods=value)] if value is not None else []),
        lambda: nearfar.embed("m1", "pics", out="a\x1b[1m"),
        *([lambda: nearfar.search("index", value)] if value != "nowhere" else []),
        lambda: compare(seeds=value if value != 3 else 0),
        *([lambda: compare(budget=value if value != 3 else -3, steps="auto")] if value is not None else []),
        lambda: compare(data=value),
    ]:  # fmt: skip
        refused(call, place)


@pytest.mark.parametrize("value", [0, -1, "x", None, 1.5, NOTHING, NAN, True], ids=lambda v: type(v).__name__)
def test_counts(value, place):
    for call in [lambda: nearfar.search("index", "cat", k=value), lambda: nearfar.data("pics", seed=value or -3),
                 lambda: nearfar.embed("m1", "pics", out="new.npy", batch_size=value),
                 *([lambda: nearfar.data("pics", limit=value)] if value is not None else [])]:  # fmt: skip
        refused(call, place)


@pytest.mark.parametrize("value", [
    3, "image", ["image"], {"image": 3}, {3: "file"}, {"image": ["file", "label"]}, {"nope": "file"},
    {"label": NOTHING}, {"image": "nowhere"}, {"text": "file"}, {"group": ["a"]},
], ids=lambda value: type(value).__name__)  # fmt: skip
def test_roles(value, place):
    refused(lambda: nearfar.data("pics", roles=value), place)


def test_items(place):
    text, image = nearfar.load("m2/model"), nearfar.load("m1/model")
    for items in ["a text", [3], [None], 3, None, [b"x"], [["a"]], NOTHING, np.zeros(3), {"a": 1}]:
        refused(lambda items=items: text.embed_texts(items), place)
    for items in ["x.png", [3], [None], 3, None, ["nowhere.png"], [np.zeros((3, 3))], np.zeros((2, 3, 8, 8)), NOTHING,
                  np.zeros((2, 8, 8), np.uint8), [np.zeros((4, 4, 3))],
                  [np.zeros((0, 5, 3), np.uint8)], [NOTHING], ["pairs.csv"]]:  # fmt: skip
        refused(lambda items=items: image.embed_images(items), place)
    pixels = np.zeros((8, 8, 3), np.uint8)
    for call in [lambda: text.embed(["a"], role="nope"), lambda: text.embed(["a"], batch_size=0),
                 lambda: image.embed_texts(["a"]), lambda: text.embed_images([pixels])]:  # fmt: skip
        refused(call, place)


@pytest.mark.parametrize("name", ["info_nce", "nt_xent", "clip", "dcl", "hcl", "siglip"])
def test_losses(name, place):
    loss, query = getattr(nearfar.losses, name), torch.randn(6, 4)
    for key in [torch.randn(6), torch.randn(5, 4), torch.randn(6, 3), [[1.0, 2]], np.zeros((6, 4)), None,
                torch.ones(6, 4, dtype=torch.long), torch.zeros(0, 4), torch.randn(2, 6, 4),
                torch.randn(6, 4).to(torch.complex64)]:  # fmt: skip
        refused(lambda key=key: loss(query, key), place)
    for temperature in [0, -1, NAN, "x", None, [1], float("inf"), True]:
        refused(lambda t=temperature: loss(query, query, temperature=t), place, "temperature")
    refused(lambda: loss(query, query, negatives="all"), place, "negatives")


@pytest.mark.parametrize("name", ["sup_con", "mil_nce"])
def test_labels_of_losses(name, place):
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    for wrong in [labels[:5], labels[:, None], labels.float(), ["a"] * 6, None, 3, labels - 5]:
        refused(lambda wrong=wrong: getattr(nearfar.losses, name)(torch.randn(6, 4), wrong), place)


def test_parts_by_hand(place):
    from nearfar import encoders, heads, negatives, views

    texts = ["a b", "c d"]
    calls = [lambda g=g: encoders.image(**g) for g in [
        {"name": "nope"}, {"size": 0}, {"size": "x"}, {"channels": "cmyk"}, {"dim": -1}, {"weights": "nowhere"},
        {"name": 3},
    ]]  # fmt: skip
    calls += [lambda g=g: encoders.text(**g) for g in [
        {}, {"name": "nope"}, {"texts": []}, {"texts": ["", ""]}, {"texts": texts, "vocabulary": 1}, {"texts": 3},
        {"texts": "a b"}, {"texts": texts, "length": 0}, {"texts": texts, "dim": 0}, {"texts": texts, "dropout": 2},
        {"name": 3}, {"name": "minilm", "pooling": "median"},
    ]]  # fmt: skip
    calls += [lambda s=s: heads.mlp(*s) for s in [(0, 4, 4), (4, -1, 4), (4, 4, 0), ("x", 4, 4), (4, 4, 4, 0)]]
    calls += [lambda: heads.Prototypes(0, 4), lambda: negatives.Queue(size=0), lambda: negatives.Queue(size="x"),
              lambda: negatives.Queue(size=None), lambda: negatives.Queue(in_batch="yes"),
              lambda: negatives.Mined(margin="x"), lambda: negatives.Cluster(start=3)]  # fmt: skip
    calls += [lambda n=n, g=g: views.build(n, **g) for n, g in [
        ("two-crops", {"crop": 3}), ("two-crops", {"strength": "x"}), ("two-crops", {"flip": None}), ("nope", {}),
        ("crops", {"ratio": 3}), ("crops", {"delete": 2}), ("delete", {"p": "x"}), ("members", {"k": 0}),
        ("two-crops", {"nope": 1}),
    ]]  # fmt: skip
    for call in calls:
        refused(call, place)


@pytest.mark.parametrize("rows", [[40], [-1], [1.5], "ab", [[1]], [None], [True], 3], ids=str)
def test_rows(rows, place):
    pairs, pics = nearfar.data("pairs.csv"), nearfar.data("pics")
    for call in [lambda: pairs.texts("text", rows), lambda: pairs.values("group", rows),
                 lambda: pairs.digests("text", rows), lambda: pics.images("image", 8, rows)]:  # fmt: skip
        refused(call, place, "whole numbers from 0 to")


def test_what_data_are_asked_for(place):
    pics = nearfar.data("pics")
    for call in [lambda: pics.images("image", "8"), lambda: pics.images("image", 8.5),
                 lambda: pics.images("image", 0), lambda: pics.column(3),
                 lambda: nearfar.data("a" * 5000)]:  # fmt: skip
        refused(call, place)


def test_half_a_character_is_no_text(place):
    refused(lambda: nearfar.load("m2/model").embed_texts(["whole", "half \ud83d"]), place, "Item 1")
    refused(lambda: nearfar.search("index", "half \ud83d"), place, "half of a character")


@pytest.mark.parametrize("given", [{"settings": {"steps": 2}}, {"data_settings": {"limit": 3}}, {"out": 3}], ids=str)
def test_settings_that_are_none(given, place):
    refused(lambda: fit(**given), place, next(iter(given)))
