"""CREST as a method: what a step sees, what the model answers and how sure it is, and what is refused."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import nearfar
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.evaluation.certainty import calibration_error, certainty_diagnostics, knows_mistakes
from nearfar.evaluation.compositional import best_gamma
from nearfar.methods.described import alike
from nearfar.methods.describing import DescribedClasses, predicted
from nearfar.methods.micro_batches import Cached
from nearfar.training import building, showing
from nearfar.training.modelled import ModelEmbedder
from nearfar.training.settings import TrainSettings
from tests.compositions import write_shapes

SMALL = {"dim": 16, "patterns": 6}
LOOKS = {
    "disc": {"round": 1, "hollow": 0, "long": 0},
    "ring": {"round": 1, "hollow": 1, "long": 0},
    "box": {"round": 0, "hollow": 0, "long": 0.2},
    "bar": {"round": 0, "hollow": 0, "long": 1},
    "cross": {"round": 0, "hollow": 0.5, "long": 1},
}


def make(data, steps=6, **options):
    settings = TrainSettings(batch_size="auto", steps=steps, warmup=0, image_size=16)
    return building.prepare("crest", data, settings, SMALL | options)


def step(made, number=0):
    batch = made.loader.at(number)
    batch.views = made.method.make_views(batch)
    embedded = made.method.encode(batch)
    return batch, embedded, made.method.loss(embedded, batch)


def write_attributes(path, looks):
    names = list(next(iter(looks.values())))
    lines = [",".join(["class", *names])]
    lines += [",".join([name, *(str(row.get(one, 0)) for one in names)]) for name, row in looks.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A user's own table of shapes, and a file of how they look that describes one more."""
    folder = tmp_path_factory.mktemp("shapes")
    made = write_shapes(folder, each=10)
    write_attributes(folder / "looks.csv", LOOKS | {"egg": {"round": 0.9, "hollow": 0, "long": 0.3}})
    return made


@pytest.fixture(scope="module")
def shapes(table):
    return nearfar.data(table, roles=ROLES, class_attributes=table.parent / "looks.csv")


ROLES = {"target": "object", "attribute": None, "object": None, "text": None}


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    nearfar.fit("crest", shapes, out=out, steps=80, lr=2e-3, val_every=0, image_size=16, progress=False, **SMALL)
    return out


def test_batches_hold_images_of_every_class(described_few):
    made = make(described_few)
    train, digits = set(np.asarray(described_few.splits["train"]).tolist()), described_few.cells_of("digit")
    for batch in made.loader:
        assert len(batch.rows) == 35
        assert set(batch.rows.tolist()) <= train
        found = [digits[i] for i in batch.rows.tolist()]
        assert {found.count(name) for name in found} == {5}
        assert len(batch.inputs["image"]) == 35
    assert made.resolved["described"] == "7 of 10 are trained on"
    assert made.resolved["classes"] == 7
    assert len(make(described_few, classes=3, each=2).loader.at(0).rows) == 6


def test_unseen_classes_are_no_candidates_in_training(described_few):
    m = make(described_few).method
    assert m.matrix.shape == (7, 15)
    train = np.asarray(described_few.splits["train"])
    assert set(m.of[train].tolist()) == set(range(7))
    others = np.isin(described_few.targets, np.unique(described_few.targets[train]), invert=True)
    assert others.any()
    assert (m.of[torch.from_numpy(others)] == -1).all()
    assert m.inference().seen.count(True) == 7


