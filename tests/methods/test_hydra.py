"""Hydra as a method: pairs of classes, gates, forms, errors, and what diagnose tells of a finished model."""

import csv
import json

import numpy as np
import pytest
import torch

import nearfar
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.evaluation.gates import class_affinity, gate_diagnostics
from nearfar.methods.contrast import against_targets
from nearfar.similarity import one_way
from nearfar.training import building
from nearfar.training.settings import TrainSettings
from tests.losses import reference
from tests.methods.test_contract import step

SMALL = {"dim": 16, "gate_width": 8, "gate_hidden": 12}


def setup(data, settings=None, **options):
    settings = {"batch_size": 12, "steps": 6, "warmup": 0} | (settings or {})
    small = {"dim": 16} if options.get("gate") == "none" else SMALL
    return building.prepare("hydra", data, TrainSettings(**settings), small | options)


def seen_by(made, number=0):
    """Labels, second classes and gates of a step, drawn once more with the method as it is."""
    embedded, batch, loss = step(made, number)
    return embedded, batch, loss, made.method.drawn(batch)


@pytest.mark.parametrize("options", [
    {}, {"reduction": "anchors"}, {"pairs": "identical"}, {"pairs": "distinct"}, {"gate": "none"}, {"gate": "product"},
    {"subtract": 0.5, "temperature": 0.3}, {"gate": "gumbel"}, {"views": {"name": "multi-crop", "big": 2, "small": 1}},
])  # fmt: skip
def test_a_step_is_the_equation(emoji_few, options):
    made = setup(emoji_few, mask_duplicates=False, **options)
    embedded, _, loss, (labels, partners, gates) = seen_by(made)
    z = [v.detach() for v in embedded["views"]]
    gates = torch.ones_like(z[0]) if gates is None else gates.detach()
    given = {k: v for k, v in options.items() if k in ("reduction", "subtract", "temperature")}
    sides = [(a, b) for a in range(len(z)) for b in range(2) if a != b]
    want = sum(reference.hydra(z[a], z[b], gates, labels, partners, **given) for a, b in sides) / len(sides)
    assert loss.total.item() == pytest.approx(want, rel=1e-4)
    if options.get("pairs") == "identical":
        assert torch.equal(labels, partners)
    elif options.get("pairs") != "distinct":
        assert torch.equal(labels.sort().values, partners.sort().values)


def test_the_single_form_has_the_same_view_of_the_others_as_keys(emoji_few):
    made = setup(emoji_few, form="single", mask_duplicates=False)
    embedded, _, loss, (labels, partners, gates) = seen_by(made)
    want = [reference.hydra(z.detach(), z.detach(), gates.detach(), labels, partners, own=True)
            for z in embedded["views"]]  # fmt: skip
    assert loss.total.item() == pytest.approx(sum(want) / 2, rel=1e-4)


@pytest.mark.parametrize("own", [False, True])
def test_the_momentum_form_adds_info_nce_to_a_teacher(emoji_few, own):
    made = setup(emoji_few, form="momentum", beta=3.0, own_predictor=own, temperature=0.2, mask_duplicates=False)
    embedded, _, loss, (labels, partners, gates) = seen_by(made)
    assert made.method.momentum == 0.99
    first, last = embedded["predicted 0"], embedded[f"predicted {int(own)}"]
    pair = [reference.hydra(last[a].detach(), embedded["targets"][1 - a], gates.detach(), labels, partners,
                            temperature=0.2) for a in range(2)]  # fmt: skip
    instance = [reference.info_nce(first[a].detach(), embedded["targets"][1 - a], temperature=0.2) for a in range(2)]
    assert loss.total.item() == pytest.approx((sum(instance) / 2 + 3 * sum(pair) / 2) / 4, rel=1e-4)
    assert len(made.method.predictors) == 1 + own
    loss.total.backward()
    assert all(p.grad is not None for p in made.method.predictors.parameters())
    layout = against_targets(first, embedded["targets"], True, {"temperature": 0.2})
    assert len(layout.parts) == len(one_way(first[0], first[1]).parts) * 2


def test_pairs_are_of_the_step_alone_and_gates_are_learned(emoji_few):
    made, again = setup(emoji_few), setup(emoji_few)
    drawn = [seen_by(m, number)[3][1] for m in (made, again) for number in (0, 1)]
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[1], drawn[3])
    assert not torch.equal(drawn[0], drawn[1])
    *_, loss, _ = seen_by(made)
    loss.total.backward()
    assert all(p.grad.norm() > 0 for p in made.method.gate.parameters() if p.grad is not None)
    assert isinstance(made.method.tower.head[-1], torch.nn.LayerNorm)
    assert 0 < loss.terms["openness"] < 1
    assert loss.terms["alone"] == 0


def test_entropy_and_distances(emoji_few):
    plain, pushed = setup(emoji_few), setup(emoji_few, gamma=2.0)
    before, after = (seen_by(m)[2].total.item() for m in (plain, pushed))
    gates = plain.method.gate.of_classes().detach().double()
    entropy = -(gates * gates.log() + (1 - gates) * (1 - gates).log()).mean().item()
    assert after == pytest.approx(before + 2 * entropy, rel=1e-4)
    kept = [dict(m.method.gate.named_buffers()) for m in (plain, pushed)]
    assert all(torch.equal(v, kept[1][k]) for k, v in kept[0].items()), "batch norm keeps the batch's pairs alone"
    data = nearfar.data("emoji", roles={"target": "subcategory", "label": ["subcategory", "category"]}, limit=400)
    near = setup(data, alpha=40.0, coarse="category")
    assert near.method.weights.unique().tolist() == pytest.approx([5.0**-40, 3.0**-40, 1.0], rel=1e-4)
    *_, (labels, partners, _) = seen_by(near)
    assert torch.equal(labels, partners), "a row of the own class is there, and all others are far less likely"


