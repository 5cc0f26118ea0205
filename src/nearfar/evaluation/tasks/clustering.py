"""Clustering: whether k-means on the vectors finds the classes, which no training has seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.checks import PositiveInt
from nearfar.errors import InputError
from nearfar.evaluation.embedding import Embed
from nearfar.evaluation.references import by_kind
from nearfar.evaluation.task import Reference, Scores, Task, first_role, register
from nearfar.units import Metric

if TYPE_CHECKING:
    from nearfar.sources.data import Data


def matched_accuracy(truth: np.ndarray, found: np.ndarray) -> float:
    """Share of items (n,) whose cluster is matched with their class, 0..1, by the best one-to-one matching (Hungarian
    method)."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics.cluster import contingency_matrix

    table = contingency_matrix(truth, found)
    return float(table[linear_sum_assignment(-table)].sum() / len(truth))


@register
class ClusteringTask(Task):
    """NMI, ARI and matched accuracy of k-means with as many clusters as there are classes.

    Args:
        repeats: how many times k-means is started anew, each with ten starts of which the tightest counts; the mean is
            given.
    """

    primary = "nmi"
    metrics = {
        "nmi": Metric("NMI"),
        "ari": Metric("ARI"),
        "accuracy": Metric("matched accuracy"),
    }
    beside = "ari"
    chance_words = "clusters drawn at random"
    needs = "It needs a column of labels: --label COLUMN."

    def __init__(self, data: Data, *, modalities: Sequence[str] | None = None, repeats: PositiveInt = 5):
        super().__init__(data)
        self.role = str(first_role(data, modalities))
        self.roles, self.column, self.repeats = (self.role,), next(iter(data.labels)), repeats

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        return bool(data.labels) and first_role(data, modalities) is not None

    def labelled(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a split with a label, and their labels."""
        labels, rows = np.asarray(self.data.labels[self.column]), self.rows(split)
        rows = rows[labels[rows] >= 0]
        if len(np.unique(labels[rows])) < 2:
            raise InputError(f"The {split} split has fewer than two classes of '{self.column}': clusters say nothing.",
                             "Name another column with --label.")  # fmt: skip
        return self.draw(rows), labels[self.draw(rows)]

    def check(self) -> None:
        for split in self.held_out:
            self.labelled(split)

    def describe(self) -> str:
        return (
            f"k-means with as many clusters as '{self.column}' has classes in the split: NMI (arithmetic mean), ARI, "
            f"and accuracy after the best matching; the mean of {self.repeats} runs. A model that tells "
            "clusters is asked."
        )

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> Scores:
        from sklearn.cluster import KMeans

        rows, truth = self.labelled(split)
        answer = getattr(embed, "inference", None)
        if answer is not None and answer.assigns:
            return self.scored(truth, [answer.of_clusters(self.data, rows, embed)], split)
        vectors = np.asarray(embed(self.role, rows))
        count = len(np.unique(truth))
        starts: Any = 10
        runs = [KMeans(count, n_init=starts, random_state=seed).fit_predict(vectors) for seed in range(self.repeats)]
        return self.scored(truth, runs, split)

    def scored(self, truth: np.ndarray, runs: Sequence[np.ndarray], split: str) -> Scores:
        from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

        measures = {"nmi": normalized_mutual_info_score, "ari": adjusted_rand_score, "accuracy": matched_accuracy}
        metrics = {name: float(np.mean([measure(truth, run) for run in runs])) for name, measure in measures.items()}
        counts = {"rows": {"queries": len(truth), "skipped": len(self.rows(split)) - len(truth), "gallery": 0}}
        return Scores("nmi", metrics["nmi"], metrics, counts=counts, split=split)

    def references(self, *, size: int = 32) -> list[Reference]:
        def drawn(split: str, examples: int = 0) -> Scores:
            rng, (_, truth) = np.random.default_rng(0), self.labelled(split)
            count = len(np.unique(truth))
            return self.scored(truth, [rng.integers(count, size=len(truth)) for _ in range(self.repeats)], split)

        return [Reference("chance", "random clusters", "chance", drawn), *by_kind(self, size)]
