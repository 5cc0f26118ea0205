"""Answers that need no sweep: listed pairs in O(pairs D), sums over everyone or over a class in O((N + M) D)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nearfar.similarity.reductions import Count, Mean, Reduction, Sum
from nearfar.similarity.relations import Both, Constant, Listed, Not, Relation, Same


@dataclass
class Terms:
    """A conjunction taken apart: pairs that are listed, pairs that are not, one class, and whatever else."""

    listed: list[Listed]
    unlisted: list[Listed]
    same: list[Same]
    rest: list[Relation]


def terms(where: Relation | None) -> Terms:
    out = Terms([], [], [], [])
    stack = [] if where is None else [where]
    while stack:
        r = stack.pop()
        if isinstance(r, Both):
            stack += [r.a, r.b]
        elif isinstance(r, Listed):
            out.listed.append(r)
        elif isinstance(r, Not) and isinstance(r.other, Listed):
            out.unlisted.append(r.other)
        elif isinstance(r, Same):
            out.same.append(r)
        elif not (isinstance(r, Constant) and r.value):
            out.rest.append(r)
    return out


def flat(columns: Tensor) -> Tensor:
    return columns if columns.dim() == 2 else columns[:, None]


def distinct(columns: Tensor) -> Tensor:
    """(N, P) with -1 in place of every repetition within a row."""
    columns = columns.sort(1).values
    again = torch.zeros_like(columns, dtype=torch.bool)
    again[:, 1:] = columns[:, 1:] == columns[:, :-1]
    return torch.where(again, -1, columns)


def among(columns: Tensor, listed: Tensor) -> Tensor:
    """Which of the (N, P) columns stand in the row's own list (N, R)."""
    found = torch.zeros_like(columns, dtype=torch.bool)
    for r in range(listed.shape[1]):
        found |= columns == listed[:, r, None]
    return found


def pairs(query: Tensor, keys: Tensor, columns: Tensor) -> Tensor:
    """S of row i and columns[i, p], one p at a time: O(N D) memory."""
    return torch.stack([(query * keys[c.clamp(min=0)]).sum(-1) for c in columns.unbind(1)], 1)


def answer(query: Tensor, keys: Tensor, r: Reduction) -> Tensor | None:
    """The reduction of query @ keys^T over one shared block, or None where it needs a sweep."""
    if r.dim != 1 or r.weight is not None or r.block != 0:
        return None
    t = terms(r.where)
    if t.rest or any(x.block != 0 for x in (*t.listed, *t.unlisted)):
        return None
    if t.listed:
        return None if t.same else _listed(query, keys, r, t)
    if type(r) not in (Sum, Mean, Count) or (isinstance(r, Sum) and r.phi is not None) or len(t.same) > 1:
        return None
    if t.same and (len(t.same[0].columns) != 1 or t.same[0].columns[0] is None):
        return None
    return _sums(query, keys, r, t)


def _listed(query: Tensor, keys: Tensor, r: Reduction, t: Terms) -> Tensor:
    first, *others = (flat(x.columns) for x in t.listed)
    columns = distinct(first)
    mask = columns >= 0
    for other in others:
        mask = mask & among(columns, other)
    for other in t.unlisted:
        mask = mask & ~among(columns, flat(other.columns))
    values = {name: x.unsqueeze(-1) for name, x in r.row_values().items()}
    s = pairs(query, keys, columns)
    return r.finish(r.fold(r.start(query.shape[:-1], query), s, mask, None, **values))


def _sums(query: Tensor, keys: Tensor, r: Reduction, t: Terms) -> Tensor:
    """sum_j S_ij = q_i . sum_j k_j over everyone, or over the class of row i, less the listed pairs."""
    n = query.shape[0]
    row, column = None, None
    if t.same:
        row, column = _classes(t.same[0].rows, t.same[0].columns[0])
    away = distinct(torch.cat([flat(x.columns) for x in t.unlisted], 1)) if t.unlisted else None
    out = None
    if away is not None:
        out = away >= 0
        if row is not None and column is not None:
            out = out & (row[:, None] == column[away.clamp(min=0)]) & (row[:, None] > 0)
    count = _class_count(query, keys, row, column)
    if out is not None:
        count = count - out.sum(1).to(count.dtype)
    if isinstance(r, Count):
        return count
    if row is None or column is None:
        total = query @ keys.sum(0)
    else:
        sums = keys.new_zeros((int(max(row.max(), column.max())) + 1 if n and len(column) else 1, keys.shape[1]))
        sums = sums.index_add(0, column, keys)
        total = torch.where(row > 0, (query * sums[row]).sum(1), 0)
    if away is not None and out is not None:
        total = total - torch.where(out, pairs(query, keys, away), 0).sum(1)
    total = torch.where(count > 0, total, 0)
    return total if isinstance(r, Sum) else total / count.clamp(min=1)


def _classes(rows: Tensor, columns: Tensor | None) -> tuple[Tensor, Tensor]:
    """Values as small numbers from 1 on; 0 stands for unknown."""
    assert columns is not None
    both = torch.cat([rows, columns])
    small = torch.unique(both, return_inverse=True)[1] + 1
    small = torch.where(both >= 0, small, 0)
    return small[: len(rows)], small[len(rows):]


def _class_count(query: Tensor, keys: Tensor, row: Tensor | None, column: Tensor | None) -> Tensor:
    if row is None or column is None:
        return query.new_full((query.shape[0],), float(keys.shape[0]))
    most = int(max(row.max(), column.max())) + 1 if len(row) and len(column) else 1
    sizes = torch.bincount(column, minlength=most)
    return torch.where(row > 0, sizes[row.clamp(max=most - 1)], 0).to(query.dtype)
