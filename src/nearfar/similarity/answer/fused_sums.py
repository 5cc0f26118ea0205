"""Sums of the same rows that a log-sum-exp sweep takes along: they take its vectors, and add to the gradients that it
holds anyway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nearfar.similarity.answer.classes import all_listed, classes, how_many, inside, sizes
from nearfar.similarity.answer.steps import Part
from nearfar.similarity.answer.vectors import Side, strips
from nearfar.similarity.reductions import Mean
from nearfar.similarity.relations import Listed


class FusedSum(Protocol):
    def products(self, query: Side, keys: Side) -> Tensor:
        """The answer of each row, (N,)."""
        ...

    def vjp(self, grad: Tensor, query: Side, keys: Side, d_query: Tensor | None, d_keys: Tensor | None) -> None:
        """Adds the gradients of the vectors, given those of the answers."""
        ...


def fused(part: Part) -> FusedSum:
    """How a sweep answers a part that the plan says it takes along: one column of each row, or its class."""
    if part.terms.listed:
        return Partners.of(part.terms.listed[0])
    row, column = classes(part.terms.same)
    assert row is not None
    assert column is not None
    return Classes(row, column, all_listed(part.terms.unlisted), mean=isinstance(part.reduction, Mean))


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

    def _columns(self, rows: slice) -> Tensor:
        return self.columns[rows] if self.complete else self.columns[rows].clamp(min=0)

    def _of(self, side: Side, rows: slice) -> Tensor:
        if self.start is not None:
            return side[slice(rows.start + self.start, rows.stop + self.start)]
        return side.taken(self._columns(rows))

    def vjp(self, grad: Tensor, query: Side, keys: Side, d_query: Tensor | None, d_keys: Tensor | None) -> None:
        """Adds the gradients of the products, given theirs."""
        if not self.complete:
            grad = torch.where(self.columns >= 0, grad, 0)
        for rows in strips(query.x):
            f = grad[rows, None]
            if d_query is not None:
                d_query[rows].addcmul_(self._of(keys, rows), f)
            if d_keys is None:
                continue
            if self.start is not None:
                d_keys[rows.start + self.start : rows.stop + self.start].addcmul_(query[rows], f)
            else:
                d_keys.index_add_(0, self._columns(rows), query[rows] * f)


class Classes:
    """Of each row all columns of its class, but for those listed in `away` (N, P): the sum or the mean.

    rows, columns: numbers of the classes from 1 on, 0 for none. O((N + M) D) by the sums of the classes.
    """

    def __init__(self, rows: Tensor, columns: Tensor, away: Tensor | None, mean: bool):
        self.rows, self.columns, self.mean = rows, columns, mean
        self.many = how_many(rows, columns)
        count = sizes(rows, columns, self.many)
        self.out: list[Partners] = []
        for column in () if away is None or not len(columns) else away.unbind(1):
            there = inside(column, rows, columns)
            self.out.append(Partners(torch.where(there, column, -1)))
            count = count - there.to(count.dtype)
        self.count = count

    def _sums(self, side: Side, number: Tensor, factor: Tensor | None = None) -> Tensor:
        total = side.new_empty(self.many, side.x.shape[1]).zero_()
        for rows in strips(side.x):
            total.index_add_(0, number[rows], side[rows] if factor is None else side[rows] * factor[rows, None])
        return total

    def products(self, query: Side, keys: Side) -> Tensor:
        sums, total = self._sums(keys, self.columns), query.new_empty(len(query))
        for rows in strips(query.x):
            total[rows] = (query[rows] * sums[self.rows[rows]]).sum(-1)
        for less in self.out:
            total -= less.products(query, keys)
        return torch.where(self.count > 0, total / self.count if self.mean else total, 0)

    def vjp(self, grad: Tensor, query: Side, keys: Side, d_query: Tensor | None, d_keys: Tensor | None) -> None:
        grad = torch.where(self.count > 0, grad / self.count if self.mean else grad, 0)
        if d_query is not None:
            sums = self._sums(keys, self.columns)
            for rows in strips(query.x):
                d_query[rows].addcmul_(sums[self.rows[rows]], grad[rows, None])
        if d_keys is not None:
            sums = self._sums(query, self.rows, grad)
            for rows in strips(keys.x):
                d_keys[rows] += sums[self.columns[rows]]
        for less in self.out:
            less.vjp(-grad, query, keys, d_query, d_keys)
