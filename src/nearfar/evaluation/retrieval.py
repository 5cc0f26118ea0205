"""Retrieval metrics over exact, full rankings: hit@k, recall@k, MRR, nDCG@10, MAP.

Sources: Manning, Raghavan, Schuetze, "Introduction to Information Retrieval" (2008), chapter 8; nDCG with binary gains
and log2(rank + 1), Jaervelin and Kekaelaeinen, TOIS 2002.

The rules that libraries disagree about:
- a tie never helps: a relevant item stands behind every irrelevant one of the same score, so a collapsed encoder
  scores 0 and not by luck;
- negative scores are scores: nothing is dropped for its sign;
- a query without a relevant item that it may see is left out of every mean, and counted in `skipped`;
- `hit@k` asks for at least one relevant item among the first k, `recall@k` is the share of them found there. With one
  relevant item per query they are equal.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nearfar.errors import InputError
from nearfar.evaluation.neighbours import GALLERY_TILE, QUERY_TILE, Scorer, VectorScorer, spans
from nearfar.evaluation.relevance import Pairs, Relation, listed, same

SEARCH_FROM, KEPT_BYTES = 64, 128 * 2**20


@dataclass(frozen=True)
class Retrieval:
    """metrics: name -> mean over the answered queries (0..1). per_query: name -> float (n,), aligned with `answered`
    (the numbers of the queries that had a relevant item), `rank` (of the first relevant one, from 1) among them.
    n: answered queries; skipped: those without a relevant item; gallery: its size."""

    metrics: dict[str, float]
    per_query: dict[str, np.ndarray]
    answered: np.ndarray
    n: int
    skipped: int
    gallery: int

    def __getitem__(self, name: str) -> float:
        return self.metrics[name]


def retrieval(query: Any, gallery: Any, query_ids: Any = None, gallery_ids: Any = None, *,
              pairs: Any = None, ks: Sequence[int] = (1, 5, 10), query_rows: Any = None, gallery_rows: Any = None,
              cosine: bool = True) -> Retrieval:
    """Metrics of finding, for each query (n, d), its relevant items in the gallery (m, d).

    Relevant are equal ids (`query_ids` (n,), `gallery_ids` (m,); negative = none) or the listed `pairs` (p, 2) of
    query and gallery numbers. `query_rows` and `gallery_rows` (ids of samples) hide a sample from itself.
    Raises InputError where neither or both are given, or no query has a relevant item.
    """
    if (pairs is None) == (query_ids is None or gallery_ids is None):
        raise InputError("Relevance comes either from query_ids and gallery_ids or from pairs.")
    scorer = VectorScorer(query, gallery, cosine=cosine)
    relevant = same(query_ids, gallery_ids) if pairs is None else listed(pairs, scorer.queries, scorer.gallery)
    hidden = None if query_rows is None or gallery_rows is None else same(query_rows, gallery_rows)
    return rank(scorer, relevant, hidden, ks=ks)


def rank(scorer: Scorer, relevant: Relation, hidden: Relation | None = None, *, ks: Sequence[int] = (1, 5, 10),
         query_tile: int = QUERY_TILE, gallery_tile: int = GALLERY_TILE) -> Retrieval:
    """`retrieval` for any `Scorer` and relation. Memory: one tile (or, up to 128 MiB, the tiles of one chunk of
    queries, so that none is computed twice) and the relevant pairs of one chunk."""
    if len(relevant.counts) != scorer.queries:
        raise InputError(f"Relevance has {len(relevant.counts)} queries, the scores have {scorer.queries}.")
    parts, answered = [], []
    for rows in spans(scorer.queries, query_tile):
        unseen = hidden.rows(rows) if hidden is not None else None
        pairs = relevant.rows(rows).without(unseen, scorer.gallery)
        places = _places(scorer, rows, pairs, unseen, gallery_tile)
        counts = np.bincount(pairs.row, minlength=pairs.queries)
        parts.append(per_query(places, counts[counts > 0], ks))
        answered.append(rows.start + np.flatnonzero(counts))
    answered_rows = np.concatenate(answered) if answered else np.zeros(0, np.int64)
    if not len(answered_rows):
        raise InputError("No query has a relevant item in the gallery.", "Check the ids, groups or pairs.")
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    metrics = {name: float(value.mean()) for name, value in values.items() if name != "rank"}
    return Retrieval(metrics, values, answered_rows, len(answered_rows), scorer.queries - len(answered_rows),
                     scorer.gallery)


def per_query(places: np.ndarray, counts: np.ndarray, ks: Iterable[int], cut: int = 10) -> dict[str, np.ndarray]:
    """Metrics of each query from the places (from 1, rising within a query) of its `counts` relevant items."""
    query = np.repeat(np.arange(len(counts)), counts)
    nth = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts) + 1

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(query, values, minlength=len(counts))

    first = places[nth == 1].astype(np.float64)
    found = {k: total((places <= k).astype(np.float64)) for k in ks}
    ideal = np.cumsum(1 / np.log2(np.arange(2, cut + 2)))
    gain = total(np.where(places <= cut, 1 / np.log2(places + 1), 0))
    return ({f"hit@{k}": (found[k] > 0).astype(np.float64) for k in found}
            | {f"recall@{k}": found[k] / counts for k in found}
            | {"mrr": 1 / first, f"ndcg@{cut}": gain / ideal[np.minimum(counts, cut) - 1],
               "map": total(nth / places) / counts, "rank": first})


def _places(scorer: Scorer, rows: slice, pairs: Pairs, unseen: Pairs | None, gallery_tile: int) -> np.ndarray:
    """int64 (pairs,): the place of each relevant item in its query's ranking, rising within a query."""
    scores = np.empty(len(pairs.row), np.float32)
    small = pairs.queries * scorer.gallery * scores.itemsize <= KEPT_BYTES
    kept: dict[int, np.ndarray] = {}
    for columns in spans(scorer.gallery, gallery_tile):
        tile = scorer.tile(rows, columns)
        pairs.read(tile, columns, scores)
        if small:
            kept[columns.start] = tile
    order = np.lexsort((-scores, pairs.row))
    scores = scores[order]
    ends = np.searchsorted(pairs.row, np.arange(pairs.queries + 1))
    ahead = np.zeros(len(scores), np.int64)
    for columns in spans(scorer.gallery, gallery_tile):
        tile = kept.pop(columns.start) if small else scorer.tile(rows, columns)
        pairs.write(tile, columns, -np.inf)
        if unseen is not None:
            unseen.write(tile, columns, -np.inf)
        ahead += _at_least(tile, scores, ends)
    nth = np.arange(len(scores)) - np.repeat(ends[:-1], np.diff(ends)) + 1
    return ahead + nth


def _at_least(tile: np.ndarray, scores: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """How many entries of its tile row reach each score; the scores of row i are scores[ends[i]:ends[i + 1]]."""
    counts = np.diff(ends)
    result = np.empty(len(scores), np.int64)
    if counts.max(initial=0) <= SEARCH_FROM:
        for nth in range(counts.max(initial=0)):
            rows = np.flatnonzero(counts > nth)
            place = ends[rows] + nth
            result[place] = (tile[rows] >= scores[place, None]).sum(1)
        return result
    for row in np.flatnonzero(counts):
        span = slice(ends[row], ends[row + 1])
        reached = np.searchsorted(scores[span][::-1], tile[row], "right")      # scores that each entry reaches
        result[span] = np.cumsum(np.bincount(reached, minlength=counts[row] + 1)[::-1])[:-1]
    return result
