"""Words and vectors together: BM25 and reciprocal ranks as the papers have them, counted in loops."""

import math
from fractions import Fraction

import numpy as np
import pytest

from nearfar.errors import InputError
from nearfar.indexing import build_index, hybrid
from nearfar.indexing.hybrid import fused

TEXTS = ["a red apple", "red red wine", "", "the apple tree and the pear tree", "Wine of apples", None, "pear", "a fox",
         "red fox runs", "apple apple apple pie"]  # fmt: skip
NOTES = ["fruit", None, "fruit", "tree", "drink", "nothing", "fruit red", "animal", "animal", "cake"]
MODEL = "a" * 64


def bm25(query, documents, k1=1.5, b=0.75):
    """Lucene's BM25 of lists of words, without its constant factor k1 + 1."""
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for word in query:
            n = sum(word in other for other in documents)
            if not n:
                continue
            idf = math.log(1 + (len(documents) - n + 0.5) / (n + 0.5))
            f = document.count(word)
            score += idf * f / (f + k1 * (1 - b + b * len(document) / mean))
        scores.append(score)
    return scores


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def built(vectors, tmp_path_factory):
    keys = [f"k{i}" for i in range(10)]
    payload = {"text": TEXTS, "note": NOTES, "year": list(range(10))}
    return build_index(tmp_path_factory.mktemp("hybrid") / "i", vectors, keys, payload, model_hash=MODEL)


def expected(vectors, query, words, rows=range(10), depth=1000):
    documents = [f"{a or ''} {b or ''}".lower().split() for a, b in zip(TEXTS, NOTES, strict=True)]
    cosine = [np.dot(v, query) / np.linalg.norm(v) for v in vectors.astype(np.float64)]
    text = bm25(words, documents)
    by_vector = sorted(rows, key=lambda row: -cosine[row])[:depth]
    by_words = sorted((row for row in rows if text[row] > 0), key=lambda row: -text[row])[:depth]
    sums = {row: sum(Fraction(1, 60 + ranking.index(row) + 1) for ranking in (by_vector, by_words) if row in ranking)
            for row in {*by_vector, *by_words}}  # fmt: skip
    return by_vector, by_words, sorted(sums, key=lambda row: (-sums[row], row)), sums


def test_ranks_are_fused(built, vectors):
    query, text = np.random.default_rng(5).normal(size=6), "Red apple!"
    by_vector, by_words, order, sums = expected(vectors, query, ["red", "apple"])
    (hits,) = built.search_many(query[None], 8, texts=[text])
    assert [hit["key"] for hit in hits] == [f"k{row}" for row in order[:8]]
    for hit, row in zip(hits, order, strict=False):
        assert hit["score"] == pytest.approx(float(sums[row]), abs=1e-12)
        assert hit["vector_rank"] == by_vector.index(row) + 1
        assert hit["text_rank"] == (by_words.index(row) + 1 if row in by_words else None)


def test_filter_depth_and_what_is_not_found(built, vectors, monkeypatch):
    query = np.random.default_rng(6).normal(size=6)
    (hits,) = built.search_many(query[None], 20, "year > 3 and note != 'cake'", texts=["apple wine"])
    assert [hit["key"] for hit in hits] == [
        f"k{row}" for row in expected(vectors, query, ["apple", "wine"], [4, 5, 6, 7, 8])[2]
    ]
    (hits,) = built.search_many(query[None], 20, texts=["apple"], without=[["k9", "k0", "unknown"]])
    assert [hit["key"] for hit in hits] == [f"k{row}" for row in expected(vectors, query, ["apple"], range(1, 9))[2]]
    monkeypatch.setattr(hybrid, "DEPTH", 2)
    (hits,) = built.search_many(query[None], 2, texts=["red apple"])
    _, _, order, _ = expected(vectors, query, ["red", "apple"], depth=2)
    assert [hit["key"] for hit in hits] == [f"k{row}" for row in order[:2]]


def test_a_text_without_known_words_leaves_the_vectors(built, vectors):
    query = np.random.default_rng(7).normal(size=6)
    for text in ("nothingofthekind", "", "!?"):
        (hits,) = built.search_many(query[None], 10, texts=[text])
        assert [hit["key"] for hit in hits] == [f"k{row}" for row in expected(vectors, query, [])[0]]


def test_an_index_without_texts_says_so(vectors, tmp_path):
    built = build_index(tmp_path / "i", vectors, list("abcdefghij"), {"year": list(range(10))}, model_hash=MODEL)
    with pytest.raises(InputError, match="no column of texts"):
        built.search_many(vectors[:1], texts=["a"])


def test_new_rows_have_words_too(built, vectors, tmp_path):
    path = tmp_path / "i"
    build_index(path, vectors[:2], ["a", "b"], {"text": ["old words", None]}, model_hash=MODEL)
    grown = build_index(path, vectors[1:3], ["b", "c"], {"text": ["a zebra", "zebra zebra"]}, model_hash=MODEL,
                        append=True)  # fmt: skip
    (hits,) = grown.search_many(vectors[:1], 5, texts=["zebra"])
    assert {hit["key"]: hit["text_rank"] for hit in hits} == {"a": None, "b": 2, "c": 1}


def test_equal_sums_go_in_the_order_of_the_items():
    assert fused([[5, 3], [3, 5], [8]]) == [(3, 1 / 61 + 1 / 62), (5, 1 / 61 + 1 / 62), (8, 1 / 61)]
    assert fused([[1, 2]], k=0) == [(1, 1.0), (2, 0.5)]
    assert fused([[], []]) == []
