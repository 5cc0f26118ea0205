"""What methods share that look at the single steps of time series."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from nearfar.encoders import Encoder
from nearfar.errors import InputError
from nearfar.methods.base import Method
from nearfar.methods.batch import Batch
from nearfar.methods.tower import Tower
from nearfar.momentum import Average

StepMask = Literal["binomial", "continuous", "last", "none"]
RUNS, RUN = 5, 0.1  # of continuous masks: how many, and of which share of the steps


class Averaged(Method):
    """A method of one tower whose weights are averaged over its steps, where `average` is there; the mean is kept."""

    tower: Tower
    average: Average | None

    def after_step(self, embedded: dict[str, Any], batch: Batch) -> None:
        if self.average is not None:
            self.average.update(self.tower)

    def towers(self) -> dict[str, Tower]:
        kept: Any = self.tower if self.average is None else self.average.module
        return {self.role: kept}


def stepwise(encoder: Encoder, slug: str) -> Any:
    """The encoder, where it gives a vector of every step. Raises InputError for one that does not."""
    if not hasattr(encoder, "steps"):
        raise InputError(f"'{slug}' needs the vectors of single steps, which a frozen or joined encoder does not give.",
                         "Leave out --freeze.")  # fmt: skip
    return encoder


def kept_steps(mask: StepMask, series: int, steps: int, generator: torch.Generator) -> Tensor:
    """bool (series, steps): the steps that are seen. binomial: each with probability 1/2; continuous: all but 5 runs of
    a tenth; last: all but the last; none: all. Source: TS2Vec, the released code."""
    shape, device = (series, steps), generator.device
    if mask == "binomial":
        return torch.rand(shape, generator=generator, device=device) < 0.5
    keep = torch.ones(shape, dtype=torch.bool, device=device)
    if mask == "last":
        keep[:, -1] = False
    if mask == "continuous":
        length = max(1, int(RUN * steps))
        start = torch.randint(0, steps - length + 1, (series, RUNS), generator=generator, device=device)
        place = torch.arange(steps, device=device)
        keep &= ~((place >= start[..., None]) & (place < start[..., None] + length)).any(1)
    return keep


def rows_from(x: Tensor, start: Tensor, length: int) -> Tensor:
    """`length` steps of each series (n, T, C) from its own start (n,) on."""
    place = start[:, None] + torch.arange(length, device=x.device)
    return x.gather(1, place[..., None].expand(-1, -1, x.shape[2]))
