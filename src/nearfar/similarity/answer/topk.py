"""The nearest candidates of each row, ranks of wanted ones, the m-th largest similarity; constants in the gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from nearfar.errors import InputError
from nearfar.similarity.answer.columns import Columns, Operand, Scored, refuse, slices
from nearfar.similarity.answer.engine import current
from nearfar.similarity.answer.normal_form import literals
from nearfar.similarity.answer.normalise import longest
from nearfar.similarity.answer.plan import selection, tile_for
from nearfar.similarity.answer.steps import RING_SELECTION, Shape
from nearfar.similarity.answer.vectors import Vectors
from nearfar.similarity.exchange import largest
from nearfar.similarity.relations import Not, Relation, Sparse, Tile

# Floats of the panel of rows in which candidates are ranked.
RANKED = {"cpu": 1 << 24, "cuda": 1 << 28}
# Columns that are searched together for the largest; a chunk of them is passed over by its largest.
STRIP = {"cpu": 4096, "cuda": 1 << 15}
CHUNK = 64
# Candidates a row, over k, from which they are cut down before they are sorted.
FLOOD = 8
# Floats that a wanted candidate needs besides.
MORE = 64
# Wanted candidates of a row up to which others are compared with each of them; beyond, the row is sorted.
FEW = 100


def topk(
    query: Tensor,
    operand: Columns,
    block: int,
    k: int,
    where: Relation | None,
    progress: Callable[[int], object] | None = None,
) -> tuple[Tensor, Tensor]:
    """Values and columns (..., N, k), best first, equal ones by column; -inf and -1 where nothing is left."""
    if k < 1:
        raise InputError(f"k must be at least 1. Got {k}.")
    lead, n = query.shape[:-2], query.shape[-2]
    values = query.new_full((*lead, n, k), -math.inf)
    places = torch.full((*lead, n, k), -1, dtype=torch.long, device=query.device)
    tile = tile_for(query, [operand])
    height, width = max(1, tile[0] // max(1, lead.numel())), max(tile[1], STRIP.get(query.device.type, 1 << 15))
    parts, last = operand.parts(), -1
    for part in parts:
        rising, last = part.first > last, max(last, part.first)
        with parts.guard():
            masked = MaskedSimilarities(query, part, block, where, tile)
            for rows in slices(n, height):
                best = RunningTopK(values[..., rows, :], places[..., rows, :], rising)
                for columns in part.columns(width):
                    best.take(masked.strip(rows, columns, CHUNK), columns.start)
                values[..., rows, :], places[..., rows, :] = best.answer()
                if progress is not None:
                    progress(rows.stop - rows.start)
    return values, places


class MaskedSimilarities:
    """Similarities of some rows and columns, with a value of no meaning where a pair does not count."""

    def __init__(self, query: Tensor, operand: Columns, block: int, where: Relation | None, tile: tuple[int, int]):
        self.query, self.operand, self.block, self.tile = query, operand, block, tile
        conditions = [] if where is None else literals(where.at_block(block))
        hidden = [x.other for x in conditions if isinstance(x, Not)]
        self.few = [x for x in hidden if x.sparse]
        self.rest = [x for x in conditions if not (isinstance(x, Not) and x.other.sparse)]
        self.scratch = query.new_empty(0)

    def strip(self, rows: slice, columns: slice, multiple: int = 1, fill: float = -math.inf) -> Tensor:
        """(..., rows, columns) in scratch that the next strip takes; filled up to a `multiple` of columns."""
        lead, height, width = self.query.shape[:-2], rows.stop - rows.start, columns.stop - columns.start
        wide = -(-width // multiple) * multiple
        size = lead.numel() * height * wide
        if self.scratch.numel() < size:
            self.scratch = self.query.new_empty(size)
        out = self.scratch[:size].view(*lead, height, wide)
        out[..., width:] = fill
        for i in slices(height, self.tile[0]):
            for j in slices(width, self.tile[1]):
                t = Tile(_moved(i, rows.start), 0, _moved(j, columns.start), self.operand.per_anchor, self.query.device)
                if any(r.empty(t) for r in self.rest):
                    out[..., i, j] = fill
                    continue
                out[..., i, j] = self.operand.product(self.query, t.rows, t.columns)
                self._hide(out[..., i, j], t, fill)
        return out

    def _hide(self, s: Tensor, t: Tile, fill: float) -> None:
        t = replace(t, s=s)
        for relation in self.rest:
            s.masked_fill_(relation.other.tile(t) if isinstance(relation, Not) else ~relation.tile(t), fill)
        for relation in self.few:
            i, j = relation.pairs_in(t)
            s[..., i, j] = fill


def _moved(x: slice, by: int) -> slice:
    return slice(x.start + by, x.stop + by)


class RunningTopK:
    """The k largest so far of some rows, in order. Candidates that cannot be among them are passed over by the largest
    of each chunk of columns; equal ones keep the order of the columns.

    rising: strips come in the order of their columns.
    """

    def __init__(self, values: Tensor, places: Tensor, rising: bool):
        self.shape, self.rising = values.shape, rising
        self.values, self.places = values.reshape(-1, values.shape[-1]), places.reshape(-1, places.shape[-1])

    def answer(self) -> tuple[Tensor, Tensor]:
        return self.values.view(self.shape), self.places.view(self.shape)

    def take(self, s: Tensor, first: int) -> None:
        """A strip (..., rows, columns) whose columns are numbered from `first` on."""
        s = s.view(-1, s.shape[-1])
        row, column, value = self._candidates(s)
        if not len(row):
            return
        live, row = torch.unique_consecutive(row, return_inverse=True)
        counts = torch.bincount(row, minlength=len(live))
        nth = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        k, most = self.values.shape[1], int(counts.max())
        both = self.values.new_full((len(live), k + most), -math.inf)
        at = self.places.new_full(both.shape, -1)
        both[:, :k], at[:, :k] = self.values[live], self.places[live]
        both[row, k + nth], at[row, k + nth] = value, column + first
        if not self.rising:
            order = at.sort(dim=1, stable=True).indices
            both, at = both.gather(1, order), at.gather(1, order)
        order = both.sort(dim=1, descending=True, stable=True).indices[:, :k]
        self.values[live], self.places[live] = both.gather(1, order), at.gather(1, order)

    def _candidates(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Row, column and value of what may be among the k largest, by row and then by column."""
        k, floor = self.values.shape[1], self.values[:, -1]
        chunks = s.view(len(s), -1, CHUNK)
        top = chunks.amax(-1)
        least = torch.nextafter(floor, torch.full_like(floor, math.inf)) if self.rising else floor
        least = least.clamp(min=torch.finfo(s.dtype).min)
        if bool((floor == -math.inf).any()):
            least = torch.maximum(least, _at_least_k(s, top, k))
        i, c = (~(top < least[:, None])).nonzero(as_tuple=True)  # a chunk whose largest is no number is looked at
        picked = chunks[i, c]
        f, w = (picked >= least[i, None]).nonzero(as_tuple=True)
        row, column, value = i[f], c[f] * CHUNK + w, picked[f, w]
        if len(row) > FLOOD * k * len(s):
            stay = _flood(row, value, _place(_numbers(s), s.shape[1] - k), k)
            row, column, value = row[stay], column[stay], value[stay]
        return row, column, value


