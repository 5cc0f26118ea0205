"""Answers that need no sweep: listed pairs in O(pairs D), sums over everyone or over a class in O((N + M) D), sums
weighted by factors or by a matrix of rank R in O((N + M) D R)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from nearfar.similarity.conjunction import Factors, Terms, product, terms
from nearfar.similarity.reductions import Count, Mean, Reduction, Sum
from nearfar.similarity.relations import Same
from nearfar.similarity.vectors import Vectors

# Inclusion and exclusion takes 2^MOST class sums; more kinds of hidden pairs than this are swept.
MOST = 3


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
    if not len(keys):
        return query.new_zeros(columns.shape)
    return torch.stack([(query * keys[c.clamp(min=0)]).sum(-1) for c in columns.unbind(1)], 1)


def answer(query: Vectors, keys: Vectors, r: Reduction) -> Tensor | None:
    """The reduction of the rows of query @ keys^T over one shared block, or None where it needs a sweep."""
    weight = product(r.weight)
    if r.dim != 1 or r.block != 0 or weight is None:
        return None
    weighted = bool(weight.rows or weight.columns or weight.low_rank)
    t = terms(weight.where if r.where is None else r.where & weight.where)
    if t.nothing:
        return r.finish(r.start(query.shape[:-1], query.bare()))
    equal = [*t.same, *t.different]
    if t.rest or any(x.block != 0 for x in (*t.listed, *t.unlisted)):
        return None
    if any(len(x.columns) != 1 or x.columns[0] is None or x.columns[0].dim() != 1 for x in equal):
        return None
    if t.listed:
        return None if equal or weighted else _listed(query, keys, r, t)
    if type(r) not in (Sum, Mean, Count) or (isinstance(r, Sum) and r.phi is not None) or len(t.different) > MOST:
        return None
    a, b = (x.bare() if isinstance(r, Count) else x.whole for x in (query, keys))
    return _weighted(a, b, r, t, weight) if weighted else _sums(a, b, r, t)


def _listed(query: Vectors, keys: Vectors, r: Reduction, t: Terms) -> Tensor:
    first, *others = (flat(x.columns) for x in t.listed)
    columns = distinct(first)
    mask = columns >= 0
    for other in others:
        mask = mask & among(columns, other)
    for other in t.unlisted:
        mask = mask & ~among(columns, flat(other.columns))
    values = {name: x.unsqueeze(-1) for name, x in r.row_values().items()}
    s = query.new_zeros(*columns.shape) if isinstance(r, Count) else pairs(query.whole, keys.whole, columns)
    return r.finish(r.fold(r.start(query.shape[:-1], s), s, mask, None, **values))


def _sums(query: Tensor, keys: Tensor, r: Reduction, t: Terms) -> Tensor:
    """sum_j S_ij = q_i . sum_j k_j over everyone or a class, less the listed pairs; "different from" by inclusion and
    exclusion over the classes."""
    away = distinct(torch.cat([flat(x.columns) for x in t.unlisted], 1)) if t.unlisted else None
    values = pairs(query, keys, away) if away is not None and not isinstance(r, Count) else None
    count, total = query.new_zeros(()), query.new_zeros(())
    for size in range(len(t.different) + 1):
        for chosen in combinations(t.different, size):
            row, column = _classes([*t.same, *chosen])
            out = None if away is None else _outside(away, row, column)
            sign = -1 if size % 2 else 1
            held = _class_count(query, keys, row, column)
            count = count + sign * (held if out is None else held - out.sum(1).to(held.dtype))
            if isinstance(r, Count):
                continue
            part = _class_total(query, keys, row, column)
            if out is not None and values is not None:
                part = part - torch.where(out, values, 0).sum(1)
            total = total + sign * part
    if isinstance(r, Count):
        return count
    total = torch.where(count > 0, total, 0)
    return total if isinstance(r, Sum) else total / count.clamp(min=1)


def _weighted(query: Tensor, keys: Tensor, r: Reduction, t: Terms, weight: Factors) -> Tensor | None:
    """sum_j W_ij S_ij over everyone or a class: W_ij = r_i c_j, or over everyone also times a_i . b_j + shift.

    Pairs are not taken out again: where little is left, the difference of two sums would hold no digits.
    """
    if t.unlisted or t.different or (weight.low_rank and (t.same or not _worth(query, keys, weight))):
        return None
    ones = keys.new_ones(len(keys)) if weight.column is None else weight.column.to(keys.dtype)
    held = keys if weight.column is None else keys * ones[:, None]
    if weight.low_rank:
        low = weight.low_rank[0]
        a, b = low.a.to(keys.dtype), low.b.to(keys.dtype)
        count = a @ (b * ones[:, None]).sum(0) + low.shift * ones.sum()
        total = ((query @ (held.T @ b)) * a).sum(1) + low.shift * (query @ held.sum(0))
    else:
        row, column = _classes(t.same)
        count = _class_total(query.new_ones((len(query), 1)), ones[:, None], row, column)
        total = _class_total(query, held, row, column)
    if weight.row is not None:
        count, total = count * weight.row, total * weight.row
    if isinstance(r, Count):
        return count
    return total if isinstance(r, Sum) else torch.where(count != 0, total / torch.where(count != 0, count, 1), 0)


def _worth(query: Tensor, keys: Tensor, weight: Factors) -> bool:
    """Whether one matrix of low rank is given, and products over its rank cost less than all pairs."""
    low, n, m = weight.low_rank[0], len(query), len(keys)
    if len(weight.low_rank) > 1 or low.block != 0 or low.a.dim() != 2 or low.b.dim() != 2:
        return False
    rank, dim = low.a.shape[1], query.shape[1]
    return (n + m) * dim * rank < 2 * n * m * (dim + rank)


def _outside(away: Tensor, row: Tensor | None, column: Tensor | None) -> Tensor:
    """Which of the pairs that do not count lie in the row's class."""
    out = away >= 0
    if row is None or column is None or not len(column):
        return out
    return out & (row[:, None] == column[away.clamp(min=0)]) & (row[:, None] > 0)


