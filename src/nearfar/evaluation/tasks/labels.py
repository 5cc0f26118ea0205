"""Labels: accuracy of the nearest training items; beside it a linear probe and retrieval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nearfar import modalities as kinds
from nearfar.checks import PositiveInt
from nearfar.errors import InputError
from nearfar.evaluation.chance import expected_retrieval
from nearfar.evaluation.embedding import Embed
from nearfar.evaluation.probe import Accuracy, knn_scores, linear_probe, svm_probe
from nearfar.evaluation.relevance import same
from nearfar.evaluation.retrieval import rank
from nearfar.evaluation.search_task import RETRIEVAL, SearchTask
from nearfar.evaluation.searches import Search, Side, pick_examples
from nearfar.evaluation.task import Scores, first_role, register
from nearfar.similarity import Source
from nearfar.units import Metric

if TYPE_CHECKING:
    from nearfar.sources.data import Data


@register
class LabelTask(SearchTask):
    """kNN accuracy against the training part; beside it a linear probe and retrieval of the same label.

    Args:
        neighbours: how many of the nearest training items vote.
        svm: beside the linear probe a support vector machine with an RBF kernel; default for time series, whose papers
            report it.
    """

    primary = "knn"
    metrics = {
        "knn": Metric("kNN accuracy"),
        "probe": Metric("probe accuracy"),
        "svm": Metric("SVM accuracy"),
        "knn_balanced": Metric("balanced kNN accuracy", brief=False),
        "balanced": Metric("balanced"),
        **RETRIEVAL,
    }
    chance_words = "always the commonest label"
    max_train = 50_000

    def __init__(
        self,
        data: Data,
        *,
        modalities: Sequence[str] | None = None,
        neighbours: PositiveInt = 20,
        svm: bool | None = None,
    ):
        super().__init__(data)
        self.role = str(first_role(data, modalities))
        self.svm = kinds.of(self.role).by_svm if svm is None else svm
        self.roles, self.column, self.k = (self.role,), next(iter(data.labels)), neighbours

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        return bool(data.labels) and first_role(data, modalities) is not None

    @classmethod
    def priority(cls, data: Data) -> int:
        return 20

    @property
    def labels(self) -> np.ndarray:
        return np.asarray(self.data.labels[self.column])

    @property
    def target_labels(self) -> np.ndarray:
        return self.labels

    def labelled(self, split: str) -> np.ndarray:
        rows = self.rows(split)
        rows = rows[self.labels[rows] >= 0]
        if not len(rows):
            raise InputError(f"No row of the {split} split has a value in '{self.column}'.")
        return rows

    def check(self) -> None:
        self.gallery()
        for split in self.held_out:
            self.labelled(split)

    def gallery(self) -> np.ndarray:
        """Training rows with a label, of two classes at least."""
        gallery = self.labelled("train")
        if len(np.unique(self.labels[gallery])) < 2:
            raise InputError(
                f"'{self.column}' has one value only in the training part, so accuracy says nothing.",
                "Give another label column, or leave it out for a proxy measure.",
            )
        return gallery

    def searches(self, split: str) -> list[Search]:
        """First the training part as the gallery (kNN), then the split itself (retrieval)."""
        labels, contents = self.labels, np.asarray(self.data.content(self.role))
        gallery, rows = self.draw(self.gallery(), self.max_train), self.labelled(split)
        asked = self.draw(rows)
        sides = [("kNN", gallery), (f"same {self.column}", rows)]
        return [
            Search(
                name,
                Side(self.role, asked),
                Side(self.role, side),
                len(side),
                same(labels[asked], labels[side]),
                same(contents[asked], contents[side]),
                self.units(asked),
            )
            for name, side in sides
        ]

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> Scores:
        scores = super().evaluate(embed, split, examples=examples)
        parts = self.probe_rows(split)
        arguments = [part for rows in parts for part in (embed(self.role, rows), self.labels[rows])]
        for name, measured in self.probes.items():
            found = measured(*arguments)
            scores.metrics[name] = found.accuracy
            scores.directions[name] = {name: found.accuracy, "balanced": found.balanced}
        return scores

    @property
    def probes(self) -> dict[str, Callable[..., Accuracy]]:
        return {"probe": linear_probe} | ({"svm": svm_probe} if self.svm else {})

    def probe_rows(self, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows to fit on, to choose the strength on, and to score: never one in two of them."""
        train, test = self.labelled("train"), self.draw(self.labelled(split))
        if split != "val":
            return self.draw(train), self.draw(self.labelled("val")), test
        train = np.random.default_rng(0).permutation(self.draw(train))
        return train[len(train) // 5 :], train[: len(train) // 5], test

    def evaluate_scores(self, scorer: Callable[[Search], Source], split: str = "val", *, examples: int = 0) -> Scores:
        near, alike = self.searches(split)
        votes = self.vote(near, scorer(near))
        ranked = scorer(alike)
        found = rank(ranked, alike.relevant, alike.hidden, ks=self.ks)
        shown = pick_examples(alike, ranked, found, examples) if examples else []
        metrics = {"knn": votes.accuracy, "knn_balanced": votes.balanced, **found.metrics}
        counts = {"queries": votes.n, "skipped": 0, "gallery": len(near.gallery.rows)}
        return Scores(
            "knn",
            votes.accuracy,
            metrics,
            {"kNN": {"knn": votes.accuracy, "balanced": votes.balanced}, alike.name: found.metrics},
            {"kNN": votes.correct.astype(np.float64)},
            {"kNN": near.clusters},
            {"kNN": counts},
            split,
            shown,
        )

    def vote(self, near: Search, scorer: Source) -> Accuracy:
        return knn_scores(
            scorer,
            self.labels[near.gallery.rows],
            self.labels[near.query.rows],
            np.arange(len(near.query.rows)),
            k=self.k,
            hidden=near.hidden,
        )

    def describe(self) -> str:
        return (
            f"Accuracy of a weighted vote of the {self.k} nearest training items on '{self.column}' (kNN); beside "
            f"it a linear probe{', a support vector machine' if self.svm else ''} and retrieval of items with the same "
            "label."
        )

    def chance(self, split: str) -> Scores:
        """Always saying the commonest label; for the retrieval a random ranking."""
        near, alike = self.searches(split)
        train, test = self.labels[near.gallery.rows], self.labels[near.query.rows]
        guess = np.bincount(train).argmax()
        correct = (test == guess).astype(np.float64)
        value, balanced = float(correct.mean()), 1 / len(np.unique(test)) if guess in test else 0.0
        found = expected_retrieval(alike, self.ks)
        metrics = {"knn": value, "knn_balanced": balanced, **dict.fromkeys(self.probes, value), **found.metrics}
        counts = {"queries": len(test), "skipped": 0, "gallery": len(train)}
        return Scores(
            "knn",
            value,
            metrics,
            {"kNN": {"knn": value, "balanced": balanced}, alike.name: found.metrics},
            {"kNN": correct},
            {"kNN": near.clusters},
            {"kNN": counts},
            split,
        )
