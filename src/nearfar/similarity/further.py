"""What a part of negatives is shown of one similarity, and what it may add to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nearfar.similarity.exchange import Exchange
from nearfar.similarity.matrix import Block
from nearfar.similarity.relations import Relation, nobody


@dataclass(frozen=True, eq=False)
class Anchors:
    """The anchors of one similarity, and the candidates that stand in the batch (block 0).

    query: the anchors' vectors (N, D). items: the item of each in this process's batch, (N,).
    partner: the vector of each anchor's positive, (N, D); positive: its column, (N,). batch: the candidates of the
    batch. negative: the pairs of that block that are negatives so far. similarity: "cosine", "dot" or "euclidean".
    """

    query: Tensor
    items: Tensor
    partner: Tensor
    positive: Tensor
    batch: Block
    negative: Relation
    similarity: str
    net: Exchange
    width: int
    repeat: int

    def columns(self, values: Tensor) -> Tensor:
        """Integers of the items of this process's batch, (n,), as values of the block's columns, (M,).

        Columns that belong to no item (further negatives) are -1. Talks to the other processes: call it on all.
        """
        more = values.new_full((max(0, self.width - len(values)),), -1)
        return self.net.gather(torch.cat([values, more])[: self.width])[0].repeat(self.repeat)


@dataclass(frozen=True, eq=False)
class Further:
    """What is added to one similarity.

    blocks: further candidates. hidden: pairs of the batch that are no negatives (a declared positive stays one).
    friends: columns of the batch that are positives as well, (N, P), -1 for none; the loss is then the mean over an
    anchor's 1 + P positives, each against all other candidates (the mean outside the log).
    """

    blocks: Sequence[Block] = ()
    hidden: Relation = nobody
    friends: Tensor | None = None


Extra = Sequence[Block] | Callable[[Anchors], Further]
