"""Gates of pairs of classes: which dimensions of a vector two classes are compared in (Hydra, arXiv 2410.18200)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nearfar.checks import Width, checked_init, one_of

Kind = Literal["pair", "product", "stochastic", "gumbel"]
SPREAD = 0.5  # standard deviation of the noise of stochastic gates


@checked_init
class PairGate(nn.Module):
    """g(y1, y2) in [0, 1]^D, the same for (y2, y1), from a learned vector of each class.

    e = (E[y1] + E[y2]) / 2;  a = W2 BN(ReLU(W1 BN(ReLU(e)) + b1)) + b2;  g = sigmoid(a).
    kind: pair (as above); product of the gates of both classes alone; stochastic: clamp(a + 1/2 + noise, 0, 1), in
    training with noise of standard deviation 0.5; gumbel: sigmoid(a + noise), in training with logistic noise. Its
    batch norm sees the pairs of the batch: at least two in training.
    Args: classes: C; dim: D; width: of the classes' vectors (paper: 512); hidden: of the layer between (paper: 1024).
    """

    def __init__(self, classes: Width, dim: Width, width: Width = 512, hidden: Width = 1024, kind: str = "pair"):
        super().__init__()
        one_of("gate", kind, get_args(Kind))
        self.kind, self.sizes = kind, {"classes": classes, "dim": dim, "width": width, "hidden": hidden, "kind": kind}
        self.vectors = nn.Embedding(classes, width)
        self.net = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(width), nn.Linear(width, hidden), nn.ReLU(),
                                 nn.BatchNorm1d(hidden), nn.Linear(hidden, dim))  # fmt: skip

    def forward(self, first: Tensor, second: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(n,) and (n,) classes -> (n, D); generator: of the noise of stochastic and gumbel gates."""
        if self.kind == "product":
            one, two = self.net(torch.cat([self.vectors(first), self.vectors(second)])).sigmoid().chunk(2)
            return one * two
        a = self.net((self.vectors(first) + self.vectors(second)) / 2)
        if self.kind == "stochastic":
            noise = torch.randn(a.shape, generator=generator, device=a.device) if self.training else 0.0
            return (a + 0.5 + SPREAD * noise).clamp(0, 1)
        if self.kind == "gumbel" and self.training:
            u = torch.rand(a.shape, generator=generator, device=a.device).clamp(1e-6, 1 - 1e-6)
            a = a + u.log() - (1 - u).log()
        return a.sigmoid()

    def of_classes(self) -> Tensor:
        """The gate of every class with itself, (C, D). In training the batch norm sees these pairs, but keeps nothing
        of them: its running statistics are those of the pairs of batches."""
        every = torch.arange(self.sizes["classes"], device=self.vectors.weight.device)
        norms = [one for one in self.net if isinstance(one, _BatchNorm)]
        try:
            for one in norms:
                one.track_running_stats = False
            return self(every, every)
        finally:
            for one in norms:
                one.track_running_stats = True


__all__ = ["PairGate"]
