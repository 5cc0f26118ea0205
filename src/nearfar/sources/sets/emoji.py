"""The built-in data set `emoji`: 3,519 emoji, each drawn in four styles by three vendors, with names and keywords in
26 languages.

Drawings: Twemoji (CC-BY 4.0), Noto Emoji (Apache-2.0), OpenMoji (CC-BY-SA 4.0); texts: Unicode CLDR by way of
    emojibase (Unicode-3.0, MIT). Licences and attribution lie beside the data; `scripts/build_emoji.py` makes them.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from nearfar.sources.raw import Raw
from nearfar.sources.sets import register

FOLDER = Path(__file__).parents[1] / "emoji"
TONES = {"1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark"}
VENDORS = {"twemoji": "twemoji", "noto": "noto", "openmoji-color": "openmoji", "openmoji-line": "openmoji"}
COLOURED = ("twemoji", "noto", "openmoji-color")
HELD_OUT = "noto"
LICENCES = {
    "twemoji": "CC-BY 4.0",
    "noto": "Apache-2.0",
    "openmoji-color": "CC-BY-SA 4.0",
    "openmoji-line": "CC-BY-SA 4.0",
    "text": "Unicode-3.0 and MIT",
}
REASONS = {
    "image": "a drawing, 48 x 48 pixels",
    "text": "the English name and keywords; text_de, text_fr... hold other languages",
    "label": "Unicode's own classes",
    "group": "drawings of one emoji are positives of each other",
    "unit": "variants by tone and gender, and shared artwork, stay together",
    "domain": "the drawing style",
    "id": "style and code points",
}


@register
def open_emoji(split: str | None = None) -> Raw:
    """One row a drawing, ordered by style, then by emoji.

    Splits (70/15/15 of the families; a family holds the variants of an emoji by tone, gender and facing side, and
    every emoji that shares exact artwork with one of them in any style):
      default        unseen emoji: queries and gallery of val and test are drawings, in all four styles, of families
      never trained on. "unseen-hand"  the vendor noto is held out with all its styles: train and val hold no Noto
      drawing, and val holds families never
                     trained on. Test holds all four styles of the test families, so its emoji are unseen and Noto's
                     hand is too: queries are the Noto drawings, the gallery is one of the other styles, one after the
                     other (meta["directions"]); Noto drawings of training and validation emoji are in no split.
    """
    parts = [_style(style) for style in VENDORS]
    table = pa.concat_tables(parts).combine_chunks()
    meta: dict = {
        "shared_outline": [["openmoji-color", "openmoji-line"]],
        "licences": LICENCES,
        "attribution": str(FOLDER / "ATTRIBUTION.md"),
        "native_size": 48,
        "by": "group",
        "directions": None,
    }
    if split == "unseen-hand":
        others = [style for style, vendor in VENDORS.items() if vendor != HELD_OUT]
        meta["held_out"] = {"vendor": HELD_OUT}
        meta["directions"] = {"test": [[HELD_OUT, style] for style in others]}
    return Raw(
        name="emoji",
        path=None,
        kind="built-in images",
        table=Dataset(table),
        fingerprint=_fingerprint(),
        roles={
            "image": "image", "text": "text", "label": ["category", "subcategory"], "group": "emoji", "unit": "family",
            "domain": "style", "id": "key",
        },
        reasons=REASONS,
        splits={"unseen-hand": [style for style, vendor in VENDORS.items() if vendor == HELD_OUT]},
        meta=meta,
    )  # fmt: skip


def _style(style: str) -> pa.Table:
    facts = pq.read_table(FOLDER / "emoji.parquet")
    drawn = pq.read_table(FOLDER / f"{style}.parquet")
    assert drawn["emoji"].equals(facts["emoji"])
    image = drawn["image"].combine_chunks()
    image = image.dictionary_decode() if pa.types.is_dictionary(image.type) else image
    rows = len(facts)
    columns = {
        "key": pa.array([f"{style}/{code}" for code in facts["emoji"].to_pylist()]),
        "image": image.cast(pa.binary()),
        "style": pa.array([style] * rows),
        "vendor": pa.array([VENDORS[style]] * rows),
        "tone": pa.array([skin_tone(code) for code in facts["emoji"].to_pylist()]),
    }
    return pa.table(columns | {name: facts[name] for name in facts.column_names})


def skin_tone(code: str) -> str | None:
    """The skin tone of an emoji's code points ("1F44B-1F3FD": medium); None without one, or with two different ones."""
    found = {TONES[part] for part in code.split("-") if part in TONES}
    return found.pop() if len(found) == 1 else None


def _fingerprint() -> str:
    state = hashlib.sha256()
    for path in sorted(FOLDER.glob("*.parquet")):
        state.update(path.read_bytes())
    return state.hexdigest()


def composed(name: str, attribute: str, told: Callable[[dict[str, Any]], tuple[str, str] | None], why: dict[str, str],
             version: object) -> Raw:  # fmt: skip
    """The drawings of which `told` says an attribute and an object, as a data set of compositions. why: the reasons of
    the roles attribute and object; version: whatever else decides what the rows are, for the fingerprint."""
    emoji = open_emoji()
    table: Any = emoji.table.select_columns(["key", "image", "style", "tone", "subcategory", "name"])
    rows = [
        {"key": row["key"], "image": row["image"], "style": row["style"], attribute: pair[0], "drawn": pair[1],
         "caption": f"a photo of {pair[0]} {pair[1]}"}
        for row in table
        if row["style"] in COLOURED and (pair := told(row))
    ]  # fmt: skip
    return Raw(
        name=name,
        path=None,
        kind="built-in images",
        table=Dataset.from_list(rows),
        fingerprint=hashlib.sha256((emoji.fingerprint + repr(version)).encode()).hexdigest(),
        roles={"image": "image", "text": "caption", "attribute": [attribute], "object": "drawn", "domain": "style",
               "id": "key"},
        reasons={
            "image": "a drawing, 48 x 48 pixels",
            "text": "names attribute and object",
            **why,
            "domain": "the drawing style",
            "id": "style and code points",
        },
        meta={"licences": {name: LICENCES[name] for name in (*COLOURED, "text")},
              "attribution": emoji.meta["attribution"], "native_size": 48},
    )  # fmt: skip
