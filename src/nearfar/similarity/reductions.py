"""What a similarity matrix can be asked for: one number per row (or column), folded tile by tile.

Each reduction knows how to start, to fold in a tile, to finish, and to carry a gradient back through a tile that is
computed again. The dense form is the same fold over one tile that spans the whole matrix, written with
differentiable operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nearfar.errors import InputError
from nearfar.similarity.answer.numerics import INF, cap, each_once, exponentials, finite, quotient, safe_log
from nearfar.similarity.relations import Relation, Tile


@dataclass(frozen=True)
class Gradients:
    """Gradients of one tile: of its similarities, its weights, and the per-row values of `phi`."""

    s: Tensor | None
    weight: Tensor | None = None
    per_row: Tensor | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Reduction:
    """Base. `where`: the pairs that count (a boolean relation); `weight`: their weights W_ij (a float relation);
    `dim`: 1 gives one value a row (N,), 0 one value a column (M,) of `block`."""

    where: Relation | None = None
    weight: Relation | None = None
    dim: int = 1
    block: int = 0
    differentiable: ClassVar[bool] = True

    def __post_init__(self):
        if self.dim not in (0, 1):
            raise InputError(f"dim of a reduction must be 0 (columns) or 1 (rows). Got {self.dim}.")

    @property
    def axis(self) -> int:
        return -1 if self.dim == 1 else -2

    def tensors(self) -> tuple[Tensor, ...]:
        return self.weight_tensors()

    def weight_tensors(self) -> tuple[Tensor, ...]:
        return each_once(self.weight.tensors()) if self.weight is not None else ()

    def row_values(self) -> dict[str, Tensor]:
        """Further values of each row, (..., N), that `fold` and `vjp` take by these names."""
        return {}

    def parts(self, t: Tile) -> tuple[Tensor | None, Tensor | None]:
        """The boolean mask and the float weights of a tile; None stands for all ones."""
        mask = self.where.tile(t) if self.where is not None else None
        weight = self.weight.tile(t) if self.weight is not None else None
        if mask is not None and mask.dtype != torch.bool:
            raise InputError("`where` needs a boolean relation; this one has weights.", "Pass weights as weight=.")
        return mask, weight

    def skips(self, t: Tile) -> bool:
        return (self.where is not None and self.where.empty(t)) or (t.block != self.block and self.dim == 0)

    def along(self, x: Tensor) -> Tensor:
        """Gives a per-row (or per-column) vector the missing axis."""
        return x.unsqueeze(self.axis)

    def start(self, shape: tuple[int, ...], like: Tensor) -> list[Tensor]:
        raise TypeError("not a reduction")

    def fold(self, state: list[Tensor], s: Tensor, mask: Tensor | None, weight: Tensor | None) -> list[Tensor]:
        raise TypeError("not a reduction")

    def finish(self, state: list[Tensor]) -> Tensor:
        raise TypeError("not a reduction")

    def saved(self, state: list[Tensor]) -> list[Tensor]:
        """What the backward sweep needs beside the result, all shaped like it."""
        return []

    def vjp(
        self, grad: Tensor, result: Tensor, saved: list[Tensor], s: Tensor, mask: Tensor | None, weight: Tensor | None
    ) -> Gradients:
        raise TypeError("not a reduction")


def select(values: Tensor, mask: Tensor | None, fill: float) -> Tensor:
    return values if mask is None else torch.where(mask, values, fill)


@dataclass(frozen=True, eq=False, kw_only=True)
class LogSumExp(Reduction):
    """log sum_j W_ij exp(scale S_ij); -inf where no pair counts. Weights must not be negative."""

    scale: float = 1.0

    def start(self, shape, like):
        return [like.new_full(shape, -INF), like.new_zeros(shape)]

    def fold(self, state, s, mask, weight):
        top, total = state
        x = select(s * self.scale if self.scale != 1 else s, mask, -INF)
        new_top, shift, terms = exponentials(x, weight, top, self.axis)
        return [new_top, total * (top - shift).exp() + terms.sum(self.axis)]

    def finish(self, state):
        return finite(state[0]) + safe_log(state[1])

    def vjp(self, grad, result, saved, s, mask, weight):
        x = select(s * self.scale, mask, -INF)
        share = (x - self.along(finite(result))).clamp(max=cap(x)).exp()
        share = share * self.along(torch.where(result == -INF, 0, grad))
        if weight is None:
            return Gradients(share * self.scale)
        return Gradients(share * weight * self.scale, share)


@dataclass(frozen=True, eq=False, kw_only=True)
class CrossEntropy(LogSumExp):
    """-log( e^{u_i} / (e^{u_i} + sum_j W_ij e^{scale S_ij}) ) = log(1 + sum_j W_ij e^{scale S_ij - u_i}).

    0 where no pair counts. `of` is u, (..., N): by default the similarity of the row's declared positive (0 where it
    has none). `where` leaves that pair out: it never stands inside a log-sum-exp, so that nothing is lost where it
    dominates. Rows only. With gradient, one direction takes one pass over the matrix in place of two.
    """

    of: Tensor | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.dim != 1:
            raise InputError("CrossEntropy is a reduction of the rows (dim=1).", "Use LogSumExp(dim=0) for columns.")

    def negatives(self) -> LogSumExp:
        """The log-sum-exp that the answer is made of."""
        return LogSumExp(where=self.where, weight=self.weight, block=self.block, scale=self.scale)

    def from_negatives(self, x: Tensor, paired: Tensor | None) -> Tensor:
        """The answer, given S of the declared positives where `of` is None."""
        of = paired if self.of is None else self.of
        assert of is not None
        return torch.nn.functional.softplus(x - of, 1, 40)  # torch's default turns linear from 20 on


@dataclass(frozen=True, eq=False, kw_only=True)
class Sum(Reduction):
    """sum_j W_ij phi(S_ij, u_i); phi defaults to the similarity itself, `per_row` is u, (N,).

    `phi(s, u)` is an element-wise function of torch operations; gradients reach S, W and u.
    """

    phi: Callable[..., Tensor] | None = None
    per_row: Tensor | None = None

    def start(self, shape, like):
        return [like.new_zeros(shape)]

    def tensors(self):
        return self.weight_tensors() + (() if self.per_row is None else (self.per_row,))

    def row_values(self):
        return {} if self.per_row is None else {"u": self.per_row}

    def value(self, s: Tensor, u: Tensor | None) -> Tensor:
        if self.phi is None:
            return s
        return self.phi(s) if u is None else self.phi(s, u)

    def fold(self, state, s, mask, weight, u=None):
        value = select(self.value(s, u), mask, 0)
        return [state[0] + (value if weight is None else value * weight).sum(self.axis)]

    def finish(self, state):
        return state[0]

    def vjp(self, grad, result, saved, s, mask, weight, u=None):
        up = self.along(grad).expand_as(s)
        up = select(up, mask, 0)
        if self.phi is None:
            return Gradients(up if weight is None else up * weight, up * s if weight is not None else None)
        with torch.enable_grad():
            s = s.detach().requires_grad_()
            u = None if u is None else u.detach().requires_grad_()
            value = self.value(s, u)
        inputs = [s] if u is None else [s, u]
        weighed = up if weight is None else up * weight
        grads = torch.autograd.grad(value, inputs, weighed, allow_unused=True)
        return Gradients(grads[0], up * value.detach() if weight is not None else None, None if u is None else grads[1])


@dataclass(frozen=True, eq=False, kw_only=True)
class Count(Reduction):
    """sum_j W_ij: how many pairs count (or their total weight)."""

    def start(self, shape, like):
        return [like.new_zeros(shape)]

    def fold(self, state, s, mask, weight):
        ones = torch.ones_like(s) if weight is None else weight.to(s.dtype).expand_as(s)
        return [state[0] + select(ones, mask, 0).sum(self.axis)]

    def finish(self, state):
        return state[0]

    def vjp(self, grad, result, saved, s, mask, weight):
        return Gradients(None, select(self.along(grad).expand_as(s), mask, 0) if weight is not None else None)


@dataclass(frozen=True, eq=False, kw_only=True)
class Mean(Reduction):
    """sum_j W_ij S_ij / sum_j W_ij; 0 where no pair counts."""

    def start(self, shape, like):
        return [like.new_zeros(shape), like.new_zeros(shape)]

    def fold(self, state, s, mask, weight):
        w = torch.ones_like(s) if weight is None else weight.to(s.dtype).expand_as(s)
        w = select(w, mask, 0)
        return [state[0] + (w * s).sum(self.axis), state[1] + w.sum(self.axis)]

    def finish(self, state):
        return quotient(state[0], state[1])

    def saved(self, state):
        return [quotient(torch.ones_like(state[1]), state[1])]

    def vjp(self, grad, result, saved, s, mask, weight):
        up = select(self.along(grad * saved[0]).expand_as(s), mask, 0)
        if weight is None:
            return Gradients(up)
        return Gradients(up * weight, up * (s - self.along(result)))


@dataclass(frozen=True, eq=False, kw_only=True)
class SoftmaxMean(Reduction):
    """sum_j p_ij S_ij with p_i = softmax_j(scale S_ij + log W_ij); 0 where no pair counts.

    `detach`: the shares p are constants in the gradient (a paper's stop-gradient weights).
    """

    scale: float = 1.0
    detach: bool = False

    def start(self, shape, like):
        return [like.new_full(shape, -INF), like.new_zeros(shape), like.new_zeros(shape)]

    def fold(self, state, s, mask, weight):
        top, total, moment = state
        x = select((s.detach() if self.detach else s) * self.scale, mask, -INF)
        held = weight.detach() if weight is not None and self.detach else weight
        new_top, shift, terms = exponentials(x, held, top, self.axis)
        keep = (top - shift).exp()
        return [new_top, total * keep + terms.sum(self.axis), moment * keep + (terms * s).sum(self.axis)]

    def finish(self, state):
        some = state[1] > 0
        return torch.where(some, state[2] / torch.where(some, state[1], 1), 0)

    def saved(self, state):
        return [finite(state[0]) + safe_log(state[1])]

    def vjp(self, grad, result, saved, s, mask, weight):
        x = select(s * self.scale, mask, -INF)
        live = torch.where(saved[0] == -INF, 0, grad)
        share = (x - self.along(finite(saved[0]))).clamp(max=cap(x)).exp() * self.along(live)
        if self.detach:
            return Gradients(share if weight is None else share * weight)
        away = s - self.along(result)
        slope = 1 + self.scale * away
        if weight is None:
            return Gradients(share * slope)
        return Gradients(share * weight * slope, share * away)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Extreme(Reduction):
    """Shared by Max and Min. `above` / `below`: only candidates strictly above / below the row's value, (N,).

    The gradient is shared evenly by the candidates that attain the extreme.
    """

    above: Tensor | None = None
    below: Tensor | None = None
    sign: ClassVar[float] = 1.0

    def row_values(self):
        return {name: x for name, x in (("above", self.above), ("below", self.below)) if x is not None}

    def start(self, shape, like):
        return [like.new_full(shape, -INF * self.sign), like.new_zeros(shape)]

    def limited(self, s: Tensor, mask: Tensor | None, above: Tensor | None, below: Tensor | None) -> Tensor:
        for limit, over in ((above, True), (below, False)):
            if limit is not None:
                inside = s.detach() > limit if over else s.detach() < limit
                mask = inside if mask is None else mask & inside
        return select(s, mask, -INF * self.sign)

    def fold(self, state, s, mask, weight, above=None, below=None):
        x = self.limited(s, mask, above, below)
        best, ties = state
        here = x.amax(self.axis) if self.sign > 0 else x.amin(self.axis)
        new = torch.maximum(best, here) if self.sign > 0 else torch.minimum(best, here)
        now = (x == self.along(new)).sum(self.axis).to(ties.dtype)
        return [new, torch.where(best == new, ties, 0) + torch.where(new.isfinite(), now, 0)]

    def finish(self, state):
        return state[0]

    def saved(self, state):
        return [state[1].clamp(min=1)]

    def vjp(self, grad, result, saved, s, mask, weight, above=None, below=None):
        x = self.limited(s, mask, above, below)
        hit = (x == self.along(result)) & self.along(result.isfinite())
        return Gradients(torch.where(hit, self.along(grad / saved[0]), 0))


class Max(_Extreme):
    """max_j S_ij over the pairs that count; -inf where none does."""

    sign: ClassVar[float] = 1.0


class Min(_Extreme):
    """min_j S_ij over the pairs that count; inf where none does."""

    sign: ClassVar[float] = -1.0
