"""The first numbers of a vector as a vector of its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def first_numbers(z: Any, width: int) -> Any:
    """The first numbers of vectors (..., d): (..., width). They are vectors of their own where a model was trained so
    (Matryoshka), and have a length of their own."""
    return z[..., :width]


class Prefix(nn.Module):
    """(n, d) -> (n, width): the first numbers of what a head gives, or of its input where there is no head."""

    def __init__(self, head: nn.Module | None, width: int):
        super().__init__()
        self.head, self.width = head, width

    def forward(self, x: Tensor) -> Tensor:
        return first_numbers(x if self.head is None else self.head(x), self.width)


__all__ = ["Prefix", "first_numbers"]
