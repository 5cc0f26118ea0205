"""SuSana as a method: the size of episodes, its terms, errors, two processes, and the way of a user with a table."""

import csv
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import nearfar
from nearfar import losses
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.evaluation.fewshot import nearest
from nearfar.methods.fewshot.susana import episode_size
from nearfar.training import building, comparing
from nearfar.training.engine import fit
from nearfar.training.modelled import ModelEmbedder
from nearfar.training.settings import TrainSettings
from tests import stopping

SMALL = {"vector_width": 16, "vector_layers": 1}
KINDS, EACH = 20, 10


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Rows of numbers of twenty kinds, whose words say the kind too; one in forty has none."""
    path, rng = tmp_path_factory.mktemp("kinds") / "kinds.csv", np.random.default_rng(0)
    centres = 2 * rng.normal(size=(KINDS, 4))
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "c", "d", "words", "kind"])
        for i in range(KINDS * EACH):
            row = centres[i % KINDS] + rng.normal(size=4)
            words = " ".join(f"w{i % KINDS}{rng.integers(5)}" for _ in range(6))
            writer.writerow([*(f"{v:.5f}" for v in row), words, "" if i % 40 == 7 else f"kind {i % KINDS}"])
    return path


def prepared(table, **options):
    data = nearfar.data(table, roles={"target": "kind", "vector": ["a", "b", "c", "d"]})
    return building.prepare("susana", data, TrainSettings(steps=6, warmup=0, **SMALL), options)


def step(made):
    made.method.eval()
    batch = made.loader.at(0)
    batch.views = made.method.make_views(batch)
    embedded = made.method.encode(batch)
    return embedded["z"].detach(), batch, made.method.loss(embedded, batch)


@pytest.mark.parametrize(("sizes", "given", "found"), [
    ([40] * 9, ("auto", 5, "auto"), (5, 15)),
    ([40, 9, 8, 8], ("auto", 5, "auto"), (4, 3)),
    ([40, 9, 5, 5], ("auto", 5, "auto"), (2, 4)),
    ([40, 30, 12, 9], (3, 5, "auto"), (3, 7)),
    ([40, 30, 12, 9], ("auto", 5, 10), (2, 10)),
    ([40, 30], (20, 1, 15), (20, 15)),
    ([3, 2], ("auto", 5, "auto"), (0, 0)),
])  # fmt: skip
def test_the_size_of_an_episode(sizes, given, found):
    assert episode_size(np.array(sizes), *given) == found


def test_a_batch_is_an_episode(table):
    made = prepared(table, ways=3, shots=2, queries=4)
    z, batch, _ = step(made)
    assert made.resolved["batch_size"] == 3
    assert z.shape == (3, 6, 16)
    kinds = batch.targets.view(6, 3)
    assert (kinds == kinds[0]).all()
    assert len(kinds[0].unique()) == 3
    rows = made.method.tower(batch.views["vector"][0])
    torch.testing.assert_close(z[1], rows[1::3].detach())  # each class has its own rows


def terms(z, shots, icnn, **options):
    """What the card's three terms give for an episode (N, K + q, D)."""
    n, q = len(z), z.shape[1] - shots
    support, query, c = z[:, :shots].flatten(0, 1), z[:, shots:].flatten(0, 1), torch.arange(n)
    means, known, asked = z[:, :shots].mean(1), c.repeat_interleave(shots), c.repeat_interleave(q)
    ways = {"full": ((torch.cat([support, query]), torch.cat([known, asked])), shots + q),
            "support": ((support, known), None), "query": ((query, asked, support, known), None),
            "prototypes": ((query, asked, means, c), None)}  # fmt: skip
    found = {"proto_triplet": losses.proto_triplet(query, asked, means, margin=options.get("margin", 0.5)),
             "cross_entropy": losses.proto_cross_entropy(query, asked, means,
                                                         temperature=options.get("temperature", 1.0))}  # fmt: skip
    if icnn != "none":
        given, retrieved = ways[icnn]
        found["icnn"] = losses.icnn(*given, neighbours=options.get("neighbours", 4),
                                    retrieved=options.get("retrieved", retrieved),
                                    drop_nearest=options.get("official", False))  # fmt: skip
    return found


