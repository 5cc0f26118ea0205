"""Views of rows of numbers: float (n, d) as they stand in the table; NaN is an empty number."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nearfar.checks import NonNegativeFloat, UnitInterval, check_fields
from nearfar.encoders.base import Features
from nearfar.errors import InputError
from nearfar.views.plan import Views


class VectorViews(Views):
    """A plan over rows of numbers."""

    modality = "vector"

    def view(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """One changed copy."""
        raise NotImplementedError

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> list[Tensor]:
        if not isinstance(inputs, Tensor) or inputs.ndim != 2 or not inputs.is_floating_point():
            got = "what --freeze computed once" if isinstance(inputs, Features) else type(inputs).__name__
            raise InputError(f"Vector views need rows of numbers (n, d). Got {got}.",
                             "Leave out --freeze: views change what the encoder sees.")  # fmt: skip
        return [self.view(inputs, generator) for _ in range(2)]


@dataclass
class Corrupt(VectorViews):
    """A row, and a copy of it in which some numbers come from other rows (Bahri et al., SCARF, ICLR 2022).

    In the copy floor(rate d) numbers, another choice for each row, are replaced by the same number of a row drawn from
    the batch: a draw from the number's own distribution, whatever its unit. (The paper draws from the training set.)

    Args:
        rate: share of the numbers that are replaced (paper: 0.6).
        both: corrupt both views instead of one.
    """

    rate: UnitInterval = 0.6
    both: bool = False
    members: int = field(default=1, init=False)
    targets: int = field(default=2, init=False)

    def __post_init__(self):
        check_fields(self)

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> list[Tensor]:
        first, second = super().__call__(inputs, generator)
        return [first if self.both else inputs, second]

    def view(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        n, d = rows.shape
        order = torch.rand(n, d, generator=generator, device=generator.device).argsort(1).to(rows.device)
        source = torch.randint(n, (n, d), generator=generator, device=generator.device).to(rows.device)
        return torch.where(order < int(self.rate * d), rows.gather(0, source), rows)


@dataclass
class Noise(VectorViews):
    """Two copies of a row, each with noise added and some numbers emptied, which puts them at their mean.

    Args:
        sigma: deviation of the noise, as a share of each number's deviation over the training rows.
        drop: probability that a number is emptied; one at random always stays.
    """

    sigma: NonNegativeFloat = 0.3
    drop: UnitInterval = 0.2
    members: int = field(default=1, init=False)
    targets: int = field(default=2, init=False)
    std: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self):
        check_fields(self)

    def bind(self, encoder: Any) -> "Noise":
        from nearfar.modalities.vector import inner

        self.std = inner(encoder).std
        return self

    def view(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        if self.std is None:
            raise InputError("Noise does not know the encoder's deviations yet.", "Call views.bind(encoder) first.")
        u = torch.rand(rows.shape, generator=generator, device=generator.device).to(rows.device)
        noise = torch.randn(rows.shape, generator=generator, device=generator.device).to(rows.device)
        keep = (u >= self.drop) | (u == u.max(1, keepdim=True).values)
        return (rows + self.sigma * self.std.to(rows.device) * noise).masked_fill(~keep, float("nan"))
