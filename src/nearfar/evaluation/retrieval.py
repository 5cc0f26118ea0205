"""Retrieval metrics over exact, full rankings: hit@k, recall@k, precision@k, MRR, nDCG@10, MAP.

Sources: Manning, Raghavan, Schuetze, "Introduction to Information Retrieval" (2008), chapter 8; nDCG with the
grades as gains (1 where there are none) and log2(rank + 1), Jaervelin and Kekaelaeinen, TOIS 2002. The values are
those of trec_eval (map, recip_rank, ndcg_cut, P, recall, success), ties apart.

The rules that libraries disagree about:
- a tie never helps: a relevant item stands behind every irrelevant one of the same score, so a collapsed encoder
  scores 0 and not by luck;
- negative scores are scores: nothing is dropped for its sign;
- a query without a relevant item that it may see is left out of every mean, and counted in `skipped`;
- `hit@k` asks for at least one relevant item among the first k, `recall@k` is the share of the relevant ones found
  there (with one a query the two are equal), `precision@k` the share of relevant ones among the k places;
- a hidden item is in nobody's ranking and counts among nobody's relevant ones.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nearfar.errors import InputError
from nearfar.evaluation.neighbours import VectorScorer
from nearfar.evaluation.relevance import listed, same
from nearfar.progress import track
from nearfar.similarity import Relation, Similarity, Source, Sparse


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


def retrieval(
    query: Any,
    gallery: Any,
    query_ids: Any = None,
    gallery_ids: Any = None,
    *,
    pairs: Any = None,
    grades: Any = None,
    ks: Sequence[int] = (1, 5, 10),
    query_rows: Any = None,
    gallery_rows: Any = None,
    cosine: bool = True,
) -> Retrieval:
    """Metrics of finding, for each query (n, d), its relevant items in the gallery (m, d).

    Relevant are equal ids (`query_ids` (n,), `gallery_ids` (m,); -1 = none) or the listed `pairs` (p, 2) of
    query and gallery numbers, with `grades` (p,) as the gains of nDCG. `query_rows` and `gallery_rows` (ids of samples)
    hide a sample from itself.
    Raises InputError where neither or both are given, or no query has a relevant item.
    """
    if (pairs is None) == (query_ids is None or gallery_ids is None):
        raise InputError("Relevance comes either from query_ids and gallery_ids or from pairs.")
    scorer = VectorScorer(query, gallery, cosine=cosine)
    relevant = same(query_ids, gallery_ids) if pairs is None else listed(pairs, *scorer.shape, grades)
    hidden = None if query_rows is None or gallery_rows is None else same(query_rows, gallery_rows)
    return rank(scorer, relevant, hidden, ks=ks)


def rank(
    scorer: Source, relevant: Sparse, hidden: Relation | None = None, *, ks: Sequence[int] = (1, 5, 10)
) -> Retrieval:
    """`retrieval` for any source and relation. Each score is computed once. Memory: the scores of a few queries (64
    MiB) and their relevant pairs."""
    queries, gallery = scorer.shape
    if len(relevant.counts) != queries:
        raise InputError(f"Relevance has {len(relevant.counts)} queries, the scores have {queries}.")
    parts, answered = [], []
    with torch.no_grad(), track("ranking", queries, least=10_000) as on:
        for found in Similarity(scorer).ranks_of(relevant, where=None if hidden is None else ~hidden):
            counts = np.bincount(found.row.numpy(), minlength=found.rows.stop - found.rows.start)
            parts.append(per_query(found.place.numpy(), counts[counts > 0], ks, found.grade.numpy()))
            answered.append(found.rows.start + np.flatnonzero(counts))
            on(len(counts))
    answered_rows = np.concatenate(answered) if answered else np.zeros(0, np.int64)
    if not len(answered_rows):
        raise InputError("No query has a relevant item in the gallery.", "Check the ids, groups or pairs.")
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    metrics = {name: float(value.mean()) for name, value in values.items() if name != "rank"}
    return Retrieval(metrics, values, answered_rows, len(answered_rows), queries - len(answered_rows), gallery)


def per_query(
    places: np.ndarray, counts: np.ndarray, ks: Iterable[int], grades: np.ndarray | None = None, cut: int = 10
) -> dict[str, np.ndarray]:
    """Metrics of each query from the places (from 1, rising within a query) of its `counts` relevant items and from
    their grades (1 each where there are none)."""
    grades = np.ones(len(places)) if grades is None else grades.astype(np.float64)
    query = np.repeat(np.arange(len(counts)), counts)
    nth = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts) + 1

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(query, values, minlength=len(counts))

    first = places[nth == 1].astype(np.float64)
    found = {k: total((places <= k).astype(np.float64)) for k in ks}
    best = grades[np.lexsort((-grades, query))]  # the same relevant items, the highest grade first
    ideal = total(np.where(nth <= cut, best / np.log2(nth + 1), 0))
    gain = total(np.where(places <= cut, grades / np.log2(places + 1), 0))
    return (
        {f"hit@{k}": (found[k] > 0).astype(np.float64) for k in found}
        | {f"recall@{k}": found[k] / counts for k in found}
        | {f"precision@{k}": found[k] / k for k in found}
        | {"mrr": 1 / first, f"ndcg@{cut}": gain / ideal, "map": total(nth / places) / counts, "rank": first}
    )
