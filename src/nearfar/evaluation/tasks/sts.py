"""Semantic textual similarity: whether similarities follow the scores of pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar import modalities as kinds
from nearfar.errors import InputError
from nearfar.evaluation.biases import biases, chance_bias
from nearfar.evaluation.embedding import Embed, Whitened
from nearfar.evaluation.paired_task import PairedTask, PairScores
from nearfar.evaluation.pairwise import pearson, spearman
from nearfar.evaluation.searches import Search
from nearfar.evaluation.task import Scores, register
from nearfar.similarity import Source
from nearfar.units import Metric

if TYPE_CHECKING:
    from nearfar.sources.data import Data


@register
class GradedTask(PairedTask):
    """Whether the similarity of two columns follows the score of their pairs (semantic textual similarity).

    Args:
        whiten: centre and whiten the vectors first, by those of the training rows: whether scores suffer from
            directions that all vectors share.
        biases: how far the similarity of pairs graded lowest (in the lowest fifth of the grades) follows their lengths
            and their shared words as well, as a correlation without its sign: 0 is right.
    """

    asks_model = True
    primary = "spearman"
    metrics = {"spearman": Metric("Spearman", "correlation"), "pearson": Metric("Pearson", "correlation"),
               "length bias": Metric("length bias", "correlation", higher_is_better=False),
               "surface bias": Metric("surface bias", "correlation", higher_is_better=False)}  # fmt: skip
    beside = "pearson"
    chance_words = "no correlation"
    needs = "It needs two columns and the score of each pair: --score COLUMN."

    def __init__(
        self, data: Data, *, modalities: Sequence[str] | None = None, whiten: bool = False, biases: bool = False
    ):
        super().__init__(data, modalities=modalities)
        self.whiten, self.biases = whiten, biases
        if biases and {kinds.of(role).name for role in self.roles} != {"text"}:
            raise InputError("Biases of length and words are those of two columns of texts.", "Leave out --biases.")

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> Scores:
        asked: Any = Whitened(embed, self.roles, self.rows("train")) if self.whiten else embed
        return super().evaluate(asked, split, examples=examples)

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
            f"How well the cosine of {a} and {b} (or what a model says of the pair itself) follows "
            f"'{self.data.roles['score']}': Spearman's rank correlation (times 100; 0 is chance, below 0 is the wrong "
            "way round), with Pearson's beside it"
            + (", of vectors whitened by those of the training rows." if self.whiten else ".")
            + (
                " Beside it how the cosine of pairs graded lowest follows lengths and words (0 is right)."
                if self.biases
                else ""
            )
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

        texts = [self.data.texts(role, rows) for role in self.roles] if self.biases else []

        def measured(part: np.ndarray) -> dict[str, float]:
            found = {
                "spearman": spearman(similarities[part], grades[part]),
                "pearson": pearson(similarities[part], grades[part]),
            }
            own = [[side[row] for row in part.tolist()] for side in texts]
            return found | (biases(own[0], own[1], similarities[part], grades[part]) if own else {})

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
        found = self.scored(np.zeros(len(rows)), rows, split)
        assert self.data.scores is not None
        found.metrics.update({name: chance_bias(self.data.scores[rows]) for name in found.metrics if "bias" in name})
        return replace(found, statistic=None)
