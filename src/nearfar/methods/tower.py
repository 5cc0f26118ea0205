"""The encoder and the head of one role."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nearfar.encoders.base import Features


class Tower(nn.Module):
    """Encoder and head of one role. `kept`: the head belongs to the embedding, not to training alone."""

    encoder: Any
    head: nn.Module | None

    def __init__(self, encoder: nn.Module, head: nn.Module | None = None, kept: bool = False):
        super().__init__()
        self.encoder, self.head, self.kept = encoder, head, kept

    def features(self, x: Any) -> Tensor:
        """(n, encoder.dim). `Features` of a frozen encoder pass through."""
        return x.values if isinstance(x, Features) else self.encoder(x)

    def project(self, h: Tensor) -> Tensor:
        """Features (n, encoder.dim) through the head."""
        return h if self.head is None else self.head(h)

    def forward(self, x: Any) -> Tensor:
        return self.project(self.features(x))

    def embed(self, x: Any) -> Tensor:
        """What the model gives at inference."""
        return self(x) if self.kept else self.features(x)
