"""A relation of few pairs: any number of columns for each row, in the memory of what it is made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nearfar.errors import InputError
from nearfar.similarity.relations import Listed, Relation, Tile, check_ids


@dataclass(frozen=True, eq=False)
class Sparse(Relation):
    """Row i is related to the columns `order[start[i]:stop[i]]` of one block, rising and each once.

    grade: how much each of them counts, float (len(order),); None: all alike. A relation of who may see whom has none.
    """

    order: Tensor
    start: Tensor
    stop: Tensor
    block: int = 0
    grade: Tensor | None = None

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

    def tile(self, t: Tile) -> Tensor:
        if t.block != self.block:
            return torch.zeros((1, 1), dtype=torch.bool, device=t.device)
        mask = torch.zeros(t.shape, dtype=torch.bool, device=t.device)
        mask[places(self, t)] = True
        return mask

    def empty(self, t: Tile) -> bool:
        return t.block != self.block or not len(places(self, t)[0])


def sparse(rows: Tensor, columns: Tensor, n: int, block: int = 0, grade: Tensor | None = None) -> Sparse:
    """The pairs of row `rows[p]` and column `columns[p]` of n rows; LongTensor (P,) both, repeated pairs count once.

    grade: of each pair, (P,); a repeated pair takes its largest.
    """
    if rows.shape != columns.shape or rows.dim() != 1:
        raise InputError(f"Pairs are given by rows (P,) and columns (P,). Got {tuple(rows.shape)} and "
                         f"{tuple(columns.shape)}.")
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


def places(r: Sparse | Listed, t: Tile) -> tuple[Tensor, Tensor]:
    """The pairs of a relation that lie in a tile, as rows and columns within it."""
    if t.block != r.block:
        nothing = torch.zeros(0, dtype=torch.long, device=t.device)
        return nothing, nothing
    if isinstance(r, Sparse):
        row, column = r.pairs(t.rows)
    else:
        columns = r.columns[t.rows] if r.columns.dim() == 2 else r.columns[t.rows, None]
        row = torch.arange(len(columns), device=t.device)[:, None].expand_as(columns).reshape(-1)
        column = columns.reshape(-1)
    inside = (column >= t.columns.start) & (column < t.columns.stop)
    return row[inside], column[inside] - t.columns.start
