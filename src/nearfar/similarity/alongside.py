"""Answers that a sweep gives alongside: they take its vectors, and add to the gradients that it holds anyway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nearfar.similarity.closed import distinct, flat, numbered
from nearfar.similarity.conjunction import terms
from nearfar.similarity.reductions import Mean, Reduction, Sum
from nearfar.similarity.relations import Listed
from nearfar.similarity.vectors import Side, strips


class Alongside(Protocol):
    def products(self, query: Side, keys: Side) -> Tensor:
        """The answer of each row, (N,)."""
        ...

    def pull(self, flow: Tensor, query: Side, keys: Side, d_query: Tensor | None, d_keys: Tensor | None) -> None:
        """Adds the gradients of the vectors, given those of the answers."""
        ...


def alongside(r: Reduction) -> Alongside | None:
    """The sum over one column of each row, or the sum or mean over its class; None for anything else."""
    if type(r) not in (Sum, Mean) or (isinstance(r, Sum) and r.phi is not None) or r.where is None or r.dim != 1:
        return None
    t = terms(r.where)
    if r.weight is not None or t.rest or t.different or any(x.block != 0 for x in (*t.listed, *t.unlisted)):
        return None
    if len(t.listed) == 1 and type(r) is Sum and not (t.same or t.unlisted) and t.listed[0].columns.dim() == 1:
        return Partners.of(t.listed[0])
    if len(t.same) != 1 or t.listed or len(t.same[0].columns) != 1:
        return None
    columns = t.same[0].columns[0]
    if columns is None or columns.dim() != 1:
        return None
    away = distinct(torch.cat([flat(x.columns) for x in t.unlisted], 1)) if t.unlisted else None
    return Classes(*numbered(t.same[0].rows, columns), away, mean=isinstance(r, Mean))


@dataclass(frozen=True)
class Partners:
    """Of each row one column, (N,); -1 for none (but where they are `complete`). `start`: they are known to count up
    from here."""

    columns: Tensor
    start: int | None = None
    complete: bool = False

    @classmethod
    def of(cls, r: Listed) -> Partners:
        return cls(r.columns, r.start, r.complete)

    def products(self, query: Side, keys: Side) -> Tensor:
        """S of each row and its column, 0 where it has none."""
        out = query.new_empty(len(query))
        for rows in strips(query.x):
            torch.sum(query[rows] * self._of(keys, rows), -1, out=out[rows])
        return out if self.complete else torch.where(self.columns >= 0, out, 0)

    def similarities(self, query: Tensor, keys: Tensor) -> Tensor:
        """The same with graph."""
        columns = self.columns.clamp(min=0)
        return torch.where(self.columns >= 0, (query * keys.index_select(0, columns)).sum(-1), 0)

    def _places(self, rows: slice) -> Tensor:
        return self.columns[rows] if self.complete else self.columns[rows].clamp(min=0)

    def _of(self, side: Side, rows: slice) -> Tensor:
        if self.start is not None:
            return side[slice(rows.start + self.start, rows.stop + self.start)]
        return side.taken(self._places(rows))

    def pull(self, flow: Tensor, query: Side, keys: Side, d_query: Tensor | None, d_keys: Tensor | None) -> None:
        """Adds the gradients of the products, given theirs."""
        if not self.complete:
            flow = torch.where(self.columns >= 0, flow, 0)
        for rows in strips(query.x):
            f = flow[rows, None]
            if d_query is not None:
                d_query[rows].addcmul_(self._of(keys, rows), f)
            if d_keys is None:
                continue
            if self.start is not None:
                d_keys[rows.start + self.start: rows.stop + self.start].addcmul_(query[rows], f)
            else:
                d_keys.index_add_(0, self._places(rows), query[rows] * f)


class Classes:
    """Of each row all columns of its class, but for those listed in `away` (N, P): the sum or the mean.

    rows, columns: numbers of the classes from 1 on, 0 for none. O((N + M) D) by the sums of the classes.
    """

    def __init__(self, rows: Tensor, columns: Tensor, away: Tensor | None, mean: bool):
        self.rows, self.columns, self.mean = rows, columns, mean
        self.many = int(torch.cat([rows, columns]).max()) + 1 if len(rows) + len(columns) else 1
        sizes = torch.bincount(columns, minlength=self.many)
        count = torch.where(rows > 0, sizes[rows], 0)
        self.out: list[Partners] = []
        for column in () if away is None or not len(columns) else away.unbind(1):
            there = (column >= 0) & (rows == columns[column.clamp(min=0)]) & (rows > 0)
            self.out.append(Partners(torch.where(there, column, -1)))
            count = count - there.to(count.dtype)
        self.count = count

    def _sums(self, side: Side, classes: Tensor, factor: Tensor | None = None) -> Tensor:
        total = side.new_empty(self.many, side.x.shape[1]).zero_()
        for rows in strips(side.x):
            total.index_add_(0, classes[rows], side[rows] if factor is None else side[rows] * factor[rows, None])
        return total

    def products(self, query: Side, keys: Side) -> Tensor:
        sums, total = self._sums(keys, self.columns), query.new_empty(len(query))
        for rows in strips(query.x):
            total[rows] = (query[rows] * sums[self.rows[rows]]).sum(-1)
        for less in self.out:
            total -= less.products(query, keys)
        return torch.where(self.count > 0, total / self.count if self.mean else total, 0)

    def pull(self, flow: Tensor, query: Side, keys: Side, d_query: Tensor | None, d_keys: Tensor | None) -> None:
        flow = torch.where(self.count > 0, flow / self.count if self.mean else flow, 0)
        if d_query is not None:
            sums = self._sums(keys, self.columns)
            for rows in strips(query.x):
                d_query[rows].addcmul_(sums[self.rows[rows]], flow[rows, None])
        if d_keys is not None:
            sums = self._sums(query, self.rows, flow)
            for rows in strips(keys.x):
                d_keys[rows] += sums[self.columns[rows]]
        for less in self.out:
            less.pull(-flow, query, keys, d_query, d_keys)
