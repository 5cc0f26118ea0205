"""Words, edit distance, shared rare words and changes of words against loops and by their properties."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from nearfar.surface import (
    CHANGES,
    WordLists,
    document_neighbours,
    edit_distance,
    padded,
    random_others,
    rare_neighbours,
    surface_similarity,
    words,
)


def naive_distance(a, b):
    """The whole table of Levenshtein's recursion."""
    d = [[i + j if 0 in (i, j) else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            d[i][j] = min(d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1]))
    return d[-1][-1]


LISTS = st.lists(st.integers(0, 4), max_size=8)


def arrays(rows):
    return padded([np.array(row, np.int32) for row in rows])


@settings(max_examples=60, deadline=None)
@given(pairs=st.lists(st.tuples(LISTS, LISTS), min_size=1, max_size=6), shift=st.integers(1, 90))
def test_surface_similarity(pairs, shift):
    a, b = arrays([x for x, _ in pairs]), arrays([y for _, y in pairs])
    wanted = [naive_distance(x, y) for x, y in pairs]
    assert edit_distance(a, b).tolist() == wanted
    found = surface_similarity(a, b)
    assert found.tolist() == pytest.approx([1 - d / max(len(x), len(y), 1)
                                            for d, (x, y) in zip(wanted, pairs, strict=True)])  # fmt: skip
    assert np.array_equal(found, surface_similarity(b, a))
    renamed = [np.where(x < 0, -1, (x * 7 + shift) % 101).astype(np.int32) for x in (a, b)]  # one to one below 101
    assert np.array_equal(found, surface_similarity(*renamed))
    for value, (x, y) in zip(found, pairs, strict=True):
        assert (value == 1) == (x == y)
        assert 0 <= value <= (min(len(x), len(y)) / max(len(x), len(y)) if x or y else 1) + 1e-12


def test_words_are_compared_without_case_and_punctuation():
    assert words(" The cat,  runs!") == ["The", "cat,", "runs!"]
    lists = WordLists(["The cat runs!", "the CAT, runs", "", "... the", "日本 x"], most=3)
    assert np.array_equal(lists[0], lists[1])
    assert [len(lists[k]) for k in range(5)] == [3, 3, 0, 2, 3]
    found = lists.padded(np.array([0, 2, -1, 3]))
    assert found.shape == (4, 3)
    assert (found[1:3] == -1).all()
    assert surface_similarity(found[:2], found[1:3]).tolist() == [0, 1]


def naive_likeness(lists, apart, most):
    """(N, N) cosines of the sets of rare words, weighed; 0 between texts that are kept apart."""
    sets = [set(lists[i].tolist()) for i in range(len(lists))]
    often = {w: sum(w in s for s in sets) for s in sets for w in s}
    weigh = {w: np.log(len(sets) / n) if 2 <= n <= most else 0.0 for w, n in often.items()}
    norm = [np.sqrt(sum(weigh[w] ** 2 for w in s)) or 1.0 for s in sets]
    return np.array([[sum(weigh[w] ** 2 for w in s & t) / norm[i] / norm[j] if apart[i] != apart[j] else 0.0
                      for j, t in enumerate(sets)] for i, s in enumerate(sets)])  # fmt: skip


@pytest.mark.parametrize("rows", [3, 2048])
def test_texts_that_share_rare_words(rows):
    rng = np.random.default_rng(0)
    names = [f"w{k}" for k in range(30)]
    texts = [" ".join([*rng.choice(names, rng.integers(1, 7)), "common"]) for _ in range(40)] + ["", "alone here"]
    lists, apart = WordLists(texts), np.arange(42) // 2
    found = rare_neighbours(lists, 4, apart=[apart], most=12, rows=rows)
    wanted = naive_likeness(lists, apart, 12)
    likeness = np.where(found >= 0, np.take_along_axis(wanted, found.clip(0), 1), 0)
    np.testing.assert_allclose(likeness, -np.sort(-wanted, 1)[:, :4], atol=1e-12)
    assert ((found >= 0) == (likeness > 0)).all()
    assert (found[-2:] == -1).all()
    assert all(len({*row[row >= 0].tolist()}) == (row >= 0).sum() for row in found)


def test_rare_words_of_many_texts_need_no_square_matrix():
    """Three words of 20,000 for each of 30,000 texts: 9 x 10^8 pairs, of which 400,000 share a word."""
    rng = np.random.default_rng(1)
    drawn = rng.integers(20_000, size=(30_000, 3))
    lists = WordLists([f"all {a} {b} {c}" for a, b, c in drawn.tolist()])
    found = rare_neighbours(lists, 2)
    sample = rng.integers(30_000, size=50)
    for i in sample.tolist():
        for j in found[i][found[i] >= 0].tolist():
            assert i != j
            assert set(drawn[i]) & set(drawn[j])


def test_random_others_and_neighbours_of_documents():
    apart = np.array([0, 0, 1, 2, 3])
    found = random_others(5, 40, np.random.default_rng(0), apart=[apart])
    assert (apart[found] != apart[:, None]).all()
    assert (found != np.arange(5)[:, None]).all()
    assert {*found[0].tolist()} == {2, 3, 4}
    assert (random_others(2, 3, np.random.default_rng(0), apart=[np.zeros(2, int)]) == -1).all()
    assert (random_others(1, 2, np.random.default_rng(0)) == -1).all()
    documents = np.array([5, 1, 5, 5, 1, 9])
    assert document_neighbours(documents, 3).tolist() == [
        [-1, 2, -1], [-1, 4, -1], [0, 3, -1], [2, -1, 0], [1, -1, -1], [-1, -1, -1]]  # fmt: skip
    assert document_neighbours(documents, 0).shape == (6, 0)


@pytest.mark.parametrize("name", CHANGES)
@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 40), rate=st.floats(0.01, 1), seed=st.integers(0, 99))
def test_changes_of_words(name, n, rate, seed):
    places = CHANGES[name](n, rate, np.random.default_rng(seed))
    assert np.array_equal(places, CHANGES[name](n, rate, np.random.default_rng(seed)))
    assert len(places) >= 1
    assert ((places >= 0) & (places < n)).all()
    if name == "repeated":
        assert len(places) > n
        assert np.array_equal(np.unique(places), np.arange(n))
    elif name == "swapped":
        assert np.array_equal(np.sort(places), np.arange(n))
    else:
        assert len(places) < max(n, 2)
        assert (np.diff(places) > 0).all()
    if name == "cropped":
        assert (np.diff(places) == 1).all()
