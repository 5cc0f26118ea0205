"""Relations taken apart: as one block sees them, and as a conjunction of simple conditions.

The fast sweep and the closed forms answer listed pairs, equal values and weights that are factors; whatever a relation
holds besides is kept as a relation of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from torch import Tensor

from nearfar.similarity.relations import (
    Both,
    Constant,
    Dense,
    Either,
    Function,
    Listed,
    LowRank,
    Not,
    Overlap,
    PerColumn,
    PerRow,
    Relation,
    Same,
    Threshold,
    Tile,
    everyone,
    nobody,
)


@dataclass(frozen=True, eq=False)
class Moved(Relation):
    """A relation of many blocks, asked about one of them as if it were the only one."""

    relation: Relation
    block: int

    def tile(self, t: Tile) -> Tensor:
        return self.relation.tile(replace(t, block=self.block))

    def tensors(self) -> tuple[Tensor, ...]:
        return self.relation.tensors()

    def empty(self, t: Tile) -> bool:
        return self.relation.empty(replace(t, block=self.block))


def at_block(r: Relation, block: int) -> Relation:
    """The relation as the candidates of one block see it; they are block 0 of the answer."""
    if isinstance(r, (Constant, PerRow, Threshold)):
        return r
    if isinstance(r, Both):
        return at_block(r.a, block) & at_block(r.b, block)
    if isinstance(r, Either):
        return at_block(r.a, block) | at_block(r.b, block)
    if isinstance(r, Not):
        return ~at_block(r.other, block)
    if isinstance(r, (Same, Overlap)):
        columns = r.columns[block] if block < len(r.columns) else None
        if columns is None:
            return nobody
        return r if len(r.columns) == 1 else replace(r, columns=[columns])
    if isinstance(r, (Listed, Dense, LowRank, PerColumn)):
        if r.block == block:
            return r if block == 0 else replace(r, block=0)
        return everyone if isinstance(r, PerColumn) else nobody
    members = getattr(r, "members", None)
    if members is not None:
        return at_block(members[block], 0)
    if isinstance(r, Moved):
        return r
    return r if block == 0 else Moved(r, block)


def literals(r: Relation | None) -> list[Relation]:
    """A relation as conditions that must all hold."""
    out: list[Relation] = []
    stack = [] if r is None else [r]
    while stack:
        x = stack.pop()
        if isinstance(x, Both):
            stack += [x.b, x.a]
        elif isinstance(x, Not) and isinstance(x.other, Either):
            stack += [~x.other.b, ~x.other.a]
        elif not (isinstance(x, Constant) and x.value):
            out.append(x)
    return out


def _same_list(a: Relation, b: Relation) -> bool:
    return isinstance(a, Listed) and isinstance(b, Listed) and a.columns is b.columns and a.block == b.block


def assume(r: Relation, known: Listed, holds: bool) -> Relation:
    """`r` for pairs of which it is known whether they are listed."""
    if _same_list(r, known):
        return everyone if holds else nobody
    if isinstance(r, Both):
        return assume(r.a, known, holds) & assume(r.b, known, holds)
    if isinstance(r, Either):
        return assume(r.a, known, holds) | assume(r.b, known, holds)
    if isinstance(r, Not):
        return ~assume(r.other, known, holds)
    return r


@dataclass
class Terms:
    """A conjunction taken apart. `nothing`: it is known to hold for no pair."""

    listed: list[Listed] = field(default_factory=list)
    unlisted: list[Listed] = field(default_factory=list)
    same: list[Same] = field(default_factory=list)
    different: list[Same] = field(default_factory=list)
    rest: list[Relation] = field(default_factory=list)
    nothing: bool = False

    def empty(self, t: Tile) -> bool:
        """True where the tile is known to hold no pair."""
        held = (*self.listed, *self.same, *self.rest)
        return self.nothing or any(x.empty(t) for x in held) or any(x.full(t) for x in self.different)


def _decided(found: list[Relation]) -> list[Relation]:
    lists: list[tuple[Listed, bool]] = []
    others = []
    for x in found:
        known = x.other if isinstance(x, Not) else x
        if not isinstance(known, Listed):
            others.append(x)
        elif not any(_same_list(known, y) and holds == (known is x) for y, holds in lists):
            lists.append((known, known is x))
    if any(_same_list(x, y) and a != b for x, a in lists for y, b in lists):
        return [nobody]
    for known, holds in lists:
        others = [z for y in others for z in literals(assume(y, known, holds))]
    return [x if holds else ~x for x, holds in lists] + others


def terms(where: Relation | None) -> Terms:
    """The conditions of a relation over one block, sorted; what listed pairs already decide is left out."""
    found = _decided(literals(where))
    out = Terms()
    for x in found:
        if isinstance(x, Constant):
            out.nothing = True
        elif isinstance(x, Listed):
            out.listed.append(x)
        elif isinstance(x, Same):
            out.same.append(x)
        elif isinstance(x, Not) and isinstance(x.other, Listed):
            out.unlisted.append(x.other)
        elif isinstance(x, Not) and isinstance(x.other, Same):
            out.different.append(x.other)
        else:
            out.rest.append(x)
    return out


@dataclass
class Factors:
    """A weight as a product: of each row, of each column, a boolean relation, and weights of low rank."""

    rows: list[Tensor] = field(default_factory=list)
    columns: list[Tensor] = field(default_factory=list)
    where: Relation = everyone
    low_rank: list[LowRank] = field(default_factory=list)

    @property
    def row(self) -> Tensor | None:
        return math.prod(self.rows[1:], start=self.rows[0]) if self.rows else None

    @property
    def column(self) -> Tensor | None:
        return math.prod(self.columns[1:], start=self.columns[0]) if self.columns else None


def factors(weight: Relation | None) -> Factors | None:
    """A weight over one block as factors of rows and columns, or None where it is no such product."""
    found = product(weight)
    return None if found is None or found.low_rank else found


def product(weight: Relation | None) -> Factors | None:
    """A weight over one block as a product (conditions may be among its factors), or None where it is none."""
    out = Factors()
    for x in literals(weight):
        vector = x.weight if isinstance(x, (PerRow, PerColumn)) else None
        if isinstance(x, LowRank):
            out.low_rank.append(x)
        elif vector is None:
            if not _boolean(x):
                return None
            out.where = out.where & x
        elif vector.dim() != 1:
            return None
        elif vector.dtype.is_floating_point:
            (out.rows if isinstance(x, PerRow) else out.columns).append(vector)
        else:
            out.where = out.where & x
    return out


def _boolean(r: Relation) -> bool:
    """Whether the relation surely selects pairs and weighs none."""
    if isinstance(r, Not):
        return _boolean(r.other)
    if isinstance(r, (Both, Either)):
        return _boolean(r.a) and _boolean(r.b)
    if isinstance(r, Dense):
        return not r.matrix.dtype.is_floating_point
    return isinstance(r, (Constant, Listed, Same, Overlap, Threshold))


def reads_similarities(r: Relation) -> bool:
    """Whether the relation looks at the similarities of the tile (as functions may)."""
    if isinstance(r, (Both, Either)):
        return reads_similarities(r.a) or reads_similarities(r.b)
    if isinstance(r, Not):
        return reads_similarities(r.other)
    if isinstance(r, Moved):
        return reads_similarities(r.relation)
    known = (Constant, Listed, Same, Overlap, Dense, PerColumn, PerRow, LowRank)
    return isinstance(r, (Threshold, Function)) or not isinstance(r, known)
