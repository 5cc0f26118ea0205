"""The built-in data set `emoji-colours`: drawings of shapes in up to eleven colours (purple heart): 36 compositions of
a colour and a shape, some of which are never trained on.

Drawings and names: those of the set `emoji`, in the three styles that show colours.
"""

from __future__ import annotations

from typing import Any

from nearfar.sources.raw import Raw
from nearfar.sources.sets import register
from nearfar.sources.sets.emoji import composed

COLOURS = ("black", "blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow")
SHAPES = ("book", "circle", "heart", "large diamond", "small diamond", "square")


@register
def open_emoji_colours() -> Raw:
    """One row a drawing: attribute = the colour, object = the shape. A part of the compositions, drawn with the seed of
    the split, is never trained on."""
    why = {"attribute": "the colour that the name says", "object": "Unicode's name without the colour"}
    return composed("emoji-colours", "colour", colour_and_shape, why, (COLOURS, SHAPES))


def colour_and_shape(row: dict[str, Any]) -> tuple[str, str] | None:
    """The colour and the shape that a name says; black and white squares are those that Unicode calls large."""
    words = str(row["name"]).casefold().split()
    colours = [word for word in words if word in COLOURS]
    shape = " ".join(word for word in words if word not in COLOURS)
    shape = "square" if shape == "large square" else shape
    return (colours[0], shape) if len(colours) == 1 and shape in SHAPES else None
