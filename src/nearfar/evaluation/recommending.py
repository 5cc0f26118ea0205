"""What follows from the rank of the one item that came next, and what recommends without being trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

KS = (1, 5, 10, 20)


def next_item_metrics(ranks: Float[np.ndarray, "n"], ks: Sequence[int] = KS) -> dict[str, np.ndarray]:
    """Of each query, (n,) each, from the rank of its item (from 1; inf for one that cannot be found).

    hit@k: rank <= k; ndcg@k: 1 / log2(rank + 1) where rank <= k, else 0 (one item is relevant, so the ideal is 1); mrr:
    1 / rank, and mrr@k, 0 beyond k. All in [0, 1].
    """
    ranks = np.asarray(ranks, np.float64)
    gain = 1 / np.log2(ranks + 1)
    found = {f"hit@{k}": (ranks <= k).astype(np.float64) for k in ks}
    found |= {f"ndcg@{k}": np.where(ranks <= k, gain, 0) for k in ks}
    return found | {"mrr": 1 / ranks} | {f"mrr@{k}": np.where(ranks <= k, 1 / ranks, 0) for k in ks}


def expected_metrics(size: int, ks: Sequence[int] = KS) -> dict[str, float]:
    """`next_item_metrics` of a random order of so many items, in expectation: every rank is as likely."""
    each = next_item_metrics(np.arange(1, size + 1), ks)
    return {name: float(values.mean()) for name, values in each.items()}


def popularity(items: Int[np.ndarray, "m"], count: int) -> Float[np.ndarray, "c"]:
    """How often each of `count` items stands among the interactions that were seen."""
    return np.bincount(items, minlength=count).astype(np.float64)


def item_neighbours(users: Int[np.ndarray, "m"], items: Int[np.ndarray, "m"], count: int) -> Float[np.ndarray, "c c"]:
    """Cosine of the sets of users of two items, |U_i and U_j| / sqrt(|U_i| |U_j|), 0 with itself: dense (c, c).

    Source: Sarwar et al., "Item-based collaborative filtering", WWW 2001, for interactions without ratings.
    """
    met = sparse.csr_matrix((np.ones(len(users)), (users, items)), shape=(int(users.max(initial=-1)) + 1, count))
    met.data[:] = 1  # a user who met an item twice is one user
    met.sum_duplicates()
    met.data[:] = 1
    both = np.asarray((met.T @ met).todense(), np.float64)
    each = np.sqrt(np.maximum(both.diagonal(), 1))
    np.fill_diagonal(both, 0)
    return both / each[:, None] / each