def test_errors(emoji_few, tmp_path):
    for options, told in (
        ({"alpha": 1.0}, "--coarse"), ({"alpha": 1.0, "coarse": "category", "pairs": "distinct"}, "arbitrary"),
        ({"coarse": "categry"}, "Did you mean 'category'"), ({"gamma": 1.0, "gate": "none"}, "--gamma 1.0 has"),
        ({"views": "members"}, "show rows of a group together"), ({"pairs": "some"}, "pairs"), ({"gate": "x"}, "gate"),
        ({"temperature": 0.0}, "temperature"), ({"loss": "dcl"}, "loss"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=told):
            setup(emoji_few, **options)
    one = table(tmp_path / "one.csv", ["a"] * 40)
    with pytest.raises(InputError, match=r"training rows are of one class, 'a': a pair needs negatives"):
        nearfar.fit("hydra", one, target="kind", out=tmp_path / "run")
    bare = tmp_path / "bare.csv"
    bare.write_text("u,v\n" + "\n".join(f"{i},{i * i % 7}" for i in range(40)))
    with pytest.raises(InputError, match=r"'hydra' needs a column of any kind \+ target"):
        nearfar.fit("hydra", bare, vector="u,v", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def table(path, kinds):
    rng = np.random.default_rng(0)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "c", "kind"])
        for kind in kinds:
            shift = 3.0 * (ord(kind) - 97) if kind else 0.0
            values = rng.normal((shift, 0, -shift))
            writer.writerow([*(f"{v:.4f}" for v in values), kind])
    return path


def test_from_a_table_to_a_diagnosis(tmp_path, capsys):
    """A class with a single row, rows without one, and the way from fit to the report."""
    data = table(tmp_path / "rows.csv", [*"abcd" * 30, "e", "", ""])
    run, small = tmp_path / "run", ["--steps", "30", "--batch-size", "24", "--vector-width", "16"]
    words = ["fit", "hydra", str(data), "--target", "kind", *small, "--gate-width", "8", "--gate-hidden", "8"]
    assert main([*words, "--out", str(run), "--device", "cpu"]) == 0
    assert "training rows without a target are left out" in capsys.readouterr().out
    curve = [json.loads(x) for x in (run / "curve.jsonl").read_text().splitlines()]
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert main(["diagnose", str(run), str(data), "--target", "kind"]) == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("gate openness", "gate overlap", "effective rank"))
    found = {d["name"]: d for d in nearfar.diagnose(run, data, target="kind")}
    model = nearfar.load(run / "model")
    assert model.inference.names == ["a", "b", "c", "d", "e"]
    with torch.no_grad():
        gates = model.inference.gate.of_classes()
    assert found["gate openness"]["value"] == pytest.approx(gates.mean().item(), abs=1e-6)
    assert main(["predict", str(run), str(data)]) == 2
    assert "does not predict" in capsys.readouterr().err
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    assert "gate overlap" in (tmp_path / "report.html").read_text()
    plain = nearfar.fit("hydra", data, target="kind", gate="none", steps=2, batch_size=24, out=tmp_path / "open")
    assert not any("gate" in d["name"] for d in nearfar.diagnose(plain.path, data, target="kind"))


def test_what_gates_say():
    gates = np.array([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0], [0.0, 0.6, 0.8]])
    labels = np.array([0, 0, 1, 2, 3, -1])
    z = np.concatenate([gates[[0, 0, 1, 2, 3]], [[9.0, -9.0, 0.0]]])
    near = class_affinity(z, labels, 5)
    assert near[0, 1] == pytest.approx(0.8)
    assert np.isnan(near[4]).all()
    found = {d.name: d for d in gate_diagnostics(gates, gates @ gates.T, ["a", "b", "c", "d"], z, labels)}
    assert found["gates follow classes"].value == pytest.approx(1)
    assert found["gate overlap"].value == pytest.approx((0.8 + 0 + 0 + 0 + 0.36 + 0.8) / 6)
    assert "a and b (0.80)" in found["gate overlap"].advice
    same = gate_diagnostics(np.ones((3, 2)), np.ones((3, 3)), ["a", "b", "c"], z[:, :2], np.full(6, -1))
    assert [(d.name, d.verdict) for d in same] == [("gate openness", "watch"), ("gate overlap", "watch")]


def test_two_classes_leave_no_negatives_where_pairs_are_distinct(tmp_path):
    rows = [f"{i / 7:.3f},{i % 5},{'one' if i % 2 else 'other'}" for i in range(60)]
    (tmp_path / "two.csv").write_text("a,b,kind\n" + "\n".join(rows))
    data = nearfar.data(tmp_path / "two.csv", roles={"target": "kind"})
    with pytest.raises(InputError, match="of two classes"):
        setup(data, pairs="distinct")
    assert setup(data, pairs="identical").resolved["classes"] == 2


def test_numbers_with_fractions_as_classes_are_told(tmp_path):
    rows = [f"{i / 7:.3f},{i % 5},{i % 4 + 0.5}" for i in range(60)]
    (tmp_path / "n.csv").write_text("a,b,y\n" + "\n".join(rows))
    data = nearfar.data(tmp_path / "n.csv", roles={"target": "y", "vector": ["a", "b"]})
    assert any("numbers with fractions" in note for note in setup(data).notes)
