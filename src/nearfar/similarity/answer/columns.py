"""The columns of a similarity matrix, block by block: a product with keys, or a source of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nearfar.errors import InputError
from nearfar.similarity.answer.normalise import accumulated
from nearfar.similarity.answer.vectors import Vectors
from nearfar.similarity.exchange import Ring, RingPass, total
from nearfar.similarity.source import Block, Source


class Columns:
    """The columns of one block.

    `per_anchor`: each row has columns of its own. `ring`: they travel between ranks. `first`: the number of the
    first column.
    """

    per_anchor: bool = False
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

    def vjp(
        self,
        grad: Tensor,
        query: Tensor,
        rows: slice,
        columns: slice,
        d_query: Tensor | None,
        d_inputs: Sequence[Tensor | None],
    ) -> None:
        """Adds to the gradients of anchors and inputs, given those of a tile."""
        raise TypeError("no columns")


@dataclass(frozen=True)
class Operand(Columns):
    """Products with keys: vectors (..., M, D) shared by all rows, or (..., N, L, D) lists of each row's own."""

    vectors: Vectors
    per_anchor: bool
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
        return self.vectors.dim() == 2 + self.per_anchor

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.keys,)

    def given(self, tensors: Sequence[Tensor]) -> Operand:
        return replace(self, vectors=Vectors(tensors[0]))

    def parts(self, gradients: bool = False) -> RingPass[Operand]:
        return RingPass(self.ring, self, self.keys, self._part, gradients)

    def _part(self, keys: Tensor, first: int) -> Operand:
        return replace(self.given([keys]), ring=None, first=first)

    def product(self, query: Tensor, rows: slice, columns: slice) -> Tensor:
        q, columns = query[..., rows, :], self.here(columns)
        if not self.per_anchor:
            return q @ self.keys[..., columns, :].transpose(-1, -2)
        return (self.keys[..., rows, columns, :] @ q.unsqueeze(-1)).squeeze(-1)

    def vjp(
        self,
        grad: Tensor,
        query: Tensor,
        rows: slice,
        columns: slice,
        d_query: Tensor | None,
        d_inputs: Sequence[Tensor | None],
    ) -> None:
        here, q, d_keys = self.here(columns), query[..., rows, :], d_inputs[0]
        if not self.per_anchor:
            if d_query is not None:
                d_query[..., rows, :] += grad @ self.keys[..., here, :]
            if d_keys is not None:
                d_keys[..., here, :] += grad.transpose(-1, -2) @ q
            return
        if d_query is not None:
            d_query[..., rows, :] += (grad.unsqueeze(-2) @ self.keys[..., rows, here, :]).squeeze(-2)
        if d_keys is not None:
            d_keys[..., rows, here, :] += grad.unsqueeze(-1) * q.unsqueeze(-2)


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
            raise InputError(
                f"{type(self.source).__name__}.tile must give a float tensor {shape} for the {place}. Got {found}."
            )
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
            raise InputError(
                f"{type(self.source).__name__}.tile reads tensors with gradient that its tensors() does "
                "not list: they would get none.",
                "Return them in tensors(), and read those that `tile` is given.",
            )

    def vjp(
        self,
        grad: Tensor,
        query: Tensor,
        rows: slice,
        columns: slice,
        d_query: Tensor | None,
        d_inputs: Sequence[Tensor | None],
    ) -> None:
        held = [
            x.detach() if d is None else x.detach().requires_grad_() for x, d in zip(self.held, d_inputs, strict=True)
        ]
        wanted = [(x, d) for x, d in zip(held, d_inputs, strict=True) if d is not None]
        if not wanted:
            return
        with torch.enable_grad(), _Slices([x for x, _ in wanted]) as sliced:
            s = self.given(held).product(query, rows, columns)
        if not s.requires_grad:
            return
        leaves = [x for x, _ in wanted] + [part for _, _, part in sliced.parts]
        into = [d for _, d in wanted] + [wanted[k][1][index] for k, index, _ in sliced.parts]
        for d, g in zip(into, torch.autograd.grad(s, leaves, grad, allow_unused=True), strict=True):
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
        raise InputError(
            f"{what} needs the keys of all processes at once, but here they travel.",
            'Use `with nearfar.similarity.exchange_plan("gather"):`.',
        )


def slices(n: int, size: int | None) -> list[slice]:
    size = size or max(n, 1)
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def _scored(block: Block, source: Source, temperature: float | Tensor, dtype: torch.dtype) -> Scored:
    held = tuple(x if block.gradient else x.detach() for x in source.tensors())
    if not isinstance(temperature, Tensor):
        return Scored(source, held, dtype, float(temperature))
    if any(a not in (1, b) for a, b in zip(reversed(temperature.shape), reversed(source.shape), strict=False)):
        raise InputError(
            f"The temperature must be one number, (N, 1) or (1, M) with (N, M) = {source.shape}. "
            f"Got {tuple(temperature.shape)}."
        )
    return Scored(source, (*held, temperature), dtype)


