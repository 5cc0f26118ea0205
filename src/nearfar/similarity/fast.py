"""The sweep for log-sum-exps of a plain matrix product: base 2, one bounded shift, nothing allocated in the loop.

Every tile is one matrix product into a scratch, one exponential, and one or two sums; the backward pass computes the
tile again and turns it into the gradient in place: dS = E (u_i + v_j), u = gradient / sum of the row, v likewise of
the column. Where the queries are the keys only the upper half of the tile grid is visited. The exponentials of a small
matrix are kept instead.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nearfar.errors import InputError
from nearfar.similarity.alongside import Alongside
from nearfar.similarity.closed import flat, numbered
from nearfar.similarity.conjunction import Terms, factors, reads_similarities, terms
from nearfar.similarity.operands import Operand
from nearfar.similarity.reductions import LogSumExp, Reduction
from nearfar.similarity.relations import PerColumn, Relation, Same, Threshold, Tile
from nearfar.similarity.units import aliases
from nearfar.similarity.vectors import Recipe, Side, Vectors, carry, halved, product_bound, similarities

LOG2E = math.log2(math.e)
# Exponents of single terms and of sums that float32 surely holds; beyond them the running maximum takes over.
BOUND, LOW, HIGH, MOST = 100.0, 2.0 ** -100, 2.0 ** 120, 126.0
EXACT = 1 << 24  # integers that float32 tells apart
# Floats of a tile that are worked on at once, so that they stay near the processor, by device type.
WORK = {"cpu": 1 << 17, "cuda": 1 << 25}
CORNER = {"cpu": 256, "cuda": 2048}  # rows of the smallest tiles on the diagonal, by device type
MANY = 1 << 20  # terms of at most 2^BOUND whose sum stays below HIGH


@dataclass
class Group:
    """Log-sum-exps of one scale, relation and weight of the columns: they share every exponential."""

    scale: float
    where: Relation | None
    weight: Tensor | None = None
    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.terms: Terms = terms(self.where)

    def symmetric(self) -> bool:
        """Whether the relation is its own transpose, where queries are keys."""
        t = self.terms
        if self.weight is not None or t.rest or t.listed or not all(_same_ends(m) for m in (*t.same, *t.different)):
            return False
        return all(x.halves is not None or x.start == 0 or _mutual(flat(x.columns)) for x in t.unlisted)


def _same_ends(m: Same) -> bool:
    columns = m.columns[0] if len(m.columns) == 1 else None
    return columns is not None and (m.rows is columns or torch.equal(m.rows, columns))


def _mutual(columns: Tensor) -> bool:
    """Whether j in the list of i implies i in the list of j."""
    if columns.shape[1] != 1:
        return False
    there = columns[:, 0]
    held = there >= 0
    back = there[there.clamp(min=0)]
    return bool((back[held] == torch.arange(len(there), device=there.device)[held]).all())


def groups(reductions: Sequence[Reduction], beside: Container[int] = ()) -> list[Group] | None:
    """The log-sum-exps of one block as groups; None where a reduction is something else and not one of `beside`."""
    found: dict[tuple[float, int, int], Group] = {}
    for k, r in enumerate(reductions):
        if k in beside:
            continue
        if type(r) is not LogSumExp or r.block != 0 or r.scale <= 0:
            return None
        key = (r.scale, id(r.where), id(r.weight))
        if key not in found:
            weight = factors(r.weight)
            if weight is None or weight.rows:
                return None
            where = weight.where if r.where is None else r.where & weight.where
            found[key] = Group(r.scale, where, weight.column)
            if not answerable(found[key].terms):
                return None
        (found[key].rows if r.dim == 1 else found[key].columns).append(k)
    return list(found.values())


def answerable(t: Terms) -> bool:
    return not any(reads_similarities(x) for x in t.rest if not isinstance(x, Threshold))


class Conditions:
    """The conditions of one group, made ready for the loop: factors 0 and 1 in the scratch."""

    def __init__(self, t: Terms, dtype: torch.dtype, scale: float = 1.0):
        """scale: log2(e) where the tile's similarities are given in base 2."""
        out = [x for x in t.unlisted if x.block == 0]
        self.diagonals = [start for x in out for start in x.diagonals]
        lists = [flat(x.columns) for x in out if not x.diagonals]
        self.unlisted = [torch.cat(lists, 1)] if lists else []
        pairs = [(x, torch.eq) for x in t.same] + [(x, torch.ne) for x in t.different]
        self.values = [(*_floats(x.rows, x.columns[0], dtype), test) for x, test in pairs]
        limits = [x for x in t.rest if isinstance(x, Threshold)]
        self.limits = [(x.threshold.detach() * scale, torch.ge if x.above else torch.le) for x in limits]
        self.rest = [*t.listed, *(x for x in t.rest if not isinstance(x, Threshold))]

    @property
    def masked(self) -> bool:
        return bool(self.values or self.limits or self.rest)

    def mask(self, s: Tensor, rows: slice, columns: slice, out: Tensor, work: Tensor) -> Tensor | None:
        """1 where a pair counts, listed pairs aside; read before `s` is overwritten."""
        first = True
        sides = [(row[rows, None], column[columns], test) for row, column, test in self.values]
        sides += [(s, limit[rows, None], test) for limit, test in self.limits]
        for left, right, test in sides:
            test(left, right, out=out if first else work)
            if not first:
                out.mul_(work)
            first = False
        for relation in self.rest:
            here = relation.tile(Tile(rows, 0, columns, False, s.device))
            if here.dtype != torch.bool:
                raise InputError("`where` needs a boolean relation; this one has weights.", "Pass weights as weight=.")
            out.copy_(here) if first else out.mul_(here)
            first = False
        return None if first else out

    def clear(self, e: Tensor, rows: slice, columns: slice, fill: float = 0.0) -> None:
        """`fill` in place of the listed pairs that do not count."""
        for start in self.diagonals:
            offset = rows.start + start - columns.start
            if -e.shape[0] < offset < e.shape[1]:
                e.diagonal(offset).fill_(fill)
        for column in (c for lists in self.unlisted for c in lists[rows].unbind(1)):
            there = (column - columns.start)[:, None]
            place = there.clamp(0, e.shape[1] - 1)
            e.scatter_(1, place, torch.where(there == place, fill, e.gather(1, place)))


