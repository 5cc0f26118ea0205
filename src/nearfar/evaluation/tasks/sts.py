"""Semantic textual similarity: whether similarities follow the scores of pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nearfar.evaluation.paired_task import PairedTask, PairScores
from nearfar.evaluation.pairwise import pearson, spearman
from nearfar.evaluation.searches import Search
from nearfar.evaluation.task import register
from nearfar.similarity import Source
from nearfar.units import Metric

if TYPE_CHECKING:
    from nearfar.sources.data import Data


@register
class GradedTask(PairedTask):
    """Whether the similarity of two columns follows the score of their pairs (semantic textual similarity)."""

    primary = "spearman"
    metrics = {"spearman": Metric("Spearman", "correlation"), "pearson": Metric("Pearson", "correlation")}
    beside = "pearson"
    chance_words = "no correlation"
    needs = "It needs two columns and the score of each pair: --score COLUMN."

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        return "score" in data.roles and super().possible(data, modalities)

    @classmethod
    def priority(cls, data: Data) -> int:
        return 50

    def searches(self, split: str) -> list[Search]:
        return [self.paired(self.draw(self.rows(split)))]

    def describe(self) -> str:
        a, b = self.roles
        return (
            f"How well the cosine of {a} and {b} follows '{self.data.roles['score']}': Spearman's rank correlation "
            "(times 100; 0 is chance, below 0 is the wrong way round), with Pearson's beside it."
        )

    def evaluate_scores(
        self, scorer: Callable[[Search], Source], split: str = "val", *, examples: int = 0
    ) -> PairScores:
        rows = self.draw(self.rows(split))
        return self.scored(self.similarities(scorer, rows), rows, split)

    def scored(self, similarities: np.ndarray, rows: np.ndarray, split: str) -> PairScores:
        """Scores from the similarity of each pair."""
        assert self.data.scores is not None
        grades, name = self.data.scores[rows], self.paired(rows).name

        def measured(part: np.ndarray) -> dict[str, float]:
            return {
                "spearman": spearman(similarities[part], grades[part]),
                "pearson": pearson(similarities[part], grades[part]),
            }

        metrics = measured(np.arange(len(rows)))
        return PairScores(
            "spearman",
            metrics["spearman"],
            metrics,
            {name: metrics},
            {"spearman": np.zeros(0)},
            {"spearman": self.units(rows)},
            {"pairs": {"queries": len(rows), "skipped": 0, "gallery": len(rows)}},
            split,
            domains=self.by_domain(rows, measured, least=2),
            statistic=spearman,
            similarities=similarities,
            truth=grades,
            units=self.units(rows),
        )

    def chance(self, split: str) -> PairScores:
        rows = self.draw(self.rows(split))
        return replace(self.scored(np.zeros(len(rows)), rows, split), statistic=None)
