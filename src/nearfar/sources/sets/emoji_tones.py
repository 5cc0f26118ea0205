"""The built-in data set `emoji-tones`: drawings of hands and other parts of the body in five skin tones (dark waving
hand): 245 compositions of a tone and a gesture, some of which are never trained on.

Drawings and names: those of the set `emoji`, in the three styles that show tones.
"""

from __future__ import annotations

import hashlib
from typing import Any

from datasets import Dataset

from nearfar.sources.raw import Raw
from nearfar.sources.sets import register
from nearfar.sources.sets.emoji import LICENCES, open_emoji

STYLES = ("twemoji", "noto", "openmoji-color")
GROUPS = ("hand-", "hands", "body-parts")


@register
def open_emoji_tones() -> Raw:
    """One row a drawing: attribute = the tone, object = what is drawn. A part of the compositions, drawn with the seed
    of the split, is never trained on."""
    emoji = open_emoji()
    table: Any = emoji.table.select_columns(["key", "image", "style", "tone", "subcategory", "name"])
    rows = [
        {"key": row["key"], "image": row["image"], "style": row["style"], "tone": row["tone"], "drawn": drawn(row),
         "caption": f"a photo of {row['tone']} {drawn(row)}"}
        for row in table
        if row["tone"] and row["style"] in STYLES and row["subcategory"].startswith(GROUPS)
    ]  # fmt: skip
    return Raw(
        name="emoji-tones",
        path=None,
        kind="built-in images",
        table=Dataset.from_list(rows),
        fingerprint=hashlib.sha256((emoji.fingerprint + repr((STYLES, GROUPS))).encode()).hexdigest(),
        roles={"image": "image", "text": "caption", "attribute": ["tone"], "object": "drawn", "domain": "style",
               "id": "key"},
        reasons={
            "image": "a drawing, 48 x 48 pixels",
            "text": "names attribute and object",
            "attribute": "the skin tone",
            "object": "Unicode's name without the tone",
            "domain": "the drawing style",
            "id": "style and code points",
        },
        meta={"licences": {name: LICENCES[name] for name in (*STYLES, "text")},
              "attribution": emoji.meta["attribution"], "native_size": 48},
    )  # fmt: skip


def drawn(row: dict[str, Any]) -> str:
    """The name of an emoji without its tone."""
    return str(row["name"]).partition(":")[0].strip()
