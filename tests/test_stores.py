"""Object stores: read by way of a copy that follows them, written whole, on a server that speaks S3."""

import http.server
import json
import os
import threading

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import nearfar
from nearfar import cli, stores
from nearfar.errors import InputError
from tests.conftest import KEYS
from tests.test_embed import pairs, stored, table


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    data = table(folder / "pairs.csv", pairs(range(40)))
    run = nearfar.fit("pairs", data, out=folder / "run", steps=2, batch_size=8, val_every=0, progress=False)
    return run.path / "model"


def hits(index, query):
    return [(hit["key"], hit["score"]) for hit in nearfar.search(index, query, k=5)]


def test_tables_are_read_from_a_bucket(bucket, tmp_path):
    rows = [dict(zip(("text", "text_b", "section"), row, strict=True)) for row in pairs(range(12))]
    here = {"a.csv": table(tmp_path / "a.csv", pairs(range(12))).read_bytes(),
            "a.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()}  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    here["a.parquet"] = (tmp_path / "a.parquet").read_bytes()
    store = fsspec.filesystem("s3")
    for name, content in here.items():
        store.pipe_file(f"shelf/data/{name}", content)
        assert nearfar.data(f"{bucket}/data/{name}").texts("text_b") == [row["text_b"] for row in rows]
    store.rm_file("shelf/data/a.jsonl")
    store.rm_file("shelf/data/a.parquet")
    assert len(nearfar.data(f"{bucket}/data")) == 12, "a folder is what lies below a prefix"


def test_an_index_in_a_bucket_is_searched_and_appended_to(bucket, model, tmp_path, capsys):
    store = fsspec.filesystem("s3")
    first, second = table(tmp_path / "a.csv", pairs(range(30))), table(tmp_path / "b.csv", pairs(range(25, 40)))
    store.put_file(str(first), "shelf/texts/a.csv")
    store.put(str(model), "shelf/runs/one", recursive=True)
    url = f"{bucket}/found/index"
    assert cli.main(["embed", f"{bucket}/runs/one", f"{bucket}/texts/a.csv", "--out", url]) == 0
    assert f"{url}: 30 rows added" in capsys.readouterr().out
    plain = nearfar.embed(model, first, out=tmp_path / "index").path
    assert hits(url, "question about thing 7") == hits(plain, "question about thing 7")
    meta = json.loads(store.cat_file("shelf/found/index/index.json"))
    assert meta["model"] == f"{bucket}/runs/one", "whoever opens the index finds its model"
    with pytest.raises(InputError, match=f"'{url}' exists already"):
        nearfar.embed(model, second, out=url)
    assert nearfar.embed(model, second, out=url, append=True).added == 10
    nearfar.embed(model, second, out=plain, append=True)
    assert hits(url, "thing 39 is answered") == hits(plain, "thing 39 is answered")
    there = {name.removeprefix("shelf/found/index/") for name in store.find("shelf/found/index")}
    assert there == {"index.json", *json.loads(store.cat_file("shelf/found/index/index.json"))["files"]}
    assert not [name for name in store.find("shelf/found") if "/index/" not in name], "no trial of writing is left"


def test_vectors_in_a_bucket_are_those_of_a_disk(bucket, model, tmp_path):
    data = table(tmp_path / "a.csv", pairs(range(20)))
    done = nearfar.embed(model, data, out=f"{bucket}/v.parquet")
    assert os.fspath(done) == f"{bucket}/v.parquet"
    fsspec.filesystem("s3").get_file("shelf/v.parquet", str(tmp_path / "there.parquet"))
    here, there = (
        stored(nearfar.embed(model, data, out=tmp_path / "v.parquet").path),
        stored(tmp_path / "there.parquet"),
    )
    assert list(here) == list(there)
    np.testing.assert_array_equal(list(here.values()), list(there.values()))


def test_a_copy_is_made_again_only_where_the_object_changed(memory):
    memory.pipe_file("/t/a.txt", b"one line of text\n")
    copy = stores.fetched("memory://t/a.txt")
    made = copy.stat().st_ino
    assert stores.fetched("memory://t/a.txt") == copy
    assert copy.stat().st_ino == made
    assert stores.origin(copy) == "memory://t/a.txt"
    memory.pipe_file("/t/a.txt", b"one other line\n")
    assert stores.fetched("memory://t/a.txt").read_bytes() == b"one other line\n"
    copy.with_name(stores.STATE).write_text("{")
    assert stores.fetched("memory://t/a.txt").read_bytes() == b"one other line\n", "a damaged state is no state"
    assert stores.origin(copy.parent.parent) == str(copy.parent.parent)


class Weak(MemoryFileSystem):
    """A store that is in memory and refuses what marks a folder as complete, as long as it is weak."""

    protocol, weak, store = "weak", True, {}

    def put_file(self, lpath, rpath, **kwargs):
        if self.weak and rpath.endswith("index.json"):
            raise PermissionError("not allowed")
        return super().put_file(lpath, rpath, **kwargs)


def test_what_could_not_be_sent_is_sent_by_the_next_call(model, tmp_path):
    fsspec.register_implementation("weak", Weak, clobber=True)
    data = table(tmp_path / "a.csv", pairs(range(20)))
    with pytest.raises(InputError, match="'weak://i/index' cannot be written: not allowed"):
        nearfar.embed(model, data, out="weak://i/index")
    with pytest.raises(InputError, match="'weak://i/index' was not sent whole"):
        nearfar.search("weak://i/index", "thing")
    Weak.weak = False
    done = nearfar.embed(model, data, out="weak://i/index")
    assert (done.added, done.left) == (0, 20), "nothing is computed again"
    assert len(hits("weak://i/index", "thing 3 is answered")) == 5


class Refusing(http.server.BaseHTTPRequestHandler):
    def do_any(self):
        self.send_response(403)
        self.end_headers()

    do_GET = do_PUT = do_HEAD = do_POST = do_any

    def log_message(self, *_):
        return None


def test_a_store_without_access_is_told_before_anything_is_computed(monkeypatch, tmp_path):
    pytest.importorskip("s3fs")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in KEYS.items() | {("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")}:
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    for call, verb in (
        (lambda: nearfar.data("s3://shelf/a.csv"), "read"),
        (lambda: nearfar.search("s3://shelf/index", "x"), "read"),
        (lambda: nearfar.embed("no model", "no data", out="s3://shelf/index"), "written"),
    ):
        with pytest.raises(InputError) as found:
            call()
        assert f"cannot be {verb}: " in found.value.message
        assert "AWS_ACCESS_KEY_ID" in found.value.hint
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.shutdown()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://nowhere/a.csv", "There is nothing at 'memory://nowhere/a.csv'"),
        ("memry://a", "Nothing is known of memry://. Did you mean 'memory'?"),
        ("memory://", "'memory://' names no object"),
    ],
)
def test_wrong_urls_are_told(url, message):
    for call in (lambda: nearfar.data(url), lambda: nearfar.search(url, "x")):
        with pytest.raises(InputError) as found:
            call()
        assert str(found.value).startswith(message)


def test_outputs_that_no_store_takes_are_told(model):
    with pytest.raises(InputError, match="would be two objects"):
        nearfar.embed(model, "emoji", out="memory://a/v.npy")
    with pytest.raises(InputError, match="Unknown kind of output"):
        nearfar.embed(model, "emoji", out="memory://a/v.csv")