def _classes(equal: Sequence[Same]) -> tuple[Tensor | None, Tensor | None]:
    """Pairs that agree in all values, as one small number of each row and column from 1 on; 0 where unknown."""
    row, column = None, None
    for x in equal:
        a, b = numbered(x.rows, x.columns[0])
        if row is None or column is None:
            row, column = a, b
            continue
        base = int(max(a.max(), b.max())) + 1 if len(a) and len(b) else 1
        known = (row > 0) & (a > 0), (column > 0) & (b > 0)
        row, column = (torch.where(k, x * base + y, -1) for k, x, y in ((known[0], row, a), (known[1], column, b)))
        row, column = numbered(row, column)
    return row, column


def numbered(rows: Tensor, columns: Tensor | None) -> tuple[Tensor, Tensor]:
    """Values as small numbers from 1 on; 0 stands for unknown."""
    assert columns is not None
    both = torch.cat([rows, columns])
    small = torch.unique(both, return_inverse=True)[1] + 1
    small = torch.where(both >= 0, small, 0)
    return small[: len(rows)], small[len(rows):]


def _most(row: Tensor, column: Tensor) -> int:
    return int(torch.cat([row, column]).max()) + 1 if len(row) + len(column) else 1


def _class_total(query: Tensor, keys: Tensor, row: Tensor | None, column: Tensor | None) -> Tensor:
    if row is None or column is None:
        return query @ keys.sum(0)
    sums = keys.new_zeros((_most(row, column), keys.shape[1])).index_add(0, column, keys)
    return torch.where(row > 0, (query * sums[row]).sum(1), 0)


def _class_count(query: Tensor, keys: Tensor, row: Tensor | None, column: Tensor | None) -> Tensor:
    if row is None or column is None:
        return query.new_full((query.shape[0],), float(keys.shape[0]))
    sizes = torch.bincount(column, minlength=_most(row, column))
    return torch.where(row > 0, sizes[row], 0).to(query.dtype)
