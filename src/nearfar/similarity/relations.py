"""Who may see whom: relations between the rows (anchors) and the columns (candidates) of a similarity matrix.

A relation answers for one tile of the matrix at a time, so it never costs O(N M) memory unless it is itself a dense
matrix. Boolean relations select pairs, float relations weigh them; both are combined with `&` (and, or product),
`|` (or) and `~` (not).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

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
    """Base of all relations. `tile(t)` gives a bool or float tensor that broadcasts to (..., rows, columns).

    What a relation says of itself decides which algorithm may answer for it. The defaults promise nothing:
    `boolean`: it surely selects pairs and weighs none. `reads_values`: it looks at the similarities of the tile.
    `sparse`: it holds few pairs, known by their places (`pairs_in`). `alike`: it is the same for all entries of leading
    dimensions.
    """

    boolean: bool = False
    reads_values: bool = True
    sparse: bool = False
    alike: bool = False

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

    def pairs_in(self, t: Tile) -> tuple[Tensor, Tensor]:
        """The pairs that lie in a tile, as rows and columns within it (sparse relations)."""
        raise TypeError(f"{type(self).__name__} does not know its pairs")

    def at_block(self, block: int) -> Relation:
        """The relation as the candidates of one block see it; they are block 0 of the answer."""
        return self if block == 0 else AtBlock(self, block)

    def assume(self, known: Listed, holds: bool) -> Relation:
        """The relation for pairs of which it is known whether they are listed."""
        return self

    def symmetric(self) -> bool:
        """Whether it is known to be its own transpose where the anchors are the candidates."""
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


class _Selecting(Relation):
    """A relation that selects pairs by what is known of rows and columns, the same for all entries."""

    boolean, reads_values, alike = True, False, True


@dataclass(frozen=True, eq=False)
class Constant(_Selecting):
    """Every pair, or none."""

    value: bool

    def at_block(self, block: int) -> Relation:
        return self

    def tile(self, t: Tile) -> Tensor:
        return torch.full((1, 1), self.value, device=t.device)

    def empty(self, t: Tile) -> bool:
        return not self.value

    def full(self, t: Tile) -> bool:
        return self.value


everyone = Constant(True)
nobody = Constant(False)


@dataclass(frozen=True, eq=False)
class _Joined(Relation):
    a: Relation
    b: Relation

    @property
    def boolean(self) -> bool:
        return self.a.boolean and self.b.boolean

    @property
    def reads_values(self) -> bool:
        return self.a.reads_values or self.b.reads_values

    @property
    def alike(self) -> bool:
        return self.a.alike and self.b.alike


class Both(_Joined):
    def at_block(self, block: int) -> Relation:
        return self.a.at_block(block) & self.b.at_block(block)

    def assume(self, known: Listed, holds: bool) -> Relation:
        return self.a.assume(known, holds) & self.b.assume(known, holds)

    def tile(self, t: Tile) -> Tensor:
        a, b = self.a.tile(t), self.b.tile(t)
        return a & b if a.dtype == b.dtype == torch.bool else a * b

    def tensors(self) -> tuple[Tensor, ...]:
        return self.a.tensors() + self.b.tensors()

    def empty(self, t: Tile) -> bool:
        return self.a.empty(t) or self.b.empty(t)

    def full(self, t: Tile) -> bool:
        return self.a.full(t) and self.b.full(t)


class Either(_Joined):
    def at_block(self, block: int) -> Relation:
        return self.a.at_block(block) | self.b.at_block(block)

    def assume(self, known: Listed, holds: bool) -> Relation:
        return self.a.assume(known, holds) | self.b.assume(known, holds)

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

    @property
    def boolean(self) -> bool:
        return self.other.boolean

    @property
    def reads_values(self) -> bool:
        return self.other.reads_values

    @property
    def alike(self) -> bool:
        return self.other.alike

    def at_block(self, block: int) -> Relation:
        return ~self.other.at_block(block)

    def assume(self, known: Listed, holds: bool) -> Relation:
        return ~self.other.assume(known, holds)

    def symmetric(self) -> bool:
        return self.other.symmetric()

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
class AtBlock(Relation):
    """A relation of many blocks, asked about one of them as if it were the only one."""

    relation: Relation
    block: int

    @property
    def boolean(self) -> bool:
        return self.relation.boolean

    @property
    def reads_values(self) -> bool:
        return self.relation.reads_values

    @property
    def alike(self) -> bool:
        return self.relation.alike

    def at_block(self, block: int) -> Relation:
        return self

    def tile(self, t: Tile) -> Tensor:
        return self.relation.tile(replace(t, block=self.block))

    def tensors(self) -> tuple[Tensor, ...]:
        return self.relation.tensors()

    def empty(self, t: Tile) -> bool:
        return self.relation.empty(replace(t, block=self.block))


@dataclass(eq=False)
class PerBlock(Relation):
    """Another relation for each block; each sees its own block as block 0."""

    members: Sequence[Relation]

    @property
    def alike(self) -> bool:
        return all(m.alike for m in self.members)

    def at_block(self, block: int) -> Relation:
        return self.members[block].at_block(0)

    def tile(self, t: Tile) -> Tensor:
        return self.members[t.block].tile(replace(t, block=0))

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(x for m in self.members for x in m.tensors())

    def empty(self, t: Tile) -> bool:
        return self.members[t.block].empty(replace(t, block=0))


class _OfOneBlock(Relation):
    """A relation of one block: in others it holds for `elsewhere`."""

    block: int
    elsewhere: Relation

    def at_block(self, block: int) -> Relation:
        if self.block != block:
            return self.elsewhere
        return self if block == 0 else replace(self, block=0)  # pyright: ignore[reportArgumentType, reportCallIssue]


class _OfValues(_Selecting):
    """A relation of the rows' values and those of each block's columns; None where a block has none."""

    columns: Sequence[Tensor | None]

    def of(self, t: Tile) -> Tensor | None:
        """The values of a tile's block."""
        return self.columns[t.block] if t.block < len(self.columns) else None

    def at_block(self, block: int) -> Relation:
        columns = self.columns[block] if block < len(self.columns) else None
        if columns is None:
            return nobody
        return self if len(self.columns) == 1 else replace(  # pyright: ignore[reportArgumentType, reportCallIssue]
            self, columns=[columns])