def columns_of(
    query: Tensor | Vectors, blocks: Sequence[Block], temperature: float | Tensor, similarity: str
) -> tuple[Vectors, list[Columns]]:
    """The anchors and the columns of each block, in their order."""
    if isinstance(query, Vectors):
        if len(blocks) != 1 or blocks[0].keys is not query:
            raise InputError("Vectors stand alone, as their own keys.", "Pass tensors.")
        return query, [Operand(query, False)]
    vectors = [b for b in blocks if isinstance(b.keys, Tensor)]
    of_first = isinstance(temperature, Tensor) and temperature.dim() >= 2 and temperature.shape[-1] > 1
    if of_first and 1 < len(blocks) != len(vectors):
        raise InputError("A temperature of the columns, (1, M), needs a single block where one is a source.")
    anchors, made = Vectors(query), iter(())
    if vectors:
        anchors, products = _factors(query, vectors, temperature, similarity)
        made = iter(products)
    out: list[Columns] = []
    for block in blocks:
        if not isinstance(block.keys, Source):
            out.append(next(made))
            continue
        out.append(operand := _scored(block, block.keys, temperature, anchors.dtype))
        if torch.is_grad_enabled():
            operand.check_declared()
    return anchors, out


def _factors(
    query: Tensor, blocks: Sequence[Block], temperature: float | Tensor, similarity: str
) -> tuple[Vectors, list[Operand]]:
    """Query and keys whose plain product is S: normalisation, distance and temperature are folded in, O((N + M) D)."""
    keys = [b.keys if b.gradient else b.keys.detach() for b in blocks if isinstance(b.keys, Tensor)]
    unit = similarity == "cosine"
    if _is_own_keys(query, blocks, temperature, similarity):
        half = temperature.rsqrt() if isinstance(temperature, Tensor) else temperature**-0.5
        z = Vectors(query, unit=unit, scale=half)
        return z, [Operand(z, False)]  # half of the temperature on each side keeps the two factors one tensor
    if similarity == "euclidean":
        query, keys = accumulated(query), [accumulated(k) for k in keys]
        centre = _centre(query.detach(), next((b.ring for b in blocks if b.ring is not None), None))
        query, keys = (
            _lifted_query(query - centre),
            [
                _lifted_key(k - (centre.unsqueeze(-2) if b.per_anchor else centre))
                for k, b in zip(keys, blocks, strict=True)
            ],
        )
    of_columns = isinstance(temperature, Tensor) and temperature.dim() >= 2 and temperature.shape[-1] > 1
    anchors = Vectors(query, unit=unit, scale=None if of_columns else 1 / temperature)
    columns = [Vectors(k, unit=unit) for k in keys]
    if of_columns and isinstance(temperature, Tensor):
        columns[0] = Vectors(keys[0], unit=unit, scale=1 / temperature.transpose(-1, -2))
    if lead := query.shape[:-2]:
        columns = [
            Vectors(v.whole.expand(*lead, *v.shape[-(2 + b.per_anchor) :]))
            for v, b in zip(columns, blocks, strict=True)
        ]
    return anchors, [Operand(v, b.per_anchor, b.ring) for v, b in zip(columns, blocks, strict=True)]


def _centre(query: Tensor, ring: Ring | None) -> Tensor:
    """Where distances are measured from, so that few digits are lost; keys that travel need one for all ranks."""
    if ring is None:
        return query.mean(-2, keepdim=True)
    both = torch.cat([query.sum(-2, keepdim=True), query.new_full((*query.shape[:-2], 1, 1), query.shape[-2])], -1)
    both = total(both, ring.group)
    return both[..., :-1] / both[..., -1:].clamp(min=1)


def _is_own_keys(query: Tensor, blocks: Sequence[Block], temperature: float | Tensor, similarity: str) -> bool:
    """Whether the queries are the keys, so that the matrix is symmetric."""
    alone = len(blocks) == 1 and blocks[0].keys is query and blocks[0].gradient and query.dim() == 2
    alone = alone and blocks[0].ring is None
    scalar = not isinstance(temperature, Tensor) or temperature.numel() == 1
    return alone and scalar and similarity != "euclidean"


def _lifted_query(q: Tensor) -> Tensor:
    return torch.cat([2 * q, -(q * q).sum(-1, keepdim=True), -torch.ones_like(q[..., :1])], -1)


def _lifted_key(k: Tensor) -> Tensor:
    return torch.cat([k, torch.ones_like(k[..., :1]), (k * k).sum(-1, keepdim=True)], -1)
