"""Tasks on two columns whose items belong together: the similarity of the two sides of a row, as a whole and by
domain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nearfar.evaluation.embedding import Embed
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


class OwnScores(Source):
    """Scores (n,) that a model gives pairs, as those of n x n of which the diagonal alone is known; 0 elsewhere."""

    dtype, device, tile_shape, rounding = torch.float64, torch.device("cpu"), (256, 256), 0.0

    def __init__(self, scores: np.ndarray):
        self.scores, self.shape = torch.from_numpy(scores), (len(scores), len(scores))

    def tile(self, rows: slice, columns: slice, tensors: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        i, j = (torch.arange(self.shape[0])[part] for part in (rows, columns))
        return self.scores[i][:, None] * (i[:, None] == j)


class PairedTask(SearchTask):
    """A task on the two columns whose items belong together.

    asks_model: whether a model that scores pairs itself is asked, in place of the similarity of its vectors.
    """

    asks_model = False

    def __init__(self, data: Data, *, modalities: Sequence[str] | None = None):
        super().__init__(data)
        pair = pair_of(data, modalities)
        assert pair is not None
        self.roles = pair

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        return pair_of(data, modalities) is not None

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> Scores:
        own = self.own_scores(embed) if self.asks_model else None
        if own is None:
            return super().evaluate(embed, split, examples=examples)
        return self.evaluate_scores(lambda search: OwnScores(own(search.query.rows)), split, examples=examples)

    def own_scores(self, embed: Embed) -> Callable[[np.ndarray], np.ndarray] | None:
        """rows -> what a model says of their pairs, float64 (n,); None for one that does not score pairs."""
        answer: Any = getattr(embed, "inference", None)

        def scored(rows: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return answer.of_pairs(self.data, rows, embed).double().cpu().numpy()

        return scored if answer is not None and answer.scores_pairs else None

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
