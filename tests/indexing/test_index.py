"""The index finds what a loop finds, knows its model, and is never half there."""

import json
import os

import numpy as np
import pytest

from nearfar.errors import InputError, NearfarError
from nearfar.indexing import build_index, is_index, open_index
from nearfar.vectors import normalise

MODEL = "a" * 64


def items(n=60, d=8, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, d)).astype(np.float32), [f"file {i}.png" for i in range(n)]


@pytest.fixture
def index(tmp_path):
    vectors, keys = items()
    styles = ["ink" if i % 2 else "colour" for i in range(60)]
    return build_index(tmp_path / "index", vectors, keys, {"style": styles, "year": np.arange(60)}, model_hash=MODEL)


def test_search_is_exact(index):
    vectors, keys = items()
    query = np.random.default_rng(9).normal(size=8)
    scores = normalise(vectors) @ normalise(query[None])[0]
    best = np.argsort(-scores)[:7]
    found = index.search(query, k=7)
    assert [hit["key"] for hit in found] == [keys[i] for i in best]
    np.testing.assert_allclose([hit["score"] for hit in found], scores[best], atol=1e-5)
    assert found[0]["year"] == best[0]
    assert len(index.search(query, k=1000)) == len(index) == 60


def test_the_filter_comes_before_the_ranking(index):
    found = index.search(np.ones(8), k=100, where="style = 'ink' and year > 40")
    assert {hit["key"] for hit in found} == {f"file {i}.png" for i in range(41, 60, 2)}
    assert index.search(np.ones(8), where="year > 1000") == []


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("styl = 'ink'", "Did you mean 'style'"),
        ("style =", "Columns: key, "),
        ("colour = 3", "Columns: key, style, year"),
    ],
)
def test_a_wrong_filter_names_the_columns(index, where, message):
    with pytest.raises(InputError, match=message):
        index.search(np.ones(8), where=where)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "it is empty"),
        ("  ", "it is empty"),
        ("style = 'ink", "a quote is not closed"),
        ('style = "ink"', "there is no column 'ink'.* single quotes: 'ink'"),
        ("year = 'x'", "'year' holds numbers, 'x' is a text"),
        ("style = 3", "'style' holds texts; write '3' in single quotes"),
        ("year", "it is not a condition"),
        ("year >", "it is not a condition"),
        ("(year > 3", "it is not a condition"),
        ("cast(style as int) > 3", "it is not a condition"),
        ("style in ()", "it is not a condition"),
    ],
)
def test_a_wrong_filter_is_answered_in_our_words(where, message, index):
    with pytest.raises(InputError, match=message) as error:
        index.search(np.ones(8), where=where)
    assert "Example: style = 'a value'" in str(error.value)
    for word in ("lance", "sql parser", "datafusion", ".rs", "Int64", "Utf8"):
        assert word not in str(error.value)


def test_scores_never_leave_the_range_of_a_cosine(tmp_path):
    vectors = np.random.default_rng(3).normal(size=(300, 33)).astype(np.float32)
    index = build_index(tmp_path / "i", vectors, [str(i) for i in range(300)], model_hash=MODEL)
    scores = [hit["score"] for v in vectors for hit in (*index.search(v, k=1), *index.search(-v, k=300)[-1:])]
    assert max(scores) == 1
    assert min(scores) == -1


def test_wrong_queries(index):
    with pytest.raises(InputError, match="9 dimensions"):
        index.search(np.ones(9))
    with pytest.raises(InputError, match="at least 1"):
        index.search(np.ones(8), k=0)
    with pytest.raises(InputError, match="not finite"):
        index.search(np.full(8, np.nan))


def test_another_model_is_refused(index):
    assert open_index(index.path, MODEL).model_hash == MODEL
    with pytest.raises(InputError, match="built by another model"):
        open_index(index.path, "b" * 64)
    vectors, keys = items(3)
    with pytest.raises(InputError, match="built by another model"):
        build_index(index.path, vectors, keys, {"style": ["x"] * 3, "year": [1] * 3}, model_hash="b" * 64, append=True)
    assert len(open_index(index.path)) == 60