@dataclass(frozen=True, eq=False)
class Listed(_OfOneBlock, _Selecting):
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

    def assume(self, known: Listed, holds: bool) -> Relation:
        return Constant(holds) if self.same_list(known) else self

    def symmetric(self) -> bool:
        """Whether j in the list of i implies i in the list of j."""
        if self.halves is not None or self.start == 0:
            return True
        if self.listed.shape[1] != 1:
            return False
        there = self.listed[:, 0]
        held = there >= 0
        back = there[there.clamp(min=0)]
        return bool((back[held] == torch.arange(len(there), device=there.device)[held]).all())

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


def check_ids(*values: Tensor | None) -> None:
    """Raises InputError unless ids and labels are whole numbers from 0 on, or -1 for "unknown"."""
    for ids in values:
        if ids is not None and ids.numel() and bool((ids < -1).any()):
            raise InputError(
                f"Ids, labels and groups must be 0 or more, or -1 where unknown. Got {int(ids.min())}.",
                "Number them anew: torch.unique(ids, return_inverse=True)[1].",
            )


def _no_pairs(t: Tile) -> tuple[Tensor, Tensor]:
    nothing = torch.zeros(0, dtype=torch.long, device=t.device)
    return nothing, nothing


def _inside(row: Tensor, column: Tensor, t: Tile) -> tuple[Tensor, Tensor]:
    """Of some pairs those whose columns lie in a tile, as columns within it."""
    inside = (column >= t.columns.start) & (column < t.columns.stop)
    return row[inside], column[inside] - t.columns.start


@dataclass(frozen=True, eq=False)
class Same(_OfValues):
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

    def symmetric(self) -> bool:
        columns = self.columns[0] if len(self.columns) == 1 else None
        return columns is not None and (self.rows is columns or torch.equal(self.rows, columns))

    def tile(self, t: Tile) -> Tensor:
        values = self.of(t)
        if values is None:
            return torch.zeros((1, 1), dtype=torch.bool, device=t.device)
        row = self.rows[t.rows, None]
        column = values[t.rows, t.columns] if t.own else values[t.columns]
        return (row == column) & (row >= 0)

    def empty(self, t: Tile) -> bool:
        values = self.of(t)
        if values is None:
            return True
        if t.own:
            return False
        _, low, high = self._range(self.rows, -1, t.rows)
        _, first, last = self._range(values, t.block, t.columns)
        return high < first or last < low

    def full(self, t: Tile) -> bool:
        values = self.of(t)
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
class Sparse(_OfOneBlock, _Selecting):
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


@dataclass(frozen=True, eq=False)
class Overlap(_OfValues):
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
class Dense(_OfOneBlock):
    """A whole matrix (..., N, M), bool or float: costs what it is."""

    matrix: Tensor
    block: int = 0
    reads_values = False
    elsewhere = nobody

    @property
    def boolean(self) -> bool:
        return not self.matrix.dtype.is_floating_point

    @property
    def alike(self) -> bool:
        return self.matrix.dim() == 2

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
class PerColumn(_OfOneBlock):
    """A weight for each column of one block, (..., M)."""

    weight: Tensor
    block: int = 0
    reads_values = False
    elsewhere = everyone

    @property
    def alike(self) -> bool:
        return self.weight.dim() == 1

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
    reads_values = False

    @property
    def alike(self) -> bool:
        return self.weight.dim() == 1

    def at_block(self, block: int) -> Relation:
        return self

    def tile(self, t: Tile) -> Tensor:
        return self.weight[..., t.rows, None]

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weight,) if self.weight.requires_grad else ()


def per_row(weight: Tensor) -> PerRow:
    """A weight (or a boolean) for each anchor."""
    return PerRow(weight)


@dataclass(frozen=True, eq=False)
class LowRank(_OfOneBlock):
    """Weights W = a b^T + shift, never built: `a` (..., N, R), `b` (..., M, R)."""

    a: Tensor
    b: Tensor
    shift: float = 0.0
    block: int = 0
    reads_values = False
    elsewhere = nobody

    @property
    def alike(self) -> bool:
        return self.a.dim() == self.b.dim() == 2

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
