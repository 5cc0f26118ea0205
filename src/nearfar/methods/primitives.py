"""What a model of visual primitives answers (CoT, ICCV 2023): compositions by the cosines of an object's vector, an
attribute's and a pair's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nearfar.errors import InputError
from nearfar.heads.primitives import LabelComposer, Primitives
from nearfar.losses import primitives as equations
from nearfar.methods.composing import Composing, Name
from nearfar.methods.inference import Request

if TYPE_CHECKING:
    from nearfar.evaluation import Diagnostic
    from nearfar.sources.data import Data

CHUNK = 4096  # compositions whose labels are made at once


class ComposedPrimitives(Composing):
    """Scores compositions by three cosines. layers: whose maps are read; scale: of the scores."""

    def __init__(
        self, primitives: Primitives, composer: LabelComposer, layers: Sequence[int], scale: float, **names: Any
    ):
        super().__init__(**names)
        self.primitives, self.composer, self.layers, self.scale = primitives, composer, tuple(layers), scale

    @classmethod
    def restored(cls, config: Mapping[str, Any]) -> ComposedPrimitives:
        """As `config` says, with fresh weights."""
        names, width = Composing.names_in(config), config["words"]
        composer = LabelComposer(*(torch.zeros(len(names[side]), width) for side in ("attributes", "objects")))
        return cls(Primitives(**config["primitives"]), composer, config["layers"], config["scale"], **names)

    def config(self) -> dict[str, Any]:
        return super().config() | {"primitives": self.primitives.sizes, "words": self.composer.objects.shape[1],
                                   "layers": list(self.layers), "scale": self.scale}  # fmt: skip

    def of_compositions(self, data: Data, rows: np.ndarray, embed: Any, candidates: Sequence[Name]) -> Tensor:
        pairs, words = torch.from_numpy(self.numbers(candidates)).to(self.composer.objects.device), self.composer
        found = []
        labels = torch.cat([words.labels(equations.attribute_shares(part, len(self.attributes)), part[:, -1])
                            for part in pairs.split(CHUNK)])  # fmt: skip
        for vector, maps in embed.with_maps(self.role, rows, self.layers):
            item, attribute, pair = self.primitives(vector, maps)
            found.append(equations.composition_scores(pair, attribute, item, labels, words.attributes,
                                                      words.objects, pairs))  # fmt: skip
        return self.scale * torch.cat(found)

    def of_words(self, names: Sequence[str]) -> np.ndarray | None:
        """The trained words, of attributes or of objects; of names that are both, those of the side they are all of."""
        sides = [(self.attributes, self.composer.attributes), (self.objects, self.composer.objects)]
        for known, table in sorted(sides, key=lambda side: set(names) != set(side[0])):
            if set(names) <= set(known):
                return table.detach().cpu().numpy()[[known.index(name) for name in names]]
        return None

    def diagnostics(self, request: Request) -> Sequence[Diagnostic]:
        from nearfar.evaluation.guidance import guidance_diagnostics

        if not self.primitives.guides:
            return ()
        with torch.inference_mode():
            return guidance_diagnostics(self.gates(request))

    def gates(self, request: Request) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
        """Of each batch and layer: its name, the gates of its channels (n, C), those of its places (n, h w), and those
        of the channels with the vector of another row's object."""
        for vector, maps in request.embed.with_maps(self.role, request.rows, self.layers):
            item = self.primitives.objects(vector)
            guides: Any = self.primitives.guides
            for layer, guide, x in zip(self.layers, guides, maps, strict=True):
                channels, _, places = guide.gates(x, item)
                yield (f"layer {layer}", channels.sigmoid().cpu(), places.sigmoid().flatten(1).cpu(),
                       guide.gates(x, item.roll(1, 0))[0].sigmoid().cpu())  # fmt: skip


def layers_between(depth: int) -> tuple[int, int, int]:
    """A quarter, half and three quarters of a deep network's layers, the deepest first (of 12: 9, 6, 3); of one of 6 at
    most the last three but the last itself. Raises InputError for fewer than three."""
    if depth < 3:
        raise InputError(f"'cot' reads maps of three layers; this encoder has {depth}.", "Choose another --encoder.")
    if depth <= 6:
        last = max(3, depth - 1)
        return last, last - 1, last - 2
    return round(3 * depth / 4), round(depth / 2), round(depth / 4)


__all__ = ["ComposedPrimitives", "layers_between"]
