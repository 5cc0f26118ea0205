"""Numbers of all ranks of a group. `group` None is this process alone: nothing is sent."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nearfar.errors import InputError

Group = dist.ProcessGroup | None


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return total(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        return total(grads[0], ctx.group), None


def all_sum(x: Tensor, group: Group) -> Tensor:
    """The sum over ranks; its gradient is the sum of the gradients of all ranks."""
    if group is None:
        return x
    found = _AllSum.apply(x, group)
    assert isinstance(found, Tensor)
    return found


def total(x: Tensor, group: Group) -> Tensor:
    """The sum over ranks, element by element, without gradient."""
    return _reduced(x, dist.ReduceOp.SUM, group)


def largest(x: Tensor, group: Group) -> Tensor:
    """The largest of all ranks, element by element, without gradient."""
    return _reduced(x, dist.ReduceOp.MAX, group)


def _reduced(x: Tensor, how: Any, group: Group) -> Tensor:
    if group is None:
        return x
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x, how, group=group)
    return x


def any_rank(flag: bool | Tensor, group: Group) -> bool:
    """Whether a flag, or any entry of one, holds on any rank: all ranks learn it, so that they act alike."""
    held = flag.any().float() if isinstance(flag, Tensor) else torch.tensor(float(flag), device=_device(group))
    return bool(largest(held, group) > 0)


def fail_together(problem: Exception | None, group: Group, message: str) -> None:
    """Raises on all ranks where one of them has a problem, so that none waits for ever.

    message: what the others are told, "{failed} of {world} processes ..."; the rank with the problem raises its own.
    """
    failed = total(torch.tensor(float(problem is not None), device=_device(group)), group)
    if problem is not None:
        raise problem
    if failed.item():
        raise InputError(
            message.format(failed=int(failed.item()), world=dist.get_world_size(group)), "Their own messages say why."
        )


def _device(group: Group) -> torch.device:
    """Where numbers must be for the group to exchange them."""
    return torch.device("cuda" if group is not None and dist.get_backend(group) == "nccl" else "cpu")
