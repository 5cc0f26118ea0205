"""Stages: their own batches, what ends and begins, scores of each, resumed to the bit in the middle of one."""

import json

import pytest
import torch

from nearfar import methods
from nearfar.errors import InputError
from nearfar.training import callbacks
from tests.contract import runs

OPTIONS = {"steps": 9, "dim": 6}


def stages(out):
    return json.loads((out / "stages.json").read_text())["stages"]


def test_each_stage_draws_its_own_rows_and_rehearses_earlier_ones(table, tmp_path):
    done = runs.run("toy-tasks", table, tmp_path / "run", **OPTIONS)
    curve = runs.lines(tmp_path / "run")
    assert [line["old"] for line in curve] == [0.0] * 3 + [pytest.approx(0.25)] * 6
    told = stages(tmp_path / "run")
    assert [(one["stage"], one["steps"]) for one in told] == [(0, [0, 3]), (1, [3, 6]), (2, [6, 9])]
    assert all(one["kept"] == 4 and 0 <= one["val"]["primary"] <= 1 for one in told)
    assert told[-1]["val"]["primary"] == done.scores["val"]["primary"]
    kept = runs.state(tmp_path / "run")["state_dict"]["kept"]
    assert kept.shape == (3, 4)
    assert (kept >= 0).all(), "the end of the last stage is in the checkpoint"


@pytest.mark.parametrize("at", [3, 5, 7])
def test_a_run_stopped_at_the_edge_or_inside_of_a_stage_goes_on_to_the_bit(at, table, tmp_path, monkeypatch):
    runs.run("toy-tasks", table, tmp_path / "whole", **OPTIONS)
    runs.stopped("toy-tasks", table, tmp_path / "parts", monkeypatch, at, **OPTIONS)
    runs.run("toy-tasks", table, tmp_path / "parts", resume=True, **OPTIONS)
    runs.same_to_the_bit(tmp_path / "whole", tmp_path / "parts")
    assert stages(tmp_path / "whole") == stages(tmp_path / "parts")


def test_two_processes_equal_one(table, tmp_path, monkeypatch):
    done = runs.on_two_processes("toy-tasks", table, tmp_path / "two", **runs.SGD, **OPTIONS)
    assert done.returncode == 0, done.stderr[-3000:]
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    runs.run("toy-tasks", table, tmp_path / "one", **runs.SGD, **OPTIONS)
    runs.close(tmp_path / "one", tmp_path / "two")
    for first, second in zip(stages(tmp_path / "one"), stages(tmp_path / "two"), strict=True):
        assert first["noise"] == second["noise"]
        assert second["spread"] == pytest.approx(first["spread"], rel=1e-3)


def test_the_optimiser_forgets_at_a_stage_and_the_schedule_begins_anew(table, tmp_path, monkeypatch):
    ages, rates = [], []
    step = callbacks.Checkpoint.on_train_batch_end

    def age(self, trainer, method, *rest):
        ages.append(max(int(s["step"]) for s in trainer.optimizers[0].state.values()))
        rates.append(method.rate(trainer.global_step - 1))
        step(self, trainer, method, *rest)

    monkeypatch.setattr(callbacks.Checkpoint, "on_train_batch_end", age)
    runs.run("toy-tasks", table, tmp_path / "run", **OPTIONS)
    assert ages == [1, 2, 3] * 3
    assert rates[:3] == rates[3:6] == rates[6:]


def test_mcl_tells_its_stages(emoji_few, tmp_path):
    runs.run("mcl", emoji_few, tmp_path / "run", batch_size=16, stages=1, clusters=2, steps=6)
    assert [one["steps"] for one in stages(tmp_path / "run")] == [[0, 3], [3, 6]]


def test_methods_without_stages_write_none(table, tmp_path):
    runs.run("toy-phases", table, tmp_path / "run", steps=2)
    assert not (tmp_path / "run" / "stages.json").exists()


def test_the_base_knows_no_stages():
    assert not {"stage_starts", "begin_stage", "end_stage", "negative_groups"} & set(dir(methods.Method))
    assert issubclass(methods.get("mcl"), methods.Staged)


def test_a_damaged_file_of_stages_is_told(table, tmp_path, monkeypatch):
    runs.stopped("toy-tasks", table, tmp_path / "run", monkeypatch, 5, **OPTIONS)
    (tmp_path / "run" / "stages.json").write_text("{")
    with pytest.raises(InputError, match=r"stages\.json"):
        runs.run("toy-tasks", table, tmp_path / "run", resume=True, **OPTIONS)
