"""`embed` streams, appends by identity, and never leaves an output half written or of two owners."""

import json
import os
import signal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import nearfar
from nearfar import files, indexing, using
from nearfar.errors import InputError
from nearfar.indexing import outputs
from nearfar.training.modelled import ModelEmbedder
from tests.stopping import Forked

KINDS = ("v.parquet", "v.npy", "v")


def table(path, rows, columns=("text", "text_b", "section")):
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def pairs(numbers):
    return [(f"question about thing {i}", f"thing {i} is answered", f"s{i % 3}") for i in numbers]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    data = table(folder / "pairs.csv", pairs(range(60)))
    return nearfar.fit("pairs", data, out=folder / "run", steps=2, batch_size=8, val_every=0, progress=False).model()


def stored(out):
    """key -> (vector, content) of an output."""
    place = outputs.output(out)
    place.read()
    keys = place.known["key"].to_pylist()
    if out.suffix == ".npy":
        vectors = np.load(out)
        assert json.loads(out.with_suffix(".keys.json").read_text())["keys"] == keys
    elif out.suffix == ".parquet":
        vectors = np.stack(pq.read_table(out)["vector"].to_pylist())
    else:
        vectors = np.stack(indexing.open_index(out).rows(["vector"])["vector"].to_pylist())
    assert len(set(keys)) == len(keys) == len(vectors)
    return dict(zip(keys, vectors, strict=True))


def counts(done):
    return done.added, done.replaced, done.left


@pytest.mark.parametrize("kind", KINDS)
def test_streamed_vectors_equal_those_made_at_once(kind, model, tmp_path, monkeypatch):
    data = nearfar.data(table(tmp_path / "a.csv", pairs(range(50))))
    whole = ModelEmbedder(model, data, 7)("text", np.arange(50))
    assert counts(nearfar.embed(model, data, out=tmp_path / f"w{kind}", batch_size=7)) == (50, 0, 0)
    np.testing.assert_allclose(list(stored(tmp_path / f"w{kind}").values()), whole, atol=1e-7)
    monkeypatch.setattr(using, "CHUNK", 16)
    done = nearfar.embed(model, data, out=tmp_path / kind, batch_size=7)
    found = stored(tmp_path / kind)
    assert list(found) == data.keys
    np.testing.assert_allclose(list(found.values()), whole, atol=1e-6)
    assert os.fspath(done) == str(tmp_path / kind)
    assert not [p for p in os.listdir(tmp_path) if p.startswith(".")], "no parts, locks or temporaries are left"


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_an_id_are_known_by_their_content(kind, model, tmp_path):
    out = tmp_path / kind
    first, second = table(tmp_path / "a.csv", pairs(range(40))), table(tmp_path / "b.csv", pairs(range(30, 60)))
    assert counts(nearfar.embed(model, first, out=out)) == (40, 0, 0)
    before = stored(out)
    assert counts(nearfar.embed(model, second, out=out, append=True)) == (20, 0, 10)
    assert counts(nearfar.embed(model, second, out=out, append=True)) == (0, 0, 30)
    found = stored(out)
    assert len(found) == 60
    assert "b.csv:20" in found, "its line number was taken, so the name of its file stands before it"
    assert all(np.array_equal(found[key], vector) for key, vector in before.items())
    rows = pairs(range(40))
    rows[3] = ("a question that was edited", *rows[3][1:])
    table(first, [("a line put in above", "new", "s0"), *rows[1:]])
    assert counts(nearfar.embed(model, first, out=out, append=True)) == (0, 2, 38)
    table(first, [("and another line on top", "new", "s0"), ("a line put in above", "new", "s0"), *rows[1:]])
    assert counts(nearfar.embed(model, first, out=out, append=True)) == (1, 0, 40)
    table(first, [*pairs(range(39)), (*pairs([39])[0][:2], "another section")])
    assert nearfar.embed(model, first, out=tmp_path / f"x{kind}").added == 40


