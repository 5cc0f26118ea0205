"""Tasks that search: queries, a gallery, who is relevant, who is hidden. They score anything that can rank: vectors
(`evaluate`) or a function of scores (`evaluate_scores`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nearfar.evaluation.chance import expected_retrieval
from nearfar.evaluation.embedding import Embed
from nearfar.evaluation.neighbours import VectorScorer
from nearfar.evaluation.references import by_kind
from nearfar.evaluation.retrieval import Retrieval, rank
from nearfar.evaluation.searches import Example, Search, Side, embed_side, pick_examples
from nearfar.evaluation.task import Part, Reference, Scores, Task, spaced
from nearfar.similarity import Source
from nearfar.units import Metric

RETRIEVAL = {
    "hit@1": Metric("hit@1"),
    "hit@5": Metric("hit@5", brief=False),
    "hit@10": Metric("hit@10"),
    "recall@1": Metric("recall@1", brief=False),
    "recall@5": Metric("recall@5", brief=False),
    "recall@10": Metric("recall@10"),
    "mrr": Metric("MRR"),
    "ndcg@10": Metric("nDCG@10"),
    "map": Metric("MAP", brief=False),
    "precision@1": Metric("precision@1", brief=False),
    "precision@5": Metric("precision@5", brief=False),
    "precision@10": Metric("precision@10", brief=False),
}


class SearchTask(Task):
    """A task of one or more searches (directions); its score is the mean of those that are asked."""

    primary = "hit@1"
    metrics = RETRIEVAL
    beside: str | None = "hit@10"
    part = Part("direction", "directions", "from queries → gallery")
    chance_words = "a random ranking, expected"
    ks: Sequence[int] = (1, 5, 10)

    def searches(self, split: str) -> list[Search]:
        raise NotImplementedError

    def summary(self, split: str = "test") -> dict[str, Any]:
        searches = self.searches(split)
        return super().summary(split) | {
            "directions": [search.name for search in searches],
            "hard": [search.name for search in hard(searches)],
        }

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> Scores:
        """Scores of vectors; with `examples` > 0 as many queries with their nearest items, hits and misses."""
        cache: dict[Any, np.ndarray] = {}

        def vectors(side: Side) -> np.ndarray:
            key = side.role, side.rows.tobytes(), side.changed, side.corpus
            if key not in cache:
                cache[key] = embed_side(self.data, embed, side)
            return cache[key]

        return self.evaluate_scores(
            lambda search: VectorScorer(vectors(search.query), vectors(search.gallery)), split, examples=examples
        )

    def evaluate_scores(self, scorer: Callable[[Search], Source], split: str = "val", *, examples: int = 0) -> Scores:
        """Scores of anything that ranks: `scorer(search)` gives the scores of its queries x its gallery."""
        searches = self.searches(split)
        scorers = {search.name: scorer(search) for search in searches}
        found = {
            search.name: rank(scorers[search.name], search.relevant, search.hidden, ks=self.ks) for search in searches
        }
        chosen = spaced(self.asked(searches), min(4, examples)) if examples else []
        shown = [
            example
            for search in chosen
            for example in pick_examples(search, scorers[search.name], found[search.name], -(-examples // len(chosen)))
        ]
        return self.collect(searches, found, split, shown[:examples])

    def asked(self, searches: list[Search]) -> list[Search]:
        """The directions whose mean is the score; the others are only listed."""
        return searches

    def collect(
        self, searches: list[Search], found: dict[str, Retrieval], split: str, examples: list[Example]
    ) -> Scores:
        """Means over the asked directions, all of equal weight."""
        asked = self.asked(searches)
        metrics = average([found[search.name].metrics for search in asked])
        demanding = hard(asked)
        if len(demanding) < len(asked):
            apart = average([found[search.name].metrics for search in demanding])
            metrics |= {f"hard/{name}": value for name, value in apart.items()}
        counts = {
            name: {"queries": result.n, "skipped": result.skipped, "gallery": result.gallery}
            for name, result in found.items()
        }
        return Scores(
            self.primary,
            metrics[self.primary],
            metrics,
            {name: result.metrics for name, result in found.items()},
            {search.name: found[search.name].per_query[self.primary] for search in asked},
            {search.name: search.clusters[found[search.name].answered] for search in asked},
            counts,
            split,
            examples,
        )

    def chance(self, split: str) -> Scores:
        """The expected scores of a random ranking, in closed form."""
        searches = self.searches(split)
        return self.collect(
            searches, {search.name: expected_retrieval(search, self.ks) for search in searches}, split, []
        )

    def references(self, *, size: int = 32) -> list[Reference]:
        return [
            Reference("chance", "chance", "chance", lambda split, examples=0: self.chance(split)),
            *by_kind(self, size),
        ]


def hard(searches: Sequence[Search]) -> list[Search]:
    """The directions whose two domains do not share outlines; all of them where none would be left."""
    return [search for search in searches if not search.shared_outline] or list(searches)


def average(metrics: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in metrics])) for name in metrics[0]}
