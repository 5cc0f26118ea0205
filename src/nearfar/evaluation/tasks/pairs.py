"""Pairs: find the other half, both ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from nearfar import modalities as kinds
from nearfar.checks import PositiveInt
from nearfar.errors import InputError
from nearfar.evaluation.paired_task import PairedTask
from nearfar.evaluation.pairwise import blind, tell_apart
from nearfar.evaluation.relevance import listed, same, union
from nearfar.evaluation.retrieval import Retrieval
from nearfar.evaluation.search_task import RETRIEVAL
from nearfar.evaluation.searches import Example, Search, Side
from nearfar.evaluation.shuffles import OfImages, OfTexts, Shuffle, role_of
from nearfar.evaluation.task import Scores, register
from nearfar.similarity import Source, Sparse
from nearfar.units import Metric
from nearfar.word_classes import Rules

if TYPE_CHECKING:
    from nearfar.sources.data import Data


@register
class PairTask(PairedTask):
    """Find the other half of a pair, both ways; relevance by content, so a text with several images has several.

    The gallery holds every different item of the split, or the whole corpus where there is one. What equals the query
    is hidden from it. Pairs labelled 0 (and those of a low score) are relevant to nobody; where pairs are labelled, the
    labels are told from the similarities as well ("pair ap", "pair accuracy", "pair f1").

    Args:
        pool: what a query is ranked among: all items of the split, or those of its own domain (language...); then the
            score is the mean over the domains.
        candidates: at most so many rows (of each pool), the same ones each time; default all.
        shuffle: what changes places within each item, to see what retrieval owes to its order: words of texts (all;
            nouns among nouns and adjectives among adjectives; the other words; within groups of three; the groups), or
            of images four strips (rows, columns) or 3 x 3 patches. Default nothing.
    """

    metrics = RETRIEVAL | {
        "pair ap": Metric("pair AP"),
        "pair accuracy": Metric("pair accuracy"),
        "pair f1": Metric("pair F1"),
    }

    def __init__(
        self,
        data: Data,
        *,
        modalities: Sequence[str] | None = None,
        pool: Literal["all", "domain"] = "all",
        candidates: PositiveInt | None = None,
        shuffle: Literal[OfTexts, OfImages] | None = None,
    ):
        super().__init__(data, modalities=modalities)
        self.shuffle, self.shuffled = shuffle, {}
        if shuffle is not None:
            self.shuffled[role_of(shuffle, self.roles, data.name)] = Shuffle(shuffle, Rules())
        self.primary = next((m for m in (kinds.of(role).metric for role in self.roles) if m == "hit@1"), "ndcg@10")
        self.pool, self.candidates = pool, candidates
        if pool == "domain" and data.domains is None:
            raise InputError(
                f"{data.name} has no domains to rank within.", "Name their column: --domain COLUMN, or use --pool all."
            )
        if (pool == "domain" or candidates) and any(self.corpus(role) for role in self.roles):
            raise InputError(
                f"{data.name} has a corpus, which is the pool of every query.", "Leave out --pool and --candidates."
            )

    @classmethod
    def priority(cls, data: Data) -> int | None:
        return 40

    def searches(self, split: str) -> list[Search]:
        return [
            self._search(rows, split, query, gallery, name)
            for name, rows in self.pools(split).items()
            for query, gallery in (self.roles, self.roles[::-1])
        ]

    def pools(self, split: str) -> dict[str, np.ndarray]:
        """Name of a domain ("" for all) -> the rows that are ranked together. Raises InputError where none is left."""
        rows = self.rows(split)
        if self.pool == "all":
            return {"": self.draw(rows, self.candidates or len(rows))}
        codes, belongs = np.asarray(self.data.domains)[rows], np.isin(rows, self.positive(rows, split))
        parts = {name: codes == code for code, name in enumerate(self.data.domain_names)}
        found = {name: rows[part] for name, part in parts.items() if (part & belongs).any()}
        if not found:
            raise InputError(f"No pair of the {split} split has a domain.", "Check the column of --domain.")
        return {name: self.draw(part, self.candidates or len(part)) for name, part in found.items()}

    def asked(self, searches: list[Search]) -> list[Search]:
        """Texts are asked one way, the first column for the second; images both ways."""
        return searches if self.primary == "hit@1" else searches[::2]

    def collect(
        self, searches: list[Search], found: dict[str, Retrieval], split: str, examples: list[Example]
    ) -> Scores:
        scores = super().collect(searches, found, split, examples)
        asked = [(search, found[search.name]) for search in self.asked(searches)]
        return replace(scores, domains=self.query_domains(asked, list(scores.metrics)))

    def query_domains(self, asked: list[tuple[Search, Retrieval]], metrics: list[str]) -> dict[str, dict[str, float]]:
        """The metrics of the queries of each domain, means over the directions; empty with fewer than two domains."""
        if self.data.domains is None:
            return {}
        codes = [np.asarray(self.data.domains)[search.query.rows[one.answered]] for search, one in asked]
        parts = {}
        for code, name in enumerate(self.data.domain_names):
            held = [(one, here) for (_, one), own in zip(asked, codes, strict=True) if (here := own == code).any()]
            if held:
                parts[name] = {"rows": sum(int(here.sum()) for _, here in held)}
                parts[name] |= {m: float(np.mean([one.per_query[m][here].mean() for one, here in held]))
                               for m in metrics if m in held[0][0].per_query}  # fmt: skip
        return parts if len(parts) > 1 else {}

    def describe(self) -> str:
        a, b = self.roles
        if self.primary == "hit@1":
            text = (
                f"Retrieval between {a} and {b}: hit@1, mean of both directions. The gallery holds every different "
                f"item of the split."
            )
        else:
            what = "the whole corpus" if self.corpus(b) else f"every different {b} of the split"
            text = f"Retrieval of {b} by {a}: {self.metric().label}. The gallery holds {what}."
        text += self.pool_in_words()
        for role in self.shuffled:
            text += f" Of each {role} the {self.shuffle} have changed places."
        if self.classifies_pairs():
            text += (
                " Beside it, how well the cosine tells pairs labelled 1 from pairs labelled 0: average precision, "
                "and accuracy and F1 at the threshold that validation pairs chose."
            )
        return text

    def pool_in_words(self) -> str:
        """What narrows the gallery, as a sentence, or nothing."""
        most = f"at most {self.candidates:,} rows" if self.candidates else ""
        if self.pool == "domain":
            return f" Each domain is a pool of its own{f' of {most}' if most else ''}; the score is their mean."
        return f" Ranked are {most}." if most else ""

    def corpus(self, role: str) -> Sequence[str]:
        return self.data.corpus.get(role, ())

    def positive(self, rows: np.ndarray, split: str) -> np.ndarray:
        """Those of the rows whose two sides belong together."""
        positives = self.data.positives
        found = rows if positives is None else rows[positives[rows]]
        if not len(found):
            raise InputError(
                f"No pair of the {split} split belongs together: all are labelled 0 or score low.",
                "Check the columns of --pair-label and --score.",
            )
        return found

    def _search(self, rows: np.ndarray, split: str, query: str, gallery: str, pool: str = "") -> Search:
        rows_in, judged = self.positive(rows, split), query == self.roles[0] and self.data.query_keys is not None
        asked_ids = np.asarray(self.data.query_keys if judged else self.data.content(query))[rows_in]
        first, code = np.unique(asked_ids, return_index=True, return_inverse=True)[1:]
        asked = self.draw(np.arange(len(first)))
        place = np.full(len(first), -1)
        place[asked] = np.arange(len(asked))
        side, contents = self._gallery(rows, gallery)
        found = same(np.asarray(self.data.content(gallery))[rows_in], contents).pairs(slice(0, len(rows_in)))
        row, column = (place.numpy() for place in found)
        pairs = np.stack([place[code.reshape(-1)[row]], column], 1)
        drawn = pairs[:, 0] >= 0
        grades = self.data.grades[rows_in][row][drawn] if judged and self.data.grades is not None else None
        relevant = listed(pairs[drawn], len(asked), len(contents), grades)
        query_rows = rows_in[first[asked]]
        hidden = self._itself(query_rows, query, gallery, contents, relevant if judged else None)
        return Search(
            f"{query} → {gallery}{f', {pool}' if pool else ''}",
            Side(query, query_rows, self.shuffled.get(query)),
            side,
            len(contents),
            relevant,
            hidden,
            self.units(query_rows),
        )

    def _gallery(self, rows: np.ndarray, role: str) -> tuple[Side, np.ndarray]:
        """What is searched, and the content id of each of its items."""
        if self.corpus(role):
            return Side(role, rows[:0], corpus=True), self.data.corpus_content(role)
        contents, first = np.unique(np.asarray(self.data.content(role))[rows], return_index=True)
        return Side(role, rows[first], self.shuffled.get(role)), contents

    def _itself(
        self, query_rows: np.ndarray, query: str, gallery: str, contents: np.ndarray, judged: Sparse | None
    ) -> Sparse | None:
        """Gallery items that are the query: equal ones, unless they were judged relevant, and those of its id."""
        copies = union([same(np.asarray(self.data.content(query))[query_rows], contents)], less=judged)
        if judged is None or not self.corpus(gallery):
            return copies
        assert self.data.query_keys is not None
        place = {key: number for number, key in enumerate(self.data.corpus_keys[gallery])}
        keys = [self.data.query_keys[row] for row in query_rows]
        pairs = [(number, place[key]) for number, key in enumerate(keys) if key in place]
        return union([copies, listed(pairs, len(keys), len(contents))])

    def evaluate_scores(self, scorer: Callable[[Search], Source], split: str = "val", *, examples: int = 0) -> Scores:
        scores = super().evaluate_scores(scorer, split, examples=examples)
        if self.classifies_pairs():
            found = self.classified(scorer, split)
            scores.metrics.update(found)
            scores.directions["pairs labelled 1 or 0"] = found
        return scores

    def chance(self, split: str) -> Scores:
        scores = super().chance(split)
        if self.classifies_pairs():
            scores.metrics.update(self.chance_of_pairs(split))
        return scores

    def classifies_pairs(self) -> bool:
        """Whether there are pairs of both labels, as they are in the data."""
        labels = self.data.pair_labels
        return labels is not None and not self.shuffled and bool((labels == 1).any() and (labels == 0).any())

    def classified(self, scorer: Callable[[Search], Source], split: str) -> dict[str, float]:
        """How well scores tell the labelled pairs of a split apart."""
        parts = self.labelled(split), self.deciding(split)
        if not (self.pair_labels[parts[0]] == 1).any():
            return {}
        scores, ahead = (self.similarities(scorer, rows) for rows in parts)
        found = tell_apart(scores, self.pair_labels[parts[0]], ahead, self.pair_labels[parts[1]])
        return {f"pair {name}": value for name, value in found.items()}

    def chance_of_pairs(self, split: str) -> dict[str, float]:
        """`classified` of scores that say nothing."""
        found = blind(self.pair_labels[self.labelled(split)])
        return {f"pair {name}": value for name, value in found.items()}
