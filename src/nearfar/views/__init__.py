"""Views: what is contrasted. Batched, each item with its own random numbers from a given generator.

plan = views.build("two-crops", strength=0.8)
a, b = plan(images, generator)                    # uint8 (n, 3, H, W) -> two float (n, 3, H, W) in [0, 1]
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from nearfar import modalities
from nearfar.errors import InputError, did_you_mean
from nearfar.options import read
from nearfar.views.image import Augment, Drawn, ImageViews, Members, MultiCrop, TwoCrops, simclr_augment
from nearfar.views.plan import Views
from nearfar.views.text import Crops, Delete, InverseCloze, Mask, TextViews, Twice


class Plans(Mapping[str, type[Views]]):
    """Name -> class of the views of all kinds of data; a class is imported when it is asked for."""

    def __getitem__(self, name: str) -> type[Views]:
        for kind in modalities.everyone():
            if name in kind.plans:
                module, _, last = kind.plans[name].partition(":")
                return getattr(importlib.import_module(module), last)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for kind in modalities.everyone() for name in kind.plans))

    def __len__(self) -> int:
        return len(list(iter(self)))


plans = Plans()


def build(name: str, **options: Any) -> Views:
    """The plan of that short name (see `plans`) with its constructor's options; InputError for a wrong name."""
    if name not in plans:
        raise InputError(f"There are no views '{name}'.{did_you_mean(name, plans)}", f"Known: {', '.join(plans)}.")
    known = list(read(plans[name]))
    for option in options:
        if option not in known:
            raise InputError(
                f"The views '{name}' have no option '{option}'.{did_you_mean(option, known)}",
                f"Options: {', '.join(known) or 'none'}.",
            )
    return plans[name](**options)


__all__ = [
    "Augment",
    "Crops",
    "Delete",
    "Drawn",
    "ImageViews",
    "InverseCloze",
    "Mask",
    "Members",
    "MultiCrop",
    "TextViews",
    "Twice",
    "TwoCrops",
    "Views",
    "build",
    "plans",
    "simclr_augment",
]
