"""Contrast of dialogues by how far their annotation trees agree, view by view (SPACE-2, COLING 2022).

f_k(x, y) = |E_k(x) & E_k(y)| / |E_k(x) | E_k(y)|,  E_k: the ten sets of a tree (`nearfar.sources.trees.VIEWS`)
loss_k = -(t / 0.07) mean_a sum_{b != a} w_ab log softmax_{c != a}(z_a . z_b / t) / sum_{b != a} w_ab,  w = f_k
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import InputError
from nearfar.similarity import accumulated, check_temperature, normalise
from nearfar.similarity.answer.numerics import full_precision
from nearfar.similarity.exchange import exchange

Sets = Sequence[frozenset[Any]]
BASE = 0.07  # the temperature at which the loss has the size of SupCon's


def jaccard(sets: Sets, others: Sets | None = None) -> Float[Tensor, "n m"]:
    """|A & B| / |A | B| of each two sets, in [0, 1], 0 where both are empty; others: None, the same sets. float32.

    Of a whole data set by blocks of rows: `jaccard(sets[a:b], sets)`. Source: SPACE-2, one view of its score.
    """
    number: dict[Any, int] = {}
    a = _members(sets, number)
    b = a if others is None else _members(others, number)
    a, b = (torch.cat([x, x.new_zeros(len(x), len(number) - x.shape[1])], 1) for x in (a, b))
    both = a @ b.T
    union = a.sum(1)[:, None] + b.sum(1)[None] - both
    return both / union.clamp(min=1)


def _members(sets: Sets, number: dict[Any, int]) -> Tensor:
    """(n, elements): 1 where a set holds an element; new elements are added to their numbers."""
    places = [(row, number.setdefault(one, len(number))) for row, held in enumerate(sets) for one in held]
    found = torch.zeros(len(sets), len(number))
    if places:
        found[tuple(torch.tensor(places).T)] = 1
    return found


def tree_scores(trees: Sequence[Sets], others: Sequence[Sets] | None = None) -> Float[Tensor, "k n m"]:
    """M_k of each view: `jaccard` of the sets of each two trees. Without `others` symmetric, and 1 on the diagonal,
    so that a dialogue without a tree finds itself alone. In [0, 1].

    trees: of each dialogue its k sets (`nearfar.sources.trees.tree_elements`). Source: SPACE-2, multi-view scores.
    """
    views = range(len(trees[0]) if trees else 0)
    found = torch.stack([
        jaccard([tree[k] for tree in trees], None if others is None else [tree[k] for tree in others]) for k in views
    ])  # fmt: skip
    if others is None:
        found.diagonal(dim1=1, dim2=2).fill_(1)
    return found


def mean_score(trees: Sequence[Sets], others: Sequence[Sets] | None = None) -> Float[Tensor, "n m"]:
    """The mean of f_k over the views in which either tree has an element, 0 where there is none: one score in place of
    ten, in [0, 1]; without `others` symmetric and 1 on the diagonal (two trees without elements, which SPACE-2 takes
    for equal, agree in nothing here). Source: SPACE-2, its variant without heads."""
    columns = trees if others is None else others
    total, count = (torch.zeros(len(trees), len(columns)) for _ in range(2))
    for k in range(len(trees[0]) if trees else 0):
        a, b = [tree[k] for tree in trees], [tree[k] for tree in columns]
        total += jaccard(a, b)
        count += torch.tensor([bool(x) for x in a])[:, None] | torch.tensor([bool(x) for x in b])[None]
    found = total / count.clamp(min=1)
    if others is None:
        found.fill_diagonal_(1)
    return found


def tree_contrast(
    views: Float[Tensor, "v n k d"],
    scores: Float[Tensor, "k n m"],
    *,
    temperature: float = 0.07,
    base: float = BASE,
    negatives: str = "local",
) -> Float[Tensor, "k"]:
    """The loss of each head k: every row of every view finds all others by their score. In [0, inf); 0 for one dialogue
    in two views.

    views: v passes of n dialogues through k heads, compared by cosine. scores: weights w >= 0 of each two dialogues (m:
    those of all processes), the own one among them (1: the row's other views); the loss is unchanged where a row of
    weights is multiplied. An identity gives NT-Xent, blocks of ones SupCon, times t / base. A row whose weights are all
    0 gives 0. Half precision is computed in float32. Raises InputError for other shapes, weights below 0 or not finite.
    Source: SPACE-2, weighted supervised contrast; the factor is the official code's.
    """
    net = exchange(negatives)
    with net.together():
        _check(views, scores, temperature, alone=net.group is None)
    with full_precision(views.device):
        x = accumulated(views)
        rows = normalise(x.flatten(0, -2)).view(x.shape).permute(1, 0, 2, 3)
        every, first = net.gather(rows)
        anchors, keys = (part.permute(2, 1, 0, 3).flatten(1, 2) for part in (rows, every))
        own = torch.arange(len(rows), device=x.device) + first
        v, m = len(x), len(every)
        places = (torch.arange(v, device=x.device)[:, None] * m + own).view(-1, 1)
        itself = torch.arange(v * m, device=x.device)[None] == places
        s = anchors @ keys.transpose(1, 2) / temperature
        log_p = s.masked_fill(itself & (v * m > 1), -torch.inf).log_softmax(2).masked_fill(itself, 0)
        weight = scores.to(s).repeat(1, v, v).masked_fill(itself, 0)
        pulled = (weight * log_p).sum(2) / weight.sum(2).clamp(min=torch.finfo(s.dtype).tiny)
        return -temperature / base * net.sum(pulled.sum(1)) / max(1, v * m)


def _check(views: Tensor, scores: Tensor, temperature: float, alone: bool) -> None:
    if views.dim() != 4 or scores.dim() != 3 or scores.shape[:2] != (views.shape[2], views.shape[1]) or (
        alone and scores.shape[2] != views.shape[1]
    ):  # fmt: skip
        raise InputError("Views must be (v, n, k, d) and scores (k, n, n). "
                         f"Got {tuple(views.shape)} and {tuple(scores.shape)}.")  # fmt: skip
    if not bool((scores >= 0).all() and scores.isfinite().all()):
        raise InputError("A score is a finite number of 0 or more.")
    check_temperature(temperature)


__all__ = ["jaccard", "mean_score", "tree_contrast", "tree_scores"]
