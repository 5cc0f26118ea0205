"""Next item: the item that a user met next, found among all items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from nearfar.evaluation.embedding import Embed
from nearfar.evaluation.neighbours import FunctionScorer, VectorScorer
from nearfar.evaluation.recommending import KS, expected_metrics, item_neighbours, next_item_metrics, popularity
from nearfar.evaluation.references import score_row
from nearfar.evaluation.relevance import listed
from nearfar.evaluation.retrieval import rank
from nearfar.evaluation.search_task import SearchTask
from nearfar.evaluation.searches import Search, Side, pick_examples
from nearfar.evaluation.task import Reference, Scores, register
from nearfar.similarity import Source
from nearfar.units import Metric

if TYPE_CHECKING:
    from nearfar.sources.data import Data
    from nearfar.sources.interactions import Log

USER, ITEM = "user", "item"
LAST = -1e30  # of a score: behind all others, finite in float32


@register
class NextItemTask(SearchTask):
    """The item that comes next, ranked among all items of training rows, none left out by sampling. A tie never helps;
    an item that no training row has, or that a model does not know, counts as missed.

    Args:
        seen: whether the items of the history itself stay in the ranking, or are left out of it (where nobody meets an
            item twice).
    """

    primary = "ndcg@10"
    metrics = {
        **{f"hit@{k}": Metric(f"HR@{k}", brief=k == 10) for k in KS},
        **{f"ndcg@{k}": Metric(f"nDCG@{k}", brief=k == 10) for k in KS},
        "mrr": Metric("MRR"),
        **{f"mrr@{k}": Metric(f"MRR@{k}", brief=False) for k in KS},
    }
    beside = "hit@10"
    chance_words = "a random order of all items, expected"
    needs = "It needs interactions: --user COLUMN --item COLUMN, and --time COLUMN."

    def __init__(
        self, data: Data, *, modalities: Sequence[str] | None = None, seen: Literal["keep", "leave-out"] = "keep"
    ):
        super().__init__(data)
        self.roles, self.seen = (USER, ITEM), seen

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        return {USER, ITEM} <= set(data.roles) and (modalities is None or "interactions" in modalities)

    @classmethod
    def priority(cls, data: Data) -> int | None:
        return 55

    @property
    def log(self) -> Log:
        from nearfar.sources.interactions import log_of

        return log_of(self.data)

    def searches(self, split: str) -> list[Search]:
        """One: the histories of the split's rows, and a row of each item."""
        log, rows = self.log, self.rows(split)
        wanted = log.items[rows]
        there = np.isin(wanted, log.known)
        pairs = np.stack([np.flatnonzero(there), np.searchsorted(log.known, wanted[there])], 1)
        size, hidden = len(log.known), None
        if self.seen == "leave-out":
            place = np.full(len(log.item_names), -1)
            place[log.known] = np.arange(size)
            codes, lengths = log.spans.of(rows, int(log.lengths.max(initial=1)))
            met = place[codes[np.arange(codes.shape[1]) < lengths[:, None]]]
            away = np.stack([np.repeat(np.arange(len(rows)), lengths), met], 1)[met >= 0]
            own = np.full(len(rows), -1)
            own[pairs[:, 0]] = pairs[:, 1]
            away = away[own[away[:, 0]] != away[:, 1]]  # an item that is met again is asked for
            hidden = listed(away, len(rows), size)
        return [Search(f"{USER} → {ITEM}", Side(USER, rows), Side(ITEM, log.sources), size,
                       listed(pairs, len(rows), size), hidden, log.users[rows])]  # fmt: skip

    def evaluate(self, embed: Embed, split: str = "val", *, examples: int = 0) -> Scores:
        search = self.searches(split)[0]
        queries, items = (np.asarray(embed(side.role, side.rows)) for side in (search.query, search.gallery))
        known: np.ndarray = np.any(items, axis=1)  # an item that a model does not know has no vector but zeros
        if not known.all():
            queries = np.pad(queries, ((0, 0), (0, 1)), constant_values=1)
            items = np.concatenate([items, np.where(known, 0, LAST)[:, None].astype(items.dtype)], 1)
        source = VectorScorer(queries, items, cosine=False)  # vectors of a model of cosines have length 1
        return self.evaluate_scores(lambda _: source, split, examples=examples, known=known)

    def evaluate_scores(
        self,
        scorer: Callable[[Search], Source],
        split: str = "val",
        *,
        examples: int = 0,
        known: np.ndarray | None = None,
    ) -> Scores:
        """known: bool (items,), of the gallery; the others count as missed where they are asked for."""
        search = self.searches(split)[0]
        source, ranks = scorer(search), np.full(len(search.query.rows), np.inf)
        shown = []
        if int(search.relevant.counts.sum()):
            found = rank(source, search.relevant, search.hidden, ks=(1,))
            ranks[found.answered] = found.per_query["rank"]
            shown = pick_examples(search, source, found, examples) if examples else []
        if known is not None and not known.all():
            ranks[np.isin(self.log.items[search.query.rows], self.log.known[~known])] = np.inf
        return self.scored(search, next_item_metrics(ranks), split, shown)

    def scored(self, search: Search, each: dict[str, np.ndarray], split: str, examples: list) -> Scores:
        metrics, missed = {name: float(values.mean()) for name, values in each.items()}, each["mrr"] == 0
        counts = {"queries": len(search.query.rows), "skipped": 0, "unknown": int(missed.sum()), "gallery": search.size}
        return Scores(
            self.primary,
            metrics[self.primary],
            metrics,
            {search.name: metrics},
            {search.name: each[self.primary]},
            {search.name: search.clusters},
            {search.name: counts},
            split,
            examples,
        )

    def chance(self, split: str) -> Scores:
        search = self.searches(split)[0]
        hidden = 0 if search.hidden is None else search.hidden.counts.numpy()
        free = np.where(search.relevant.counts.numpy() > 0, search.size - hidden, 0)
        known = {size: expected_metrics(int(size)) for size in np.unique(free) if size}
        names = next_item_metrics(np.ones(1))
        each = {name: np.array([known[size][name] if size else 0.0 for size in free]) for name in names}
        return self.scored(search, each, split, [])

    def references(self, *, size: int = 32) -> list[Reference]:
        return [
            Reference("chance", "chance", "chance", lambda split, examples=0: self.chance(split)),
            score_row("popularity", "popularity", self, self.by_popularity),
            score_row("item-knn", "item kNN", self, self.by_neighbours),
        ]

    def by_popularity(self, search: Search) -> Source:
        """Every user gets the items that training rows hold most often."""
        log = self.log
        counts = popularity(log.items[log.seen], len(log.item_names))[log.known]
        return FunctionScorer(lambda rows: np.tile(counts, (len(rows), 1)), len(search.query.rows), search.size)

    def by_neighbours(self, search: Search) -> Source:
        """The items whose users, of training rows, met the items of the history."""
        log = self.log
        near = item_neighbours(log.users[log.seen], log.items[log.seen], len(log.item_names))[:, log.known]
        most = int(log.lengths.max(initial=1))

        def score(rows: np.ndarray) -> np.ndarray:
            codes, lengths = log.spans.of(search.query.rows[rows], most)
            histories = [np.unique(one[:n]) for one, n in zip(codes, lengths, strict=True)]
            return np.stack([near[one].sum(0) for one in histories])

        return FunctionScorer(score, len(search.query.rows), search.size)

    def describe(self) -> str:
        left = " Items of the history are left out." if self.seen == "leave-out" else ""
        return (
            f"Next item: nDCG@10 of the one item that came next, ranked among all {len(self.log.known):,} items of "
            f"training rows (full ranking, nothing sampled).{left} An item that training rows lack counts as missed."
        )
