"""CVIB: two networks with steps of their own, gates, an aspect beside the text, and the classes that are told."""

import json
import re

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import nearfar
from nearfar import evaluation, losses
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.evaluation.tasks.classification import macro_f1
from nearfar.methods.text.cvib import mean_longest
from nearfar.sources import open_data
from nearfar.training import building
from nearfar.training.modelled import ModelEmbedder
from nearfar.training.settings import TrainSettings
from tests.conftest import write_notes
from tests.small import SMALL

FLAGS = ["--text-encoder", "tiny", "--text-length", "24", "--vocabulary", "300"]
NOTE = {"text": "note", "text_b": None, "target": "kind", "domain": "part"}
FAST = {"steps": 6, "batch_size": 16, "val_every": 0, "progress": False, **SMALL}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_notes(tmp_path_factory.mktemp("cvib") / "notes.csv", 80)


@pytest.fixture(scope="module")
def data(table):
    return open_data(table, roles=NOTE)


def prepared(data, settings=(), **options):
    given = TrainSettings(**{"batch_size": 8, "steps": 4, **SMALL, **dict(settings)})
    return building.prepare("cvib", data, given, {"hidden": 16} | options)


def drawn(made):
    batch = made.loader.at(0)
    batch.views = made.method.make_views(batch)
    return batch


def test_both_encoders_begin_alike_and_networks_share_nothing(data):
    """Pretrained weights are those of both; what reads them is drawn for each."""
    method = prepared(data).method
    own = {n.replace(".layer.", "."): p for n, p in method.pruned.named_parameters() if ".gate." not in n}
    other = dict(method.original.named_parameters())
    assert own.keys() == other.keys()
    assert all(own[n] is not other[n] for n in own)
    assert all(torch.equal(own[n], other[n]) for n in own if n.startswith("encoder."))
    assert not any(torch.equal(own[n], other[n]) for n in own if n.startswith("classifier."))


def test_each_loss_moves_its_own_network_alone(data):
    """Invariant 5, and the stop-gradients on either side of the contrast."""
    made = prepared(data)
    batch = drawn(made)
    for phase, mine, other in zip(made.method.phases(), ("original", "pruned"), ("pruned", "original"), strict=True):
        made.method.zero_grad(set_to_none=True)
        phase.loss(batch).total.backward()
        assert all(p.grad is not None for p in getattr(made.method, mine).parameters())
        assert all(p.grad is None for p in getattr(made.method, other).parameters())


def test_the_losses_are_those_of_the_functions(data):
    made = prepared(data, contrast=0.5, temperature=0.1, beta=1e-4, dropout=0.0, settings={"text_dropout": 0.0})
    made.method.eval()
    batch, method = drawn(made), made.method
    first, second = (phase.loss(batch).total for phase in method.phases())
    said, original, length = method.outputs_of(method.original, batch)
    told, pruned, _ = method.outputs_of(method.pruned, batch)
    cross = [torch.nn.functional.cross_entropy(x, batch.targets) for x in (said, told)]
    alike = losses.info_nce(pruned, original, temperature=0.1)
    kl = sum(losses.gate_kl(g.mu, g.logvar, length) for g in method.inner.gates)
    assert_close(first, cross[0] + 0.5 * alike)
    assert_close(second, cross[1] + 0.5 * alike + 1e-4 * kl)


def table_of(path, words, aspect=3):
    """Rows of so many words each, of two classes."""
    lines = [f"{' '.join(['tree'] * n)},{' '.join(['leaf'] * aspect)},{'ab'[k % 2]}" for k, n in enumerate(words)]
    path.write_text("note,aspect,kind\n" + "\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("words", "text_b", "length"),
    [
        ([9, 14, 20, 31] * 30, None, 64),
        ([400] * 120, None, 32),
        ([12] * 120, "aspect", 64),
        ([60] * 120, "aspect", 32),
        (([150] + [8] * 9) * 12, None, 200),
    ],
    ids=["plain", "cut", "aspect", "aspect-cut", "some-long"],
)
def test_beta_begins_at_a_fifth_in_the_mean_batch(words, text_b, length, tmp_path):
    roles = {"text": "note", "text_b": text_b, "target": "kind"}
    pairs = open_data(table_of(tmp_path / "t.csv", words, 30), roles=roles)
    made = prepared(pairs, settings={"text_length": length, "steps": 30})
    lengths = []
    for number in range(30):
        batch = made.loader.at(number)
        batch.views = made.method.make_views(batch)
        with torch.no_grad():
            lengths.append(made.method.outputs_of(made.method.pruned, batch)[2])
    begun = made.method.beta * float(made.method.kl(1).detach()) * np.mean(lengths)
    assert begun == pytest.approx(0.2, rel=0.1)


