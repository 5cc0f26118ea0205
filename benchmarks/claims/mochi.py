"""MoCHi: negatives mixed from the hardest of a queue, against MoCo, the same without mixtures.

Every picture is its own class for the loss, so hard negatives should help most where a picture is to be found again.
Emoji decide (found again by another drawing); digits by another look of themselves and by their labels.
"""

from __future__ import annotations

from experiment import Arm, Cell, Claim
from shared import DIGITS, EMOJI, EMOJI_PLAN, PLAN, STRONG

MIXED = "--negatives mixing --negatives.hard"


def arms(views: str, size: int) -> dict[str, Arm]:
    queue = f"--negatives.size {size} --momentum 0.99 {views}"
    return {
        "mochi": Arm(f"mochi {MIXED} 32 --negatives.mixed 32 --negatives.with_query 16 {queue}"),
        "mochi, more": Arm(f"mochi {MIXED} 64 --negatives.mixed 128 --negatives.with_query 64 {queue}"),
        "moco": Arm(f"mochi --negatives queue {queue}"),
        "simclr": Arm(f"simclr {views}"),
    }  # fmt: skip


LOOK = {"another look": ("proxy", "hit@1")}
CLAIM = Claim(
    slug="mochi",
    claim="Mixed hard negatives find a picture again better than MoCo, the same run without mixtures.",
    cells={
        "digits": Cell("digits", arms(STRONG, 512), PLAN, LOOK | DIGITS),
        "emoji": Cell("emoji", arms("--views members", 640), EMOJI_PLAN, EMOJI),
    },
    control="moco",
    measure="another look",
    pairs=[("mochi, more", "moco"), ("moco", "simclr")],
)
