"""What is odd about rows, read off their nearest neighbours: near copies, outliers, labels unlike those around them,
and candidates for false negatives. Whoever shows or lists such rows asks here.

Sources: near copies by a share of the median distance to the nearest row: Cleanlab's Datalab 2.6 (its default, 0.13);
outliers by the mean distance to k neighbours: Angiulli and Pizzuti, PKDD 2002, beyond the upper fence of a box plot:
Tukey, Exploratory Data Analysis, 1977; labels by a vote of neighbours: Wilson, IEEE SMC 1972.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import binom

from nearfar.evaluation.neighbours import Neighbours, VectorScorer, topk
from nearfar.evaluation.relevance import same

K = 10
NEAR = 0.13  # of the median distance to the nearest row
EQUAL = 0.9999  # a cosine from which on two vectors tell nothing apart
FENCE = 1.5  # interquartile ranges above the upper quartile
BEYOND_FENCE = 0.0035  # of normally distributed numbers; of skewed ones more


def neighbours(z: Float[np.ndarray, "n d"], k: int = K, contents: Int[np.ndarray, "n"] | None = None) -> Neighbours:
    """The k nearest other rows by cosine, exact. contents: rows of equal content (from 0 on; -1: of none) do not see
    each other; without them a row is hidden from itself alone."""
    own = np.arange(len(z)) if contents is None else each_its_own(contents)
    return topk(VectorScorer(z, z), k, same(own, own))


def each_its_own(contents: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """The contents, and for each row without one (-1) one that no other row has."""
    return np.where(contents >= 0, contents, contents.max(initial=-1) + 1 + np.arange(len(contents)))


def duplicates(contents: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """The first row of the content of each row; -1 for that row itself and for rows without a content."""
    _, first, code = np.unique(contents, return_index=True, return_inverse=True)
    found = first[code.reshape(-1)]
    return np.where((contents >= 0) & (found < np.arange(len(contents))), found, -1)


def near_copies(near: Neighbours, share: float = NEAR) -> Bool[np.ndarray, "n"]:
    """Rows whose nearest row lies at most a share of the median distance (1 - cosine) from one row to the next, or that
    cannot be told from it."""
    there = near.indices[:, 0] >= 0
    gap = 1 - near.scores[:, 0].astype(np.float64)
    typical = float(np.median(gap[there])) if there.any() else 0.0
    return there & ((gap <= share * typical) | equal(near))


def equal(near: Neighbours) -> Bool[np.ndarray, "n"]:
    """Rows whose vector is that of another row."""
    return near.scores[:, 0] > EQUAL


def isolation(near: Neighbours) -> Float[np.ndarray, "n"]:
    """The mean distance (1 - cosine, 0..2) of each row to its neighbours; NaN for a row that sees none."""
    there = near.indices >= 0
    total = np.where(there, 1 - near.scores.astype(np.float64), 0).sum(1)
    return np.where(there.any(1), total / np.maximum(1, there.sum(1)), np.nan)


def outliers(distances: Float[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """Distances beyond the upper fence: more than 1.5 interquartile ranges above the upper quartile."""
    known = distances[np.isfinite(distances)]
    if not len(known):
        return np.zeros(len(distances), bool)
    low, high = np.quantile(known, [0.25, 0.75])
    return np.nan_to_num(distances) > high + FENCE * (high - low) + 1e-9


def unlike_labels(
    near: Neighbours, labels: Int[np.ndarray, "n"]
) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Of each row the other label that more than half of its neighbours have, and their share; -1 where there is none.
    labels: from 0 on, -1 for none."""
    there = near.indices >= 0
    around = np.where(there, labels[near.indices], -1)
    votes = np.stack([((around == around[:, [j]]) & (around >= 0)).sum(1) for j in range(around.shape[1])], 1)
    most = votes.argmax(1)[:, None]
    winner, count = (np.take_along_axis(x, most, 1)[:, 0] for x in (around, votes))
    unlike = (labels >= 0) & (winner >= 0) & (winner != labels) & (2 * count > there.sum(1))
    return np.where(unlike, winner, -1), np.where(unlike, count / np.maximum(1, there.sum(1)), 0.0)


def unlike_by_chance(labels: Int[np.ndarray, "n"], k: int = K) -> float:
    """How many rows would have an unlike label if labels had nothing to do with places."""
    counts = np.bincount(labels[labels >= 0])
    shares = counts / max(1, len(labels))
    majority = binom.sf(k // 2, k, shares)
    return float((counts * (majority.sum() - majority)).sum())


def agreeing(near: Neighbours, ids: Int[np.ndarray, "n"]) -> tuple[Bool[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """Which rows can be asked (they have an id and see a row), and whose nearest row has the same id."""
    asked = (ids >= 0) & (near.indices[:, 0] >= 0)
    return asked, asked & (ids[near.indices[:, 0]] == ids)


def false_negatives(
    near: Neighbours, ids: Int[np.ndarray, "n"], contents: Int[np.ndarray, "n"] | None = None
) -> Int[np.ndarray, "n"]:
    """Of each row that has positives (rows of its id and another content) the nearest row, where that is of another id:
    a negative that is nearer than every positive. -1 elsewhere. ids: from 0 on, -1 for none."""
    asked, agrees = agreeing(near, ids)
    nearest = near.indices[:, 0]
    pairs = np.stack([ids, np.arange(len(ids)) if contents is None else each_its_own(contents)], 1)
    positives = np.bincount(np.unique(pairs[ids >= 0], axis=0)[:, 0], minlength=max(1, ids.max(initial=0) + 1))
    found = asked & ~agrees & (ids[nearest] >= 0) & (positives[np.maximum(ids, 0)] > 1)
    return np.where(found, nearest, -1)


@dataclass(frozen=True)
class Issues:
    """What is odd about n rows. `near`: their neighbours; `near_copy`, `outlier`: bool (n,); `isolation`: float (n,);
    `unlike`: column of labels -> the label around each row (-1: none) and its share; `false_negative`: row or -1, None
    without ids; `expected`: what chance alone would give of outliers, and of each column of unlike labels."""

    near: Neighbours
    near_copy: np.ndarray
    isolation: np.ndarray
    outlier: np.ndarray
    unlike: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    false_negative: np.ndarray | None = None
    expected: Mapping[str, float] = field(default_factory=dict)


def issues_of(
    near: Neighbours,
    *,
    labels: Mapping[str, np.ndarray] | None = None,
    ids: np.ndarray | None = None,
    contents: np.ndarray | None = None,
) -> Issues:
    """All that the given facts allow: labels of several columns (codes, -1 for none), ids that mark positives."""
    known, distances = labels or {}, isolation(near)
    k = near.indices.shape[1]
    return Issues(
        near,
        near_copies(near),
        distances,
        outliers(distances),
        {name: unlike_labels(near, codes) for name, codes in known.items()},
        None if ids is None else false_negatives(near, ids, contents),
        {"outlier": BEYOND_FENCE * len(distances)} | {name: unlike_by_chance(y, k) for name, y in known.items()},
    )


def positives_of(groups: np.ndarray | None, labels: np.ndarray | None) -> np.ndarray | None:
    """The ids that mark positives: those of groups where there are some, else of labels."""
    return groups if groups is not None else labels
