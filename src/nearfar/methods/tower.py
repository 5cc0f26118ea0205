"""The encoder and the head of one role."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from nearfar import heads
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

    def variants(self) -> dict[str, Tower]:
        """The towers of the heads that the kept one joins, by the names of what they give; none where it joins none."""
        if not (self.kept and isinstance(self.head, heads.Ensemble)):
            return {}
        made = {name: Tower(self.encoder, head, True) for name, head in self.head.variants().items()}
        for one in made.values():
            one.training = self.training  # of the wrapper alone: encoder and head are shared
        return made

    @property
    def blocks(self) -> tuple[int, ...]:
        """The widths of the vectors that stand side by side in what it gives; empty where there is one alone."""
        made = [t.head for t in self.variants().values() if t.head is not None]
        return tuple(heads.width(heads.describe(head), self.encoder.dim) for head in made)

    def embed(self, x: Any) -> Tensor:
        """What the model gives at inference."""
        return self(x) if self.kept else self.features(x)


def with_heads(towers: Mapping[str, Tower]) -> dict[str, Tower]:
    """The towers by role, and by role and variant those of the heads that they join."""
    found = dict(towers)
    for role, tower in towers.items():
        for name, made in tower.variants().items():
            found.setdefault(f"{role}/{name}", made)
    return found
