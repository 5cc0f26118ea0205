"""Work on a Ray cluster comes to what this process would make, also where a worker is killed in the middle."""

import importlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import nearfar
from nearfar import files, processes, using, workers
from nearfar.errors import InputError, NearfarError
from nearfar.training import callbacks, cells, clustered
from nearfar.training.clustered import Order, train_on
from nearfar.training.engine import Asked
from nearfar.training.settings import DataSettings, TrainSettings
from tests import raying, stopping
from tests.test_embed import pairs, table

ray = pytest.importorskip("ray", reason="needs nearfar[ray]")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    data = table(folder / "pairs.csv", pairs(range(40)))
    return nearfar.fit("pairs", data, out=folder / "run", steps=2, batch_size=8, val_every=0, progress=False).path


@pytest.fixture(scope="module")
def on_ray():
    """RAY_ADDRESS leads to a cluster of two workers, of several processes."""
    with pytest.MonkeyPatch.context() as patch, processes.same_threads():
        torch.set_num_threads(1)
        if os.environ.get("RAY_ADDRESS"):
            yield
            return
        with raying.cluster() as address:
            patch.setenv("RAY_AUTH_MODE", "disabled")
            patch.setenv("RAY_ADDRESS", address)
            yield


class Stop(Exception):
    pass


class Elsewhere:
    """Makes work by a module that other machines do not have."""

    def __reduce__(self):
        return importlib.import_module, ("nearfar.that_is_not_there",)


class Held:
    def answer(self):
        return 0