def _numbers(s: Tensor) -> Tensor:
    """-inf in place of what is no number."""
    return torch.where(s.isnan(), -math.inf, s)


def _at_least_k(s: Tensor, top: Tensor, k: int) -> Tensor:
    """For each row a value that k entries reach; -inf where there are no k."""
    if top.shape[1] >= k:
        return _numbers(top).topk(k, 1).values[:, -1]
    return _place(_numbers(s), s.shape[1] - k) if s.shape[1] > k else torch.full_like(top[:, 0], -math.inf)


def _flood(row: Tensor, value: Tensor, level: Tensor, k: int) -> Tensor:
    """Which of many candidates reach the k-th largest of their row, of those that equal it the first k."""
    tie = value == level[row]
    count = tie.cumsum(0)
    counts = torch.bincount(row, weights=tie.double(), minlength=len(level)).long()
    nth = count - (counts.cumsum(0) - counts)[row]
    return (value > level[row]) | (tie & (nth <= k))


@dataclass(frozen=True)
class Ranks:
    """Where the wanted candidates of some rows stand. row: the row of each, from 0 on within `rows`, rising; place:
    its place in the row's ranking, from 1, rising within a row. LongTensors (P,). grade: of each, (P,); 1 without
    grades, and of equal scores the lower one first."""

    rows: slice
    row: Tensor
    place: Tensor
    grade: Tensor


