"""One search: which queries against which gallery, what is relevant, what is hidden - and examples of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
from torch import Tensor

from nearfar.evaluation.embedding import Embed, take
from nearfar.evaluation.neighbours import topk
from nearfar.evaluation.relevance import same
from nearfar.evaluation.retrieval import Retrieval
from nearfar.similarity import Source, Sparse

if TYPE_CHECKING:
    from nearfar.sources.data import Data


Changed = Callable[[Any, np.ndarray], Any]
"""(items, rows) -> the items as they are shown to a model."""


@dataclass(frozen=True)
class Side:
    """Queries or gallery: rows of a role, then (corpus=True) its corpus; `changed` gives the rows' items another look
    or order."""

    role: str
    rows: np.ndarray
    changed: Changed | None = None
    corpus: bool = False


@dataclass(frozen=True)
class Search:
    """One direction of retrieval. size: items of the gallery with its corpus. clusters: ids (n,) of queries that are
    not independent, for the bootstrap."""

    name: str
    query: Side
    gallery: Side
    size: int
    relevant: Sparse
    hidden: Sparse | None
    clusters: np.ndarray
    shared_outline: bool = False


@dataclass(frozen=True)
class Hit:
    """A gallery item of an example: a row of the table, or (row = -1) document number `corpus` of the corpus."""

    role: str
    row: int
    corpus: int
    score: float
    relevant: bool


@dataclass(frozen=True)
class Example:
    """A query with its nearest gallery items and the rank of its first relevant one."""

    direction: str
    role: str
    row: int
    changed: Changed | None
    rank: int
    hits: list[Hit]


def paired_search(rows: np.ndarray, roles: Sequence[str], clusters: np.ndarray) -> Search:
    """Rows whose two sides are compared with each other alone."""
    own, (query, gallery) = np.arange(len(rows)), roles
    return Search(
        f"{query} ~ {gallery}", Side(query, rows), Side(gallery, rows), len(rows), same(own, own), None, clusters
    )


def side_items(data: Data, side: Side, size: int = 32) -> Any:
    """The items of a side, changed as it says, with its corpus."""
    items = take(data, side.role, side.rows, size)
    if side.changed is not None:
        items = side.changed(items, side.rows)
    return [*items, *data.corpus[side.role]] if side.corpus else items


def embed_side(data: Data, embed: Embed, side: Side) -> np.ndarray:
    """Vectors (n, d) of a side."""
    if side.changed is not None:
        size = getattr(embed, "size", None) or 32
        return embed.items(side.role, side_items(data, side, size))
    if side.corpus and not len(side.rows):
        return np.asarray(embed.corpus(side.role))
    z = np.asarray(embed(side.role, side.rows))
    return np.concatenate([z, np.asarray(embed.corpus(side.role))]) if side.corpus else z


def pick_examples(search: Search, scorer: Source, found: Retrieval, count: int, k: int = 5) -> list[Example]:
    """`count` answered queries, hits and misses alike, each with its k nearest items; the seed is the direction's."""
    hit = found.per_query["rank"] == 1
    shuffled = np.random.default_rng(crc32(search.name.encode())).permutation(found.n)
    hits, misses = shuffled[hit[shuffled]].tolist(), shuffled[~hit[shuffled]].tolist()
    fair = max(count // 2, count - len(misses))
    chosen = hits[:fair] + misses[: count - min(fair, len(hits))]
    return [_example(search, scorer, int(found.answered[one]), int(found.per_query["rank"][one]), k) for one in chosen]


def _example(search: Search, scorer: Source, query: int, place: int, k: int) -> Example:
    near = topk(_Row(scorer, query), k, None if search.hidden is None else _row(search.hidden, query))
    relevant = set(_row(search.relevant, query).order.tolist())
    size = len(search.gallery.rows)
    hits = [
        Hit(
            search.gallery.role,
            int(search.gallery.rows[item]) if item < size else -1,
            -1 if item < size else int(item) - size,
            float(score),
            int(item) in relevant,
        )
        for item, score in zip(near.indices[0], near.scores[0])
        if item >= 0
    ]
    return Example(search.name, search.query.role, int(search.query.rows[query]), search.query.changed, place, hits)


class _Row(Source):
    """One query of a source."""

    def __init__(self, source: Source, query: int):
        self.source, self.query, self.shape = source, query, (1, source.shape[1])
        self.dtype, self.device, self.tile_shape = source.dtype, source.device, source.tile_shape

    def tile(self, rows: slice, columns: slice, tensors: Sequence[Tensor]) -> Tensor:
        return self.source.tile(slice(self.query, self.query + 1), columns, self.source.tensors())


def _row(relation: Sparse, query: int) -> Sparse:
    """A relation of one query alone."""
    columns = relation.pairs(slice(query, query + 1))[1]
    return Sparse(columns, columns.new_zeros(1), columns.new_tensor([len(columns)]))
