"""Intervals: Student t over seeds, bootstrap over items. Never a best seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nearfar.errors import InputError

Holds = bool | Literal["undecided"] | None


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval; low and high are None where n < 2 tells nothing."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def bounds(self) -> list[float] | None:
        return None if self.low is None or self.high is None else [self.low, self.high]


def interval(values: Any, *, confidence: float = 0.95) -> Interval:
    """Mean and two-sided Student t interval of independent values (n,), one a seed.

    Raises InputError for no value or one that is not finite.
    """
    from scipy.stats import t

    values = np.asarray(values, np.float64).ravel()
    if not len(values) or not np.isfinite(values).all():
        raise InputError(f"An interval needs finite values. Got {values.tolist()} instead.")
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Interval(mean, None, None, n)
    half = float(t.ppf((1 + confidence) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def paired_interval(differences: Any, *, confidence: float = 0.95) -> Interval:
    """Interval of the differences method - baseline, (n,), of equal seeds: what the seeds share cancels out."""
    return interval(differences, confidence=confidence)


def bootstrap(
    values: Any, clusters: Any = None, *, draws: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile interval of the mean of per-item values (n,), resampling items - or whole `clusters` (n,) of them,
    for items that are not independent (one emoji asked in twelve directions). Seeded; O(draws) memory.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 6 and 13.
    """
    values = np.asarray(values, np.float64).ravel()
    if not len(values) or not np.isfinite(values).all():
        raise InputError("A bootstrap needs at least one value, all finite.")
    code = np.arange(len(values)) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    total, size = np.bincount(code, values), np.bincount(code).astype(np.float64)
    if len(total) < 2:
        return Interval(float(values.mean()), None, None, len(total))
    generator = np.random.default_rng(seed)
    means = np.empty(draws)
    for draw in range(draws):
        chosen = generator.integers(len(total), size=len(total))
        means[draw] = total[chosen].sum() / size[chosen].sum()
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(values.mean()), float(low), float(high), len(total))


def holds(difference: Interval | Sequence[float] | None) -> Holds:
    """True above zero, False below, "undecided" where the interval spans zero, None where there is none."""
    bounds = difference.bounds if isinstance(difference, Interval) else difference
    if bounds is None:
        return None
    low, high = bounds
    return True if low > 0 else False if high < 0 else "undecided"
