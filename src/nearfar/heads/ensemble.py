"""Two heads of one encoder as one vector, whose cosine is the weighted mean of the cosines of both."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nearfar.checks import UnitInterval, check


def joined_vectors(z: Float[Tensor, "n d"], h: Float[Tensor, "n e"], share: float) -> Float[Tensor, "n d+e"]:
    """[sqrt(w) z / |z|, sqrt(1 - w) h / |h|] of length 1: products of two such vectors are w cos z + (1 - w) cos h.

    share: w in [0, 1]. Source: the ensemble of both similarities of CLIP-rocket (arXiv 2305.08675)."""
    from nearfar.similarity import normalise  # slow to import, and most models have no such head

    return torch.cat([math.sqrt(share) * normalise(z), math.sqrt(1 - share) * normalise(h)], -1)


class Ensemble(nn.Module):
    """(n, inputs) -> (n, d + e): `joined_vectors` of what two heads give; each gives a variant of its own."""

    def __init__(self, first: nn.Module, second: nn.Module, share: float = 0.5):
        super().__init__()
        check("share", share, UnitInterval, "argument")
        self.first, self.second, self.share = first, second, share

    def forward(self, x: Tensor) -> Tensor:
        return joined_vectors(self.first(x), self.second(x), self.share)

    def variants(self) -> dict[str, nn.Module]:
        """Its heads by the names of what they give."""
        return {"z": self.first, "h": self.second}


__all__ = ["Ensemble", "joined_vectors"]
