"""The columns of a similarity matrix, block by block: a product with keys, or a source of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nearfar.errors import InputError
from nearfar.similarity.exchange import Ring, RingPass
from nearfar.similarity.vectors import Vectors


class Source:
    """A similarity of one's own: a matrix (N, M) that is asked for one tile at a time. Subclass it.

    shape: (N, M). dtype: of the tiles, at least float32; device: where they are. Defaults: those of the first of the
        `tensors()`, else float32 on the CPU.
    tile_shape: the most rows and columns of a tile. Default: the engine's. A tile that builds more than its own
        numbers (the hidden layer of a scorer of pairs) wants a small one: that is its memory.
    rounding: by how much a similarity may differ with the tile in which it stands. None: as a product of vectors does;
        0: not at all, whatever the tile.
    """

    shape: tuple[int, int]
    dtype: torch.dtype | None = None
    device: torch.device | None = None
    tile_shape: tuple[int, int] | None = None
    rounding: float | None = None

    def tensors(self) -> Sequence[Tensor]:
        """Everything that `tile` reads and that may need a gradient. Default: nothing, all is constant."""
        return ()

    def tile(self, rows: slice, columns: slice, tensors: Sequence[Tensor]) -> Tensor:
        """The similarities (rows, columns), by torch operations on `tensors`, which stand for those of `tensors()`.

        It is asked again for the gradient and must answer alike: no dropout. Tensors that are read by slices
        (`x[rows]`) cost what the slice costs.
        """
        raise TypeError(f"{type(self).__name__} does not answer for tiles")


def kind(source: Source) -> tuple[torch.dtype, torch.device]:
    """Type and device of the similarities of a source."""
    held = [x for x in source.tensors() if x.is_floating_point()]
    dtype = source.dtype or (torch.promote_types(held[0].dtype, torch.float32) if held else torch.float32)
    return dtype, source.device or (held[0].device if held else torch.device("cpu"))


class Columns:
    """The columns of one block.

    `own`: each row has columns of its own. `ring`: they travel between ranks. `first`: the number of the first column.
    """

    own: bool = False
    ring: Ring | None = None
    first: int = 0

    @property
    def here_width(self) -> int:
        """How many of the columns are here now."""
        raise TypeError("no columns")

    @property
    def flat(self) -> bool:
        """Whether there are no leading dimensions."""
        return True

    @property
    def width(self) -> int:
        return self.here_width if self.ring is None else self.ring.total

    def tensors(self) -> tuple[Tensor, ...]:
        """What may need a gradient, beside the anchors."""
        raise TypeError("no columns")

    def given(self, tensors: Sequence[Tensor]) -> Columns:
        """The same columns made of these tensors."""
        raise TypeError("no columns")

    def columns(self, size: int | None) -> list[slice]:
        """Pieces of the columns that are here, by their numbers."""
        return [slice(c.start + self.first, c.stop + self.first) for c in slices(self.here_width, size)]

    def here(self, columns: slice) -> slice:
        return slice(columns.start - self.first, columns.stop - self.first)

    def parts(self, gradients: bool = False) -> RingPass[Columns]:
        """The columns part by part, as they come by; see `RingPass` for `gradients`."""
        return RingPass(None, self)

    def product(self, query: Tensor, rows: slice, columns: slice) -> Tensor:
        """The similarities of a tile."""
        raise TypeError("no columns")

    def pull(self, flow: Tensor, query: Tensor, rows: slice, columns: slice, d_query: Tensor | None,
             d_inputs: Sequence[Tensor | None]) -> None:
        """Adds to the gradients of anchors and inputs what flows into a tile."""
        raise TypeError("no columns")


@dataclass(frozen=True)
class Operand(Columns):
    """Products with keys: vectors (..., M, D) shared by all rows, or (..., N, L, D) lists of each row's own."""

    vectors: Vectors
    own: bool
    ring: Ring | None = None
    first: int = 0

    @property
    def keys(self) -> Tensor:
        return self.vectors.whole

    @property
    def here_width(self) -> int:
        return self.vectors.shape[-2]

    @property
    def flat(self) -> bool:
        return self.vectors.dim() == 2 + self.own

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.keys,)

    def given(self, tensors: Sequence[Tensor]) -> Operand:
        return replace(self, vectors=Vectors(tensors[0]))

    def parts(self, gradients: bool = False) -> RingPass[Columns]:
        return RingPass(self.ring, self, self.keys, self._part, gradients)

    def _part(self, keys: Tensor, first: int) -> Operand:
        return replace(self.given([keys]), ring=None, first=first)

    def product(self, query: Tensor, rows: slice, columns: slice) -> Tensor:
        q, columns = query[..., rows, :], self.here(columns)
        if not self.own:
            return q @ self.keys[..., columns, :].transpose(-1, -2)
        return (self.keys[..., rows, columns, :] @ q.unsqueeze(-1)).squeeze(-1)

    def pull(self, flow: Tensor, query: Tensor, rows: slice, columns: slice, d_query: Tensor | None,
             d_inputs: Sequence[Tensor | None]) -> None:
        here, q, d_keys = self.here(columns), query[..., rows, :], d_inputs[0]
        if not self.own:
            if d_query is not None:
                d_query[..., rows, :] += flow @ self.keys[..., here, :]
            if d_keys is not None:
                d_keys[..., here, :] += flow.transpose(-1, -2) @ q
            return
        if d_query is not None:
            d_query[..., rows, :] += (flow.unsqueeze(-2) @ self.keys[..., rows, here, :]).squeeze(-2)
        if d_keys is not None:
            d_keys[..., rows, here, :] += flow.unsqueeze(-1) * q.unsqueeze(-2)


