"""Sentences that stand near each other find each other among past ones of their language (CCP, arXiv 2206.03281).

l(q, k, M) = -log [ e^(q.k/T) / (e^(q.k/T) + sum over n in M of e^(q.n/T)) ]
L = mean over i of [ l(q_c,i, k_s,i, M) + l(q_s,i, k_c,i, M) ] / 2,   M the bank of the row's language
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from nearfar.losses.rows import info_nce_rows
from nearfar.similarity import Anchors, Block, ExtraCandidates, Layout, one_way, same


def context_layout(
    queries: Sequence[Tensor], keys: Sequence[Tensor], *, detach_keys: bool = False, **options: Any
) -> Layout:
    """The queries of each of two sides against the keys of the other, each a part of its own; their mean counts.

    queries, keys: of both sides, (n, d) each. detach_keys: no gradient through keys. options: of `one_way`."""
    keys = [k.detach() for k in keys] if detach_keys else keys
    return Layout([part for q, k in zip(queries, keys[::-1], strict=True) for part in one_way(q, k, **options).parts])


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
    A row whose bank is empty gives 0. Range [0, inf); log(1 + K) where q.k and q.n are all 0. Source: CCP, IJCAI 2022
    (a reconstruction)."""

    def extra_candidates(anchors: Anchors) -> ExtraCandidates:
        mine = languages[anchors.items]
        past = Block(bank.detach(), visible=same(mine, bank_languages), gradient=False)
        return ExtraCandidates([past] if len(bank) else [], ~same(mine, anchors.columns(languages)))

    options = {"temperature": temperature, "in_batch": in_batch, "negatives": negatives}
    layout = context_layout(queries, keys, detach_keys=detach_keys, extra_candidates=extra_candidates, **options)
    return layout.loss(info_nce_rows)


__all__ = ["ccp", "context_layout"]
