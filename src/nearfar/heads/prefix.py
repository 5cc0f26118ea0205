"""The first numbers of a vector as a vector of its own."""

from __future__ import annotations

from torch import Tensor, nn


class Prefix(nn.Module):
    """(n, d) -> (n, width): the first numbers of what a head gives, or of its input where there is no head."""

    def __init__(self, head: nn.Module | None, width: int):
        super().__init__()
        self.head, self.width = head, width

    def forward(self, x: Tensor) -> Tensor:
        return (x if self.head is None else self.head(x))[..., : self.width]


__all__ = ["Prefix"]
