"""Leading dimensions: where the entries are large, each is swept as a matrix of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

from nearfar.similarity.conjunction import Moved
from nearfar.similarity.operands import Columns, Operand
from nearfar.similarity.reductions import Reduction
from nearfar.similarity.relations import (
    Both,
    Constant,
    Dense,
    Either,
    Listed,
    LowRank,
    Not,
    Overlap,
    PerColumn,
    PerRow,
    Relation,
    Same,
    Threshold,
)
from nearfar.similarity.vectors import Vectors

# Pairs of one entry from which its own sweep is worth it; smaller ones are multiplied together.
LARGE = 1 << 16

Answers = Callable[[Vectors, Sequence[Columns], Sequence[Reduction]], list[Tensor]]


def fits(query: Vectors, operands: Sequence[Columns], reductions: Sequence[Reduction]) -> bool:
    """Whether the entries are large and no relation or value differs between them."""
    if query.dim() == 2 or query.shape[-2] * sum(o.width for o in operands) < LARGE:
        return False
    values = [x for r in reductions for x in r.row_values().values()]
    relations = [x for r in reductions for x in (r.where, r.weight) if x is not None]
    return all(x.dim() == 1 for x in values) and all(_alike(x) for x in relations)


def _alike(r: Relation) -> bool:
    """Whether the relation is the same for all entries."""
    if isinstance(r, (Both, Either)):
        return _alike(r.a) and _alike(r.b)
    if isinstance(r, Not):
        return _alike(r.other)
    if isinstance(r, Moved):
        return _alike(r.relation)
    if isinstance(r, (PerColumn, PerRow)):
        return r.weight.dim() == 1
    if isinstance(r, Threshold):
        return r.threshold.dim() == 1
    if isinstance(r, Dense):
        return r.matrix.dim() == 2
    if isinstance(r, LowRank):
        return r.a.dim() == r.b.dim() == 2
    members = getattr(r, "members", None)
    if members is not None:
        return all(_alike(m) for m in members)
    return isinstance(r, (Constant, Listed, Same, Overlap))


def answer(query: Vectors, operands: Sequence[Columns], reductions: Sequence[Reduction],
           answers: Answers) -> list[Tensor]:
    lead = query.shape[:-2]
    found = []
    for place in product(*(range(n) for n in lead)):
        held = [Operand(Vectors(o.keys[place]), o.own) for o in operands if isinstance(o, Operand)]
        found.append(answers(Vectors(query.whole[place]), held, reductions))
    if not found:
        return [r.finish(r.start((*lead, query.shape[-2] if r.dim == 1 else operands[r.block].width), query.bare()))
                for r in reductions]
    return [torch.stack(parts).unflatten(0, lead) for parts in zip(*found, strict=True)]
