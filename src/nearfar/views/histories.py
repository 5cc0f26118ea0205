"""Views of histories: a part of the items, some of them hidden, a stretch in another order (CL4SRec, ICDE 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from nearfar.checks import UnitInterval, check_fields
from nearfar.encoders.base import Features
from nearfar.encoders.histories import PAD, Histories
from nearfar.errors import InputError
from nearfar.views.plan import Views

Operator = Literal["crop", "mask", "reorder"]


def crop(x: Histories, share: float, generator: torch.Generator) -> Histories:
    """A stretch of floor(share l) items (one at least) from a place drawn for each history, moved to the front."""
    kept = _count(x, share).clamp(min=1).minimum(x.lengths)
    start = _start(x, kept, generator)
    places = torch.arange(x.ids.shape[1], device=x.ids.device)
    ids = x.ids.gather(1, (start[:, None] + places).clamp(max=x.ids.shape[1] - 1))
    return Histories(ids.masked_fill(places >= kept[:, None], PAD), kept)


def mask(x: Histories, share: float, generator: torch.Generator, hidden: int = PAD) -> Histories:
    """floor(share l) places drawn for each history hold the id `hidden`; the length stays."""
    score = _uniform(x.ids.shape, x, generator).masked_fill(~x.there, 2.0)
    chosen = score.argsort(1).argsort(1) < _count(x, share)[:, None]
    return Histories(x.ids.masked_fill(chosen, hidden), x.lengths)


def reorder(x: Histories, share: float, generator: torch.Generator) -> Histories:
    """The items of a stretch of floor(share l) places, drawn for each history, in a random order."""
    block = _count(x, share)
    start, places = _start(x, block, generator)[:, None], torch.arange(x.ids.shape[1], device=x.ids.device)
    inside = (places >= start) & (places < start + block[:, None])
    score = _uniform(x.ids.shape, x, generator)
    key = torch.where(inside, start + score * block[:, None], places)
    return Histories(x.ids.gather(1, key.argsort(dim=1, stable=True)), x.lengths)


def _count(x: Histories, share: float) -> Tensor:
    """floor(share l), exact where share l is a whole number."""
    return (x.lengths.double() * share + 1e-9).floor().long()


def _start(x: Histories, block: Tensor, generator: torch.Generator) -> Tensor:
    """Where a stretch begins that ends within the history, each place as likely."""
    return (_uniform(x.lengths.shape, x, generator) * (x.lengths - block + 1)).floor().long()


def _uniform(shape: Any, x: Histories, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64).to(x.ids.device)


@dataclass
class CropMaskReorder(Views):
    """Two views of a history, each by an operator that is drawn for it; a history of one item is both views itself.

    Args:
        operators: what is drawn from: crop, mask, reorder.
        crop: share of the items that a crop keeps (eta).
        mask: share of the items that are hidden (gamma).
        reorder: share of the items whose order changes (beta).
        different: whether the two operators of a history differ.
        hidden: what stands in place of a hidden item: a vector of its own (mask), or nothing, which attention leaves
            out (padding).
    """

    operators: Sequence[Operator] = ("crop", "mask", "reorder")
    crop: UnitInterval = 0.5
    mask: UnitInterval = 0.5
    reorder: UnitInterval = 0.8
    different: bool = True
    hidden: Literal["mask", "padding"] = "mask"
    members: int = field(default=1, init=False)
    targets: int = field(default=2, init=False)
    mask_id: int = field(default=-1, init=False, repr=False, compare=False)

    modality = "interactions"

    def __post_init__(self):
        check_fields(self)
        if not self.operators or (self.different and len(set(self.operators)) < 2):
            raise InputError(
                f"Views of two different operators need two. Got {', '.join(self.operators) or 'none'}.",
                "Name more of crop, mask, reorder, or set different to false.",
            )

    def bind(self, encoder: Any) -> CropMaskReorder:
        from nearfar.modalities.interactions import inner

        self.mask_id = PAD if self.hidden == "padding" else inner(encoder).mask_id
        return self

    def __call__(self, inputs: Any, generator: torch.Generator) -> list[Histories]:
        if not isinstance(inputs, Histories):
            got = "what --freeze computed once" if isinstance(inputs, Features) else type(inputs).__name__
            raise InputError(f"Views of histories need histories. Got {got}.",
                             "Leave out --freeze: views change what the encoder sees.")  # fmt: skip
        if self.mask_id < 0:
            raise InputError("The views do not know the encoder's mask yet.", "Call views.bind(encoder) first.")
        return [self.view(inputs, chosen, generator) for chosen in self.drawn(len(inputs.ids), generator)]

    def drawn(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Of each of n histories the numbers of its two operators, (n,) each."""
        names = list(dict.fromkeys(self.operators))
        device = generator.device
        first = torch.randint(len(names), (n,), generator=generator, device=device)
        if not self.different:
            return first, torch.randint(len(names), (n,), generator=generator, device=device)
        return first, (first + torch.randint(1, len(names), (n,), generator=generator, device=device)) % len(names)

    def view(self, x: Histories, chosen: Tensor, generator: torch.Generator) -> Histories:
        """Each history changed by its operator."""
        made = {
            "crop": lambda: crop(x, self.crop, generator),
            "mask": lambda: mask(x, self.mask, generator, self.mask_id),
            "reorder": lambda: reorder(x, self.reorder, generator),
        }
        ids, lengths, several = x.ids, x.lengths, x.lengths > 1
        for number, name in enumerate(dict.fromkeys(self.operators)):
            changed, here = made[name](), (chosen.to(x.ids.device) == number) & several
            ids = torch.where(here[:, None], changed.ids, ids)
            lengths = torch.where(here, changed.lengths, lengths)
        return Histories(ids, lengths)
