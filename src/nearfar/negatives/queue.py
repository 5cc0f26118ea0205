"""A first-in-first-out queue of past keys (MoCo, He et al., CVPR 2020)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nearfar.checks import PositiveInt, UnitInterval
from nearfar.errors import InputError
from nearfar.negatives.base import Items, Negatives, known_pairs
from nearfar.similarity import Anchors, Block, ExtraCandidates, Relation, same
from nearfar.similarity.exchange import exchange


def auto_size(batch_size: int, samples: int, steps: int | None = None) -> int:
    """The largest multiple of the batch that is at most a quarter of the samples, 65536 and what enters in 1/300 of the
    run; at least two batches. In a short run older keys are of another network (docs/reproducibility.md). steps None:
    keys that are no negatives, whatever their age."""
    most = min(samples // 4, 65536) // batch_size
    return max(2, most if steps is None else min(most, steps // 300)) * batch_size


class Queue(Negatives):
    """The last `size` keys of earlier steps as negatives of every anchor.

    Args:
        size: K; how many keys are kept. Paper: 65536 (MoCo), 131072 (Contriever). auto: the largest multiple of the
            batch that is at most a quarter of the samples, 65536 and what enters in 1/300 of the run; at least two
            batches.
        in_batch: the other keys of the batch are negatives as well.
        random_start: fill with random unit vectors at first, as MoCo and Contriever do; else unfilled places are
            invisible.

    State (saved and resumed): keys (K, D), item_identities (K, identity_kinds), negative_groups (K,), step of entry
    (K,), pointer.
    Raises InputError: a size that is neither "auto" nor a positive number.
    """

    no_group = -1  # of keys of items that are of none
    keys: Tensor
    item_identities: Tensor
    negative_groups: Tensor
    entered: Tensor
    pointer: Tensor
    now: Tensor

    def __init__(self, size: PositiveInt | Literal["auto"] = "auto", in_batch: bool = True, random_start: bool = False):
        super().__init__()
        self.size: int | Literal["auto"] = size
        self.in_batch, self.random_start = in_batch, random_start
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self.register_buffer("now", torch.zeros((), dtype=torch.long))
        self.register_buffer("keys", torch.empty(0, 0))
        self.register_buffer("item_identities", torch.empty(0, 0, dtype=torch.long))
        self.register_buffer("negative_groups", torch.empty(0, dtype=torch.long))
        self.register_buffer("entered", torch.empty(0, dtype=torch.long))

    def setup(self, dim: int, identity_kinds: int, batch_size: int, samples: int, steps: int | None = None) -> None:
        size = auto_size(batch_size, samples, steps) if self.size == "auto" else self.size
        self.allocate(size, dim, identity_kinds)

    def allocate(self, size: int, dim: int, identity_kinds: int) -> None:
        """Room for so many keys, none of them there yet."""
        self.keys = torch.empty(size, dim, device=self.keys.device)
        self.item_identities = torch.empty(size, identity_kinds, dtype=torch.long, device=self.keys.device)
        self.reset()

    def reset(self) -> None:
        size, dim = self.keys.shape
        device, held = self.keys.device, 0 if self.random_start else -1
        start = torch.randn(size, dim, device=device) if self.random_start else torch.zeros(size, dim, device=device)
        self.keys = torch.nn.functional.normalize(start, dim=1)
        self.item_identities = torch.full_like(self.item_identities, -1)
        self.negative_groups = torch.full((size,), -1, dtype=torch.long, device=device)
        self.entered = torch.full((size,), held, dtype=torch.long, device=device)
        self.pointer.zero_()
        self.now.zero_()

    @property
    def capacity(self) -> int:
        return len(self.keys)

    @property
    def filled(self) -> Tensor:
        """Which places hold a key, bool (K,)."""
        return self.entered >= 0

    @property
    def age(self) -> Tensor:
        """Steps since each key entered, (K,); -1 where unfilled."""
        return torch.where(self.filled, self.now - self.entered, -1)

    def memory(self, anchors: Anchors, items: Items) -> Block | None:
        """The keys that are there and who may see them; None while there is none."""
        held = self.filled
        keys, stored = (
            self.keys[held],
            self.item_identities[held],
        )  # copies: the queue moves on before the backward pass
        visible: Relation = ~known_pairs(anchors.items, items, stored)
        if items.negative_groups is not None:
            visible = visible & same(items.negative_groups[anchors.items], self.negative_groups[held])
        return Block(keys, visible=visible, gradient=False) if len(keys) else None

    def extra_candidates(self, anchors: Anchors, items: Items) -> ExtraCandidates:
        block = self.memory(anchors, items)
        return ExtraCandidates([] if block is None else [block])

    def places(self, groups: Tensor) -> tuple[slice | Tensor, Tensor]:
        """Which of the keys of these groups (n,) stay, and where they go: behind the last one, over the oldest; those
        that a later one of the same call would overwrite do not stay. Moves the pointer."""
        size = len(self.keys)
        stay = min(len(groups), size)
        places = (self.pointer + torch.arange(stay, device=groups.device)) % size
        self.pointer.copy_((self.pointer + stay) % size)
        return slice(len(groups) - stay, None), places

    @torch.no_grad()
    def update(self, keys: Tensor, items: Items) -> None:
        net, groups = exchange("global"), items.negative_groups
        groups = items.rows.new_full((len(keys),), self.no_group) if groups is None else groups
        keys, item_identities, groups = (net.gather(x)[0] for x in (keys.detach(), items.stored, groups))
        self.now += 1
        kept, places = self.places(groups)
        self.keys[places] = keys[kept].to(self.keys.dtype)
        self.item_identities[places] = item_identities[kept]
        self.negative_groups[places] = groups[kept]
        self.entered[places] = self.now


class CrossBatch(Queue, name="cross-batch"):
    """The student's own embeddings of the last steps as negatives of every anchor (cross-batch memory, XBM): they
    drift slowly once the first steps are over, so no teacher is needed.

    Args:
        size: how many embeddings are kept. Paper: up to the whole training set. auto: as in `queue`.
        start: share of the run before the memory is used; it fills in the meantime.
        in_batch: the other keys of the batch are negatives as well.

    Source: Wang et al., CVPR 2020. Its positives in the memory (labels) are hidden here, not attracted.
    Raises InputError: a size that is neither "auto" nor a positive number, a start outside [0, 1].
    """

    own_keys = True

    def __init__(self, size: PositiveInt | Literal["auto"] = "auto", start: UnitInterval = 0.1, in_batch: bool = True):
        super().__init__(size, in_batch)
        self.start = start

    def extra_candidates(self, anchors: Anchors, items: Items) -> ExtraCandidates:
        return super().extra_candidates(anchors, items) if items.step >= self.start * items.steps else ExtraCandidates()


class GroupQueue(Queue, name="group-queue"):
    """One queue of `size` keys for each negative group (language, domain...), so that none is crowded out by another.

    An anchor sees the keys of its own group alone.

    Args:
        size: K; how many keys of each group are kept. auto: as in `queue`, for a group of mean size.
        groups: how many groups there are; they are numbered from 0.
        in_batch: the other keys of the batch that are of the same group are negatives as well.

    Raises InputError, at `update`, for a group that is not there.
    """

    no_group = 0

    def __init__(self, size: PositiveInt | Literal["auto"] = "auto", groups: PositiveInt = 1, in_batch: bool = True):
        super().__init__(size, in_batch)
        self.groups = groups

    def setup(self, dim: int, identity_kinds: int, batch_size: int, samples: int, steps: int | None = None) -> None:
        each = self.size if self.size != "auto" else auto_size(batch_size, samples // self.groups, steps)
        self.pointer = torch.zeros(self.groups, dtype=torch.long, device=self.keys.device)
        self.allocate(each * self.groups, dim, identity_kinds)

    def places(self, groups: Tensor) -> tuple[slice | Tensor, Tensor]:
        """As of a queue, behind the last one of their group."""
        if len(groups) and not bool(((groups >= 0) & (groups < self.groups)).all()):
            raise InputError(f"Keys are of the groups {groups.unique().tolist()}, and there are {self.groups} queues.",
                             "Say how many groups there are: --negatives.groups.")  # fmt: skip
        each = len(self.keys) // self.groups
        ones = (groups[:, None] == torch.arange(self.groups, device=groups.device)).long()
        rank = (ones.cumsum(0) - 1).gather(1, groups[:, None])[:, 0]
        counts = ones.sum(0)
        places = groups * each + (self.pointer[groups] + rank) % each
        self.pointer.copy_((self.pointer + counts) % each)
        stay = rank >= counts[groups] - each
        return stay, places[stay]
