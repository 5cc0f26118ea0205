"""Arrays of vectors: checked, and of length 1. The cosines of nearfar are multiples of 1 / GRID, so that equal vectors
get equal scores wherever they stand."""

from __future__ import annotations

from typing import Any

import numpy as np

from nearfar.errors import InputError

GRID = 2.0**24


def as_vectors(z: Any, name: str = "embeddings") -> np.ndarray:
    """A finite (n, d) float array from numpy or torch. Raises InputError naming the first row that is not finite."""
    array = z.detach().float().cpu().numpy() if hasattr(z, "detach") else np.asarray(z)
    if array.ndim != 2:
        raise InputError(f"The {name} must have the shape (items, dimensions). Got {array.shape} instead.")
    array = array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(array).all(1))
    if len(bad):
        raise InputError(
            f"The {name} hold values that are not finite in {len(bad)} of {len(array)} rows (first: row {bad[0]}).",
            "Train with a lower rate or in float32.",
        )
    return array


def normalise(z: Any, name: str = "embeddings") -> np.ndarray:
    """Rows of length 1 in float64 (n, d); a zero row stays zero, so that its cosine with everything is 0."""
    array = as_vectors(z, name).astype(np.float64)
    return array / lengths(array)


def lengths(z: np.ndarray) -> np.ndarray:
    """float64 (n, 1), 1 for a zero row."""
    length = np.sqrt(np.einsum("nd,nd->n", z, z, dtype=np.float64, casting="safe"))[:, None]
    return np.where(length > 0, length, 1)