@pytest.mark.parametrize(("options", "counted"), [
    ({}, ("proto_triplet", "icnn")),
    ({"icnn": "none"}, ("proto_triplet",)),
    ({"proto_triplet": False, "neighbours": 2}, ("icnn",)),
    ({"proto_triplet": False, "icnn": "none", "cross_entropy": True, "temperature": 4.0}, ("cross_entropy",)),
    ({"cross_entropy": True, "margin": 2.0}, ("proto_triplet", "icnn", "cross_entropy")),
    ({"icnn": "support"}, ("proto_triplet", "icnn")),
    ({"icnn": "query", "retrieved": 7}, ("proto_triplet", "icnn")),
    ({"icnn": "query", "official": True}, ("proto_triplet", "icnn")),
    ({"icnn": "prototypes"}, ("proto_triplet", "icnn")),
])  # fmt: skip
def test_the_loss_is_the_mean_of_the_chosen_terms(table, options, counted):
    z, _, loss = step(prepared(table, ways=4, shots=3, queries=3, **options))
    found = terms(z, 3, **{"icnn": "full"} | options)
    wanted = [found[name] for name in counted]
    torch.testing.assert_close(loss.total, torch.stack(wanted).mean())
    assert loss.terms.keys() == {*counted, "separability"}
    assert float(loss.terms["separability"]) == pytest.approx(
        float(losses.icnn_score(z.flatten(0, 1), torch.arange(4).repeat_interleave(6)))
    )


def test_what_cannot_be_learned_is_told_early(table, tmp_path):
    def refused(match, data=table, **options):
        with pytest.raises(InputError, match=match):
            nearfar.fit("susana", data, **{"target": "kind", "vector": "a,b,c,d", "out": tmp_path / "run"} | options)

    refused("no term left", proto_triplet=False, icnn="none")
    refused("one support row", icnn="support", shots=1)
    refused("one class has nothing", ways=1)
    refused("'kind' need 5 classes of 90 training rows each", shots=75, ways=5, queries=15)
    refused("'kind' need 2 classes of 76 training rows each .75 support, 1 query.; 0 of the 20", shots=75)
    refused("'kind' need 21 classes of 7 training rows", ways=21, queries=2)
    refused(r"draws batches of 5 classes \(\d+ rows of each\) itself; --batch-size 64", batch_size=64)
    refused("'icnn' must be", icnn="some")
    refused("cannot be computed in micro-batches", micro_batch=2)
    lines = table.read_text().splitlines()
    alone = tmp_path / "alone.csv"
    alone.write_text("\n".join([lines[0], *(f"{line.rsplit(',', 1)[0]},only" for line in lines[1:])]))
    refused("'kind' need 2 classes of 6 training rows each .5 support, 1 query.; 1 of the 1", alone)
    none = tmp_path / "none.csv"
    none.write_text("\n".join([lines[0], *(f"{line.rsplit(',', 1)[0]}," for line in lines[1:])]))
    refused("No training row has a target", none)
    single = tmp_path / "single.csv"  # every class has one row
    single.write_text("\n".join([lines[0], *(f"{line.rsplit(',', 1)[0]},{i}" for i, line in enumerate(lines[1:]))]))
    refused("; 0 of the", single)
    assert not (tmp_path / "run").exists()


def test_a_column_of_two_groups_is_named_as_the_cause_of_an_empty_split(table, tmp_path):
    lines = table.read_text().splitlines()
    two = tmp_path / "two.csv"
    two.write_text("\n".join([lines[0] + ",group", *(f"{line},{'xy'[i % 2]}" for i, line in enumerate(lines[1:]))]))
    roles = {"target": "kind", "vector": "a,b,c,d"}
    with pytest.raises(InputError) as found:
        nearfar.fit("susana", two, **roles, out=tmp_path / "run")
    told = str(found.value)
    assert "is empty: 'group' is read as the group (by the name of the column), no split divides a group" in told
    assert "there are 2. Take the role away (--group none)" in told
    assert nearfar.fit("susana", two, **roles, group="none", steps=2, val_every=0, out=tmp_path / "run").scores
    named = tmp_path / "named.csv"
    named.write_text("\n".join([lines[0] + ",split", *(f"{line},train" for line in lines[1:])]))
    assert nearfar.data(named, roles={"vector": ["a", "b"]}).few_units() == ("", ""), "nothing divides the rows"


