"""Two rankings of the same items, by vectors and by words, as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DEPTH = 1000  # ranks of each that are fused, at least


def by_words(scores: np.ndarray, k: int, among: np.ndarray | None, away: Sequence[int]) -> np.ndarray:
    """The first k items with a score above 0, best first; equal scores in the order of the items.

    among: the only items that are ranked (None: all); away: those that are not.
    """
    items = np.flatnonzero(scores > 0)
    items = items if among is None else np.intersect1d(items, among)
    items = items[~np.isin(items, away)]
    return items[np.lexsort((items, -scores[items]))][:k]


def fused(rankings: Sequence[Sequence[int]], k: int = 60) -> list[tuple[int, float]]:
    """Reciprocal rank fusion: the items of several rankings with their sums of 1 / (k + rank), best first; equal sums
    in the order of the items.

    Source: Cormack, Clarke and Buettcher, SIGIR 2009, who take k = 60.
    """
    sums: dict[int, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, 1):
            sums[item] = sums.get(item, 0.0) + 1 / (k + rank)
    return sorted(sums.items(), key=lambda pair: (-pair[1], pair[0]))
