"""Bitext retrieval: find the translation of a sentence, both ways, for each pair of languages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nearfar.checks import PositiveInt
from nearfar.evaluation.margin import Margin, MarginScorer
from nearfar.evaluation.searches import Search
from nearfar.evaluation.task import Scores, register
from nearfar.evaluation.text_pair_task import Pool, TextPairTask
from nearfar.similarity import Source
from nearfar.units import Metric

if TYPE_CHECKING:
    from nearfar.sources.data import Data


@register
class BitextTask(TextPairTask):
    """Whether the nearest sentence of the other language is the translation: accuracy@1 both ways, by language pair
    where rows name one, and the mean (Artetxe and Schwenk, TACL 2019, sec. 4.3).

    Args:
        pool: what a sentence is ranked among: all of the split, or those of its own language pair; auto: the latter
            where there are domains.
        candidates: at most so many rows of each pool, the same ones each time; default all.
        margin: ranks by the cosine alone, or beside the cosines of the nearest neighbours of both sides: their
            difference or their ratio (xsim).
        nearest: neighbours of each side that make the margin.
    """

    metrics = {"hit@1": Metric("accuracy@1"), **{k: v for k, v in TextPairTask.metrics.items() if k != "hit@1"}}
    beside = "mrr"

    def __init__(
        self,
        data: Data,
        *,
        modalities: Sequence[str] | None = None,
        pool: Pool = "auto",
        candidates: PositiveInt | None = None,
        margin: Margin = "none",
        nearest: PositiveInt = 4,
    ):
        super().__init__(data, pool=pool, candidates=candidates)
        self.primary, self.nearest = "hit@1", nearest
        self.margin: Margin = margin

    def describe(self) -> str:
        words = {"none": "the cosine", "distance": "the margin (distance)", "ratio": "the margin (ratio)"}
        return f"{super().describe()} Ranked by {words[self.margin]}."

    def evaluate_scores(self, scorer: Callable[[Search], Source], split: str = "val", *, examples: int = 0) -> Scores:
        if self.margin == "none":
            return super().evaluate_scores(scorer, split, examples=examples)

        def margined(search: Search) -> Source:
            return MarginScorer(scorer(search), self.margin, self.nearest)

        return super().evaluate_scores(margined, split, examples=examples)
