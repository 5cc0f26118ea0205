"""The encoder of time series: dilated convolutions that give a vector of every step (Yue et al., TS2Vec, AAAI 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.checks import NonNegativeInt, PositiveInt, Width, checked_init
from nearfar.encoders.base import Encoder
from nearfar.encoders.numeric import moments
from nearfar.errors import InputError

Pool = Literal["max", "mean", "last"]


def there(x: Tensor) -> Tensor:
    """bool (n, T): the steps of series (n, T, C) that hold a number in any channel."""
    return ~x.isnan().all(-1)


def inside(x: Tensor) -> Tensor:
    """bool (n, T): the steps of series (n, T, C) up to the last one that holds a number; what follows is padding."""
    return there(x).flip(1).cumsum(1).flip(1) > 0


def padded(items: Sequence[np.ndarray]) -> np.ndarray:
    """Series (T_i, C) as one float32 array (n, max T_i, C), NaN behind the end of each."""
    out = np.full((len(items), max(map(len, items), default=0), items[0].shape[1]), np.nan, np.float32)
    for place, item in enumerate(items):
        out[place, : len(item)] = item
    return out


class Block(nn.Module):
    """GELU, convolution, GELU, convolution, and the input beside it: (n, width, T) -> (n, outputs, T).

    What lies behind the end of a series counts as 0 before each convolution, so that a series gives the same vectors
    in any batch.
    """

    def __init__(self, width: int, outputs: int, dilation: int, last: bool):
        super().__init__()
        self.first = nn.Conv1d(width, outputs, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv1d(outputs, outputs, 3, padding=dilation, dilation=dilation)
        self.beside = nn.Conv1d(width, outputs, 1) if last or width != outputs else None

    def forward(self, x: Tensor, inner: Tensor) -> Tensor:
        beside = x if self.beside is None else self.beside(x)
        x = self.first(F.gelu(x) * inner)
        return (self.second(F.gelu(x) * inner) + beside) * inner


@checked_init
class SeriesEncoder(Encoder):
    """Series (n, T, C), NaN where a value is missing or a series has ended, -> (n, dim), or of every step (n, T, dim).

    Each channel is standardised (a missing value counts as its mean); a linear map to `width`; `depth` + 1 blocks of
    two convolutions of kernel 3 and dilation 2^i, the last one to `dim`. A step without any value is 0 behind the
    linear map. scales: further causal convolutions of kernels 1, 2, 4, ..., whose mean is taken (CoST and AutoTCL: 8).
    pool: what makes one vector of all steps: the largest value of each dimension, the mean, or the last step's.
    Source: TS2Vec, AAAI 2022 (width 64, dim 320, depth 10), with padding that changes nothing.
    """

    modality = "series"
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        channels: Sequence[str],
        dim: Width = 128,
        width: Width = 64,
        depth: PositiveInt = 10,
        scales: NonNegativeInt = 0,
        pool: Pool = "max",
    ):
        super().__init__()
        self.channels, self.dim, self.width, self.depth = list(channels), dim, width, depth
        self.scales, self.pool = scales, pool
        self.enter = nn.Linear(len(self.channels), width)
        self.blocks = nn.ModuleList(
            Block(width, dim if i == depth else width, 2**i, i == depth) for i in range(depth + 1)
        )
        self.causal = nn.ModuleList(nn.Conv1d(dim, dim, 2**i, padding=2**i - 1) for i in range(scales))
        self.register_buffer("mean", torch.zeros(len(self.channels)))
        self.register_buffer("std", torch.ones(len(self.channels)))

    def standardise(self, items: Sequence[np.ndarray]) -> SeriesEncoder:
        """Takes mean and deviation of each channel from some series (T_i, C). Returns the encoder itself."""
        mean, std = moments(np.concatenate(list(items)))
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(std))
        return self

    def scaled(self, x: Tensor) -> Tensor:
        """Series in deviations from the mean of each channel, 0 where a value is missing."""
        return ((x - self.mean) / self.std).nan_to_num(nan=0.0)

    def steps(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(n, T, dim), 0 behind the end of a series. keep: bool (n, T); the other steps are hidden behind the linear
        map, as missing ones are."""
        seen = there(x) if keep is None else there(x) & keep
        inner = inside(x)[:, None].to(x.dtype)
        h = (self.enter(self.scaled(x)) * seen[..., None]).transpose(1, 2)
        for block in self.blocks:
            h = block(h, inner)
        if self.scales:
            h = torch.stack([conv(h)[..., : h.shape[2]] for conv in self.causal]).mean(0) * inner
        return h.transpose(1, 2)

    def ordered_blocks(self) -> Sequence[nn.Module]:
        return list(self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        return pooled(self.steps(x), inside(x), self.pool)

    def prepare(self, items: Any) -> Tensor:
        """Series, each (T, C) or, of one channel, (T,), as arrays or lists -> float32 (n, max T, C). Raises InputError
        that names the first item which is not one."""
        return torch.from_numpy(padded([self.one(item, place) for place, item in enumerate(items)])).to(self.device)

    def one(self, item: Any, place: int) -> np.ndarray:
        """float32 (T, C) of one item."""
        try:
            found = np.asarray(item, np.float32)
        except (TypeError, ValueError):
            raise InputError(f"Item {place} is not a series of numbers but {str(item)[:60]!r}.",
                             "Give a list of numbers, or an array (steps, channels).") from None  # fmt: skip
        if found.ndim == 1:
            found = found[:, None]
        if found.ndim != 2 or found.shape[1] != len(self.channels):
            raise self.wrong_channels(found.shape[1] if found.ndim == 2 else 0, f"Item {place}")
        if np.isinf(found).any() or not np.isfinite(found).any():
            what = "a number that is not finite" if np.isinf(found).any() else "no value"
            raise InputError(f"Item {place} holds {what}.", "Leave a missing value empty (NaN).")
        return found

    def wrong_channels(self, found: int, where: str) -> InputError:
        """The error for series of other channels."""
        names = ", ".join(self.channels[:6]) + (", ..." if len(self.channels) > 6 else "")
        return InputError(f"{where}: this encoder takes series of {len(self.channels)} channels ({names}). Got "
                          f"{found or 'something else'}.", "Give (steps, channels), or train anew.")  # fmt: skip

    def order_of(self, names: Sequence[str], where: str) -> np.ndarray | None:
        """Where each channel stands among those of other data; None where they stand as they are, or have quite other
        names. Raises InputError for another number of channels."""
        if len(names) != len(self.channels):
            raise self.wrong_channels(len(names), where)
        if list(names) == self.channels or set(names) != set(self.channels):
            return None
        return np.array([list(names).index(name) for name in self.channels])

    def config(self) -> dict[str, Any]:
        return {"modality": "series", "name": "dilated", "channels": self.channels, "dim": self.dim,
                "width": self.width, "depth": self.depth, "scales": self.scales, "pool": self.pool}  # fmt: skip


def pooled(h: Tensor, inner: Tensor, pool: str) -> Tensor:
    """Vectors of steps (n, T, d) -> (n, d) over the steps `inner` (n, T): "max", "mean" or "last"; 0 for a series
    without steps."""
    if pool == "max":
        found = h.masked_fill(~inner[..., None], -torch.inf).amax(1)
        return found.masked_fill(~inner.any(1, keepdim=True), 0.0)
    if pool == "mean":
        return (h * inner[..., None]).sum(1) / inner.sum(1, keepdim=True).clamp(min=1)
    last = (inner.sum(1) - 1).clamp(min=0)
    return h[torch.arange(len(h), device=h.device), last]
