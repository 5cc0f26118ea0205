"""What is odd about rows, against loops, and against what chance gives."""

from collections import Counter

import numpy as np
import pytest

from nearfar.evaluation import issues
from nearfar.evaluation.neighbours import Neighbours


def points(n=60, d=4, seed=0):
    """Points of length 1, three of them copies of others and one a near copy."""
    z = np.random.default_rng(seed).normal(size=(n, d))
    z[7], z[8], z[20] = z[3], z[3], z[11]
    z[30] = z[31] + 1e-4
    return z / np.linalg.norm(z, axis=1, keepdims=True)


CONTENTS = np.arange(60)
CONTENTS[[7, 8]], CONTENTS[20], CONTENTS[50] = 3, 11, -1


def by_loops(z, k, contents):
    """The k nearest rows of another content of each row, best first."""
    found = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i and not (contents[i] == contents[j] >= 0)]
        found.append(sorted(others, key=lambda j: (-round(float(z[i] @ z[j]), 6), j))[:k])
    return found


def test_neighbours_are_those_of_loops_and_copies_do_not_see_each_other():
    z = points()
    near = issues.neighbours(z, 5, CONTENTS)
    assert near.indices.tolist() == by_loops(z, 5, CONTENTS)
    assert np.allclose(near.scores[4], z[near.indices[4]] @ z[4], atol=1e-6)
    assert issues.neighbours(z, 1).indices[7, 0] in (3, 8)


def test_the_first_of_equal_contents_is_named():
    expected = np.full(60, -1)
    expected[[7, 8]], expected[20] = 3, 11
    assert issues.duplicates(CONTENTS).tolist() == expected.tolist()


def test_near_copies_lie_within_a_share_of_the_median_distance():
    z = points()
    near = issues.neighbours(z, 5, CONTENTS)
    gaps = np.array([1 - max(z[i] @ z[j] for j in row) for i, row in enumerate(by_loops(z, 5, CONTENTS))])
    expected = (gaps <= 0.13 * np.median(gaps)) | (gaps < 1e-4)
    assert issues.near_copies(near).tolist() == expected.tolist()
    assert expected[30]
    assert not expected[0]


def test_outliers_lie_beyond_the_upper_fence():
    near = issues.neighbours(points(), 5, CONTENTS)
    distances = issues.isolation(near)
    assert distances[9] == pytest.approx(np.mean([1 - s for s in near.scores[9]]))
    known = np.append(distances, [1.9, np.nan])
    low, high = np.percentile([*distances.tolist(), 1.9], [25, 75])
    expected = [bool(d > high + 1.5 * (high - low)) for d in known]
    assert issues.outliers(known).tolist() == expected
    assert expected[-2:] == [True, False]
    assert not issues.outliers(np.full(9, 0.4)).any()


def test_labels_are_judged_by_more_than_half_of_the_neighbours():
    z, labels = points(), np.random.default_rng(1).integers(-1, 3, 60)
    near = issues.neighbours(z, 5)
    other, share = issues.unlike_labels(near, labels)
    for i, row in enumerate(by_loops(z, 5, np.full(60, -1))):
        name, count = Counter(labels[j] for j in row if labels[j] >= 0).most_common(1)[0]
        unlike = labels[i] >= 0 and name != labels[i] and count > 2.5
        assert (other[i], share[i]) == ((name, count / 5) if unlike else (-1, 0))
    assert (other >= 0).any()


def test_what_chance_gives_is_what_shuffled_labels_give():
    rng = np.random.default_rng(0)
    near = issues.neighbours(rng.normal(size=(300, 6)), 10)
    labels = rng.choice([0, 0, 0, 0, 0, 1, 1, 2], 300)
    found = [(issues.unlike_labels(near, rng.permutation(labels))[0] >= 0).sum() for _ in range(60)]
    assert issues.unlike_by_chance(labels) == pytest.approx(np.mean(found), rel=0.1)


def test_a_false_negative_is_nearer_than_every_positive():
    z, ids = points(), np.random.default_rng(2).integers(-1, 12, 60)
    ids[7] = ids[8] = ids[3] = 40  # copies alone are no positives of each other
    contents = np.where(np.arange(60) < 45, CONTENTS, -1)  # of the others nobody knows: each is its own
    found = issues.false_negatives(issues.neighbours(z, 5, contents), ids, contents)
    unknown = issues.false_negatives(issues.neighbours(z, 5), ids, np.full(60, -1))
    assert unknown.tolist() == issues.false_negatives(issues.neighbours(z, 5), ids).tolist()
    for i, row in enumerate(by_loops(z, 59, contents)):
        positives = [j for j in row if ids[j] == ids[i]]
        wrong = ids[i] >= 0 and positives and ids[row[0]] >= 0 and ids[row[0]] != ids[i]
        assert found[i] == (row[0] if wrong else -1)
    assert (found >= 0).any()
    assert found[3] == -1


def test_rows_that_see_nothing_are_not_odd():
    near = Neighbours(np.full((3, 2), -np.inf, np.float32), np.full((3, 2), -1))
    odd = issues.issues_of(near, labels={"a": np.array([0, 1, 0])}, ids=np.array([0, 0, 1]))
    assert not odd.near_copy.any()
    assert not odd.outlier.any()
    assert (odd.unlike["a"][0] < 0).all()
    assert (odd.false_negative < 0).all()
