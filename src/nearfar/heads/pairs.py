"""A score of two vectors by a small network, of which the encoder knows nothing: each side is encoded once."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nearfar.checks import one_of
from nearfar.errors import InputError

HEADS = ("features", "dot", "dot-layers")


def pair_features(u: Float[Tensor, "n d"], v: Float[Tensor, "n d"]) -> Float[Tensor, "n 4d"]:
    """[u, v, u * v, |u - v|] of the two sides of each pair. Swapping the sides swaps the first two blocks alone.

    Raises InputError for other shapes. Source: DSE (arXiv 1908.05161), section "pairwise embedding similarity".
    """
    if u.dim() != 2 or u.shape != v.shape:
        raise InputError(f"The two sides must be (n, d) alike. Got {tuple(u.shape)} and {tuple(v.shape)}.")
    return torch.cat([u, v, u * v, (u - v).abs()], 1)


class PairHead(nn.Module):
    """(n, dim), (n, dim) -> (n, outputs).

    kind: "features": `pair_features` -> linear to `hidden` -> ReLU -> linear; "dot": the inner product, one output;
    "dot-layers": the inner product through the same two layers, symmetric in its sides. Raises InputError for a plain
    inner product with several outputs.
    """

    def __init__(self, dim: int, outputs: int = 1, kind: str = "features", hidden: int = 512):
        super().__init__()
        one_of("head", kind, HEADS)
        if kind == "dot" and outputs > 1:
            raise InputError(f"The head 'dot' gives one number, and {outputs} classes need as many.",
                             "Use the head 'features' or 'dot-layers'.")  # fmt: skip
        self.dim, self.outputs, self.kind, self.hidden = dim, outputs, kind, hidden
        inputs = 4 * dim if kind == "features" else 1
        layers = [nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs)]
        self.layers = nn.Identity() if kind == "dot" else nn.Sequential(*layers)

    def config(self) -> dict[str, int | str]:
        """The arguments that build it again."""
        return {"dim": self.dim, "outputs": self.outputs, "kind": self.kind, "hidden": self.hidden}

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        return self.layers(pair_features(u, v) if self.kind == "features" else (u * v).sum(1, keepdim=True))
