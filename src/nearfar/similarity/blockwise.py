"""Questions about several blocks, answered block by block: in closed form or by the fast sweep where they can be.

Log-sum-exps, sums, counts and means of blocks are joined to those of all candidates in O(N) a block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nearfar.similarity import closed, fast, travelling
from nearfar.similarity.alongside import Alongside, alongside
from nearfar.similarity.conjunction import Factors, at_block, factors
from nearfar.similarity.operands import Columns, Operand
from nearfar.similarity.reductions import Count, LogSumExp, Mean, Reduction, Sum, finite, safe_log
from nearfar.similarity.relations import Relation, per_column
from nearfar.similarity.vectors import Vectors

General = Callable[[Sequence[Columns], Sequence[Reduction]], list[Tensor]]
JOINED = (LogSumExp, Sum, Count, Mean)


@dataclass
class Piece:
    """One reduction over one block; `lift` is added to its log-sum-exp; `beside`: how a sweep for
    others of the block answers it."""

    reduction: Reduction
    block: int
    lift: Tensor | None = None
    beside: Alongside | None = None
    answer: Tensor | None = None

    def take(self, x: Tensor | None) -> None:
        self.answer = x if x is None or self.lift is None else x + self.lift


def join(parts: Sequence[Tensor]) -> Tensor:
    """log of the sum of the exponentials; -inf where all are."""
    if len(parts) == 1:
        return parts[0]
    x = torch.stack(list(parts))
    top = finite(x.detach().amax(0))
    return top + safe_log((x - top).exp().sum(0))


class Question:
    """The reductions as pieces of single blocks."""

    def __init__(self, query: Vectors, operands: Sequence[Columns], reductions: Sequence[Reduction],
                 tile: tuple[int, int], choice: Any, small: bool):
        self.query, self.operands, self.reductions = query, operands, reductions
        self.tile, self.choice, self.small = tile, choice, small
        self.seen: dict[tuple[int, int], Relation | None] = {}
        self.weights: dict[tuple[int, int], Factors | None] = {}
        self.pieces = [self._split(r) for r in reductions]

    def _at(self, relation: Relation | None, block: int) -> Relation | None:
        key = (id(relation), block)
        if key not in self.seen:
            self.seen[key] = None if relation is None else at_block(relation, block)
        return self.seen[key]

    def _split(self, r: Reduction) -> list[Piece]:
        if r.dim == 0:
            return [self._piece(r, r.block)]
        if len(self.operands) == 1:
            return [self._piece(r, 0)]
        if type(r) not in JOINED or (isinstance(r, Sum) and r.phi is not None):
            return []
        kinds = [r]
        if isinstance(r, Mean):
            kinds = [kind(where=r.where, weight=r.weight) for kind in (Sum, Count)]
        return [self._piece(x, b) for x in kinds for b in range(len(self.operands))]

    def _piece(self, r: Reduction, block: int) -> Piece:
        weight = self._at(r.weight, block)
        lift = None
        if isinstance(r, LogSumExp) and r.dim == 1 and weight is not None:
            found = self.weights.setdefault((id(r.weight), block), factors(weight))
            if found is not None and found.rows:
                assert found.row is not None
                lift = safe_log(found.row)
                key = (id(r.weight), ~block)
                if key not in self.seen:
                    left = found.where
                    for w in found.columns:
                        left = left & per_column(w)
                    self.seen[key] = left
                weight = self.seen[key]
        return Piece(replace(r, where=self._at(r.where, block), weight=weight, block=0), block, lift)

    def answer(self, general: General) -> list[Tensor | None]:
        """None for those that need the general sweep over all blocks."""
        everyone = [p for pieces in self.pieces for p in pieces]
        swept = {p.block for p in everyone if type(p.reduction) is LogSumExp}
        for p in everyone:
            p.beside = alongside(p.reduction) if p.block in swept else None
            if p.beside is None:
                p.take(self._closed(p))
        open_ones = [p for p in everyone if p.answer is None]
        if all(self.pieces):
            for b in range(len(self.operands)):
                self._sweep(b, [p for p in open_ones if p.block == b], general)
        return [self._joined(r, pieces) if pieces and all(p.answer is not None for p in pieces) else None
                for r, pieces in zip(self.reductions, self.pieces, strict=True)]

    def _closed(self, p: Piece) -> Tensor | None:
        keys = self._keys(self.operands[p.block], p.reduction)
        return None if keys is None else closed.answer(self.query, keys, p.reduction)

    def _keys(self, operand: Columns, r: Reduction) -> Vectors | None:
        """Keys for a closed form; counting needs none, whatever the similarity is."""
        if isinstance(operand, Operand):
            return None if operand.own or operand.ring is not None else operand.vectors
        return Vectors(self.query.new_zeros(operand.width, 0)) if isinstance(r, Count) else None

    def _sweep(self, block: int, pieces: list[Piece], general: General) -> None:
        if not pieces:
            return
        operand, asked = self.operands[block], [p.reduction for p in pieces]
        found = None
        if isinstance(operand, Operand) and operand.ring is not None:
            found = travelling.reduce(self.query, operand, asked, self.tile, self.choice)
        elif isinstance(operand, Operand) and not operand.own:
            beside = {k: p.beside for k, p in enumerate(pieces) if p.beside is not None}
            found = fast.reduce(self.query, operand.vectors, asked, self.tile, self.choice, self.small, beside)
        if found is None:
            found = self._slowly(operand, pieces, general)
        for p, x in zip(pieces, found, strict=True):
            p.take(x)

    def _slowly(self, operand: Columns, pieces: list[Piece], general: General) -> list[Tensor]:
        """Closed forms of what was to be answered alongside, a general sweep for the rest."""
        found = [None if p.beside is None else self._closed(p) for p in pieces]
        left = [p.reduction for p, x in zip(pieces, found, strict=True) if x is None]
        swept = iter(general([operand], left) if left else ())
        return [next(swept) if x is None else x for x in found]

    def _joined(self, r: Reduction, pieces: list[Piece]) -> Tensor:
        parts = [p.answer for p in pieces if p.answer is not None]
        if len(parts) == 1:
            return parts[0]
        if isinstance(r, LogSumExp):
            return join(parts)
        half = len(self.operands)
        total = torch.stack(parts[:half]).sum(0)
        if not isinstance(r, Mean):
            return total
        count = torch.stack(parts[half:]).sum(0)
        return torch.where(count != 0, total / torch.where(count != 0, count, 1), 0)
