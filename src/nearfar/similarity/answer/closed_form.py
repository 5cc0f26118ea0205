"""Answers that need no sweep: listed pairs in O(pairs D), sums over everyone or over a class in O((N + M) D), sums
weighted by factors or by a matrix of rank R in O((N + M) D R)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor

from nearfar.similarity.answer.classes import all_listed, among, classes, distinct, how_many, inside, sizes
from nearfar.similarity.answer.normal_form import Factors, Terms
from nearfar.similarity.answer.numerics import quotient
from nearfar.similarity.answer.vectors import Vectors
from nearfar.similarity.reductions import Count, Reduction, Sum


def nothing(query: Vectors, r: Reduction) -> Tensor:
    """The answer where no pair counts."""
    return r.finish(r.start(query.shape[:-1], query.bare()))


def listed(query: Vectors, keys: Vectors, r: Reduction, t: Terms) -> Tensor:
    """Any reduction over the pairs of one list, less those that other conditions leave out."""
    first, *others = (x.listed for x in t.listed)
    columns = distinct(first)
    mask = columns >= 0
    for other in others:
        mask = mask & among(columns, other)
    for other in t.unlisted:
        mask = mask & ~among(columns, other.listed)
    values = {name: x.unsqueeze(-1) for name, x in r.row_values().items()}
    s = query.new_zeros(*columns.shape) if isinstance(r, Count) else _pairs(query.whole, keys.whole, columns)
    return r.finish(r.fold(r.start(query.shape[:-1], s), s, mask, None, **values))


def summed(query: Vectors, keys: Vectors, r: Reduction, t: Terms) -> Tensor:
    """sum_j S_ij = q_i . sum_j k_j over everyone or a class, less the listed pairs; "different from" by inclusion and
    exclusion over the classes."""
    if isinstance(r, Count):
        return _count(query, keys, t)
    q, k = query.whole, keys.whole
    away = all_listed(t.unlisted)
    values = None if away is None else _pairs(q, k, away)
    count, total = q.new_zeros(()), q.new_zeros(())
    for sign, row, column in _included(t):
        count = count + sign * _class_count(query, keys, row, column, away)
        part = _class_total(q, k, row, column)
        if away is not None and values is not None:
            part = part - torch.where(_outside(away, row, column), values, 0).sum(1)
        total = total + sign * part
    total = torch.where(count > 0, total, 0)
    return total if isinstance(r, Sum) else total / count.clamp(min=1)


def weighted(query: Vectors, keys: Vectors, r: Reduction, t: Terms, weight: Factors) -> Tensor:
    """sum_j W_ij S_ij over everyone or a class: W_ij = r_i c_j, or over everyone also times a_i . b_j + shift."""
    q, k = (x.bare() if isinstance(r, Count) else x.whole for x in (query, keys))
    ones = k.new_ones(len(k)) if weight.column is None else weight.column.to(k.dtype)
    held = k if weight.column is None else k * ones[:, None]
    if weight.low_rank:
        low = weight.low_rank[0]
        a, b = low.a.to(k.dtype), low.b.to(k.dtype)
        count = a @ (b * ones[:, None]).sum(0) + low.shift * ones.sum()
        total = ((q @ (held.T @ b)) * a).sum(1) + low.shift * (q @ held.sum(0))
    else:
        row, column = classes(t.same)
        count = _class_total(q.new_ones((len(q), 1)), ones[:, None], row, column)
        total = _class_total(q, held, row, column)
    if weight.row is not None:
        count, total = count * weight.row, total * weight.row
    if isinstance(r, Count):
        return count
    return total if isinstance(r, Sum) else quotient(total, count)


def _count(query: Vectors, keys: Vectors, t: Terms) -> Tensor:
    away, count = all_listed(t.unlisted), query.new_zeros()
    for sign, row, column in _included(t):
        count = count + sign * _class_count(query, keys, row, column, away)
    return count


def _pairs(query: Tensor, keys: Tensor, columns: Tensor) -> Tensor:
    """S of row i and columns[i, p], one p at a time: O(N D) memory."""
    if not len(keys):
        return query.new_zeros(columns.shape)
    return torch.stack([(query * keys[c.clamp(min=0)]).sum(-1) for c in columns.unbind(1)], 1)


def _included(t: Terms) -> Iterator[tuple[int, Tensor | None, Tensor | None]]:
    """The classes of inclusion and exclusion: sign, numbers of the rows and of the columns (None: everyone)."""
    for size in range(len(t.different) + 1):
        for chosen in combinations(t.different, size):
            yield -1 if size % 2 else 1, *classes([*t.same, *chosen])


def _outside(away: Tensor, row: Tensor | None, column: Tensor | None) -> Tensor:
    """Which of the pairs that do not count lie in the row's class."""
    return away >= 0 if row is None or column is None else inside(away, row, column)


def _class_total(query: Tensor, keys: Tensor, row: Tensor | None, column: Tensor | None) -> Tensor:
    if row is None or column is None:
        return query @ keys.sum(0)
    sums = keys.new_zeros((how_many(row, column), keys.shape[1])).index_add(0, column, keys)
    return torch.where(row > 0, (query * sums[row]).sum(1), 0)


def _class_count(
    query: Vectors, keys: Vectors, row: Tensor | None, column: Tensor | None, away: Tensor | None
) -> Tensor:
    """How many columns the class of each row has, less those that do not count."""
    if row is None or column is None:
        held = query.new_zeros(len(query)) + len(keys)
    else:
        held = sizes(row, column, how_many(row, column)).to(query.dtype)
    return held if away is None else held - _outside(away, row, column).sum(1).to(held.dtype)