@pytest.mark.parametrize("kind", KINDS)
def test_edited_rows_with_ids_are_replaced(kind, model, tmp_path):
    columns = ("id", "text", "text_b", "section")
    rows = [(f"n{i}", *row) for i, row in enumerate(pairs(range(20)))]
    nearfar.embed(model, table(tmp_path / "a.csv", rows, columns), out=tmp_path / kind)
    before = stored(tmp_path / kind)
    rows[4] = ("n4", "quite another question", *rows[4][2:])
    rows[5] = (*rows[5][:3], "moved")
    later = table(tmp_path / "later.csv", [*rows[3:8], ("n99", "new", "one", "s1")], columns)
    told = counts(nearfar.embed(model, later, out=tmp_path / kind, append=True))
    assert told == ((1, 1, 4) if kind == "v.npy" else (1, 2, 3)), "a .npy file has no columns that could change"
    after = stored(tmp_path / kind)
    assert set(after) == set(before) | {"n99"}
    changed = {key for key in before if not np.array_equal(before[key], after[key])}
    assert changed == {"n4"}
    if kind == "v":
        hits = indexing.open_index(tmp_path / kind).search(after["n5"], where="section = 'moved'")
        assert [hit["key"] for hit in hits] == ["n5"]


def test_images_of_two_folders_and_edited_ones(emoji_few, tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)

    def folder(name, count):
        (tmp_path / name).mkdir(exist_ok=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
        return tmp_path / name

    run = nearfar.fit("simclr", folder("p", 12), out=tmp_path / "run", steps=1, batch_size=4, progress=False)
    out = tmp_path / "v.npy"
    assert counts(nearfar.embed(run.model(), tmp_path / "p", out=out)) == (12, 0, 0)
    assert counts(nearfar.embed(run.model(), folder("q", 5), out=out, append=True)) == (5, 0, 0)
    assert "q/0.png" in stored(out)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "p" / "3.png")
    os.utime(tmp_path / "p" / "3.png", (5, 5))
    assert counts(nearfar.embed(run.model(), tmp_path / "p", out=out, append=True)) == (0, 1, 11)


def test_columns_travel(model, tmp_path):
    path = tmp_path / "c.parquet"
    rows = pairs(range(12))
    pq.write_table(
        pa.table(
            {
                "text": [r[0] for r in rows],
                "text_b": [r[1] for r in rows],
                "score": [i / 2 for i in range(12)],
                "a.b": [f"d{i % 2}" for i in range(12)],
                "day": pa.array(range(12), pa.date32()),
                "good": [i % 2 == 0 for i in range(12)],
                "many": [[i] for i in range(12)],
            }
        ),
        path,
    )
    said = []
    nearfar.embed(model, path, out=tmp_path / "all", say=said.append)
    index = indexing.open_index(tmp_path / "all")
    assert index.columns == ["text", "text_b", "score_", "a_b", "day", "good", "trained_on"]
    assert any("'score' is stored as 'score_'" in line for line in said)
    found = index.search(np.ones(index.dim), where="score_ > 2 and a_b = 'd1' and good = false")
    assert {hit["score_"] for hit in found} == {2.5, 3.5, 4.5, 5.5}
    nearfar.embed(model, path, out=tmp_path / "few", columns="day")
    assert indexing.open_index(tmp_path / "few").columns == ["day"]
    nearfar.embed(model, path, out=tmp_path / "none.parquet", columns="none")
    assert pq.read_schema(tmp_path / "none.parquet").names == ["key", "vector", "_content", "_source"]
    for wrong, message in (("dya", "Did you mean 'day'"), ("many", "cannot travel")):
        with pytest.raises(InputError, match=message):
            nearfar.embed(model, path, out=tmp_path / "x", columns=wrong)


