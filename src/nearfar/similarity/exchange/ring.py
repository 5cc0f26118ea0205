"""Keys that travel: every rank keeps its own rows only, and the blocks of keys go round the ranks.

In the backward sweep a block's gradient travels with it and comes home after one round. All ranks take the same number
of steps whatever they hold, and what fails on one of them is raised on all after the round: none waits for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nearfar.similarity.exchange.collectives import fail_together

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Ring:
    """The ranks of a group and how many rows each holds; columns are numbered rank after rank."""

    group: dist.ProcessGroup
    sizes: Sequence[int]

    @property
    def rank(self) -> int:
        return dist.get_rank(self.group)

    @property
    def total(self) -> int:
        return sum(self.sizes)

    def first(self, rank: int) -> int:
        """The number of a rank's first column."""
        return sum(self.sizes[:rank])


class _Passing:
    """One tensor on its way to the next rank, another on its way from the last."""

    def __init__(self, ring: Ring, x: Tensor, rows: int):
        world, self.came = len(ring.sizes), x.new_empty((rows, *x.shape[1:]))
        self.sent, self.work = x.contiguous(), []
        if x.numel():
            to = dist.get_global_rank(ring.group, (ring.rank + 1) % world)
            self.work.append(dist.isend(self.sent, to, group=ring.group))
        if self.came.numel():
            source = dist.get_global_rank(ring.group, (ring.rank - 1) % world)
            self.work.append(dist.irecv(self.came, source, group=ring.group))

    def wait(self) -> Tensor:
        for work in self.work:
            work.wait()
        return self.came


class RingPass(Generic[T_co]):
    """The parts of some keys in the order in which they come by. `part(keys, first)` makes what is handed out of the
    keys that are here and the number of the first of them; keys that do not travel are handed out as `whole`.

    With `gradients`, zeros like the keys go along with them: what is added to `carried` while a part is here comes
    home as `carried` after the round.
    """

    def __init__(
        self,
        ring: Ring | None,
        whole: T_co,
        keys: Tensor | None = None,
        part: Callable[[Tensor, int], T_co] | None = None,
        gradients: bool = False,
    ):
        self.ring, self.whole, self.keys, self.part = ring, whole, keys, part
        self.carried = torch.zeros_like(keys) if gradients and keys is not None else None
        self.problem: Exception | None = None

    def __iter__(self) -> Iterator[T_co]:
        ring, here, part = self.ring, self.keys, self.part
        if ring is None or here is None or part is None:
            yield self.whole
            return
        world = len(ring.sizes)
        for step in range(world):
            source = (ring.rank - step) % world
            coming = (source - 1) % world
            keys = _Passing(ring, here, ring.sizes[coming]) if step < world - 1 else None
            yield part(here, ring.first(source))
            if self.carried is not None:
                self.carried = _Passing(ring, self.carried, ring.sizes[coming]).wait()
            if keys is not None:
                here = keys.wait()
        fail_together(self.problem, ring.group, "{failed} of {world} processes failed in a sweep.")

    @contextmanager
    def guard(self) -> Iterator[None]:
        """What fails inside is raised after the round, on all ranks."""
        try:
            yield
        except Exception as caught:
            if self.ring is None:
                raise
            self.problem = self.problem or caught
