"""Generalised compositional and generalised zero-shot evaluation: pure functions on arrays of scores.

compositions (attribute, object), some never trained on:
    scores (n, K) + bias on the unseen ones, swept  ->  accuracy of seen over that of unseen  ->  best S, best U, H, AUC
    open world: all pairs are candidates, those that word vectors find implausible are left out
classes by their attributes:
    scores (n, C) + gamma on the unseen ones        ->  mean accuracy per class of seen and of unseen  ->  S, U, H

Sources: Chao et al., ECCV 2016; Purushwalkam et al., ICCV 2019 (the sweep, in the code of Nayak et al., ICLR 2023);
Mancini et al., CVPR 2021 (feasibility); Xian et al., TPAMI 2019 (per class).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nearfar.errors import InputError
from nearfar.evaluation.zero_shot import class_hits

OUTSIDE = -1e10  # the score of what is no candidate
END = 1000.0  # the bias at which the sweep ends
BELOW = 1e-4  # how far below the bias that makes an image wrong a point of the sweep lies
POINTS = 20
GRID = 50
Left = Literal["out", "zero"]


@dataclass(frozen=True)
class Sweep:
    """biases, seen, unseen (p,): the points of the sweep, biases rising, and at each the accuracy (0..1) of images
    whose composition was trained on, and of those whose was not."""

    biases: np.ndarray
    seen: np.ndarray
    unseen: np.ndarray

    @property
    def best_seen(self) -> float:
        return float(self.seen.max())

    @property
    def best_unseen(self) -> float:
        return float(self.unseen.max())

    @property
    def harmonic(self) -> float:
        """The best harmonic mean of the two at one bias; 0 where both are 0."""
        return float(harmonic_mean(self.seen, self.unseen).max())

    @property
    def auc(self) -> float:
        """The area under the accuracy of seen over that of unseen, by trapezoids; 0 for a single point."""
        from scipy.integrate import trapezoid

        return float(trapezoid(self.seen, self.unseen))


def harmonic_mean(a: Any, b: Any) -> np.ndarray:
    """2 a b / (a + b) of numbers >= 0, 0 where both are 0."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.divide(2 * a * b, a + b, out=np.zeros(np.broadcast(a, b).shape), where=(a + b) > 0)


