"""Which algorithm answers which reduction: the only place that decides it.

    plan(ask, engine) -> Plan: named steps, each with its cost and the reason why it was chosen

Pure: it looks at shapes, types, flags and relations, and computes no similarity. What only the numbers can tell - that
one shift of the exponents holds every sum - stands as `otherwise` in a step: what is done where it does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nearfar.similarity.answer.columns import Columns
from nearfar.similarity.answer.engine import Engine, current
from nearfar.similarity.answer.normal_form import Factors, factors, product, terms
from nearfar.similarity.answer.steps import (
    BATCHED,
    CLOSED,
    CROSS_ENTROPY,
    DENSE,
    LISTED,
    LOG_SUM_EXP,
    NOTHING,
    RING,
    RING_SELECTION,
    RING_SWEEP,
    SELECTION,
    SUMS,
    SWEEP,
    WEIGHTED,
    Ask,
    Body,
    Cost,
    Group,
    Part,
    Plan,
    Shape,
    Step,
    pairs_cost,
)
from nearfar.similarity.answer.vectors import Vectors
from nearfar.similarity.reductions import Count, CrossEntropy, LogSumExp, Mean, Reduction, Sum
from nearfar.similarity.relations import Listed, Relation, everyone, per_column

# Entries of the matrix from which the general sweep is faster than building it, by device type: set from
# benchmarks/loss/crossover.py. Closed forms and log-sum-exp sweeps are the faster ones at any size.
CROSSOVER = {"cpu": 1 << 21, "cuda": 1 << 24}
TILE = {"cpu": (1024, 1024), "cuda": (4096, 8192)}
# Pairs of one entry of leading dimensions from which a sweep of its own is worth it.
LARGE = 1 << 16
# Floats of a panel of the cross-entropy pass, and its rows at least: with fewer, matrix products are slow.
PANEL = {"cpu": 13 << 19, "cuda": 1 << 27}
LEAST = 256
# Floats of the panel of rows in which an m-th largest is looked for.
SELECTED = {"cpu": 1 << 21, "cuda": 1 << 26}
# Inclusion and exclusion takes 2^MOST class sums; more kinds of hidden pairs than this are swept.
MOST = 3


def plan(ask: Ask, engine: Engine) -> Plan:
    """Names the steps that answer `ask`."""
    passes = {
        k: step
        for k, r in enumerate(ask.reductions)
        if isinstance(r, CrossEntropy) and (step := _cross_entropy(ask, r, engine)) is not None
    }
    rest = [r for k, r in enumerate(ask.reductions) if k not in passes]
    if not rest:
        return Plan(ask.shape, ask.reductions, passes, None)
    asked = [r.negatives() if isinstance(r, CrossEntropy) else r for r in rest]
    positives = _positives(ask, rest)
    if positives == "sum":
        asked.append(Sum(where=ask.positive))
    given, recalled = None, None
    if ask.twin:
        turned = [_transposable(r, ask) for r in asked]
        keys = [key for key in turned if key is not None]
        alone = [r for r, key in zip(asked, turned, strict=True) if key is None]
        if all(isinstance(r, Sum) and r.where is ask.positive for r in alone):
            if not alone and all(key in ask.known for key in keys):
                recalled = keys
            else:
                given = keys
                asked += [replace(r, dim=0) for r, key in zip(asked, turned, strict=True) if key is not None]
    body = None if recalled is not None else _body(ask.shape, asked, engine)
    return Plan(ask.shape, ask.reductions, passes, body, positives, given, recalled)


def _positives(ask: Ask, rest: Sequence[Reduction]) -> str | None:
    """Where the similarities of the positives come from that cross-entropies need: "twin" knows them, "pairs" are
    multiplied row by row, or a "sum" is asked for along with the rest."""
    if not any(isinstance(r, CrossEntropy) and r.of is None for r in rest):
        return None
    if ask.paired:
        return "twin"
    assert isinstance(ask.positive, Listed)
    return "sum" if ask.shape.blocks[ask.positive.block].shared and not ask.shape.lead else "pairs"


def _transposable(r: Reduction, ask: Ask) -> tuple[float, bool] | None:
    """A log-sum-exp of the rows over everyone or over the negatives, as (scale, negatives only)."""
    if not isinstance(r, LogSumExp) or r.weight is not None or r.dim != 1 or r.block != 0:
        return None
    if r.where is not None and r.where is not ask.negative:
        return None
    return r.scale, r.where is not None


def _cross_entropy(ask: Ask, r: CrossEntropy, engine: Engine) -> Step | None:
    """One pass, where nothing else would share its sweeps, gradients are wanted, and relations and weights allow it."""
    shape = ask.shape
    alone = not ask.twin and sum(isinstance(x, LogSumExp) for x in ask.reductions) == 1
    keys = alone and engine.name != "dense" and shape.flat and all(b.shared for b in shape.blocks)
    itself = len(shape.blocks) == 1 and shape.blocks[0].itself
    if not keys or itself or not shape.wanted or r.scale <= 0:
        return None
    parts = []
    for b in range(len(shape.blocks)):
        weight = factors(None if r.weight is None else r.weight.at_block(b))
        if weight is None or weight.rows:
            return None
        where = (everyone if r.where is None else r.where).at_block(b) & weight.where
        parts.append(Part(replace(r, where=where, weight=None), b, terms(where), weight))
        if parts[-1].terms.reads_values:
            return None
    width = max(1, sum(s.width for s, p in zip(shape.blocks, parts, strict=True) if not p.terms.nothing))
    tile = tile_of(shape, engine)
    height = max(min(tile[0], shape.rows, max(PANEL.get(shape.device, 1 << 24) // width, LEAST)), 1)
    cost = _swept(shape, 6, 1, height * width + _keys(shape))
    return Step(
        CROSS_ENTROPY,
        parts,
        cost,
        "one direction: a panel of rows against all candidates gives value and gradient at once",
        tile=(height, tile[1]),
        small=is_small(shape, engine),
    )


def tile_of(shape: Shape, engine: Engine) -> tuple[int, int]:
    """Rows and columns of a tile: those that are forced, else those that suit the sources."""
    wanted = [b.tile for b in shape.blocks if b.tile is not None]
    if engine.tile is None and wanted:
        return min(h for h, _ in wanted), min(w for _, w in wanted)
    return engine.tile or TILE.get(shape.device, (1024, 1024))


def tile_for(query: Tensor, columns: Sequence[Columns]) -> tuple[int, int]:
    """The same under the engine that is in force."""
    return tile_of(Shape.of(Vectors(query), columns), current())


def selection(shape: Shape, engine: Engine) -> Step:
    """How the m-th largest of each row is found: among all candidates of a few rows at a time, `tile[0]` of them; where
    keys travel, bit by bit, counting in a round what is at least as large."""
    tile, every = tile_of(shape, engine), math.prod(shape.lead)
    values = replace(shape, gradient=False, blocks=tuple(replace(b, gradient=False) for b in shape.blocks))
    if shape.travels:
        rounds = torch.finfo(shape.dtype).bits // 4
        cost = _swept(values, 2, 1, 16 * shape.rows)
        return Step(
            RING_SELECTION,
            [],
            replace(cost, products=rounds * cost.products, passes=rounds),
            "keys travel: four bits of the value a round",
            tile=tile,
        )
    height = min(tile[0], max(1, SELECTED.get(shape.device, 1 << 24) // max(1, shape.width * every)))
    return Step(
        SELECTION,
        [],
        _swept(values, 2, 1, every * height * shape.width),
        "a few rows at a time are held against all candidates",
        tile=(height, tile[1]),
    )


def is_small(shape: Shape, engine: Engine) -> bool:
    """Whether the matrix may be built where neither closed form nor log-sum-exp sweep can answer."""
    most = CROSSOVER.get(shape.device, 1 << 24)
    if not all(b.product for b in shape.blocks):
        most = math.prod(tile_of(shape, engine))  # what a source holds beside its numbers is not known
    return engine.name == "auto" and shape.entries <= most


def _body(shape: Shape, reductions: list[Reduction], engine: Engine) -> Body:
    if engine.name == "dense" and not shape.travels:
        parts = [Part(r) for r in reductions]
        return Body(reductions, [[p] for p in parts], [_general(shape, parts, None, engine, True, "it is forced")])
    if not shape.travels and _apart(shape, reductions):
        return _batched(shape, reductions, engine)
    return _Blocks(shape, reductions, engine).body()


def _apart(shape: Shape, reductions: Sequence[Reduction]) -> bool:
    """Whether the entries of leading dimensions are large, and no relation or value differs between them."""
    if not shape.lead or shape.rows * shape.width < LARGE:
        return False
    values = [x for r in reductions for x in r.row_values().values()]
    relations = [x for r in reductions for x in (r.where, r.weight) if x is not None]
    return all(x.dim() == 1 for x in values) and all(x.alike for x in relations)


def _batched(shape: Shape, reductions: list[Reduction], engine: Engine) -> Body:
    inner = _Blocks(shape.entry(), reductions, engine).body()
    parts, entries = [Part(r) for r in reductions], math.prod(shape.lead)
    cost = sum((s.cost for s in inner.steps), Cost(0, 0, 0))
    step = Step(
        BATCHED,
        parts,
        replace(cost, products=entries * cost.products),
        f"each of {entries} entries is large enough for sweeps of its own: " + ", ".join(s.name for s in inner.steps),
        inner=inner,
    )
    return Body(reductions, [[p] for p in parts], [step])


def _general(shape: Shape, parts: list[Part], block: int | None, engine: Engine, built: bool, why: str) -> Step:
    """The whole matrix, or the sweep with running maxima that answers everything."""
    held = shape if block is None else shape.only(block)
    if built:
        return Step(DENSE, parts, _swept(held, 6, 1, 4 * held.entries), why, block)
    tile = tile_of(shape, engine)
    memory = 6 * tile[0] * tile[1] + 2 * (held.rows + held.width) * held.dim
    return Step(RING_SWEEP if held.travels else SWEEP, parts, _swept(held, 8, 2, memory), why, block, tile)


class _Blocks:
    """Reductions as parts of single blocks, and the steps of each block."""

    def __init__(self, shape: Shape, reductions: list[Reduction], engine: Engine):
        self.shape, self.reductions, self.engine = shape, reductions, engine
        self.small = is_small(shape, engine)
        self.relations: dict[tuple[int, int], Relation | None] = {}
        self.weights: dict[tuple[int, int], Factors | None] = {}

    def body(self) -> Body:
        if not self.shape.flat:
            parts = [Part(r) for r in self.reductions]
            return Body(self.reductions, [[p] for p in parts], [self._all_blocks(parts)])
        split = [self._split(r) for r in self.reductions]
        swept = {p.block for parts in split for p in parts if type(p.reduction) is LogSumExp}
        steps, open_parts, fused = [], [], set()
        for p in (p for parts in split for p in parts):
            if p.block in swept and _fuses(p):
                fused.add(p)
            elif (step := self._closed(p)) is not None:
                steps.append(step)
                continue
            open_parts.append(p)
        if all(split):
            for b in range(len(self.shape.blocks)):
                mine = [p for p in open_parts if p.block == b]
                steps += self._of_block(b, mine, [k for k, p in enumerate(mine) if p in fused]) if mine else []
            return Body(self.reductions, split, steps)
        return self._without_splitting(split, steps, set(open_parts))

    def _without_splitting(self, split: list[list[Part]], steps: list[Step], open_parts: set[Part]) -> Body:
        """Where one reduction looks at all blocks together, whatever is left is answered with it in one sweep."""
        whole = {
            k: Part(r) for k, r in enumerate(self.reductions) if not split[k] or any(p in open_parts for p in split[k])
        }
        parts = [[whole[k]] if k in whole else p for k, p in enumerate(split)]
        needed = {p for k, members in enumerate(split) if k not in whole for p in members}
        steps = [s for s in steps if s.parts[0] in needed]
        return Body(self.reductions, parts, [*steps, self._all_blocks(list(whole.values()))])

    def _all_blocks(self, parts: list[Part]) -> Step:
        built = self.small and not self.shape.travels
        return _general(self.shape, parts, None, self.engine, built, _reason(parts, built))

    def _at(self, relation: Relation | None, block: int) -> Relation | None:
        key = (id(relation), block)
        if key not in self.relations:
            self.relations[key] = None if relation is None else relation.at_block(block)
        return self.relations[key]

    def _split(self, r: Reduction) -> list[Part]:
        """The parts of the blocks; none where the reduction needs all of them together."""
        if r.dim == 0:
            return [self._part(r, r.block)]
        if len(self.shape.blocks) == 1:
            return [self._part(r, 0)]
        if type(r) not in (LogSumExp, Sum, Count, Mean) or (isinstance(r, Sum) and r.phi is not None):
            return []
        kinds = [r]
        if isinstance(r, Mean):
            kinds = [kind(where=r.where, weight=r.weight) for kind in (Sum, Count)]
        return [self._part(x, b) for x in kinds for b in range(len(self.shape.blocks))]

    def _part(self, r: Reduction, block: int) -> Part:
        weight, lift = self._at(r.weight, block), None
        if isinstance(r, LogSumExp) and r.dim == 1 and weight is not None:
            lift = self.weights.setdefault((id(r.weight), block), factors(weight))
            if lift is not None and lift.rows:
                weight = self._without_rows(r.weight, block, lift)
            else:
                lift = None
        seen = replace(r, where=self._at(r.where, block), weight=weight, block=0)
        held = product(weight)
        where = seen.where
        if held is not None and held.where is not everyone:
            where = held.where if where is None else where & held.where
        return Part(seen, block, terms(where), held, lift)

    def _without_rows(self, weight: Relation | None, block: int, found: Factors) -> Relation | None:
        key = (id(weight), ~block)
        if key not in self.relations:
            left = found.where
            for w in found.columns:
                left = left & per_column(w)
            self.relations[key] = left
        return self.relations[key]

    def _closed(self, p: Part) -> Step | None:
        """What needs no sweep; counting needs no keys, whatever the similarity is."""
        assert p.block is not None
        block = self.shape.blocks[p.block]
        known = block.shared if block.product else p.counts
        name = _closed_form(p, self.shape.rows, block.width, self.shape.dim) if known else None
        if name is None:
            return None
        cost = Cost(0, 0, 0)
        if name == LISTED:
            cost = pairs_cost(self.shape, p.terms.listed[0].listed.shape[1])
        elif name != NOTHING:
            rank = p.weight.low_rank[0].a.shape[1] if p.weight is not None and p.weight.low_rank else 1
            numbers = (self.shape.rows + block.width) * self.shape.dim * rank * 2 ** len(p.terms.different)
            cost = Cost(numbers * (6 if self.shape.wanted else 2), 0, 4 * numbers)
            cost = Cost(0, 0, 4 * (self.shape.rows + block.width)) if p.counts else cost
        return Step(name, [p], cost, CLOSED[name], p.block)

    def _of_block(self, block: int, parts: list[Part], fused: list[int]) -> list[Step]:
        shape = self.shape.blocks[block]
        if shape.travels:
            return [self._ring(block, parts)]
        found = _groups(parts, fused) if shape.shared else None
        if not found:
            return self._slowly(block, parts, fused)
        sums, half = frozenset(fused), shape.itself and not any(g.columns for g in found)
        half = half and all(g.symmetric() for g in found)
        wanted = self.shape.gradient or shape.gradient
        keeps = wanted and self.small and len(found) == 1 and not found[0].factors.columns
        tile = tile_of(self.shape, self.engine)
        numbers = tile[0] * tile[1] + 2 * (self.shape.rows + shape.width) * len(found) + _keys(self.shape.only(block))
        cost = _swept(
            self.shape.only(block),
            6 if keeps else 8,
            1 if keeps else 2,
            numbers + (self.shape.rows * shape.width if keeps else 0),
            half,
        )
        why = "one exponential of an entry serves " + _served(parts, found, sums)
        why += "; the matrix is symmetric: half of it" if half else ""
        why += "; small: its exponentials are kept for the gradient" if keeps else ""
        return [
            Step(
                LOG_SUM_EXP,
                parts,
                cost,
                why,
                block,
                tile,
                found,
                sums,
                self.small,
                half,
                keeps,
                self._slowly(block, parts, fused),
            )
        ]

    def _ring(self, block: int, parts: list[Part]) -> Step:
        """Whether the exponents fit is agreed on by all ranks: each of them asks, whatever it holds itself."""
        slow = _general(self.shape, parts, block, self.engine, False, "keys travel")
        found = _groups(parts, ()) or []
        cost = _swept(self.shape.only(block), 8, 2, math.prod(slow.tile)) if found else slow.cost
        why = "keys travel: sums grow from part to part, gradients come home in a second round"
        return Step(
            RING,
            parts,
            cost,
            why if found else f"not here: {_reason(parts, False)}",
            block,
            slow.tile,
            found,
            otherwise=[slow],
        )

    def _slowly(self, block: int, parts: list[Part], fused: Sequence[int]) -> list[Step]:
        """Closed forms of what was to be taken along, a general sweep or the small matrix for the rest."""
        closed = [step for k in fused if (step := self._closed(parts[k])) is not None]
        done = {step.parts[0] for step in closed}
        left = [p for p in parts if p not in done]
        return closed + (
            [_general(self.shape, left, block, self.engine, self.small, _reason(left, self.small))] if left else []
        )


def _closed_form(p: Part, rows: int, width: int, dim: int) -> str | None:
    """Which closed form answers a part, or None where it needs a sweep."""
    r, t = p.reduction, p.terms
    if r.dim != 1 or p.weight is None:
        return None
    if t.nothing:
        return NOTHING
    if t.rest or not t.of_block():
        return None
    weighted = bool(p.weight.rows or p.weight.columns or p.weight.low_rank)
    equal = bool(t.same or t.different)
    if t.listed:
        return None if equal or weighted else LISTED
    if type(r) not in (Sum, Mean, Count) or (isinstance(r, Sum) and r.phi is not None) or len(t.different) > MOST:
        return None
    if not weighted:
        return SUMS
    # Pairs are not taken out of weighted sums again: where little is left, a difference would hold no digits.
    if t.unlisted or t.different or (p.weight.low_rank and (equal or not _worth(p.weight, rows, width, dim, p.counts))):
        return None
    return WEIGHTED


def _worth(weight: Factors, rows: int, width: int, dim: int, counts: bool) -> bool:
    """Whether one matrix of low rank is given, and products over its rank cost less than all pairs."""
    low = weight.low_rank[0]
    if len(weight.low_rank) > 1 or low.block != 0 or low.a.dim() != 2 or low.b.dim() != 2:
        return False
    rank, dim = low.a.shape[1], 0 if counts else dim
    return (rows + width) * dim * rank < 2 * rows * width * (dim + rank)


def _fuses(p: Part) -> bool:
    """Whether a log-sum-exp sweep can take the part along: the sum over one column of each row, or the sum or mean over
    its class."""
    r, t = p.reduction, p.terms
    if type(r) not in (Sum, Mean) or (isinstance(r, Sum) and r.phi is not None) or r.where is None or r.dim != 1:
        return False
    if r.weight is not None or t.rest or t.different or not t.of_block():
        return False
    if t.listed:
        alone = len(t.listed) == 1 and type(r) is Sum and not (t.same or t.unlisted)
        return alone and t.listed[0].columns.dim() == 1
    return len(t.same) == 1


def _groups(parts: Sequence[Part], fused: Sequence[int]) -> list[Group] | None:
    """The log-sum-exps of one block as groups; None where a part is something else and not one of `fused`."""
    found: dict[tuple[float, int, int], Group] = {}
    for k, p in enumerate(parts):
        r = p.reduction
        if k in fused:
            continue
        if type(r) is not LogSumExp or r.scale <= 0:
            return None
        key = (r.scale, id(r.where), id(r.weight))
        if key not in found:
            weight = factors(r.weight)
            if weight is None or weight.rows:
                return None
            where = weight.where if r.where is None else r.where & weight.where
            found[key] = Group(r.scale, where, weight)
            if found[key].terms.reads_values:
                return None
        (found[key].rows if r.dim == 1 else found[key].columns).append(k)
    return list(found.values())


def _reason(parts: Sequence[Part], built: bool) -> str:
    if built:
        return "the matrix is small: it is built"
    for p in parts:
        r = p.reduction
        if type(r) is not LogSumExp:
            return f"{type(r).__name__} looks at every similarity"
        if p.weight is None:
            return "weights that differ from pair to pair"
        if p.terms.reads_values:
            return "a relation that looks at the similarities"
    return "running maxima hold any exponent"


def _served(parts: Sequence[Part], found: Sequence[Group], fused: frozenset[int]) -> str:
    rows, columns = any(g.rows for g in found), any(g.columns for g in found)
    ends = "rows and columns" if rows and columns else "rows" if rows else "columns"
    return ends + (f"; sums taken along: {len(fused)}" if fused else "")


def _swept(shape: Shape, times: int, passes: int, numbers: float, half: bool = False) -> Cost:
    """Of passes over a matrix: `times` n m d where gradients are wanted (the values take 2), numbers in memory."""
    products = (times if shape.wanted else 2) * shape.entries * shape.dim / (2 if half else 1)
    return Cost(products, passes if shape.wanted else 1, round(numbers * (8 if shape.dtype == torch.float64 else 4)))


def _keys(shape: Shape) -> int:
    return shape.width * shape.dim