def test_terms_and_their_weights(described_few):
    names = {"told", "vicl", "digs", "arise", "uncertainty", "conflict"}
    _, _, loss = step(make(described_few))
    t = loss.terms
    assert set(t) == names
    assert loss.total.item() == pytest.approx(float(t["told"] + 0.5 * t["vicl"] + 0.1 * t["digs"] + t["arise"]))
    plain = step(make(described_few, contrast_weight=0.0, pattern_weight=0.0, attribute_weight=0.0))[2]
    assert set(plain.terms) == {"told", "uncertainty", "conflict"}
    assert plain.total.item() == pytest.approx(float(plain.terms["told"]))
    for options, wanted in (
        ({"paths": "visual"}, names - {"digs", "conflict"}),
        ({"paths": "attribute"}, names - {"vicl", "conflict"}),
        ({"paths": "pooled", "learned": "regression"}, {"arise"}),
        ({"learned": "cross-entropy"}, {"told", "vicl", "digs", "arise"}),
        ({"patterns": 0}, names - {"digs"}),
    ):
        size = {"dim": 16} if options.get("paths") != "pooled" else {}
        settings = TrainSettings(batch_size="auto", steps=6, warmup=0, image_size=16)
        found = step(building.prepare("crest", described_few, settings, size | options))[2]
        assert set(found.terms) == wanted, options
        assert found.total.isfinite()


def test_wrong_evidence_costs_more_epoch_by_epoch(described_few):
    made = make(described_few, anneal_epochs=3)
    epoch = made.method.facts.epoch
    batch, embedded, _ = step(made)
    found = []
    for number in (0, epoch - 1, epoch, 2 * epoch, 9 * epoch):
        batch.step = number
        found.append(float(made.method.loss(embedded, batch).terms["told"]))
    assert found[0] == found[1] < found[2] < found[3] == found[4]


def test_a_held_encoder_stays_as_it_is(described_few):
    made = make(described_few, hold_encoder=True)
    made.method.train()
    before = {k: v.clone() for k, v in made.method.tower.state_dict().items()}
    step(made)[2].total.backward()
    assert not made.method.tower.training
    assert all(p.grad is None for p in made.method.tower.parameters())
    assert all(torch.equal(v, made.method.tower.state_dict()[k]) for k, v in before.items())
    assert all(p.grad is not None for p in made.method.grounding.parameters())


def test_micro_batches_give_the_same_gradients(described_few):
    made = make(described_few, hold_encoder=True)
    method = made.method.double().train()
    batch = made.loader.at(0)
    batch.views = {role: [x.double() for x in views] for role, views in method.make_views(batch).items()}
    cached = Cached(method, batch, 3)
    method.loss(cached.embedded(), batch).total.backward()
    cached.backward()
    found = {k: p.grad.clone() for k, p in method.named_parameters() if p.grad is not None}
    method.zero_grad()
    method.loss(method.encode(batch), batch).total.backward()
    assert found
    for k, p in method.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(found[k], p.grad, rtol=1e-8, atol=1e-12)


