"""Ctrl-C and SIGTERM, whenever they come: what goes on afterwards equals a run that nobody stopped, to the bit."""

import os
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from nearfar import processes
from nearfar.cli import main
from nearfar.methods.base import Method
from nearfar.training import callbacks, engine
from tests import stopping

OPTIONS = {"negatives": "queue", "momentum": "auto", "accumulate": 2, "steps": 6, "batch_size": 16, "val_every": 3,
           "image_size": 16}  # fmt: skip
MOMENTS = ("encode", "before_targets", "loss", "before_step", "after_step")


def train(data, out, **more):
    return engine.fit("dcl", data, out=out, save_every=2, progress=False, **OPTIONS, **more)


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def state(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def whole(emoji_few, tmp_path_factory):
    out = tmp_path_factory.mktemp("signals") / "whole"
    train(emoji_few, out)
    return out


def interrupting(monkeypatch, cls, name, at, number, times=1):
    """Sends signals to this process at the `at`-th call of a method of training."""
    inner, calls = getattr(cls, name), []

    def outer(self, *args, **kwargs):
        calls.append(name)
        done = inner(self, *args, **kwargs)
        if len(calls) == at:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return done

    monkeypatch.setattr(cls, name, outer)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_within_a_step_waits_for_its_end(moment, number, whole, emoji_few, tmp_path, monkeypatch):
    from nearfar.methods import get

    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    cls = next(c for c in get("dcl").__mro__ if moment in vars(c)) if moment != "before_step" else Method
    interrupting(monkeypatch, cls, moment, 5, number)
    with pytest.raises(callbacks.Stopped) as stop:
        train(emoji_few, tmp_path / "run")
    monkeypatch.undo()
    assert stop.value.number == number
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    train(emoji_few, tmp_path / "run", resume=True)
    assert equal(weights(whole), weights(tmp_path / "run"))
    assert equal(state(whole), state(tmp_path / "run"))


def test_a_second_signal_stops_at_the_last_checkpoint(whole, emoji_few, tmp_path, monkeypatch):
    interrupting(monkeypatch, Method, "before_step", 4, signal.SIGINT, times=2)
    with pytest.raises(callbacks.Stopped):
        train(emoji_few, tmp_path / "run")
    monkeypatch.undo()
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 2
    train(emoji_few, tmp_path / "run", resume=True)
    assert equal(weights(whole), weights(tmp_path / "run"))


class Late(callbacks.Signals):
    """A signal comes right after the fourth look for one."""

    looks = value = 0

    @property
    def asked(self):
        self.looks += 1
        found = self.value
        if self.looks == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    @asked.setter
    def asked(self, number):
        self.value = number


def test_no_step_is_lost_where_a_signal_comes_just_after_the_look_for_one(emoji_few, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "Signals", Late)
    with pytest.raises(callbacks.Stopped):
        train(emoji_few, tmp_path / "run")
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert last == callbacks.curve_lines(tmp_path / "run" / "curve.jsonl")[-1]["step"]


def test_on_the_command_line(tmp_path):
    """As two more runs of the same command give them: one that nobody stops, one in this process."""
    words = ["fit", "dcl", "emoji", "--limit", "400", "--batch-size", "16", "--steps", "150", "--val-every", "0",
             "--negatives", "queue", "--momentum", "auto", "--save-every", "1000", "--image-size", "16"]  # fmt: skip

    def called(*given):
        command = "import sys\nfrom nearfar.cli import main\nsys.exit(main(argv))"
        return stopping.Forked(command, tmp_path / "log", *given)

    run, step = tmp_path / "run", 0
    curve = run / "curve.jsonl"
    for number, code, more in ((signal.SIGINT, 130, words), (signal.SIGTERM, 143, ["fit", "--resume"])):
        running = called(*more, "--out", run)
        size = curve.stat().st_size if curve.exists() else 0
        while running.process.is_alive() and not (curve.exists() and curve.stat().st_size > size):
            time.sleep(0.01)
        os.kill(running.process.pid, number)
        done = running.wait()
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        before, step = step, torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
        assert before < step < 150
        assert sorted(p.name for p in run.iterdir()) == ["checkpoints", "config.json", "curve.jsonl"]
    for more in (["fit", "--resume", "--out", run], [*words, "--out", tmp_path / "whole"]):
        assert called(*more).wait().returncode == 0
    assert equal(weights(run), weights(tmp_path / "whole"))
    with processes.same_threads():
        torch.set_num_threads(1)  # as those have
        assert main([*words, "--out", str(tmp_path / "here")]) == 0
    assert equal(weights(tmp_path / "here"), weights(tmp_path / "whole"))
