"""Relations, what they say of themselves, and how they are combined; see the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nearfar.errors import InputError


@dataclass(frozen=True)
class Tile:
    """A rectangle of the matrix: `rows` x `columns` of one block; `s` holds its similarities where they are known."""

    rows: slice
    block: int
    columns: slice
    per_anchor: bool
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

    def assume(self, known: Relation, holds: bool) -> Relation:
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


class Selecting(Relation):
    """A relation that selects pairs by what is known of rows and columns, the same for all entries."""

    boolean, reads_values, alike = True, False, True


@dataclass(frozen=True, eq=False)
class Constant(Selecting):
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

    def assume(self, known: Relation, holds: bool) -> Relation:
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

    def assume(self, known: Relation, holds: bool) -> Relation:
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

    def assume(self, known: Relation, holds: bool) -> Relation:
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


class OfOneBlock(Relation):
    """A relation of one block: in others it holds for `elsewhere`."""

    block: int
    elsewhere: Relation

    def at_block(self, block: int) -> Relation:
        if self.block != block:
            return self.elsewhere
        return self if block == 0 else replace(self, block=0)  # pyright: ignore[reportArgumentType, reportCallIssue]


class OfValues(Selecting):
    """A relation of the rows' values and those of each block's columns; None where a block has none."""

    columns: Sequence[Tensor | None]

    def of(self, t: Tile) -> Tensor | None:
        """The values of a tile's block."""
        return self.columns[t.block] if t.block < len(self.columns) else None

    def at_block(self, block: int) -> Relation:
        columns = self.columns[block] if block < len(self.columns) else None
        if columns is None:
            return nobody
        if len(self.columns) == 1:
            return self
        return replace(self, columns=[columns])  # pyright: ignore[reportArgumentType, reportCallIssue]


def check_ids(*values: Tensor | None) -> None:
    """Raises InputError unless ids and labels are whole numbers from 0 on, or -1 for "unknown"."""
    for ids in values:
        if ids is not None and ids.numel() and bool((ids < -1).any()):
            raise InputError(
                f"Ids, labels and groups must be 0 or more, or -1 where unknown. Got {int(ids.min())}.",
                "Number them anew: torch.unique(ids, return_inverse=True)[1].",
            )
