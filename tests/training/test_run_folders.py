"""A run's folder has one owner, is found again after whatever ended the run, and is not there where nothing began."""

import os
import signal

import pytest
import torch

from nearfar import files
from nearfar.cli import main
from nearfar.errors import InputError, NearfarError
from nearfar.training import callbacks, comparing, engine
from tests.stopping import Forked

QUICK = {"steps": 4, "batch_size": 8, "val_every": 0, "save_every": 2, "progress": False}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "pairs.csv"
    rows = [f"question about thing {i},thing {i} is answered" for i in range(40)]
    path.write_text("text,text_b\n" + "\n".join(rows) + "\n")
    return path


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_the_second_of_two_runs_is_refused(table, tmp_path):
    words = ["fit", "pairs", table, "--steps", "60", "--batch-size", "8", "--val-every", "0", "--out", tmp_path / "one"]
    body = "import sys; from nearfar.cli import main; sys.exit(main(sys.argv[1:]))"
    runs = [Forked(body, tmp_path / f"seed-{seed}", *words, "--seed", seed) for seed in (0, 5)]
    done = [run.wait() for run in runs]
    assert sorted(one.returncode for one in done) == [0, 2]
    refused = next(one.stderr for one in done if one.returncode == 2)
    assert "is in use by another process" in refused or "already holds a run" in refused
    assert names(tmp_path / "one") == ["checkpoints", "config.json", "curve.jsonl", "model", "scores.json"]


def test_a_folder_in_use_is_refused(table, tmp_path):
    run, place = tmp_path / "run", tmp_path / "c"
    engine.fit("pairs", table, out=run, **QUICK)
    with files.lock(run / files.LOCK, "x"), pytest.raises(InputError, match=r"in use by another process \(number"):
        engine.fit("pairs", table, out=run, resume=True, **QUICK)
    place.mkdir()
    with files.lock(place / files.LOCK, "x"), pytest.raises(InputError, match="in use by another process"):
        comparing.compare(table, methods="pairs", seeds=1, out=place, **QUICK)
    cell = place / "cells" / "pairs-s0"
    cell.mkdir(parents=True)
    with files.lock(cell / files.LOCK, "x"), pytest.raises(InputError, match="in use by another process"):
        comparing.compare(table, methods="pairs", seeds=1, out=place, **QUICK)


def test_unnamed_runs_get_folders_of_their_own(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "pairs-pairs.csv-1").mkdir(parents=True)
    assert engine.fit("pairs", table, **QUICK).path.name == "pairs-pairs.csv-2"


def test_refusals_leave_no_folder(table, tmp_path):
    new = tmp_path / "deep" / "er"
    for wrong in ({"batch_size": 10_000}, {"resume": True}, {"temperature": -3.0, "loss": "nope"}):
        with pytest.raises(InputError):
            engine.fit("pairs", table, out=new, **QUICK | wrong)
        assert os.listdir(tmp_path) == []
    for wrong in ({"budget": "1..5m"}, {"baseline": "nope"}, {"methods": "pairs --batch 3"}, {"batch_size": 10_000}):
        with pytest.raises(InputError):
            comparing.compare(table, out=new, **QUICK | {"methods": "pairs", "seeds": 1} | wrong)
        assert os.listdir(tmp_path) == []


def test_a_checkpoint_without_its_run_is_not_written_over(table, tmp_path):
    engine.fit("pairs", table, out=tmp_path / "run", **QUICK)
    (tmp_path / "run" / "config.json").unlink()
    for name in ("scores.json", "model"):
        files.remove(tmp_path / "run" / name)
    with pytest.raises(InputError, match="is not a run"):
        engine.fit("pairs", table, out=tmp_path / "run", **QUICK)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def full(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_full_disk_before_the_first_checkpoint_is_in_nobodys_way(table, tmp_path, monkeypatch):
    for broken in ("torch.save", "nearfar.files.os.replace"):
        with monkeypatch.context() as disk:
            disk.setattr(broken, full)
            with pytest.raises(NearfarError, match=r"No space left.*Free some space, then start it again"):
                engine.fit("pairs", table, out=tmp_path / "run", **QUICK)
        assert not (tmp_path / "run").exists()
    with monkeypatch.context() as disk:
        disk.setattr(torch, "save", full)
        stuck = comparing.compare(table, methods="pairs", seeds=1, out=tmp_path / "c", report=False, **QUICK)
        assert stuck.results["rows"][-1]["seeds"][0]["status"] == "failed"
    done = comparing.compare(table, methods="pairs", seeds=1, out=tmp_path / "c", report=False, **QUICK)
    assert done.results["rows"][-1]["seeds"][0]["status"] == "done"
    assert done.best is not None


def test_a_full_disk_after_a_checkpoint_goes_on(table, tmp_path, monkeypatch):
    write = callbacks.CheckpointFile.save_checkpoint

    def filling(self, held, path, storage_options=None):
        full() if held["global_step"] > 2 else write(self, held, path)

    with monkeypatch.context() as disk:
        disk.setattr(callbacks.CheckpointFile, "save_checkpoint", filling)
        with pytest.raises(NearfarError, match="go on with --resume"):
            engine.fit("pairs", table, out=tmp_path / "run", **QUICK)
    assert names(tmp_path / "run" / "checkpoints") == ["last.ckpt"]
    assert engine.fit("pairs", table, out=tmp_path / "run", resume=True, **QUICK).scores


KILLED = """
import os, signal, sys
from nearfar.training import callbacks, engine
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "first step":
    callbacks.Curve.at_step = die
elif sys.argv[3] == "first write":
    engine.files.os.replace = die
else:                                          # the new model is written and the old one put aside
    rename = os.rename
    os.rename = lambda a, b: (rename(a, b), die() if str(b).endswith(".old") else None)
engine.fit("pairs", sys.argv[1], out=sys.argv[2], resume=sys.argv[3] == "model", steps=4, batch_size=8, val_every=0,
           save_every=2, progress=False)
"""


@pytest.mark.parametrize("moment", ["first write", "first step", "model"])
def test_a_killed_run_is_found_again(moment, table, tmp_path):
    run = tmp_path / "run"
    if moment == "model":
        engine.fit("pairs", table, out=run, **QUICK)
    ended = Forked(KILLED, tmp_path / "killed", table, run, moment).wait()
    assert ended.returncode == -signal.SIGKILL
    assert any(name.startswith(".") for name in names(run)), "a lock and a temporary are left"
    resume = moment != "first write"
    if moment == "model":
        assert not (run / "model").exists()
        engine.Run(run, "pairs", {}, {}, {}).model()
        assert (run / "model").exists(), "the earlier model is put back"
    engine.fit("pairs", table, out=run, resume=resume, **QUICK)
    assert names(run) == ["checkpoints", "config.json", "curve.jsonl", "model", "scores.json"]
    assert names(run / "checkpoints") == ["last.ckpt"]


def test_what_is_written_follows_the_umask(table, tmp_path):
    before = os.umask(0o022)
    try:
        words = ["fit", "pairs", str(table), "--out", str(tmp_path / "run")]
        assert main([*words, "--steps", "2", "--val-every", "0"]) == 0
        assert main(["embed", str(tmp_path / "run"), str(table), "--out", str(tmp_path / "index")]) == 0
        assert main(["report", str(tmp_path / "run")]) == 0
    finally:
        os.umask(before)
    modes = {p: p.stat().st_mode & 0o777 for p in tmp_path.rglob("*")}
    assert {p.name for p, mode in modes.items() if mode != (0o755 if p.is_dir() else 0o644)} == set()
