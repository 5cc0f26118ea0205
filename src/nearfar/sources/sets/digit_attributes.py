"""The built-in data set `digit-attributes`: handwritten digits, and for each of the ten classes which of fifteen facts
of its shape hold (has a loop, a straight upright stroke, is open to the left...): three classes are never trained on.

Drawings: those of the set `digits`. The facts were written by hand.
"""

from __future__ import annotations

from datasets import Dataset

from nearfar.sources.class_attributes import META
from nearfar.sources.raw import Raw
from nearfar.sources.sets import register
from nearfar.sources.sets.digit_operations import DIGITS, LICENCE, SIDE, drawings, fingerprint, png

FACTS = (
    "one loop", "two loops", "loop above", "loop below", "loop of full height", "upright stroke", "slanted stroke",
    "bar on top", "bar in the middle", "bar at the foot", "open to the left above", "open to the left below",
    "open to the right above", "open to the right below", "corner",
)  # fmt: skip
HELD = {
    "zero": ("one loop", "loop of full height"),
    "one": ("upright stroke",),
    "two": ("bar at the foot", "slanted stroke", "open to the left above", "open to the right below"),
    "three": ("bar in the middle", "open to the left above", "open to the left below"),
    "four": ("upright stroke", "slanted stroke", "bar in the middle", "corner", "open to the right below"),
    "five": ("bar on top", "corner", "open to the right above", "open to the left below"),
    "six": ("one loop", "loop below", "open to the right above"),
    "seven": ("bar on top", "slanted stroke", "corner", "open to the left above", "open to the left below"),
    "eight": ("two loops", "loop above", "loop below"),
    "nine": ("one loop", "loop above", "open to the left below"),
}


def facts() -> dict[str, list[float]]:
    """Digit -> 1 for each fact that holds, else 0."""
    return {digit: [float(fact in held) for fact in FACTS] for digit, held in HELD.items()}


@register
def open_digit_attributes() -> Raw:
    """One row a drawing with its digit. Three digits are drawn as unseen with the seed of the split."""
    ink, digits = drawings()
    rows = [{"image": png(1 - one), "digit": DIGITS[digit], "key": str(number)}
            for number, (one, digit) in enumerate(zip(ink, digits, strict=True))]  # fmt: skip
    return Raw(
        name="digit-attributes",
        path=None,
        kind="built-in images",
        table=Dataset.from_list(rows),
        fingerprint=fingerprint(rows) + repr(facts()),
        roles={"image": "image", "label": ["digit"], "target": "digit", "id": "key"},
        reasons={
            "image": f"handwritten digits, {SIDE} x {SIDE} pixels",
            "label": "the digit that was written",
            "target": "the digit that was written, described by facts of its shape",
            "id": "number of the drawing",
        },
        meta={"licence": LICENCE, META: (list(FACTS), facts())},
    )
