"""Runs, comparisons and what is made of them on object stores: sent as they grow, gone on with on another machine."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import load_file

import nearfar
from nearfar import cli, files, models, stores
from nearfar.errors import InputError, NearfarError
from nearfar.stores import copies, growing, sending
from nearfar.training import callbacks, cells, engine
from tests.stopping import Forked, start
from tests.test_embed import pairs, table

QUICK = {"steps": 6, "batch_size": 8, "val_every": 0, "save_every": 2, "text_encoder": "tiny", "progress": False}
WORDS = [word for name, value in QUICK.items() if name != "progress"
         for word in (f"--{name.replace('_', '-')}", str(value))]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return table(tmp_path_factory.mktemp("data") / "pairs.csv", pairs(range(40)))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run on a disk, that nobody stopped."""
    return nearfar.fit("pairs", data, out=tmp_path_factory.mktemp("whole") / "run", **QUICK)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Makes this machine another one, as far as the cache goes."""
    return lambda name: monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / name))


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    for module in (growing, sending):
        monkeypatch.setattr(module, "PAUSES", (0.01, 0.01))
    monkeypatch.setattr(growing, "LOOK", 0.01)


def names(url):
    return set(stores.Store(url).listed())


def below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def same_weights(one, other):
    a, b = (load_file(Path(path) / "model.safetensors") for path in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def stopped_at(step, monkeypatch, before=lambda: None):
    """Training that ends with an error after a step, whose checkpoint (if it is due) was written."""
    save = callbacks.Checkpoint.on_train_batch_end

    def stopping(self, trainer, *rest):
        save(self, trainer, *rest)
        if trainer.global_step == step:
            before()
            raise RuntimeError("the machine was taken away")

    monkeypatch.setattr(callbacks.Checkpoint, "on_train_batch_end", stopping)


def test_a_run_in_a_bucket_is_what_it_is_on_a_disk(bucket, data, whole, tmp_path, capsys):
    url = f"{bucket}/runs/one"
    assert cli.main(["fit", "pairs", str(data), "--out", url, *WORDS]) == 0
    assert f"model: {url}/model\nnext:  nearfar report {url}" in capsys.readouterr().out
    assert names(url) == below(whole.path)
    fsspec.filesystem("s3").get("shelf/runs/one/", str(tmp_path / "one"), recursive=True)
    assert same_weights(tmp_path / "one" / "model", whole.path / "model")
    assert engine.Run(url, "pairs", {}, {}, {}).model().hash == whole.model().hash
    for words, made in (
        (["report", url], "report.html"),
        (["export", url, "--to", "safetensors"], "model-safetensors/README.md"),
        (["predict", url, str(data), "--classes", "a,b", "--out", f"{url}/named.csv"], "named.csv"),
        (["data", str(data), "--report", f"{url}/odd.csv"], "odd.csv"),
    ):
        assert cli.main(words) == 0
        said = capsys.readouterr().out
        assert made in names(url)
        assert f"{url}/{made.partition('/')[0]}" in said, words
    assert cli.main(["evaluate", url, str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model_hash"] == whole.model().hash
    for words in (["report", url, "--out", f"{url}/report.html"], ["fit", "--resume", "--out", url]):
        assert cli.main(words) == 0, "a page is written again; a finished run is finished again"
    capsys.readouterr()
    for words in (
        ["fit", "pairs", str(data), "--out", url],
        ["export", url, "--to", "safetensors"],
        ["predict", url, str(data), "--classes", "a,b", "--out", f"{url}/named.csv"],
    ):
        assert cli.main(words) == 2
        assert "already" in capsys.readouterr().err


def test_a_model_is_read_without_the_rest_of_its_run(memory, data, elsewhere, tmp_path):
    nearfar.fit("pairs", data, out="memory://s/run", **QUICK)
    elsewhere("reader")
    assert nearfar.evaluate("memory://s/run", data, baseline=False)["rows"]
    (own,) = {path.parent for path in (tmp_path / "reader" / "objects").glob("*/*/config.json")}
    assert own.name == "model"
    nearfar.report("memory://s/run", out=tmp_path / "page.html")
    assert not list((tmp_path / "reader").rglob("last.ckpt"))


def test_another_machine_goes_on_from_what_arrived(memory, data, whole, elsewhere, monkeypatch):
    elsewhere("first")
    with monkeypatch.context() as patch:
        stopped_at(3, patch)
        with pytest.raises(RuntimeError, match="taken away"):
            nearfar.fit("pairs", data, out="memory://s/run", **QUICK)
    assert names("memory://s/run") == {"config.json", "curve.jsonl", "checkpoints/last.ckpt"}
    elsewhere("second")
    done = nearfar.fit("pairs", data, out="memory://s/run", resume=True, **QUICK)
    assert done.path == "memory://s/run"
    assert names("memory://s/run") == below(whole.path)
    assert same_weights(stores.fetched("memory://s/run/model"), whole.path / "model")
    elsewhere("first")
    again = nearfar.fit("pairs", data, out="memory://s/run", resume=True, **QUICK)
    assert again.scores == whole.scores, "the first machine follows what the second has made"


KILLED = """
import os, signal, sys, time
from pathlib import Path
import nearfar
from nearfar import stores
from nearfar.stores import growing
from nearfar.training import callbacks
growing.LOOK, arrived = 0.01, []
put, save = stores.Store.put, callbacks.Checkpoint.save

