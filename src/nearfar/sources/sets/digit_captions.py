"""The built-in data set `digit-captions`: handwritten digits under operations, with captions as noisy as those of the
web, for an image-text model of that small world.

Drawings: those of the set `digits` that `digit-operations` does not have. Each of the two words of a caption is left
out with probability 0.3, and is another one with probability 0.2.
"""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from nearfar.sources.raw import Raw
from nearfar.sources.sets import register
from nearfar.sources.sets.digit_operations import DIGITS, LICENCE, OPERATIONS, SIDE, fingerprint, operated

DROPPED, WRONG = 0.3, 0.2


def noisy_caption(attribute: str, digit: str, rng: np.random.Generator) -> str:
    """ "a photo of inverted seven", with words left out or exchanged."""
    said = []
    for word, others in ((attribute, list(OPERATIONS)), (digit, list(DIGITS))):
        chance = rng.random()
        if chance < DROPPED:
            continue
        said.append(str(rng.choice([one for one in others if one != word])) if chance < DROPPED + WRONG else word)
    return " ".join(["a photo", *(["of", *said] if said else [])])


@register
def open_digit_captions() -> Raw:
    """One row an image with its caption. All images of a drawing stand in one part."""
    rng = np.random.default_rng(0)
    rows = [{"image": row["image"], "caption": noisy_caption(row["attribute"], row["object"], rng),
             "drawing": row["drawing"], "key": f"{row['drawing']}-{row['attribute']}"}
            for row in operated(0)]  # fmt: skip
    return Raw(
        name="digit-captions",
        path=None,
        kind="built-in images with texts",
        table=Dataset.from_list(rows),
        fingerprint=fingerprint(rows),
        roles={"image": "image", "text": "caption", "unit": "drawing", "id": "key"},
        reasons={
            "image": f"handwritten digits, {SIDE} x {SIDE} pixels",
            "text": "says what was done to the digit, and which it is, where no word is missing or wrong",
            "unit": "images of one drawing stay together",
            "id": "drawing and operation",
        },
        meta={"licence": LICENCE},
    )
