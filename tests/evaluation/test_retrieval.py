"""Retrieval against a naive loop: negative scores, ties, no relevant item, copies in the gallery, large k."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.errors import InputError
from nearfar.evaluation.neighbours import FunctionScorer, SparseScorer, VectorScorer, topk
from nearfar.evaluation.relevance import listed, same
from nearfar.evaluation.retrieval import rank, retrieval
from nearfar.similarity import engine
from nearfar.similarity.answer import topk as answer
from nearfar.vectors import normalise

KS = (1, 3, 10, 50)


def loop_metrics(scores, relevant, hidden, ks):
    """One query: sort with irrelevant items first among equals, then count by hand. None without a relevant item."""
    seen = [j for j in range(len(scores)) if not hidden[j]]
    total = sum(bool(relevant[j]) for j in seen)
    if total == 0:
        return None
    ranking = [bool(relevant[j]) for j in sorted(seen, key=lambda j: (-scores[j], bool(relevant[j])))]
    places = [place for place, good in enumerate(ranking, 1) if good]
    result = {f"hit@{k}": float(any(ranking[:k])) for k in ks}
    result |= {f"recall@{k}": sum(ranking[:k]) / total for k in ks}
    result |= {f"precision@{k}": sum(ranking[:k]) / k for k in ks}
    gain = sum(1 / math.log2(place + 1) for place in places if place <= 10)
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(total, 10) + 1))
    precision = [sum(ranking[:place]) / place for place in places]
    return result | {"mrr": 1 / places[0], "ndcg@10": gain / ideal, "map": sum(precision) / total, "rank": places[0]}


@st.composite
def searches(draw):
    """Few distinct vectors (so ties and copies abound), ids that may have no partner, samples in both sets."""
    seed, queries, gallery = draw(st.integers(0, 10_000)), draw(st.integers(1, 9)), draw(st.integers(1, 25))
    generator = np.random.default_rng(seed)
    pool = generator.integers(-2, 3, (6, 3)).astype(np.float32)
    both = queries + gallery
    vectors, ids = pool[generator.integers(0, 6, both)], generator.integers(-1, 4, both)
    return vectors[:queries], vectors[queries:], ids[:queries], ids[queries:], generator.integers(0, 8, both)


@given(searches(), st.integers(1, 7), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_metrics_equal_the_loop(search, gallery_tile, query_tile):
    query, gallery, query_ids, gallery_ids, rows = search
    query_rows, gallery_rows = rows[: len(query)], rows[len(query) :]
    scores = np.round(normalise(query) @ normalise(gallery).T, 6)
    relevant = (query_ids[:, None] == gallery_ids) & (query_ids[:, None] >= 0)
    hidden = query_rows[:, None] == gallery_rows
    expected = [loop_metrics(scores[i], relevant[i], hidden[i], KS) for i in range(len(query))]
    arguments = VectorScorer(query, gallery), same(query_ids, gallery_ids), same(query_rows, gallery_rows)
    if not any(expected):
        with pytest.raises(InputError, match="No query"):
            rank(*arguments, ks=KS)
        return
    with engine("streaming", tile=(query_tile, gallery_tile)):
        result = rank(*arguments, ks=KS)
    kept = [row for row in expected if row]
    assert result.n == len(kept)
    assert result.skipped == len(expected) - len(kept)
    assert result.answered.tolist() == [i for i, row in enumerate(expected) if row]
    for name, values in result.per_query.items():
        np.testing.assert_allclose(values, [row[name] for row in kept], rtol=1e-12, err_msg=name)
        if name != "rank":
            assert result[name] == pytest.approx(np.mean([row[name] for row in kept]))


@pytest.mark.parametrize("few", [0, 89, 90])
def test_many_relevant_items_equal_the_loop(few, monkeypatch):
    """Many relevant items a query take another path; here none, some and all of the rows do."""
    monkeypatch.setattr(answer, "FEW", few)
    generator = np.random.default_rng(1)
    query, gallery = generator.normal(size=(7, 4)), generator.normal(size=(270, 4))
    gallery[140:200] = gallery[:60]
    labels, rows = np.arange(270) % 3, np.arange(277)
    rows[7:9] = 0, 1
    scores = np.round(normalise(query) @ normalise(gallery).T, 6)
    with engine("streaming", tile=17):
        result = rank(VectorScorer(query, gallery), same(np.arange(7) % 3, labels), same(rows[:7], rows[7:]), ks=KS)
    for i in range(7):
        expected = loop_metrics(scores[i], labels == i % 3, rows[i] == rows[7:], KS)
        for name, value in expected.items():
            assert result.per_query[name][i] == pytest.approx(value), name


def test_perfect_ranking_with_negative_cosines_is_perfect():
    query = np.array([[1.0, 0.0]])
    gallery = np.array([[-0.1, 1.0], [-0.2, 1.0], [-0.5, 1.0]])
    result = retrieval(query, gallery, [0], [0, 1, 2])
    assert (result["map"], result["mrr"], result["ndcg@10"], result["hit@1"]) == (1, 1, 1, 1)


def test_collapsed_embeddings_score_nothing():
    result = retrieval(np.ones((5, 3)), np.ones((5, 3)), range(5), range(5), ks=(1, 4, 5))
    assert result["hit@1"] == result["hit@4"] == 0
    assert result["hit@5"] == 1
    assert result.per_query["rank"].tolist() == [5] * 5


def test_k_larger_than_the_gallery_finds_everything():
    result = retrieval(np.eye(3), np.eye(3), [0, 1, 2], [2, 1, 0], ks=(100,))
    assert result["recall@100"] == result["hit@100"] == 1


def test_listed_pairs_and_ids_agree():
    generator = np.random.default_rng(0)
    query, gallery, ids = generator.normal(size=(6, 5)), generator.normal(size=(12, 5)), np.arange(12) % 6
    pairs = [(int(ids[j]), j) for j in range(12)]
    by_pairs = retrieval(query, gallery, pairs=pairs + pairs)
    assert by_pairs.metrics == retrieval(query, gallery, range(6), ids).metrics


def test_wrong_relevance_is_an_error():
    with pytest.raises(InputError, match="either"):
        retrieval(np.eye(2), np.eye(2))
    with pytest.raises(InputError, match="outside"):
        retrieval(np.eye(2), np.eye(2), pairs=[(0, 2)])
    with pytest.raises(InputError, match="dimensions"):
        retrieval(np.eye(2), np.eye(3), [0, 1], [0, 1, 2])


def test_values_that_are_not_finite_name_the_row():
    broken = np.eye(3)
    broken[1, 0] = np.nan
    with pytest.raises(InputError, match="first: row 1"):
        retrieval(np.eye(3), broken, range(3), range(3))


@given(searches(), st.integers(1, 30), st.integers(1, 7), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_topk_equals_a_stable_sort(search, k, gallery_tile, query_tile):
    query, gallery, _, _, rows = search
    scores = np.round(normalise(query) @ normalise(gallery).T, 6)
    hidden = rows[: len(query), None] == rows[len(query) :]
    with engine("streaming", tile=(query_tile, gallery_tile)):
        result = topk(VectorScorer(query, gallery), k, same(rows[: len(query)], rows[len(query) :]))
    assert result.indices.shape == (len(query), min(k, len(gallery)))
    for i in range(len(query)):
        seen = [j for j in range(len(gallery)) if not hidden[i, j]]
        expected = sorted(seen, key=lambda j: (-scores[i, j], j))[:k]
        assert [j for j in result.indices[i] if j >= 0] == expected
        assert np.isneginf(result.scores[i, len(expected) :]).all()
        np.testing.assert_allclose(result.scores[i, : len(expected)], scores[i, expected], atol=2e-6)


def test_every_scorer_gives_the_same_ranking():
    from scipy.sparse import csr_matrix

    generator = np.random.default_rng(3)
    query, gallery = generator.normal(size=(11, 6)), generator.normal(size=(33, 6))
    dense = VectorScorer(query, gallery, cosine=False)
    scorers = [
        dense,
        SparseScorer(csr_matrix(query), csr_matrix(gallery)),
        FunctionScorer(lambda rows: query[rows] @ gallery.T, 11, 33),
    ]
    with engine("streaming", tile=(4, 10)):
        found = [topk(scorer, 5) for scorer in scorers]
        ranked = [rank(scorer, same(range(11), np.arange(33) % 11)) for scorer in scorers]
    for near, scores in zip(found[1:], ranked[1:]):
        np.testing.assert_array_equal(near.indices, found[0].indices)
        assert scores.metrics == ranked[0].metrics


def test_torch_tensors_are_taken():
    import torch

    z = torch.eye(4, requires_grad=True)
    assert retrieval(z, z, range(4), range(4))["hit@1"] == 1


def test_a_small_budget_of_memory_gives_the_same(monkeypatch):
    query, gallery = np.random.default_rng(0).normal(size=(9, 4)), np.random.default_rng(1).normal(size=(60, 4))
    arguments = VectorScorer(query, gallery), same(range(9), np.arange(60) % 9)
    whole = rank(*arguments)
    monkeypatch.setitem(answer.RANKED, "cpu", 1)
    assert rank(*arguments).metrics == whole.metrics


def test_no_tile_is_larger_than_asked_for():
    class Watched(VectorScorer):
        largest = 0

        def tile(self, rows, columns, tensors=()):
            tile = super().tile(rows, columns)
            self.largest = max(self.largest, tile.numel())
            return tile

    scorer = Watched(np.random.default_rng(0).normal(size=(100, 4)), np.random.default_rng(1).normal(size=(300, 4)))
    with engine("streaming", tile=(16, 32)):
        rank(scorer, same(range(100), np.arange(300) % 100))
        topk(scorer, 5)
    assert scorer.largest == 16 * 32


@pytest.mark.parametrize("tile", [None, (7, 5)])
def test_a_function_is_asked_once_for_each_query(tile):
    asked = []
    scores = np.random.default_rng(0).normal(size=(600, 40))

    def score(rows):
        asked.extend(rows.tolist())
        return scores[rows]

    scorer = FunctionScorer(score, 600, 40)
    with engine("auto" if tile is None else "streaming", tile=tile):
        for ask in (lambda: topk(scorer, 3), lambda: rank(scorer, same(range(600), np.arange(40)))):
            asked.clear()
            ask()
            assert asked == list(range(600))


def test_scores_that_are_no_scores_are_an_error():
    with pytest.raises(InputError, match=r"queries 0 to 1 must have the shape \(2, 4\)"):
        topk(FunctionScorer(lambda rows: np.zeros((len(rows), 3)), 2, 4), 1)
    with pytest.raises(InputError, match="query 1 hold values that are not numbers"):
        topk(FunctionScorer(lambda rows: np.where(rows[:, None] == 1, np.nan, np.zeros((2, 4))), 2, 4), 1)


def test_an_item_that_scores_minus_infinity_stands_last():
    scores = np.array([[1.0, -np.inf, 0.0, 5.0]])
    scorer = FunctionScorer(lambda rows: scores[rows], 1, 4)
    assert rank(scorer, same([0], [-1, 0, -1, 7]), same([7], [-1, -1, -1, 7])).per_query["rank"].tolist() == [3]
    assert topk(scorer, 4).indices.tolist() == [[3, 0, 2, -1]]


def test_listed_relation_counts_repeats_once():
    assert listed([(0, 1), (0, 1), (2, 0)], 3, 2).counts.tolist() == [1, 0, 1]