def test_the_mean_of_the_longest_is_counted_over_all_draws():
    lengths = np.array([5, 2, 9])
    draws = [max(a, b) for a in lengths for b in lengths]
    assert mean_longest(lengths, 2) == pytest.approx(np.mean(draws))
    assert mean_longest(lengths, 1) == pytest.approx(lengths.mean())


def test_gates_and_biases_learn_at_rates_of_their_own(data):
    made = prepared(data, gate_lr=0.02, bias_lr=0.005, settings={"lr": 0.001})
    scaled = made.method.scaled_parameters()
    gates = {p for gate in made.method.inner.gates for p in gate.parameters()}
    assert {round(scaled[p], 6) for p in gates} == {20.0}
    assert {round(x, 6) for p, x in scaled.items() if p not in gates} == {5.0}
    assert not any(p.dim() > 1 for p in scaled)


@pytest.mark.parametrize("option", [{"micro_batch": 4}, {"accumulate": 2}])
def test_what_updates_in_turn_cannot_do_is_refused(option, data):
    with pytest.raises(InputError, match=f"'cvib' .*--{next(iter(option)).replace('_', '-')}"):
        prepared(data, settings=option)


def test_without_gates_and_contrast_it_is_a_plain_classifier(data):
    """Invariant 1."""
    made = prepared(data, gates=False, contrast=0.0)
    assert made.method.original is None
    assert [phase.name for phase in made.method.phases()] == ["pruned"]
    batch = drawn(made)
    made.method.eval()
    loss = made.method.pruned_loss(batch)
    logits = made.method.outputs_of(made.method.pruned, batch)[0]
    assert_close(loss.total, torch.nn.functional.cross_entropy(logits, batch.targets))
    assert set(loss.terms) == {"class"}


def test_an_aspect_stands_beside_the_text(table, tmp_path):
    """Each word of the text sees it, and what is told depends on it."""
    pairs = open_data(table, roles=NOTE | {"text_b": "aspect"})
    made = prepared(pairs)
    assert made.method.reads == ("text", "text_b")
    batch = drawn(made)
    made.method.eval()
    with torch.no_grad():
        whole = made.method.outputs_of(made.method.pruned, batch)[1]
        batch.views["text_b"] = [x._replace(ids=x.ids.flip(0), mask=x.mask.flip(0)) for x in batch.views["text_b"]]
        other = made.method.outputs_of(made.method.pruned, batch)[1]
    assert (whole - other).abs().amax(1).max() > 1e-4
    nearfar.fit("cvib", pairs, out=tmp_path / "run", **FAST)
    told = nearfar.predict(tmp_path / "run", pairs).columns
    assert set(told["prediction"]) <= {"animal", "plant"}
    with pytest.raises(InputError, match=r"has no 'text_b' here[\s\S]*--text-b COLUMN"):
        nearfar.predict(tmp_path / "run", open_data(table, roles=NOTE))
    module, rows = nearfar.load(tmp_path / "run" / "model").inference, np.arange(20)
    with torch.inference_mode():
        single = [module.of_classes(pairs, rows[k : k + 1], None)[0] for k in range(20)]
    assert single == told["prediction"][:20]


