"""NNCLR: a neighbour as the positive teaches more than the other view alone, and needs augmentation less.

Digits with strong and with weak views in place of the paper's full augmentation and crops alone; then emoji.
"""

from __future__ import annotations

from experiment import Arm, Cell, Claim
from shared import DIGITS, EMOJI, EMOJI_PLAN, PLAN, STRONG, WEAK


def arms(views: str) -> dict[str, Arm]:
    return {"nnclr": Arm(f"nnclr {views}"), "simclr": Arm(f"simclr {views}")}


CLAIM = Claim(
    slug="nnclr",
    claim="The nearest neighbour as the positive gives better features than the other view alone.",
    cells={
        "digits, strong views": Cell("digits", arms(STRONG), PLAN, DIGITS),
        "digits, weak views": Cell("digits", arms(WEAK), PLAN, DIGITS),
        "emoji": Cell("emoji", arms(""), EMOJI_PLAN, EMOJI),
    },
    control="simclr",
    measure="probe",
)
