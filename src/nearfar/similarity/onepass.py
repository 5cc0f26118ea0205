"""Cross-entropy of one direction with its gradient made in the same pass.

    value_i = log(1 + sum_j W_j exp(S_ij - u_i))

A panel of rows is kept against all candidates: its exponentials give the sums, the gradient of the rows and, once the
sums are known, that of the keys: three matrix products in all, one fewer than two sweeps need. The upstream gradient is
taken to be one number for all rows that count, as a mean makes it; backward checks this and otherwise computes the
panels again with the upstream gradient that came.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nearfar.similarity.conjunction import Terms, at_block, factors, terms
from nearfar.similarity.fast import BOUND, LOG2E, Conditions, answerable, largest
from nearfar.similarity.operands import Operand
from nearfar.similarity.reductions import CrossEntropy, LogSumExp
from nearfar.similarity.relations import PerColumn, Relation, Tile, everyone
from nearfar.similarity.units import aliases

# Floats of a panel: its rows times all candidates.
PANEL = {"cpu": 1 << 23, "cuda": 1 << 27}


@dataclass
class Candidates:
    """One block as a pass needs it."""

    where: Relation
    terms: Terms
    scale: float
    conditions: Conditions


@dataclass
class Pass:
    blocks: list[Candidates]
    choice: Any
    tile: tuple[int, int]
    counts: Tensor
    diagonal: int | None
    small: bool
    bounded: bool = True
    grads: list[Tensor | None] | None = None
    needs: list[bool] = field(default_factory=list)


class Panel:
    """The rows of one panel against all candidates, in scratch that every panel uses again."""

    def __init__(self, job: Pass, query: Tensor, keys: Sequence[Tensor], weights: Sequence[Tensor | None]):
        self.job, self.query, self.keys, self.weights = job, query, keys, weights
        width = sum(len(k) for k, b in zip(keys, job.blocks, strict=True) if not b.terms.nothing)
        budget = PANEL.get(query.device.type, 1 << 24)
        self.height = max(min(job.tile[0], len(query), max(budget // max(width, 1), 128)), 1)
        self.kept = query.new_empty(self.height * max(width, 1))
        self.width = job.tile[1]
        size = self.height * min(self.width, max(width, 1))
        masked = any(b.conditions.masked for b in job.blocks)
        self.masks = [query.new_empty(size) for _ in range(2)] if masked else None

    def rows(self) -> Iterator[slice]:
        for i in range(0, len(self.query), self.height):
            yield slice(i, min(i + self.height, len(self.query)))

    def chunks(self, rows: slice) -> Iterator[tuple[int, slice, Tensor]]:
        """Block, columns and the place of their exponentials."""
        height, start = rows.stop - rows.start, 0
        for b, keys in enumerate(self.keys):
            for j in range(0, 0 if self.job.blocks[b].terms.nothing else len(keys), self.width):
                columns = slice(j, min(j + self.width, len(keys)))
                size = height * (columns.stop - j)
                if self.job.blocks[b].terms.empty(Tile(rows, 0, columns, False, keys.device)):
                    continue
                yield b, columns, self.kept[start: start + size].view(height, -1)
                start += size

    def product(self, b: int, rows: slice, columns: slice, out: Tensor) -> Tensor | None:
        """Exponents in base 2; the mask of the pairs that count, where there is one."""
        block = self.job.blocks[b]
        self.job.choice.visited += 1
        torch.addmm(out, self.query[rows], self.keys[b][columns].T, beta=0, alpha=LOG2E * block.scale, out=out)
        if self.masks is None or not block.conditions.masked:
            return None
        return block.conditions.mask(out, rows, columns, *(x[: out.numel()].view(out.shape) for x in self.masks))

    def exponentials(self, b: int, rows: slice, columns: slice, out: Tensor, mask: Tensor | None) -> None:
        out.exp2_()
        if mask is not None:
            out.mul_(mask)
        self.job.blocks[b].conditions.clear(out, rows, columns)

    def fill(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Puts the exponentials of a panel into its chunks; their sums, weighted, and the shift of each row."""
        total = self.query.new_zeros(rows.stop - rows.start)
        shift = torch.zeros_like(total)
        if self.job.bounded:
            for b, columns, out in self.chunks(rows):
                self.exponentials(b, rows, columns, out, self.product(b, rows, columns, out))
                total += self.weighed(b, columns, out)
            return total, shift
        shift.fill_(-math.inf)
        for b, columns, out in self.chunks(rows):
            mask = self.product(b, rows, columns, out)
            if mask is not None:
                out.masked_fill_(mask == 0, -math.inf)
            self.job.blocks[b].conditions.clear(out, rows, columns, -math.inf)
            shift = torch.maximum(shift, out.amax(1))
        shift = torch.where(shift.isfinite(), shift, 0)
        for b, columns, out in self.chunks(rows):
            out.sub_(shift[:, None]).exp2_()
            total += self.weighed(b, columns, out)
        return total, shift

    def weighed(self, b: int, columns: slice, out: Tensor) -> Tensor:
        w = self.weights[b]
        return out.sum(1) if w is None else out @ w[columns]


