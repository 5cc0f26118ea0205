"""Anchors of a small batch, as a layout shows them to a part of negatives."""

import torch

from nearfar.negatives import Items
from nearfar.similarity import Anchors, Block, everyone, listed
from nearfar.similarity.exchange import exchange


def items(item_identities, rows=None, negative_groups=None, step=0, steps=100, seed=0):
    item_identities = torch.as_tensor(item_identities)
    rows = torch.arange(len(item_identities)) if rows is None else torch.as_tensor(rows)
    return Items(
        rows, item_identities, None if negative_groups is None else torch.as_tensor(negative_groups), step, steps, seed
    )


def anchors(query, which=None, similarity="cosine"):
    which = torch.arange(len(query)) if which is None else torch.as_tensor(which)
    positive = torch.arange(len(query))
    return Anchors(
        query,
        which,
        query,
        positive,
        Block(query),
        everyone & ~listed(positive),
        similarity,
        exchange("global"),
        len(query),
        1,
    )
