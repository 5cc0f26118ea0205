"""Scores of given pairs: how well similarities tell labelled pairs apart, and how well they follow graded ones.

Sources: average precision, Manning, Raghavan, Schuetze, "Introduction to Information Retrieval" (2008), chapter 8;
rank correlation of similarities with human grades, Cer et al., SemEval 2017 task 1.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from nearfar.errors import InputError
from nearfar.evaluation.statistics import Interval
from nearfar.similarity import Source

BLOCK = 256


def paired_scores(source: Source) -> np.ndarray:
    """float64 (n,): the score of query i with gallery item i of an n x n source."""
    count = source.shape[0]
    parts = []
    for start in range(0, count, BLOCK):
        rows = slice(start, min(start + BLOCK, count))
        parts.append(source.tile(rows, rows, source.tensors()).diagonal().double().cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros(0)


def average_precision(scores: Any, labels: Any) -> float:
    """Mean over the pairs labelled 1 of the precision at their place, highest score first; (n,) each.

    A tie never helps: of equal scores those labelled 0 come first. NaN without a pair labelled 1.
    """
    labels = np.asarray(labels, bool)
    order = np.lexsort((labels, -np.asarray(scores, np.float64)))
    places = np.flatnonzero(labels[order]) + 1
    return float((np.arange(1, len(places) + 1) / places).mean()) if len(places) else float("nan")


def best_threshold(scores: Any, labels: Any, measure: str = "accuracy") -> float:
    """The threshold t with the best accuracy or F1 of "1 where score >= t"; halfway between two scores."""
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, bool)
    values = np.unique(scores)
    cuts = np.concatenate([[-np.inf], (values[1:] + values[:-1]) / 2, [np.inf]])
    ones, zeros = np.sort(scores[labels]), np.sort(scores[~labels])
    true = len(ones) - np.searchsorted(ones, cuts)
    false = len(zeros) - np.searchsorted(zeros, cuts)
    value = true - false if measure == "accuracy" else 2 * true / np.maximum(true + false + len(ones), 1)
    return float(cuts[int(np.argmax(value))])


def accuracy_at(scores: Any, labels: Any, threshold: float) -> float:
    return float(((np.asarray(scores, np.float64) >= threshold) == np.asarray(labels, bool)).mean())


def f1_at(scores: Any, labels: Any, threshold: float) -> float:
    """Harmonic mean of precision and recall of the pairs labelled 1; 0 where neither side holds one."""
    found, labels = np.asarray(scores, np.float64) >= threshold, np.asarray(labels, bool)
    both = found.sum() + labels.sum()
    return float(2 * (found & labels).sum() / both) if both else 0.0


def pearson(a: Any, b: Any) -> float:
    """Linear correlation of (n,) and (n,), -1..1; 0 where one of them is constant. Raises InputError for n < 2."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if len(a) < 2:
        raise InputError(f"A correlation needs at least two pairs with a score. Got {len(a)}.")
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def spearman(a: Any, b: Any) -> float:
    """`pearson` of the ranks, equal values sharing their mean rank."""
    from scipy.stats import rankdata

    return pearson(rankdata(a), rankdata(b))


def tell_apart(scores: Any, labels: Any, ahead: Any, known: Any) -> dict[str, float]:
    """How well scores (n,) tell pairs labelled 1 from pairs labelled 0: "ap", and "accuracy" and "f1" at the threshold
    that is best for other pairs of scores `ahead` (m,) and labels `known`; without them where they lack a label.
    Empty without a pair labelled 1."""
    labels, known = np.asarray(labels), np.asarray(known)
    if not (labels == 1).any():
        return {}
    found = {"ap": average_precision(scores, labels)}
    if len(np.unique(known)) < 2:
        return found
    return found | {
        "accuracy": accuracy_at(scores, labels, best_threshold(ahead, known)),
        "f1": f1_at(scores, labels, best_threshold(ahead, known, "f1")),
    }


def blind(labels: Any) -> dict[str, float]:
    """`tell_apart` of scores that say nothing: the commoner label for all; for F1 all pairs."""
    labels = np.asarray(labels)
    share = float((labels == 1).mean()) if len(labels) else 0.0
    return {"ap": share, "accuracy": max(share, 1 - share), "f1": 2 * share / (1 + share)}


def bootstrap_pairs(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    a: np.ndarray,
    b: np.ndarray,
    clusters: np.ndarray,
    *,
    draws: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a statistic of (n,) and (n,), drawing whole clusters (n,) of pairs anew; draws of which it
    is NaN are left out. Seeded."""
    code = np.unique(clusters, return_inverse=True)[1].reshape(-1)
    count = int(code.max(initial=-1)) + 1
    mean = statistic(a, b)
    if count < 3:
        return Interval(mean, None, None, count)
    order = np.argsort(code, kind="stable")
    starts, sizes = np.searchsorted(code[order], np.arange(count)), np.bincount(code)
    generator, values = np.random.default_rng(seed), np.empty(draws)
    for draw in range(draws):
        chosen = generator.integers(count, size=count)
        within = np.arange(sizes[chosen].sum()) - np.repeat(np.cumsum(sizes[chosen]) - sizes[chosen], sizes[chosen])
        rows = order[np.repeat(starts[chosen], sizes[chosen]) + within]
        values[draw] = statistic(a[rows], b[rows])
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(low), float(high), count)


def placements(scores: Any, labels: Any) -> np.ndarray:
    """Of each item labelled 1 the share of items labelled 0 below it, equal ones counted half, (p,): their mean is the
    area under the ROC curve. Source: DeLong et al., Biometrics 1988."""
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, bool)
    zeros = np.sort(scores[~labels])
    below, upto = (np.searchsorted(zeros, scores[labels], side=side) for side in ("left", "right"))
    return (below + upto) / 2 / max(1, len(zeros))


def auc(scores: Any, labels: Any) -> float:
    """Area under the ROC curve, 0..1, chance 0.5. NaN where either label is missing; (n,) each."""
    labels = np.asarray(labels, bool)
    return float(placements(scores, labels).mean()) if 0 < labels.sum() < len(labels) else float("nan")
