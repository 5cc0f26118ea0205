"""Sentences that stand near each other find each other among past ones of their language (CCP, arXiv 2206.03281).

l(q, k, M) = -log [ e^(q.k/T) / (e^(q.k/T) + sum over n in M of e^(q.n/T)) ]
L = mean over i of [ l(q_c,i, k_s,i, M) + l(q_s,i, k_c,i, M) ] / 2,   M the bank of the row's language; a row counts
once M holds an entry
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from nearfar.errors import InputError
from nearfar.losses.rows import info_nce_rows
from nearfar.similarity import Anchors, Block, ExtraCandidates, Layout, one_way, same


def context_layout(
    queries: Sequence[Tensor], keys: Sequence[Tensor], *, detach_keys: bool = False, **options: Any
) -> Layout:
    """The queries of each of two sides against the keys of the other, each a part of its own; their mean counts, over
    the rows that have a negative.

    queries, keys: of both sides, (n, d) each, else InputError. detach_keys: no gradient through keys. options: of
    `one_way`."""
    _check_sides(queries, keys)
    keys = [k.detach() for k in keys] if detach_keys else keys
    parts = [part for q, k in zip(queries, keys[::-1], strict=True) for part in one_way(q, k, **options).parts]
    return Layout(parts, contrasted=True)


def ccp(
    queries: Sequence[Float[Tensor, "n d"]],
    keys: Sequence[Float[Tensor, "n d"]],
    bank: Float[Tensor, "m d"],
    *,
    languages: Int[Tensor, "n"],
    bank_languages: Int[Tensor, "m"],
    temperature: float | Tensor = 0.1,
    in_batch: bool = False,
    detach_keys: bool = False,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """Contrastive context prediction: the centre's query finds its context's key among the bank, and the other way.

    Args: queries, keys: of centres and of contexts, compared by cosine. bank: past keys of all languages, of which a
        row sees those of its own; no gradient reaches them. in_batch: other rows of the language are negatives as well.
    A row without a negative (its bank is empty) is left out of the mean; 0 where all are. Range [0, inf); log(1 + K)
    where q.k and q.n are all 0. Raises InputError for shapes that do not fit. Source: CCP, IJCAI 2022 (a
    reconstruction)."""

    _check_sides(queries, keys)
    _check_bank(queries[0], bank, languages, bank_languages)

    def extra_candidates(anchors: Anchors) -> ExtraCandidates:
        mine = languages[anchors.items]
        past = Block(bank.detach(), visible=same(mine, bank_languages), gradient=False)
        return ExtraCandidates([past] if len(bank) else [], ~same(mine, anchors.columns(languages)))

    options = {"temperature": temperature, "in_batch": in_batch, "negatives": negatives}
    layout = context_layout(queries, keys, detach_keys=detach_keys, extra_candidates=extra_candidates, **options)
    return layout.loss(info_nce_rows)


def _check_sides(queries: Sequence[Tensor], keys: Sequence[Tensor]) -> None:
    found = [[tuple(x.shape) for x in sides] for sides in (queries, keys)]
    shapes = {shape for sides in found for shape in sides}
    if [len(sides) for sides in found] != [2, 2] or len(shapes) > 1 or any(len(shape) != 2 for shape in shapes):
        raise InputError(f"Queries and keys have two sides each, all of them (n, d). Got queries {found[0]} and keys "
                         f"{found[1]}.")  # fmt: skip


def _check_bank(side: Tensor, bank: Tensor, languages: Tensor, bank_languages: Tensor) -> None:
    (n, d), m = side.shape, len(bank)
    found = [tuple(x.shape) for x in (languages, bank, bank_languages)]
    if found != [(n,), (m, d), (m,)]:
        raise InputError(f"Sides ({n}, {d}) go with languages ({n},), a bank ({m}, {d}) and its languages ({m},). "
                         f"Got {found[0]}, {found[1]} and {found[2]}.")  # fmt: skip


__all__ = ["ccp", "context_layout"]
