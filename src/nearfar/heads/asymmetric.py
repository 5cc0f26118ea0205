"""A projection head whose batch norm knows two sides: queries in the statistics of their batch, keys in past ones."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from nearfar.checks import Width, checked_init
from nearfar.errors import InputError


@checked_init
class AsymmetricHead(nn.Module):
    """W2 relu(BN(W1 h + b1)) + b2, (n, inputs) -> (n, outputs), with two modes that share all parameters.

    Queries are normalised by mean and biased variance of their batch, and move the running statistics (momentum 0.1,
    unbiased variance); keys by the running statistics of earlier calls, so that a key says nothing of the other rows
    of its batch, and the sides cannot meet through common statistics. In evaluation mode both take the running ones.

    norm: "asymmetric" as said; "batch": keys are normalised like queries (ordinary batch norm); "running": queries like
    keys. Source: CCP (arXiv 2206.03281), reconstructed. Raises InputError for one query alone in training.
    """

    def __init__(
        self,
        inputs: Width,
        hidden: Width,
        outputs: Width,
        norm: Literal["asymmetric", "batch", "running"] = "asymmetric",
    ):
        super().__init__()
        self.first, self.last = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)
        self.norm, self.kind = nn.BatchNorm1d(hidden), norm

    def forward(self, h: Tensor, key: bool = False) -> Tensor:
        past = not self.training or self.kind == "running" or (key and self.kind == "asymmetric")
        if not past and len(h) < 2:
            raise InputError("One row has no batch statistics.", "Use a batch of two rows or more.")
        x, norm = self.first(h), self.norm
        if past:
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()  # pyright: ignore
            x = (x - norm.running_mean) * scale + norm.bias  # pyright: ignore
        else:
            x = norm(x)
        return self.last(x.relu())
