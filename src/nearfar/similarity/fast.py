"""The sweep for log-sum-exps of a plain matrix product: base 2, one bounded shift, nothing allocated in the loop.

Every tile is one matrix product into a scratch, one exponential, and one or two sums; the backward pass computes the
tile again and turns it into the gradient in place: dS = E (u_i + v_j), u = gradient / sum of the row, v likewise of
the column. Where the queries are the keys only the upper half of the tile grid is visited.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nearfar.similarity.closed import flat, terms
from nearfar.similarity.reductions import LogSumExp, Reduction
from nearfar.similarity.relations import Listed, Relation, Same, Tile

LOG2E = math.log2(math.e)
# Exponents of single terms and of sums that float32 surely holds; beyond them the running maximum takes over.
BOUND, LOW, HIGH = 100.0, 2.0 ** -100, 2.0 ** 120


@dataclass
class Group:
    """Log-sum-exps of one scale and one relation: they share every exponential."""

    scale: float
    where: Relation | None
    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)

    def __post_init__(self):
        t = terms(self.where)
        self.unlisted: list[Listed] = t.unlisted
        self.masks: list[Relation] = [*t.listed, *t.same, *t.rest]

    def symmetric(self) -> bool:
        """Whether the relation is its own transpose, where queries are keys."""
        if not all(isinstance(m, Same) and _same_ends(m) for m in self.masks):
            return False
        return _mutual([flat(x.columns) for x in self.unlisted])


def _same_ends(m: Same) -> bool:
    return len(m.columns) == 1 and m.columns[0] is not None and torch.equal(m.rows, m.columns[0])


def _mutual(lists: Sequence[Tensor]) -> bool:
    """Whether j in the lists of i implies i in the lists of j."""
    for one in lists:
        if one.shape[1] != 1:
            return False
        there = one[:, 0]
        held = there >= 0
        back = there[there.clamp(min=0)]
        if not bool((back[held] == torch.arange(len(there), device=there.device)[held]).all()):
            return False
    return True


def groups(reductions: Sequence[Reduction]) -> list[Group] | None:
    """The reductions as groups; None where one of them is no plain log-sum-exp."""
    found: dict[tuple[float, int], Group] = {}
    for k, r in enumerate(reductions):
        if type(r) is not LogSumExp or r.weight is not None or r.block != 0 or r.scale <= 0:
            return None
        if r.where is not None and _reads_similarities(r.where):
            return None
        group = found.setdefault((r.scale, id(r.where)), Group(r.scale, r.where))
        (group.rows if r.dim == 1 else group.columns).append(k)
    return list(found.values())


def _reads_similarities(where: Relation) -> bool:
    """Relations over the tile's similarities (thresholds, functions) need them in the natural base."""
    from nearfar.similarity.relations import Both, Either, Function, Not, Threshold

    if isinstance(where, (Threshold, Function)):
        return True
    if isinstance(where, (Both, Either)):
        return _reads_similarities(where.a) or _reads_similarities(where.b)
    if isinstance(where, Not):
        return _reads_similarities(where.other)
    members = getattr(where, "members", None)
    return members is not None and any(_reads_similarities(m) for m in members)


@dataclass
class Plan:
    """What a sweep needs beside the matrices."""

    groups: list[Group]
    tile: tuple[int, int]
    self_symmetric: bool
    choice: Any
    shifts: list[float] = field(default_factory=list)


