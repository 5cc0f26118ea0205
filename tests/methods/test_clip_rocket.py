"""CLIP-rocket as a method: which views meet, what the model gives, the terms beside it, and what is refused."""

import copy
import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import nearfar
from nearfar import losses
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.training import building
from nearfar.training.settings import TrainSettings
from tests.methods.command_line import curve_of
from tests.methods.test_one_step import BYOLIP, BarLIP, Rocket, SiamLIP, SwALIP, without_dropout

COLOURS = {"red": (230, 20, 20), "green": (20, 200, 30), "blue": (20, 40, 220), "yellow": (240, 220, 30)}
TINY = {"text_encoder": "tiny", "vocabulary": 200}
SHORT = {"steps": 4, "batch_size": 16, "val_every": 0, "progress": False}
SHAPES = ("square", "bar", "line", "dot")


def shapes(folder, count=96, lists=False):
    """Images of one shape in one colour, and sentences about them; as a table, or as JSON lines of several ones."""
    rng, rows = np.random.default_rng(0), []
    for i in range(count):
        colour, shape = list(COLOURS)[i % 4], SHAPES[i // 4 % 4]
        canvas = np.full((16, 16, 3), 255, np.uint8)
        high, wide = {"square": (8, 8), "bar": (12, 4), "line": (3, 12), "dot": (4, 4)}[shape]
        y, x = rng.integers(0, 17 - high), rng.integers(0, 17 - wide)
        canvas[y : y + high, x : x + wide] = COLOURS[colour]
        Image.fromarray(canvas).save(folder / f"{i}.png")
        told = [f"there is a {colour} {shape} on the {i} wall", f"one {shape} that is {colour} at place {i}"]
        rows.append((f"{i}.png", told, colour))
    if lists:
        (folder / "shapes.jsonl").write_text(
            "\n".join(json.dumps({"image": f, "captions": told}) for f, told, _ in rows)
        )
        return folder / "shapes.jsonl"
    with open(folder / "shapes.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "caption", "colour"), *((f, told[0], c) for f, told, c in rows)])
    return folder / "shapes.csv"


def opened(folder, **more):
    roles = {} if more.get("lists") else {"image": "image", "text": "caption"}
    return nearfar.data(shapes(folder, **more), roles=roles)


def make(data, preset="auto", **options):
    settings = TrainSettings(batch_size=8, steps=6, warmup=0, preset=preset, **TINY)
    return building.prepare("clip-rocket", data, settings, {"mask_duplicates": False, "hidden": 32, **options})


def step(made, number=0):
    batch = made.loader.at(number)
    batch.views = made.method.make_views(batch)
    embedded = made.method.encode(batch)
    with torch.no_grad():
        embedded |= made.method.targets(batch)
    return embedded, batch, made.method.loss(embedded, batch)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("shapes"))


def test_one_weak_and_two_strong_views_of_both_sides(data):
    made = make(data)
    embedded, batch, loss = step(made)
    assert [len(batch.views[r]) for r in ("image", "text")] == [3, 3]
    assert [len(embedded[k]) for k in ("h_a", "h_b")] == [2, 2]
    assert embedded["a"].shape == embedded["h_a"][0].shape == (8, 256)
    wanted = losses.clip_rocket(embedded["a"], embedded["b"], embedded["h_a"], embedded["h_b"])
    assert loss.total.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert (wanted * 3).item() == pytest.approx((loss.terms["whole"] + 2 * loss.terms["local"]).item(), rel=1e-5)
    double = make(data, mode="sum")
    assert step(double)[2].total.item() == pytest.approx(2 * wanted.item(), rel=1e-5)


NAIVE = {"none": Rocket, "barlow": BarLIP, "simsiam": SiamLIP, "byol": BYOLIP, "swav": SwALIP}


@pytest.mark.parametrize("extra", NAIVE)
def test_a_step_in_double_precision_is_that_of_the_card(data, extra):
    """One step of gradient descent, and what follows it, by the loops of the naive steps; all parameters."""
    more = {"extra_hidden": 12, "extra_dim": 6} if extra not in ("none", "swav") else {}
    more |= {"momentum": 0.9} if extra == "byol" else {}
    made = make(data, extra=extra, hidden=16, dim=24, temperature=0.5, local_temperature=0.7, **more)
    method, batch = made.method.double(), made.loader.at(0)
    without_dropout(method)
    for tau in (method.tau, method.local_tau):
        tau.log_tau.data = tau.log_tau.data.double()
    views = method.make_views(batch)
    batch.views = views | {"image": [x.double() for x in views["image"]]}
    arm = NAIVE[extra](copy.deepcopy(method), made)
    arm.views = lambda batch: batch.views

    embedded = method.encode(batch)
    with torch.no_grad():
        embedded |= method.targets(batch)
    method.loss(embedded, batch).total.backward()
    torch.set_default_dtype(torch.float64)  # that of the constants of the loops
    try:
        arm.loss(batch, 0).backward()
    finally:
        torch.set_default_dtype(torch.float32)
    for own in (method, arm.method):
        torch.optim.SGD([p for p in own.parameters() if p.requires_grad], 0.3).step()
    method.after_step(embedded, batch)
    arm.after(batch, 0)
    wanted = dict(arm.method.named_parameters())
    for name, p in method.named_parameters():
        assert_close(p, wanted[name], rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


def test_without_local_views_it_is_clip(data):
    made = make(data, local=0, first="plain", hidden=512)
    embedded, batch, loss = step(made)
    assert set(embedded) == {"a", "b"}
    assert loss.total.item() == pytest.approx(losses.clip(embedded["a"], embedded["b"]).item(), rel=1e-6)
    assert_close(batch.views["image"][0], batch.inputs["image"].float() / 255)
    texts = [text for (text,) in batch.inputs["text"].told]
    assert torch.equal(batch.views["text"][0].ids, made.method.tower_b.encoder.prepare(texts).ids)
    assert list(made.method.towers()["image"].variants()) == []


def test_heads_and_temperatures_of_strong_views(data):
    """Separate: no gradient of strong views reaches the head of the weak one, and the other way round."""
    made = make(data)
    embedded, _, _ = step(made)
    m = made.method
    assert m.tower_a.head.bias is None
    assert len([x for x in m.local_heads[0] if isinstance(x, torch.nn.Linear)]) == 3
    assert m.tau() != m.local_tau()
    terms = losses.clip_rocket_terms(embedded["a"], embedded["b"], embedded["h_a"], embedded["h_b"],
                                     temperature=m.tau(), local_temperature=m.local_tau())  # fmt: skip
    terms.local.backward(retain_graph=True)
    assert m.tower_a.head.weight.grad is None
    assert m.tau.log_tau.grad is None
    assert all(p.grad.abs().sum() > 0 for p in m.local_heads.parameters() if p.dim() > 1)
    assert m.local_tau.log_tau.grad.abs() > 0
    m.zero_grad()
    terms.whole.backward()
    assert all(p.grad is None for p in m.local_heads.parameters())
    shared = make(data, projector="shared", hidden=512).method
    assert shared.local_tau is None
    assert not shared.local_heads
    assert len(step(make(data, projector="shared", hidden=512))[0]["h_a"]) == 2


def test_temperatures_stay_between_a_hundredth_and_1(data):
    m = make(data).method
    for tau in (m.tau, m.local_tau):
        for value, wanted in ((3.0, 0.0), (-9.0, -np.log(100)), (-1.0, -1.0)):
            tau.log_tau.data.fill_(value)
            m.after_step({}, None)
            assert tau.log_tau.item() == pytest.approx(wanted)


def test_dropout_acts_on_strong_views_alone(data):
    made = make(data)
    batch = made.loader.at(0)
    batch.views = made.method.make_views(batch)
    first, second = made.method.encode(batch), made.method.encode(batch)
    assert torch.equal(first["b"], second["b"])
    assert not torch.equal(first["h_b"][0], second["h_b"][0])
    assert all(x.training for x in made.method.modules())
    every = make(data, dropout="all")
    batch.views = every.method.make_views(batch)
    first, second = every.method.encode(batch), every.method.encode(batch)
    assert not torch.equal(first["b"], second["b"])


def test_the_momentum_copy_follows_and_gets_no_gradient(data):
    made = make(data, extra="byol", extra_hidden=16, momentum=0.0)
    m = made.method
    _, batch, loss = step(made)
    loss.total.backward()
    assert all(p.grad is None and not p.requires_grad for p in m.teacher.parameters())
    optimiser = torch.optim.SGD([p for p in m.parameters() if p.requires_grad], 0.1)
    optimiser.step()
    m.after_step({}, batch)
    # BYOL with momentum 0 has SiamLIP's targets after a step
    for theirs, own in zip(m.teacher.parameters(), m.projected().parameters(), strict=True):
        assert torch.equal(theirs, own)
    slow = make(data, extra="byol", extra_hidden=16).method
    before = [p.clone() for p in slow.teacher.parameters()]
    with torch.no_grad():
        for p in slow.parameters():
            if p.requires_grad:
                p.add_(1.0)
    slow.after_step({}, batch)
    for was, p, own in zip(before, slow.teacher.parameters(), slow.projected().parameters(), strict=True):
        assert_close(p, 0.99 * was + 0.01 * own)


@pytest.mark.parametrize("extra", ["barlow", "simsiam", "swav"])
def test_the_term_beside_it(data, extra):
    made = make(data, extra=extra, **({"extra_hidden": 16} if extra != "swav" else {}))
    embedded, _, loss = step(made)
    smoothing = 0.0 if extra == "swav" else 0.1
    h = embedded["h_a"], embedded["h_b"]
    plain = losses.clip_rocket(embedded["a"], embedded["b"], *h, smoothing=smoothing)
    v = embedded.get("v_a"), embedded.get("v_b")
    term = {
        "barlow": lambda: losses.barlip(*v),
        "simsiam": lambda: losses.siamlip(embedded["p_a"], embedded["p_b"], *v),
        "swav": lambda: 0.2 * losses.swalip(*h),
    }[extra]()
    assert loss.total.item() == pytest.approx((plain + term).item(), rel=1e-5)
    if extra != "swav":
        assert len(v[0]) == len(v[1]) == 3
        assert v[0][1].mean(0).abs().max() < 1e-4, "the projectors end in a batch norm"


def test_terms_without_strong_views(data):
    for extra in ("barlow", "simsiam", "byol"):
        made = make(data, extra=extra, local=0, hidden=512)
        assert torch.isfinite(step(made)[2].total)


def test_frozen_encoders_have_one_view(data):
    settings = TrainSettings(batch_size=8, steps=6, warmup=0, freeze=True, **TINY)
    made = building.prepare("clip-rocket", data, settings, {"mask_duplicates": False})
    _, batch, loss = step(made)
    assert batch.views["image"][0] is batch.views["image"][2]
    loss.total.backward()
    assert made.method.local_heads[0][0].weight.grad.abs().sum() > 0


def test_what_the_model_gives(data, tmp_path):
    """The cosine of ensemble vectors is the weighted mean of those of z and h, in a folder of its own; classes by their
    names are the mean of each head's templates."""
    nearfar.fit("clip-rocket", data, out=tmp_path / "run", share=0.3, hidden=32, dim=24, **SHORT, **TINY)
    model = nearfar.load(tmp_path / "run" / "model", verify=True)
    assert model.variants == ["h", "z"]
    assert model.dim == 48
    images, texts = data.images("image", 32)[:9], data.texts("text")[:9]
    both, z, h = ((model.embed(images, "image", variant=v), model.embed(texts, "text", variant=v))
                  for v in (None, "z", "h"))  # fmt: skip
    assert_close(both[0] @ both[1].T, 0.3 * z[0] @ z[1].T + 0.7 * h[0] @ h[1].T, rtol=1e-4, atol=1e-5)
    for x in (*both, *z, *h):
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-5)

    templates = ["a {} thing", "{}", "there is a {} on the wall"]
    (tmp_path / "templates.txt").write_text("\n".join(templates))
    names, rows = list(COLOURS), np.asarray(data.splits["test"])
    scores = 0
    for name, share in (("z", 0.3), ("h", 0.7)):
        images = model.embed(data.images("image", 32)[rows], "image", variant=name)
        classes = []
        for colour in names:
            made = model.embed([t.replace("{}", colour) for t in templates], "text", variant=name)
            mean = made.mean(0)
            classes.append(mean / np.linalg.norm(mean))
        scores = scores + share * images @ np.stack(classes).T
    truth = np.array([names.index(v) for v in np.array(data.values("colour"))[rows]])
    told = nearfar.data(shapes(tmp_path), roles={"image": "image", "text": "caption", "target": "colour"})
    found = nearfar.evaluate(tmp_path / "run", told, task="zero-shot", split="test",
                             templates=str(tmp_path / "templates.txt"))  # fmt: skip
    assert found["rows"][0]["primary"] == pytest.approx((scores.argmax(1) == truth).mean())
    alone = nearfar.evaluate(tmp_path / "run", data, task="pairs", split="test", variant="z")
    assert 0 <= alone["rows"][0]["primary"] <= 1


@pytest.mark.parametrize("inference", ["z", "h"])
def test_one_head_alone_can_be_given(data, inference):
    made = make(data, inference=inference)
    step(made)
    tower = made.method.towers()["image"]
    assert tower.variants() == {}
    head = made.method.tower_a.head if inference == "z" else made.method.local_heads[0]
    assert tower.head is head


def test_models_are_gone_on_with(data, tmp_path):
    """--model RUN starts with both of its heads."""
    nearfar.fit("clip-rocket", data, out=tmp_path / "run", hidden=32, dim=24, **SHORT, **TINY)
    before = nearfar.load(tmp_path / "run" / "model")
    made = building.prepare("clip-rocket", data, TrainSettings(batch_size=8, steps=4, model=str(tmp_path / "run")), {})
    head = before.roles["image"].head
    assert_close(made.method.tower_a.head.weight, head.first.weight)
    assert_close(made.method.local_heads[0][0].weight, head.second[0].weight)
    nearfar.fit("clip-rocket", data, out=tmp_path / "more", model=str(tmp_path / "run"), **SHORT)
    assert nearfar.load(tmp_path / "more" / "model").dim == 48


def test_every_view_draws_its_own_caption(tmp_path):
    made = make(opened(tmp_path, lists=True), first="plain", text_views={"name": "words", "stop_words": 0.0})
    batch = made.loader.at(0)
    assert all(len(told) == 2 for told in batch.inputs["text"].told)
    drawn = made.method.plans["text"].texts(batch.inputs["text"], batch.generator())
    kinds = [[text.startswith("one") or "at place" in text for text in view] for view in drawn]
    assert any(a != b for a, b in zip(kinds[0], kinds[1], strict=True))
    assert torch.isfinite(step(made)[2].total)


def test_the_papers_preset(data):
    made = make(data, preset="paper", hidden=32)
    m = made.method
    image, text = m.plans["image"], m.plans["text"]
    assert (image.strong, image.first, image.blur) == (2, "weak", 0.5)
    assert (image.crop, image.weak_crop) == ((0.08, 1.0), (0.5, 1.0))
    assert (text.strong, text.stop_words, text.synonym, text.swap, text.deletion) == (2, 0.8, 0.4, 0.4, 0.2)
    assert (m.mode, m.smoothing, m.dim, m.mask_duplicates) == ("sum", 0.1, 512, False)
    o = m.optimisation
    assert (o.optimiser, o.weight_decay, o.betas, o.eps) == ("adamw", 0.1, (0.9, 0.98), 1e-8)
    assert o.lr == pytest.approx(3e-3 * 8 / 4096)
    assert o.final * 3e-3 == pytest.approx(1e-5)
    more = make(data, preset="paper", hidden=32, local=3, text_views={"name": "words", "clean": True})
    assert (more.method.plans["image"].strong, more.method.plans["text"].strong) == (3, 3)
    assert more.method.plans["image"].crop == (0.08, 1.0)
    assert make(data, preset="paper", hidden=32, extra="swav").method.smoothing == 0
    byol = make(data, preset="paper", hidden=32, extra="byol").method
    assert [p.shape for p in byol.predictors[0].parameters() if p.dim() > 1] == [(2048, 128), (128, 2048)]


def test_what_lacks_synonyms_says_so(data, tmp_path):
    assert "swaps and deletions alone" in make(data).resolved["synonyms"]
    (tmp_path / "s.txt").write_text("wall, side\n")
    given = make(data, text_views={"name": "words", "synonyms": str(tmp_path / "s.txt")})
    assert "synonyms" not in given.resolved


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra": "swav", "local": 3}, "two strong views a side"),
        ({"extra": "swav", "smoothing": 0.1}, "none are smoothed"),
        ({"views": "two-crops"}, "3 views of each image are needed"),
        ({"text_views": "delete"}, "3 views of each text are needed"),
        ({"text_views": "two-crops"}, "are for images, but the data are texts"),
        ({"views": {"name": "members", "k": 3}}, "of several rows"),
        ({"local": 0, "inference": "h"}, "no effect with --local 0"),
        ({"projector": "shared", "inference": "h"}, "no effect with --projector shared"),
        ({"inference": "z", "share": 0.3}, "no effect with --inference z"),
        ({"momentum": 0.5}, "belongs to --extra byol"),
        ({"eps": 0.5, "extra": "byol"}, "belongs to --extra swav"),
        ({"extra_dim": 5}, "belongs to --extra barlow, simsiam or byol"),
        ({"local": 17}, "local"),
        ({"temperature": 2.0}, "must lie within"),
        ({"extra": "barlip"}, "extra"),
        ({"text_views": {"name": "words", "synonyms": "nowhere.txt"}}, "cannot be read"),
    ],
)
def test_what_cannot_be_is_told(data, options, message):
    with pytest.raises(InputError, match=message):
        make(data, **{"hidden": 512, **options})