def run(job: Pass, query: Tensor, positive: Tensor, keys: Sequence[Tensor], weights: Sequence[Tensor | None],
        upstream: Tensor | None) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Values, shares (their slope in the log-sum-exp) and, where `upstream` is given, gradients of all inputs."""
    panel = Panel(job, query, keys, weights)
    values, shares = torch.empty_like(positive), torch.empty_like(positive)
    needs = job.needs if upstream is not None else [False] * len(job.needs)
    d_query = torch.zeros_like(query) if needs[0] else None
    pull = torch.empty_like(positive)
    d_keys = [torch.zeros_like(k) if n else None for k, n in zip(keys, needs[2:], strict=False)]
    d_weights = [torch.zeros_like(w) if w is not None and n else None
                 for w, n in zip(weights, needs[2 + len(keys):], strict=True)]
    for rows in panel.rows():
        total, shift = panel.fill(rows)
        away = torch.log2(total).add_(shift).div_(LOG2E).sub_(positive[rows])
        values[rows] = torch.nn.functional.softplus(away, 1, 40)
        shares[rows] = away.sigmoid_()
        if upstream is None:
            continue
        pull[rows] = upstream[rows] * shares[rows]
        factor = torch.where(total > 0, pull[rows] / torch.where(total > 0, total, 1), 0)
        _collect(panel, rows, factor, d_query, d_keys, d_weights)
    if job.diagonal is not None and upstream is not None:
        _release(query, keys[job.diagonal], pull[:, None], d_query, d_keys[job.diagonal])
    return values, shares, [d_query, None, *d_keys, *d_weights]


def _collect(panel: Panel, rows: slice, factor: Tensor, d_query: Tensor | None, d_keys: Sequence[Tensor | None],
             d_weights: Sequence[Tensor | None]) -> None:
    query = panel.query[rows]
    scaled = query * factor[:, None]
    for b, columns, e in panel.chunks(rows):
        scale, w, dw, dk = panel.job.blocks[b].scale, panel.weights[b], d_weights[b], d_keys[b]
        if dw is not None:
            dw[columns] += factor @ e
        if w is not None:
            e.mul_(w[columns])
        if dk is not None:
            dk[columns].addmm_(e.T, scaled, alpha=scale)
        if d_query is not None:
            d_query[rows].addmm_(e, panel.keys[b][columns], alpha=scale)
    if d_query is not None:
        d_query[rows].mul_(factor[:, None])


def _release(query: Tensor, keys: Tensor, pull: Tensor, d_query: Tensor | None, d_keys: Tensor | None) -> None:
    """The gradient of the positives, where anchor i's is key i."""
    if d_query is not None:
        d_query.addcmul_(keys, pull, value=-1)
    if d_keys is not None:
        d_keys.addcmul_(query, pull, value=-1)


