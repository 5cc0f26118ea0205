"""One index and one model answer many queries as they answer each alone, and an item does not find itself."""

import json
import shutil

import numpy as np
import pytest
import torch

import nearfar
from nearfar import encoders, files, indexing
from nearfar.errors import InputError
from nearfar.indexing.building import index_schema, write_index
from nearfar.models import load, save_model
from tests.conftest import SENTENCES


@pytest.fixture(scope="module")
def searcher(text_index):
    return nearfar.Searcher(text_index.path)


def keys(hits):
    return [hit["key"] for hit in hits]


def nearest(model, query, without=()):
    """Keys of all sentences, by a loop over their vectors."""
    vectors = model.embed_texts(SENTENCES).astype(np.float64)
    cosine = [sum(a * b for a, b in zip(query, v, strict=True)) for v in vectors]
    order = sorted(range(len(vectors)), key=lambda n: -round(cosine[n], 6))
    return [f"s{n}" for n in order if f"s{n}" not in without], cosine


def test_many_queries_are_answered_as_each_alone(searcher, text_index):
    queries = ["red boats", "key:s7", "green towers under", "key:nope", " ", "key:s0"]
    found = searcher.search_many(queries, k=5)
    assert [one.query for one in found] == queries
    assert [one.error is None for one in found] == [True, True, True, False, False, True]
    assert "no item 'nope'" in str(found[3].error)
    for one in found:
        if one.error is None:
            alone = nearfar.search(text_index.path, one.query, k=5)
            assert keys(one.hits) == keys(alone)
            assert np.allclose([h["score"] for h in one.hits], [h["score"] for h in alone], atol=1e-6)
    model = load(text_index.meta["model"])
    order, cosine = nearest(model, model.embed_texts(["red boats"])[0].astype(np.float64))
    assert keys(found[0].hits) == order[:5]
    assert found[0].hits[0]["score"] == pytest.approx(max(cosine), abs=1e-6)
    with pytest.raises(InputError, match="no item 'nope'"):
        searcher.search("key:nope")


def test_an_item_does_not_find_itself(searcher, text_index):
    model = load(text_index.meta["model"])
    everything = searcher.search("key:s7", k=1000)
    order, _ = nearest(model, text_index.vector("s7").astype(np.float64), {"s7"})
    assert keys(everything) == order
    assert len(everything) == 35
    both = searcher.search("key:s7", plus="key:s9", k=1000)
    assert len(both) == 34
    assert not {"s7", "s9"} & set(keys(both))
    assert keys(searcher.search(SENTENCES[7], k=1)) == ["s7"], "a text finds the item that it equals"
    assert keys(searcher.search("key:s7", where="key = 's7'")) == []


def test_words_and_vectors(searcher):
    hits = searcher.search("17 tower", hybrid=True, k=3)
    assert hits[0]["text_rank"] == 1
    assert hits[0]["text"].startswith("17 ")
    (found,) = searcher.search_many(["key:s1"], hybrid=True)
    assert "is no text" in str(found.error)


def test_what_concerns_all_queries_is_raised(searcher, text_index, tmp_path):
    for options, message in (({"where": "nope = 1"}, "no column 'nope'"), ({"k": 0}, "at least 1")):
        with pytest.raises(InputError, match=message):
            searcher.search_many(["red boats", "key:s7"], **options)
    other = encoders.text("small", texts=SENTENCES, vocabulary=200, dim=16)
    save_model(tmp_path / "other", {"text": other}, {"method": "none"})
    with pytest.raises(InputError, match="built by another model"):
        nearfar.Searcher(text_index.path, model=tmp_path / "other").search_many(["red boats", "key:s7"])


