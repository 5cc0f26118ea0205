"""The vectors of one side of a matrix: lengths and temperature are folded in block by block, where a sweep needs them.

A sweep over unit vectors so keeps nothing but the vectors that it was given; who asks for all of them at once gets
`whole`, made once and with its graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nearfar.similarity.answer.normalise import accumulated, inverse_length, longest, scaled_unit

# Floats that work row by row holds at once, by device type.
STRIP = {"cpu": 1 << 18, "cuda": 1 << 23}
# Half precision with float32 sums: what cuBLAS can do since this version of torch.
HALF = tuple(int(x) for x in torch.__version__.split(".")[:2]) >= (2, 8)


class Vectors:
    """`scale` times the vectors x (..., N, D), scaled to unit length where `unit`.

    scale: a number, or a tensor that broadcasts to (..., N, 1). At least float32. bound: none is longer, where that is
    known.
    """

    def __init__(
        self, x: Tensor, *, unit: bool = False, scale: float | Tensor | None = None, bound: float | None = None
    ):
        self.x = x
        self.scale = scale if isinstance(scale, Tensor) else None
        self.recipe = Recipe(unit, 1.0 if scale is None or isinstance(scale, Tensor) else float(scale))
        self.bound = abs(self.recipe.factor) if unit and self.scale is None else bound
        self.shape, self.device = x.shape, x.device
        self.dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        self._graph = torch.is_grad_enabled()
        self._whole: Tensor | None = None

    @classmethod
    def below(cls, parts: Sequence[Tensor], temperature: float | Tensor) -> Vectors:
        """Unit rows of all parts, one below the other: each side's half of S where they are their own keys."""
        half = temperature.rsqrt() if isinstance(temperature, Tensor) else temperature**-0.5
        return cls(scaled_unit(parts, half), bound=None if isinstance(half, Tensor) else half)

    def __len__(self) -> int:
        return self.shape[0]

    def dim(self) -> int:
        return len(self.shape)

    @property
    def whole(self) -> Tensor:
        """All of them, with graph."""
        if self._whole is None:
            with torch.set_grad_enabled(self._graph):
                self._whole = self.recipe.made(self.x, self.scale)
        return self._whole

    def settled(self) -> Vectors:
        """The same; those that were made already, where they were."""
        return self if self._whole is None or self._whole is self.x else Vectors(self._whole, bound=self.bound)

    @property
    def requires_grad(self) -> bool:
        return self.x.requires_grad or (self.scale is not None and self.scale.requires_grad)

    def new_zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def bare(self) -> Tensor:
        """As many vectors of no dimension."""
        return torch.empty((*self.shape[:-1], 0), dtype=self.dtype, device=self.device)

    def longest(self) -> Tensor | float:
        """No vector is longer than this: a number where it is known beforehand."""
        if self.bound is not None:
            return self.bound
        most = abs(self.recipe.factor) if self.scale is None else self.scale.detach().abs().amax()
        return most if self.recipe.unit else longest(self.x) * most

    def side(self, half: bool = False, copied: bool = False) -> Side:
        """For the loops of a sweep, without graph."""
        return self.recipe.side(self.x, self.scale, half, copied)


@dataclass(frozen=True)
class Recipe:
    """What is made of vectors: `factor` times them (a tensor may take its place), at unit length first where `unit`."""

    unit: bool = False
    factor: float = 1.0

    def made(self, x: Tensor, scale: Tensor | None) -> Tensor:
        if self.unit:
            return scaled_unit(x, self.factor if scale is None else scale)
        x = accumulated(x)
        if scale is not None:
            return x * scale.to(x.dtype)
        return x if self.factor == 1 else x * self.factor

    def side(self, x: Tensor, scale: Tensor | None, half: bool = False, copied: bool = False) -> Side:
        return Side(x.detach(), None if scale is None else scale.detach(), self, half, copied)


def product_bound(query: Vectors, keys: Vectors) -> float:
    """No similarity is larger than this."""
    return float(query.longest() * keys.longest()) if len(query) and len(keys) else 0.0


def halved(*vectors: Tensor | Vectors) -> bool:
    """Whether products are made in half precision: so the vectors came, and the device sums them in float32."""
    given = [v if isinstance(v, Tensor) else v.x for v in vectors]
    fits = HALF and torch.version.cuda is not None and all(x.device.type == "cuda" for x in given)
    return fits and all(x.dtype in (torch.float16, torch.bfloat16) for x in given)


