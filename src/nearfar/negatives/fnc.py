"""False negative cancellation (Huynh et al., WACV 2022): probable positives leave the negatives, or are attracted."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.checks import PositiveInt, UnitInterval, one_of
from nearfar.negatives.base import Items, Negatives
from nearfar.similarity import Anchors, Block, ExtraCandidates, Relation, Similarity, everyone, listed


def false_negatives(
    support: Float[Tensor, "n d"],
    candidates: Float[Tensor, "m d"] | Block,
    count: int,
    *,
    threshold: float = -math.inf,
    where: Relation = everyone,
    similarity: str = "cosine",
) -> Int[Tensor, "n count"]:
    """The columns of the `count` candidates most similar to each anchor's support view, at least `threshold`;
    -1 where there are fewer. Detached. Source: Huynh et al., sec. 3.2 with a support set of one view."""
    block = candidates if isinstance(candidates, Block) else Block(candidates)
    s = Similarity(support.detach(), replace(block, visible=everyone, gradient=False), similarity=similarity)
    scores, columns = s.topk(count, where=where)
    return torch.where(scores >= threshold, columns, -1)


class FNC(Negatives):
    """The candidates of the batch that are most similar to another view of the anchor (its positive) are probably of
    its kind: they are no negatives (eliminate), or positives as well (attract).

    Args:
        count: k; candidates that are taken for false negatives. Paper: 10 of 4096.
        strategy: eliminate takes them out of the negatives; attract makes them further positives, the mean over an
            anchor's positives outside the log.
        threshold: only candidates with at least this similarity to the support view.
        start: share of the run before it begins; an untrained encoder says nothing about kinds.

    Support set: the anchor's positive alone (the paper adds further views). Curve: `cancelled`, pairs an anchor.
    Raises InputError: counts below 1, a start outside [0, 1], an unknown strategy.
    """

    def __init__(
        self,
        count: PositiveInt = 1,
        strategy: Literal["eliminate", "attract"] = "eliminate",
        threshold: float = 0.5,
        start: UnitInterval = 0.2,
    ):
        super().__init__()
        one_of("strategy", strategy, ("eliminate", "attract"))
        self.count, self.strategy, self.threshold, self.start = count, strategy, threshold, start
        self.cancelled = 0.0

    def extra_candidates(self, anchors: Anchors, items: Items) -> ExtraCandidates:
        self.cancelled = 0.0
        if items.step < self.start * items.steps:
            return ExtraCandidates()
        found = false_negatives(
            anchors.partner,
            anchors.batch,
            self.count,
            threshold=self.threshold,
            where=anchors.negative,
            similarity=anchors.similarity,
        )
        self.cancelled = float((found >= 0).sum(1).float().mean())
        return (
            ExtraCandidates(extra_positives=found)
            if self.strategy == "attract"
            else ExtraCandidates(excluded=listed(found))
        )

    def terms(self, s) -> dict[str, Tensor | float]:
        return {"cancelled": self.cancelled}
