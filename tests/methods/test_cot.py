"""CoT as a method: who is whose partner, what a step sees, what the model answers, and what is refused."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

import nearfar
from nearfar import encoders, models
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.evaluation.guidance import guidance_diagnostics
from nearfar.heads.primitives import LabelComposer, Primitives
from nearfar.methods.primitives import ComposedPrimitives, layers_between
from nearfar.samplers import unlike
from nearfar.training import building
from nearfar.training.modelled import ModelEmbedder
from nearfar.training.settings import TrainSettings
from tests.compositions import write_shapes

SMALL = {"dim": 16, "augment_from": 0.5}


def make(data, steps=6, **options):
    settings = TrainSettings(batch_size=8, steps=steps, warmup=0, image_size=16)
    return building.prepare("cot", data, settings, SMALL | options)


def batches(made):
    return list(made.loader)


def step(made, batch):
    batch.views = made.method.make_views(batch)
    embedded = made.method.encode(batch)
    return embedded, made.method.loss(embedded, batch)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"), each=6)


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    nearfar.fit("cot", table, out=out, steps=60, batch_size=32, val_every=0, image_size=16, dim=32, progress=False)
    return out


def test_partners_have_the_object_and_a_rare_attribute():
    """Frequencies by 1 / count among the other attributes of the object."""
    groups = np.repeat([0, 1, 2], [111, 30, 4])
    labels = np.r_[np.repeat([0, 1, 2], [100, 10, 1]), np.repeat([3, 4], [10, 20]), np.full(4, 5)]
    rows = np.random.default_rng(0).permutation(len(groups)) * 3 + 1
    of = {int(row): (g, x) for row, g, x in zip(rows, groups, labels, strict=True)}
    draw, rng = unlike(rows, groups, labels), np.random.default_rng(1)
    for label, wanted in ((1, {0: 1 / 100, 2: 1.0}), (2, {0: 1 / 100, 1: 1 / 10}), (0, {1: 1 / 10, 2: 1.0})):
        mine = np.repeat(rows[labels == label][:1], 20_000)
        found = draw(mine, rng)
        assert all(of[int(a)][0] == of[int(b)][0] for a, b in zip(mine[:99], found[:99], strict=True))
        counts = Counter(of[int(row)][1] for row in found)
        assert set(counts) == set(wanted)
        for other, weight in wanted.items():
            assert counts[other] / 20_000 == pytest.approx(weight / sum(wanted.values()), abs=0.015)
    every = draw(rows, rng)
    assert all((of[int(a)][1] != of[int(b)][1]) == (of[int(a)][0] != 2) for a, b in zip(rows, every, strict=True))
    assert set(draw(np.repeat(rows[labels == 4][:1], 400), rng)) == set(rows[labels == 3]), "any row of the label"
    assert set(draw(np.repeat(rows[labels == 5][:1], 400), rng)) == set(rows[labels == 5]), "one attribute alone"
    common = unlike(rows, groups, labels, 1.0)(np.repeat(rows[labels == 1][:1], 20_000), rng)
    share = np.mean([of[int(row)][1] == 0 for row in common])
    assert share == pytest.approx(100 / 101, abs=0.01)


def test_batches_are_halved_and_get_partners(shapes_few):
    made = make(shapes_few, steps=40, augment_share=0.5)
    train, pairs = set(np.asarray(shapes_few.splits["train"]).tolist()), np.array(shapes_few.cells_of("attribute"))
    things, mixes = np.array(shapes_few.cells_of("object")), []
    for number, batch in enumerate(batches(made)):
        assert len(batch.rows) == 8
        assert set(batch.rows.tolist()) <= train
        assert batch.members == (1 if number < 20 else 2)
        embedded, loss = step(made, batch)
        mixes.append("mix" in loss.terms)
        assert sum(len(x) for x in embedded["pair"]) == (8 if number < 20 or mixes[-1] else 4)
        if number >= 20:
            a, b = batch.rows[:4].numpy(), batch.rows[4:].numpy()
            assert (things[a] == things[b]).all()
            assert (pairs[a] != pairs[b]).all()
    assert not any(mixes[:20])
    assert 4 <= sum(mixes[20:]) <= 16
    assert made.method.stage_of(19) == 0
    assert make(shapes_few, augment_from=1.0).method.stage_of(5) == 0


def test_the_encoder_is_held_from_then_on(shapes_few):
    made = make(shapes_few, augment_share=1.0)
    made.method.train()
    first, last = (b for k, b in enumerate(batches(made)) if k in (0, 5))
    step(made, first)[1].total.backward()
    assert all(p.grad is not None for p in made.method.tower.parameters())
    for official, moved in ((False, False), (True, True)):
        one = make(shapes_few, augment_share=1.0, official=official)
        one.method.train()
        before = {k: v.clone() for k, v in one.method.tower.state_dict().items()}
        step(one, last)[1].total.backward()
        assert all(p.grad is None for p in one.method.tower.parameters())
        assert all(p.grad is not None for p in one.method.composer.parameters())
        assert one.method.tower.encoder.training
        now = one.method.tower.state_dict()
        assert moved == any(not torch.equal(now[k], v) for k, v in before.items())
    free = make(shapes_few, augment_share=1.0, hold_encoder=False)
    step(free, last)[1].total.backward()
    assert all(p.grad is not None for p in free.method.tower.parameters())


def test_without_partners_it_is_three_softmaxes(shapes_few):
    made = make(shapes_few, augment_from=1.0, object_weight=0.7, attribute_weight=0.2)
    made.method.eval()
    batch = made.loader.at(0)
    embedded, loss = step(made, batch)
    m, composer = made.method, made.method.composer
    labels = composer.labels(m.shares, m.objects)
    rows = m.of[batch.rows]
    classes = {"pair": labels, "object": composer.objects, "attribute": composer.attributes}
    logits = [normalize(embedded[k][0], dim=1) @ normalize(c, dim=1).T / 0.05 for k, c in classes.items()]
    ce = torch.nn.functional.cross_entropy
    wanted = ce(logits[0], rows) + 0.7 * ce(logits[1], m.objects[rows]) + 0.2 * ce(logits[2], m.shares[rows].argmax(1))
    assert loss.total.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert len(labels) == len(np.unique(shapes_few.cells_of("caption"))) - 2 * round(20 * 3 / 16), "no unseen pair"


def test_words_come_from_a_file_or_a_model(shapes_few, tmp_path):
    words = ["red", "green", "blue", "grey", "disc", "ring", "box", "bar", "cross"]
    lines = [" ".join([word, *(f"{x:.3f}" for x in np.random.default_rng(k).normal(size=5))])
             for k, word in enumerate(words)]  # fmt: skip
    (tmp_path / "words.txt").write_text("\n".join(lines) + "\n")
    made = make(shapes_few, words=str(tmp_path / "words.txt"), dim="auto")
    composer = made.method.composer
    assert composer.attributes[0].tolist() == pytest.approx([float(x) for x in lines[2].split()[1:]])  # blue
    assert made.method.width == made.resolved["dim"] == 5
    rates = made.method.scaled_parameters()
    assert rates[composer.attributes] == rates[composer.objects] == 0.025
    with pytest.raises(InputError, match="have 5 numbers, not 16"):
        make(shapes_few, words=str(tmp_path / "words.txt"))
    (tmp_path / "few.txt").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(InputError, match="no vector of 'cross'"):
        make(shapes_few, words=str(tmp_path / "few.txt"), dim="auto")
    with pytest.raises(InputError, match="no file of word vectors"):
        make(shapes_few, words=str(tmp_path / "none.txt"))
    texts = encoders.text("small", texts=[f"a {word} thing" for word in words], vocabulary=120, dim=12)
    models.save_model(tmp_path / "texts", {"text": texts})
    told = make(shapes_few, words=str(tmp_path / "texts"), dim="auto").method.composer
    wanted = nearfar.load(tmp_path / "texts").embed_texts(["bar", "box", "cross", "disc", "ring"])
    assert np.allclose(told.objects.detach().numpy(), wanted, atol=1e-6)
    drawn = make(shapes_few).method.composer
    assert torch.allclose(drawn.objects.norm(dim=1), torch.ones(5))
    other = building.prepare("cot", shapes_few, TrainSettings(batch_size=8, steps=6, seed=1, image_size=16), SMALL)
    assert not torch.equal(drawn.objects, other.method.composer.objects)


def test_rates_by_group_and_steps(shapes_few):
    made = make(shapes_few, steps=36, encoder_rate=0.1, word_rate=0.5, milestones=(23 / 36, 30 / 36))
    made.method.optimisation = made.method.optimisation.__class__(lr=1e-4, schedule="constant", warmup=0)
    assert [made.method.rate(k) for k in (0, 22, 23, 29, 30, 35)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    optimiser, _ = made.method.optimiser(made.method.optimisation, made.method.parameters())
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    m = made.method
    assert [rates[id(p)] for p in m.tower.parameters()] == pytest.approx([1e-5] * len([*m.tower.parameters()]))
    assert rates[id(m.composer.attributes)] == pytest.approx(5e-5)
    assert [rates[id(p)] for p in m.primitives.parameters()] == pytest.approx(
        [1e-4] * len([*m.primitives.parameters()])
    )


def test_the_preset_of_the_paper(shapes_few):
    settings = TrainSettings(batch_size=8, steps=36, image_size=16, preset="paper")
    m = building.prepare("cot", shapes_few, settings, {}).method
    o = m.optimisation
    assert (o.optimiser, o.lr, o.weight_decay, o.schedule, o.decay_all) == ("adam", 1e-4, 5e-5, "constant", True)
    assert (m.late.start(36), m.width, m.rates) == (24, 300, {"encoder": 0.1, "words": 0.025})
    assert m.plan.flip == 0.5
    assert m.plan.crop == (0.08, 1.0)
    assert m.plan.strength == m.plan.grey == 0
    assert make(shapes_few).method.plan.flip == 0


def test_the_score_is_that_of_the_model_by_hand(table, trained):
    """From the files alone: layers, gates, words, labels with running statistics."""
    state = {k: v.double() for k, v in load_file(trained / "model" / "model.safetensors").items()}
    config = json.loads((trained / "model" / "config.json").read_text())["inference"]
    loaded, data = nearfar.load(trained / "model"), nearfar.data(table)
    rows = np.asarray(data.splits["test"])[:7]
    w = {k.removeprefix("inference."): v for k, v in state.items() if k.startswith("inference.")}
    encoder = loaded.roles["image"].encoder.double().eval()
    x = torch.from_numpy(data.images("image", 16)[rows]).double() / 255
    maps = [encoder.feature_map(x, k).detach() for k in (3, 2, 1, 4)]

    def dense(name, z):
        return z @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    item, pooled = dense("primitives.objects", maps[3].mean((2, 3))), []
    for k, f in enumerate(maps[:3]):
        at = f"primitives.guides.{k}"
        hidden = dense(f"{at}.channels.0", torch.cat([item, f.mean((2, 3))], 1)).relu()
        through = f * dense(f"{at}.channels.2", hidden).sigmoid()[..., None, None]
        both = torch.stack([item.mean(1)[:, None, None].expand_as(f[:, 0]), through.mean(1)], 1)
        s = torch.nn.functional.conv2d(both, w[f"{at}.places.0.weight"], padding=1)
        s = (s - w[f"{at}.places.1.running_mean"]) / (w[f"{at}.places.1.running_var"] + 1e-5).sqrt()
        s = s * w[f"{at}.places.1.weight"] + w[f"{at}.places.1.bias"]
        pooled.append((f + through * s.sigmoid()).mean((2, 3)))
    attribute = dense("primitives.attributes", torch.cat(pooled, 1))
    pair = dense("primitives.pairs.3", dense("primitives.pairs.1", torch.cat([item, attribute], 1)).relu())
    names = [((a,), o) for a in config["attributes"] for o in config["objects"]]
    wanted = np.zeros((7, len(names)))
    for k, ((a,), o) in enumerate(names):
        e_a = w["composer.attributes"][config["attributes"].index(a)]
        e_o = w["composer.objects"][config["objects"].index(o)]
        y = torch.cat([e_o, e_a])[None]
        for layer, norm in ((0, 1), (3, 4)):
            y = dense(f"composer.net.{layer}", y)
            y = (y - w[f"composer.net.{norm}.running_mean"]) / (w[f"composer.net.{norm}.running_var"] + 1e-5).sqrt()
            y = (y * w[f"composer.net.{norm}.weight"] + w[f"composer.net.{norm}.bias"]).relu()
        y = dense("composer.net.6", y)[0]
        for z, c in ((pair, y), (attribute, e_a), (item, e_o)):
            wanted[:, k] += (normalize(z, dim=1) @ (c / c.norm())).numpy()
    fresh = nearfar.load(trained / "model")
    with torch.inference_mode():
        found = fresh.inference.of_compositions(data, rows, ModelEmbedder(fresh, data, batch_size=3), names)
    assert np.abs(found.numpy() - 100 * wanted).max() < 2e-2
    assert found.std() > 1


def test_it_learns_and_answers(table, trained, capsys, tmp_path):
    scores = json.loads((trained / "scores.json").read_text())["scores"]["test"]["metrics"]
    chance = nearfar.evaluate(trained, table, baseline=True)
    got = {row["slug"]: row["metrics"] for row in chance["rows"]}
    assert scores["auc"] > 5 * got["chance"]["auc"]
    assert got["model"]["auc"] == pytest.approx(scores["auc"], abs=1e-6)
    out = tmp_path / "answers.csv"
    assert main(["predict", str(trained), str(table), "--top", "2", "--out", str(out)]) == 0
    with open(out) as file:
        rows = list(csv.DictReader(file))
    with open(table) as file:
        told = [f"{r['attribute']} {r['object']}" for r in csv.DictReader(file)]
    assert len(rows) == len(told)
    assert {"prediction", "score", "seen", "prediction_2"} <= set(rows[0])
    assert np.mean([r["prediction"] == t for r, t in zip(rows, told, strict=True)]) > 0.3
    assert float(rows[0]["score"]) >= float(rows[0]["score_2"])
    names = [
        "predict",
        str(trained),
        str(table),
        "--compositions",
        "red ring, blue box",
        "--out",
        str(tmp_path / "b.csv"),
    ]
    assert main(names) == 0
    with open(tmp_path / "b.csv") as file:
        assert {r["prediction"] for r in csv.DictReader(file)} == {"red ring", "blue box"}
    capsys.readouterr()
    assert (
        main(["predict", str(trained), str(table), "--compositions", "red cat", "--out", str(tmp_path / "c.csv")]) == 2
    )
    assert "'red cat' is no composition" in capsys.readouterr().err
    words = nearfar.load(trained / "model").inference
    assert words.of_words(["blue", "red"]).shape == (2, 32)
    assert words.of_words(["blue", "cat"]) is None
    assert main(["diagnose", str(trained), str(table)]) == 0
    told = capsys.readouterr().out
    assert "gates of layer 3" in told
    assert "layer 1 follows the object" in told


def test_words_that_are_attributes_and_objects_are_told_apart():
    composer = LabelComposer(torch.zeros(3, 4), torch.ones(2, 4))
    names = {"attributes": ["lime", "orange", "red"], "objects": ["lime", "orange"], "known": [], "seen": []}
    made = ComposedPrimitives(Primitives(8, [8], 4), composer, (1,), 1.0, **names)
    assert (made.of_words(["lime", "orange"]) == 1).all()
    assert (made.of_words(["orange", "lime", "red"]) == 0).all()
    assert made.of_words(["red"]).shape == (1, 4)


def test_gates_that_do_nothing_are_told():
    still = torch.full((4, 3), 0.5)
    names = {d.name: d.verdict for d in guidance_diagnostics([("layer 1", still, still, still)])}
    assert names == {"gates of layer 1": "watch", "layer 1 follows the object": "watch"}
    moving = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    found = guidance_diagnostics([("layer 1", moving, still, moving.roll(1, 0)), ("layer 1", still[:1], still, still)])
    assert {d.verdict for d in found} == {"good"}


def test_several_attributes_count_as_their_mean(tmp_path):
    data = nearfar.data(write_shapes(tmp_path, each=6, second=True), roles={"attribute": ["attribute", "size"]})
    made = make(data, augment_share=1.0)
    m = made.method
    assert set(m.shares.unique().tolist()) == {0.0, 0.5, 1.0}
    for batch in batches(made):
        assert step(made, batch)[1].total.isfinite()


def test_a_transformer_reads_its_blocks(shapes_few, tmp_path):
    """ViT: blocks 9, 6 and 3, and weights of a file."""
    weights = tmp_path / "vit.safetensors"
    save_file(encoders.image("vit_tiny_patch16_224", 32).model.state_dict(), weights)
    settings = TrainSettings(batch_size=4, steps=2, encoder="vit_tiny_patch16_224", image_size=32, weights=str(weights))
    made = building.prepare("cot", shapes_few, settings, SMALL)
    assert made.method.layers == (9, 6, 3)
    assert made.method.rates["encoder"] == 0.1
    assert made.method.primitives.sizes["channels"] == [192, 192, 192]
    step(made, made.loader.at(0))[1].total.backward()


def test_layers_of_deep_and_shallow_networks():
    assert [layers_between(d) for d in (12, 24, 4, 5, 3)] == [(9, 6, 3), (18, 12, 6), (3, 2, 1), (4, 3, 2), (3, 2, 1)]
    with pytest.raises(InputError, match="this encoder has 2"):
        layers_between(2)


def test_what_is_refused(shapes_few, table, tmp_path):
    with pytest.raises(InputError, match="Leave out --freeze"):
        building.prepare("cot", shapes_few, TrainSettings(batch_size=8, steps=6, freeze=True), {})
    with pytest.raises(InputError, match="Batches of 3 are halved"):
        building.prepare("cot", shapes_few, TrainSettings(batch_size=3, steps=6), SMALL)
    assert building.prepare("cot", shapes_few, TrainSettings(batch_size=2, steps=6), SMALL | {"augment_from": 1.0})
    with pytest.raises(InputError, match="layers 1 to 4"):
        make(shapes_few, layers=(5, 2, 1))
    with pytest.raises(InputError, match="layers"):
        make(shapes_few, layers=(3, 2, 1), attention="last")
    with pytest.raises(InputError, match=r"mix.temperature"):
        make(shapes_few, mix_weight=0.0, mix_temperature=0.2)
    with pytest.raises(InputError, match="Choose other --views"):
        make(shapes_few, views={"name": "members", "k": 2})
    with open(table) as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["split"] = "test" if row["attribute"] == "red" else "val" if row["image"].endswith("-0.png") else "train"
    lonely = table.parent / "lonely.csv"
    with open(lonely, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(InputError, match=r"No training row of .* has the attribute 'red'"):
        make(nearfar.data(lonely))
