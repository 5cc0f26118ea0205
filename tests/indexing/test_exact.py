"""The exact product finds what loops in exact arithmetic find, ties in the order of the rows."""

from fractions import Fraction

import numpy as np
import pytest

from nearfar.indexing import exact


def by_loops(query, vectors, k, among=None, step=Fraction(1, 2**24)):
    """Rows and scores of the k largest inner products, in exact arithmetic, rounded to multiples of a step."""
    rows = range(len(vectors)) if among is None else among
    scores = {row: sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(query, vectors[row], strict=True))
              for row in rows}  # fmt: skip
    rounded = {row: round(score / step) * step for row, score in scores.items()}
    best = sorted(rows, key=lambda row: (-rounded[row], row))[:k]
    return best, [float(rounded[row]) for row in best]


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def near():
    """Vectors that differ in their last bits, some of them twice, and queries in float64."""
    draw = np.random.default_rng(0)
    base = unit(draw.normal(size=(1, 24)))
    vectors = unit(base + 1e-6 * draw.normal(size=(60, 24))).astype(np.float32)
    return np.concatenate([vectors, vectors[::7], unit(draw.normal(size=(20, 24))).astype(np.float32)]), unit(
        base + 0.1 * draw.normal(size=(4, 24))
    )


@pytest.mark.parametrize("k", [1, 7, 89, 500])
def test_what_float32_cannot_tell_apart_is_told_apart(near, k, monkeypatch):
    vectors, queries = near
    monkeypatch.setattr(exact, "SCORES", 2 * len(vectors))  # two queries at once
    monkeypatch.setattr(exact, "ROWS", 13)
    for query, (rows, scores) in zip(queries, exact.nearest(queries, vectors, k), strict=True):
        expected, values = by_loops(query, vectors, k)
        assert rows.tolist() == expected
        assert scores.tolist() == values
    rough = np.argsort(-(vectors @ queries[0].astype(np.float32)), kind="stable")
    assert rough[:30].tolist() != by_loops(queries[0], vectors, 30)[0], "float32 alone would not have done"


def test_ties_go_in_the_order_of_the_rows():
    vectors = np.random.default_rng(1).integers(-1, 2, (200, 3)).astype(np.float32)
    query = np.array([1.0, 0.5, -0.25])
    for k in (1, 10, 150):
        (found,) = exact.nearest(query[None], vectors, k)
        assert (found[0].tolist(), found[1].tolist()) == by_loops(query, vectors, k)


def test_only_some_rows_are_looked_at(near):
    vectors, queries = near
    among = np.array([3, 4, 8, 60, 61, 75])
    for query, (rows, _) in zip(queries, exact.nearest(queries, vectors, 4, among), strict=True):
        assert rows.tolist() == by_loops(query, vectors, 4, among.tolist())[0]
    for k in (1, 9):
        assert len(exact.nearest(queries, vectors, k, np.zeros(0, np.int64))[0][0]) == 0
        assert len(exact.nearest(queries, vectors[:0], k)[3][0]) == 0
    assert len(exact.nearest(queries, vectors, 9, among)[0][0]) == 6


@pytest.mark.parametrize("power", [-12, 10])
def test_long_and_short_vectors_say_so(power):
    draw = np.random.default_rng(2)
    base = unit(draw.normal(size=24))
    vectors = (2.0**power * (base + 1e-6 * draw.normal(size=(200, 24)))).astype(np.float32)
    (found,) = exact.nearest(base[None], vectors, 20, longest=float(np.linalg.norm(vectors, axis=1).max()))
    expected = by_loops(base, vectors, 20, step=Fraction(2) ** (power - 24))
    assert (found[0].tolist(), found[1].tolist()) == expected
