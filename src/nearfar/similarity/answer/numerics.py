"""What all answers share: exponents that surely fit, logs of nothing, the precision of sums."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from nearfar.errors import InputError

INF = math.inf
LOG2E = math.log2(math.e)
BOUND = 100.0  # exponents of single terms in base 2 that float32 surely holds


def safe_log(x: Tensor) -> Tensor:
    """log x with -inf and a zero gradient where x is 0."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1).log(), -INF)


def cap(x: Tensor) -> float:
    """The largest exponent whose exponential is surely finite; only candidates of weight 0 exceed it."""
    return 700.0 if x.dtype == torch.float64 else 88.0


def finite(x: Tensor) -> Tensor:
    """x with 0 in place of infinities: a harmless shift for rows that hold nothing."""
    return torch.where(x.isfinite(), x, 0)


def exponentials(x: Tensor, weight: Tensor | None, top: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """The new maxima of x + log weight, their finite shift, and weight * exp(x - shift)."""
    held = x.detach() if weight is None else x.detach() + safe_log(weight.detach())
    new = torch.maximum(top, held.amax(axis))
    shift = finite(new)
    away = x - shift.unsqueeze(axis)
    if weight is None:
        return new, shift, away.exp()
    return new, shift, away.clamp(max=cap(x)).exp() * weight


def log_sum_exp(parts: Sequence[Tensor]) -> Tensor:
    """log of the sum of the exponentials; -inf where all are."""
    if len(parts) == 1:
        return parts[0]
    x = torch.stack(list(parts))
    top = finite(x.detach().amax(0))
    return top + safe_log((x - top).exp().sum(0))


def quotient(total: Tensor, count: Tensor) -> Tensor:
    """total / count, 0 where the count is."""
    return torch.where(count != 0, total / torch.where(count != 0, count, 1), 0)


def each_once(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Each tensor once: one that is used twice must not be given its gradient twice."""
    return tuple({id(x): x for x in tensors}.values())


def aliases(inputs: Iterable[Tensor | None]) -> list[Tensor | None]:
    """The same tensors, apart from how one was made of another: that path must not be counted twice."""
    return [None if x is None else x.view_as(x) for x in inputs]


def derived_again(
    answers: Tensor | Sequence[Tensor], inputs: Sequence[Tensor | None], grads: Tensor | Sequence[Tensor]
) -> list[Tensor | None]:
    """Gradients of all inputs (None for those that want none) that can be derived once more."""
    wanted = [x for x in inputs if x is not None and x.requires_grad]
    found = iter(torch.autograd.grad(answers, wanted, grads, create_graph=True, allow_unused=True))
    return [next(found) if x is not None and x.requires_grad else None for x in inputs]


def full_precision(device: torch.device) -> torch.autocast:
    """No autocast: similarities are accumulated in the precision of their inputs, at least float32."""
    return torch.autocast(device.type, enabled=False)


def refuse_second_derivatives() -> None:
    """create_graph=True: the answer would silently lack this part."""
    if torch.is_grad_enabled():
        raise InputError("The streaming engine has no second derivatives.", 'Use `with engine("dense"):`.')
