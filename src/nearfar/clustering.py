"""K-means on unit vectors, the same on every run of one machine."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int

from nearfar.errors import InputError


def k_means(
    vectors: Any, clusters: int, *, seed: int = 0, restarts: int = 4, most: int = 20_000
) -> Int[np.ndarray, "n"]:
    """The cluster 0 .. clusters - 1 of each vector (n, d), by Euclidean distance. Numbers mean nothing by themselves.

    restarts: the best of so many beginnings is kept. Above `most` vectors: the mini-batch variant. Empty clusters start
    again at far points.
    Raises InputError: more clusters than vectors, or fewer than one.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    z = np.ascontiguousarray(vectors, dtype=np.float32)
    if not 1 <= clusters <= len(z):
        raise InputError(f"The number of clusters must be within 1 and the {len(z)} items. Got {clusters}.")
    if clusters == 1:
        return np.zeros(len(z), np.int64)
    chosen: dict[str, Any] = {"n_init": restarts, "max_iter": 100, "random_state": seed}
    fitted = MiniBatchKMeans(clusters, batch_size=most, **chosen) if len(z) > most else KMeans(clusters, **chosen)
    with threadpool_limits(1):  # sums in one order: a resumed run finds the same clusters
        return fitted.fit_predict(z).astype(np.int64)
