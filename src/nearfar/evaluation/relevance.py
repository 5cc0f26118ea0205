"""Which gallery items belong to which query, as rows of a sparse relation that is never spelt out as a whole."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from nearfar.errors import InputError


@dataclass(frozen=True)
class Pairs:
    """Related pairs of one chunk of queries: row number in the chunk and gallery number, sorted by row."""

    row: np.ndarray
    column: np.ndarray
    queries: int

    def within(self, columns: slice) -> np.ndarray:
        return (self.column >= columns.start) & (self.column < columns.stop)

    def read(self, tile: np.ndarray, columns: slice, out: np.ndarray) -> None:
        """Copies the pairs' scores of this tile into out (one place a pair)."""
        here = self.within(columns)
        out[here] = tile[self.row[here], self.column[here] - columns.start]

    def write(self, tile: np.ndarray, columns: slice, value: float) -> None:
        here = self.within(columns)
        tile[self.row[here], self.column[here] - columns.start] = value

    def without(self, other: "Pairs | None", gallery: int) -> "Pairs":
        if other is None or not len(other.row):
            return self
        stay = ~np.isin(self.row * gallery + self.column, other.row * gallery + other.column)
        return Pairs(self.row[stay], self.column[stay], self.queries)


class Relation:
    """Gallery numbers of each query. Build with `same` or `listed`."""

    def __init__(self, order: np.ndarray, start: np.ndarray, stop: np.ndarray):
        self._order, self._start, self._stop = order, start, stop

    @property
    def counts(self) -> np.ndarray:
        """int64 (n,): related gallery items of each query."""
        return self._stop - self._start

    def rows(self, rows: slice) -> Pairs:
        start, counts = self._start[rows], self.counts[rows]
        row = np.repeat(np.arange(len(counts)), counts)
        offset = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        return Pairs(row, self._order[np.repeat(start, counts) + offset], len(counts))


def same(query_ids: Any, gallery_ids: Any) -> Relation:
    """Related are equal ids, (n,) and (m,); a negative id is related to nothing."""
    query, gallery = np.asarray(query_ids), np.asarray(gallery_ids)
    order = np.argsort(gallery, kind="stable")
    ordered = gallery[order]
    start, stop = np.searchsorted(ordered, query, "left"), np.searchsorted(ordered, query, "right")
    return Relation(order, start, np.where(query < 0, start, stop))


def listed(pairs: Any, queries: int, gallery: int) -> Relation:
    """Related are the listed (query number, gallery number) pairs, (p, 2); repeated ones count once."""
    pairs = np.asarray(pairs, np.int64).reshape(-1, 2)
    if len(pairs) and (pairs.min() < 0 or (pairs.max(0) >= (queries, gallery)).any()):
        raise InputError(f"A listed pair points outside {queries} queries x {gallery} gallery items.")
    pairs = np.unique(pairs, axis=0)
    ends = np.searchsorted(pairs[:, 0], np.arange(queries + 1), "left")
    return Relation(pairs[:, 1], ends[:-1], ends[1:])
