"""Semantic textual similarity: whether similarities follow the scores of pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from nearfar.evaluation.pairwise import bootstrap_spearman, paired_scores, pearson, spearman
from nearfar.evaluation.search_task import SearchTask
from nearfar.evaluation.searches import Search, paired_search
from nearfar.evaluation.statistics import Interval
from nearfar.evaluation.task import Scores, pair_of, register
from nearfar.similarity import Source
from nearfar.units import Metric

if TYPE_CHECKING:
    from nearfar.sources.data import Data


@dataclass(frozen=True)
class GradedScores(Scores):
    """Scores of graded pairs; -1..1. A correlation is no mean over pairs, so the bootstrap draws the pairs anew.
    similarities, grades, units: (n,)."""

    similarities: np.ndarray = field(default_factory=lambda: np.zeros(0))
    grades: np.ndarray = field(default_factory=lambda: np.zeros(0))
    units: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def bootstrap(self, *, draws: int = 1000, seed: int = 0) -> Interval:
        if not len(self.grades):
            return Interval(self.primary, None, None, 0)
        return bootstrap_spearman(self.similarities, self.grades, self.units, draws=draws, seed=seed)


@register
class GradedTask(SearchTask):
    """Whether the similarity of two columns follows the score of their pairs (semantic textual similarity)."""

    primary = "spearman"
    metrics = {"spearman": Metric("Spearman", "correlation"), "pearson": Metric("Pearson", "correlation")}
    beside = "pearson"
    chance_words = "no correlation"
    needs = "It needs two columns and the score of each pair: --score COLUMN."

    def __init__(self, data: Data, *, modalities: Sequence[str] | None = None):
        super().__init__(data)
        pair = pair_of(data, modalities)
        assert pair is not None
        self.roles = pair

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        return "score" in data.roles and pair_of(data, modalities) is not None

    @classmethod
    def priority(cls, data: Data) -> int:
        return 50

    def searches(self, split: str) -> list[Search]:
        rows = self.draw(self.rows(split))
        return [paired_search(rows, self.roles, self.units(rows))]

    def describe(self) -> str:
        a, b = self.roles
        return (
            f"How well the cosine of {a} and {b} follows '{self.data.roles['score']}': Spearman's rank correlation "
            "(times 100; 0 is chance, below 0 is the wrong way round), with Pearson's beside it."
        )

    def evaluate_scores(
        self, scorer: Callable[[Search], Source], split: str = "val", *, examples: int = 0
    ) -> GradedScores:
        search = self.searches(split)[0]
        return self.scored(paired_scores(scorer(search)), search, split)

    def scored(self, similarities: np.ndarray, search: Search, split: str) -> GradedScores:
        """Scores from the similarity of each pair."""
        assert self.data.scores is not None
        grades = self.data.scores[search.query.rows]
        metrics = {"spearman": spearman(similarities, grades), "pearson": pearson(similarities, grades)}
        counts = {"pairs": {"queries": len(grades), "skipped": 0, "gallery": len(grades)}}
        return GradedScores(
            "spearman",
            metrics["spearman"],
            metrics,
            {search.name: metrics},
            {"spearman": np.zeros(0)},
            {"spearman": search.clusters},
            counts,
            split,
            similarities=similarities,
            grades=grades,
            units=search.clusters,
        )

    def chance(self, split: str) -> GradedScores:
        search = self.searches(split)[0]
        metrics = {"spearman": 0.0, "pearson": 0.0}
        counts = {"pairs": {"queries": len(search.query.rows), "skipped": 0, "gallery": len(search.query.rows)}}
        return GradedScores(
            "spearman",
            0.0,
            metrics,
            {search.name: metrics},
            {"spearman": np.zeros(0)},
            {"spearman": search.clusters},
            counts,
            split,
        )
