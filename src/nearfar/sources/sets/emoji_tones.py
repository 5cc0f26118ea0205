"""The built-in data set `emoji-tones`: drawings of hands and other parts of the body in five skin tones (dark waving
hand): 245 compositions of a tone and a gesture, some of which are never trained on.

Drawings and names: those of the set `emoji`, in the three styles that show tones.
"""

from __future__ import annotations

from typing import Any

from nearfar.sources.raw import Raw
from nearfar.sources.sets import register
from nearfar.sources.sets.emoji import composed

GROUPS = ("hand-", "hands", "body-parts")


@register
def open_emoji_tones() -> Raw:
    """One row a drawing: attribute = the tone, object = what is drawn. A part of the compositions, drawn with the seed
    of the split, is never trained on."""
    why = {"attribute": "the skin tone", "object": "Unicode's name without the tone"}
    return composed("emoji-tones", "tone", tone_and_gesture, why, GROUPS)


def tone_and_gesture(row: dict[str, Any]) -> tuple[str, str] | None:
    """The skin tone of a drawing and its name without it; None for what shows no tone or is no part of the body."""
    if not row["tone"] or not row["subcategory"].startswith(GROUPS):
        return None
    return row["tone"], str(row["name"]).partition(":")[0].strip()
