"""Views: what is contrasted. Batched, each item with its own random numbers from a given generator.

    plan = views.build("two-crops", strength=0.8)
    a, b = plan(pictures, generator)                    # uint8 (n, 3, H, W) -> two float (n, 3, H, W) in [0, 1]
"""

from typing import Any

from nearfar.errors import InputError, did_you_mean
from nearfar.options import read
from nearfar.views.image import Augment, Drawn, ImageViews, Members, MultiCrop, TwoCrops, simclr_augment
from nearfar.views.plan import Views
from nearfar.views.text import Crops, Delete, InverseCloze, Mask, TextViews, Twice

plans: dict[str, type[Views]] = {
    "two-crops": TwoCrops, "multi-crop": MultiCrop, "members": Members,
    "crops": Crops, "ict": InverseCloze, "twice": Twice, "delete": Delete, "mask": Mask,
}


def build(name: str, **options: Any) -> Views:
    """The plan of that short name (see `plans`) with its constructor's options; InputError for a wrong name."""
    if name not in plans:
        raise InputError(f"There are no views '{name}'.{did_you_mean(name, plans)}", f"Known: {', '.join(plans)}.")
    known = list(read(plans[name]))
    for option in options:
        if option not in known:
            raise InputError(f"The views '{name}' have no option '{option}'.{did_you_mean(option, known)}",
                             f"Options: {', '.join(known) or 'none'}.")
    return plans[name](**options)


__all__ = ["Augment", "Crops", "Delete", "Drawn", "ImageViews", "InverseCloze", "Mask", "Members", "MultiCrop",
           "TextViews", "Twice", "TwoCrops", "Views", "build", "plans", "simclr_augment"]
