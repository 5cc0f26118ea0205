"""A first-in-first-out queue of past keys (MoCo, He et al., CVPR 2020)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nearfar.errors import InputError
from nearfar.negatives.base import Negatives
from nearfar.similarity import Block, Relation, nobody, same
from nearfar.similarity.exchange import exchange


class Queue(Negatives):
    """The last `size` keys of earlier steps as negatives of every anchor.

    Args:
        size: K; how many keys are kept. Paper: 65536 (MoCo), 131072 (Contriever). auto: the largest multiple of the
            batch that is at most a quarter of the samples and 65536, at least four batches.
        in_batch: the other keys of the batch are negatives as well.
        random_start: fill with random unit vectors at first, as MoCo and Contriever do; else unfilled places are
            invisible.

    State (saved and resumed): keys (K, D), marks (K, kinds), step of entry (K,), pointer.
    Raises InputError: a size that is neither "auto" nor a positive number.
    """

    keys: Tensor
    marks: Tensor
    entered: Tensor
    pointer: Tensor
    now: Tensor

    def __init__(self, size: int | Literal["auto"] = "auto", in_batch: bool = True, random_start: bool = False):
        super().__init__()
        if size != "auto" and size < 1:
            raise InputError(f"The size of a queue must be 'auto' or at least 1. Got {size}.")
        self.size, self.in_batch, self.random_start = size, in_batch, random_start
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self.register_buffer("now", torch.zeros((), dtype=torch.long))
        self.register_buffer("keys", torch.empty(0, 0))
        self.register_buffer("marks", torch.empty(0, 0, dtype=torch.long))
        self.register_buffer("entered", torch.empty(0, dtype=torch.long))

    def setup(self, dim: int, kinds: int, batch_size: int, samples: int) -> None:
        if self.size == "auto":
            most = min(samples // 4, 65536) // batch_size * batch_size
            self.size = max(most, 4 * batch_size)
        device, size = self.keys.device, int(self.size)
        start = torch.randn(size, dim, device=device) if self.random_start else torch.zeros(size, dim, device=device)
        self.keys = torch.nn.functional.normalize(start, dim=1)
        self.marks = torch.full((size, kinds), -1, dtype=torch.long, device=device)
        self.entered = torch.full((size,), 0 if self.random_start else -1, dtype=torch.long, device=device)

    @property
    def filled(self) -> Tensor:
        """Which places hold a key, bool (K,)."""
        return self.entered >= 0

    @property
    def age(self) -> Tensor:
        """Steps since each key entered, (K,); -1 where unfilled."""
        return torch.where(self.filled, self.now - self.entered, -1)

    def blocks(self, items: Tensor, marks: Tensor) -> list[Block]:
        held = self.filled
        keys, stored = self.keys[held], self.marks[held]  # copies: the queue moves on before the backward pass
        known: Relation = nobody
        for kind in range(marks.shape[1]):
            known = known | same(marks[items, kind], stored[:, kind])
        return [Block(keys, visible=~known, gradient=False)] if len(keys) else []

    @torch.no_grad()
    def update(self, keys: Tensor, marks: Tensor) -> None:
        net = exchange("global")
        keys, marks = net.gather(keys.detach())[0], net.gather(marks)[0]
        self.now += 1
        keys, marks = keys[-len(self.keys):], marks[-len(self.keys):]
        places = (self.pointer + torch.arange(len(keys), device=keys.device)) % len(self.keys)
        self.keys[places] = keys.to(self.keys.dtype)
        self.marks[places] = marks
        self.entered[places] = self.now
        self.pointer.copy_((self.pointer + len(keys)) % len(self.keys))
