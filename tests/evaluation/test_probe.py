"""kNN against a loop; the linear probe on separable and on shuffled labels."""

import math

import numpy as np
import pytest
from sklearn.svm import SVC

from nearfar.errors import InputError
from nearfar.evaluation.probe import knn, linear_probe, svm_probe
from nearfar.vectors import normalise


def clusters(n, seed, spread=0.3):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    return np.eye(3, 6)[labels] + spread * generator.normal(size=(n, 6)), labels


@pytest.mark.parametrize("k", [1, 5, 500])
def test_knn_equals_the_loop(k):
    train_z, train_y = clusters(60, 0, spread=0.9)
    test_z, test_y = clusters(31, 1, spread=0.9)
    guesses = []
    for item in normalise(test_z):
        near = sorted(
            ((float(np.float32(item @ other)), -j) for j, other in enumerate(normalise(train_z))), reverse=True
        )[:k]
        votes = [sum(math.exp(s / 0.07) for s, j in near if train_y[-j] == label) for label in range(3)]
        guesses.append(votes.index(max(votes)))
    result = knn(train_z, train_y, test_z, test_y, k=k)
    assert result.accuracy == pytest.approx(np.mean(np.array(guesses) == test_y))
    assert 0.4 < result.accuracy < 1
    assert result.setting == {"k": min(k, 60)}


def test_knn_with_small_temperature_does_not_overflow():
    train_z, train_y = clusters(60, 0)
    assert knn(train_z, train_y, train_z, train_y, k=1, temperature=1e-4).accuracy == 1


def test_missing_labels_are_left_out():
    z, y = clusters(30, 0)
    y = y.copy()
    y[:10] = -1
    result = knn(z, y, z, y, k=3)
    assert result.n == 20
    assert result.items.tolist() == list(range(10, 30))
    with pytest.raises(InputError, match="No item of the test part"):
        knn(z, y, z, np.full(30, -1))


def test_probe_learns_what_is_there_and_nothing_else():
    train, val, test = clusters(120, 0), clusters(60, 1), clusters(90, 2)
    assert linear_probe(*train, *val, *test).accuracy > 0.9
    noise = np.random.default_rng(0).normal(size=(120, 6))
    assert linear_probe(noise, train[1], *val, noise[:90], test[1]).accuracy < 0.75


def test_probe_chooses_its_strength_on_the_validation_part_only():
    train, val, test = clusters(120, 0, 1.5), clusters(60, 1, 1.5), clusters(90, 2, 1.5)
    first = linear_probe(*train, *val, *test)
    again = linear_probe(*train, *val, test[0], (test[1] + 1) % 3)
    assert first.setting == again.setting


def test_balanced_accuracy_weighs_classes_equally():
    z = np.array([[1.0, 0], [0, 1.0]])
    result = knn(z, [0, 1], np.array([[1.0, 0]] * 9 + [[1.0, 0]]), [0] * 9 + [1], k=1)
    assert (result.accuracy, result.balanced) == (0.9, 0.5)


def test_probe_needs_two_classes():
    z, y = clusters(30, 0)
    with pytest.raises(InputError, match="two classes"):
        linear_probe(z, np.zeros(30, int), z, y, z, y)


def test_labels_below_minus_one_are_refused():
    with pytest.raises(InputError, match="-1 where unknown"):
        knn(np.eye(3), [0, 1, -7], np.eye(3), [0, 1, 1])


def test_a_support_vector_machine_reads_what_no_line_can_and_chooses_by_validation_alone():
    def ring(n, seed):
        generator = np.random.default_rng(seed)
        labels = np.arange(n) % 2
        angle, radius = generator.uniform(0, 2 * np.pi, n), 1 + labels + 0.2 * generator.normal(size=n)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1), labels

    train, val, test = ring(120, 0), ring(60, 1), ring(90, 2)
    found = svm_probe(*train, *val, *test)
    assert found.accuracy > 0.9
    assert linear_probe(*train, *val, *test).accuracy < 0.75
    assert svm_probe(*train, *val, test[0], 1 - test[1]).setting == found.setting
    gamma, C = 1 / (2 * train[0].astype(np.float32).var()), found.setting["C"]
    plain = SVC(C=C, kernel="rbf", gamma=gamma).fit(train[0].astype(np.float32), train[1])
    assert (plain.predict(test[0].astype(np.float32)) == found.told).all()
    noise = np.random.default_rng(3).permutation(train[1])
    assert svm_probe(train[0], noise, val[0], np.random.default_rng(4).permutation(val[1]), *test).accuracy < 0.7
