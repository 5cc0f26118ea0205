"""Several encoders of one input side by side: their vectors one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.encoders.base import Encoder
from nearfar.errors import InputError
from nearfar.heads import describe


class Joined(Encoder):
    """x -> [f_0(x); f_1(x); ...], (n, sum of dims). All parts prepare their input as the first does.

    heads: one of each part, which it passes first; None: none. `widths`: the length of each part's vector. Raises
    InputError: no part, parts of different modalities, or another number of heads.
    """

    def __init__(self, parts: Sequence[Encoder], heads: Sequence[nn.Module] | None = None):
        super().__init__()
        if not parts or len({p.modality for p in parts}) > 1 or (heads is not None and len(heads) != len(parts)):
            raise InputError("Joined encoders need one modality and at least one part, with a head each or none.")
        self.parts = nn.ModuleList(parts)
        self.heads = None if heads is None else nn.ModuleList(heads)
        self.modality = parts[0].modality  # pyright: ignore[reportAttributeAccessIssue]
        self.widths = [p.dim for p in parts] if heads is None else [_width(head) for head in heads]
        self.dim = sum(self.widths)
        self.pretrained = all(p.pretrained for p in parts)

    @property
    def first(self) -> Any:
        return self.parts[0]

    def forward(self, x: Any) -> Tensor:
        each = [part(x) for part in self.parts]
        return torch.cat(each if self.heads is None else [head(h) for head, h in zip(self.heads, each)], 1)

    def feature_map(self, x: Tensor, layer: int | None = None) -> Tensor:
        """(n, sum of C, h, w): the maps of all parts, which have one shape."""
        maps: list[Any] = [part.feature_map(x, layer) for part in self.parts]  # pyright: ignore[reportCallIssue]
        return torch.cat(maps, 1)

    def check_layer(self, layer: int | None) -> None:
        """Raises InputError for a layer that the parts lack."""
        self.first.check_layer(layer)

    def prepare(self, items: Any) -> Any:
        return self.first.prepare(items)

    def config(self) -> dict[str, Any]:
        said: dict[str, Any] = {"modality": self.modality, "joined": [p.config() for p in self.parts]}  # pyright: ignore
        return said if self.heads is None else said | {"heads": [describe(head) for head in self.heads]}

    def save_files(self, folder: Path) -> None:
        self.first.save_files(folder)

    @property
    def size(self) -> int:
        """The side of the images."""
        return self.first.size

    @property
    def mean(self) -> Tensor:
        """The mean that the first part takes from images."""
        return self.first.mean

    @property
    def std(self) -> Tensor:
        """The deviation by which the first part divides images."""
        return self.first.std

    @property
    def special(self) -> Any:
        """The special ids of texts."""
        return self.first.special

    def encode_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Content ids of each text."""
        return self.first.encode_ids(texts)

    def build(self, rows: Sequence[Sequence[int]]) -> Any:
        """Lists of content ids -> Tokens."""
        return self.first.build(rows)


def _width(head: nn.Module) -> int:
    return [layer["out"] for layer in describe(head) if layer["layer"] == "linear"][-1]