def test_a_comparison_that_chooses_methods_looks_at_the_classes(table, tmp_path):
    def said(path):
        data, told = nearfar.data(path, roles={"vector": ["a", "b"], "label": ["kind"]}), []
        comparing.chosen(data, nearfar.evaluation.task_for(data, "proxy"), TrainSettings(), "all", told.append)
        return told

    assert "susana: in" in said(table)
    lines = table.read_text().splitlines()
    small = tmp_path / "small.csv"
    rows = [f"{line.rsplit(',', 1)[0]},k{i % 40}" for i, line in enumerate(lines[1:])]
    small.write_text("\n".join([lines[0], *rows]))
    assert "susana: left out (two classes of 6 training rows make an episode)" in said(small)


SCRIPT = """
import nearfar

nearfar.fit(method, table, text="words", target="kind", out=out, **json.loads(options))
"""
PLAN = {"steps": 4, "ways": 4, "shots": 3, "queries": 2, "val_every": 0, "save_every": 2, "device": "cpu",
        "progress": False, "optimiser": "sgd", "lr": 0.02, "weight_decay": 0.0, "views": "mask"}  # fmt: skip


@pytest.mark.slow
def test_two_processes_see_one_episode(table, tmp_path, monkeypatch):
    """Views of a text that draw nothing: masked with probability 0. Three classes are divided, and told apart as one
    episode."""
    plan = PLAN | {"ways": 3, "views": {"name": "mask", "p": 0.0}}
    done = stopping.start(SCRIPT, tmp_path / "two", "susana", table, tmp_path / "two",
                          json.dumps(plan | {"devices": 2}), 9)  # fmt: skip
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    fit("susana", table, text="words", target="kind", out=tmp_path / "one", **plan)
    a, b = (load_file(tmp_path / n / "model" / "model.safetensors") for n in ("one", "two"))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=1e-4, atol=1e-6)
    curves = [[json.loads(x) for x in (tmp_path / n / "curve.jsonl").read_text().splitlines()] for n in ("one", "two")]
    for first, second in zip(*curves, strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)


def test_from_a_table_of_numbers_to_classes_of_new_rows(table, tmp_path, capsys):
    """fit, evaluate, embed, search, predict and report, from the command line; kinds are held out by --unit."""
    run, data = tmp_path / "run", [str(table), "--vector", "a,b,c,d", "--label", "kind", "--unit", "kind"]
    few = ["--ways", "2", "--shots", "1", "--queries", "5", "--episodes", "40"]
    small = ["--vector-width", "16", "--vector-layers", "1", "--steps", "60", "--lr", "0.01", "--device", "cpu"]
    task = " ".join(["few-shot --classifier nearest", *few])
    assert main(["fit", "susana", *data, *small, "--out", str(run), "--task", task]) == 0
    told = capsys.readouterr().out
    assert "ways 5, queries 5" in told
    assert "accuracy by the nearest class mean" in told
    assert "classes was trained on" in told
    curve = [json.loads(line)["loss"] for line in (run / "curve.jsonl").read_text().splitlines()]
    assert sum(curve[-3:]) / 3 < curve[0]
    assert main(["evaluate", str(run), *data, "--task", "few-shot", *few, "--classifier", "nearest"]) == 0
    assert main(["embed", str(run), *data, "--out", str(tmp_path / "index")]) == 0
    assert main(["search", str(tmp_path / "index"), "0.5,0.1,0,0"]) == 0
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    opened = nearfar.data(table, roles={"vector": ["a", "b", "c", "d"], "label": ["kind"]})
    found = nearfar.predict(run, opened)
    known = np.asarray(opened.targets) >= 0
    z = ModelEmbedder(nearfar.load(run / "model"), opened).raw("vector", opened.ids)
    means = np.stack([z[opened.targets == c].mean(0) for c in range(KINDS)])
    expected = [opened.target_names[c] for c in nearest(means, z[~known])]
    assert [p for p, k in zip(found.columns["prediction"], known, strict=True) if not k] == expected
    assert found.columns["labelled"] == known.tolist()


def test_texts_too_and_as_the_paper_has_it(table, tmp_path):
    run = nearfar.fit("susana", table, text="words", target="kind", out=tmp_path / "run", preset="paper", steps=3,
                      ways=4, shots=3, queries=4, val_every=0, progress=False)  # fmt: skip
    made = json.loads((run.path / "config.json").read_text())
    assert "sgd" in json.dumps(made["plan"]["resolved"] if "plan" in made else made)
    assert building.method_options("susana", {}, "paper").queries == 15
