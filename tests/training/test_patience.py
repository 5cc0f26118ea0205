"""Early stopping: what the learning curve says decides, and the model is that of the best step."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import nearfar
from nearfar.cli import main
from nearfar.training import callbacks
from nearfar.training.engine import fit
from tests.contract import runs

WILD = {"optimiser": "sgd", "lr": 3.0, "weight_decay": 0.0, "warmup": 0, "schedule": "constant"}  # too long a step
PLAN = {"steps": 60, "batch_size": 24, "val_every": 2, "save_every": 3, "progress": False, **WILD}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Questions whose answers say the same words; the steps are so long that a model soon gets worse."""
    path, rng = tmp_path_factory.mktemp("pairs") / "pairs.csv", np.random.default_rng(0)
    words = [f"w{k}" for k in range(40)]
    rows = [" ".join(rng.choice(words, 4, replace=False)) for _ in range(240)]
    path.write_text("question,answer\n" + "\n".join(f"{row},{row[::-1]} {row[:6]}" for row in rows) + "\n")
    return nearfar.data(path)


def by_hand(values, checks):
    """The best of a list of scores and where looking at them ends."""
    best = 0
    for k, value in enumerate(values):
        if value > values[best]:
            best = k
        if k - best >= checks:
            return best, k
    return best, len(values) - 1


@pytest.fixture(scope="module")
def stopped(pairs, tmp_path_factory):
    said, out = [], tmp_path_factory.mktemp("runs") / "run"
    return fit("pairs", pairs, out=out, patience=3, say=said.append, **PLAN), said


def measured(out):
    return [(line["step"], line["val_primary"]) for line in runs.lines(out) if "val_primary" in line]


def test_the_curve_tells_when_it_ends_and_which_step_is_kept(stopped):
    run, said = stopped
    steps, values = zip(*measured(run.path), strict=True)
    best, last = by_hand(values, 3)
    assert last == len(values) - 1
    assert steps[last] < 60
    assert best > 0
    assert run.scores["val"]["primary"] == values[best]
    assert (run.cost["kept_step"], run.cost["last_step"]) == (steps[best], steps[last])
    assert runs.state(run.path)["global_step"] == steps[last]
    assert any(f"stopped at step {steps[last]}: 3 checks were no better; the model is that of step {steps[best]}" in one
               for one in said)  # fmt: skip
    assert json.loads((run.path / "scores.json").read_text())["cost"]["kept_step"] == steps[best]


def test_the_model_is_that_of_a_run_which_ended_there(stopped, pairs, tmp_path):
    run, _ = stopped
    plain = fit("pairs", pairs, out=tmp_path / "plain", **PLAN | {"steps": run.cost["kept_step"], "val_every": 0})
    a, b = (load_file(one.path / "model" / "model.safetensors") for one in (run, plain))
    assert all(torch.equal(a[k], b[k]) for k in b)


def test_resumed_equals_uninterrupted_and_a_finished_run_stays(stopped, pairs, tmp_path, monkeypatch):
    run, _ = stopped
    save, out = callbacks.Checkpoint.on_train_batch_end, tmp_path / "parts"

    def stop(self, trainer, *rest):
        save(self, trainer, *rest)
        if trainer.global_step == run.cost["kept_step"] + 1:
            raise runs.Stop

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Checkpoint, "on_train_batch_end", stop)
        with pytest.raises(runs.Stop):
            fit("pairs", pairs, out=out, patience=3, **PLAN)
    for _ in range(2):
        again = fit("pairs", pairs, out=out, patience=3, resume=True, **PLAN)
        assert again.scores == run.scores
        assert again.cost["kept_step"] == run.cost["kept_step"]
    runs.same_to_the_bit(run.path, out)


def test_a_run_that_is_never_stopped_keeps_the_best_too(pairs, tmp_path):
    said = []
    run = fit("pairs", pairs, out=tmp_path / "run", patience=100, say=said.append, **PLAN | {"steps": 12})
    steps, values = zip(*measured(run.path), strict=True)
    assert steps[-1] == run.cost["last_step"] == 12
    assert run.cost["kept_step"] == steps[values.index(max(values))]
    assert any(one.startswith(f"the model is that of step {run.cost['kept_step']}, the best") for one in said)
    page = nearfar.report(run.path).read_text()
    assert f"weights of step {run.cost['kept_step']}" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["simclr", "--val-every", "0"], "--val-every 0 measures nothing while it trains"),
        (["mcl"], "'mcl' trains in stages, of which the later ones would be left out"),
        (["simclr", "--patience", "0"], "patience"),
    ],
)
def test_wrong_uses(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["--patience", "2"] if "--patience" not in words else []
    assert main(["fit", words[0], "emoji", "--limit", "200", "--steps", "4", *given, *words[1:]]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not any(tmp_path.iterdir())
