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

from nearfar.similarity.answer import sweep
from nearfar.similarity.answer.columns import Operand
from nearfar.similarity.answer.engine import Engine
from nearfar.similarity.answer.fused_sums import Partners
from nearfar.similarity.answer.masks import Conditions
from nearfar.similarity.answer.normal_form import Terms
from nearfar.similarity.answer.numerics import (
    BOUND,
    LOG2E,
    aliases,
    derived_again,
    full_precision,
    refuse_second_derivatives,
)
from nearfar.similarity.answer.steps import Step
from nearfar.similarity.answer.vectors import Recipe, Side, Vectors, addmm, halved, product_bound, similarities
from nearfar.similarity.reductions import CrossEntropy, LogSumExp
from nearfar.similarity.relations import Listed, PerColumn, Relation, Tile


@dataclass
class Candidates:
    """One block as a pass needs it."""

    where: Relation
    terms: Terms
    scale: float
    conditions: Conditions


@dataclass
class Pass:
    """`partners`: the positives, of the block `of`; None where their similarities are given as numbers."""

    blocks: list[Candidates]
    recipes: list[Recipe]
    engine: Engine
    tile: tuple[int, int]
    counts: Tensor
    partners: Partners | None
    of: int
    small: bool
    bounded: bool
    half: bool
    grads: list[Tensor | None] | None = None
    needs: list[bool] = field(default_factory=list)

    def vectors(self, tensors: Sequence[Tensor | None]) -> list[tuple[Tensor, Tensor | None]]:
        """Vectors and scale of the query and of the keys of each block."""
        return [(x, tensors[2 * k + 1]) for k in range(len(self.recipes)) if (x := tensors[2 * k]) is not None]

    def split(self, tensors: Sequence[Any]) -> tuple[Sequence[Any], Any, Sequence[Any]]:
        """The inputs in order: what the vectors are made of, the positives' similarities, the weights."""
        many = 2 * len(self.recipes)
        return tensors[:many], tensors[many], tensors[many + 1 :]


