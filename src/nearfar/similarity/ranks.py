"""The nearest candidates of each row, and the similarity of the m-th nearest; constants in the gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import product

import numpy as np
import torch
from torch import Tensor

from nearfar.errors import InputError
from nearfar.similarity.operands import Columns, Operand, Scored, slices
from nearfar.similarity.relations import Relation, Tile
from nearfar.similarity.ring import Trip

# Floats of the panel of rows in which an m-th largest is looked for.
PANEL = {"cpu": 1 << 21, "cuda": 1 << 26}


def topk(query: Tensor, operand: Columns, block: int, k: int,
         where: Relation | None) -> tuple[Tensor, Tensor]:
    if k < 1:
        raise InputError(f"k must be at least 1. Got {k}.")
    lead, n = query.shape[:-2], query.shape[-2]
    values = query.new_full((*lead, n, k), -math.inf)
    places = torch.full((*lead, n, k), -1, dtype=torch.long, device=query.device)
    trip = Trip(operand)
    for part in trip:
        with trip.guard():
            for rows, columns in product(slices(n, 1024), part.columns(8192)):
                s = _candidates(query, part, block, rows, columns, where)
                best, at = s.topk(min(k, s.shape[-1]), -1)
                at = torch.where(best == -math.inf, -1, at + columns.start)
                both, index = torch.cat([values[..., rows, :], best], -1), torch.cat([places[..., rows, :], at], -1)
                top, order = both.topk(k, -1)
                values[..., rows, :], places[..., rows, :] = top, index.gather(-1, order)
    return values, places


def _candidates(query: Tensor, operand: Columns, block: int, rows: slice, columns: slice,
                where: Relation | None) -> Tensor:
    """The similarities of a tile, -inf where a pair does not count."""
    s = operand.product(query, rows, columns)
    t = Tile(rows, block, columns, operand.own, query.device, s)
    return s if where is None else torch.where(where.tile(t), s, -math.inf)


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
    lengths = operand.keys.detach().norm(dim=-1)
    most = lengths.amax() if lengths.numel() else lengths.new_zeros(())
    return most if operand.ring is None else operand.ring.most(most)


def nth_largest(query: Tensor, operands: Mapping[int, Columns], m: int | Tensor, where: Relation | None) -> Tensor:
    """Each row's m-th largest similarity in the numbered blocks, (..., N); -inf where it has fewer candidates."""
    if isinstance(m, int) and m < 1:
        raise InputError(f"m must be at least 1. Got {m}.")
    lead, n, width = query.shape[:-2], query.shape[-2], sum(o.width for o in operands.values())
    out = query.new_full((*lead, n), -math.inf)
    if any(o.ring is not None for o in operands.values()):
        return _travelling(query, operands, m, where)
    if not width:
        return out
    each = m.clamp(min=1).expand(*lead, n) if isinstance(m, Tensor) else None
    height = max(1, PANEL.get(query.device.type, 1 << 24) // max(1, width * lead.numel()))
    for rows in slices(n, height):
        s = [_candidates(query, o, b, rows, slice(0, o.width), where) for b, o in operands.items()]
        out[..., rows] = _select(torch.cat(s, -1), m if each is None else each[..., rows])
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


def _travelling(query: Tensor, operands: Mapping[int, Columns], m: int | Tensor, where: Relation | None) -> Tensor:
    """The m-th largest of keys that travel: four bits of it a round, by counting what is at least as large."""
    kind = torch.int64 if query.dtype == torch.float64 else torch.int32
    bits = torch.iinfo(kind)
    found = torch.full((query.shape[0],), bits.min, dtype=kind, device=query.device)
    wanted = torch.as_tensor(m, device=query.device).clamp(min=1).expand(query.shape[0])
    for shift in range(bits.bits - 4, -4, -4):
        limits = torch.stack([found + (j << shift) for j in range(1, 16)], 1)
        counts = torch.zeros_like(limits, dtype=torch.long)
        for block, operand in operands.items():
            trip = Trip(operand)
            for part in trip:
                with trip.guard():
                    _count(query, part, block, where, limits, counts)
        found = found + ((counts >= wanted[:, None]).sum(1) << shift).to(found.dtype)
    value = _ordered(found.view(query.dtype)).view(query.dtype)
    return torch.where(found == bits.min, -math.inf, value)  # no candidate was as large as the least float


def _count(query: Tensor, part: Columns, block: int, where: Relation | None, limits: Tensor, counts: Tensor) -> None:
    """Adds how many similarities are at least each limit of their row."""
    for rows, columns in product(slices(len(query), 512), part.columns(1024)):
        s = _ordered(_candidates(query, part, block, rows, columns, where))
        for j in range(limits.shape[1]):
            counts[rows, j] += (s >= limits[rows, j, None]).sum(1)
