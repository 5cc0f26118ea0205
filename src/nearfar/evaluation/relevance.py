"""Which gallery items belong to which query: sparse relations of the core, from ids and listed pairs."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.errors import InputError
from nearfar.similarity import Sparse, equal, sparse


def same(query_ids: Any, gallery_ids: Any) -> Sparse:
    """Related are equal ids, (n,) and (m,); -1 is related to nothing. Raises InputError for ids below -1."""
    return equal(_integers(query_ids), _integers(gallery_ids))


def listed(pairs: Any, queries: int, gallery: int, grades: Any = None) -> Sparse:
    """Related are the listed (query number, gallery number) pairs, (p, 2); repeated ones count once.

    grades: of each pair, (p,), positive numbers; a repeated pair takes its largest.
    """
    pairs = np.asarray(pairs, np.int64).reshape(-1, 2)
    if len(pairs) and (pairs.min() < 0 or (pairs.max(0) >= (queries, gallery)).any()):
        raise InputError(f"A listed pair points outside {queries} queries x {gallery} gallery items.")
    rows, columns = torch.from_numpy(pairs.T.copy())
    weight = None if grades is None else torch.from_numpy(np.array(grades, np.float32))
    return sparse(rows, columns, queries, grade=weight)


def union(relations: Sequence[Sparse | None], less: Sparse | None = None) -> Sparse | None:
    """The pairs of any of the relations, but for those of `less`; None where no pair is left."""
    known = [relation for relation in relations if relation is not None]
    if not known:
        return None
    count = len(known[0].counts)
    rows, columns = (torch.cat(parts) for parts in zip(*(one.pairs(slice(0, count)) for one in known), strict=True))
    if less is not None:
        kept = _unlisted(rows, columns, less, slice(0, count))
        rows, columns = rows[kept], columns[kept]
    return sparse(rows, columns, count) if len(rows) else None


def _unlisted(row: Tensor, column: Tensor, other: Sparse, rows: slice) -> Tensor:
    """Which pairs are none of another relation's pairs of the same rows."""
    known, away = other.pairs(rows)
    size = 1 + max(int(x.max()) if len(x) else 0 for x in (column, away))
    return ~torch.isin(row * size + column, known * size + away)


def visible_grades(relevant: Sparse, hidden: Sparse | None) -> Iterator[np.ndarray]:
    """Of each query the grades of the relevant gallery items that it may see, falling."""
    for start in range(0, len(relevant.counts), 1024):
        rows = slice(start, start + 1024)
        (row, column), grade = relevant.pairs(rows), relevant.grades(rows)
        if hidden is not None:
            seen = _unlisted(row, column, hidden, rows)
            row, grade = row[seen], grade[seen]
        ends = torch.bincount(row, minlength=len(relevant.counts[rows])).cumsum(0).numpy()
        for part in np.split(grade.numpy(), ends[:-1]):
            yield np.sort(part)[::-1]


def _integers(ids: Any) -> Tensor:
    return torch.from_numpy(np.array(ids, np.int64))
