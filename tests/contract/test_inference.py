"""What a model answers beside vectors: saved with it, restored by its method's name, two commands; methods without
training; several vectors of one input."""

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

import nearfar
from nearfar import methods
from nearfar.cli import main
from nearfar.errors import InputError, NearfarError
from nearfar.evaluation.fewshot import classified
from nearfar.methods.inference import Inference
from nearfar.models import save_model
from nearfar.sources import open_data
from nearfar.training.modelled import ModelEmbedder
from tests.contract import runs, toys


@pytest.fixture(scope="module")
def regression(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("regression") / "run"
    runs.run("toy-regression", table, out, target="number")
    return out


@pytest.fixture(scope="module")
def words(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("words") / "run"
    runs.run("toy-words", table, out)
    return out


@pytest.fixture(scope="module")
def variants(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("variants") / "run"
    runs.run("toy-variants", table, out)
    return out


@pytest.fixture(scope="module")
def places(regression, words, variants, table, tmp_path_factory):
    simple = tmp_path_factory.mktemp("simple") / "run"
    runs.run("toy-phases", table, simple, steps=2, val_every=0)
    return {"simple": simple, "regression": regression, "words": words, "table": table, "variants": variants}


def test_predictions_are_those_of_the_method_when_it_was_trained(regression, table):
    found = nearfar.predict(regression, table)
    data = open_data(table)
    model = nearfar.load(regression / "model", verify=True)
    state = runs.state(regression)["state_dict"]
    z = torch.from_numpy(ModelEmbedder(model, data).raw("text", data.ids))
    head = z @ state["tower.head.weight"].T + state["tower.head.bias"]
    expected = (head @ state["out.weight"].T + state["out.bias"])[:, 0]
    np.testing.assert_allclose(found.columns["number"], expected, rtol=1e-4, atol=1e-5)
    assert found.keys == data.keys
    assert load_file(regression / "model" / "model.safetensors").keys() >= {"inference.out.weight"}


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_the_command_writes_what_the_call_gives(ending, regression, table, tmp_path):
    out = tmp_path / f"answers.{ending}"
    assert main(["predict", str(regression), str(table), "--on", "test", "--times", "2", "--out", str(out)]) == 0
    expected = nearfar.predict(regression, table, on="test", times=2.0)
    if ending == "parquet":
        rows = pq.read_table(out).to_pylist()
    elif ending == "jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        rows = list(csv.DictReader(out.open(), delimiter="\t" if ending == "tsv" else ","))
    assert [r["key"] for r in rows] == expected.keys
    np.testing.assert_allclose([float(r["number"]) for r in rows], expected.columns["number"])
    once = nearfar.predict(regression, table, on="test")
    np.testing.assert_allclose(expected.columns["number"], 2 * np.array(once.columns["number"]), rtol=1e-5)


def test_the_command_shows_rows_and_json(regression, table, capsys):
    assert main(["predict", str(regression), str(table)]) == 0
    assert "more: --out FILE.csv writes all" in capsys.readouterr().out
    assert main(["predict", str(regression), str(table), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"][0].keys() == {"key", "number"}
    assert len(told["rows"]) == len(open_data(table))


def test_answers_in_pieces_equal_those_at_once(regression, table, monkeypatch):
    whole = nearfar.predict(regression, table).columns["number"]
    monkeypatch.setattr("nearfar.answering.CHUNK", 7)
    np.testing.assert_allclose(nearfar.predict(regression, table).columns["number"], whole, rtol=1e-5, atol=1e-6)


def test_a_model_that_only_generates(words, table, tmp_path, capsys):
    assert nearfar.generate(words, "the old letter", length=2) == ["the old letter beside the"]
    assert main(["generate", str(words), "the", "small letter", "--length", "1"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 2
    assert shown[1].startswith("small letter ")
    drawn = [nearfar.generate(words, ["the"], how="drawn", seed=k) for k in (1, 1, 2, 3, 4)]
    assert drawn[0] == drawn[1]
    assert len({text for (text,) in drawn}) > 1
    (tmp_path / "prompts.txt").write_text("the\n\nsmall\n")
    out = tmp_path / "made.jsonl"
    assert main(["generate", str(words), "--prompts", str(tmp_path / "prompts.txt"), "--out", str(out)]) == 0
    assert [json.loads(line)["prompt"] for line in out.read_text().splitlines()] == ["the", "small"]
    assert nearfar.predict(words, table).columns["score"][0] == 6.0, "one that scores pairs or rows predicts a score"
    model = nearfar.load(words / "model", verify=True)
    assert (model.roles, model.dim) == ({}, 0)
    with pytest.raises(InputError, match="gives no vectors"):
        model.embed(["a"])


@pytest.mark.parametrize(
    ("words_given", "says"),
    [
        (["predict", "{simple}", "{table}"], "The option '--classes' is missing"),
        (["generate", "{regression}", "a"], "does not generate. It can predict"),
        (["predict", "{regression}", "{table}", "--out", "x.doc"], "not the name of a file of a known kind"),
        (["predict", "{regression}", "{table}", "--tims", "2"], "--times"),
        (["predict", "{regression}", "{table}", "--times", "-1"], "times"),
        (["predict", "{regression}"], "Expected: nearfar predict MODEL DATA"),
        (["predict"], "Expected: nearfar predict MODEL DATA"),
        (["generate", "--seed", "1"], "no model folder 1"),
        (["predict", "nowhere", "{table}"], "no model folder nowhere"),
        (["generate", "{words}", "a", "--prompts", "none.txt"], "twice"),
        (["generate", "{words}", "--prompts", "none.txt"], "cannot be read"),
        (["predict", "{regression}", "{table}", "--on", "some"], "all"),
        (["predict", "{regression}", "{table}", "--out", "{table}"], "exists already"),
        (["evaluate", "{variants}", "{table}", "--variant", "salent"], "Did you mean 'salient'"),
        (["embed", "{simple}", "{table}", "--variant", "b", "--out", "x.npy"], "one vector of each input"),
    ],
)
def test_wrong_requests_are_told(words_given, says, places, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([word.format(**places) for word in words_given]) == 2
    assert says in " ".join(capsys.readouterr().err.split())


def test_help_shows_the_models_own_options(regression, words, capsys):
    for given, shown in ((["predict", str(regression)], "--times"), (["generate", str(words)], "--length"),
                         (["predict"], "--out"), (["generate"], "--prompts")):  # fmt: skip
        with pytest.raises(SystemExit):
            main([*given, "--help"])
        assert shown in capsys.readouterr().out


def test_a_model_of_a_method_that_is_not_here_still_embeds(regression, table, tmp_path, monkeypatch):
    monkeypatch.delitem(methods.registry._registered, "toy-regression")
    model = nearfar.load(regression / "model", verify=True)
    assert model.embed_texts(["a stone"]).shape == (1, model.dim)
    with pytest.raises(InputError, match="Unknown method 'toy-regression'"):
        nearfar.predict(regression, table)


def test_missing_tensors_are_told(regression, tmp_path, table):
    import shutil

    copy = tmp_path / "model"
    shutil.copytree(regression / "model", copy)
    state = load_file(copy / "model.safetensors")
    save_file({k: v for k, v in state.items() if not k.startswith("inference.")}, copy / "model.safetensors")
    with pytest.raises(InputError, match="was changed after the model was written"):
        nearfar.predict(copy, table)


class Broken(Inference):
    def __init__(self, config):
        super().__init__()
        self.told = config
        self.register_buffer("x", torch.ones(2))

    def config(self):
        return self.told

    def predict(self, request, options):
        return {"x": [1]}


def test_an_inference_that_is_not_restored_as_it_was_is_refused(regression, tmp_path, monkeypatch):
    tower = nearfar.load(regression / "model").roles["text"].encoder
    odd = Broken({"a": torch.ones(1)})
    with pytest.raises(InputError, match="not JSON"):
        save_model(tmp_path / "m", {"text": tower}, {"method": "toy-regression"}, inference=odd)
    monkeypatch.setattr(toys.Regression, "restore_inference", classmethod(lambda *_: Broken({})))
    other = Broken({})
    other.register_buffer("y", torch.zeros(1))
    with pytest.raises(NearfarError, match="not restored as it was saved"):
        save_model(tmp_path / "m", {"text": tower}, {"method": "toy-regression"}, inference=other)
    assert not (tmp_path / "m").exists()


def test_a_method_without_training_measures_and_saves_its_model(table, tmp_path):
    said = []
    run = runs.run("toy-untrained", table, tmp_path / "run", say=said.append)
    assert any("nothing is trained" in line for line in said)
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert run.scores["test"]["primary"] >= 0
    assert run.cost["samples"] == 0
    assert nearfar.load(tmp_path / "run" / "model", verify=True).dim > 0
    again = runs.run("toy-untrained", table, tmp_path / "run", resume=True)
    assert again.scores["test"]["primary"] == run.scores["test"]["primary"]
    plan = nearfar.fit("toy-untrained", table, dry_run=True, progress=False)
    assert plan.plan["estimated_seconds"] == 0
    done = nearfar.compare(table, methods="toy-untrained,contriever", seeds=1, out=tmp_path / "c", steps=2, report=True,
                           device="cpu", progress=False)  # fmt: skip
    rows = {r["slug"]: r for r in done.results["rows"]}
    assert rows["toy-untrained"]["seeds"][0]["status"] == "done"
    alone = nearfar.compare(table, methods="toy-untrained", seeds=1, out=tmp_path / "d", budget="1s", report=False,
                            device="cpu", progress=False)  # fmt: skip
    assert alone.results["plan"]["seconds_a_step"] == {}


def test_a_variant_is_embedded_measured_and_searched(variants, table, tmp_path, capsys):
    model, data = nearfar.load(variants / "model", verify=True), open_data(table)
    assert model.variants == ["salient"]
    plain, salient = model.embed(["a stone"]), model.embed(["a stone"], variant="salient")
    assert not np.allclose(plain, salient)
    assert np.allclose(salient, model.embed(["a stone"], role="text/salient"))
    nearfar.embed(variants, table, out=tmp_path / "v.npy", variant="salient")
    expected = ModelEmbedder(model, data, variant="salient")("text", data.ids)
    assert np.allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-5)
    told = [nearfar.evaluate(variants, table, variant=v, baseline=False)["rows"][0] for v in (None, "salient")]
    assert told[0]["primary"] != told[1]["primary"]
    index = tmp_path / "index"
    assert main(["embed", str(variants), str(table), "--variant", "salient", "--out", str(index)]) == 0
    text = data.texts("text", [5])[0]
    hits = nearfar.search(index, text, k=1)
    assert hits[0]["score"] == pytest.approx(1, abs=1e-4), "the query takes the variant of the index"
    with pytest.raises(InputError, match="other vectors of the same items"):
        nearfar.embed(variants, table, out=index, append=True)


def test_a_run_measures_a_variant(table, tmp_path):
    runs.run("toy-variants", table, tmp_path / "run", variant="salient")
    told = json.loads((tmp_path / "run" / "scores.json").read_text())["scores"]["test"]["primary"]
    again = nearfar.evaluate(tmp_path / "run", table, variant="salient", baseline=False)["rows"][0]["primary"]
    assert told == pytest.approx(again)
    with pytest.raises(InputError, match="no variant 'sharp'"):
        runs.run("toy-variants", table, tmp_path / "other", variant="sharp")
    assert not (tmp_path / "other").exists()


def test_beclr_classifies_by_a_few_labelled_rows(emoji_few, tmp_path):
    """The command's answers are those of the published transport on the model's vectors."""
    run = runs.run("beclr", emoji_few, tmp_path / "run", batch_size=16, steps=2, val_every=0, clusters=3, scale=8)
    found = nearfar.predict(run.path, emoji_few, on="test")
    rows = np.asarray(emoji_few.splits["test"])
    assert found.columns["prediction"] == [emoji_few.target_names[k] for k in emoji_few.targets[rows]]
    assert all(found.columns["labelled"])
    hidden = open_data("emoji", limit=400)
    labels = hidden.targets.copy()
    labels[rows[::2]] = -1
    hidden.__dict__["_target"] = (labels, hidden.target_names)
    found = nearfar.predict(run.path, hidden, on="test")
    z = torch.from_numpy(ModelEmbedder(nearfar.load(run.path / "model"), hidden)("image", rows)).numpy()
    known = labels[rows] >= 0
    expected = classified(z[known], labels[rows][known], z[~known])
    assert [hidden.target_names[k] for k in expected] == [
        p for p, k in zip(found.columns["prediction"], known, strict=True) if not k
    ]
    with pytest.raises(InputError, match="two classes at least"):
        classified(np.ones((2, 3)), [1, 1], np.ones((1, 3)))