class Panel:
    """The rows of one panel against all candidates, in scratch that every panel uses again."""

    def __init__(self, job: Pass, query: Side, keys: Sequence[Side], weights: Sequence[Tensor | None]):
        self.job, self.query, self.keys, self.weights = job, query, keys, weights
        width = sum(len(k) for k, b in zip(keys, job.blocks, strict=True) if not b.terms.nothing)
        self.height = job.tile[0]
        self.kept = query.new_empty(self.height * max(width, 1))
        self.width = job.tile[1]
        size = self.height * min(self.width, max(width, 1))
        masked = any(b.conditions.masked for b in job.blocks)
        self.masks = [query.new_empty(size) for _ in range(2)] if masked else None

    def rows(self) -> Iterator[slice]:
        for i in range(0, len(self.query), self.height):
            yield slice(i, min(i + self.height, len(self.query)))

    def chunks(self, rows: slice) -> Iterator[tuple[int, slice, Tensor]]:
        """Block, columns and the scratch of their exponentials."""
        height, start = rows.stop - rows.start, 0
        for b, keys in enumerate(self.keys):
            for j in range(0, 0 if self.job.blocks[b].terms.nothing else len(keys), self.width):
                columns = slice(j, min(j + self.width, len(keys)))
                size = height * (columns.stop - j)
                if self.job.blocks[b].terms.empty(Tile(rows, 0, columns, False, self.kept.device)):
                    continue
                yield b, columns, self.kept[start : start + size].view(height, -1)
                start += size

    def product(self, b: int, rows: slice, columns: slice, out: Tensor) -> Tensor | None:
        """Exponents in base 2; the mask of the pairs that count, where there is one."""
        block = self.job.blocks[b]
        self.job.engine.visited += 1
        similarities(out, self.query, rows, self.keys[b], columns, LOG2E * block.scale)
        if self.masks is None or not block.conditions.masked:
            return None
        return block.conditions.mask(out, rows, columns, *(x[: out.numel()].view(out.shape) for x in self.masks))

    def exponentials(self, b: int, rows: slice, columns: slice, out: Tensor, mask: Tensor | None) -> None:
        self.job.blocks[b].conditions.exponentials(out, mask, rows, columns)

    def fill(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Puts the exponentials of a panel into its chunks; their sums, weighted, and the shift of each row."""
        total = self.query.new_empty(rows.stop - rows.start).zero_()
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


def run(job: Pass, inputs: Sequence[Tensor | None], upstream: Tensor | None) -> tuple[Tensor, Tensor, list[Any]]:
    """Values, shares (their slope in the log-sum-exp) and, where `upstream` is given, gradients of all inputs."""
    made, positive, weights = job.split(inputs)
    query, *keys = (
        r.side(*v, job.half, copied=k > 0) for k, (r, v) in enumerate(zip(job.recipes, job.vectors(made), strict=True))
    )
    if job.partners is not None:
        positive = job.partners.products(query, keys[job.of])
    panel = Panel(job, query, keys, weights)
    values, shares = torch.empty_like(positive), torch.empty_like(positive)
    needs, _, need_weights = job.split(job.needs if upstream is not None else [False] * len(inputs))
    want = [any(needs[2 * k : 2 * k + 2]) for k in range(1 + len(keys))]
    d_query, *d_keys = (x.zeros() if need else None for x, need in zip((query, *keys), want, strict=True))
    d_weights = [
        torch.zeros_like(w) if w is not None and n else None for w, n in zip(weights, need_weights, strict=True)
    ]
    slope = torch.empty_like(positive)
    for rows in panel.rows():
        total, shift = panel.fill(rows)
        away = torch.log2(total).add_(shift).div_(LOG2E).sub_(positive[rows])
        values[rows] = torch.nn.functional.softplus(away, 1, 40)
        shares[rows] = away.sigmoid_()
        if upstream is None:
            continue
        slope[rows] = upstream[rows] * shares[rows]
        factor = torch.where(total > 0, slope[rows] / torch.where(total > 0, total, 1), 0)
        _collect(panel, rows, factor, d_query, d_keys, d_weights)
    if upstream is None:
        return values, shares, []
    if job.partners is not None:
        job.partners.vjp(-slope, query, keys[job.of], d_query, d_keys[job.of])
    found = [x for side, d in zip((query, *keys), (d_query, *d_keys), strict=True) for x in side.release(d)]
    return values, shares, [*found, None, *d_weights]


def _collect(
    panel: Panel,
    rows: slice,
    factor: Tensor,
    d_query: Tensor | None,
    d_keys: Sequence[Tensor | None],
    d_weights: Sequence[Tensor | None],
) -> None:
    scaled = panel.query.rounded(panel.query[rows] * factor[:, None])
    for b, columns, e in panel.chunks(rows):
        scale, w, dw, dk = panel.job.blocks[b].scale, panel.weights[b], d_weights[b], d_keys[b]
        if dw is not None:
            dw[columns] += factor @ e
        if w is not None:
            e.mul_(w[columns])
        grad = panel.query.rounded(e)
        if dk is not None:
            addmm(dk[columns], grad.T, scaled, scale)
        if d_query is not None:
            addmm(d_query[rows], grad, panel.keys[b].weighed(columns), scale)
    if d_query is not None:
        d_query[rows].mul_(factor[:, None])


class CrossEntropyPass(torch.autograd.Function):
    """Inputs: the vectors and the scale (or None) of the query and of the keys of each block; the similarities of the
    positives (N,), None where the pass makes them; the column weights of each block (or None)."""

    @staticmethod
    def forward(ctx: Any, job: Pass, *inputs: Tensor):
        job.needs = list(ctx.needs_input_grad[1:])
        with full_precision(inputs[0].device):
            upstream = job.counts.float() if any(job.needs) else None
            values, shares, job.grads = run(job, inputs, upstream)
        ctx.job = job
        ctx.save_for_backward(*inputs, shares)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        job: Pass = ctx.job
        *inputs, shares = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, *_differentiable(job, inputs, grads[0])
        made, job.grads = job.grads, None  # handed out once: a second backward pass computes them again
        level = (
            grads[0].sum()[None]
            if not len(job.counts)
            else grads[0].index_select(0, job.counts.int().argmax(0, keepdim=True))
        )
        level = level.squeeze(0)
        even = torch.equal(grads[0], job.counts * level)
        if made is None or not even:
            upstream = job.counts.to(shares.dtype) if even else grads[0]
            with full_precision(shares.device):
                made = run(job, [None if x is None else x.detach() for x in inputs], upstream)[2]
            level = level if even else grads[0].new_ones(())
        out = [None if x is None else x.mul_(level) for x in made]
        at = 2 * len(job.recipes)
        if job.needs[at]:
            out[at] = -grads[0] * shares
        return None, *out


def _differentiable(job: Pass, inputs: Sequence[Tensor | None], grad: Tensor) -> list[Tensor | None]:
    """Gradients that can be derived again: the small matrix is built."""
    if not job.small:
        refuse_second_derivatives()
    inputs = aliases(inputs)
    made, positive, weights = job.split(inputs)
    query, *keys = (r.made(*v) for r, v in zip(job.recipes, job.vectors(made), strict=True))
    if job.partners is not None:
        positive = job.partners.similarities(query, keys[job.of])
    parts = []
    for k, w, block in zip(keys, weights, job.blocks, strict=True):
        r = LogSumExp(where=block.where, scale=block.scale, weight=None if w is None else PerColumn(w))
        parts += sweep.dense(query, [Operand(Vectors(k), False)], [r], job.engine)
    values = torch.nn.functional.softplus(torch.stack(parts).logsumexp(0) - positive, 1, 40)
    return derived_again(values, inputs, grad)


def reduce(
    step: Step, query: Vectors, keys: Sequence[Vectors], counts: Tensor, positive: Listed | None, engine: Engine
) -> Tensor:
    """The cross-entropy of each row over shared blocks of candidates.

    positive: one a row, where the reduction names none itself.
    counts: the rows whose upstream gradient is expected to be one number, the others' to be 0; bool (N,).
    """
    blocks, weights = [], []
    for p in step.parts:
        assert isinstance(p.reduction, CrossEntropy)
        assert p.reduction.where is not None
        assert p.weight is not None
        weights.append(p.weight.column)
        conditions = Conditions(p.terms, query.dtype, LOG2E * p.reduction.scale)
        blocks.append(Candidates(p.reduction.where, p.terms, p.reduction.scale, conditions))
    asked = step.parts[0].reduction
    assert isinstance(asked, CrossEntropy)
    used = [x.settled() for x in (query, *keys)]
    with torch.no_grad():
        bounded = all(
            product_bound(used[0], k) * asked.scale * LOG2E <= BOUND
            for k, b in zip(used[1:], blocks, strict=True)
            if not b.terms.nothing
        )
    partners = None if positive is None else Partners.of(positive)
    job = Pass(
        blocks,
        [x.recipe for x in used],
        engine,
        step.tile,
        counts,
        partners,
        0 if positive is None else positive.block,
        step.small,
        bounded,
        halved(*used),
    )
    values = CrossEntropyPass.apply(job, *(y for x in used for y in (x.x, x.scale)), asked.of, *weights)
    assert isinstance(values, Tensor)
    return values
