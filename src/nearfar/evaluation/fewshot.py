"""Few-shot episodes: N classes never trained on, K labelled examples of each, all else to be told apart.

Protocol (Vinyals et al., NeurIPS 2016; Chen et al., ICLR 2019): an episode draws `ways` classes, `shots` labelled and
`queries` unlabelled items of each; the score is the mean accuracy over many episodes with its 95 % interval. Each
class prototypes are the means of the labelled vectors, with and without `opta`. The queries are told apart by

    logistic    a logistic regression on the prototypes alone, of vectors standardised over their features
                (BECLR, ICLR 2024)
    nearest     the prototype at the least Euclidean distance, of the vectors as they are (Snell et al., NeurIPS 2017)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, get_args

import numpy as np

from nearfar.checks import one_of
from nearfar.errors import InputError
from nearfar.evaluation.statistics import Interval, interval, paired_interval
from nearfar.evaluation.transport import opta, soft_k_means
from nearfar.vectors import as_vectors

Classifier = Literal["logistic", "nearest"]
Transductive = Literal["opta", "soft-k-means"]


@dataclass(frozen=True)
class Episode:
    """Item numbers: support (ways, shots) and query (ways, queries), row c of both for the c-th class drawn."""

    support: np.ndarray
    query: np.ndarray


def episodes(
    labels: Any, *, ways: int = 5, shots: int = 1, queries: int = 15, count: int = 600, seed: int = 0
) -> Iterator[Episode]:
    """Seeded episodes over items with labels (n,), -1 = missing; the same for every model that is compared.

    Raises InputError where fewer than `ways` classes have shots + queries items.
    """
    if min(ways - 1, shots, queries, count) < 1:
        raise InputError(f"An episode needs at least 2 ways, 1 shot and 1 query. Got {ways}, {shots} and {queries}.")
    labels = np.asarray(labels)
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    rich = classes[counts >= shots + queries]
    if len(rich) < ways:
        raise InputError(
            f"{ways}-way episodes with {shots} labelled and {queries} unlabelled items need {ways} classes of at least "
            f"{shots + queries} items; {len(rich)} of the {len(classes)} classes here have them.",
            "Use fewer --ways, --shots or --queries, or a larger share of held-out classes.",
        )
    members = {c: np.flatnonzero(labels == c) for c in rich}
    rng = np.random.default_rng([seed, ways, shots, queries])
    for _ in range(count):
        drawn = np.stack(
            [rng.choice(members[c], shots + queries, replace=False) for c in rng.choice(rich, ways, replace=False)]
        )
        yield Episode(drawn[:, :shots], drawn[:, shots:])


def standardised(z: Any) -> np.ndarray:
    """Each vector (n, d) less its own mean, divided by its own standard deviation (unbiased); a constant one is 0."""
    z = as_vectors(z).astype(np.float64)
    spread = z.std(1, ddof=1, keepdims=True) if z.shape[1] > 1 else np.zeros((len(z), 1))
    return (z - z.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1)


def logistic(prototypes: np.ndarray, queries: np.ndarray, *, strength: float = 1.0) -> np.ndarray:
    """The class (0 .. n - 1) of each query (m, d), by logistic regression on one example a class, prototypes (n, d).

    The weights of a ridge-penalised fit lie in the span of the prototypes, so it is done in n dimensions.
    """
    from sklearn.linear_model import LogisticRegression

    if np.ptp(prototypes, axis=0).max(initial=0) == 0:  # a collapsed encoder: nothing to fit, one class for all
        return np.zeros(len(queries), np.int64)
    basis = np.linalg.qr(prototypes.T)[0]
    fitted = LogisticRegression(C=strength, max_iter=1000).fit(prototypes @ basis, np.arange(len(prototypes)))
    return fitted.predict(queries @ basis)


def nearest(prototypes: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The prototype (n, d) at the least Euclidean distance of each query (m, d), 0 .. n - 1; the first of equals."""
    return np.square(queries[:, None] - prototypes[None]).sum(-1).argmin(1)


