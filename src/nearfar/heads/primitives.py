"""Vectors of an object, of attributes and of both, from maps of several layers and from words (CoT, ICCV 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from nearfar.checks import ShareBelowOne, Width, checked_init, one_of
from nearfar.losses.primitives import guide, guided, let_through

Attention = Literal["object", "pooled", "last"]


class ObjectGuidedAttention(nn.Module):
    """Maps (n, C, h, w) as an object's vector (n, d) sees them: through a gate of each channel, then one of each place.

    channels = W2 ReLU(W1 [v_o; mean F] + b1) + b2, of d + C / 16 hidden numbers; places = BN(conv3x3 of `guide`), two
    channels to one. The batch norm moves by 0.01 a step.
    Args: dim: d; channels: C.
    """

    def __init__(self, dim: int, channels: int):
        super().__init__()
        self.channels = nn.Sequential(nn.Linear(dim + channels, dim + channels // 16), nn.ReLU(),
                                      nn.Linear(dim + channels // 16, channels))  # fmt: skip
        self.places = nn.Sequential(nn.Conv2d(2, 1, 3, padding=1, bias=False), nn.BatchNorm2d(1, momentum=0.01))

    def gates(self, maps: Tensor, objects: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the channels (n, C), the maps behind them, logits of the places (n, 1, h, w)."""
        logits = self.channels(torch.cat([objects, maps.mean((2, 3))], 1))
        through = let_through(maps, logits)
        return logits, through, self.places(guide(objects, through))

    def forward(self, maps: Tensor, objects: Tensor) -> Tensor:
        _, through, places = self.gates(maps, objects)
        return guided(maps, through, places)


@checked_init
class Primitives(nn.Module):
    """Of the vector c (n, inputs) and the maps of several layers of an image: v_o, v_a and v_p, (n, dim) each.

    v_o = W c + b;  v_a = W [mean G_l of each layer] + b, in the order given;
    v_p = W2 ReLU(W1 dropout([v_o; v_a]) + b1) + b2. attention: object (G_l as v_o sees the maps), pooled (the maps as
    they are), last (v_a = W c + b, of the vector alone).
    Args: inputs: of c; channels: of the map of each layer; dim: d; dropout: of the input of v_p.
    """

    def __init__(self, inputs: Width, channels: Sequence[int], dim: Width, attention: str = "object",
                 dropout: ShareBelowOne = 0.2):  # fmt: skip
        super().__init__()
        one_of("attention", attention, get_args(Attention))
        self.sizes: dict[str, Any] = {"inputs": inputs, "channels": list(channels), "dim": dim, "attention": attention,
                                      "dropout": dropout}  # fmt: skip
        self.attention = attention
        self.objects = nn.Linear(inputs, dim)
        self.guides = nn.ModuleList(ObjectGuidedAttention(dim, c) for c in channels if attention == "object")
        self.attributes = nn.Linear(inputs if attention == "last" else sum(channels), dim)
        self.pairs = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, vector: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        item = self.objects(vector)
        if self.attention == "last":
            attribute = self.attributes(vector)
        else:
            seen = [one(x, item) for one, x in zip(self.guides, maps, strict=True)] if self.guides else maps
            attribute = self.attributes(torch.cat([x.mean((2, 3)) for x in seen], 1))
        return item, attribute, self.pairs(torch.cat([item, attribute], 1))


class LabelComposer(nn.Module):
    """Words of attributes (A, w) and objects (O, w), all trained, and the label of a pair of them, (K, w).

    y = W3 ReLU(BN(W2 ReLU(BN(W1 [object; attribute])))), 3 w and 2 w numbers between. In training the batch norms see
    the pairs that are asked about: two at least.
    """

    def __init__(self, attributes: Tensor, objects: Tensor):
        super().__init__()
        w = attributes.shape[1]
        self.attributes, self.objects = nn.Parameter(attributes.clone()), nn.Parameter(objects.clone())
        self.net = nn.Sequential(nn.Linear(2 * w, 3 * w), nn.BatchNorm1d(3 * w), nn.ReLU(), nn.Linear(3 * w, 2 * w),
                                 nn.BatchNorm1d(2 * w), nn.ReLU(), nn.Linear(2 * w, w))  # fmt: skip

    def forward(self, attributes: Tensor, objects: Tensor) -> Tensor:
        """attributes, objects: the words of each pair, (K, w)."""
        return self.net(torch.cat([objects, attributes], 1))

    def words(self, shares: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
        """Words of pairs: the mean of their attributes', and their objects'. shares (K, A); objects (K,)."""
        return shares.to(self.attributes.dtype) @ self.attributes, self.objects[objects]

    def labels(self, shares: Tensor, objects: Tensor) -> Tensor:
        return self(*self.words(shares, objects))


__all__ = ["Attention", "LabelComposer", "ObjectGuidedAttention", "Primitives"]
