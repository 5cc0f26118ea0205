"""A large index has an approximate index: its recall is what counting gives, and exact search stays exact."""

import json

import numpy as np
import pytest

from nearfar import files
from nearfar.errors import InputError
from nearfar.indexing import approximate, build_index, open_index

MODEL = "a" * 64


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def vectors():
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(50, 8))
    return unit(centres[draw.integers(0, 50, 3000)] + 0.4 * draw.normal(size=(3000, 8))).astype(np.float32)


@pytest.fixture(scope="module")
def large(vectors, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(approximate, "LARGE", vectors.nbytes)
        keys = [str(i) for i in range(len(vectors))]
        path = tmp_path_factory.mktemp("large") / "i"
        yield build_index(path, vectors, keys, {"year": list(range(len(vectors)))}, model_hash=MODEL)


def best(vectors, query, k, rows=None):
    rows = np.arange(len(vectors)) if rows is None else rows
    return [str(row) for row in rows[np.argsort(-(vectors[rows].astype(np.float64) @ query), kind="stable")[:k]]]


def test_the_recall_that_is_told_is_that_of_counting(large, vectors):
    told = large.approximate
    assert told["type"] == "IVF_SQ"
    chosen = np.random.default_rng(3).choice(len(vectors), 200, replace=False)
    share = np.mean([
        len({hit["key"] for hit in large.search(vectors[row], 10, without=[str(row)])}
            & {key for key in best(vectors, vectors[row], 11) if key != str(row)}) / 10
        for row in chosen
    ])  # fmt: skip
    assert told["recall"] >= approximate.ENOUGH
    assert share == pytest.approx(told["recall"], abs=0.04)


def test_exact_and_filtered_searches_are_exact(large, vectors):
    queries = unit(np.random.default_rng(1).normal(size=(20, 8)))
    for query in queries:
        hits = large.search(query, 30, exact=True)
        assert [hit["key"] for hit in hits] == best(vectors, query, 30)
        some = large.search(query, 30, "year > 2000 and year < 2100")
        assert [hit["key"] for hit in some] == best(vectors, query, 30, np.arange(2001, 2100))
    assert [hit["key"] for hit in large.search(queries[0], 10_000)] == best(vectors, queries[0], 10_000)
    near = large.search(vectors[7], 3)
    assert near[0] == {"key": "7", "year": 7, "score": pytest.approx(1, abs=1e-6)}
    assert [hit["key"] for hit in large.search(vectors[7], 3, without=["7"])][:2] == [h["key"] for h in near[1:]]
    scores = {hit["key"]: hit["score"] for hit in large.search(vectors[7], 50, exact=True)}
    assert all(hit["score"] == pytest.approx(scores[hit["key"]], abs=1e-6) for hit in large.search(vectors[7], 10))


def test_it_is_built_anew_when_rows_come_and_small_ones_have_none(large, vectors, tmp_path):
    import shutil

    shutil.copytree(large.path, tmp_path / "i")
    new = np.eye(8, dtype=np.float32)[:2]
    grown = build_index(tmp_path / "i", new, ["x", "7"], {"year": [1, 2]}, model_hash=MODEL, append=True)
    assert len(grown) == 3001
    assert grown.search(new[0], 1)[0]["key"] == "x"
    assert grown.search(new[1], 1)[0]["key"] == "7"
    assert grown.approximate["recall"] >= approximate.ENOUGH
    small = build_index(tmp_path / "small", vectors[:50], [str(i) for i in range(50)], model_hash=MODEL)
    assert small.approximate is None


def test_a_changed_fact_is_told(large, tmp_path):
    import shutil

    shutil.copytree(large.path, tmp_path / "i")
    meta = json.loads((tmp_path / "i" / "index.json").read_text())
    files.write_json(tmp_path / "i" / "index.json", meta | {"approximate": {"type": "IVF_SQ"}}, checksum=True)
    with pytest.raises(InputError, match="nprobes"):
        open_index(tmp_path / "i")