@pytest.mark.parametrize("extra", ["none", "swav"])
def test_it_trains_from_the_command_line(extra, tmp_path, capsys):
    curve = curve_of("clip-rocket", tmp_path / "run", capsys, "--by", "columns", "--extra", extra, "--hidden", "32",
                     "--views.flip", "0", "--views", "weak-strong", "--text-views", "words",
                     "--text-views.delete", "0.2")  # fmt: skip
    assert curve[-1]["step"] == 12
    assert {"whole", "local", "temperature", "local_temperature"} <= curve[-1].keys()
    assert ("extra" in curve[-1]) == (extra != "none")


def test_search_and_predict_from_the_command_line(tmp_path, capsys):
    table = shapes(tmp_path)
    words = [str(table), "--image", "image", "--text", "caption"]
    small = ["--steps", "4", "--batch-size", "16", "--hidden", "32", "--val-every", "0", "--variant", "z"]
    assert main(["fit", "clip-rocket", *words, *small, "--out", str(tmp_path / "run")]) == 0
    assert main(["embed", str(tmp_path / "run"), *words, "--out", str(tmp_path / "index")]) == 0
    capsys.readouterr()
    assert main(["search", str(tmp_path / "index"), "a red square", "--json"]) == 0
    assert "red" in capsys.readouterr().out
    assert main(["predict", str(tmp_path / "run"), *words, "--classes", "red,green,blue,yellow", "--out",
                 str(tmp_path / "told.csv")]) == 0  # fmt: skip
    assert len((tmp_path / "told.csv").read_text().splitlines()) > 90
