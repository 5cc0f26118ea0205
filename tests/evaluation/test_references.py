"""References against loops: chance by simulation, BM25 and TF-IDF by hand, pixels and HOG by what they must ignore."""

import math
from collections import Counter

import numpy as np
import pytest

from nearfar.evaluation.chance import expected_metrics
from nearfar.evaluation.heldout import transform_images, transform_texts
from nearfar.evaluation.references import (
    bm25_scorer,
    hog,
    pixels,
    references,
    tfidf_scorer,
    words,
)
from nearfar.evaluation.retrieval import retrieval
from nearfar.evaluation.tasks import task_for

from .tiny import Tiny, some_images

DOCUMENTS = ["the cat sat on the mat", "a dog and a cat", "trees grow slowly", "dogs chase the dog", "!!!"]


@pytest.mark.parametrize(("relevant", "gallery"), [(1, 1), (1, 7), (3, 12), (12, 15), (5, 5)])
def test_chance_equals_many_random_rankings(relevant, gallery):
    generator = np.random.default_rng(0)
    scores = generator.permuted(np.tile(np.arange(gallery, dtype=float), (6000, 1)), axis=1)
    query, keys = scores, np.eye(gallery)
    pairs = [(row, column) for row in range(6000) for column in range(relevant)]
    simulated = retrieval(query, keys, pairs=pairs, cosine=False)
    expected = expected_metrics((1.0,) * relevant, gallery)
    for name, value in simulated.metrics.items():
        assert expected[name] == pytest.approx(value, abs=0.02), name


def test_chance_of_labels_is_the_commonest_one():
    labels = np.array([0, 0, 0, 1, 1, 2])
    data = Tiny({"text": [f"t{i}" for i in range(6)]}, labels={"kind": labels})
    scores = references(data, task_for(data))[0].evaluate("test")
    assert scores.primary == 0.5
    assert scores.metrics["probe"] == 0.5
    assert scores.metrics["knn_balanced"] == pytest.approx(1 / 3)


def test_chance_of_groups_knows_what_is_hidden():
    data = Tiny({"image": some_images(6)}, groups=np.array([0, 0, 0, 1, 1, 1]))
    scores = references(data, task_for(data))[0].evaluate("test")
    assert scores.primary == pytest.approx(2 / 5)


def pairs_data():
    questions = ["cat mat", "dog", "Trees", "chasing", "nothing known"]
    return Tiny({"text": questions, "text_b": DOCUMENTS}, corpus={"text_b": [*DOCUMENTS, "one more cat"]})


def test_bm25_equals_the_formula():
    data = pairs_data()
    search = task_for(data).searches("test")[0]
    documents = [words(text) for text in [*DOCUMENTS, "one more cat"]]
    length = np.mean([len(document) for document in documents])
    scorer = bm25_scorer(data, search)
    found = scorer.tile(slice(0, 5), slice(0, 6))
    for i, row in enumerate(search.query.rows):
        for j, document in enumerate(documents):
            expected, counts = 0.0, Counter(document)
            for word in words(data.columns["text"][row]):
                holding = sum(word in other for other in documents)
                idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
                norm = 1.5 * (1 - 0.75 + 0.75 * len(document) / length)
                expected += idf * counts[word] / (counts[word] + norm)
            assert found[i, j] == pytest.approx(expected, rel=1e-4), (i, j)


def test_tfidf_is_a_cosine_and_unknown_words_score_nothing():
    data = pairs_data()
    scorer = tfidf_scorer(data, task_for(data).searches("test")[0])
    found = scorer.tile(slice(0, 5), slice(0, 6))
    assert found.max() <= 1 + 1e-6
    assert (found[3] == 0).all()
    assert (found[4] == 0).all()
    assert found[0].argmax() == 0


def test_a_gallery_without_words_gives_nothing():
    data = Tiny({"text": ["?", "!"], "text_b": ["...", "--"]})
    rows = references(data, task_for(data))
    assert [row.slug for row in rows] == ["chance", "tfidf", "bm25"]
    assert [row.evaluate("test").metrics["hit@1"] for row in rows[1:]] == [0, 0]


def test_code_words():
    found = words("parseHTML_page2 = déjà_vu, Öl, 日本")
    assert found == ["parse", "html", "page", "2", "déjà", "vu", "öl", "日", "本"]


def test_pixels_are_centred_and_hog_ignores_a_light_change():
    images = some_images(8)
    data = Tiny({"image": images}, groups=np.arange(8) % 4)
    z = pixels(data)("image", np.arange(8))
    assert z.shape == (8, 3 * 32 * 32)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-5)
    darker = (images // 2).astype(np.uint8)
    a, b = hog(images), hog(darker)
    near = retrieval(a, b, range(8), range(8))
    assert near["hit@1"] == 1
    assert a.shape == (8, 9 * 4 * 9)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (Tiny({"image": some_images(8)}, groups=np.arange(8) % 4), ["chance", "pixels", "hog"]),
        (Tiny({"image": some_images(4), "text": ["a", "b", "c", "d"]}), ["chance"]),
        (Tiny({"text": ["a b", "b c", "c d", "d e"]}), ["chance", "tfidf", "bm25"]),
        (Tiny({"text": ["a b", "b c", "c d", "d e"]}, labels={"kind": np.arange(4) % 2}), ["chance", "tfidf", "bm25"]),
        (Tiny({"image": some_images(8)}), ["chance", "pixels", "hog"]),
    ],
)
def test_which_references_stand_beside_a_task(data, expected):
    rows = references(data, task_for(data))
    assert [row.slug for row in rows] == expected
    for row in rows:
        assert 0 <= row.evaluate("val").primary <= 1


def test_held_out_looks_are_fixed_by_id_and_different():
    images = some_images(6)
    first = transform_images(images, np.arange(6))
    assert first.shape == images.shape
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first[3:], transform_images(images[3:], np.arange(3, 6)))
    assert all((a != b).any() for a, b in zip(first, images))
    texts = ["one two three four five", "Word", "", "日本"]
    assert transform_texts(texts, range(4)) == transform_texts(texts, range(4))
    assert transform_texts(texts[1:], range(1, 4)) == transform_texts(texts, range(4))[1:]
    assert len(transform_texts(texts, range(4))[0].split()) == 3