def test_the_answer_is_that_of_the_model_by_hand(shapes, trained):
    """From the files alone: both paths, opinions and Dempster's rule over all six classes."""
    state = {k: v.double().numpy() for k, v in load_file(trained / "model" / "model.safetensors").items()}
    config = json.loads((trained / "model" / "config.json").read_text())["inference"]
    w = {k.removeprefix("inference."): v for k, v in state.items() if k.startswith("inference.")}
    loaded, rows = nearfar.load(trained / "model"), np.asarray(shapes.splits["test"])[:5]
    encoder = loaded.roles["image"].encoder.double().eval()
    x = torch.from_numpy(shapes.images("image", 16)[rows]).double() / 255
    maps = encoder.feature_map(x).detach().numpy()

    def softmax(s):
        e = np.exp(s - s.max())
        return e / e.sum()

    def attend(q, k, v, name):
        q, k, v = q @ w[f"{name}.query.weight"].T, k @ w[f"{name}.key.weight"].T, v @ w[f"{name}.value.weight"].T
        return np.stack([softmax(k @ one / 16**0.5) @ v for one in q])

    a, bank, z = w["grounding.words"], w["grounding.patterns"], w["matrix"]
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    wanted, unsure = np.zeros((5, 6)), np.zeros(5)
    for i, one in enumerate(maps):
        r = one.reshape(one.shape[0], -1).T
        v, t = attend(a, r, r, "grounding.visual"), attend(r, a, a, "grounding.attribute")
        psi = [((a @ w["grounding.visual_words.weight"].T) * v).sum(1)]
        h = []
        for row in t:
            best = np.argsort(-(bank @ row))[:4]
            h.append(row + softmax(bank[best] @ row) @ bank[best])
        psi.append((a @ w["grounding.attribute_words.weight"].T) @ np.mean(h, 0))
        (b, u), (c, s) = ((e / (e + 1).sum(), 6 / (e + 1).sum()) for e in (np.log1p(np.exp(unit @ p)) for p in psi))
        k = sum(b[m] * c[n] for m in range(6) for n in range(6) if m != n)
        belief, unsure[i] = (b * c + b * s + c * u) / (1 - k), u * s / (1 - k)
        wanted[i] = belief + unsure[i] / 6  # alpha / S = b + u / C
    fresh = nearfar.load(trained / "model")
    assert config["classes"][-1] == "egg"
    with torch.inference_mode():
        found = fresh.inference.answer(rows, ModelEmbedder(fresh, shapes, batch_size=2), fresh.inference.matrix)
    assert np.abs(found.score.numpy() - wanted).max() < 1e-5
    assert np.abs(found.uncertainty.numpy() - unsure).max() < 1e-5
    assert np.ptp(wanted, axis=1).min() > 0.01


def test_the_model_keeps_the_constant_that_validation_rows_chose(shapes, trained, tmp_path):
    task = nearfar.evaluation.task_for(shapes, "generalised-zero-shot")
    model, rows = nearfar.load(trained / "model"), task.labelled("val")
    classes, seen = task.candidates("val")
    scores = task.class_scores(ModelEmbedder(model, shapes), rows, classes)
    gamma = best_gamma(scores, np.searchsorted(classes, task.targets[rows]), seen)
    assert model.inference.gamma == pytest.approx(gamma, abs=1e-6)
    assert gamma
    told_of = [nearfar.predict(model, shapes, candidates="disc, ring, box, bar, cross", **given).columns["prediction"]
               for given in ({}, {"gamma": gamma}, {"gamma": 0})]  # fmt: skip
    assert told_of[0] == told_of[1] != told_of[2]
    config = model.inference.config()
    assert DescribedClasses.restored({k: v for k, v in config.items() if k != "gamma"}).gamma == 0, "of older models"