@pytest.mark.slow
def test_a_cluster_embeds_to_the_same_bits_though_a_worker_is_killed(model, on_ray, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(using, "CHUNK", 8)
    data, said, told, killed = table(tmp_path / "a.csv", pairs(range(90))), [], [], []
    plain = pq.read_table(nearfar.embed(model, data, out=tmp_path / "plain.parquet", batch_size=4).path)

    def stop(done, all_):
        if done == 16:
            raise Stop

    def kill(done, all_):
        told.append(done)
        if not killed:
            killed.append(raying.working()[0])
            os.kill(killed[0], signal.SIGKILL)

    out = tmp_path / "v.parquet"
    with pytest.raises(Stop):  # two chunks are made here, the others there
        nearfar.embed(model, data, out=out, batch_size=4, progress=stop)
    assert not out.exists()
    done = nearfar.embed(model, data, out=out, batch_size=4, progress=kill, say=said.append, on="ray")
    assert (done.added, done.replaced, done.left) == (90, 0, 0)
    assert "on Ray: 2 workers" in said[-1]
    assert len(told) == 10, "of twelve chunks those that were there are not computed again, and each other comes once"
    assert told == sorted(told)
    assert told[-1] == 90
    assert killed
    assert not files.running(killed[0])
    assert pq.read_table(out).equals(plain), "rows, order and every bit of the vectors"
    printed = capfd.readouterr()
    assert printed.out == "", "a document in JSON stays one"
    assert "constructor" not in printed.err, "Ray finds nothing to warn of"
    assert not [p for p in os.listdir(tmp_path) if p.startswith(".")], "no parts, locks or temporaries are left"


@pytest.mark.slow
def test_a_cluster_that_does_other_work_is_waited_for_and_that_is_told(model, on_ray, tmp_path):
    data, said = table(tmp_path / "a.csv", pairs(range(20))), []
    with workers.connected("ray"):
        other = ray.remote(Held).options(num_cpus=2).remote()
        ray.get(other.answer.remote())

        def say(words):
            said.append(words)
            if words.startswith("on Ray"):
                threading.Timer(1, ray.kill, [other]).start()

        done = nearfar.embed(model, data, out=tmp_path / "v.parquet", batch_size=4, say=say, on="ray")
    assert done.added == 20
    assert "on Ray: 1 worker of 1 thread; the cluster does other work, for which 1 of them waits" in said


@pytest.mark.slow
def test_workers_without_what_makes_the_work_are_told(on_ray):
    with workers.connected("ray") as cluster:
        ((_, answer),) = workers.spread(cluster, Elsewhere(), [1])
    with pytest.raises(NearfarError, match=r"cannot begin: .*nearfar\.that_is_not_there.*in one version"):
        raise answer


@pytest.mark.slow
def test_a_terminal_gets_no_codes_of_ray(on_ray):
    program = """if True:
        import ray
        import colorama
        from nearfar import workers
        colorama.init(strip=False)  # as Ray does when it starts processes of this machine
        with workers.connected("ray"):
            print("done")
    """
    head, tail = pty.openpty()
    subprocess.run([sys.executable, "-c", program], check=True, stdout=tail, stderr=tail)
    assert os.read(head, 1000) == b"done\r\n"
    os.close(tail)
    os.close(head)


def scores(compared):
    """What a comparison found, without seconds."""
    timed = ("seconds", "samples_per_second", "peak_mib", "run")
    return [
        (row["slug"], row.get("mean"), [{k: v for k, v in one.items() if k not in timed} for one in row["seeds"]])
        for row in compared.results["rows"]
    ]


@pytest.mark.slow
def test_a_cluster_compares_to_the_same_table(on_ray, tmp_path):
    data = table(tmp_path / "a.csv", pairs(range(60)))
    options = {"methods": "pairs,pairs --temperature 0.5", "seeds": 1, "steps": 4, "batch_size": 8, "val_every": 0,
               "progress": False, "report": False}  # fmt: skip
    here = nearfar.compare(data, out=tmp_path / "here", **options)
    there = nearfar.compare(data, out=tmp_path / "there", on="ray", **options)
    assert scores(there) == scores(here)
    assert (there.best / "config.json").exists()
    again = nearfar.compare(data, out=tmp_path / "there", on="ray", **options)
    assert scores(again) == scores(here), "finished cells are read, and no cluster is asked"


def test_a_cell_that_does_not_reach_the_folder_sends_its_run(tmp_path):
    data = nearfar.data(table(tmp_path / "a.csv", pairs(range(40))))
    settings = TrainSettings(steps=2, batch_size=8, val_every=0)
    cell = cells.Cell("pairs", {}, settings, tmp_path / "compared" / "cells" / "pairs-s0")
    same = workers.SameData(data, data, DataSettings())
    found = cells.cell_trainer(same, tmp_path / "compared" / "plan.json", b"{}")(cell)
    assert found is not None
    assert not cell.run.exists()
    assert not [name for name in found if name.startswith("checkpoints")]
    cells.receive(cell, found)
    assert cell.done
    assert nearfar.load(cell.run / "model").embed(["a text"]).shape == (1, 128)


def test_data_are_opened_by_their_files_or_anew_and_must_be_the_same(tmp_path):
    path = table(tmp_path / "a.csv", pairs(range(20)))
    settings = DataSettings()
    same = workers.SameData(nearfar.data(path), path, settings)
    assert same.open().texts("text") == nearfar.data(path).texts("text")
    same.pickled = b"cos\nlistdir\n(S'/nowhere/at/all'\ntR."  # what reading a file that is not there comes to
    assert same.open().hash == same.hash
    table(path, pairs(range(1, 21)))
    with pytest.raises(InputError, match="holds other rows on "):
        same.open()
    same.spec = None
    with pytest.raises(InputError, match="does not reach the files of"):
        same.open()


def test_workers_share_processors_and_graphics_cards():
    machines = [{"CPU": 8.0}, {"CPU": 16.0, "GPU": 2.0}, {"memory": 1e9}]
    assert workers.divided(machines, 3, gpus=False) == workers.Cluster(7, 3, 3)
    assert workers.divided(machines, 3, gpus=True) == workers.Cluster(2, 3, 3, 1)
    assert workers.divided(machines, 12, gpus=True) == workers.Cluster(2, 12, 8, 1)
    assert workers.divided(machines[:1], 12, gpus=True) == workers.Cluster(1, 12, 8)
    assert workers.divided([{"memory": 1e9}], 1, gpus=False) is None


def test_workers_that_wait_are_told():
    told = {free: workers.Cluster(3, 1, 1, busy=3 - free).words(8) for free in (3, 2, 0)}
    assert workers.Cluster(3, 1, 1).words(8) == told[3] == "on Ray: 3 workers of 1 thread"
    assert told[2] == told[3] + "; the cluster does other work, for which 1 of them waits"
    assert told[0] == told[3] + "; the cluster does other work, for which 3 of them wait"


@pytest.mark.parametrize(
    ("on", "message"),
    [
        ("rai", "--on takes ray, or ray://HOST:PORT. Got 'rai' instead. Did you mean 'ray'"),
        ("ray://", "--on takes ray"),
        ("ray://127.0.0.1:1", "No Ray cluster answers at ray://127.0.0.1:1: Connection refused"),
        ("ray://127.0.0.1:port", "No Ray cluster answers at ray://127.0.0.1:port"),
    ],
)
def test_what_names_no_cluster_is_told_before_anything_is_read(on, message, tmp_path):
    for call in (
        lambda: nearfar.embed("no model", "no data", out=tmp_path / "v", on=on),
        lambda: nearfar.compare("no data", on=on),
    ):
        with pytest.raises(InputError) as found:
            call()
        assert str(found.value).startswith(message)


def test_a_cluster_named_by_the_environment_must_answer(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(InputError, match=r"No Ray cluster answers at RAY_ADDRESS \(127.0.0.1:1\)"):
        workers.check_on("ray")


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"needs the package 'ray'.*'nearfar\[ray\]'"):
        workers.check_on("ray")


@pytest.mark.slow
def test_what_is_wrong_in_a_worker_is_told_at_once(on_ray, tmp_path):
    """The worker does not reach the data: it leaves a folder for each time that it was asked."""
    data = nearfar.data(table(tmp_path / "a.csv", pairs(range(20))))
    same = workers.SameData(data, None, DataSettings())
    same.pickled = (f"ctempfile\nmkdtemp\n(S''\nS'asked-'\nS'{tmp_path}'\ntR0"
                    "cos\nlistdir\n(S'/nowhere/at/all'\ntR.").encode()  # fmt: skip
    settings = TrainSettings(steps=2, batch_size=8, val_every=0, device="cpu")
    order = Order("pairs", same, tmp_path / "run", False, settings, {}, Asked(None, DataSettings(), ""))
    order.run.mkdir()
    with pytest.raises(InputError, match="does not reach the files of"):
        train_on("ray", order, lambda text: None)
    assert len(list(tmp_path.glob("asked-*"))) == 1
    assert list(order.run.iterdir()) == []


def test_progress_is_read_off_the_learning_curve_of_the_workers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(clustered, "LOOK", 0.01)
    bar, seen, until = callbacks.Progress("pairs on things", every_seconds=0), "", time.monotonic() + 60
    with clustered._followed(tmp_path, bar, 40):
        (tmp_path / "curve.jsonl").write_text('{"step": 7, "seconds": 1.0, "loss": 0.5}\n{"step": 9, "sec')
        while not seen and time.monotonic() < until:
            time.sleep(0.02)
            seen = capsys.readouterr().err
    assert seen.startswith("pairs on things: step 7/40  loss 0.500\n")


def weights(run):
    return load_file(run / "model" / "model.safetensors")


@pytest.mark.slow
def test_a_run_on_two_workers_equals_one_on_two_processes_though_a_worker_is_killed(on_ray, tmp_path, monkeypatch):
    data = table(tmp_path / "pairs.csv", pairs(range(60)))
    options = {"steps": 30, "batch_size": 8, "val_every": 0, "save_every": 5, "devices": 2, "device": "cpu"}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "nearfar", "fit", "pairs", str(data), "--out", str(tmp_path / "two"), *words]
    subprocess.run(command, check=True, capture_output=True, env=stopping.clean())
    said, killed, run = [], [], tmp_path / "ray"

    def kill():
        while not (run / "checkpoints" / "last.ckpt").exists():
            time.sleep(0.01)
        killed.append(raying.working("RayTrainWorker")[-1])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    found = nearfar.fit("pairs", data, out=run, on="ray", say=said.append, **options)
    killer.join(1)
    assert killed
    assert "on Ray: 2 workers" in " ".join(said)
    assert [line for line in said if line.startswith("note: a worker failed")] == [
        "note: a worker failed; all go on from the last checkpoint (1 of 3 times)"
    ]
    one, two = weights(tmp_path / "two"), weights(run)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert found.scores == json.loads((tmp_path / "two" / "scores.json").read_text())["scores"]
    assert found.model().embed_texts(["a thing"]).shape == (1, 128)
    assert sorted(p.name for p in run.iterdir()) == sorted(p.name for p in (tmp_path / "two").iterdir())
    with pytest.raises(InputError, match=r"ask for 3 workers; the cluster has 2"):
        nearfar.fit("pairs", data, out=tmp_path / "more", on="ray", **options | {"devices": 3})
    assert not (tmp_path / "more").exists()
    with pytest.raises(InputError, match="larger than the"):
        nearfar.fit("pairs", data, out=tmp_path / "more", on="ray", **options | {"batch_size": 4000})
    with pytest.raises(InputError, match="already holds a run"):
        nearfar.fit("pairs", data, out=run, on="ray", **options)
    assert nearfar.fit("pairs", data, out=run, on="ray", resume=True, **options).scores == found.scores
    url = f"file://{tmp_path}/shelf/run"  # the workers' only common place is a store
    there = nearfar.fit("pairs", data, out=url, on="ray", **options)
    assert (there.path, there.scores) == (url, found.scores)
    stored = weights(tmp_path / "shelf" / "run")
    assert all(torch.equal(one[name], stored[name]) for name in one)
