"""Generalised compositional and zero-shot evaluation, against loops written from the cards."""

import itertools

import numpy as np
import pytest

from nearfar.errors import InputError
from nearfar.evaluation.compositional import (
    best_feasibility,
    best_gamma,
    bias_sweep,
    feasibility,
    harmonic_mean,
    open_sweep,
    part_accuracy,
    stacked,
    unseen_only,
    without_implausible,
)


def drawn(seed=0, n=200, pairs=12, unseen=5, scale=10.0, signal=1.0):
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(pairs), rng.integers(0, pairs, n - pairs)])
    scores = rng.normal(size=(n, pairs)) * scale
    scores[np.arange(n), truth] += signal * scale
    return scores, truth, np.arange(pairs) >= unseen


def naive_sweep(scores, truth, seen, closed=None, k=1):
    """The card's words, row by row."""
    s = [[float(x) if closed is None or closed[j] else -1e10 for j, x in enumerate(row)] for row in scores]

    def told(row, y, bias):
        moved = [x + (0 if seen[j] else bias) for j, x in enumerate(row)]
        return y in sorted(range(len(moved)), key=lambda j: -moved[j])[:k]

    def accuracies(bias):
        found = {True: [], False: []}
        for row, y in zip(s, truth, strict=True):
            found[bool(seen[y])].append(told(row, y, bias))
        return sum(found[True]) / len(found[True]), sum(found[False]) / len(found[False])

    d = []
    for row, y in zip(s, truth, strict=True):
        if not seen[y] and told(row, y, 1000):
            d.append(sorted((x for j, x in enumerate(row) if seen[j]), reverse=True)[k - 1] - row[y] - 1e-4)
    d.sort()
    points = [accuracies(b) for b in d[:: max(len(d) // 20, 1)]] + [accuracies(1000)]
    h = max((2 * a * b / (a + b) if a + b else 0.0) for a, b in points)
    area = sum((p[0] + q[0]) / 2 * (q[1] - p[1]) for p, q in itertools.pairwise(points))
    return max(a for a, _ in points), max(b for _, b in points), h, area


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_the_sweep_is_that_of_the_card(k, masked):
    for seed in range(4):
        scores, truth, seen = drawn(seed, pairs=14 if masked else 12)
        closed = None
        if masked:  # two of the columns belong to another split
            keep = ~np.isin(truth, [0, 1])
            scores, truth, closed = scores[keep], truth[keep], np.arange(14) > 1
        found = bias_sweep(scores, truth, seen, closed, k)
        wanted = naive_sweep(scores, truth, seen, closed, k)
        got = found.best_seen, found.best_unseen, found.harmonic, found.auc
        np.testing.assert_allclose(got, wanted, atol=1e-12)
        assert found.biases[-1] == 1000


def test_invariants_of_the_sweep():
    scores, truth, seen = drawn()
    found = bias_sweep(scores, truth, seen)
    moved = bias_sweep(scores + 3.7 * ~seen, truth, seen)
    assert (moved.auc, moved.harmonic) == pytest.approx((found.auc, found.harmonic))
    assert np.all(np.diff(found.seen) <= 1e-12)
    assert np.all(np.diff(found.unseen) >= -1e-12)
    assert 0 <= found.auc <= found.best_seen * found.best_unseen
    order = np.random.default_rng(1).permutation(len(seen))
    place = np.argsort(order)
    assert bias_sweep(scores[:, order], place[truth], seen[order]).auc == pytest.approx(found.auc)


def test_perfect_scores_reach_one_where_margins_differ_and_a_half_where_they_are_equal():
    _, truth, seen = drawn(n=1000)
    right = np.eye(len(seen))[truth]
    assert bias_sweep(right * 5, truth, seen).auc == pytest.approx(0.5, abs=0.01)
    spread = right * np.random.default_rng(0).uniform(1, 100, len(truth))[:, None]
    assert bias_sweep(spread, truth, seen).auc > 0.9


def test_edges_of_the_sweep():
    scores, truth, seen = drawn()
    never = scores.copy()
    never[~seen[truth], truth[~seen[truth]]] = -1e6
    found = bias_sweep(never, truth, seen)
    assert len(found.biases) == 1
    assert found.auc == 0
    assert found.harmonic == 0
    assert harmonic_mean(0, 0) == 0
    assert harmonic_mean(0.5, 1) == pytest.approx(2 / 3)
    for bad in (np.full_like(scores, np.nan), scores[0], scores[:, :3]):
        with pytest.raises(InputError):
            bias_sweep(bad, truth, seen)
    with pytest.raises(InputError, match="seen and of unseen"):
        bias_sweep(scores, truth, np.ones_like(seen))
    with pytest.raises(InputError, match="no candidate"):
        bias_sweep(scores, truth, seen, np.arange(len(seen)) != truth[0])


def test_scores_that_say_nothing_get_what_chance_gives():
    rng = np.random.default_rng(0)
    truth, seen = np.repeat(np.arange(40), 200), np.arange(40) < 30
    found = bias_sweep(rng.normal(size=(len(truth), 40)), truth, seen)
    assert found.best_seen == pytest.approx(1 / 30, abs=0.01)
    assert found.best_unseen == pytest.approx(0.1, abs=0.015)
    assert found.auc < 0.003
    assert found.harmonic < 0.04
    equal = bias_sweep(np.zeros((len(truth), 40)), truth, seen)
    assert equal.best_seen == pytest.approx(1 / 30)
    assert equal.best_unseen == pytest.approx(0.1)
    for _k in (1, 3):
        assert part_accuracy(np.zeros((len(truth), 40)), truth, np.arange(40) % 4) == pytest.approx(0.25)


def test_parts_are_read_from_the_best_composition_without_a_bias():
    scores, truth, _ = drawn(n=60)
    parts = np.random.default_rng(2).integers(0, 4, (12, 2))
    closed = np.isin(np.arange(12), truth)
    told = [max((j for j in range(12) if closed[j]), key=lambda j: row[j]) for row in scores]
    for side in (parts[:, 0], parts):
        wanted = np.mean([np.array_equal(side[a], side[b]) for a, b in zip(told, truth, strict=True)])
        assert part_accuracy(scores, truth, side, closed) == pytest.approx(wanted)


def naive_feasibility(seen, a, o):
    def cos(x, y):
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    out = np.zeros(seen.shape)
    for i in range(len(a)):
        for j in range(len(o)):
            if not seen[i, j]:
                one = [cos(o[j], o[k]) for k in range(len(o)) if k != j and seen[i, k]]
                two = [cos(a[i], a[k]) for k in range(len(a)) if k != i and seen[k, j]]
                out[i, j] = max(one, default=-1) / 2 + max(two, default=-1) / 2
    return out


def test_feasibility():
    rng = np.random.default_rng(0)
    seen = rng.random((6, 7)) < 0.4
    seen[0], seen[:, 0] = False, False  # a pair without any sibling
    a, o = rng.normal(size=(6, 5)), rng.normal(size=(7, 5))
    found = feasibility(seen, a, o)
    np.testing.assert_allclose(found, naive_feasibility(seen, a, o), atol=1e-12)
    assert found[0, 0] == -1
    assert np.abs(found).max() <= 1
    assert not found[seen].any()
    assert np.isfinite(feasibility(seen, np.zeros_like(a), o)).all()
    with pytest.raises(InputError):
        feasibility(seen.T, a, o)


def test_the_open_world_leaves_implausible_pairs_out():
    scores, truth, seen = drawn(n=300, pairs=20, unseen=12)
    truth = np.where(~seen[truth], truth % 4, truth)  # eight pairs that no row has
    scores[np.arange(300), truth] += 15
    feasible = np.where(seen, 0, np.where(np.arange(20) < 4, 0.5, -0.5))
    wide, narrow = (open_sweep(scores, truth, seen, feasible, t) for t in (-1.0, 0.0))
    assert wide.auc == pytest.approx(bias_sweep(scores, truth, seen).auc)
    assert narrow.auc == pytest.approx(bias_sweep(scores, truth, seen, seen | (feasible > 0)).auc)
    assert narrow.auc > wide.auc
    best = best_feasibility(scores, truth, seen, feasible)
    assert -0.5 < best <= 0.5
    grid = [open_sweep(scores, truth, seen, feasible, t).auc for t in np.linspace(-0.5, 0.5, 50)]
    assert open_sweep(scores, truth, seen, feasible, best).auc == pytest.approx(max(grid))
    assert open_sweep(scores, truth, seen, feasible, 0.9).auc == 0  # also true pairs are out: told wrong, no error


def test_zero_in_place_of_out_lets_a_pair_win_where_scores_are_negative():
    scores, truth, seen = drawn(n=300, pairs=20, unseen=12)
    feasible = np.where(seen, 0, np.where(np.isin(np.arange(20), truth), 0.5, -0.5))
    feasible[2] = -0.5
    below = scores - 1000
    made, kept = without_implausible(below, seen, feasible, 0.0, "zero")
    assert kept.all()
    assert (made.argmax(1) == 2).all()
    made, kept = without_implausible(below, seen, feasible, 0.0)
    assert not kept[2]
    assert np.array_equal(made, below)
    assert open_sweep(below, truth, seen, feasible, 0.0, "zero").auc < open_sweep(below, truth, seen, feasible, 0.0).auc


def naive_stacked(scores, truth, seen, gamma):
    told = [max(range(len(seen)), key=lambda j: row[j] + (0 if seen[j] else gamma)) for row in scores]
    share = {c: np.mean([told[i] == c for i in range(len(truth)) if truth[i] == c]) for c in set(truth.tolist())}
    return np.mean([v for c, v in share.items() if seen[c]]), np.mean([v for c, v in share.items() if not seen[c]])


def test_generalised_zero_shot_is_a_mean_per_class():
    for seed in range(3):
        scores, truth, seen = drawn(seed, scale=1.0)
        for gamma in (-1.0, 0.0, 0.7):
            found = stacked(scores, truth, seen, gamma)
            s, u = naive_stacked(scores, truth, seen, gamma)
            assert (found.seen, found.unseen) == pytest.approx((s, u))
            assert found.harmonic == pytest.approx(2 * s * u / (s + u))
        found = best_gamma(scores, truth, seen, points=10_000)
        best = max(stacked(scores, truth, seen, g).harmonic for g in np.linspace(-8, 8, 801))
        assert stacked(scores, truth, seen, found).harmonic >= best - 1e-12
        rows = ~seen[truth]
        told = np.array([max(np.flatnonzero(~seen), key=lambda j: row[j]) for row in scores[rows]])
        wanted = np.mean([(told[truth[rows] == c] == c).mean() for c in np.unique(truth[rows])])
        assert unseen_only(scores, truth, seen) == pytest.approx(wanted)


def test_gamma_of_scores_that_say_nothing_stays_zero():
    _, truth, seen = drawn()
    assert best_gamma(np.zeros((len(truth), len(seen))), truth, seen) == 0
    with pytest.raises(InputError):
        unseen_only(np.zeros((3, 4)), np.zeros(3, int), np.ones(4, bool))
