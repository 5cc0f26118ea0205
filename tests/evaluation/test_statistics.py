"""Student t against the textbook, the bootstrap against its closed form."""

import numpy as np
import pytest

from nearfar.errors import InputError
from nearfar.evaluation.statistics import bootstrap, holds, interval, paired_interval


def test_interval_is_student_t():
    result = interval([1.0, 2.0, 3.0])
    assert result.mean == 2
    assert result.high == pytest.approx(2 + 4.302652729911275 * 1 / np.sqrt(3))
    assert result.low == pytest.approx(2 - 4.302652729911275 * 1 / np.sqrt(3))


def test_one_seed_has_no_interval():
    assert interval([0.5]).bounds is None
    assert holds(interval([0.5])) is None


def test_pairing_removes_what_seeds_share():
    luck = np.array([0.0, 0.2, -0.2])
    method, baseline = 0.6 + luck, 0.5 + luck + [0.001, 0, -0.001]
    difference = paired_interval(method - baseline)
    assert holds(difference) is True
    assert interval(method).low < interval(baseline).high


@pytest.mark.parametrize(
    ("values", "verdict"), [([0.1, 0.1, 0.1], True), ([-0.1, -0.11, -0.1], False), ([0.1, -0.1, 0.05], "undecided")]
)
def test_holds(values, verdict):
    assert holds(paired_interval(values)) == verdict


def test_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = [low <= 0 <= high for low, high in (interval(generator.normal(size=4)).bounds for _ in range(2000))]
    assert 0.93 < np.mean(hits) < 0.97


def test_bootstrap_has_the_width_of_the_standard_error():
    values = np.random.default_rng(0).normal(size=400)
    result = bootstrap(values)
    assert result.mean == pytest.approx(values.mean())
    assert result.high - result.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert bootstrap(values) == result


def test_bootstrap_of_clusters_is_wider_where_items_repeat():
    values = np.random.default_rng(0).normal(size=100)
    repeated, clusters = np.repeat(values, 12), np.repeat(np.arange(100), 12)
    plain, grouped = bootstrap(repeated), bootstrap(repeated, clusters)
    assert grouped.high - grouped.low == pytest.approx(bootstrap(values).high - bootstrap(values).low, rel=0.01)
    assert grouped.high - grouped.low > 2.5 * (plain.high - plain.low)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(InputError):
        interval([0.1, float("nan")])
    with pytest.raises(InputError):
        bootstrap([])
