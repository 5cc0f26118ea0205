"""The built-in data set `digit-operations`: handwritten digits under one of eight operations each (inverted seven,
mirrored two): 80 compositions of an attribute and an object, some of which are never trained on.

Drawings: those of the set `digits`, 8 x 8 squares; every second of them (`digit-captions` has the others).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image
from scipy.ndimage import grey_dilation, rotate

from nearfar.sources.raw import Raw
from nearfar.sources.sets import register

SIDE = 16
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LICENCE = "CC BY 4.0 (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository)"


def _noisy(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return ink + rng.normal(scale=0.3, size=ink.shape)


OPERATIONS: Mapping[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "plain": lambda ink, rng: ink,
    "inverted": lambda ink, rng: 1 - ink,
    "rotated": lambda ink, rng: rotate(ink, 90),
    "mirrored": lambda ink, rng: ink[:, ::-1],
    "shifted": lambda ink, rng: np.roll(ink, (5, 5), (0, 1)),
    "thick": lambda ink, rng: grey_dilation(ink, size=(4, 4)),
    "faint": lambda ink, rng: 0.35 * ink,
    "noisy": _noisy,
}
"""Ink (SIDE, SIDE), 0 to 1 -> that of the image."""


def drawings() -> tuple[np.ndarray, np.ndarray]:
    """Ink (1797, SIDE, SIDE), 0 to 1, and the digits (1797,)."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    small = (found.images * (255 / 16)).round().astype(np.uint8)
    large = [np.asarray(Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for one in small]
    return np.stack(large) / 255, found.target


def operated(first: int) -> list[dict[str, Any]]:
    """Every second drawing from `first` on, under each operation: drawing, image (PNG, dark ink on white), attribute,
    object."""
    ink, digits = drawings()
    rows = []
    for number in range(first, len(ink), 2):
        for place, (name, change) in enumerate(OPERATIONS.items()):
            changed = change(ink[number], np.random.default_rng([number, place]))
            rows.append({"drawing": str(number), "image": png(1 - changed), "attribute": name,
                         "object": DIGITS[digits[number]]})  # fmt: skip
    return rows


def png(light: np.ndarray) -> bytes:
    """A grey image (h, w) of values 0 to 1."""
    file = io.BytesIO()
    Image.fromarray((255 * np.clip(light, 0, 1)).round().astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def fingerprint(rows: list[dict[str, Any]]) -> str:
    return hashlib.sha256(b"".join(repr(sorted(row.items())).encode() for row in rows)).hexdigest()


@register
def open_digit_operations() -> Raw:
    """One row an image. All images of a drawing stand in one part; 15 of the 80 compositions stand in val alone and
    15 in test alone, drawn with the seed of the split."""
    rows = [row | {"caption": f"a photo of {row['attribute']} {row['object']}",
                   "key": f"{row['drawing']}-{row['attribute']}"} for row in operated(1)]  # fmt: skip
    return Raw(
        name="digit-operations",
        path=None,
        kind="built-in images",
        table=Dataset.from_list(rows),
        fingerprint=fingerprint(rows),
        roles={"image": "image", "text": "caption", "attribute": ["attribute"], "object": "object", "unit": "drawing",
               "id": "key"},
        reasons={
            "image": f"handwritten digits, {SIDE} x {SIDE} pixels",
            "text": "names attribute and object",
            "attribute": "what was done to the drawing",
            "object": "the digit that was written",
            "unit": "images of one drawing stay together",
            "id": "drawing and operation",
        },
        meta={"licence": LICENCE},
    )  # fmt: skip
