"""Weights of pairs: of rows, of columns, of low rank, a whole matrix, a function; pairs by a limit on such a weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nearfar.similarity.relations.base import OfOneBlock, Relation, Selecting, Tile, everyone, nobody


@dataclass(frozen=True, eq=False)
class Dense(OfOneBlock):
    """A whole matrix (..., N, M), bool or float: costs what it is."""

    matrix: Tensor
    block: int = 0
    reads_values = False
    elsewhere = nobody

    @property
    def boolean(self) -> bool:
        return not self.matrix.dtype.is_floating_point

    @property
    def alike(self) -> bool:
        return self.matrix.dim() == 2

    def tile(self, t: Tile) -> Tensor:
        if t.block != self.block:
            return torch.zeros((1, 1), dtype=self.matrix.dtype, device=t.device)
        return self.matrix[..., t.rows, t.columns]

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.matrix,) if self.matrix.requires_grad else ()


def dense(matrix: Tensor, block: int = 0) -> Dense:
    """A relation or weight given as a whole matrix."""
    return Dense(matrix, block)


@dataclass(frozen=True, eq=False)
class PerColumn(OfOneBlock):
    """A weight for each column of one block, (..., M)."""

    weight: Tensor
    block: int = 0
    reads_values = False
    elsewhere = everyone

    @property
    def alike(self) -> bool:
        return self.weight.dim() == 1

    def tile(self, t: Tile) -> Tensor:
        if t.block != self.block:
            return torch.ones((1, 1), dtype=self.weight.dtype, device=t.device)
        return self.weight[..., None, t.columns]

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weight,) if self.weight.requires_grad else ()


def per_column(weight: Tensor, block: int = 0) -> PerColumn:
    """A weight (or a boolean) for each candidate of a block; 1 in the other blocks."""
    return PerColumn(weight, block)


@dataclass(frozen=True, eq=False)
class PerRow(Relation):
    """A weight for each row, (..., N)."""

    weight: Tensor
    reads_values = False

    @property
    def alike(self) -> bool:
        return self.weight.dim() == 1

    def at_block(self, block: int) -> Relation:
        return self

    def tile(self, t: Tile) -> Tensor:
        return self.weight[..., t.rows, None]

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weight,) if self.weight.requires_grad else ()


def per_row(weight: Tensor) -> PerRow:
    """A weight (or a boolean) for each anchor."""
    return PerRow(weight)


@dataclass(frozen=True, eq=False)
class LowRank(OfOneBlock):
    """Weights W = a b^T + shift, never built: `a` (..., N, R), `b` (..., M, R)."""

    a: Tensor
    b: Tensor
    shift: float = 0.0
    block: int = 0
    reads_values = False
    elsewhere = nobody

    @property
    def alike(self) -> bool:
        return self.a.dim() == self.b.dim() == 2

    def tile(self, t: Tile) -> Tensor:
        if t.block != self.block:
            return torch.zeros((1, 1), dtype=self.a.dtype, device=t.device)
        return self.a[..., t.rows, :] @ self.b[..., t.columns, :].transpose(-1, -2) + self.shift

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(x for x in (self.a, self.b) if x.requires_grad)


def low_rank(a: Tensor, b: Tensor, shift: float = 0.0, block: int = 0) -> LowRank:
    """Weights given as factors: W_ij = a_i . b_j + shift."""
    return LowRank(a, b, shift, block)


@dataclass(frozen=True, eq=False)
class Nearer(OfOneBlock, Selecting):
    """Pairs whose cosine by other unit vectors, `a` (N, R) and `b` (M, R), is above a limit."""

    a: Tensor
    b: Tensor
    limit: float
    block: int = 0
    elsewhere = nobody

    def tile(self, t: Tile) -> Tensor:
        if t.block != self.block:
            return torch.zeros((1, 1), dtype=torch.bool, device=t.device)
        with torch.autocast(t.device.type, enabled=False):
            return (self.a[t.rows] @ self.b[t.columns].T).clamp(max=1) > self.limit


def nearer(a: Tensor, b: Tensor, limit: float, block: int = 0) -> Nearer:
    """Pairs whose cosine by unit vectors `a` (N, R) and `b` (M, R) is above a limit; none above 1."""
    return Nearer(a.detach(), b.detach(), limit, block)


@dataclass(frozen=True, eq=False)
class Function(Relation):
    """A relation of one's own: `f(tile)` -> bool or float tensor; `uses` lists the tensors that need a gradient."""

    f: Callable[[Tile], Tensor]
    uses: tuple[Tensor, ...] = ()

    def tile(self, t: Tile) -> Tensor:
        return self.f(t)

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(x for x in self.uses if x.requires_grad)


def function(f: Callable[[Tile], Tensor], *uses: Tensor) -> Function:
    """A relation or weight computed for each tile by a function of one's own."""
    return Function(f, uses)
