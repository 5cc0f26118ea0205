"""How the small methods are trained: whole, stopped and gone on with, on two processes."""

import json

import pytest
import torch
from safetensors.torch import load_file

from nearfar.training import callbacks
from nearfar.training.engine import fit
from tests import stopping

WORDS = ["stone", "river", "window", "paper", "garden", "engine", "letter", "bridge", "candle", "forest", "market"]
ADJECTIVES = ["old", "small", "warm", "blue", "heavy", "round", "quiet"]
SETTINGS = {"steps": 8, "val_every": 4, "save_every": 2, "progress": False, "device": "cpu"}
SGD = {"optimiser": "sgd", "lr": 0.02, "weight_decay": 0.0}  # AdamW would magnify the rounding of tiny gradients


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """Texts with a class, a number, a bag and a label column."""
    path = tmp_path_factory.mktemp("contract") / "texts.csv"
    rows = [
        (f"the {a} {w} beside the {v}", f"kind {i % 6}", f"{len(w) + 0.5 * j}", f"bag {(i + j) % 5}")
        for i, w in enumerate(WORDS)
        for j, a in enumerate(ADJECTIVES)
        for v in WORDS[:3]
        if v != w
    ]
    path.write_text("text,label,number,sack\n" + "".join(",".join(row) + "\n" for row in rows))
    return path


def run(method, data, out, **more):
    return fit(method, data, out=out, **SETTINGS | {"batch_size": 12} | more)


class Stop(RuntimeError):
    pass


def stopped(method, data, out, monkeypatch, at, **more):
    """A run that ends after a step, whatever was saved until then."""
    save = callbacks.Checkpoint.on_train_batch_end

    def stop(self, trainer, *rest):
        save(self, trainer, *rest)
        if trainer.global_step == at:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Checkpoint, "on_train_batch_end", stop)
        with pytest.raises(Stop):
            run(method, data, out, **more)


def lines(out):
    return [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]


def state(out):
    return torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)


def told(out):
    """The curve without what differs from run to run."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines(out)]


def same_to_the_bit(a, b):
    """Two runs have equal weights, states of the optimisers and curves."""
    one, other = state(a), state(b)
    assert one["global_step"] == other["global_step"]
    assert one["state_dict"].keys() == other["state_dict"].keys()
    assert all(torch.equal(v, other["state_dict"][k]) for k, v in one["state_dict"].items())
    for first, second in zip(one["optimizer_states"], other["optimizer_states"], strict=True):
        for k, own in first["state"].items():
            assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(second["state"][k][n])) for n, v in own.items())
    assert told(a) == told(b)
    if (a / "model" / "model.safetensors").exists():
        x, y = (load_file(out / "model" / "model.safetensors") for out in (a, b))
        assert x.keys() == y.keys()
        assert all(torch.equal(x[k], y[k]) for k in x)


SCRIPT = """
from tests.contract import runs, toys

with toys.registered():
    runs.run(method, table, out, **json.loads(options))
"""


def on_two_processes(method, data, out, stop=99, **more):
    return stopping.start(SCRIPT, out, method, data, out, json.dumps({"devices": 2} | more), stop)


def close(a, b, rtol=1e-4):
    """Two runs agree up to rounding."""
    one, other = state(a)["state_dict"], state(b)["state_dict"]
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=rtol, atol=1e-5)
    for first, second in zip(lines(a), lines(b), strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=rtol, abs=1e-6)
        assert second["samples"] == first["samples"]
