"""Who may see whom: relations between the rows (anchors) and the columns (candidates) of a similarity matrix.

A relation answers for one tile of the matrix at a time, so it never costs O(N M) memory unless it is itself a dense
matrix. Boolean relations select pairs, float relations weigh them; both are combined with `&` (and, or product),
`|` (or) and `~` (not).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nearfar.errors import InputError


@dataclass(frozen=True)
class Tile:
    """A rectangle of the matrix: `rows` x `columns` of one block; `s` holds its similarities where they are known."""

    rows: slice
    block: int
    columns: slice
    own: bool
    device: torch.device
    s: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    def row_index(self) -> Tensor:
        return torch.arange(self.rows.start, self.rows.stop, device=self.device)

    def column_index(self) -> Tensor:
        return torch.arange(self.columns.start, self.columns.stop, device=self.device)


class Relation:
    """Base of all relations. `tile(t)` gives a bool or float tensor that broadcasts to (..., rows, columns)."""

    def tile(self, t: Tile) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not answer for tiles")

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that may need a gradient (weights)."""
        return ()

    def empty(self, t: Tile) -> bool:
        """True where the tile is known to hold no pair, without looking at its entries."""
        return False

    def full(self, t: Tile) -> bool:
        """True where every pair of the tile is known to count (boolean relations)."""
        return False

    def __and__(self, other: Relation) -> Relation:
        if isinstance(self, Constant):
            return other if self.value else self
        if isinstance(other, Constant):
            return self if other.value else other
        return Both(self, other)

    def __or__(self, other: Relation) -> Relation:
        if isinstance(self, Constant):
            return self if self.value else other
        if isinstance(other, Constant):
            return other if other.value else self
        return Either(self, other)

    def __invert__(self) -> Relation:
        if isinstance(self, Constant):
            return nobody if self.value else everyone
        return self.other if isinstance(self, Not) else Not(self)


@dataclass(frozen=True, eq=False)
class Constant(Relation):
    """Every pair, or none."""

    value: bool

    def tile(self, t: Tile) -> Tensor:
        return torch.full((1, 1), self.value, device=t.device)

    def empty(self, t: Tile) -> bool:
        return not self.value

    def full(self, t: Tile) -> bool:
        return self.value


everyone = Constant(True)
nobody = Constant(False)


@dataclass(frozen=True, eq=False)
class Both(Relation):
    a: Relation
    b: Relation

    def tile(self, t: Tile) -> Tensor:
        a, b = self.a.tile(t), self.b.tile(t)
        return a & b if a.dtype == b.dtype == torch.bool else a * b

    def tensors(self) -> tuple[Tensor, ...]:
        return self.a.tensors() + self.b.tensors()

    def empty(self, t: Tile) -> bool:
        return self.a.empty(t) or self.b.empty(t)

    def full(self, t: Tile) -> bool:
        return self.a.full(t) and self.b.full(t)


@dataclass(frozen=True, eq=False)
class Either(Relation):
    a: Relation
    b: Relation

    def tile(self, t: Tile) -> Tensor:
        a, b = self.a.tile(t), self.b.tile(t)
        if not a.dtype == b.dtype == torch.bool:
            raise InputError("'|' joins boolean relations; weights have no 'or'.", "Add the weights instead.")
        return a | b

    def empty(self, t: Tile) -> bool:
        return self.a.empty(t) and self.b.empty(t)

    def full(self, t: Tile) -> bool:
        return self.a.full(t) or self.b.full(t)


@dataclass(frozen=True, eq=False)
class Not(Relation):
    other: Relation

    def tile(self, t: Tile) -> Tensor:
        answer = self.other.tile(t)
        if answer.dtype != torch.bool:
            raise InputError("'~' negates boolean relations; weights have no opposite.")
        return ~answer

    def empty(self, t: Tile) -> bool:
        return self.other.full(t)

    def full(self, t: Tile) -> bool:
        return self.other.empty(t)


@dataclass(frozen=True, eq=False)
class Listed(Relation):
    """Row i is related to column `columns[i]` (or to each of `columns[i, :]`) of one block; -1 means to none.

    `columns`: LongTensor (N,) or (N, P). `start`: they are known to count up from here. `halves`: of twice so many rows
    each is known to list its fellow in the other half.
    """

    columns: Tensor
    block: int = 0
    start: int | None = None
    halves: int | None = None

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


def check_ids(*values: Tensor | None) -> None:
    """Raises InputError unless ids and labels are whole numbers from 0 on, or -1 for "unknown"."""
    for ids in values:
        if ids is not None and ids.numel() and bool((ids < -1).any()):
            raise InputError(
                f"Ids, labels and groups must be 0 or more, or -1 where unknown. Got {int(ids.min())}.",
                "Number them anew: torch.unique(ids, return_inverse=True)[1].",
            )


