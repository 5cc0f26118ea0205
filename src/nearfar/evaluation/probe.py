"""How well labels can be read from an embedding: by nearest neighbours, a linear probe, a support vector machine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nearfar.errors import InputError
from nearfar.evaluation.neighbours import VectorScorer, topk
from nearfar.similarity import Relation, Source
from nearfar.similarity.relations import check_ids
from nearfar.vectors import as_vectors


@dataclass(frozen=True)
class Accuracy:
    """accuracy and its mean over classes (`balanced`), both 0..1; correct: bool (n,) of the `n` labelled test items,
    whose numbers are `items`; setting: what was chosen (k, or C of the probe); told: the label that each was
    given, (n,)."""

    accuracy: float
    balanced: float
    correct: np.ndarray
    items: np.ndarray
    setting: dict[str, float]
    told: np.ndarray

    @property
    def n(self) -> int:
        return len(self.correct)


def knn(train_z: Any, train_y: Any, test_z: Any, test_y: Any, *, k: int = 20, temperature: float = 0.07) -> Accuracy:
    """Vote of the k nearest training items by cosine, each weighing exp(cosine / temperature).

    Shapes (n, d), (n,), (m, d), (m,); label -1 = missing, left out. k is cut to the training size. Equal votes: the
    class with the lower number. Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination", CVPR 2018 (k = 200, temperature 0.07). Raises InputError where no labelled item is left.
    """
    train_z, train_y, _ = _labelled(train_z, train_y, "training")
    test_z, test_y, items = _labelled(test_z, test_y, "test")
    return knn_scores(VectorScorer(test_z, train_z), train_y, test_y, items, k=k, temperature=temperature)


def knn_scores(
    scorer: Source,
    train_y: np.ndarray,
    test_y: np.ndarray,
    items: np.ndarray,
    *,
    k: int = 20,
    temperature: float = 0.07,
    hidden: Relation | None = None,
) -> Accuracy:
    """`knn` for any source; every label is known here."""
    near = topk(scorer, k, hidden)
    classes, code = np.unique(train_y, return_inverse=True)
    guess = np.empty(len(near.indices), classes.dtype)
    for start in range(0, len(guess), 4096):
        rows = slice(start, start + 4096)
        guess[rows] = classes[_votes(near.scores[rows], near.indices[rows], code, len(classes), temperature).argmax(1)]
    return _accuracy(guess, test_y, items, {"k": near.indices.shape[1]})


def _votes(scores: np.ndarray, indices: np.ndarray, code: np.ndarray, classes: int, temperature: float) -> np.ndarray:
    """float64 (n, classes) of neighbours (n, k)."""
    seen = indices >= 0
    best = np.where(seen, scores, -np.inf).max(1, keepdims=True)
    weight = np.where(seen, np.exp((scores.astype(np.float64) - best) / temperature), 0)
    votes = np.zeros((len(scores), classes))
    np.add.at(votes, (np.arange(len(scores))[:, None], code[indices]), weight)
    return votes


def linear_probe(
    train_z: Any,
    train_y: Any,
    val_z: Any,
    val_y: Any,
    test_z: Any,
    test_y: Any,
    *,
    strengths: Sequence[float] = (0.01, 0.1, 1.0, 10.0),
    max_train: int = 10_000,
    seed: int = 0,
) -> Accuracy:
    """Multinomial logistic regression on standardised features; C is chosen on the validation part, the test part is
    used once. Trains on at most `max_train` items (a seeded draw). Label -1 = missing, left out.

    Raises InputError where the training part has one class only.
    """
    parts = (train_z, train_y, val_z, val_y, test_z, test_y)
    return _chosen("A linear probe", fit_probe, parts, strengths, max_train, seed)


def svm_probe(
    train_z: Any,
    train_y: Any,
    val_z: Any,
    val_y: Any,
    test_z: Any,
    test_y: Any,
    *,
    strengths: Sequence[float] = tuple(10.0**e for e in range(-4, 5)),
    max_train: int = 5_000,
    seed: int = 0,
) -> Accuracy:
    """Support vector machine with an RBF kernel on the features as they are, gamma = 1 / (d var); C is chosen on the
    validation part (of equal ones the least), the test part is used once. Otherwise as `linear_probe`.

    Source: Franceschi, Dieuleveut and Jaggi, NeurIPS 2019, and Yue et al., "TS2Vec", AAAI 2022 (the same values of C
    up to 10,000, chosen there by cross-validation on the training part).
    """
    parts = (train_z, train_y, val_z, val_y, test_z, test_y)
    return _chosen("A support vector machine", fit_svm, parts, strengths, max_train, seed)


def _chosen(
    name: str, fit: Callable[..., Any], parts: Sequence[Any], strengths: Sequence[float], max_train: int, seed: int
) -> Accuracy:
    train_z, train_y, val_z, val_y, test_z, test_y = parts
    train_z, train_y, _ = _labelled(train_z, train_y, "training")
    val_z, val_y, _ = _labelled(val_z, val_y, "validation")
    test_z, test_y, items = _labelled(test_z, test_y, "test")
    if len(train_z) > max_train:
        drawn = np.sort(np.random.default_rng(seed).choice(len(train_z), max_train, replace=False))
        train_z, train_y = train_z[drawn], train_y[drawn]
    if len(np.unique(train_y)) < 2:
        raise InputError(
            f"{name} needs at least two classes. Got one instead.",
            "Give another label column, or data with more classes.",
        )
    fitted = [fit(train_z, train_y, strength) for strength in strengths]
    best = int(np.argmax([(model.predict(val_z) == val_y).mean() for model in fitted]))
    return _accuracy(fitted[best].predict(test_z), test_y, items, {"C": strengths[best]})


def fit_svm(z: np.ndarray, y: np.ndarray, strength: float) -> Any:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import SVC

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return SVC(C=strength, gamma="scale", max_iter=100_000).fit(z, y)


def fit_probe(z: np.ndarray, y: np.ndarray, strength: float) -> Any:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300)).fit(z, y)


def _labelled(z: Any, y: Any, part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    z, y = as_vectors(z, f"{part} embeddings"), np.asarray(y)
    if len(z) != len(y):
        raise InputError(f"The {part} part has {len(z)} embeddings and {len(y)} labels.")
    check_ids(torch.from_numpy(y.astype(np.int64)))
    items = np.flatnonzero(y >= 0)
    if not len(items):
        raise InputError(f"No item of the {part} part has a label.", "Check the label column and the split.")
    return z[items], y[items], items


def _accuracy(guess: np.ndarray, truth: np.ndarray, items: np.ndarray, setting: dict[str, float]) -> Accuracy:
    correct = guess == truth
    balanced = float(np.mean([correct[truth == label].mean() for label in np.unique(truth)]))
    return Accuracy(float(correct.mean()), balanced, correct, items, setting, guess)
