"""Heads: what stands between an encoder's vector and the contrast, and is usually thrown away after training.

head = heads.mlp(encoder.dim, 2048, 128)            # projection head: SimCLR, SwAV
prototypes = heads.Prototypes(3000, 128)            # SwAV
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearfar.checks import PositiveInt, Width, checked, checked_init, one_of
from nearfar.heads.asymmetric import AsymmetricHead
from nearfar.heads.described import build, describe, width
from nearfar.heads.ensemble import Ensemble, joined_vectors
from nearfar.heads.gates import PairGate
from nearfar.heads.pairs import PairHead, pair_features
from nearfar.heads.prefix import Prefix
from nearfar.heads.whitening import group_whitening, whitened_views, whitening_matrix

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "elu": nn.ELU,
    "prelu": nn.PReLU,
}


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """(n, inputs) -> (n, outputs), without anything else."""
    return nn.Linear(inputs, outputs, bias=bias)


@checked
def mlp(
    inputs: Width,
    hidden: Width,
    outputs: Width,
    layers: PositiveInt = 2,
    norm: bool = True,
    last_norm: bool | Literal["layer"] = False,
    activation: Literal["relu", "elu", "prelu"] = "relu",
) -> nn.Sequential:
    """`layers` linear layers with ReLU (or ELU, PReLU) between them: (n, inputs) -> (n, outputs).

    Args:
        hidden: width of the inner layers.
        layers: how many linear layers; 1 is a single linear layer.
        norm: batch norm before each ReLU (the linear layer before it then has no bias).
        last_norm: batch norm without scale and shift after the last layer (SimCLR's official head has one); "layer":
            layer norm, which leaves each dimension free to vanish (Hydra).
        activation: between the layers; GRACE's head has ELU, BGRL's predictor PReLU.

    The papers' heads: SimCLR mlp(d, d, 128), SwAV mlp(2048, 2048, 128), BYOL mlp(2048, 4096, 256).
    """
    widths = [inputs, *[hidden] * (layers - 1), outputs]
    parts: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(widths)):
        last = i == layers - 1
        normed = last_norm is True if last else norm
        parts.append(nn.Linear(before, after, bias=not normed))
        if normed:
            parts.append(nn.BatchNorm1d(after, affine=not last))
        if not last:
            parts.append(ACTIVATIONS[activation]())
        elif last_norm == "layer":
            parts.append(nn.LayerNorm(after))
    return nn.Sequential(*parts)


def predictor(dim: int, hidden: int) -> nn.Sequential:
    """The small network on one side only of BYOL and its kind: mlp(dim, hidden, dim). Paper: dim 256, hidden 4096."""
    return mlp(dim, hidden, dim)


def pooler(dim: int, kind: str = "mlp") -> nn.Sequential:
    """(n, dim) -> (n, dim). "mlp": layer norm, linear, tanh, linear, which does not see the length
    of its input; "tanh": linear and tanh, as BERT's and SimCSE's. Source: MoE Embeddings (arXiv 2401.15713), both
    generations."""
    one_of("pooler", kind, ("mlp", "tanh"))
    if kind == "tanh":
        return nn.Sequential(nn.Linear(dim, dim), nn.Tanh())
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, dim))


@checked_init
class Prototypes(nn.Module):
    """K directions on the unit sphere of R^d, to which vectors are compared (SwAV: K = 3000, d = 128).

    `forward(z)` gives the scores z C^T (n, K). `normalise()` projects the rows back to length 1 in place, without
    gradient; call it at the start of every step.
    """

    weight: nn.Parameter

    def __init__(self, count: Width, dim: Width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, dim))
        self.normalise()

    @torch.no_grad()
    def normalise(self) -> None:
        self.weight.copy_(F.normalize(self.weight, dim=1))

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.weight.T

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, dim={self.weight.shape[1]}"


__all__ = [
    "AsymmetricHead",
    "Ensemble",
    "PairGate",
    "PairHead",
    "Prefix",
    "Prototypes",
    "build",
    "describe",
    "group_whitening",
    "joined_vectors",
    "linear",
    "mlp",
    "pair_features",
    "pooler",
    "predictor",
    "whitened_views",
    "whitening_matrix",
    "width",
]