@dataclass(frozen=True, eq=False)
class Same(Relation):
    """Pairs whose row value equals the column value.

    `rows`: (N,) integers; `columns`: one entry a block, (M,) for shared and (N, L) for own lists, None where a block
    has no such value (it is then related to nobody). -1 means "unknown" and equals nothing; any other negative value
    raises InputError where `same` makes the relation.
    Tiles are known to be empty by the range of their values: rows and columns sorted by value skip most of the grid.
    """

    rows: Tensor
    columns: Sequence[Tensor | None]
    _ranges: dict[tuple[int, int, int], tuple[float, float, float]] = field(
        init=False, default_factory=dict, repr=False)

    def tile(self, t: Tile) -> Tensor:
        values = self.columns[t.block] if t.block < len(self.columns) else None
        if values is None:
            return torch.zeros((1, 1), dtype=torch.bool, device=t.device)
        row = self.rows[t.rows, None]
        column = values[t.rows, t.columns] if t.own else values[t.columns]
        return (row == column) & (row >= 0)

    def empty(self, t: Tile) -> bool:
        values = self.columns[t.block] if t.block < len(self.columns) else None
        if values is None:
            return True
        if t.own:
            return False
        _, low, high = self._range(self.rows, -1, t.rows)
        _, first, last = self._range(values, t.block, t.columns)
        return high < first or last < low

    def full(self, t: Tile) -> bool:
        values = self.columns[t.block] if t.block < len(self.columns) else None
        if values is None or t.own:
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
class Overlap(Relation):
    """Pairs that share at least one of several labels; multi-hot `rows` (N, C), `columns` (M, C) per block."""

    rows: Tensor
    columns: Sequence[Tensor | None]

    def tile(self, t: Tile) -> Tensor:
        values = self.columns[t.block] if t.block < len(self.columns) else None
        if values is None:
            return torch.zeros((1, 1), dtype=torch.bool, device=t.device)
        return self.rows[t.rows].float() @ values[t.columns].float().T > 0


def overlap(rows: Tensor, columns: Tensor | None = None) -> Overlap:
    """Pairs that share at least one label (multi-hot)."""
    return Overlap(rows, [rows if columns is None else columns])


@dataclass(frozen=True, eq=False)
class Dense(Relation):
    """A whole matrix (..., N, M), bool or float: costs what it is."""

    matrix: Tensor
    block: int = 0

    def tile(self, t: Tile) -> Tensor:
        if t.block != self.block:
            return torch.zeros((1, 1), dtype=self.matrix.dtype, device=t.device)
        return self.matrix[..., t.rows, t.columns]

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.matrix,) if self.matrix.requires_grad else ()


def dense(matrix: Tensor, block: int = 0) -> Dense:
    """A relation or weight given as a whole matrix."""
    return Dense(matrix, block)


@dataclass(frozen=True, eq=False)
class PerColumn(Relation):
    """A weight for each column of one block, (..., M)."""

    weight: Tensor
    block: int = 0

    def tile(self, t: Tile) -> Tensor:
        if t.block != self.block:
            return torch.ones((1, 1), dtype=self.weight.dtype, device=t.device)
        return self.weight[..., None, t.columns]

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weight,) if self.weight.requires_grad else ()


def per_column(weight: Tensor, block: int = 0) -> PerColumn:
    """A weight (or a boolean) for each candidate of a block; 1 in the other blocks."""
    return PerColumn(weight, block)


@dataclass(frozen=True, eq=False)
class PerRow(Relation):
    """A weight for each row, (..., N)."""

    weight: Tensor

    def tile(self, t: Tile) -> Tensor:
        return self.weight[..., t.rows, None]

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weight,) if self.weight.requires_grad else ()


def per_row(weight: Tensor) -> PerRow:
    """A weight (or a boolean) for each anchor."""
    return PerRow(weight)


@dataclass(frozen=True, eq=False)
class LowRank(Relation):
    """Weights W = a b^T + shift, never built: `a` (..., N, R), `b` (..., M, R)."""

    a: Tensor
    b: Tensor
    shift: float = 0.0
    block: int = 0

    def tile(self, t: Tile) -> Tensor:
        if t.block != self.block:
            return torch.zeros((1, 1), dtype=self.a.dtype, device=t.device)
        return self.a[..., t.rows, :] @ self.b[..., t.columns, :].transpose(-1, -2) + self.shift

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(x for x in (self.a, self.b) if x.requires_grad)


def low_rank(a: Tensor, b: Tensor, shift: float = 0.0, block: int = 0) -> LowRank:
    """Weights given as factors: W_ij = a_i . b_j + shift."""
    return LowRank(a, b, shift, block)


@dataclass(frozen=True, eq=False)
class Threshold(Relation):
    """Pairs whose similarity is at least (or at most) the row's threshold, (..., N); a constant in the gradient."""

    threshold: Tensor
    above: bool

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


@dataclass(frozen=True, eq=False)
class Function(Relation):
    """A relation of one's own: `f(tile)` -> bool or float tensor; `uses` lists the tensors that need a gradient."""

    f: Callable[[Tile], Tensor]
    uses: tuple[Tensor, ...] = ()

    def tile(self, t: Tile) -> Tensor:
        return self.f(t)

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(x for x in self.uses if x.requires_grad)


def function(f: Callable[[Tile], Tensor], *uses: Tensor) -> Function:
    """A relation or weight computed for each tile by a function of one's own."""
    return Function(f, uses)