def prepared(z: Any, classifier: str) -> np.ndarray:
    """Vectors (n, d) as a classifier takes them, float64. Raises InputError for an unknown classifier."""
    one_of("classifier", classifier, get_args(Classifier))
    return standardised(z) if classifier == "logistic" else as_vectors(z).astype(np.float64)


def decided(prototypes: np.ndarray, queries: np.ndarray, classifier: str) -> np.ndarray:
    """The class (0 .. n - 1) of each query (m, d), from prototypes (n, d) of vectors that are `prepared`."""
    return logistic(prototypes, queries) if classifier == "logistic" else nearest(prototypes, queries)


def schedule(shots: int) -> tuple[int, float]:
    """Passes of the transport and the share of the original prototypes that is kept, by the labelled items a class."""
    return (5, 0.0) if shots == 1 else (1, 0.3)


def classified(
    support: Any, labels: Any, queries: Any, *, classifier: str = "logistic", transport: bool = True, eps: float = 0.05
) -> np.ndarray:
    """The class of each query (m, d), from labelled vectors (n, d) with labels (n,): prototypes are the means of a
    class, carried by transport onto all queries together if wanted. Returns labels, (m,).

    Raises InputError where there are fewer than two classes, and for an unknown classifier.
    """
    known, of = np.unique(np.asarray(labels), return_inverse=True)
    if len(known) < 2:
        raise InputError(f"Labelled rows of two classes at least are needed. Got {len(known)}.")
    z, cloud = prepared(support, classifier), prepared(queries, classifier)
    prototypes = np.stack([z[of == k].mean(0) for k in range(len(known))])
    if not len(cloud):
        return known[:0]
    if transport:
        prototypes = moved_by("opta", prototypes, cloud, int(np.bincount(of).min()), eps)
    return known[decided(prototypes, cloud, classifier)]


def moved_by(how: str, prototypes: np.ndarray, queries: np.ndarray, shots: int, eps: float) -> np.ndarray:
    """Prototypes (..., n, d) moved by all queries together, the passes as in `schedule`."""
    passes, keep = schedule(shots)
    if how == "opta":
        return opta(prototypes, queries, eps=eps, passes=passes, keep=keep)
    return soft_k_means(prototypes, queries, shots=shots, eps=eps, passes=passes)


@dataclass(frozen=True)
class FewShot:
    """Accuracy of every episode (count,), plain and with prototypes moved by the queries (`aligned`)."""

    plain: np.ndarray
    aligned: np.ndarray

    @property
    def interval(self) -> Interval:
        """Mean and 95 % interval over episodes without transport."""
        return interval(self.plain)

    @property
    def aligned_interval(self) -> Interval:
        return interval(self.aligned)

    @property
    def gain(self) -> Interval:
        """What transport adds, paired by episode."""
        return paired_interval(self.aligned - self.plain)


def few_shot(
    z: Any,
    labels: Any,
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    count: int = 600,
    classifier: str = "logistic",
    transductive: str = "opta",
    eps: float = 0.05,
    seed: int = 0,
) -> FewShot:
    """Accuracy over `count` seeded episodes of vectors z (n, d) with labels (n,), -1 = missing.

    classifier: "logistic" or "nearest", as above; transductive: what moves the prototypes, "opta" or "soft-k-means".
    Raises InputError for values that are not finite, too few items a class, an unknown classifier or way.
    """
    one_of("transductive", transductive, get_args(Transductive))
    z = prepared(z, classifier)
    truth, plain, aligned = np.repeat(np.arange(ways), queries), [], []
    drawn = episodes(labels, ways=ways, shots=shots, queries=queries, count=count, seed=seed)
    while part := list(islice(drawn, 64)):  # bounds the memory; the transport of all of them runs together
        prototypes = np.stack([z[one.support].mean(1) for one in part])
        clouds = np.stack([z[one.query].reshape(-1, z.shape[1]) for one in part])
        moved = moved_by(transductive, prototypes, clouds, shots, eps)
        for before, after, cloud in zip(prototypes, moved, clouds, strict=True):
            plain.append((decided(before, cloud, classifier) == truth).mean())
            aligned.append((decided(after, cloud, classifier) == truth).mean())
    return FewShot(np.array(plain), np.array(aligned))
