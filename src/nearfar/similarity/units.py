"""Rows scaled to unit length, with the gradient in few passes over memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def accumulated(x: Tensor) -> Tensor:
    """At least float32."""
    return x if x.dtype == torch.float64 else x.float()


def longest(x: Tensor) -> Tensor:
    """The largest length of the rows of x (..., N, D), a scalar without gradient; 0 where there are none."""
    lengths = x.detach().norm(dim=-1)
    return lengths.amax() if lengths.numel() else lengths.new_zeros(())


def normalise(x: Tensor, eps: float = 1e-12) -> Tensor:
    """Rows scaled to unit length in float32 (or float64); a zero row stays zero and gets a zero gradient."""
    return scaled_unit(x, None, eps)


def scaled_unit(x: Tensor, scale: Tensor | float | None, eps: float = 1e-12) -> Tensor:
    """`scale` times the rows of x (..., N, D) at unit length; a number or a tensor that broadcasts to (..., N, 1)."""
    x = accumulated(x)
    if not isinstance(scale, Tensor):
        return _unit(x, None, 1.0 if scale is None else scale, eps)
    return _unit(x, scale.to(x.dtype), 1.0, eps)


def _unit(x: Tensor, scale: Tensor | None, factor: float, eps: float) -> Tensor:
    out = _Unit.apply(x, scale, factor, eps)
    assert isinstance(out, Tensor)
    return out


def _inverse(x: Tensor, eps: float) -> Tensor:
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.where(length > eps, length.clamp(min=eps).reciprocal(), 0)


def aliases(inputs: Iterable[Tensor | None]) -> list[Tensor | None]:
    """The same tensors, apart from how one was made of another: that path must not be counted twice."""
    return [None if x is None else x.view_as(x) for x in inputs]


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor | None, factor: float, eps: float) -> Tensor:
        inverse = _inverse(x, eps)
        ctx.factor, ctx.eps = factor, eps
        ctx.save_for_backward(x, scale, inverse)
        return x * (inverse * factor if scale is None else inverse * (scale * factor))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        x, scale, inverse = ctx.saved_tensors
        g = grads[0]
        if torch.is_grad_enabled():
            x, scale = x.view_as(x), None if scale is None else scale.view_as(scale)
            again = x * (_inverse(x, ctx.eps) * ctx.factor * (1 if scale is None else scale))
            wanted = [y for y, need in zip((x, scale), ctx.needs_input_grad, strict=False) if need and y is not None]
            found = iter(torch.autograd.grad(again, wanted, g, create_graph=True))
            return *(next(found) if need else None for need in ctx.needs_input_grad[:2]), None, None
        along = (g * x).sum(-1, keepdim=True) * inverse
        d_scale = None
        if scale is not None and ctx.needs_input_grad[1]:
            d_scale = (along * ctx.factor).sum_to_size(scale.shape)
        if not ctx.needs_input_grad[0]:
            return None, d_scale, None, None
        size = inverse * ctx.factor if scale is None else inverse * (scale * ctx.factor)
        return (g * size).addcmul_(x, -(along * inverse) * size), d_scale, None, None