@dataclass(frozen=True)
class Scored(Columns):
    """What a source answers, over the temperature. `held`: the tensors of the source, then the temperature where it is
    a tensor: (N, 1), (1, M) or one number."""

    source: Source
    held: tuple[Tensor, ...]
    dtype: torch.dtype
    temperature: float | None = None

    @property
    def here_width(self) -> int:
        return self.source.shape[1]

    def tensors(self) -> tuple[Tensor, ...]:
        return self.held

    def given(self, tensors: Sequence[Tensor]) -> Scored:
        return replace(self, held=tuple(tensors))

    def product(self, query: Tensor, rows: slice, columns: slice) -> Tensor:
        if self.temperature is not None:
            s = self._answer(rows, columns, self.held).to(self.dtype)
            return s if self.temperature == 1 else s / self.temperature
        *tensors, t = self.held
        if t.dim() == 2:
            t = t[rows if t.shape[0] > 1 else slice(None), columns if t.shape[1] > 1 else slice(None)]
        return (self._answer(rows, columns, tensors) / t).to(self.dtype)

    def _answer(self, rows: slice, columns: slice, tensors: Sequence[Tensor]) -> Tensor:
        s = self.source.tile(rows, columns, tensors)
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        if not isinstance(s, Tensor) or s.shape != shape or not s.is_floating_point():
            found = f"{s.dtype} {tuple(s.shape)}" if isinstance(s, Tensor) else type(s).__name__
            place = f"rows {rows.start} to {rows.stop} and the columns {columns.start} to {columns.stop}"
            raise InputError(f"{type(self.source).__name__}.tile must give a float tensor {shape} for the {place}. "
                             f"Got {found}.")
        return s

    def rounding(self, value: Tensor) -> Tensor:
        """By how much similarities of this size may differ between two tiles."""
        if self.source.rounding is None:
            return 64 * torch.finfo(value.dtype).eps * value.abs()
        least = self.held[-1].detach().min() if self.temperature is None else self.temperature
        return torch.as_tensor(self.source.rounding / least, dtype=value.dtype, device=value.device)

    def check_declared(self) -> None:
        """Raises where a tile reads tensors with gradient that are not declared: they would silently get none."""
        if not all(self.source.shape):
            return
        held = self.held if self.temperature is not None else self.held[:-1]
        with torch.enable_grad():
            s = self._answer(slice(0, 1), slice(0, 1), [x.detach() for x in held])
        if s.requires_grad:
            raise InputError(f"{type(self.source).__name__}.tile reads tensors with gradient that its tensors() does "
                             "not list: they would get none.",
                             "Return them in tensors(), and read those that `tile` is given.")

    def pull(self, flow: Tensor, query: Tensor, rows: slice, columns: slice, d_query: Tensor | None,
             d_inputs: Sequence[Tensor | None]) -> None:
        held = [x.detach() if d is None else x.detach().requires_grad_()
                for x, d in zip(self.held, d_inputs, strict=True)]
        wanted = [(x, d) for x, d in zip(held, d_inputs, strict=True) if d is not None]
        if not wanted:
            return
        with torch.enable_grad(), _Slices([x for x, _ in wanted]) as sliced:
            s = self.given(held).product(query, rows, columns)
        if not s.requires_grad:
            return
        leaves = [x for x, _ in wanted] + [part for _, _, part in sliced.parts]
        into = [d for _, d in wanted] + [wanted[k][1][index] for k, index, _ in sliced.parts]
        for d, g in zip(into, torch.autograd.grad(s, leaves, flow, allow_unused=True), strict=True):
            if g is not None:
                d += g


class _Slices(TorchFunctionMode):
    """Inside, a slice of one of the tensors is a leaf of its own, so that its gradient is no larger than the slice."""

    def __init__(self, tensors: Sequence[Tensor]):
        super().__init__()
        self.known = {id(x): k for k, x in enumerate(tensors)}
        self.parts: list[tuple[int, Any, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
        if func == Tensor.__getitem__ and id(args[0]) in self.known and _is_view(args[1]):
            part = args[0].detach()[args[1]].requires_grad_()
            self.parts.append((self.known[id(args[0])], args[1], part))
            return part
        return func(*args, **(kwargs or {}))


def _is_view(index: Any) -> bool:
    """Whether an index takes a rectangle."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(x is None or x is Ellipsis or type(x) in (int, slice) for x in parts)


def refuse(operand: Columns, what: str) -> None:
    """Raises where a question needs all keys in one place."""
    if operand.ring is not None:
        raise InputError(f"{what} needs the keys of all processes at once, but here they travel.",
                         'Use `with nearfar.similarity.exchange_plan("gather"):`.')


def slices(n: int, size: int | None) -> list[slice]:
    size = size or max(n, 1)
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]
