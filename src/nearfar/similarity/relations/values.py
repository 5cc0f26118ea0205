"""Relations by values of rows and columns: equal ones, shared labels, similarities above a limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nearfar.errors import InputError
from nearfar.similarity.relations.base import OfValues, Relation, Tile, check_ids


@dataclass(frozen=True, eq=False)
class Same(OfValues):
    """Pairs whose row value equals the column value.

    `rows`: (N,) integers; `columns`: one entry a block, (M,) for shared and (N, L) for own lists, None where a block
    has no such value (it is then related to nobody). -1 means "unknown" and equals nothing; any other negative value
    raises InputError where `same` makes the relation.
    Tiles are known to be empty by the range of their values: rows and columns sorted by value skip most of the grid.
    """

    rows: Tensor
    columns: Sequence[Tensor | None]
    _ranges: dict[tuple[int, int, int], tuple[float, float, float]] = field(
        init=False, default_factory=dict, repr=False
    )

    def symmetric(self) -> bool:
        columns = self.columns[0] if len(self.columns) == 1 else None
        return columns is not None and (self.rows is columns or torch.equal(self.rows, columns))

    def tile(self, t: Tile) -> Tensor:
        values = self.of(t)
        if values is None:
            return torch.zeros((1, 1), dtype=torch.bool, device=t.device)
        row = self.rows[t.rows, None]
        column = values[t.rows, t.columns] if t.per_anchor else values[t.columns]
        return (row == column) & (row >= 0)

    def empty(self, t: Tile) -> bool:
        values = self.of(t)
        if values is None:
            return True
        if t.per_anchor:
            return False
        _, low, high = self._range(self.rows, -1, t.rows)
        _, first, last = self._range(values, t.block, t.columns)
        return high < first or last < low

    def full(self, t: Tile) -> bool:
        values = self.of(t)
        if values is None or t.per_anchor:
            return False
        least, low, high = self._range(self.rows, -1, t.rows)
        other, first, last = self._range(values, t.block, t.columns)
        return min(least, other) >= 0 and low == high == first == last

    def _range(self, values: Tensor, side: int, where: slice) -> tuple[float, float, float]:
        """The least value of a piece, and the least and largest of its known ones."""
        key = (side, where.start, where.stop)
        if key not in self._ranges:
            self._ranges[key] = _range(values[where])
        return self._ranges[key]


def _range(values: Tensor) -> tuple[float, float, float]:
    known = values[values >= 0]
    if not len(known):
        return (-1.0 if len(values) else math.inf), math.inf, -math.inf
    return values.min().item(), known.min().item(), known.max().item()


def same(rows: Tensor, columns: Tensor | Sequence[Tensor | None] | None = None) -> Same:
    """Pairs with the same label, group or id; -1 is unknown and equals nothing. Without `columns` the columns are the
    rows themselves. Raises InputError for values below -1."""
    columns = rows if columns is None else columns
    made = Same(rows, [columns] if isinstance(columns, Tensor) else list(columns))
    check_ids(made.rows, *(values for values in made.columns if values is not rows))
    return made


@dataclass(frozen=True, eq=False)
class Overlap(OfValues):
    """Pairs that share at least one of several labels; multi-hot `rows` (N, C), `columns` (M, C) per block."""

    rows: Tensor
    columns: Sequence[Tensor | None]

    def tile(self, t: Tile) -> Tensor:
        values = self.of(t)
        if values is None:
            return torch.zeros((1, 1), dtype=torch.bool, device=t.device)
        return self.rows[t.rows].float() @ values[t.columns].float().T > 0


def overlap(rows: Tensor, columns: Tensor | None = None) -> Overlap:
    """Pairs that share at least one label (multi-hot)."""
    return Overlap(rows, [rows if columns is None else columns])


@dataclass(frozen=True, eq=False)
class Threshold(Relation):
    """Pairs whose similarity is at least (or at most) the row's threshold, (..., N); a constant in the gradient."""

    threshold: Tensor
    above: bool
    boolean = True

    @property
    def alike(self) -> bool:
        return self.threshold.dim() == 1

    def at_block(self, block: int) -> Relation:
        return self

    def tile(self, t: Tile) -> Tensor:
        if t.s is None:
            raise InputError("A threshold relation needs the similarities of the tile.")
        limit = self.threshold.detach()[..., t.rows, None]
        return t.s.detach() >= limit if self.above else t.s.detach() <= limit


def at_least(threshold: Tensor) -> Threshold:
    """Candidates at least as similar as the row's threshold (ties kept)."""
    return Threshold(threshold, True)


def at_most(threshold: Tensor) -> Threshold:
    """Candidates at most as similar as the row's threshold (ties kept)."""
    return Threshold(threshold, False)