class Grid:
    """Visits the tiles with scratch of their own."""

    def __init__(self, plan: Plan, query: Tensor, keys: Tensor):
        self.plan, self.query, self.keys = plan, query, keys
        height, width = (min(plan.tile),) * 2 if plan.self_symmetric else plan.tile
        self.height, self.width = min(height, max(1, len(query))), min(width, max(1, len(keys)))
        size = self.height * self.width
        self.product = query.new_empty(size)
        self.work = query.new_empty(size) if len(plan.groups) > 1 else self.product

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        for i in range(0, len(self.query), self.height):
            rows = slice(i, min(i + self.height, len(self.query)))
            start = i if self.plan.self_symmetric else 0
            for j in range(start, len(self.keys), self.width):
                yield rows, slice(j, min(j + self.width, len(self.keys)))

    def similarities(self, rows: slice, columns: slice) -> Tensor:
        """log2(e) S of a tile, in the scratch."""
        self.plan.choice.visited += 1
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        out = self.product[: shape[0] * shape[1]].view(shape)
        return torch.addmm(out, self.query[rows], self.keys[columns].T, beta=0, alpha=LOG2E, out=out)

    def exponentials(self, s: Tensor, g: int, rows: slice, columns: slice) -> Tensor:
        """2^(scale s - shift), 0 where a pair does not count; overwrites s where there is one group."""
        group, shift = self.plan.groups[g], self.plan.shifts[g]
        e = s
        if len(self.plan.groups) > 1:
            e = self.work[: s.numel()].view(s.shape)
        if group.scale != 1:
            e = torch.mul(s, group.scale, out=e)
        if shift != 0:
            e = torch.sub(e, shift, out=e)
        elif e is not s and group.scale == 1:
            e.copy_(s)
        e.exp2_()
        self.clear(e, group, rows, columns)
        return e

    def clear(self, e: Tensor, group: Group, rows: slice, columns: slice) -> None:
        for lists in group.unlisted:
            if lists.block != 0:
                continue
            there = flat(lists.columns)[rows]
            i, p = ((there >= columns.start) & (there < columns.stop)).nonzero(as_tuple=True)
            if len(i):
                e[i, there[i, p] - columns.start] = 0
        for relation in group.masks:
            mask = relation.tile(Tile(rows, 0, columns, False, e.device))
            if mask.numel() != 1 or not bool(mask):
                e.masked_fill_(~mask, 0)

    def empty(self, rows: slice, columns: slice) -> bool:
        t = Tile(rows, 0, columns, False, self.query.device)
        return all(g.where is not None and g.where.empty(t) for g in self.plan.groups)


def shift_for(query: Tensor, keys: Tensor, group: Group) -> float:
    """0 where no exponent can leave float32, else the middle of the largest exponents of a few rows and columns."""
    if not len(query) or not len(keys):
        return 0.0
    longest = (query.norm(dim=1).amax() * keys.norm(dim=1).amax()).item()
    if longest * group.scale * LOG2E <= BOUND:
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


def _exponents(query: Tensor, keys: Tensor, group: Group, rows: slice, columns: slice) -> Tensor:
    e = (query[rows] @ keys[columns].T).mul_(group.scale * LOG2E)
    if group.where is None:
        return e
    return e.masked_fill_(~group.where.tile(Tile(rows, 0, columns, False, e.device)), -math.inf)


