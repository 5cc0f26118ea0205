"""CACR: repulsion weighted towards near negatives beats uniform repulsion, and equals InfoNCE.

Digits, balanced and with class sizes 120 x 0.65^c; three views; 200 steps of 48. Then emoji, two drawings and views.
"""

from __future__ import annotations

from experiment import Arm, Cell, Claim
from shared import DIGITS, EMOJI, PLAN, STRONG

THREE = f"--positives 2 {STRONG}"
DIGIT_PLAN = PLAN | {"steps": 200, "batch_size": 48}


def arms(views: str, other: str) -> dict[str, Arm]:
    return {
        "cacr": Arm(f"cacr {views}"),
        "uniform negatives": Arm(f"cacr --tau-neg 0 {views}"),
        "uniform positives": Arm(f"cacr --tau-pos 0 {views}"),
        "both uniform": Arm(f"cacr --tau-pos 0 --tau-neg 0 {views}"),
        "rbf": Arm(f"cacr --repulsion rbf {views}"),
        "infonce 0.2": Arm(f"simclr --temperature 0.2 {other}"),
    }


DRAWINGS = "--positives 3 --views members --views.k 4"
CLAIM = Claim(
    slug="cacr",
    claim="Pushing near negatives harder is worth points of few-label accuracy over uniform repulsion.",
    cells={
        "digits": Cell("digits", arms(THREE, STRONG), DIGIT_PLAN, DIGITS),
        "digits, imbalanced": Cell("digits, imbalanced", arms(THREE, STRONG), DIGIT_PLAN, DIGITS),
        "emoji": Cell("emoji", arms(DRAWINGS, "--views members --views.k 4"), {"steps": 200, "batch_size": 64}, EMOJI),
    },
    control="uniform negatives",
    measure="5 labels a class",
)
