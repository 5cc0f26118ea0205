"""How the matrix is swept: `dense` builds it, `streaming` visits it tile by tile and computes each tile again for the
gradient. Both give the same values and gradients; `auto` takes closed forms and fast sweeps wherever they can answer,
and the faster of building and sweeping for what is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nearfar.errors import InputError, did_you_mean
from nearfar.similarity import blockwise, onepass, per_entry
from nearfar.similarity.exchange import any_rank
from nearfar.similarity.operands import Columns, Operand, Scored, refuse, slices
from nearfar.similarity.reductions import CrossEntropy, Reduction
from nearfar.similarity.relations import Listed, Tile
from nearfar.similarity.vectors import Vectors

# Entries of the matrix from which the general sweep is faster than building it, by device type: set from
# benchmarks/loss/crossover.py. Closed forms and the fast sweep are the faster ones at any size.
CROSSOVER = {"cpu": 1 << 21, "cuda": 1 << 24}
TILE = {"cpu": (1024, 1024), "cuda": (4096, 8192)}
ENGINES = ("auto", "dense", "streaming")


@dataclass
class Choice:
    """The engine in force, and a counter of visited tiles for tests and benchmarks."""

    name: str = "auto"
    tile: tuple[int, int] | None = None
    visited: int = 0


_current = Choice()


@contextmanager
def engine(name: str = "auto", tile: int | tuple[int, int] | None = None) -> Iterator[Choice]:
    """Forces an engine inside a `with` block. `tile`: rows and columns of a tile (one number for both)."""
    global _current
    if name not in ENGINES:
        raise InputError(f"Unknown similarity engine '{name}'.{did_you_mean(name, ENGINES)}",
                         f"Choose one of {', '.join(ENGINES)}.")
    before = _current
    _current = Choice(name, (tile, tile) if isinstance(tile, int) else tile)
    try:
        yield _current
    finally:
        _current = before


def reduce(query: Vectors, operands: Sequence[Columns], reductions: Sequence[Reduction]) -> list[Tensor]:
    """Answers all `reductions` of query @ keys^T in one sweep; one more sweep gives all gradients."""
    _check(operands, reductions)
    with full_precision(query.device):
        travels = any(o.ring is not None for o in operands)
        if _current.name == "dense" and not travels:
            answers = dense(query.whole, operands, reductions)
        elif not travels and per_entry.fits(query, operands, reductions):
            answers = per_entry.answer(query, operands, reductions, _answers)
        else:
            answers = _answers(query, operands, reductions)
    return [_with_graph(x, query) for x in answers]


def cross_entropy(query: Vectors, operands: Sequence[Columns], r: CrossEntropy, counts: Tensor,
                  positive: Listed | None) -> Tensor | None:
    """The cross-entropy of each row with its gradient in one pass, or None where two sweeps are the better way.

    positive: one a row, where `r.of` is None.
    """
    keys = [o.vectors for o in operands if isinstance(o, Operand) and not o.own and o.ring is None]
    itself = len(keys) == 1 and keys[0] is query
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (query, *keys))
    if _current.name == "dense" or itself or not wanted or len(keys) < len(operands):
        return None
    small = is_small(query, operands)
    return onepass.answer(query, keys, r, counts, positive, tile_of(query.device, operands), _current, small)


def is_small(query: Vectors, operands: Sequence[Columns]) -> bool:
    """Whether the matrix may be built where neither closed form nor fast sweep can answer."""
    entries = math.prod(query.shape[:-1]) * sum(o.width for o in operands)
    most = CROSSOVER.get(query.device.type, 1 << 24)
    if any(isinstance(o, Scored) for o in operands):
        most = math.prod(tile_of(query.device, operands))  # what a source holds beside its numbers is not known
    return _current.name == "auto" and entries <= most


def tile_of(device: torch.device, operands: Sequence[Columns]) -> tuple[int, int]:
    """Rows and columns of a tile: those that are forced, else those that suit the sources."""
    wanted = [o.source.tile_shape for o in operands if isinstance(o, Scored) and o.source.tile_shape is not None]
    if _current.tile is None and wanted:
        return min(h for h, _ in wanted), min(w for _, w in wanted)
    return _current.tile or TILE.get(device.type, (1024, 1024))


def dense(query: Tensor, operands: Sequence[Columns], reductions: Sequence[Reduction]) -> list[Tensor]:
    """Answers from the whole matrix, differentiable any number of times."""
    return _sweep(query, operands, reductions, None, _current)[0]


def _with_graph(x: Tensor, query: Vectors) -> Tensor:
    """A value that does not depend on the query is still part of the graph, so that `backward` works."""
    return x if x.requires_grad else x + query.x.reshape(-1)[:0].sum().to(x.dtype)


def _answers(query: Vectors, operands: Sequence[Columns], reductions: Sequence[Reduction]) -> list[Tensor]:
    """Closed forms and fast sweeps where they can answer, one general sweep for what is left."""
    small = is_small(query, operands)

    def general(held: Sequence[Columns], asked: Sequence[Reduction]) -> list[Tensor]:
        built = small and all(o.ring is None for o in held)
        return dense(query.whole, held, asked) if built else _streamed(query, held, asked)

    answers: list[Tensor | None] = [None] * len(reductions)
    if query.dim() == 2 and all(o.flat for o in operands):
        tile = tile_of(query.device, operands)
        answers = blockwise.Question(query, operands, reductions, tile, _current, small).answer(general)
    left = [k for k, x in enumerate(answers) if x is None]
    if left:
        for k, x in zip(left, general(operands, [reductions[k] for k in left]), strict=True):
            answers[k] = x
    return [x for x in answers if x is not None]


def _streamed(query: Vectors, operands: Sequence[Columns], reductions: Sequence[Reduction]) -> list[Tensor]:
    inputs = [query.whole, *(x for o in operands for x in o.tensors()), *(x for r in reductions for x in r.tensors())]
    found = _Streamed.apply(_Sweep(operands, reductions, tile_of(query.device, operands), _current), *inputs)
    assert isinstance(found, tuple)
    return list(found)


def refuse_second_derivatives() -> None:
    """create_graph=True: the answer would silently lack this part."""
    if torch.is_grad_enabled():
        raise InputError("The streaming engine has no second derivatives.", 'Use `with engine("dense"):`.')


def full_precision(device: torch.device) -> torch.autocast:
    """No autocast: similarities are accumulated in the precision of their inputs, at least float32."""
    return torch.autocast(device.type, enabled=False)


def _check(operands: Sequence[Columns], reductions: Sequence[Reduction]) -> None:
    for r in reductions:
        if r.dim == 0 and operands[r.block].own:
            raise InputError("Columns of an anchor's own list have no reduction (dim=0).",
                             "Use dim=1, or share the block.")
        if r.dim == 0:
            refuse(operands[r.block], "A reduction of the columns (dim=0)")


def tiles(query: Tensor, operands: Sequence[Columns], size: tuple[int, int] | None) -> Iterator[Tile]:
    for block, operand in enumerate(operands):
        yield from _tiles_of(query, block, operand, size)


def _tiles_of(query: Tensor, block: int, part: Columns, size: tuple[int, int] | None) -> Iterator[Tile]:
    height, width = size or (None, None)
    for rows in slices(query.shape[-2], height):
        for columns in part.columns(width):
            yield Tile(rows, block, columns, part.own, query.device)


def _values(r: Reduction, t: Tile) -> dict[str, Tensor]:
    return {name: x[..., t.rows].unsqueeze(-1) for name, x in r.row_values().items()}


def _span(r: Reduction, t: Tile) -> slice:
    return t.rows if r.dim == 1 else t.columns


def _sweep(query: Tensor, operands: Sequence[Columns], reductions: Sequence[Reduction],
           size: tuple[int, int] | None, choice: Choice) -> tuple[list[Tensor], list[list[Tensor]]]:
    """One pass over all tiles. Without a size each block is one tile, and the pass is differentiable."""
    lead, n = query.shape[:-2], query.shape[-2]
    states = [r.start((*lead, n if r.dim == 1 else operands[r.block].width), query) for r in reductions]
    for block, operand in enumerate(operands):
        trip = operand.parts()
        for part in trip:
            with trip.guard():
                for t in _tiles_of(query, block, part, size):
                    _fold(t, part, query, reductions, states, size is None, choice)
    return [r.finish(x) for r, x in zip(reductions, states, strict=True)], states


def _fold(t: Tile, operand: Columns, query: Tensor, reductions: Sequence[Reduction], states: list[list[Tensor]],
          whole: bool, choice: Choice) -> None:
    live = [k for k, r in enumerate(reductions) if not r.skips(t)]
    if not live:
        return
    choice.visited += 1
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
    choice: Choice


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
            results, states = _sweep(query, operands, sweep.reductions, sweep.tile, sweep.choice)
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
        results, flat = rest[:len(sweep.reductions)], iter(rest[len(sweep.reductions):])
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
            trip = operand.parts(gradients=wanted if operand.ring is None else any_rank(wanted, operand.ring.group))
            for part in trip:
                with trip.guard():
                    for t in _tiles_of(self.query, block, part, self.sweep.tile):
                        live = [k for k, r in enumerate(self.sweep.reductions) if not r.skips(t)]
                        if live:
                            self.sweep.choice.visited += 1
                            self.visit(t, part, [trip.carried] if isinstance(operand, Operand) else out, live)
            if isinstance(operand, Operand):
                self.out[self.blocks[block][0]] = trip.carried if wanted else None
        return self.out

    def visit(self, t: Tile, operand: Columns, d_inputs: Sequence[Tensor | None], live: list[int]) -> None:
        s = operand.product(self.query, t.rows, t.columns)
        t = replace(t, s=s)
        total = None
        for k in live:
            flow = self.pull(k, t, s)
            if flow is not None:
                total = flow if total is None else total.add_(flow)
        if total is not None:
            operand.pull(total, self.query, t.rows, t.columns, self.out[0], d_inputs)

    def pull(self, k: int, t: Tile, s: Tensor) -> Tensor | None:
        r, span = self.sweep.reductions[k], _span(self.sweep.reductions[k], t)
        weight_tensors = r.weight_tensors()
        with torch.set_grad_enabled(bool(weight_tensors)):
            mask, weight = r.parts(t)
        held = weight.detach() if weight is not None else None
        kept = [x[..., span] for x in self.kept[k]]
        pull = r.pull(self.grads[k][..., span], self.results[k][..., span], kept, s, mask, held, **_values(r, t))
        if weight_tensors and weight is not None and pull.weight is not None and weight.requires_grad:
            self.spread(k, weight, pull.weight, weight_tensors)
        if pull.per_row is not None:
            d_row = self.out[self.slots[k][-1]]
            if d_row is not None:
                d_row[..., t.rows] += pull.per_row.squeeze(-1)
        return pull.s

    def spread(self, k: int, weight: Tensor, flow: Tensor, tensors: Sequence[Tensor]) -> None:
        """Carries the gradient of a tile's weights back to the tensors that they were made of."""
        flow = flow.sum_to_size(weight.shape)
        for slot, g in zip(self.slots[k], torch.autograd.grad(weight, tensors, flow, allow_unused=True), strict=False):
            held = self.out[slot]
            if g is not None and held is not None:
                held += g