def sums(plan: Plan, query: Tensor, keys: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """For each group the sums of exponentials of the rows and of the columns."""
    grid = Grid(plan, query, keys)
    rows = [query.new_zeros(len(query)) for _ in plan.groups]
    columns = [query.new_zeros(len(keys)) for _ in plan.groups]
    for i, j in grid.tiles():
        if grid.empty(i, j):
            continue
        s = grid.similarities(i, j)
        for g, group in enumerate(plan.groups):
            e = grid.exponentials(s, g, i, j)
            if plan.self_symmetric:
                rows[g][i] += e.sum(1)
                if i.start != j.start:
                    rows[g][j] += e.sum(0)
                continue
            if group.rows:
                rows[g][i] += e.sum(1)
            if group.columns:
                columns[g][j] += e.sum(0)
    return rows, columns


def in_range(plan: Plan, rows: list[Tensor], columns: list[Tensor]) -> bool:
    """Whether every sum was held exactly; a sum of 0 counts only where the shift is 0 (nothing was there)."""
    for g, group in enumerate(plan.groups):
        for x in ([rows[g]] if group.rows else []) + ([columns[g]] if group.columns else []):
            inside = (x > LOW) & (x < HIGH)
            if plan.shifts[g] == 0:
                inside |= x == 0
            if not bool(inside.all()):
                return False
    return True


def slopes(gradient: Tensor | None, total: Tensor, scale: float) -> Tensor:
    """u = scale * gradient / sum, 0 where the row is empty."""
    if gradient is None:
        return torch.zeros_like(total)
    return torch.where(total > 0, gradient * scale / torch.where(total > 0, total, 1), 0)


def gradients(plan: Plan, query: Tensor, keys: Tensor, u: list[Tensor], v: list[Tensor],
              want: tuple[bool, bool]) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of query and keys from the slopes of each group's rows and columns."""
    grid = Grid(plan, query, keys)
    d_query = torch.zeros_like(query) if want[0] else None
    d_keys = torch.zeros_like(keys) if want[1] and not plan.self_symmetric else None
    total = torch.empty_like(grid.product) if len(plan.groups) > 1 else grid.product
    weights = torch.empty_like(grid.product) if any(g.columns for g in plan.groups) or plan.self_symmetric else None
    for i, j in grid.tiles():
        if grid.empty(i, j):
            continue
        s = grid.similarities(i, j)
        out = total[: s.numel()].view(s.shape)
        for g, group in enumerate(plan.groups):
            e = grid.exponentials(s, g, i, j)
            _weigh(e, group, u[g][i], v[g][j], weights, plan.self_symmetric)
            if e is not out:
                out.copy_(e) if g == 0 else out.add_(e)
        if plan.self_symmetric:
            assert d_query is not None
            d_query[i].addmm_(out, keys[j])
            if i.start != j.start:
                d_query[j].addmm_(out.T, query[i])
            continue
        if d_query is not None:
            d_query[i].addmm_(out, keys[j])
        if d_keys is not None:
            d_keys[j].addmm_(out.T, query[i])
    return d_query, d_keys


def _weigh(e: Tensor, group: Group, u: Tensor, v: Tensor, weights: Tensor | None, self_symmetric: bool) -> None:
    if self_symmetric or (group.rows and group.columns):
        assert weights is not None
        w = weights[: e.numel()].view(e.shape)
        torch.add(u[:, None], v[None, :], out=w)
        e.mul_(w)
    elif group.rows:
        e.mul_(u[:, None])
    else:
        e.mul_(v[None, :])


class FastLogSumExp(torch.autograd.Function):
    """Answers in the order of the reductions. Inputs: query and keys, or the query alone where it is its own keys."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, rows: list[Tensor], columns: list[Tensor], count: int, *inputs: Tensor):
        answers: list[Tensor | None] = [None] * count
        for g, group in enumerate(plan.groups):
            shift = plan.shifts[g] / LOG2E
            for k in group.rows:
                answers[k] = rows[g].log() + shift
            for k in group.columns:
                answers[k] = columns[g].log() + shift
        ctx.plan = plan
        ctx.save_for_backward(*inputs, *rows, *columns)
        return tuple(answers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        from nearfar.similarity.engines import full_precision, refuse_second_derivatives

        refuse_second_derivatives()
        plan: Plan = ctx.plan
        saved, many = ctx.saved_tensors, len(plan.groups)
        inputs, rows, columns = saved[: -2 * many], saved[-2 * many: -many], saved[-many:]
        u = [slopes(_joined(grads, g.rows), rows[k], g.scale) for k, g in enumerate(plan.groups)]
        v = [slopes(_joined(grads, g.columns), columns[k], g.scale) for k, g in enumerate(plan.groups)]
        query, keys = inputs[0].detach(), inputs[-1].detach()
        need = ctx.needs_input_grad[4:]
        with full_precision(query.device):
            d_query, d_keys = gradients(plan, query, keys, u, u if plan.self_symmetric else v, (need[0], need[-1]))
        return None, None, None, None, d_query, *([] if plan.self_symmetric else [d_keys])


def _joined(grads: Sequence[Tensor], members: list[int]) -> Tensor | None:
    return sum((grads[k] for k in members[1:]), grads[members[0]]) if members else None


def reduce(query: Tensor, keys: Tensor, reductions: Sequence[Reduction], tile: tuple[int, int],
           choice: Any) -> list[Tensor] | None:
    """All reductions in one sweep, or None where the running maximum is needed."""
    found = groups(reductions)
    if found is None or query.dim() != 2 or keys.dim() != 2:
        return None
    itself = query is keys and not any(g.columns for g in found) and all(g.symmetric() for g in found)
    plan = Plan(found, tile, itself, choice)
    with torch.no_grad():
        plan.shifts = [shift_for(query, keys, g) for g in found]
        rows, columns = sums(plan, query.detach(), keys.detach())
        if not in_range(plan, rows, columns):
            return None
    inputs = [query] if itself else [query, keys]
    answers = FastLogSumExp.apply(plan, rows, columns, len(reductions), *inputs)
    assert isinstance(answers, tuple)
    return list(answers)
