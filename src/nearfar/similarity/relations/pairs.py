"""Relations of few pairs that are known by their places."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nearfar.errors import InputError
from nearfar.similarity.relations.base import Constant, OfOneBlock, Relation, Selecting, Tile, check_ids, nobody


@dataclass(frozen=True, eq=False)
class Listed(OfOneBlock, Selecting):
    """Row i is related to column `columns[i]` (or to each of `columns[i, :]`) of one block; -1 means to none.

    `columns`: LongTensor (N,) or (N, P). `start`: they are known to count up from here. `halves`: of twice so many rows
    each is known to list its fellow in the other half.
    """

    columns: Tensor
    block: int = 0
    start: int | None = None
    halves: int | None = None
    sparse = True
    elsewhere = nobody

    @property
    def diagonals(self) -> tuple[int, ...]:
        """The pairs as whole diagonals, by the column of row 0; none where they are not known to be such."""
        if self.halves is not None:
            return self.halves, -self.halves
        return () if self.start is None else (self.start,)

    @property
    def complete(self) -> bool:
        """Whether each row is known to have its column."""
        return bool(self.diagonals)

    @property
    def listed(self) -> Tensor:
        """(N, P)."""
        return self.columns if self.columns.dim() == 2 else self.columns[:, None]

    def same_list(self, other: Relation) -> bool:
        return isinstance(other, Listed) and other.columns is self.columns and other.block == self.block

    def assume(self, known: Relation, holds: bool) -> Relation:
        return Constant(holds) if self.same_list(known) else self

    def symmetric(self) -> bool:
        """Whether j in the list of i implies i in the list of j."""
        if self.halves is not None or self.start == 0:
            return True
        if self.listed.shape[1] != 1:
            return False
        there = self.listed[:, 0]
        rows = torch.arange(len(there), device=there.device)[there >= 0]
        there = there[there >= 0]
        if bool((there >= len(self.columns)).any()):  # columns that are no row
            return False
        return bool((self.listed[there, 0] == rows).all())

    def pairs_in(self, t: Tile) -> tuple[Tensor, Tensor]:
        if t.block != self.block:
            return _no_pairs(t)
        columns = self.listed[t.rows]
        row = torch.arange(len(columns), device=t.device)[:, None].expand_as(columns).reshape(-1)
        return _inside(row, columns.reshape(-1), t)

    def tile(self, t: Tile) -> Tensor:
        if t.block != self.block:
            return torch.zeros((1, 1), dtype=torch.bool, device=t.device)
        listed = self.columns[t.rows]
        if listed.dim() == 1:
            return listed[:, None] == t.column_index()
        return (listed[:, :, None] == t.column_index()).any(1)

    def empty(self, t: Tile) -> bool:
        if t.block != self.block:
            return True
        listed = self.columns[t.rows]
        return not bool(((listed >= t.columns.start) & (listed < t.columns.stop)).any())


def listed(columns: Tensor, block: int = 0) -> Listed:
    """Row i and column `columns[i]` of a block; (N,) or (N, P), -1 for none."""
    return Listed(columns, block)


def diagonal(n: int, offset: int = 0, device: torch.device | None = None, block: int = 0) -> Listed:
    """Row i and column i + offset."""
    return Listed(torch.arange(n, device=device) + offset, block, offset)


def _no_pairs(t: Tile) -> tuple[Tensor, Tensor]:
    nothing = torch.zeros(0, dtype=torch.long, device=t.device)
    return nothing, nothing


def _inside(row: Tensor, column: Tensor, t: Tile) -> tuple[Tensor, Tensor]:
    """Of some pairs those whose columns lie in a tile, as columns within it."""
    inside = (column >= t.columns.start) & (column < t.columns.stop)
    return row[inside], column[inside] - t.columns.start


@dataclass(frozen=True, eq=False)
class Sparse(OfOneBlock, Selecting):
    """A relation of few pairs: row i and the columns `order[start[i]:stop[i]]` of one block, rising and each once.

    grade: how much each of them counts, float (len(order),); None: all alike. A relation of who may see whom has none.
    """

    order: Tensor
    start: Tensor
    stop: Tensor
    block: int = 0
    grade: Tensor | None = None
    sparse = True
    elsewhere = nobody

    @property
    def counts(self) -> Tensor:
        """How many columns each row has, LongTensor (N,)."""
        return self.stop - self.start

    def pairs(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Row (from 0 on within `rows`) and column of each pair of these rows, by row and then by column."""
        row, at = self._at(rows)
        return row, self.order[at]

    def grades(self, rows: slice) -> Tensor:
        """The grade of each of the `pairs` of these rows, (P,); 1 where there are none."""
        at = self._at(rows)[1]
        return torch.ones(len(at), device=at.device) if self.grade is None else self.grade[at]

    def _at(self, rows: slice) -> tuple[Tensor, Tensor]:
        start, counts = self.start[rows], self.counts[rows]
        row = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        away = torch.arange(len(row), device=counts.device) - (counts.cumsum(0) - counts)[row]
        return row, start[row] + away

    def pairs_in(self, t: Tile) -> tuple[Tensor, Tensor]:
        return _inside(*self.pairs(t.rows), t) if t.block == self.block else _no_pairs(t)

    def tile(self, t: Tile) -> Tensor:
        if t.block != self.block:
            return torch.zeros((1, 1), dtype=torch.bool, device=t.device)
        mask = torch.zeros(t.shape, dtype=torch.bool, device=t.device)
        mask[self.pairs_in(t)] = True
        return mask

    def empty(self, t: Tile) -> bool:
        return t.block != self.block or not len(self.pairs_in(t)[0])


def sparse(rows: Tensor, columns: Tensor, n: int, block: int = 0, grade: Tensor | None = None) -> Sparse:
    """The pairs of row `rows[p]` and column `columns[p]` of n rows; LongTensor (P,) both, repeated pairs count once.

    grade: of each pair, (P,); a repeated pair takes its largest.
    """
    if rows.shape != columns.shape or rows.dim() != 1:
        raise InputError(
            f"Pairs are given by rows (P,) and columns (P,). Got {tuple(rows.shape)} and {tuple(columns.shape)}."
        )
    if (len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < n) or bool((columns < 0).any()):
        raise InputError(f"Pairs must have rows from 0 to {n - 1} and columns from 0 on.")
    width = int(columns.max()) + 1 if len(columns) else 1
    flat, place = torch.unique(rows * width + columns, return_inverse=True)
    ends = torch.searchsorted(flat // width, torch.arange(n + 1, device=rows.device))
    if grade is not None:
        grade = grade.new_full((len(flat),), -torch.inf).scatter_reduce(0, place, grade, "amax")
    return Sparse(flat % width, ends[:-1], ends[1:], block, grade)


def equal(rows: Tensor, columns: Tensor, block: int = 0) -> Sparse:
    """Pairs of equal values, (N,) and (M,) integers, as `same`, in O(N + M) memory; -1 equals nothing, a value below
    raises InputError."""
    check_ids(rows, columns)
    values, order = columns.sort(stable=True)
    start, stop = torch.searchsorted(values, rows), torch.searchsorted(values, rows, right=True)
    return Sparse(order, start, torch.where(rows < 0, start, stop), block)
