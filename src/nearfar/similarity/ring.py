"""Keys that travel: every rank keeps its own rows only, and the blocks of keys go round the ranks.

In the backward sweep a block's gradient travels with it and comes home after one round. All ranks take the same number
of steps whatever they hold, and what fails on one of them is raised on all after the round: none waits for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nearfar.errors import InputError
from nearfar.similarity.operands import Columns, Operand


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

    def most(self, x: Tensor) -> Tensor:
        """The largest x of all ranks, element by element."""
        x = x.clone()
        dist.all_reduce(x, dist.ReduceOp.MAX, group=self.group)
        return x

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all ranks."""
        x = x.clone()
        dist.all_reduce(x, group=self.group)
        return x

    def any(self, flag: bool) -> bool:
        """Whether it holds on any rank."""
        device = torch.device("cuda") if dist.get_backend(self.group) == "nccl" else torch.device("cpu")
        return bool(self.most(torch.tensor(float(flag), device=device)))


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


class Trip:
    """The parts of an operand in the order in which they come by; an operand that does not travel is one part.

    With `gradients`, zeros like the keys go along with them: what is added to `carried` while a part is here comes
    home as `carried` after the trip.
    """

    def __init__(self, operand: Columns, gradients: bool = False):
        self.operand, self.ring = operand, operand.ring
        self.carried = torch.zeros_like(operand.keys) if gradients and isinstance(operand, Operand) else None
        self.problem: Exception | None = None

    def __iter__(self) -> Iterator[Any]:
        ring = self.ring
        if ring is None or not isinstance(self.operand, Operand):
            yield self.operand
            return
        world, here = len(ring.sizes), self.operand.keys
        for step in range(world):
            source = (ring.rank - step) % world
            coming = (source - 1) % world
            keys = _Passing(ring, here, ring.sizes[coming]) if step < world - 1 else None
            yield replace(self.operand.given([here]), ring=None, first=ring.first(source))
            if self.carried is not None:
                self.carried = _Passing(ring, self.carried, ring.sizes[coming]).wait()
            if keys is not None:
                here = keys.wait()
        self._settle(ring, self.operand.keys.device)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """What fails inside is raised after the round, on all ranks."""
        try:
            yield
        except Exception as caught:
            if self.ring is None:
                raise
            self.problem = self.problem or caught

    def _settle(self, ring: Ring, device: torch.device) -> None:
        failed = torch.tensor([0.0 if self.problem is None else 1.0], device=device)
        dist.all_reduce(failed, group=ring.group)
        if self.problem is not None:
            raise self.problem
        if failed.item():
            raise InputError(f"{int(failed.item())} of {len(ring.sizes)} processes failed in a sweep.",
                             "Their own messages say why.")


def refuse(operand: Columns, what: str) -> None:
    """Raises where a question needs all keys in one place."""
    if operand.ring is not None:
        raise InputError(f"{what} needs the keys of all processes at once, but here they travel.",
                         'Use `with nearfar.similarity.exchange_plan("gather"):`.')
