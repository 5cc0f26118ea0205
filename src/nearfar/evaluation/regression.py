"""How well a number can be read from an embedding: ridge regression, and the order of distances.

Source of the ridge: Hoerl and Kennard, Technometrics 1970.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nearfar.errors import InputError
from nearfar.evaluation.pairwise import pearson, spearman
from nearfar.vectors import as_vectors, normalise

PENALTIES = tuple(10.0**k for k in range(-6, 4))


@dataclass(frozen=True)
class Fit:
    """predicted, truth: float64 (n,) of the test items; penalty: the chosen one."""

    predicted: np.ndarray
    truth: np.ndarray
    penalty: float

    @property
    def errors(self) -> np.ndarray:
        """|predicted - truth|, (n,)."""
        return np.abs(self.predicted - self.truth)

    @property
    def metrics(self) -> dict[str, float]:
        """mae; gm: geometric mean of the errors; r2: share of the variance explained (0 for predicting the mean of
        these items, 1 at most); pearson."""
        errors, spread = self.errors, np.square(self.truth - self.truth.mean()).sum()
        r2 = 1 - np.square(errors).sum() / spread if spread > 0 else float("nan")
        correlated = pearson(self.predicted, self.truth) if len(errors) > 1 else 0.0
        smallest = np.finfo(np.float64).tiny
        return {
            "mae": float(errors.mean()),
            "r2": float(r2),
            "pearson": correlated,
            "gm": float(np.exp(np.log(np.maximum(errors, smallest)).mean())),
        }


def ridge_probe(
    train_z: Any,
    train_y: Any,
    val_z: Any,
    val_y: Any,
    test_z: Any,
    test_y: Any,
    *,
    penalties: Sequence[float] = PENALTIES,
    max_train: int = 10_000,
    seed: int = 0,
) -> Fit:
    """Ridge regression of numbers (n,) on standardised vectors (n, d); the penalty (of the squared weights, a row) with
    the least mean absolute error on the validation part is taken, the larger of equal ones; the test part is used once.

    Fits on at most `max_train` items (a seeded draw). A constant dimension has no effect. Raises InputError for parts
    without items, other lengths, and numbers that are not finite.
    """
    parts = [
        _numbered(*part)
        for part in ((train_z, train_y, "training"), (val_z, val_y, "validation"), (test_z, test_y, "test"))
    ]
    (z, y), (val_z, val_y), (test_z, test_y) = parts
    if len(z) > max_train:
        drawn = np.sort(np.random.default_rng(seed).choice(len(z), max_train, replace=False))
        z, y = z[drawn], y[drawn]
    mean, std = z.mean(0), z.std(0)
    std = np.where(std > 1e-9 * np.maximum(1, np.abs(mean)), std, np.inf)
    left, singular, right = np.linalg.svd((z - mean) / std, full_matrices=False)
    aim = left.T @ (y - y.mean())

    def predicted(vectors: np.ndarray, penalty: float) -> np.ndarray:
        weight = right.T @ (singular / (singular**2 + penalty * len(z)) * aim)
        return (vectors - mean) / std @ weight + y.mean()

    errors = [np.abs(predicted(val_z, penalty) - val_y).mean() for penalty in penalties]
    chosen = max(p for p, error in zip(penalties, errors, strict=True) if error <= min(errors))
    return Fit(predicted(test_z, chosen), test_y, float(chosen))


def ordering(z: Any, y: Any) -> float:
    """Spearman's correlation of |y_i - y_j| with 1 - cos(z_i, z_j) over all pairs of items (n, d), (n,); -1..1, 1 where
    the farther of two numbers always lies farther; 0 where one of them never changes or there are fewer than 3 items.
    O(n^2)."""
    u, y = normalise(z), np.asarray(y, np.float64)
    i, j = np.triu_indices(len(u), 1)
    return spearman(np.abs(y[i] - y[j]), -(u @ u.T)[i, j]) if len(u) > 2 else 0.0


def _numbered(z: Any, y: Any, part: str) -> tuple[np.ndarray, np.ndarray]:
    z, y = as_vectors(z, f"{part} embeddings").astype(np.float64), np.asarray(y, np.float64)
    if len(z) != len(y):
        raise InputError(f"The {part} part has {len(z)} embeddings and {len(y)} numbers.")
    if not len(y):
        raise InputError(f"No item of the {part} part has a number.", "Check the target column and the split.")
    if not np.isfinite(y).all():
        raise InputError(f"The numbers of the {part} part are not all finite.", "Leave such rows out.")
    return z, y