@pytest.mark.parametrize(("duplicates", "year"), [("replace", 7), ("skip", 1)])
def test_append(index, duplicates, year):
    vectors = np.eye(8, dtype=np.float32)[:2]
    grown = build_index(
        index.path,
        vectors,
        ["file 1.png", "new.png"],
        {"year": [7, 8], "style": ["new", None]},
        model_hash=MODEL,
        append=True,
        duplicates=duplicates,
    )
    assert len(grown) == 61
    assert sorted(grown.keys()) == sorted({*items()[1], "new.png"})
    assert grown.search(vectors[1], k=1)[0] == {
        "key": "new.png",
        "style": None,
        "year": 8,
        "score": pytest.approx(1, abs=1e-6),
    }
    assert grown.search(np.ones(8), k=1, where="key = 'file 1.png'")[0]["year"] == year


def test_append_to_nothing_builds(tmp_path):
    vectors, keys = items(3)
    assert len(build_index(tmp_path / "new", vectors, keys, model_hash=MODEL, append=True)) == 3


def test_append_refuses_what_does_not_fit(index):
    vectors, keys = items(2)
    payload = {"style": ["a", "b"], "year": [1, 2]}
    with pytest.raises(InputError, match="in the index already"):
        build_index(index.path, vectors, keys, payload, model_hash=MODEL, append=True, duplicates="error")
    with pytest.raises(InputError, match="same payload"):
        build_index(index.path, vectors, keys, {"style": ["a", "b"]}, model_hash=MODEL, append=True)
    with pytest.raises(InputError, match="dimensions"):
        build_index(index.path, vectors[:, :4], keys, payload, model_hash=MODEL, append=True)
    with pytest.raises(InputError, match="does not fit"):
        build_index(index.path, vectors, keys, payload | {"year": ["x", "y"]}, model_hash=MODEL, append=True)
    assert len(open_index(index.path)) == 60


@pytest.mark.parametrize(
    ("keys", "payload", "message"),
    [
        (["a", "a"], {}, "'a' is given twice"),
        (["a"], {}, "2 vectors and 1 keys"),
        (["a", "b"], {"x": [1]}, "1 values for 2"),
        (["a", "b"], {"vector": [1, 2]}, "may not be called 'vector'"),
    ],
)
def test_wrong_items_build_nothing(tmp_path, keys, payload, message):
    with pytest.raises(InputError, match=message):
        build_index(tmp_path / "index", np.eye(2), keys, payload, model_hash=MODEL)
    assert os.listdir(tmp_path) == []


def test_an_interrupted_build_leaves_the_earlier_index(index, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("nearfar.indexing.building._seal", stop)
    with pytest.raises(KeyboardInterrupt):
        build_index(index.path, *items(5), model_hash=MODEL)
    assert len(open_index(index.path)) == 60
    assert os.listdir(index.path.parent) == ["index"]


def test_a_build_without_its_last_file_is_no_index(index):
    (index.path / "index.json").unlink()
    assert not is_index(index.path)
    with pytest.raises(InputError, match="no nearfar index"):
        open_index(index.path)


def test_a_new_build_replaces_an_old_index_but_nothing_else(index, tmp_path):
    assert len(build_index(index.path, *items(5), model_hash="c" * 64)) == 5
    other = tmp_path / "letters"
    other.mkdir()
    (other / "love.txt").write_text("dear")
    with pytest.raises(InputError, match="not a nearfar index"):
        build_index(other, *items(5), model_hash=MODEL)
    assert (other / "love.txt").read_text() == "dear"


def test_a_place_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NearfarError, match="cannot be written"):
        build_index(tmp_path / "file" / "index", *items(5), model_hash=MODEL)


def test_another_format_is_refused(index):
    meta = json.loads((index.path / "index.json").read_text())
    (index.path / "index.json").write_text(json.dumps(meta | {"format": 99}))
    with pytest.raises(InputError, match="format 99"):
        open_index(index.path)


def test_zero_vectors_and_unicode_keys(tmp_path):
    vectors = np.array([[0, 0], [-1, 0], [1, 1]])
    built = build_index(tmp_path / "index", vectors, ["null", "日本", "é"], model_hash=MODEL)
    assert [hit["key"] for hit in built.search([1, 0], k=3)] == ["é", "null", "日本"]