class OnePass(torch.autograd.Function):
    """Inputs: query (N, D), positive (N,), the keys of each block, the column weights of each block (or None)."""

    @staticmethod
    def forward(ctx: Any, job: Pass, *inputs: Tensor):
        from nearfar.similarity.engines import full_precision

        many = len(job.blocks)
        job.needs = list(ctx.needs_input_grad[1:])
        query, positive, keys, weights = inputs[0], inputs[1], inputs[2:2 + many], inputs[2 + many:]
        with full_precision(query.device):
            upstream = job.counts.to(query.dtype) if any(job.needs) else None
            values, shares, job.grads = run(job, query, positive, keys, weights, upstream)
        ctx.job = job
        ctx.save_for_backward(*inputs, shares)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        from nearfar.similarity.engines import full_precision

        job: Pass = ctx.job
        *inputs, shares = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, *_differentiable(job, inputs, grads[0])
        made, job.grads = job.grads, None  # handed out once: a second backward pass computes them again
        some = job.counts.nonzero()
        level = grads[0][some[0, 0]] if len(some) else grads[0].new_zeros(())
        even = torch.equal(grads[0], job.counts * level)
        if made is None or not even:
            many = 2 + len(job.blocks)
            query, positive, *keys = (x.detach() for x in inputs[:many])
            weights = [None if x is None else x.detach() for x in inputs[many:]]
            upstream = job.counts.to(shares.dtype) if even else grads[0]
            with full_precision(query.device):
                made = run(job, query, positive, keys, weights, upstream)[2]
            level = level if even else grads[0].new_ones(())
        out = [None if x is None else x.mul_(level) for x in made]
        if job.needs[1]:
            out[1] = -grads[0] * shares
        return None, *out


def _differentiable(job: Pass, inputs: Sequence[Tensor | None], grad: Tensor) -> list[Tensor | None]:
    """Gradients that can be derived again: the small matrix is built."""
    from nearfar.similarity import engines

    if not job.small:
        engines.refuse_second_derivatives()
    many = len(job.blocks)
    inputs = aliases(inputs)
    query, positive, keys, weights = inputs[0], inputs[1], inputs[2:2 + many], inputs[2 + many:]
    own = None if job.diagonal is None else keys[job.diagonal]
    assert query is not None
    positive = positive if own is None else (query * own).sum(-1)
    assert positive is not None
    parts = []
    for k, w, block in zip(keys, weights, job.blocks, strict=True):
        assert k is not None
        r = LogSumExp(where=block.where, scale=block.scale, weight=None if w is None else PerColumn(w))
        parts += engines.dense(query, [Operand(k, False)], [r])
    values = torch.nn.functional.softplus(torch.stack(parts).logsumexp(0) - positive, 1, 40)
    wanted = [x for x in inputs if x is not None and x.requires_grad]
    found = iter(torch.autograd.grad(values, wanted, grad, create_graph=True, allow_unused=True))
    return [next(found) if x is not None and x.requires_grad else None for x in inputs]


def answer(query: Tensor, keys: Sequence[Tensor], r: CrossEntropy, counts: Tensor, diagonal: int | None,
           tile: tuple[int, int], choice: Any, small: bool) -> Tensor | None:
    """The cross-entropy of each row over shared blocks of candidates, or None where a relation does not allow it.

    diagonal: the block whose row i is the positive of anchor i, whose gradient is then made here as well.
    counts: the rows whose upstream gradient is expected to be one number, the others' to be 0; bool (N,).
    """
    if query.dim() != 2 or any(k.dim() != 2 for k in keys) or r.scale <= 0:
        return None
    blocks, weights = [], []
    for b in range(len(keys)):
        weight = factors(None if r.weight is None else at_block(r.weight, b))
        if weight is None or weight.rows:
            return None
        where = at_block(everyone if r.where is None else r.where, b) & weight.where
        t = terms(where)
        if not answerable(t):
            return None
        weights.append(weight.column)
        conditions = Conditions(t, query, LOG2E * r.scale)
        blocks.append(Candidates(where, t, r.scale, conditions))
    with torch.no_grad():
        bounded = all(largest(query, k) * r.scale * LOG2E <= BOUND for k, b in zip(keys, blocks, strict=True)
                      if not b.terms.nothing)
    job = Pass(blocks, choice, tile, counts, diagonal, small, bounded)
    values = OnePass.apply(job, query, r.of if diagonal is None else r.of.detach(), *keys, *weights)
    assert isinstance(values, Tensor)
    return values