def test_refusals_leave_nothing(model, tmp_path):
    data = table(tmp_path / "a.csv", pairs(range(10)))
    twice = table(tmp_path / "twice.csv", [("1", "a b", "c d"), ("2", "e f", "g h"), ("1", "i j", "k l")] * 3,
                  ("id", "text", "text_b"))  # fmt: skip
    nearfar.embed(model, data, out=tmp_path / "v.parquet")
    other = nearfar.fit("pairs", data, out=tmp_path / "run", steps=1, batch_size=4, val_every=0, progress=False, seed=9)
    before = sorted(os.listdir(tmp_path))
    new = tmp_path / "deep" / "er"
    wrong = [
        (model, data, new / "a.parquet", {"batch_size": 0}, "at least 1"),
        (model, data, new / "a.parquet", {"batch_size": -3}, "at least 1"),
        (model, data, new / "a.csv", {}, "Unknown kind of output"),
        (model, twice, new / "a.npy", {"id": "id"}, "'id' holds '1' more than once"),
        (model, data, new / "a", {"role": "image"}, "embeds text"),
        (model, data, new / "a", {"columns": "nope"}, "nope"),
        (model, data, tmp_path / "v.parquet", {}, "exists already"),
        (model, data, tmp_path / "v.parquet", {"append": True, "role": "text_b"}, "of 'text', not of 'text_b'"),
        (other.model(), data, tmp_path / "v.parquet", {"append": True}, "another model"),
    ]
    for made, source, out, options, message in wrong:
        with pytest.raises(InputError, match=message):
            nearfar.embed(made, source, out=out, **options)
        assert sorted(os.listdir(tmp_path)) == before
    with files.lock_of(tmp_path / "v.parquet"), pytest.raises(InputError, match="in use by another process"):
        nearfar.embed(model, data, out=tmp_path / "v.parquet", append=True)


KILLED = """
import os, signal, sys
import nearfar
from nearfar import using
from nearfar.indexing import outputs
using.CHUNK = 8
model, data, out, moment = sys.argv[1:]
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if moment == "parts":
    using.record_batches = die
elif moment == "keys":                        # the keys are written, the vectors wait
    outputs.Path.replace = die
nearfar.embed(model, data, out=out, append=True)
"""


@pytest.mark.parametrize(("kind", "moment"), [("v.parquet", "parts"), ("v", "parts"), ("v.npy", "keys")])
def test_a_killed_call_goes_on(kind, moment, model, tmp_path, monkeypatch):
    first, out = table(tmp_path / "a.csv", pairs(range(20))), tmp_path / kind
    second = table(tmp_path / "b.csv", pairs(range(20, 50)))
    nearfar.embed(model, first, out=out)
    ended = Forked(KILLED, tmp_path / "killed", model.path, second, out, moment).wait()
    assert ended.returncode == -signal.SIGKILL
    made = []
    monkeypatch.setattr(using, "CHUNK", 8)
    embedded = ModelEmbedder.rows
    monkeypatch.setattr(ModelEmbedder, "rows", lambda *a: made.append(1) or embedded(*a))
    done = nearfar.embed(model, second, out=out, append=True)
    assert made == [], "finished chunks are read"
    assert counts(done) == ((30, 0, 0) if moment == "parts" else (0, 0, 30))
    assert len(stored(out)) == 50
    assert not [p for p in os.listdir(tmp_path) if p.startswith(".")]


def test_damaged_outputs_are_told(model, tmp_path):
    data = table(tmp_path / "a.csv", pairs(range(12)))
    for kind in KINDS:
        nearfar.embed(model, data, out=tmp_path / kind)
    np.save(tmp_path / "v.npy", np.load(tmp_path / "v.npy")[:5])
    vectors = max((tmp_path / "v" / "items.lance" / "data").iterdir(), key=lambda p: p.stat().st_size)
    table(data, pairs(range(14)))
    for path, out in ((tmp_path / "v.npy",) * 2, (vectors, tmp_path / "v"), (tmp_path / "v.parquet",) * 2):
        if path.suffix != ".npy":
            held = bytearray(path.read_bytes())
            held[len(held) // 3] ^= 1
            path.write_bytes(held)
        with pytest.raises(InputError) as error:
            nearfar.embed(model, data, out=out, append=True)
        assert str(path) in str(error.value)


def test_scores_are_cosines(model, tmp_path):
    nearfar.embed(model, table(tmp_path / "a.csv", pairs(range(40))), out=tmp_path / "v")
    index = indexing.open_index(tmp_path / "v")
    keys = index.keys()
    scores = [hit["score"] for key in keys for hit in index.search(index.vector(key), k=40)]
    assert max(scores) <= 1
    assert min(scores) >= -1
