"""The general sweep, which answers everything: tile by tile with running maxima, each tile computed again for the
gradient; and the whole matrix, which is the same fold over one tile, differentiable any number of times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nearfar.similarity.answer.columns import Columns, Operand, slices
from nearfar.similarity.answer.engine import Engine
from nearfar.similarity.answer.numerics import full_precision, refuse_second_derivatives
from nearfar.similarity.answer.vectors import Vectors
from nearfar.similarity.exchange import any_rank
from nearfar.similarity.reductions import Reduction
from nearfar.similarity.relations import Tile


def dense(query: Tensor, operands: Sequence[Columns], reductions: Sequence[Reduction], engine: Engine) -> list[Tensor]:
    """Answers from the whole matrix, differentiable any number of times."""
    return _sweep(query, operands, reductions, None, engine)[0]


def streamed(
    query: Vectors, operands: Sequence[Columns], reductions: Sequence[Reduction], tile: tuple[int, int], engine: Engine
) -> list[Tensor]:
    """One sweep for the values, one for the gradients."""
    inputs = [query.whole, *(x for o in operands for x in o.tensors()), *(x for r in reductions for x in r.tensors())]
    found = _Streamed.apply(_Sweep(operands, reductions, tile, engine), *inputs)
    assert isinstance(found, tuple)
    return list(found)


def tiles(query: Tensor, operands: Sequence[Columns], size: tuple[int, int] | None) -> Iterator[Tile]:
    for block, operand in enumerate(operands):
        yield from _tiles_of(query, block, operand, size)


def _tiles_of(query: Tensor, block: int, part: Columns, size: tuple[int, int] | None) -> Iterator[Tile]:
    height, width = size or (None, None)
    for rows in slices(query.shape[-2], height):
        for columns in part.columns(width):
            yield Tile(rows, block, columns, part.per_anchor, query.device)


def _values(r: Reduction, t: Tile) -> dict[str, Tensor]:
    return {name: x[..., t.rows].unsqueeze(-1) for name, x in r.row_values().items()}


def _span(r: Reduction, t: Tile) -> slice:
    return t.rows if r.dim == 1 else t.columns


def _sweep(
    query: Tensor,
    operands: Sequence[Columns],
    reductions: Sequence[Reduction],
    size: tuple[int, int] | None,
    engine: Engine,
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """One pass over all tiles. Without a size each block is one tile, and the pass is differentiable."""
    lead, n = query.shape[:-2], query.shape[-2]
    states = [r.start((*lead, n if r.dim == 1 else operands[r.block].width), query) for r in reductions]
    for block, operand in enumerate(operands):
        parts = operand.parts()
        for part in parts:
            with parts.guard():
                for t in _tiles_of(query, block, part, size):
                    _fold(t, part, query, reductions, states, size is None, engine)
    return [r.finish(x) for r, x in zip(reductions, states, strict=True)], states


def _fold(
    t: Tile,
    operand: Columns,
    query: Tensor,
    reductions: Sequence[Reduction],
    states: list[list[Tensor]],
    whole: bool,
    engine: Engine,
) -> None:
    live = [k for k, r in enumerate(reductions) if not r.skips(t)]
    if not live:
        return
    engine.visited += 1
    s = operand.product(query, t.rows, t.columns)
    t = replace(t, s=s.detach())
    for k in live:
        r, span = reductions[k], _span(reductions[k], t)
        mask, weight = r.parts(t)
        if whole:
            states[k] = r.fold(states[k], s, mask, weight, **_values(r, t))
            continue
        piece = r.fold([x[..., span] for x in states[k]], s, mask, weight, **_values(r, t))
        for held, part in zip(states[k], piece, strict=True):
            held[..., span] = part


@dataclass
class _Sweep:
    operands: Sequence[Columns]
    reductions: Sequence[Reduction]
    tile: tuple[int, int]
    engine: Engine


def _given(operands: Sequence[Columns], tensors: Sequence[Tensor]) -> list[Columns]:
    """The operands made of the first of these tensors."""
    rest = iter(tensors)
    return [o.given([next(rest) for _ in o.tensors()]) for o in operands]


class _Streamed(torch.autograd.Function):
    """Forward: one sweep, keeping results only. Backward: one sweep that computes each tile again."""

    @staticmethod
    def forward(ctx: Any, sweep: _Sweep, *inputs: Tensor):
        query, operands = inputs[0], _given(sweep.operands, inputs[1:])
        with full_precision(query.device):
            results, states = _sweep(query, operands, sweep.reductions, sweep.tile, sweep.engine)
        kept = [r.saved(x) for r, x in zip(sweep.reductions, states, strict=True)]
        ctx.sweep, ctx.lengths = sweep, [len(x) for x in kept]
        ctx.save_for_backward(*inputs, *results, *(x for group in kept for x in group))
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        refuse_second_derivatives()
        sweep: _Sweep = ctx.sweep
        saved = list(ctx.saved_tensors)
        many = len(saved) - sum(ctx.lengths) - len(sweep.reductions)
        inputs, rest = saved[:many], saved[many:]
        results, flat = rest[: len(sweep.reductions)], iter(rest[len(sweep.reductions) :])
        kept = [[next(flat) for _ in range(k)] for k in ctx.lengths]
        needed = [x.requires_grad and need for x, need in zip(inputs, ctx.needs_input_grad[1:], strict=True)]
        with full_precision(inputs[0].device):
            return None, *_Backward(sweep, inputs, results, kept, grads, needed).run()


class _Backward:
    def __init__(self, sweep: _Sweep, inputs, results, kept, grads, needed):
        self.sweep, self.results, self.kept, self.grads = sweep, results, kept, grads
        self.query = inputs[0].detach()
        self.operands = _given(sweep.operands, [x.detach() for x in inputs[1:]])
        self.out = [torch.zeros_like(x) if need else None for x, need in zip(inputs, needed, strict=True)]
        position = 1
        self.blocks, self.slots = [], []
        for members, slots in ((self.operands, self.blocks), (sweep.reductions, self.slots)):
            for x in members:
                slots.append(range(position, position + len(x.tensors())))
                position += len(x.tensors())

    def run(self) -> list[Tensor | None]:
        for block, operand in enumerate(self.operands):
            out = [self.out[k] for k in self.blocks[block]]
            wanted = out[0] is not None if isinstance(operand, Operand) else False
            parts = operand.parts(gradients=wanted if operand.ring is None else any_rank(wanted, operand.ring.group))
            for part in parts:
                with parts.guard():
                    for t in _tiles_of(self.query, block, part, self.sweep.tile):
                        live = [k for k, r in enumerate(self.sweep.reductions) if not r.skips(t)]
                        if live:
                            self.sweep.engine.visited += 1
                            self.visit(t, part, [parts.carried] if isinstance(operand, Operand) else out, live)
            if isinstance(operand, Operand):
                self.out[self.blocks[block][0]] = parts.carried if wanted else None
        return self.out

    def visit(self, t: Tile, operand: Columns, d_inputs: Sequence[Tensor | None], live: list[int]) -> None:
        s = operand.product(self.query, t.rows, t.columns)
        t = replace(t, s=s)
        total = None
        for k in live:
            grad = self.vjp(k, t, s)
            if grad is not None:
                total = grad if total is None else total.add_(grad)
        if total is not None:
            operand.vjp(total, self.query, t.rows, t.columns, self.out[0], d_inputs)

    def vjp(self, k: int, t: Tile, s: Tensor) -> Tensor | None:
        r, span = self.sweep.reductions[k], _span(self.sweep.reductions[k], t)
        weight_tensors = r.weight_tensors()
        with torch.set_grad_enabled(bool(weight_tensors)):
            mask, weight = r.parts(t)
        held = weight.detach() if weight is not None else None
        kept = [x[..., span] for x in self.kept[k]]
        found = r.vjp(self.grads[k][..., span], self.results[k][..., span], kept, s, mask, held, **_values(r, t))
        if weight_tensors and weight is not None and found.weight is not None and weight.requires_grad:
            self.spread(k, weight, found.weight, weight_tensors)
        if found.per_row is not None:
            d_row = self.out[self.slots[k][-1]]
            if d_row is not None:
                d_row[..., t.rows] += found.per_row.squeeze(-1)
        return found.s

    def spread(self, k: int, weight: Tensor, grad: Tensor, tensors: Sequence[Tensor]) -> None:
        """Carries the gradient of a tile's weights back to the tensors that they were made of."""
        grad = grad.sum_to_size(weight.shape)
        for slot, g in zip(self.slots[k], torch.autograd.grad(weight, tensors, grad, allow_unused=True), strict=False):
            held = self.out[slot]
            if g is not None and held is not None:
                held += g
