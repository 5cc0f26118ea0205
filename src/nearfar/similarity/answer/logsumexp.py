"""The log-sum-exp sweep over a plain matrix product: base 2, one bounded shift, nothing allocated in the loop.

Every tile is one matrix product into a scratch, one exponential, and one or two sums; the backward pass computes the
tile again and turns it into the gradient in place: dS = E (u_i + v_j), u = gradient / sum of the row, v likewise of
the column. Where the queries are the keys only the upper half of the tile grid is visited. The exponentials of a small
matrix are kept instead.
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
from nearfar.similarity.answer.fused_sums import FusedSum, fused
from nearfar.similarity.answer.masks import Conditions
from nearfar.similarity.answer.numerics import (
    BOUND,
    LOG2E,
    aliases,
    derived_again,
    full_precision,
    refuse_second_derivatives,
)
from nearfar.similarity.answer.steps import Group, Step
from nearfar.similarity.answer.vectors import Recipe, Side, Vectors, addmm, halved, product_bound, similarities
from nearfar.similarity.reductions import LogSumExp, Reduction
from nearfar.similarity.relations import PerColumn, Tile

# Sums that float32 surely holds; beyond them the running maximum takes over. MOST: the largest exponent of a term.
LOW, HIGH, MOST = 2.0**-100, 2.0**120, 126.0
# Floats of a tile that are worked on at once, so that they stay near the processor, by device type.
WORK = {"cpu": 1 << 17, "cuda": 1 << 25}
CORNER = {"cpu": 256, "cuda": 2048}  # rows of the smallest tiles on the diagonal, by device type
MANY = 1 << 20  # terms of at most 2^BOUND whose sum stays below HIGH


@dataclass
class Sweep:
    """What a sweep needs beside the matrices."""

    step: Step
    engine: Engine
    half: bool = False
    recipes: list[Recipe] = field(default_factory=list)
    sums: dict[int, FusedSum] = field(default_factory=dict)
    shifts: list[float] = field(default_factory=list)
    kept: list[Tensor] | None = None
    held: tuple[Side, Side] | None = None

    def __post_init__(self):
        self.groups, self.tile, self.half_grid = self.step.groups, self.step.tile, self.step.half_grid
        self.asked: list[Reduction] = [p.reduction for p in self.step.parts]
        self.conditions: list[Conditions] = []

    def sides(self, tensors: Sequence[Tensor | None]) -> tuple[Side, Side]:
        """Query and keys from the vectors and the scale of each; those of a small matrix are kept."""
        if self.held is not None:
            return self.held
        last = len(self.recipes) - 1
        made = []
        for k, recipe in enumerate(self.recipes):
            x = tensors[2 * k]
            assert x is not None
            made.append(recipe.side(x, tensors[2 * k + 1], self.half, copied=k == last))
        self.held = (made[0], made[-1]) if self.step.small else None
        return made[0], made[-1]


class Grid:
    """Visits the tiles with scratch of their own. `first`: the number of the first key, where others lie elsewhere."""

    def __init__(self, job: Sweep, query: Side, keys: Side, first: int = 0):
        self.job, self.query, self.keys, self.first = job, query, keys, first
        height, width = (min(job.tile),) * 2 if job.half_grid else job.tile
        self.height, self.width = min(height, max(1, len(query))), min(width, max(1, len(keys)))
        self.product = query.new_empty(self.height * self.width)
        self.lines = max(1, min(self.height, WORK.get(self.product.device.type, 1 << 20) // self.width))
        few, many = self.lines * self.width, len(job.groups) > 1
        self.work, self.total = (query.new_empty(few) if many else None for _ in range(2))
        self.masks = [query.new_empty(few) for _ in range(2)] if any(c.masked for c in job.conditions) else None

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        for i in range(0, len(self.query), self.height):
            rows = slice(i, min(i + self.height, len(self.query)))
            start = 0
            if self.job.half_grid:
                start = rows.stop
                yield from _triangle(rows, CORNER.get(self.product.device.type, 2048))
            for j in range(start, len(self.keys), self.width):
                yield rows, slice(j, min(j + self.width, len(self.keys)))

    def renew(self) -> None:
        """A scratch of its own for the next tile: that of the last one is kept."""
        self.product = torch.empty_like(self.product)

    def strips(self, rows: slice, s: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """A few rows of a tile at a time."""
        for r in range(0, len(s), self.lines):
            part = s[r : r + self.lines]
            yield slice(rows.start + r, rows.start + r + len(part)), part

    def numbered(self, columns: slice) -> slice:
        """Columns by their numbers among all."""
        return slice(columns.start + self.first, columns.stop + self.first)

    def similarities(self, rows: slice, columns: slice) -> Tensor:
        """log2(e) S of a tile, in the scratch."""
        self.job.engine.visited += 1
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        out = self.product[: shape[0] * shape[1]].view(shape)
        return similarities(out, self.query, rows, self.keys, columns, LOG2E)

    def exponentials(self, s: Tensor, g: int, rows: slice, columns: slice) -> Tensor:
        """2^(scale s - shift), 0 where a pair does not count; overwrites s where there is one group."""
        group, shift, conditions = self.job.groups[g], self.job.shifts[g], self.job.conditions[g]
        columns, mask = self.numbered(columns), None
        if self.masks is not None and conditions.masked:
            mask = conditions.mask(s, rows, columns, *(x[: s.numel()].view(s.shape) for x in self.masks))
        e = s if self.work is None else self.work[: s.numel()].view(s.shape)
        if group.scale != 1:
            e = torch.mul(s, group.scale, out=e)
        if shift != 0:
            e = torch.sub(e if group.scale != 1 else s, shift, out=e).clamp_(max=MOST)
        elif e is not s and group.scale == 1:
            e.copy_(s)
        return conditions.exponentials(e, mask, rows, columns)

    def empty(self, rows: slice, columns: slice) -> bool:
        t = Tile(rows, 0, self.numbered(columns), False, self.product.device)
        return all(g.terms.empty(t) for g in self.job.groups)


def _triangle(rows: slice, corner: int) -> Iterator[tuple[slice, slice]]:
    """A tile on the diagonal as smaller ones, without most of what lies below it."""
    middle = (rows.start + rows.stop) // 2
    if rows.stop - rows.start < 2 * corner:
        yield rows, rows
        return
    yield from _triangle(slice(rows.start, middle), corner)
    yield slice(rows.start, middle), slice(middle, rows.stop)
    yield from _triangle(slice(middle, rows.stop), corner)


def shift_for(query: Side, keys: Side, group: Group, bound: float) -> float:
    """0 where no exponent can leave float32, else the middle of the largest exponents of a few rows and columns.

    bound: no similarity is larger.
    """
    if bound * group.scale * LOG2E <= BOUND:
        return 0.0
    everyone, all_keys = slice(0, len(query)), slice(0, len(keys))
    tops = [_exponents(query, keys, group, i, all_keys).amax(1) for i in _few(len(query))]
    tops += [_exponents(query, keys, group, everyone, j).amax(0) for j in _few(len(keys))]
    held = torch.cat(tops)
    held = held[held > -math.inf]
    return ((held.min() + held.max()) / 2).item() if len(held) else 0.0


def _few(n: int) -> list[slice]:
    """Four short slices spread over n."""
    return [slice(i, min(i + 4, n)) for i in sorted({0, n // 3, 2 * n // 3, max(0, n - 4)})]


def _exponents(query: Side, keys: Side, group: Group, rows: slice, columns: slice) -> Tensor:
    s = query[rows] @ keys[columns].T
    e = s * (group.scale * LOG2E)
    if group.where is None:
        return e
    return e.masked_fill_(~group.where.tile(Tile(rows, 0, columns, False, e.device, s)), -math.inf)


def sums(job: Sweep, query: Side, keys: Side, first: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """For each group the sums of exponentials of the rows and of the columns."""
    grid = Grid(job, query, keys, first)
    rows = [query.new_empty(len(query)).zero_() for _ in job.groups]
    columns = [query.new_empty(len(keys)).zero_() for _ in job.groups]
    for i, j in grid.tiles():
        if grid.empty(i, j):
            continue
        if job.kept is not None:
            grid.renew()
        s = grid.similarities(i, j)
        for strip, part in grid.strips(i, s):
            for g, group in enumerate(job.groups):
                e = grid.exponentials(part, g, strip, j)
                if group.weight is not None:
                    e.mul_(group.weight.detach()[grid.numbered(j)])
                if group.rows or job.half_grid:
                    rows[g][strip] += e.sum(1)
                if job.half_grid and i.start != j.start:
                    rows[g][j] += e.sum(0)
                elif group.columns:
                    columns[g][j] += e.sum(0)
        if job.kept is not None:
            job.kept.append(s)
    return rows, columns


def in_range(job: Sweep, rows: list[Tensor], columns: list[Tensor]) -> bool:
    """Whether every sum was held exactly; a sum of 0 counts only where the shift is 0 (nothing was there).

    Bounded exponents without weights cannot leave the range: then nothing is looked at, and the device need not wait.
    """
    for g, group in enumerate(job.groups):
        if job.shifts[g] == 0 and group.weight is None and max(len(rows[g]), len(columns[g])) <= MANY:
            continue
        for x in ([rows[g]] if group.rows else []) + ([columns[g]] if group.columns else []):
            inside = (x > LOW) & (x < HIGH)
            if job.shifts[g] == 0:
                inside |= x == 0
            if not bool(inside.all()):
                return False
    return True


def slopes(gradient: Tensor | None, total: Tensor, scale: float) -> Tensor:
    """scale * gradient / sum, 0 where the row is empty."""
    if gradient is None:
        return torch.zeros_like(total)
    return torch.where(total > 0, (gradient if scale == 1 else gradient * scale) / total, 0)


def gradients(
    job: Sweep, query: Side, keys: Side, u: list[Tensor], v: list[Tensor], want: Sequence[bool], first: int = 0
) -> list[Tensor | None]:
    """Gradients of the vectors of query, keys (None where the queries are the keys) and of the weights of each group,
    from the slopes of its rows and columns."""
    grid = Grid(job, query, keys, first)
    d_query = query.zeros() if want[0] else None
    d_keys = keys.zeros() if want[1] and not job.half_grid else None
    d_weights = [None if g.weight is None else torch.zeros_like(g.weight) for g in job.groups]
    both = job.half_grid or any(g.columns for g in job.groups)
    weights = query.new_empty(grid.lines * grid.width) if both else None
    half = None if query.halved is None else torch.empty_like(grid.product, dtype=torch.bfloat16)
    kept, job.kept = job.kept, None  # overwritten below: a second backward pass computes them again
    ready = None if kept is None else iter(kept)
    for i, j in grid.tiles():
        if grid.empty(i, j):
            continue
        s = grid.similarities(i, j) if ready is None else next(ready)
        grad = s if half is None else half[: s.numel()].view(s.shape)
        for strip, part in grid.strips(i, s):
            total = part if grid.total is None else grid.total[: part.numel()].view(part.shape)
            for g, group in enumerate(job.groups):
                e = part if ready is not None else grid.exponentials(part, g, strip, j)
                _weigh(e, group, u[g][strip], v[g][j], weights, job.half_grid)
                held = d_weights[g]
                if group.weight is not None and held is not None:
                    held[grid.numbered(j)] += e.sum(0) / group.scale
                    e.mul_(group.weight.detach()[grid.numbered(j)])
                if total is not e:
                    total.copy_(e) if g == 0 else total.add_(e)
            if grad is not s or total is not part:
                grad[strip.start - i.start : strip.stop - i.start] = total
        if d_query is not None:
            addmm(d_query[i], grad, keys.weighed(j))
            if job.half_grid and i.start != j.start:
                addmm(d_query[j], grad.T, query.weighed(i))
        if d_keys is not None:
            addmm(d_keys[j], grad.T, query.weighed(i))
    return [d_query, d_keys, *d_weights]


def _weigh(e: Tensor, group: Group, u: Tensor, v: Tensor, weights: Tensor | None, half_grid: bool) -> None:
    if half_grid or (group.rows and group.columns):
        assert weights is not None
        w = weights[: e.numel()].view(e.shape)
        torch.add(u[:, None], v[None, :], out=w)
        e.mul_(w)
    elif group.rows:
        e.mul_(u[:, None])
    else:
        e.mul_(v[None, :])


class FusedLogSumExp(torch.autograd.Function):
    """Answers in the order of the reductions. Inputs: the vectors and the scale (or None) of query and keys, or of the
    query alone where it is its own keys; then the weights of the groups (None where they have none)."""

    @staticmethod
    def forward(
        ctx: Any, job: Sweep, rows: list[Tensor], columns: list[Tensor], products: dict[int, Tensor], *inputs: Tensor
    ):
        answers: list[Tensor | None] = [products.get(k) for k in range(len(job.asked))]
        for g, group in enumerate(job.groups):
            shift = job.shifts[g] / LOG2E
            for k in (*group.rows, *group.columns):
                total = (rows if k in group.rows else columns)[g].log()
                answers[k] = total if shift == 0 else total.add_(shift)
        ctx.job = job
        ctx.save_for_backward(*inputs, *rows, *columns)
        return tuple(answers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        job: Sweep = ctx.job
        saved, many = ctx.saved_tensors, len(job.groups)
        inputs, rows, columns = saved[: -2 * many], saved[-2 * many : -many], saved[-many:]
        if torch.is_grad_enabled():
            return *[None] * 4, *_differentiable(job, inputs, grads)
        u = [slopes(joined(grads, g.rows), rows[k], g.scale) for k, g in enumerate(job.groups)]
        v = [slopes(joined(grads, g.columns), columns[k], g.scale) for k, g in enumerate(job.groups)]
        need, last = ctx.needs_input_grad[4:], 2 * len(job.recipes) - 2
        want = any(need[:2]), any(need[last : last + 2])
        with full_precision(saved[0].device):
            query, keys = job.sides(inputs)
            d_query, d_keys, *d_weights = gradients(job, query, keys, u, u if job.half_grid else v, want)
            for k, p in job.sums.items():
                p.vjp(grads[k], query, keys, d_query, d_query if job.half_grid else d_keys)
            found = [query.release(d_query), *([] if job.half_grid else [keys.release(d_keys)])]
        return *[None] * 4, *(x for pair in found for x in pair), *d_weights


def joined(grads: Sequence[Tensor], members: list[int]) -> Tensor | None:
    return sum((grads[k] for k in members[1:]), grads[members[0]]) if members else None


def _differentiable(job: Sweep, inputs: Sequence[Tensor | None], grads: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradients that can be derived again: the small matrix is built."""
    if not job.step.small:
        refuse_second_derivatives()
    many = len(job.groups)
    inputs = aliases(inputs)
    made, weights = [], inputs[-many:]
    for k, recipe in enumerate(job.recipes):
        x = inputs[2 * k]
        assert x is not None
        made.append(recipe.made(x, inputs[2 * k + 1]))
    asked = list(job.asked)
    for g, w in zip(job.groups, weights, strict=True):
        for k in (*g.rows, *g.columns):
            asked[k] = LogSumExp(
                where=g.where, weight=None if w is None else PerColumn(w), dim=asked[k].dim, block=0, scale=g.scale
            )
    answers = sweep.dense(made[0], [Operand(Vectors(made[-1]), False)], asked, job.engine)
    return derived_again(answers, inputs, grads)


def reduce(step: Step, query: Vectors, keys: Vectors, engine: Engine) -> list[Tensor] | None:
    """All log-sum-exps, and the sums that are taken along, in one sweep; None where the running maximum is needed."""
    found, weights = step.groups, [g.weight for g in step.groups]
    used = [x.settled() for x in ([query] if step.half_grid else [query, keys])]
    job = Sweep(
        step, engine, halved(*used), [x.recipe for x in used], {k: fused(step.parts[k]) for k in sorted(step.fused)}
    )
    inputs = [y for x in used for y in (x.x, x.scale)]
    with torch.no_grad():
        a, b = job.sides(inputs)
        bound = product_bound(used[0], used[-1])
        job.shifts = [shift_for(a, b, g, bound) for g in found]
        job.conditions = [Conditions(g.terms, query.dtype, LOG2E) for g in found]
        job.kept = [] if step.keeps else None
        rows, columns = sums(job, a, b)
        if not in_range(job, rows, columns):
            return None
        products = {k: p.products(a, b) for k, p in job.sums.items()}
    answers = FusedLogSumExp.apply(job, rows, columns, products, *inputs, *weights)
    assert isinstance(answers, tuple)
    return list(answers)
