"""Runs on data that were given in memory or as a stream: the weights are those of the file, a run goes on to the same
numbers with the object given again, and what knows paths alone says so."""

import json
import os

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset, IterableDataset
from safetensors.torch import load_file

import nearfar
from nearfar import processes
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.exploring.facts import gather
from nearfar.indexing import open_index
from nearfar.training import callbacks, engine
from nearfar.training.comparing import commands
from nearfar.training.entries import entry
from nearfar.training.settings import DataSettings, TrainSettings

ROWS = [{"text": f"what is thing {i}", "text_b": f"a thing of sort {i}"} for i in range(48)]
PLAN = {"steps": 6, "batch_size": 8, "val_every": 0, "save_every": 2, "progress": False, "text_encoder": "tiny"}


def stream(rows=ROWS):
    return IterableDataset.from_generator(lambda: iter(rows))


def weights(path):
    return load_file(path / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of two finished runs: on a csv, and on a stream, cut off at its fifth step and gone on with."""
    place = tmp_path_factory.mktemp("given")
    pd.DataFrame(ROWS).to_csv(place / "rows.csv", index=False)
    nearfar.fit("pairs", place / "rows.csv", out=place / "csv", **PLAN)
    save = callbacks.Checkpoint.on_train_batch_end

    def stop(self, trainer, *rest):
        save(self, trainer, *rest)
        if trainer.global_step == 5:
            raise RuntimeError("stop")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.Checkpoint, "on_train_batch_end", stop)
        with pytest.raises(RuntimeError, match="stop"):
            nearfar.fit("pairs", stream(), out=place / "stream", **PLAN)
    with pytest.raises(InputError, match="The data have changed since the run in"):
        nearfar.fit("pairs", stream(ROWS[:-1]), out=place / "stream", resume=True, **PLAN)
    nearfar.fit("pairs", stream(), out=place / "stream", resume=True, **PLAN)
    return place


def test_a_resumed_run_on_a_stream_equals_one_on_the_file(runs):
    one, other = weights(runs / "csv"), weights(runs / "stream")
    assert all(torch.equal(one[name], other[name]) for name in one)
    losses = [[json.loads(line)["loss"] for line in (runs / name / "curve.jsonl").read_text().splitlines()]
              for name in ("csv", "stream")]  # fmt: skip
    assert losses[0] == losses[1]


def test_a_run_records_what_it_was_given(runs):
    config = json.loads((runs / "stream" / "config.json").read_text())
    assert config["data"] == "IterableDataset of 48 rows"
    given = config["data_given"]
    assert (given["object"], given["rows"]) == ("IterableDataset", 48)
    assert given["features"] == {"text": "Value('string')", "text_b": "Value('string')"}
    assert given["fingerprint"] == nearfar.data(ROWS).given["fingerprint"]
    assert "data_given" not in json.loads((runs / "csv" / "config.json").read_text())
    card = json.loads((runs / "stream" / "model" / "config.json").read_text())
    assert card["trained_on"]["name"] == "IterableDataset of 48 rows"


def test_commands_know_paths_alone(runs, capsys):
    assert main(["fit", "--resume", "--out", str(runs / "stream")]) == 2
    told = capsys.readouterr().err
    assert "were given in memory (IterableDataset of 48 rows); a command takes paths." in told
    assert f"nearfar.fit('pairs', data, out='{runs / 'stream'}', resume=True, ...)" in told
    assert main(["report", str(runs / "stream")]) == 0
    assert "the report shows no examples and no map" in capsys.readouterr().err
    assert not (runs / "stream" / "shown.json").exists()
    assert nearfar.report(runs / "stream", data=Dataset.from_list(ROWS)).exists()
    shown = json.loads((runs / "stream" / "shown.json").read_text())
    assert "what is thing" in json.dumps(shown)
    (runs / "stream" / "shown.json").unlink()
    with pytest.raises(InputError, match=r"was not trained on these data \(list of 40 rows\)"):
        nearfar.report(runs / "stream", data=ROWS[:40])


def test_a_model_is_used_on_objects(runs, tmp_path):
    model = runs / "stream" / "model"
    here, there = (nearfar.evaluate(model, one, baseline=False) for one in (pd.DataFrame(ROWS), runs / "rows.csv"))
    assert [row["metrics"] for row in here["rows"]] == [row["metrics"] for row in there["rows"]]
    assert here["data"]["name"] == "DataFrame of 48 rows"
    assert here["trained_on"]["rows"] == 0, "its own test rows, known by their contents"
    index = tmp_path / "index"
    assert nearfar.embed(model, ROWS, out=index).added == 48
    assert (
        nearfar.embed(model, stream([*ROWS, {"text": "another", "text_b": "one"}]), out=index, append=True).added == 1
    )
    others = [{"text": f"new {row['text']}", "text_b": row["text_b"]} for row in ROWS]
    done = nearfar.embed(model, others, out=index, append=True)
    assert (done.added, done.replaced) == (48, 0), "a list of as many rows is not the same list"
    said = []
    gather(open_index(index), ["0"], np.array([0]), None, DataSettings(), 0, said.append)
    assert "was given in memory" in said[0]


def test_a_comparison_says_how_to_go_on(tmp_path):
    one, plan = entry("pairs --temperature 0.2"), {"steps": 2, "batch_size": 8}
    told = commands(tmp_path, nearfar.data(ROWS), plan, [one], one.name, "")
    assert told[0] == "nearfar.fit('pairs', data, temperature=0.2, steps=2, batch_size=8)"
    assert told[1] == f"nearfar.embed({str(tmp_path / 'best')!r}, data, out={str(tmp_path / 'index')!r})"


def test_processes_that_are_started_find_the_data(monkeypatch):
    asked = []
    opened = nearfar.data(IterableDataset.from_generator(lambda: (asked.append(1) or row for row in ROWS)))
    count = len(asked)
    with engine.handing_over(opened, TrainSettings(devices=2)):
        assert engine.handed_over() is None, "the one that has opened them"
        with monkeypatch.context() as child:
            child.setenv("LOCAL_RANK", "1")
            child.setenv("WORLD_SIZE", "2")
            found = engine.handed_over()
        assert found.hash == opened.hash
        assert found.texts("text") == [row["text"] for row in ROWS]
    assert processes.DATA not in os.environ
    assert len(asked) == count, "the stream is not read again"
