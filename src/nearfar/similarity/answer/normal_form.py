"""The normal form of a relation: a conjunction of simple conditions; of a weight: a product of factors.

The log-sum-exp sweep and the closed forms answer listed pairs, equal values and weights that are factors; whatever a
relation holds besides is kept as a relation of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from nearfar.similarity.relations import (
    Both,
    Constant,
    Either,
    Listed,
    LowRank,
    Not,
    PerColumn,
    PerRow,
    Relation,
    Same,
    Threshold,
    Tile,
    everyone,
    nobody,
)


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


@dataclass
class Terms:
    """A conjunction taken apart. `nothing`: it is known to hold for no pair."""

    listed: list[Listed] = field(default_factory=list)
    unlisted: list[Listed] = field(default_factory=list)
    same: list[Same] = field(default_factory=list)
    different: list[Same] = field(default_factory=list)
    rest: list[Relation] = field(default_factory=list)
    nothing: bool = False

    @property
    def reads_values(self) -> bool:
        """Whether a condition looks at similarities in another way than by a threshold."""
        return any(x.reads_values for x in self.rest if not isinstance(x, Threshold))

    def symmetric(self) -> bool:
        """Whether the relation is its own transpose, where the anchors are the candidates."""
        if self.rest or self.listed:
            return False
        return all(x.symmetric() for x in (*self.same, *self.different, *self.unlisted))

    def of_block(self) -> bool:
        """Whether all that is listed or compared is known of the one block, of shared candidates."""
        if any(x.block != 0 for x in (*self.listed, *self.unlisted)):
            return False
        values = [x.columns[0] if len(x.columns) == 1 else None for x in (*self.same, *self.different)]
        return all(x is not None and x.dim() == 1 for x in values)

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
        elif not any(known.same_list(y) and holds == (known is x) for y, holds in lists):
            lists.append((known, known is x))
    if any(x.same_list(y) and a != b for x, a in lists for y, b in lists):
        return [nobody]
    for known, holds in lists:
        others = [z for y in others for z in literals(y.assume(known, holds))]
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
            if not x.boolean:
                return None
            out.where = out.where & x
        elif vector.dim() != 1:
            return None
        elif vector.dtype.is_floating_point:
            (out.rows if isinstance(x, PerRow) else out.columns).append(vector)
        else:
            out.where = out.where & x
    return out
