"""Rows scaled to unit length, with the gradient in few passes over memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor


def accumulated(x: Tensor) -> Tensor:
    """At least float32."""
    return x if x.dtype == torch.float64 else x.float()


def longest(x: Tensor) -> Tensor:
    """The largest length of the rows of x (..., N, D), a scalar without gradient; 0 where there are none."""
    lengths = _length(x.detach())
    return lengths.amax() if lengths.numel() else lengths.new_zeros(())


def normalise(x: Tensor, eps: float = 1e-12) -> Tensor:
    """Rows scaled to unit length in float32 (or float64); a zero row stays zero and gets a zero gradient."""
    return scaled_unit(x, None, eps)


def scaled_unit(x: Tensor | Sequence[Tensor], scale: Tensor | float | None, eps: float = 1e-12) -> Tensor:
    """`scale` times the rows of x (..., N, D) at unit length; a number or a tensor that broadcasts to (..., N, 1).

    Several x (N_p, D) of one type give the rows of all, one after the other, without a copy of them as they are.
    """
    parts = [accumulated(p) for p in ([x] if isinstance(x, Tensor) else x)]
    if isinstance(scale, Tensor):
        scale, factor = scale.to(parts[0].dtype), 1.0
    else:
        scale, factor = None, 1.0 if scale is None else scale
    out = _Unit.apply(scale, factor, eps, *parts)
    assert isinstance(out, Tensor)
    return out


def _length(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))


def inverse_length(x: Tensor, eps: float = 1e-12) -> Tensor:
    """1 / length of the rows of x (..., N, D), at least float32: (..., N, 1); 0 for zero rows."""
    length = _length(x)
    return torch.where(length > eps, length.reciprocal(), 0)


class _Unit(torch.autograd.Function):
    """Parts below one another, and their gradients apart again."""

    @staticmethod
    def forward(ctx: Any, scale: Tensor | None, factor: float, eps: float, *parts: Tensor) -> Tensor:
        inverse = _joined([inverse_length(x, eps) for x in parts])
        ctx.factor, ctx.eps = factor, eps
        ctx.save_for_backward(scale, inverse, *parts)
        size = inverse * factor if scale is None else inverse * (scale * factor)
        if len(parts) == 1:
            return parts[0] * size
        out = parts[0].new_empty(len(inverse), parts[0].shape[1])
        for rows, x in zip(_rows_of(parts), parts, strict=True):
            torch.mul(x, size[rows], out=out[rows])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        scale, inverse, *parts = ctx.saved_tensors
        g, need = grads[0], [ctx.needs_input_grad[0], *ctx.needs_input_grad[3:]]
        if torch.is_grad_enabled():
            return _again(ctx, scale, parts, g, need)
        size = inverse * ctx.factor if scale is None else inverse * (scale * ctx.factor)
        along, found = torch.empty_like(inverse), []
        for rows, x, wanted in zip(_rows_of(parts), parts, need[1:], strict=True):
            here = (...,) if len(parts) == 1 else (rows,)
            along[here] = (g[here] * x).sum(-1, keepdim=True) * inverse[here]
            slope = -(along[here] * inverse[here]) * size[here]
            found.append((g[here] * size[here]).addcmul_(x, slope) if wanted else None)
        d_scale = None
        if scale is not None and need[0]:
            d_scale = (along * ctx.factor).sum_to_size(scale.shape)
        return d_scale, None, None, *found


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _rows_of(parts: Sequence[Tensor]) -> list[slice]:
    """The rows of each part among those of all."""
    ends = list(accumulate(p.shape[0] for p in parts))
    return [slice(end - len(p), end) for p, end in zip(parts, ends, strict=True)]


def _again(
    ctx: Any, scale: Tensor | None, parts: Sequence[Tensor], g: Tensor, need: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Gradients that can be derived again."""
    parts, scale = [x.view_as(x) for x in parts], None if scale is None else scale.view_as(scale)
    x = _joined(parts)
    again = x * (inverse_length(x, ctx.eps) * ctx.factor * (1 if scale is None else scale))
    inputs = (scale, *parts)
    wanted = [y for y, wish in zip(inputs, need, strict=True) if wish and y is not None]
    found = iter(torch.autograd.grad(again, wanted, g, create_graph=True))
    d_scale, *d_parts = (next(found) if wish and y is not None else None for y, wish in zip(inputs, need, strict=True))
    return d_scale, None, None, *d_parts