@dataclass
class Side:
    """`side[rows]` are the vectors of these rows; gradients of theirs become those of what they were made of.

    copied: all are made at once; else the block that was asked for last is kept. half: products are made of float16
    (similarities: unit vectors keep 11 bits) and bfloat16 (gradients: any magnitude).
    """

    x: Tensor
    scale: Tensor | None = None
    recipe: Recipe = field(default_factory=Recipe)
    half: bool = False
    copied: bool = False
    _last: tuple[slice, Tensor] | None = field(default=None, repr=False)

    def __post_init__(self):
        self.dtype = torch.float64 if self.x.dtype == torch.float64 else torch.float32
        self.inverse = inverse_length(self.x) if self.recipe.unit else None
        self.size = self._size()
        self.all: Tensor | None = self.x if self.size is None and self.x.dtype == self.dtype else None
        if self.all is None and self.copied:
            self.all = self._made(slice(0, len(self.x)))
        self.halved: tuple[Tensor, Tensor] | None = None
        if self.half:
            self._halve()

    def _size(self) -> Tensor | None:
        """(N, 1): the factor of each vector."""
        scale = self.recipe.factor if self.scale is None else self.scale.to(self.dtype)
        if self.inverse is not None:
            return self.inverse * scale
        if self.scale is None and scale == 1:
            return None
        if not isinstance(scale, Tensor):
            scale = torch.full((1, 1), scale, dtype=self.dtype, device=self.x.device)
        return scale.expand(len(self.x), 1)

    def _made(self, rows: slice) -> Tensor:
        x = self.x[rows].to(self.dtype)
        return x if self.size is None else x * self.size[rows]

    def _halve(self) -> None:
        """In strips: the vectors are never held in float32."""
        similar, weighed = (torch.empty_like(self.x, dtype=t) for t in (torch.float16, torch.bfloat16))
        for rows in strips(self.x):
            block = self._made(rows)
            similar[rows], weighed[rows] = block, block
        if self.recipe.unit or bool(similar.isfinite().all()):
            self.halved = similar, weighed
        else:
            self.halved = weighed, weighed

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: slice) -> Tensor:
        if self.all is not None:
            return self.all[rows]
        if self._last is None or self._last[0] != rows:
            self._last = rows, self._made(rows)
        return self._last[1]

    def weighed(self, rows: slice) -> Tensor:
        """These rows as products with gradients of similarities take them."""
        return self[rows] if self.halved is None else self.halved[1][rows]

    def rounded(self, x: Tensor) -> Tensor:
        """Gradients of similarities, as products with `weighed` rows take them."""
        return x if self.halved is None else x.to(torch.bfloat16)

    def taken(self, index: Tensor) -> Tensor:
        """The vectors of any rows (P,)."""
        if self.all is not None:
            return self.all[index]
        x = self.x[index].to(self.dtype)
        return x if self.size is None else x * self.size[index]

    def new_empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.x.device)

    def zeros(self) -> Tensor:
        """A gradient of the vectors, to be filled."""
        return torch.zeros(self.x.shape, dtype=self.dtype, device=self.x.device)

    def release(self, gradient: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of x and of the scale from that of the vectors, which is overwritten."""
        if gradient is None:
            return None, None
        along = None
        if self.inverse is not None or self.scale is not None:
            along = self.new_empty(len(self.x), 1)
        for rows in strips(self.x):
            x, g = self.x[rows].to(self.dtype), gradient[rows]
            inverse = None if self.inverse is None else self.inverse[rows]
            if along is not None:
                along[rows] = (g * x).sum(-1, keepdim=True) * (1 if inverse is None else inverse)
            if self.size is not None:
                g.mul_(self.size[rows])
            if inverse is not None and along is not None and self.size is not None:
                g.addcmul_(x, along[rows] * inverse * self.size[rows], value=-1)
        d_scale = None
        if self.scale is not None and along is not None:
            d_scale = along.sum_to_size(self.scale.shape).to(self.scale.dtype)
        return gradient.to(self.x.dtype), d_scale


def similarities(out: Tensor, query: Side, rows: slice, keys: Side, columns: slice, alpha: float) -> Tensor:
    """alpha S of a tile into `out`."""
    if query.halved is None or keys.halved is None:
        return torch.addmm(out, query[rows], keys[columns].T, beta=0, alpha=alpha, out=out)
    return torch.addmm(
        out, query.halved[0][rows], keys.halved[0][columns].T, out_dtype=torch.float32, beta=0, alpha=alpha, out=out
    )


def addmm(gradient: Tensor, grad: Tensor, rows: Tensor, alpha: float = 1.0) -> None:
    """Adds alpha grad @ rows to a gradient; both may be bfloat16."""
    if grad.dtype == gradient.dtype:
        gradient.addmm_(grad, rows, alpha=alpha)
    else:
        torch.addmm(gradient, grad, rows, out_dtype=gradient.dtype, alpha=alpha, out=gradient)


def strips(x: Tensor) -> Sequence[slice]:
    """Some rows of x (N, D) at a time."""
    height = max(1, STRIP.get(x.device.type, 1 << 20) // max(1, x.shape[1]))
    return [slice(i, min(i + height, len(x))) for i in range(0, len(x), height)]
