"""Leading dimensions: where the entries are large, each is swept as a matrix of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

from nearfar.similarity.answer.columns import Columns, Operand
from nearfar.similarity.answer.vectors import Vectors
from nearfar.similarity.reductions import Reduction

Answers = Callable[[Vectors, Sequence[Columns]], list[Tensor]]


def reduce(
    query: Vectors, operands: Sequence[Columns], reductions: Sequence[Reduction], answers: Answers
) -> list[Tensor]:
    """The answers for each entry, below one another again."""
    lead = query.shape[:-2]
    found = []
    for entry in product(*(range(n) for n in lead)):
        held = [Operand(Vectors(o.keys[entry]), o.per_anchor) for o in operands if isinstance(o, Operand)]
        found.append(answers(Vectors(query.whole[entry]), held))
    if not found:
        return [
            r.finish(r.start((*lead, query.shape[-2] if r.dim == 1 else operands[r.block].width), query.bare()))
            for r in reductions
        ]
    return [torch.stack(parts).unflatten(0, lead) for parts in zip(*found, strict=True)]
