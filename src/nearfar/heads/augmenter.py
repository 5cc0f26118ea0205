"""The learned augmenter of MCLRec: a small network that makes a vector another view of itself."""

from __future__ import annotations

from torch import Tensor, nn

from nearfar.checks import Width, checked_init
from nearfar.similarity import normalise


@checked_init
class Augmenter(nn.Module):
    """w(h) = normalise(W3 gelu(W2 gelu(W1 h + b1) + b2) + b3), (n, dim) -> (n, dim) of length 1; weights N(0, 0.02),
    biases 0. widths: of the two layers between (MCLRec: 32 and 16 of 64). Source: MCLRec, SIGIR 2023."""

    def __init__(self, dim: Width, widths: tuple[Width, Width]):
        super().__init__()
        first, second = widths
        self.net = nn.Sequential(nn.Linear(dim, first), nn.GELU(), nn.Linear(first, second), nn.GELU(),
                                 nn.Linear(second, dim))  # fmt: skip
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, h: Tensor) -> Tensor:
        return normalise(self.net(h))