def test_wrong_targets(table, tmp_path):
    lines = table.read_text().splitlines()
    one = tmp_path / "one.csv"
    one.write_text("\n".join([lines[0], *(line.replace(",plant,", ",animal,") for line in lines[1:])]) + "\n")
    with pytest.raises(InputError, match=r"'kind' is 'animal' in all 56 training rows"):
        prepared(open_data(one, roles=NOTE))
    with pytest.raises(InputError, match="'cvib' looks into the layers"):
        prepared(open_data(table, roles=NOTE), settings={"text_encoder": "small"})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"gates": "false", "beta": "0.1"}, "--beta 0.1 has no effect with --gates false: it belongs to --gates true"),
        ({"gates": "false", "gate_lr": "0.1"}, "--gate-lr 0.1 has no effect with --gates false"),
        ({"contrast": "0", "temperature": "0.1"}, "--temperature 0.1 has no effect with --contrast 0.0: it belongs to "
                                                  "--contrast of a number in (0, inf)"),
    ],
)  # fmt: skip
def test_options_without_effect_are_refused(given, says):
    with pytest.raises(InputError, match=re.escape(says)):
        building.method_options("cvib", given, "auto")
    assert building.method_options("cvib", {"contrast": "0.5", "temperature": "0.1"}, "auto").temperature == 0.1


def test_what_it_tells_is_what_is_measured(table, tmp_path, capsys):
    """Without --task, also of a target of numbers and of groups beside; a comparison of such methods alone as well."""
    plan = ["--text", "note", "--text-b", "none", "--target", "kind", "--steps", "2", "--batch-size", "16", *FLAGS]
    assert main(["fit", "cvib", str(table), *plan, "--val-every", "0", "--out", str(tmp_path / "run")]) == 0
    assert "PROXY" not in capsys.readouterr().out
    config = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert config["summary"]["kind"] == "classification"
    columns = {"text": "note", "text_b": None, "target": "kind"}
    found = nearfar.evaluate(tmp_path / "run", table, baseline=False, **(columns | {"text_b": "none"}))
    assert found["task"]["kind"] == "classification"
    data = open_data(table, roles=columns)
    kinds = {slug: building.task_of(slug, data, TrainSettings()).kind for slug in ("cvib", "r-drop", "simcse")}
    assert kinds == {"cvib": "classification", "r-drop": "classification", "simcse": "proxy"}
    assert building.task_of("cvib", data, TrainSettings(task="proxy")).kind == "proxy"
    assert building.own_task("cvib", "r-drop") == "classification"
    assert building.own_task("cvib", "simcse") is None
    grouped = open_data(table, roles=columns | {"group": "aspect"})
    assert building.task_of("r-drop", grouped, TrainSettings()).kind == "classification"


def test_classes_are_counted_by_hand():
    truth, told = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 0, 1, 1, -1, 2])
    assert macro_f1(truth, told) == pytest.approx((4 / 5 + 2 / 3 + 2 / 3) / 3)
    assert macro_f1(np.array([1, 1]), np.array([0, 0])) == 0


def test_from_a_table_to_answers(table, data, tmp_path, capsys):
    """fit, evaluate, predict, embed, search and report; what is measured is what the model tells."""
    run = str(tmp_path / "run")
    assert main(["fit", "cvib", str(table), *FLAGS, "--text", "note", "--text-b", "none", "--target", "kind",
                 "--domain", "part", "--task", "classification", "--steps", "40", "--batch-size", "16", "--val-every",
                 "20", "--out", run, "--device", "cpu"]) == 0  # fmt: skip
    curve = [json.loads(line) for line in (tmp_path / "run" / "curve.jsonl").read_text().splitlines()]
    assert {"original", "pruned", "information", "contrast", "open"} <= curve[-1].keys()
    told = np.array(nearfar.predict(tmp_path / "run", data).columns["prediction"])
    rows = data.splits["test"]
    right = told[rows] == np.array(data.values("target"))[rows]
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())["scores"]["test"]
    assert scores["metrics"]["accuracy"] == pytest.approx(right.mean())
    parts = np.array(data.values("domain"))[rows]
    assert scores["metrics"]["worst"] == pytest.approx(min(right[parts == p].mean() for p in set(parts)))
    embed = ModelEmbedder(nearfar.load(tmp_path / "run" / "model"), data)
    again = evaluation.task_for(data, "classification").evaluate(embed, "test")
    assert again.primary == scores["primary"], "gates are those of evaluation: twice the same"
    assert main(["embed", run, str(table), "--text", "note", "--text-b", "none", "--out", str(tmp_path / "index")]) == 0
    assert main(["search", str(tmp_path / "index"), "the fox of lake 3"]) == 0
    assert main(["report", run, "--out", str(tmp_path / "report.html")]) == 0