def ranks_of(query: Tensor, operand: Columns, block: int, wanted: Sparse, where: Relation | None) -> Iterator[Ranks]:
    """The places of the wanted candidates of all rows, some rows at a time; equal scores place them last.

    A wanted candidate that `where` hides has no place. Each similarity is computed once.
    """
    refuse(operand, "A ranking")
    if query.dim() != 2 or len(wanted.start) != len(query):
        raise InputError(
            f"A ranking is of anchors (N, D) and of pairs of N rows. Got {tuple(query.shape)} and "
            f"{len(wanted.start)} rows."
        )
    tile = tile_for(query, [operand])
    most = max(1, operand.width + MORE * int(wanted.counts.sum()) // max(1, len(query)))
    height = min(tile[0], max(1, RANKED.get(query.device.type, 1 << 26) // most))
    masked = MaskedSimilarities(query, operand, block, where, tile)
    for rows in slices(len(query), height):
        yield _ranks(masked, rows, wanted)


@torch.no_grad()
def _ranks(masked: MaskedSimilarities, rows: slice, wanted: Sparse) -> Ranks:
    with torch.autocast(masked.query.device.type, enabled=False):
        s = masked.strip(rows, slice(0, masked.operand.width), fill=math.nan)
    row, column = wanted.pairs(rows)
    score = s[row, column]
    seen = ~score.isnan()
    s[row, column] = math.nan
    row, score, grade = row[seen], score[seen], wanted.grades(rows)[seen]
    counts = torch.bincount(row, minlength=len(s))
    start = counts.cumsum(0) - counts
    place = torch.empty_like(row)
    few = (counts <= FEW)[row].nonzero().squeeze(1)
    order = score[few].sort(descending=True, stable=True).indices
    order = order[row[few][order].sort(stable=True).indices]
    mine, limit = row[few], score[few][order]
    nth = few - start[mine]
    place[few] = _ahead(s, mine, nth, limit) + nth + 1
    for r in (counts > FEW).nonzero().squeeze(1).tolist():
        part = slice(int(start[r]), int(start[r] + counts[r]))
        place[part] = _places_by_sorting(s[r], score[part])
    return Ranks(rows, row, place, grade if wanted.grade is None else _best_last(row, score, grade))


def _best_last(row: Tensor, score: Tensor, grade: Tensor) -> Tensor:
    """Grades in the order of the places: by row, by falling score, and of equal scores the lower grade first."""
    order = grade.sort(stable=True).indices
    order = order[score[order].sort(descending=True, stable=True).indices]
    return grade[order[row[order].sort(stable=True).indices]]


def _ahead(s: Tensor, row: Tensor, nth: Tensor, limit: Tensor) -> Tensor:
    """How many similarities of its row reach each limit."""
    out = torch.zeros_like(row)
    for n in range(int(nth.max()) + 1 if len(nth) else 0):
        mine = (nth == n).nonzero().squeeze(1)
        rows, least = row[mine], limit[mine, None]
        for columns in slices(s.shape[1], STRIP.get(s.device.type, 1 << 15)):
            part = s[:, columns] if len(rows) == len(s) else s[rows, columns]
            out[mine] += torch.ge(part, least, out=torch.empty_like(part)).sum(1).long()
    return out


def _places_by_sorting(s: Tensor, own: Tensor) -> Tensor:
    """The places of one row's own scores among those of s that are numbers."""
    if s.device.type == "cpu":  # numpy sorts and searches at 4 times the speed
        others, mine = np.sort(s.numpy()), np.sort(own.numpy())
        others = others[: np.searchsorted(others, np.nan)]
        ahead = len(others) - torch.from_numpy(np.searchsorted(others, mine)).flip(0)
    else:
        others = s[~s.isnan()].sort().values
        ahead = len(others) - torch.searchsorted(others, own.sort().values).flip(0)
    return ahead + torch.arange(1, len(ahead) + 1, device=s.device)


def rounding(query: Tensor, operands: Iterable[Columns], value: Tensor) -> Tensor:
    """By how much a similarity of this size may differ between two tiles, at most, (..., N)."""
    most = torch.zeros_like(value)
    for operand in operands:
        if isinstance(operand, Scored):
            most = torch.maximum(most, operand.rounding(value))
        elif isinstance(operand, Operand):
            lengths = 8 * torch.finfo(value.dtype).eps * query.norm(dim=-1) * _longest(operand)
            most = torch.maximum(most, lengths)
    return most


def _longest(operand: Operand) -> Tensor:
    """The largest length of its keys."""
    most = longest(operand.keys)
    return most if operand.ring is None else largest(most, operand.ring.group)


def nth_largest(query: Tensor, operands: Mapping[int, Columns], m: int | Tensor, where: Relation | None) -> Tensor:
    """Each row's m-th largest similarity in the numbered blocks, (..., N); -inf where it has fewer candidates."""
    if isinstance(m, int) and m < 1:
        raise InputError(f"m must be at least 1. Got {m}.")
    lead, n, width = query.shape[:-2], query.shape[-2], sum(o.width for o in operands.values())
    out = query.new_full((*lead, n), -math.inf)
    step = selection(Shape.of(Vectors(query), list(operands.values())), current())
    current().note(step.name)
    if step.name == RING_SELECTION:
        return _nth_of_ring(query, operands, m, where)
    if not width:
        return out
    each = m.clamp(min=1).expand(*lead, n) if isinstance(m, Tensor) else None
    height, tile = step.tile[0], tile_for(query, list(operands.values()))
    blocks = [MaskedSimilarities(query, o, b, where, tile) for b, o in operands.items()]
    for rows in slices(n, height):
        s = [masked.strip(rows, slice(0, masked.operand.width)) for masked in blocks]
        out[..., rows] = _select(torch.cat(s, -1) if len(s) > 1 else s[0], m if each is None else each[..., rows])
    return out


def _select(s: Tensor, m: int | Tensor) -> Tensor:
    """The m-th largest along the last axis, in linear time for each number that occurs in m."""
    width = s.shape[-1]
    if not isinstance(m, Tensor):
        return _place(s, width - m) if m <= width else torch.full_like(s[..., 0], -math.inf)
    flat, wanted = s.reshape(-1, width), m.reshape(-1)
    out = flat.new_full((len(flat),), -math.inf)
    for k in wanted.unique().tolist():
        if k <= width:
            mine = (wanted == k).nonzero().squeeze(1)
            out[mine] = _place(flat if len(mine) == len(flat) else flat[mine], width - k)
    return out.view(m.shape)


def _place(s: Tensor, place: int) -> Tensor:
    """What stands at `place` of each sorted row."""
    if s.device.type != "cpu":
        return s.kthvalue(place + 1, -1).values
    return torch.from_numpy(np.partition(s.numpy(), place, axis=-1)[..., place].copy())  # 10 times kthvalue's speed


def _ordered(s: Tensor) -> Tensor:
    """The bits of floats as integers of the same order."""
    bits = s.contiguous().view(torch.int64 if s.dtype == torch.float64 else torch.int32)
    return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits)


def _nth_of_ring(query: Tensor, operands: Mapping[int, Columns], m: int | Tensor, where: Relation | None) -> Tensor:
    """The m-th largest of keys that travel: four bits of it a round, by counting what is at least as large."""
    kind = torch.int64 if query.dtype == torch.float64 else torch.int32
    bits = torch.iinfo(kind)
    found = torch.full((query.shape[0],), bits.min, dtype=kind, device=query.device)
    wanted = torch.as_tensor(m, device=query.device).clamp(min=1).expand(query.shape[0])
    for shift in range(bits.bits - 4, -4, -4):
        limits = torch.stack([found + (j << shift) for j in range(1, 16)], 1)
        counts = torch.zeros_like(limits, dtype=torch.long)
        for block, operand in operands.items():
            parts = operand.parts()
            for part in parts:
                with parts.guard():
                    _count(query, part, block, where, limits, counts)
        found = found + ((counts >= wanted[:, None]).sum(1) << shift).to(found.dtype)
    value = _ordered(found.view(query.dtype)).view(query.dtype)
    return torch.where(found == bits.min, -math.inf, value)  # no candidate was as large as the least float


def _count(query: Tensor, part: Columns, block: int, where: Relation | None, limits: Tensor, counts: Tensor) -> None:
    """Adds how many similarities are at least each limit of their row."""
    masked = MaskedSimilarities(query, part, block, where, tile_for(query, [part]))
    for rows, columns in product(slices(len(query), 512), part.columns(1024)):
        s = _ordered(masked.strip(rows, columns))
        for j in range(limits.shape[1]):
            counts[rows, j] += (s >= limits[rows, j, None]).sum(1)
