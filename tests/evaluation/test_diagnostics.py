"""Diagnostics against loops and limits, and verdicts on embeddings whose trouble is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.errors import InputError
from nearfar.evaluation.diagnostics import (
    alignment,
    diagnose,
    effective_rank,
    false_negative_rate,
    hubness,
    modality_gap,
    spread,
    tolerance,
    uniformity,
)
from nearfar.evaluation.neighbours import Neighbours
from nearfar.vectors import normalise


def sphere(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


@given(st.integers(2, 12), st.integers(1, 5), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_pairwise_numbers_equal_loops(n, tile, seed):
    z = normalise(sphere(n, 3, seed))
    labels = np.random.default_rng(seed).integers(-1, 3, n)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    expected = math.log(np.mean([math.exp(-2 * ((z[i] - z[j]) ** 2).sum()) for i, j in pairs]))
    assert uniformity(z * 3, tile=tile) == pytest.approx(expected)
    alike = [(i, j) for i, j in pairs if labels[i] == labels[j] >= 0]
    if alike:
        assert tolerance(z * 2, labels) == pytest.approx(np.mean([z[i] @ z[j] for i, j in alike]))
    else:
        assert math.isnan(tolerance(z, labels))
    known = [(i, j) for i, j in pairs if labels[i] >= 0 and labels[j] >= 0]
    if known:
        assert false_negative_rate(labels) == pytest.approx(len(alike) / len(known))


def test_limits():
    z = sphere(50, 8)
    assert alignment(z, 5 * z) == pytest.approx(0)
    assert alignment(z, -z) == pytest.approx(4)
    assert uniformity(np.ones((5, 3))) == pytest.approx(0)
    assert uniformity(sphere(2000, 256)) == pytest.approx(-4, abs=0.1)
    assert spread(np.ones((5, 3))) == pytest.approx(0)
    assert spread(sphere(2000, 64)) == pytest.approx(1, abs=0.03)
    assert effective_rank(np.eye(7)) == pytest.approx(7)
    assert effective_rank(np.outer(np.arange(5), np.ones(4))) == pytest.approx(1)
    assert modality_gap(np.eye(2)[[0]], -np.eye(2)[[0]]) == pytest.approx(2)


def test_hubness_is_the_skewness_of_neighbour_counts():
    counts = np.array([4, 1, 1, 0], np.float64)
    near = Neighbours(np.zeros((6, 1)), np.repeat([0, 1, 2], [4, 1, 1])[:, None])
    expected = np.mean((counts - 1.5) ** 3) / np.std(counts) ** 3
    assert hubness(near, 4) == pytest.approx(expected)


def verdicts(*args, **kwargs):
    return {item.name: item.verdict for item in diagnose(*args, **kwargs)}


def test_a_healthy_embedding_is_called_good():
    centres = np.random.default_rng(0).normal(size=(40, 64))
    groups = np.repeat(np.arange(40), 5)
    z = centres[groups] + 0.3 * sphere(200, 64, 1)
    found = verdicts(z, groups=groups)
    assert found["collapse (feature spread)"] == found["alignment"] == "good"
    assert found["nearest neighbour agrees"] == found["different items, same vector"] == "good"


def test_a_collapsed_embedding_is_called_bad():
    found = verdicts(np.ones((60, 16)) + 1e-4 * sphere(60, 16), labels=np.arange(60) % 3)
    for name in ("collapse (feature spread)", "uniformity", "different items, same vector", "tolerance"):
        assert found[name] == "bad", name


def test_labels_that_are_everywhere_are_false_negatives():
    assert verdicts(sphere(60, 8), labels=np.arange(60) % 3)["false negatives"] == "bad"
    assert verdicts(sphere(600, 8), labels=np.arange(600) % 200)["false negatives"] == "good"


def test_copies_are_not_each_others_neighbours():
    z = np.repeat(sphere(30, 8), 2, axis=0)
    assert verdicts(z)["different items, same vector"] == "bad"
    assert verdicts(z, contents=np.repeat(np.arange(30), 2))["different items, same vector"] == "good"


def test_a_space_sorted_by_domain_is_told():
    domains = np.repeat([0, 1], 50)
    apart = sphere(100, 8) + 6 * np.eye(2, 8)[domains]
    assert verdicts(apart, domains=domains)["neighbours from the same domain"] == "bad"
    assert verdicts(sphere(100, 8), domains=domains)["neighbours from the same domain"] == "good"


def test_two_modalities_show_their_gap():
    a = sphere(50, 8) + 9 * np.eye(1, 8)
    found = verdicts(a, partner=a - 18 * np.eye(1, 8), two_modalities=True)
    assert found["modality gap"] == "bad"
    assert found["alignment"] == "bad"


def test_large_input_is_sampled_the_same_way_each_time():
    z = sphere(500, 8)
    assert diagnose(z, max_items=100) == diagnose(z, max_items=100)


def test_every_diagnostic_gives_advice_and_a_finite_number():
    found = diagnose(
        sphere(40, 8),
        labels=np.arange(40) % 4,
        groups=np.arange(40) % 10,
        partner=sphere(40, 8, 1),
        domains=np.arange(40) % 2,
        contents=np.arange(40),
        two_modalities=True,
    )
    assert len(found) >= 9
    for item in found:
        assert math.isfinite(item.value)
        assert item.advice.endswith(".")
        assert item.to_dict()["verdict"] in ("good", "watch", "bad", "info")


def test_one_class_and_one_row():
    assert verdicts(sphere(20, 4), labels=np.zeros(20, int))["tolerance"] == "info"
    with pytest.raises(InputError, match="at least two"):
        diagnose(sphere(1, 4))