def test_classes_of_one_image(table, tmp_path):
    """The contrast needs two of a class: one that has no second is not drawn, which is said."""
    rows = read(table)
    lonely = [row for row in rows if row["object"] != "disc" or row["image"] == "red-disc-0.png"]
    with open(table.parent / "lonely.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "split"])
        writer.writeheader()
        writer.writerows([row | {"split": "test" if row["object"] == "bar" else "train"} for row in lonely])
    roles = ROLES | {"split": "split"}
    data = nearfar.data(table.parent / "lonely.csv", roles=roles, class_attributes=table.parent / "looks.csv")
    made = make(data)
    assert (made.resolved["classes"], made.resolved["each"]) == (3, 5)
    assert "training rows of 1 of the 4 classes, which have fewer than 5 rows each (1 in all) are in no batch" in (
        " ".join(made.notes)
    )
    assert make(data, contrast_weight=0.0).resolved["each"] == 5, "arms of a comparison have the same batches"


def test_an_epoch_is_so_many_steps(described_few):
    settings = TrainSettings(batch_size="auto", steps=40, warmup=0, image_size=16)
    once, twice = (dataclasses.replace(settings, accumulate=k) for k in (1, 2))
    one, two = (building.prepare("crest", described_few, said, SMALL).method.facts for said in (once, twice))
    assert two.epoch == one.epoch // 2


def read(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_it_answers_on_the_command_line(table, trained, tmp_path, capsys):
    plain = [str(table), "--image", "image", "--id", "image"]
    ask = ["predict", str(trained), *plain]
    plainly = ["--gamma", "0", "--top", "2", "--out", str(tmp_path / "a.csv")]
    assert main([*ask, *plainly]) == 0, "a table without a column of classes"
    rows = read(tmp_path / "a.csv")
    assert set(rows[0]) == {"key", "prediction", "score", "belief", "seen", "prediction_2", "score_2", "belief_2",
                            "seen_2", "conflict", *(f"uncertainty{end}" for end in ("", "_visual", "_attribute"))
                            }  # fmt: skip
    for row in rows:
        assert float(row["score"]) >= float(row["score_2"])
        assert (
            0 < float(row["uncertainty"]) <= min(float(row["uncertainty_visual"]), float(row["uncertainty_attribute"]))
        )
        assert float(row["score"]) == pytest.approx(float(row["belief"]) + float(row["uncertainty"]) / 6, abs=1e-5)
        assert 0 <= float(row["conflict"]) < 1
    unseen = {name for name, seen in zip(*(nearfar.load(trained / "model").inference.config()[k]
                                           for k in ("classes", "seen")), strict=True) if not seen}  # fmt: skip
    assert main([*ask, "--gamma", "1", "--out", str(tmp_path / "b.csv")]) == 0
    assert {row["prediction"] for row in read(tmp_path / "b.csv")} <= unseen
    assert main([*ask, "--candidates", "unseen", "--out", str(tmp_path / "c.csv")]) == 0
    assert {row["seen"] for row in read(tmp_path / "c.csv")} == {"False"}
    new = write_attributes(tmp_path / "new.csv", {"moon": {"long": 0.1, "round": 1, "hollow": 0.3},
                                                  "ring": {"long": 0, "round": 1, "hollow": 1}})  # fmt: skip
    assert main([*ask, "--candidates", str(new), "--out", str(tmp_path / "d.jsonl")]) == 0
    told_of = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text().splitlines()]
    assert {row["prediction"] for row in told_of} <= {"moon", "ring"}
    capsys.readouterr()
    for said, why in (
        ("disk", "no class 'disk'. Did you mean 'disc'?"),
        (" , ", "names no class"),
        (
            str(write_attributes(tmp_path / "other.csv", {"moon": {"round": 1, "shiny": 1}})),
            "knows no attribute 'shiny'",
        ),
        (str(write_attributes(tmp_path / "less.csv", {"moon": {"round": 1}})), "has no attribute"),
        (str(tmp_path / "none.csv"), "There is no file of class attributes"),
        (
            str(write_attributes(tmp_path / "nan.csv", {"moon": dict.fromkeys(LOOKS["box"], "nan")})),
            "not a finite number",
        ),
    ):
        assert main([*ask, "--candidates", said, "--out", str(tmp_path / "e.csv")]) == 2
        assert why in " ".join(capsys.readouterr().err.split())


def test_it_learns_and_is_measured(shapes, table, trained, capsys):
    scores = json.loads((trained / "scores.json").read_text())["scores"]["test"]["metrics"]
    loaded, rows = nearfar.load(trained / "model"), np.asarray(shapes.splits["test"])
    names, matrix, _ = loaded.inference.candidates("seen")
    rows = rows[np.isin(shapes.targets[rows], [shapes.target_names.index(name) for name in names])]
    with torch.inference_mode():
        told_of = loaded.inference.of_described(shapes, rows, ModelEmbedder(loaded, shapes), names, matrix.numpy())
    right = [
        names[k] == shapes.target_names[shapes.targets[row]] for k, row in zip(told_of.argmax(1), rows, strict=True)
    ]
    assert np.mean(right) > 0.6, "chance: a third"
    found = nearfar.evaluate(trained, shapes)
    assert found["rows"][0]["metrics"]["harmonic"] == pytest.approx(scores["harmonic"], abs=1e-6)
    words = [
        str(table),
        "--target",
        "object",
        "--class-attributes",
        str(table.parent / "looks.csv"),
        "--image",
        "image",
    ]
    assert main(["diagnose", str(trained), *words]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "calibration error" in said
    task = nearfar.evaluation.task_for(shapes, "generalised-zero-shot")
    shown = showing.illustrate(trained / "model", shapes, task, points=0)["diagnostics"]
    assert "less sure of unseen classes" in {one["name"] for one in shown}, "the report of a comparison shows it"


def test_what_others_learn_from_is_told_too(described_few):
    psi, z = [torch.randn(4, 5, generator=torch.Generator().manual_seed(k)) for k in (0, 1)], torch.rand(3, 5)
    one = predicted(psi, z, "cross-entropy", "softplus", "dempster", 2.0)
    unit = z / z.norm(dim=1, keepdim=True)
    share = ((psi[0] + psi[1]) / 2 @ unit.T * 2).softmax(1)
    torch.testing.assert_close(one.score, share)
    torch.testing.assert_close(one.uncertainty, -(share * share.log()).sum(1) / np.log(3))
    mean = (psi[0] + psi[1]) / 2
    torch.testing.assert_close(predicted(psi, z, "regression", "softplus", "dempster", 1.0).score,
                               mean / mean.norm(dim=1, keepdim=True) @ unit.T)  # fmt: skip
    alone = predicted(psi, z[:1], "cross-entropy", "softplus", "dempster", 2.0)
    assert alone.uncertainty.tolist() == [0, 0, 0, 0]
    assert predicted(psi[:1], z[:1], "evidential", "exp", "dempster", 1.0).score.tolist() == [[1]] * 4


def test_diagnostics_of_certainty():
    rng, n = np.random.default_rng(0), 4000
    truth, seen = rng.integers(0, 4, n), np.array([True, True, False, False])
    p = rng.dirichlet(np.ones(4), n)
    truth = np.array([rng.choice(4, p=row) for row in p])
    assert calibration_error(p, truth) < 0.05, "probabilities that are true"
    sharp = np.eye(4)[p.argmax(1)] * 0.999 + 0.00025
    assert calibration_error(sharp, truth) > 0.3
    assert knows_mistakes(rng.random(n), p.argmax(1) == truth) == pytest.approx(0.5, abs=0.03), "random uncertainty"
    wrong = p.argmax(1) != truth
    assert knows_mistakes(wrong.astype(float), ~wrong) == 1
    assert knows_mistakes(np.zeros(3), np.ones(3, bool)) is None
    names = {d.name: d for d in certainty_diagnostics(p, rng.random(n), truth, seen, True, True)}
    assert names["unseen classes by uncertainty"].value == pytest.approx(0.5, abs=0.03)
    assert names["less sure of unseen classes"].verdict == "watch"
    assert names["mistakes by uncertainty, unseen"].verdict == "watch"
    surer = {d.name: d for d in certainty_diagnostics(p, np.where(seen[truth], 0.1, 0.9), truth, seen, True, True)}
    assert surer["unseen classes by uncertainty"].value == 1
    assert certainty_diagnostics(p[:3], p[:3, 0], truth[:3], seen, True, True) == []


def test_words_and_large_attributes(described_few, tmp_path):
    names = described_few.meta["class_attributes"][0]
    words = sorted({part for name in names for part in name.split()})
    lines = [" ".join([word, *(f"{x:.3f}" for x in np.random.default_rng(k).normal(size=7))])
             for k, word in enumerate(words)]  # fmt: skip
    (tmp_path / "words.txt").write_text("\n".join(lines) + "\n")
    assert make(described_few, words=str(tmp_path / "words.txt")).method.grounding.words.shape == (15, 7)
    drawn = make(described_few, word_width=9).method.grounding.words
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(15))
    other = building.prepare("crest", described_few, TrainSettings(steps=6, seed=1, image_size=16), {"word_width": 9})
    assert not torch.equal(drawn, other.method.grounding.words)


def test_percentages_are_attributes_too(table, tmp_path):
    made = {}
    for factor in (1, 100):
        looks = {name: {k: factor * v for k, v in row.items()} for name, row in LOOKS.items()}
        file = write_attributes(tmp_path / f"{factor}.csv", looks)
        data = nearfar.data(table, roles=ROLES, class_attributes=file)
        made[factor] = make(data).method.matrix
    torch.testing.assert_close(made[1], made[100])


def test_two_classes_alike_are_told():
    assert alike(np.array([[1.0, 0], [0, 1], [2, 0]]), ["a", "b", "c"]) == ("a", "c")
    assert alike(np.array([[1.0, 0], [0, 1], [-1, 0]]), ["a", "b", "c"]) is None


def test_what_is_refused(described_few, table, shapes_few, emoji_few, tmp_path):
    def data(looks, **roles):
        return nearfar.data(table, roles=ROLES | roles, class_attributes=write_attributes(tmp_path / "x.csv", looks))

    for bad, why in (
        ({k: v for k, v in LOOKS.items() if k != "box"}, "The class 'box' has no attributes"),
        (LOOKS | {"box": dict.fromkeys(LOOKS["box"], 0)}, "'box' has no attribute other than 0"),
        (LOOKS | {"box": {"round": "nan", "hollow": 0, "long": 1}}, "line 4, 'round': 'nan' is not a finite number"),
    ):
        with pytest.raises(InputError, match=why):
            data(bad)
    constant = {name: row | {"drawn": 1} for name, row in LOOKS.items()}
    assert "1 of them the same" in make(data(constant)).resolved["attributes"]
    with pytest.raises(InputError, match="have the same attributes: nothing tells them apart"):
        make(data({name: {"round": 1, "hollow": 0, "long": 0} for name in LOOKS}))
    with pytest.raises(InputError, match="--class-attributes FILE"):
        make(emoji_few)
    rows = read(table)
    for row in rows:
        row["split"] = "train" if row["object"] == "disc" else "test"
    one = table.parent / "one.csv"
    with open(one, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(InputError, match=r"All training rows of .* have the class 'disc'"):
        make(nearfar.data(one, roles=ROLES | {"split": "split"}, class_attributes=table.parent / "looks.csv"))
    frozen = TrainSettings(batch_size="auto", steps=6, freeze=True)
    with pytest.raises(InputError, match="Leave out --freeze"):
        building.prepare("crest", described_few, frozen, {})
    for options, why in (
        ({"learned": "regression", "attribute_weight": 0.0}, "nothing left to learn from"),
        ({"classes": 1}, "a batch of one class"),
        ({"each": 999}, "Use a smaller --each"),
        ({"map_layer": 9}, "layers 1 to 4"),
        ({"views": {"name": "members", "k": 2}}, "Choose other --views"),
        ({"paths": "visual", "pattern_weight": 0.3}, r"pattern.weight"),
        ({"learned": "cross-entropy", "fusion": "mean"}, "fusion"),
        ({"contrast_weight": 0.0, "temperature": 0.5}, "temperature"),
    ):
        with pytest.raises(InputError, match=why):
            building.prepare("crest", described_few, TrainSettings(steps=6, image_size=16), options)


def test_the_preset_says_what_it_is(described_few):
    settings = TrainSettings(batch_size="auto", steps=6, image_size=16, preset="paper")
    with pytest.raises(InputError, match="7 of the 7 classes"):
        building.prepare("crest", described_few, settings, {})
    m = building.prepare("crest", described_few, settings, {"classes": 7}).method
    o = m.optimisation
    assert (o.optimiser, o.lr, o.schedule, o.weight_decay) == ("adam", 1e-4, "constant", 0)
    assert (m.sizes["dim"], m.sizes["patterns"], m.sizes["kept"], m.temperature) == (256, 32, 4, 0.2)
    assert "reconstruction" in nearfar.methods.describe("crest")["paper"]["differs"]
