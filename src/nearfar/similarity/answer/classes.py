"""Columns that belong to a row: lists without repetitions, and the classes of equal values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nearfar.similarity.relations import Listed, Same


def all_listed(lists: Sequence[Listed]) -> Tensor | None:
    """The columns of several lists as one (N, P), each once; None where there are none."""
    return distinct(torch.cat([x.listed for x in lists], 1)) if lists else None


def distinct(columns: Tensor) -> Tensor:
    """(N, P) with -1 in place of every repetition within a row."""
    columns = columns.sort(1).values
    again = torch.zeros_like(columns, dtype=torch.bool)
    again[:, 1:] = columns[:, 1:] == columns[:, :-1]
    return torch.where(again, -1, columns)


def among(columns: Tensor, listed: Tensor) -> Tensor:
    """Which of the (N, P) columns stand in the row's own list (N, R)."""
    found = torch.zeros_like(columns, dtype=torch.bool)
    for r in range(listed.shape[1]):
        found |= columns == listed[:, r, None]
    return found


def inside(columns: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Which of some columns (N,) or (N, P), -1 for none, lie in the row's class, numbered as by `classes`."""
    if not len(column):
        return torch.zeros_like(columns, dtype=torch.bool)
    row = row[:, None] if columns.dim() == 2 else row
    return (columns >= 0) & (row == column[columns.clamp(min=0)]) & (row > 0)


def classes(equal: Sequence[Same]) -> tuple[Tensor | None, Tensor | None]:
    """Pairs that agree in all values, as one small number of each row and column from 1 on; 0 where unknown."""
    row, column = None, None
    for x in equal:
        a, b = numbered(x.rows, x.columns[0])
        if row is None or column is None:
            row, column = a, b
            continue
        base = int(max(a.max(), b.max())) + 1 if len(a) and len(b) else 1
        known = (row > 0) & (a > 0), (column > 0) & (b > 0)
        row, column = (torch.where(k, x * base + y, -1) for k, x, y in ((known[0], row, a), (known[1], column, b)))
        row, column = numbered(row, column)
    return row, column


def numbered(rows: Tensor, columns: Tensor | None) -> tuple[Tensor, Tensor]:
    """Values as small numbers from 1 on; 0 stands for unknown."""
    assert columns is not None
    both = torch.cat([rows, columns])
    small = torch.unique(both, return_inverse=True)[1] + 1
    small = torch.where(both >= 0, small, 0)
    return small[: len(rows)], small[len(rows) :]


def how_many(row: Tensor, column: Tensor) -> int:
    """One more than the largest number of a class."""
    return int(torch.cat([row, column]).max()) + 1 if len(row) + len(column) else 1


def sizes(row: Tensor, column: Tensor, many: int) -> Tensor:
    """How many columns the class of each row has, LongTensor (N,)."""
    return torch.where(row > 0, torch.bincount(column, minlength=many)[row], 0)
