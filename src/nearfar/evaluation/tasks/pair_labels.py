"""Pair classification: whether similarities tell pairs that belong together from pairs that do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nearfar.errors import InputError
from nearfar.evaluation.paired_task import PairedTask, PairScores
from nearfar.evaluation.pairwise import average_precision, best_threshold, blind, f1_at, tell_apart
from nearfar.evaluation.searches import Search
from nearfar.evaluation.task import register
from nearfar.similarity import Source
from nearfar.units import Metric

if TYPE_CHECKING:
    from nearfar.sources.data import Data


@register
class PairLabelTask(PairedTask):
    """Whether the similarity of two columns tells pairs labelled 1 from pairs labelled 0 (paraphrases, duplicates)."""

    asks_model = True
    primary = "ap"
    metrics = {
        "ap": Metric("AP"),
        "accuracy": Metric("accuracy"),
        "f1": Metric("F1"),
        "best f1": Metric("best F1 (upper bound)"),
    }
    beside = "f1"
    chance_words = "the share of pairs labelled 1; the commoner label; all pairs for F1"
    needs = "It needs two columns and the label of each pair, 1 or 0: --pair-label COLUMN."

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        return "pair_label" in data.roles and super().possible(data, modalities)

    def searches(self, split: str) -> list[Search]:
        return [self.paired(self.judged(split))]

    def judged(self, split: str) -> np.ndarray:
        """Rows whose pair has a label. Raises InputError where all have the same."""
        self.rows(split)
        rows = self.labelled(split)
        together = int((self.pair_labels[rows] == 1).sum())
        if together in (0, len(rows)):
            raise InputError(
                f"The {split} split of {self.data.name} has {together:,} pairs labelled 1 and {len(rows) - together:,} "
                "labelled 0: to tell them apart it needs both.",
                "Check the columns of --pair-label and --split, or measure retrieval: --task pairs.",
            )
        return rows

    def check(self) -> None:
        for split in self.held_out:
            self.judged(split)

    def describe(self) -> str:
        a, b = self.roles
        return (
            f"How well the cosine of {a} and {b} (or what a model says of the pair itself) tells "
            f"'{self.data.roles['pair_label']}' 1 from 0: average precision; "
            "beside it accuracy and F1 at the threshold that validation pairs (for those, training pairs) chose, and "
            "F1 at the best threshold of the pairs themselves, an upper bound that no threshold chosen beforehand "
            "reaches."
        )

    def evaluate_scores(
        self, scorer: Callable[[Search], Source], split: str = "val", *, examples: int = 0
    ) -> PairScores:
        rows, deciding = self.judged(split), self.deciding(split)
        scores, labels = self.similarities(scorer, rows), self.pair_labels[rows]
        ahead, known = self.similarities(scorer, deciding), self.pair_labels[deciding]

        def measured(part: np.ndarray) -> dict[str, float]:
            best = best_threshold(scores[part], labels[part], "f1")
            found = tell_apart(scores[part], labels[part], ahead, known)
            return found | ({"best f1": f1_at(scores[part], labels[part], best)} if found else {})

        return self.scored(measured, scores, rows, split)

    def scored(
        self, measured: Callable[[np.ndarray], dict[str, float]], scores: np.ndarray, rows: np.ndarray, split: str
    ) -> PairScores:
        metrics, units = measured(np.arange(len(rows))), self.units(rows)
        return PairScores(
            "ap",
            metrics["ap"],
            metrics,
            {self.paired(rows).name: metrics},
            {"ap": np.zeros(0)},
            {"ap": units},
            {"pairs": {"queries": len(rows), "skipped": len(self.rows(split)) - len(rows), "gallery": len(rows)}},
            split,
            domains={name: found for name, found in self.by_domain(rows, measured).items() if "ap" in found},
            statistic=average_precision,
            similarities=scores,
            truth=self.pair_labels[rows],
            units=units,
        )

    def chance(self, split: str) -> PairScores:
        rows = self.judged(split)

        def measured(part: np.ndarray) -> dict[str, float]:
            found = blind(self.pair_labels[rows][part])
            return found | {"best f1": found["f1"]} if found["ap"] else {}

        return replace(self.scored(measured, np.zeros(len(rows)), rows, split), statistic=None)
