"""The learning curve as other tools keep it."""

import csv
import json

import numpy as np
import pytest

import nearfar
from nearfar.errors import InputError

QUICK = {"steps": 6, "batch_size": 16, "progress": False}


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    lines = [f"{x:.3f},{y:.3f},{'ab'[k % 2]}" for k, (x, y) in enumerate(rng.normal(size=(80, 2)))]
    path = tmp_path / "t.csv"
    path.write_text("x,y,label\n" + "\n".join(lines) + "\n")
    return path


def test_csv_holds_the_lines_of_the_curve_and_the_scores(table, tmp_path):
    run = nearfar.fit("simclr", table, out=tmp_path / "run", logger="csv", **QUICK)
    curve = [json.loads(line) for line in (run.path / "curve.jsonl").read_text().splitlines()]
    (path,) = (run.path / "logs" / "csv").rglob("metrics.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    told = {int(row["step"]): float(row["loss"]) for row in rows if row["loss"]}
    assert told == pytest.approx({line["step"]: line["loss"] for line in curve})
    last = {name: float(value) for row in rows for name, value in row.items() if name.startswith("test/") and value}
    assert last == pytest.approx({f"test/{name}": value for name, value in run.scores["test"]["metrics"].items()})


def test_tensorboard_reads_the_curve(table, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = nearfar.fit("simclr", table, out=tmp_path / "run", logger="tensorboard", **QUICK)
    curve = [json.loads(line) for line in (run.path / "curve.jsonl").read_text().splitlines()]
    read = accumulator.EventAccumulator(str(run.path / "logs" / "tensorboard"))
    read.Reload()
    assert [(one.step, pytest.approx(one.value)) for one in read.Scalars("loss")] == [
        (x["step"], x["loss"]) for x in curve
    ]


def test_wandb_and_mlflow_write_without_a_network(table, tmp_path):
    pytest.importorskip("wandb")
    mlflow = pytest.importorskip("mlflow")
    run = nearfar.fit("simclr", table, out=tmp_path / "run", logger="wandb,mlflow", **QUICK)
    assert list((run.path / "logs").rglob("*.wandb"))
    client = mlflow.MlflowClient(f"sqlite:///{run.path / 'logs' / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'nearfar'")
    (kept,) = client.search_runs([experiment.experiment_id])
    curve = [json.loads(line) for line in (run.path / "curve.jsonl").read_text().splitlines()]
    assert kept.data.metrics["loss"] == pytest.approx(curve[-1]["loss"])
    assert kept.data.params["method"] == "simclr"


def test_an_unknown_logger_or_a_missing_package_is_told_before_anything_is_written(table, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"'tensorbord' is not known. Did you mean 'tensorboard'"):
        nearfar.fit("simclr", table, out=tmp_path / "run", logger="tensorbord", **QUICK)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs the package 'mlflow', which is not installed"):
        nearfar.fit("simclr", table, out=tmp_path / "run", logger="mlflow", **QUICK)
    assert not (tmp_path / "run").exists()
