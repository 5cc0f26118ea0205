"""A learned temperature, kept in log space and in float32, and the bound of a given one."""

import math

import torch
from torch import Tensor, nn

from nearfar.errors import InputError


def check_temperature(temperature: float | Tensor) -> None:
    """Raises InputError for a number that is not above 0; a learned temperature keeps its own bounds."""
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise InputError(f"The temperature must be in (0, inf). Got {temperature}.")


class Temperature(nn.Module):
    """tau = exp(log_tau), one learned scalar.

    Args: init: start; bounds: (least, most), enforced by `project()` after each optimiser step.
    Raises InputError: init outside the bounds.
    """

    def __init__(self, init: float = 0.07, bounds: tuple[float, float] = (0.01, 100.0), learned: bool = True):
        super().__init__()
        if not 0 < bounds[0] <= init <= bounds[1]:
            raise InputError(f"The temperature must lie within {bounds}. Got {init}.")
        self.bounds = bounds
        self.log_tau = nn.Parameter(torch.tensor(math.log(init), dtype=torch.float32), requires_grad=learned)
        self.start = self.log_tau.item()

    def forward(self) -> Tensor:
        return self.log_tau.exp()

    @torch.no_grad()
    def restart(self) -> None:
        """Back to its start, for a stage that begins anew."""
        self.log_tau.fill_(self.start)

    @torch.no_grad()
    def project(self) -> None:
        """Back into the bounds; called after the optimiser step."""
        self.log_tau.clamp_(math.log(self.bounds[0]), math.log(self.bounds[1]))

    def _apply(self, fn, recurse=True):
        kept = self.log_tau.data.clone()  # moves to another device, but is never rounded to half precision
        super()._apply(fn, recurse)
        self.log_tau.data = kept.to(self.log_tau.device)
        return self
