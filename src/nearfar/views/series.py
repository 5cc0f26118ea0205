"""Views of time series: float (n, T, C) as they stand in the table; NaN is a missing value, or behind the end."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nearfar.checks import NonNegativeFloat, PositiveShare, UnitInterval, check_fields
from nearfar.encoders.base import Features
from nearfar.errors import InputError
from nearfar.views.plan import Views


def draw(shape: tuple[int, ...], generator: torch.Generator, like: Tensor, normal: bool = False) -> Tensor:
    """Numbers from [0, 1), or of the normal distribution, on the device of a tensor."""
    make = torch.randn if normal else torch.rand
    return make(shape, generator=generator, device=generator.device).to(like)


def lengths_of(x: Tensor) -> Tensor:
    """int64 (n,): the steps of each series (n, T, C) up to its last value."""
    seen = ~x.isnan().all(-1)
    return (seen.flip(1).cumsum(1) > 0).sum(1)


def jitter(x: Tensor, generator: torch.Generator, sigma: float, std: Tensor) -> Tensor:
    """Noise of deviation sigma * std (C,) on every value."""
    return x + sigma * std.to(x) * draw(tuple(x.shape), generator, x, normal=True)


def scaling(x: Tensor, generator: torch.Generator, sigma: float, mean: Tensor) -> Tensor:
    """Each channel of each series stretched about `mean` (C,) by a factor from N(1, sigma^2)."""
    factor = 1 + sigma * draw((len(x), 1, x.shape[2]), generator, x, normal=True)
    return (x - mean.to(x)) * factor + mean.to(x)


def crop(x: Tensor, generator: torch.Generator, least: float) -> Tensor:
    """One run of each series, `least` to all of its steps and one at least, moved to the front."""
    u, n, length = draw((2, len(x)), generator, x), x.shape[1], lengths_of(x)
    size = (length * (least + (1 - least) * u[0])).ceil().long().clamp(min=1)
    start = ((length - size + 1).clamp(min=1) * u[1]).floor().long()
    step = torch.arange(n, device=x.device)
    place = (start[:, None] + step).clamp(max=n - 1)
    out = x.gather(1, place[..., None].expand_as(x))
    return out.masked_fill((step >= size[:, None])[..., None], torch.nan)


def mask_steps(x: Tensor, generator: torch.Generator, share: float) -> Tensor:
    """Each step emptied with a probability; of the steps that hold a value one always stays."""
    seen = ~x.isnan().all(-1)
    u = draw(tuple(x.shape[:2]), generator, x).masked_fill(~seen, -1)
    return x.masked_fill(((u < share) & (u < u.amax(1, keepdim=True)))[..., None], torch.nan)


@dataclass
class Distort(Views):
    """Two copies of a series, each cropped, scaled, jittered and with steps emptied.

    Args:
        jitter: deviation of the noise on every value, as a share of its channel's over the training rows.
        scaling: deviation of the factor, about 1, by which each channel is stretched.
        crop: the least share of the steps that is kept, in one run; 1 for all.
        mask: probability that a step is emptied; one always stays.
    """

    modality = "series"
    jitter: NonNegativeFloat = 0.1
    scaling: NonNegativeFloat = 0.1
    crop: PositiveShare = 0.7
    mask: UnitInterval = 0.1
    members: int = field(default=1, init=False)
    targets: int = field(default=2, init=False)
    encoder: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self):
        check_fields(self)

    def bind(self, encoder: Any) -> "Distort":
        from nearfar.modalities.vector import inner

        self.encoder = inner(encoder)
        return self

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> list[Tensor]:
        if not isinstance(inputs, Tensor) or inputs.ndim != 3 or not inputs.is_floating_point():
            got = "what --freeze computed once" if isinstance(inputs, Features) else type(inputs).__name__
            raise InputError(f"Views of series need numbers (n, steps, channels). Got {got}.",
                             "Leave out --freeze: views change what the encoder sees.")  # fmt: skip
        if self.encoder is None:
            raise InputError("The views do not know the encoder's deviations yet.", "Call views.bind(encoder) first.")
        return [self.view(inputs, generator) for _ in range(2)]

    def view(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """One changed copy."""
        if self.crop < 1:
            x = crop(x, generator, self.crop)
        if self.scaling:
            x = scaling(x, generator, self.scaling, self.encoder.mean)
        if self.jitter:
            x = jitter(x, generator, self.jitter, self.encoder.std)
        return mask_steps(x, generator, self.mask) if self.mask else x