def putting(self, source, name):
    if name.endswith("last.ckpt") and len(arrived) == 1:     # half of the second one is written
        half = Path(self.at(name)).with_name(".last.ckpt.sending")
        half.write_bytes(source.read_bytes()[:1000])
        os.kill(os.getpid(), signal.SIGKILL)
    put(self, source, name)
    arrived.extend([name] if name.endswith("last.ckpt") else [])

def saving(self, trainer):
    save(self, trainer)
    for _ in range(3000):
        if len(arrived) == trainer.global_step // 2:
            return
        time.sleep(0.01)
    sys.exit(4)

stores.Store.put, callbacks.Checkpoint.save = putting, saving
os.environ["NEARFAR_CACHE"] = sys.argv[3]
nearfar.fit("pairs", sys.argv[1], out=sys.argv[2], steps=6, batch_size=8, val_every=0, save_every=2, progress=False,
            text_encoder="tiny")
"""


def test_a_sender_killed_in_the_middle_leaves_the_former_checkpoint(data, whole, elsewhere, tmp_path):
    url = f"file://{tmp_path}/shelf/run"
    ended = Forked(KILLED, tmp_path / "killed", data, url, tmp_path / "first").wait()
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    left = tmp_path / "shelf" / "run" / "checkpoints" / "last.ckpt"
    assert torch.load(left, weights_only=True)["global_step"] == 2
    elsewhere("second")
    nearfar.fit("pairs", data, out=url, resume=True, **QUICK)
    assert same_weights(tmp_path / "shelf" / "run" / "model", whole.path / "model")
    assert {name for name in names(url) if "sending" in name} == set()


class Away(MemoryFileSystem):
    """A store in memory that does not answer while it is away, and keeps what can be seen after each change."""

    protocol, away, store, seen = "away", False, {}, []

    def changed(self, *_, **__):
        self.seen.append({name: file.getvalue() for name, file in self.store.items()})

    def put_file(self, lpath, rpath, **kwargs):
        if Away.away:
            raise ConnectionError("nobody answers")
        super().put_file(lpath, rpath, **kwargs)
        self.changed()

    def rm_file(self, path):
        super().rm_file(path)
        self.changed()


@pytest.fixture
def away():
    fsspec.register_implementation("away", Away, clobber=True)
    Away.away = False
    yield Away
    Away.store.clear()
    Away.seen.clear()
    Away.away = False


def until(true):
    for _ in range(1000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def test_training_goes_on_while_the_store_is_away(away, data, whole, monkeypatch):
    said, save = [], callbacks.Checkpoint.save

    def saving(self, trainer):
        save(self, trainer)
        if trainer.global_step == 2:
            Away.away = True
            until(lambda: any("nobody answers" in line for line in said))
        if trainer.global_step == 4:
            Away.away = False
            until(lambda: any("is written again" in line for line in said))

    monkeypatch.setattr(callbacks.Checkpoint, "save", saving)
    nearfar.fit("pairs", data, out="away://s/run", say=said.append, **QUICK)
    told = [line for line in said if "away://" in line]
    assert told == ["warning: 'away://s/run' cannot be written: nobody answers. The work goes on; what is missing is "
                    "sent when the store answers.", "'away://s/run' is written again."]  # fmt: skip
    assert names("away://s/run") == below(whole.path)


def test_what_was_deleted_on_purpose_does_not_come_back(away, data, monkeypatch):
    given = {"methods": "pairs", "seeds": 1, "report": False, **QUICK}
    nearfar.compare(data, out="away://s/d", **given)
    Away.away = True
    with pytest.raises(NearfarError, match=r"Not everything was sent to 'away://s/d'.*the same command on this"):
        nearfar.compare(data, out="away://s/d", **given)
    Away.away = False
    Away.store.clear()
    said = []
    nearfar.compare(data, out="away://s/d", say=said.append, **given)
    assert not [line for line in said if line.startswith("plan of")]


def test_what_did_not_arrive_at_the_end_is_sent_by_resuming(away, data, whole, elsewhere, monkeypatch):
    elsewhere("first")
    finish = engine.finish

    def finishing(*given):
        Away.away = True
        return finish(*given)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "finish", finishing)
        with pytest.raises(NearfarError, match=r"Not everything was sent to 'away://s/run'.*with --resume on") as found:
            nearfar.fit("pairs", data, out="away://s/run", **QUICK)
    assert not isinstance(found.value, InputError)
    kept = Path(str(found.value).partition("It is kept in ")[2].partition(":")[0])
    assert (kept / "scores.json").exists()
    Away.away = False
    monkeypatch.setattr(engine, "run_trainer", None)  # nothing is trained again
    nearfar.fit("pairs", data, out="away://s/run", resume=True, **QUICK)
    assert names("away://s/run") == below(whole.path)
    assert same_weights(stores.fetched("away://s/run/model"), whole.path / "model")


def test_at_no_moment_is_half_a_thing_seen(away, data, tmp_path):
    """Whatever says that something is whole is there only beside all that it speaks of."""
    model = nearfar.compare(data, methods="pairs", seeds=1, out="away://s/c", report=False, **QUICK)
    nearfar.compare(data, methods="pairs", seeds=1, out="away://s/c", report=False, **QUICK)
    nearfar.embed(model.path, data, out="away://s/i")
    nearfar.embed(model.path, table(tmp_path / "more.csv", pairs(range(60))), out="away://s/i", append=True)
    moments, kinds = 0, set()
    for there in Away.seen:
        for name, content in there.items():
            folder, _, last = name.rpartition("/")
            if last == "verify.json" and f"{folder}/config.json" in there:
                for one, digest in json.loads(content)["files"].items():
                    (tmp_path / "one").write_bytes(there[f"{folder}/{one}"])
                    assert files.digest(tmp_path / "one") == digest
                    moments, kinds = moments + 1, kinds | {folder.rpartition("/")[2]}
            if last == "index.json":
                for one, digest in json.loads(content)["files"].items():
                    (tmp_path / "one").write_bytes(there[f"{folder}/{one}"])
                    assert files.digest(tmp_path / "one") == digest
                    moments, kinds = moments + 1, kinds | {"index"}
            if last == "scores.json":
                assert {f"{folder}/config.json", f"{folder}/model/config.json"} <= there.keys()
            if last == "last.ckpt":
                assert f"{folder.removesuffix('checkpoints')}curve.jsonl" in there
            if last == "results.json":
                assert f"{folder}/best/config.json" in there
    assert kinds == {"model", "best", "index"}
    assert moments > 40


def test_two_writers_are_told_apart(memory, data, elsewhere, monkeypatch):
    def another():
        until(lambda: "/s/run/checkpoints/last.ckpt" in memory.store)
        memory.pipe_file("/s/run/checkpoints/last.ckpt", b"of another machine")

    said = []
    stopped_at(3, monkeypatch, another)
    with pytest.raises(RuntimeError, match="taken away"):
        nearfar.fit("pairs", data, out="memory://s/run", say=said.append, **QUICK)
    assert any("is written to by somebody else ('checkpoints/last.ckpt' is not what was sent" in line for line in said)
    assert memory.cat_file("/s/run/checkpoints/last.ckpt") == b"of another machine", "it is not written over"


def test_a_comparison_goes_on_elsewhere_with_what_is_finished(memory, data, elsewhere, tmp_path, monkeypatch):
    given = {"methods": ["pairs", "pairs --temperature 0.2"], "seeds": 1, **QUICK}
    plain = nearfar.compare(data, out=tmp_path / "plain", **given)
    elsewhere("first")
    train, trained = cells.train, []

    def taken_away(opened, progress, cell):
        if trained:
            until(lambda: "/s/c/cells/pairs-s0/scores.json" in memory.store)
            raise KeyboardInterrupt
        train(opened, progress, cell)
        trained.append(cell.run.name)

    monkeypatch.setattr(cells, "train", taken_away)
    with pytest.raises(KeyboardInterrupt):
        nearfar.compare(data, out="memory://s/c", **given)
    elsewhere("second")
    monkeypatch.setattr(cells, "train", lambda *given: (trained.append(given[-1].run.name), train(*given)))
    done = nearfar.compare(data, out="memory://s/c", **given)
    assert trained == ["pairs-s0", "pairs-temperature-0-2-s0"], "each once"
    assert [row["mean"] for row in done.results["rows"]] == [row["mean"] for row in plain.results["rows"]]
    assert (done.path, done.best) == ("memory://s/c", "memory://s/c/best")
    assert f"nearfar embed memory://s/c/best {data} --out memory://s/c/index" in done.results["commands"]
    assert names("memory://s/c") == below(plain.path)
    assert models.open_model(done.path).hash == models.open_model(plain.path).hash
    assert nearfar.report("memory://s/c") == "memory://s/c/report.html"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda data: nearfar.fit("pairs", data, out="memory://s/run", resume=True), "'memory://s/run' holds no run"),
        (lambda data: nearfar.fit("pairs", data, out="memory://s/notes", **QUICK), "is not empty and is not a run"),
        (lambda data: nearfar.fit("pairs", data, out="memory://s/notes/a.txt", **QUICK), "a.txt' is a file, not a"),
        (lambda data: nearfar.fit("pairs", data, out="memry://s/run", **QUICK), "Nothing is known of memry://"),
        (lambda data: nearfar.compare(data, methods="pairs", out="memory://s/notes", **QUICK), "is not a comparison"),
        (lambda data: nearfar.report("memory://s/none"), "There is nothing at 'memory://s/none'"),
        (lambda data: nearfar.evaluate("memory://s/none", data), "There is nothing at 'memory://s/none'"),
    ],
)
def test_refusals_write_nothing(call, message, memory, data):
    memory.pipe_file("/s/notes/a.txt", b"someone's")
    with pytest.raises(InputError, match=message):
        call(data)
    assert list(memory.store) == ["/s/notes/a.txt"]


def test_a_run_that_never_began_leaves_nothing(memory, data):
    with pytest.raises(InputError, match="larger than the"):
        nearfar.fit("pairs", data, out="memory://s/run", **QUICK | {"batch_size": 100_000})
    assert not memory.store


def test_the_demo_stays_here(capsys):
    assert cli.main(["demo", "--out", "memory://s/demo"]) == 2
    assert "'memory://s/demo' is on an object store; the demo shows" in capsys.readouterr().err


def test_a_copy_is_read_by_one_process_at_a_time(memory, tmp_path):
    memory.pipe_file("/t/a.txt", b"one line of text\n")
    copy = copies.copy_of("memory://t/a.txt")
    copy.parent.mkdir(parents=True, exist_ok=True)
    with files.lock(copy.with_name(".reading"), "it"):
        waiting = threading.Thread(target=stores.fetched, args=["memory://t/a.txt"])
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        assert not copy.exists()
    waiting.join(10)
    assert copy.exists()
    assert stores.fetched("memory://t/a.txt").read_bytes() == b"one line of text\n"
    assert set(os.listdir(copy.parent)) == {"a.txt", ".state.json"}


LAUNCHED = """
import nearfar
options = json.loads(options)
nearfar.fit(method, table, out=out, progress=False, val_every=0, **options)
"""


@pytest.mark.slow
def test_processes_that_a_launcher_starts_go_on_elsewhere(data, elsewhere, tmp_path):
    """Only the first one writes; the others fetch the checkpoint."""
    options = {"steps": 4, "batch_size": 8, "save_every": 2, "text_encoder": "tiny", "device": "cpu"}
    url = f"file://{tmp_path}/shelf/run"

    def launch(out, stop=9, **more):
        return start(LAUNCHED, tmp_path / "log", "pairs", data, out, json.dumps(options | more), stop)

    assert launch(tmp_path / "whole", devices=2).returncode == 0
    elsewhere("first")
    assert launch(url, 3, devices=2).returncode != 0
    assert names(url) == {"config.json", "curve.jsonl", "checkpoints/last.ckpt"}
    elsewhere("second")
    done = launch(url, devices=2, resume=True)
    assert done.returncode == 0, done.stderr
    a, b = (load_file(one / "model" / "model.safetensors") for one in (tmp_path / "whole", tmp_path / "shelf" / "run"))
    assert all(torch.allclose(a[key], b[key], atol=1e-5) for key in a)
    lines = (tmp_path / "shelf" / "run" / "curve.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