def _floats(rows: Tensor, columns: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Values that are equal as floats exactly where they are equal and known."""
    assert columns is not None
    small = all(not x.is_floating_point() and (not len(x) or int(x.amax()) < EXACT) for x in (rows, columns))
    if not small:
        rows, columns = (x - 1 for x in numbered(rows, columns))
    return torch.where(rows >= 0, rows, -1).to(dtype), torch.where(columns >= 0, columns, -2).to(dtype)


@dataclass
class Plan:
    """What a sweep needs beside the matrices."""

    groups: list[Group]
    tile: tuple[int, int]
    self_symmetric: bool
    choice: Any
    asked: Sequence[Reduction]
    small: bool = False
    half: bool = False
    recipes: list[Recipe] = field(default_factory=list)
    beside: dict[int, Alongside] = field(default_factory=dict)
    shifts: list[float] = field(default_factory=list)
    conditions: list[Conditions] = field(default_factory=list)
    kept: list[Tensor] | None = None
    held: tuple[Side, Side] | None = None

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
        self.held = (made[0], made[-1]) if self.small else None
        return made[0], made[-1]

    def keeps(self) -> bool:
        """Whether the exponentials of the values are kept for the gradient: where the matrix could as well be built."""
        return self.small and len(self.groups) == 1 and self.groups[0].weight is None


class Grid:
    """Visits the tiles with scratch of their own. `first`: the number of the first key, where others lie elsewhere."""

    def __init__(self, plan: Plan, query: Side, keys: Side, first: int = 0):
        self.plan, self.query, self.keys, self.first = plan, query, keys, first
        height, width = (min(plan.tile),) * 2 if plan.self_symmetric else plan.tile
        self.height, self.width = min(height, max(1, len(query))), min(width, max(1, len(keys)))
        self.product = query.new_empty(self.height * self.width)
        self.lines = max(1, min(self.height, WORK.get(self.product.device.type, 1 << 20) // self.width))
        few, many = self.lines * self.width, len(plan.groups) > 1
        self.work, self.total = (query.new_empty(few) if many else None for _ in range(2))
        self.masks = [query.new_empty(few) for _ in range(2)] if any(c.masked for c in plan.conditions) else None

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        for i in range(0, len(self.query), self.height):
            rows = slice(i, min(i + self.height, len(self.query)))
            start = 0
            if self.plan.self_symmetric:
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
            part = s[r: r + self.lines]
            yield slice(rows.start + r, rows.start + r + len(part)), part

    def numbered(self, columns: slice) -> slice:
        """Columns by their numbers among all."""
        return slice(columns.start + self.first, columns.stop + self.first)

    def similarities(self, rows: slice, columns: slice) -> Tensor:
        """log2(e) S of a tile, in the scratch."""
        self.plan.choice.visited += 1
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        out = self.product[: shape[0] * shape[1]].view(shape)
        return similarities(out, self.query, rows, self.keys, columns, LOG2E)

    def exponentials(self, s: Tensor, g: int, rows: slice, columns: slice) -> Tensor:
        """2^(scale s - shift), 0 where a pair does not count; overwrites s where there is one group."""
        group, shift, conditions = self.plan.groups[g], self.plan.shifts[g], self.plan.conditions[g]
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
        e.exp2_()
        if mask is not None:
            e.mul_(mask)
        conditions.clear(e, rows, columns)
        return e

    def empty(self, rows: slice, columns: slice) -> bool:
        t = Tile(rows, 0, self.numbered(columns), False, self.product.device)
        return all(g.terms.empty(t) for g in self.plan.groups)


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


def sums(plan: Plan, query: Side, keys: Side, first: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """For each group the sums of exponentials of the rows and of the columns."""
    grid = Grid(plan, query, keys, first)
    rows = [query.new_empty(len(query)).zero_() for _ in plan.groups]
    columns = [query.new_empty(len(keys)).zero_() for _ in plan.groups]
    for i, j in grid.tiles():
        if grid.empty(i, j):
            continue
        if plan.kept is not None:
            grid.renew()
        s = grid.similarities(i, j)
        for strip, part in grid.strips(i, s):
            for g, group in enumerate(plan.groups):
                e = grid.exponentials(part, g, strip, j)
                if group.weight is not None:
                    e.mul_(group.weight.detach()[grid.numbered(j)])
                if group.rows or plan.self_symmetric:
                    rows[g][strip] += e.sum(1)
                if plan.self_symmetric and i.start != j.start:
                    rows[g][j] += e.sum(0)
                elif group.columns:
                    columns[g][j] += e.sum(0)
        if plan.kept is not None:
            plan.kept.append(s)
    return rows, columns


def in_range(plan: Plan, rows: list[Tensor], columns: list[Tensor]) -> bool:
    """Whether every sum was held exactly; a sum of 0 counts only where the shift is 0 (nothing was there).

    Bounded exponents without weights cannot leave the range: then nothing is looked at, and the device need not wait.
    """
    for g, group in enumerate(plan.groups):
        if plan.shifts[g] == 0 and group.weight is None and max(len(rows[g]), len(columns[g])) <= MANY:
            continue
        for x in ([rows[g]] if group.rows else []) + ([columns[g]] if group.columns else []):
            inside = (x > LOW) & (x < HIGH)
            if plan.shifts[g] == 0:
                inside |= x == 0
            if not bool(inside.all()):
                return False
    return True


def slopes(gradient: Tensor | None, total: Tensor, scale: float) -> Tensor:
    """scale * gradient / sum, 0 where the row is empty."""
    if gradient is None:
        return torch.zeros_like(total)
    return torch.where(total > 0, (gradient if scale == 1 else gradient * scale) / total, 0)


def gradients(plan: Plan, query: Side, keys: Side, u: list[Tensor], v: list[Tensor],
              want: Sequence[bool], first: int = 0) -> list[Tensor | None]:
    """Gradients of the vectors of query, keys (None where the queries are the keys) and of the weights of each group,
    from the slopes of its rows and columns."""
    grid = Grid(plan, query, keys, first)
    d_query = query.zeros() if want[0] else None
    d_keys = keys.zeros() if want[1] and not plan.self_symmetric else None
    d_weights = [None if g.weight is None else torch.zeros_like(g.weight) for g in plan.groups]
    both = plan.self_symmetric or any(g.columns for g in plan.groups)
    weights = query.new_empty(grid.lines * grid.width) if both else None
    half = None if query.halved is None else torch.empty_like(grid.product, dtype=torch.bfloat16)
    kept, plan.kept = plan.kept, None  # overwritten below: a second backward pass computes them again
    ready = None if kept is None else iter(kept)
    for i, j in grid.tiles():
        if grid.empty(i, j):
            continue
        s = grid.similarities(i, j) if ready is None else next(ready)
        flow = s if half is None else half[: s.numel()].view(s.shape)
        for strip, part in grid.strips(i, s):
            total = part if grid.total is None else grid.total[: part.numel()].view(part.shape)
            for g, group in enumerate(plan.groups):
                e = part if ready is not None else grid.exponentials(part, g, strip, j)
                _weigh(e, group, u[g][strip], v[g][j], weights, plan.self_symmetric)
                held = d_weights[g]
                if group.weight is not None and held is not None:
                    held[grid.numbered(j)] += e.sum(0) / group.scale
                    e.mul_(group.weight.detach()[grid.numbered(j)])
                if total is not e:
                    total.copy_(e) if g == 0 else total.add_(e)
            if flow is not s or total is not part:
                flow[strip.start - i.start: strip.stop - i.start] = total
        if d_query is not None:
            carry(d_query[i], flow, keys.weighed(j))
            if plan.self_symmetric and i.start != j.start:
                carry(d_query[j], flow.T, query.weighed(i))
        if d_keys is not None:
            carry(d_keys[j], flow.T, query.weighed(i))
    return [d_query, d_keys, *d_weights]


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
    """Answers in the order of the reductions. Inputs: the vectors and the scale (or None) of query and keys, or of the
    query alone where it is its own keys; then the weights of the groups (None where they have none)."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, rows: list[Tensor], columns: list[Tensor], products: dict[int, Tensor],
                *inputs: Tensor):
        answers: list[Tensor | None] = [products.get(k) for k in range(len(plan.asked))]
        for g, group in enumerate(plan.groups):
            shift = plan.shifts[g] / LOG2E
            for k in (*group.rows, *group.columns):
                total = (rows if k in group.rows else columns)[g].log()
                answers[k] = total if shift == 0 else total.add_(shift)
        ctx.plan = plan
        ctx.save_for_backward(*inputs, *rows, *columns)
        return tuple(answers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        from nearfar.similarity.engines import full_precision

        plan: Plan = ctx.plan
        saved, many = ctx.saved_tensors, len(plan.groups)
        inputs, rows, columns = saved[: -2 * many], saved[-2 * many: -many], saved[-many:]
        if torch.is_grad_enabled():
            return *[None] * 4, *_differentiable(plan, inputs, grads)
        u = [slopes(joined(grads, g.rows), rows[k], g.scale) for k, g in enumerate(plan.groups)]
        v = [slopes(joined(grads, g.columns), columns[k], g.scale) for k, g in enumerate(plan.groups)]
        need, last = ctx.needs_input_grad[4:], 2 * len(plan.recipes) - 2
        want = any(need[:2]), any(need[last: last + 2])
        with full_precision(saved[0].device):
            query, keys = plan.sides(inputs)
            d_query, d_keys, *d_weights = gradients(plan, query, keys, u, u if plan.self_symmetric else v, want)
            for k, p in plan.beside.items():
                p.pull(grads[k], query, keys, d_query, d_query if plan.self_symmetric else d_keys)
            found = [query.release(d_query), *([] if plan.self_symmetric else [keys.release(d_keys)])]
        return *[None] * 4, *(x for pair in found for x in pair), *d_weights


def joined(grads: Sequence[Tensor], members: list[int]) -> Tensor | None:
    return sum((grads[k] for k in members[1:]), grads[members[0]]) if members else None


def _differentiable(plan: Plan, inputs: Sequence[Tensor | None], grads: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradients that can be derived again: the small matrix is built."""
    from nearfar.similarity import engines

    if not plan.small:
        engines.refuse_second_derivatives()
    many = len(plan.groups)
    inputs = aliases(inputs)
    made, weights = [], inputs[-many:]
    for k, recipe in enumerate(plan.recipes):
        x = inputs[2 * k]
        assert x is not None
        made.append(recipe.made(x, inputs[2 * k + 1]))
    asked = list(plan.asked)
    for g, w in zip(plan.groups, weights, strict=True):
        for k in (*g.rows, *g.columns):
            asked[k] = LogSumExp(where=g.where, weight=None if w is None else PerColumn(w), dim=asked[k].dim,
                                 block=0, scale=g.scale)
    answers = engines.dense(made[0], [Operand(Vectors(made[-1]), False)], asked)
    wanted = [x for x in inputs if x is not None and x.requires_grad]
    found = iter(torch.autograd.grad(answers, wanted, grads, create_graph=True, allow_unused=True))
    return [next(found) if x is not None and x.requires_grad else None for x in inputs]


def reduce(query: Vectors, keys: Vectors, reductions: Sequence[Reduction], tile: tuple[int, int], choice: Any,
           small: bool = False, beside: dict[int, Alongside] | None = None) -> list[Tensor] | None:
    """All log-sum-exps, and what is answered alongside them, in one sweep, or None where the running maximum is needed.

    small: the matrix may be built for second derivatives. beside: which reductions are answered how alongside.
    """
    beside = beside or {}
    found = groups(reductions, beside)
    if not found or query.dim() != 2 or keys.dim() != 2:
        return None
    itself = query is keys and not any(g.columns for g in found) and all(g.symmetric() for g in found)
    used = [x.settled() for x in ([query] if itself else [query, keys])]
    plan = Plan(found, tile, itself, choice, list(reductions), small, halved(*used), [x.recipe for x in used])
    plan.beside = beside
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in used)
    inputs = [y for x in used for y in (x.x, x.scale)]
    with torch.no_grad():
        a, b = plan.sides(inputs)
        bound = product_bound(used[0], used[-1])
        plan.shifts = [shift_for(a, b, g, bound) for g in found]
        plan.conditions = [Conditions(g.terms, query.dtype, LOG2E) for g in found]
        plan.kept = [] if plan.keeps() and wanted else None
        rows, columns = sums(plan, a, b)
        if not in_range(plan, rows, columns):
            return None
        products = {k: p.products(a, b) for k, p in plan.beside.items()}
    answers = FastLogSumExp.apply(plan, rows, columns, products, *inputs, *(g.weight for g in found))
    assert isinstance(answers, tuple)
    return list(answers)