def checked_scores(scores: Any, truth: Any, seen: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (n, K) float64, true column of each row (n,) and which columns are seen (K,). Raises InputError for other
    shapes, scores that are not finite, and rows of one kind alone."""
    scores, truth, seen = np.asarray(scores, np.float64), np.asarray(truth), np.asarray(seen, bool)
    if scores.ndim != 2 or truth.shape != scores.shape[:1] or seen.shape != scores.shape[1:]:
        raise InputError(f"Scores (n, K), truth (n,) and seen (K,) are expected. Got {scores.shape}, {truth.shape} and "
                         f"{seen.shape}.")  # fmt: skip
    if not np.isfinite(scores).all():
        raise InputError("Scores must be finite.", "Check the learning rate of the model, or its temperature.")
    if len(truth) and not (truth.min() >= 0 and truth.max() < len(seen)):
        raise InputError(f"The true columns must be 0 to {len(seen) - 1}.")
    if not seen[truth].any() or seen[truth].all():
        raise InputError("Rows of seen and of unseen classes are needed, both.",
                         "Check the column of splits.")  # fmt: skip
    return scores, truth.astype(np.int64), seen


def bias_sweep(scores: Any, truth: Any, seen: Any, closed: Any = None, k: int = 1) -> Sweep:
    """The accuracy of seen and unseen compositions under a bias that is added to the scores of all unseen ones.

    The biases: of images with an unseen composition that are right at a bias of 1000, how far the (k-th) best seen
    score lies above the true one, less 1e-4; sorted, every max(1, floor(number / 20))-th; then 1000. Where no such
    image is right, the sweep is that one point.

    Args:
        scores: (n, K), any scale, finite. truth: (n,) columns. seen: (K,) bool, compositions trained on. closed: (K,)
            bool, the candidates; others get -1e10 (None: all are candidates).
        k: how many of the best count as told. Of equal scores the expected value over their orders counts.
    """
    scores, truth, seen = checked_scores(scores, truth, seen)
    if closed is not None:
        if not np.asarray(closed, bool)[truth].all():
            raise InputError("The composition of a row is no candidate.", "Add it to the candidates.")
        scores = np.where(np.asarray(closed, bool), scores, OUTSIDE)
    known = seen[truth]

    def accuracies(bias: float) -> tuple[float, float]:
        told = class_hits(scores + bias * ~seen, truth, k)
        return float(told[known].mean()), float(told[~known].mean())

    right = (class_hits(scores + END * ~seen, truth, k) > 0) & ~known
    rivals = scores[:, seen]
    rival = np.sort(rivals, axis=1)[:, -k] if k <= rivals.shape[1] else np.full(len(scores), OUTSIDE)
    points = np.sort((rival - scores[np.arange(len(truth)), truth])[right] - BELOW)
    biases = np.append(points[:: max(len(points) // POINTS, 1)], END)
    found = np.array([accuracies(bias) for bias in biases])
    return Sweep(biases, found[:, 0], found[:, 1])


def part_accuracy(scores: Any, truth: Any, parts: Any, closed: Any = None) -> float:
    """How often the composition with the highest score has the true attribute (or object), 0..1, without any bias.

    Args:
        scores: (n, K). truth: (n,) columns. parts: (K,) or (K, m) integers, the attribute (all m attributes, or the
            object) of each composition. closed: (K,) bool, the candidates. Of equal scores the mean counts.
    """
    scores, parts = np.asarray(scores, np.float64), np.asarray(parts)
    scores = scores if closed is None else np.where(np.asarray(closed, bool), scores, OUTSIDE)
    best = scores == scores.max(1, keepdims=True)
    parts = parts[:, None] if parts.ndim == 1 else parts
    codes = np.unique(parts, axis=0, return_inverse=True)[1].reshape(-1)
    same = codes[None, :] == codes[np.asarray(truth)][:, None]
    return float(((best & same).sum(1) / best.sum(1)).mean())


def unit_rows(vectors: Any) -> np.ndarray:
    vectors = np.asarray(vectors, np.float64)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def feasibility(seen: Any, attributes: Any, objects: Any) -> np.ndarray:
    """How plausible each pair is by the words of pairs trained on, (A, O) in [-1, 1]; 0 for these themselves.

    f(a, o) = 1/2 max cos(o, o') over other objects o' seen with a  +  1/2 max cos(a, a') over other attributes a' seen
    with o; -1 in place of a maximum over nothing.

    Args: seen: (A, O) bool. attributes: (A, d), objects: (O, d), word vectors of one space.
    """
    seen = np.asarray(seen, bool)
    a, o = unit_rows(attributes), unit_rows(objects)
    if seen.shape != (len(a), len(o)):
        raise InputError(f"Seen pairs (A, O) are expected for {len(a)} attributes and {len(o)} objects. "
                         f"Got {seen.shape}.")  # fmt: skip

    def nearest(cosine: np.ndarray, known: np.ndarray) -> np.ndarray:
        """(rows, n): max over the j != i with known[row, j] of cosine[i, j]."""
        other = np.where(np.eye(len(cosine), dtype=bool), -np.inf, cosine)
        found = np.stack([np.where(row, other, -np.inf).max(1) for row in known])
        return np.where(np.isfinite(found), found, -1.0)

    found = (nearest(o @ o.T, seen) + nearest(a @ a.T, seen.T).T) / 2
    return np.where(seen, 0.0, found)


def without_implausible(
    scores: Any, seen: Any, feasible: Any, threshold: float, left: Left = "out"
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n, K) without unseen pairs whose feasibility (K,) lies below the threshold, and the candidates that stay
    (K,). left: out removes them; zero multiplies their scores by 0, as the published code of CSP does: with scores
    below 0 such a pair wins, and under a bias it still competes."""
    scores, away = np.asarray(scores, np.float64), ~np.asarray(seen, bool) & (np.asarray(feasible) < threshold)
    if left == "zero":
        return np.where(away, 0.0, scores), np.ones(len(away), bool)
    return scores, ~away


def open_sweep(
    scores: Any, truth: Any, seen: Any, feasible: Any, threshold: float, left: Left = "out", k: int = 1
) -> Sweep:
    """`bias_sweep` among all pairs but the implausible ones. A true pair that was left out is told wrong at every
    bias."""
    scores, truth, seen = checked_scores(scores, truth, seen)
    scores, kept = without_implausible(scores, seen, feasible, threshold, left)
    return bias_sweep(np.where(kept, scores, OUTSIDE), truth, seen, k=k)


def best_feasibility(
    scores: Any, truth: Any, seen: Any, feasible: Any, left: Left = "out", k: int = 1, points: int = GRID
) -> float:
    """The threshold with the best AUC (the lowest of equals), of so many between the smallest and the largest
    feasibility of unseen pairs: to be asked of validation data."""
    unseen = np.asarray(feasible, np.float64)[~np.asarray(seen, bool)]
    grid = np.unique(np.linspace(unseen.min(), unseen.max(), points))
    found = [open_sweep(scores, truth, seen, feasible, float(one), left, k).auc for one in grid]
    return float(grid[int(np.argmax(found))])


@dataclass(frozen=True)
class Stacked:
    """seen, unseen: mean accuracy per class (0..1) among all classes; gamma: what was added to the unseen ones."""

    seen: float
    unseen: float
    gamma: float

    @property
    def harmonic(self) -> float:
        return float(harmonic_mean(self.seen, self.unseen))


def per_class(right: Any, truth: Any) -> float:
    """The mean over the classes of truth (n,) of the mean of right (n,) in them."""
    right, truth = np.asarray(right, np.float64), np.asarray(truth)
    return float(np.mean([right[truth == one].mean() for one in np.unique(truth)]))


def stacked(scores: Any, truth: Any, seen: Any, gamma: float = 0.0) -> Stacked:
    """Generalised zero-shot: mean accuracy per class of seen and of unseen classes, told among all, by the highest of
    scores + gamma on the unseen ones (calibrated stacking). Shapes as `bias_sweep`."""
    scores, truth, seen = checked_scores(scores, truth, seen)
    told, known = class_hits(scores + gamma * ~seen, truth), seen[truth]
    return Stacked(per_class(told[known], truth[known]), per_class(told[~known], truth[~known]), float(gamma))


def best_gamma(scores: Any, truth: Any, seen: Any, points: int = 200) -> float:
    """The gamma with the best H: to be asked of validation data. Of these, half of the bias at which an image changes
    its side and the next: at most so many, evenly among them; the smallest in size of equals, so that scores that say
    nothing are not biased."""
    scores, truth, seen = checked_scores(scores, truth, seen)
    changes = np.unique(scores[:, seen].max(1) - scores[:, ~seen].max(1))
    grid = np.concatenate([[changes[0] - 1], (changes[1:] + changes[:-1]) / 2, [changes[-1] + 1]])
    grid = grid[np.unique(np.linspace(0, len(grid) - 1, points).round().astype(int))]
    grid = np.append(grid, 0.0)
    grid = grid[np.argsort(np.abs(grid), kind="stable")]
    return float(grid[int(np.argmax([stacked(scores, truth, seen, float(one)).harmonic for one in grid]))])


def unseen_only(scores: Any, truth: Any, seen: Any) -> float:
    """Zero-shot: mean accuracy per class of rows of unseen classes, told among the unseen classes alone. Shapes as
    `bias_sweep`; rows of seen classes are left out."""
    scores, truth, seen = np.asarray(scores, np.float64), np.asarray(truth), np.asarray(seen, bool)
    rows = ~seen[truth]
    if not rows.any():
        raise InputError("No row has an unseen class.", "Check the column of splits.")
    return per_class(class_hits(np.where(seen, OUTSIDE, scores), truth)[rows], truth[rows])
