"""Tasks on two columns whose items belong together: the similarity of the two sides of a row, as a whole and by
domain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from nearfar.evaluation.pairwise import bootstrap_pairs, paired_scores
from nearfar.evaluation.search_task import SearchTask
from nearfar.evaluation.searches import Search, paired_search
from nearfar.evaluation.statistics import Interval
from nearfar.evaluation.task import Scores, pair_of
from nearfar.similarity import Source

if TYPE_CHECKING:
    from nearfar.sources.data import Data

Scorer = Callable[[Search], Source]


@dataclass(frozen=True)
class PairScores(Scores):
    """Scores whose primary is a statistic of all pairs together and no mean over them, so the bootstrap draws the pairs
    anew. similarities, truth (a grade or a label), units: (n,)."""

    statistic: Callable[[np.ndarray, np.ndarray], float] | None = None
    similarities: np.ndarray = field(default_factory=lambda: np.zeros(0))
    truth: np.ndarray = field(default_factory=lambda: np.zeros(0))
    units: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def bootstrap(self, *, draws: int = 1000, seed: int = 0) -> Interval:
        if not len(self.truth) or self.statistic is None:
            return Interval(self.primary, None, None, 0)
        return bootstrap_pairs(self.statistic, self.similarities, self.truth, self.units, draws=draws, seed=seed)


class PairedTask(SearchTask):
    """A task on the two columns whose items belong together."""

    def __init__(self, data: Data, *, modalities: Sequence[str] | None = None):
        super().__init__(data)
        pair = pair_of(data, modalities)
        assert pair is not None
        self.roles = pair

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        return pair_of(data, modalities) is not None

    def paired(self, rows: np.ndarray) -> Search:
        """Rows whose two sides are compared with each other alone."""
        return paired_search(rows, self.roles, self.units(rows))

    def similarities(self, scorer: Scorer, rows: np.ndarray) -> np.ndarray:
        """float64 (n,): of the two sides of each row."""
        return paired_scores(scorer(self.paired(rows))) if len(rows) else np.zeros(0)

    @property
    def pair_labels(self) -> np.ndarray:
        assert self.data.pair_labels is not None
        return self.data.pair_labels

    def labelled(self, split: str) -> np.ndarray:
        """Rows of a split whose pair has a label, the same ones each time."""
        rows = np.sort(np.asarray(self.data.splits.get(split, ()), np.int64))
        return self.draw(rows[self.pair_labels[rows] >= 0])

    def deciding(self, split: str) -> np.ndarray:
        """Labelled rows that choose the threshold: of validation for test, of training for validation; none where they
        lack a label."""
        rows = self.labelled("train" if split == "val" else "val")
        return rows if len(np.unique(self.pair_labels[rows])) == 2 else rows[:0]
