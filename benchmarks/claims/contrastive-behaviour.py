"""Keeping only the hardest negatives frees the loss from its temperature: the worst temperature loses less.

Digits at four temperatures, ordinary and hard; and without a softmax (simple), where only hard negatives work. Emoji,
another drawing as the positive, at two temperatures.
"""

from __future__ import annotations

from experiment import Arm, Cell, Claim
from shared import DIGITS, EMOJI, EMOJI_PLAN, PLAN, STRONG

TEMPERATURES = (0.07, 0.2, 0.5, 1.0)


def arms(views: str, temperatures: tuple[float, ...]) -> dict[str, Arm]:
    made = {f"{kind} {t:g}": Arm(f"contrastive-behaviour --form {kind} --temperature {t} {views}")
            for kind in ("hard", "ordinary") for t in temperatures}  # fmt: skip
    return made | {kind: Arm(f"contrastive-behaviour --form {kind} {views}") for kind in ("hard-simple", "simple")}


def worst(temperatures: tuple[float, ...]) -> dict[str, list[str]]:
    return {f"{kind}, worst": [f"{kind} {t:g}" for t in temperatures] for kind in ("hard", "ordinary")}


CLAIM = Claim(
    slug="contrastive-behaviour",
    claim="Keeping only the hardest tenth of the negatives frees the loss from its temperature.",
    cells={
        "digits": Cell("digits", arms(STRONG, TEMPERATURES), PLAN, DIGITS, worst=worst(TEMPERATURES)),
        "emoji": Cell("emoji", arms("--views members", (0.1, 1.0)), EMOJI_PLAN, EMOJI, worst=worst((0.1, 1.0))),
    },
    method="hard, worst",
    control="ordinary, worst",
    measure="kNN",
    pairs=[("hard-simple", "simple")],
)