def test_what_a_query_may_be(searcher, tmp_path):
    for options, message in (({"k": 2.5}, "whole number of at least 1. Got 2.5"), ({"k": True}, "whole number")):
        with pytest.raises(InputError, match=message):
            searcher.search("red boats", **options)
    with pytest.raises(InputError, match=r"takes a list of queries, not one\. Write search_many\(\[query\]\)"):
        searcher.search_many("red boats")
    towers = {"image": encoders.image(size=16, dim=8), "text": encoders.text("small", texts=SENTENCES, dim=8)}
    save_model(tmp_path / "both", towers, {"method": "none"})
    model = load(tmp_path / "both")
    indexing.build_index(tmp_path / "i", model.embed_texts(SENTENCES[:3]), list("abc"), model_hash=model.hash)
    asked = nearfar.Searcher(tmp_path / "i", model=tmp_path / "both", role="image")
    with pytest.raises(InputError, match="--role image takes images, which 'red boats' is not"):
        asked.search("red boats")
    with pytest.raises(InputError, match="The query is empty"):
        asked.search(" ")


def test_a_vector_that_is_not_finite_is_told_of_its_query_alone(tmp_path):
    encoder = encoders.text("small", texts=SENTENCES, vocabulary=200, dim=16)
    boats, towers, green = map(set, encoder.encode_ids(["boats", "towers", "green"]))
    with torch.no_grad():
        encoder.table.weight[min(boats - towers - green)] = 1e30
    save_model(tmp_path / "m", {"text": encoder}, {"method": "none"})
    model = load(tmp_path / "m")
    indexing.build_index(tmp_path / "i", model.embed_texts(["a"]), ["a"], model_hash=model.hash)
    found = nearfar.Searcher(tmp_path / "i", model=tmp_path / "m").search_many(["towers", "red boats", "green"])
    assert [one.error is None for one in found] == [True, False, True]
    assert "The vector of item 0 is not finite" in str(found[1].error)


def test_an_index_of_an_earlier_version_is_searched(text_index, tmp_path):
    shutil.copytree(text_index.path, tmp_path / "old")
    for name in ("vectors.npy", "rows.arrow"):
        (tmp_path / "old" / name).unlink()
    shutil.rmtree(tmp_path / "old" / "bm25")
    meta = json.loads((tmp_path / "old" / "index.json").read_text())
    meta["files"] = {name: value for name, value in meta["files"].items() if name.startswith("items.lance/")}
    files.write_json(tmp_path / "old" / "index.json", meta, checksum=True)
    old, new = nearfar.Searcher(tmp_path / "old"), nearfar.Searcher(text_index.path)
    for query, options in (("red boats", {}), ("key:s3", {"where": "weight > 2"})):
        assert old.search(query, k=50, **options) == new.search(query, k=50, **options)
    with pytest.raises(InputError, match=r"built before there was --hybrid\. Build it anew"):
        old.search("red boats", hybrid=True)


def test_an_empty_index_finds_nothing(tmp_path):
    import pyarrow as pa

    write_index(tmp_path / "i", index_schema(4, {"text": pa.string()}), [], model_hash="a" * 64)
    index = indexing.open_index(tmp_path / "i")
    assert len(index) == 0
    assert index.search(np.ones(4)) == []
    assert index.search(np.ones(4), where="text = 'a'") == []
    assert index.search_many(np.ones((2, 4)), texts=["a", "b"]) == [[], []]
    assert index.vector("a") is None


def test_inner_products_are_not_cut(tmp_path):
    """A model whose vectors are compared by their inner product."""
    encoder = encoders.text("small", texts=SENTENCES, vocabulary=200, dim=16)
    save_model(tmp_path / "m", {"text": encoder}, {"method": "none", "similarity": "dot"})
    (tmp_path / "t.csv").write_text("text\n" + "\n".join(SENTENCES))
    nearfar.embed(tmp_path / "m", tmp_path / "t.csv", out=tmp_path / "i", text="text")
    model = load(tmp_path / "m")
    vectors, query = model.embed_texts(SENTENCES), model.embed_texts(["red boats"])[0]
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() > 0.01
    hits = nearfar.search(tmp_path / "i", "red boats", k=36)
    products = {str(n): float(np.dot(v.astype(np.float64), query)) for n, v in enumerate(vectors)}
    for hit in hits:
        number = hit["text"].split()[0]
        assert hit["score"] == pytest.approx(products[number], rel=1e-5, abs=1e-6)  # of numbers that cancel out
    assert [h["score"] for h in hits] == sorted((h["score"] for h in hits), reverse=True)
