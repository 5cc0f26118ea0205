"""SwAV: the equal partition keeps codes from collapsing, and cluster codes learn what pairs of views teach.

Digits: SwAV, the same with codes that are a softmax (no rounds of Sinkhorn), SimCLR with the same views. Then emoji.
"""

from __future__ import annotations

from experiment import Arm, Cell, Claim
from shared import DIGITS, EMOJI, EMOJI_PLAN, PLAN, STRONG

OWN = "--prototypes 60 --queue 0"
CLAIM = Claim(
    slug="swav",
    claim="Balanced codes (Sinkhorn) are what keeps cluster assignments from collapsing.",
    cells={
        "digits": Cell("digits", {
            "swav": Arm(f"swav {OWN} {STRONG}"),
            "without equal partition": Arm(f"swav --iterations 0 {OWN} {STRONG}"),
            "simclr": Arm(f"simclr {STRONG}"),
        }, PLAN, DIGITS),
        "emoji": Cell("emoji", {
            "swav": Arm("swav --queue 0 --views members"),
            "without equal partition": Arm("swav --queue 0 --iterations 0 --views members"),
            "simclr": Arm("simclr --views members"),
        }, EMOJI_PLAN, EMOJI),
    },
    control="without equal partition",
    measure="5 labels a class",
    pairs=[("swav", "simclr")],
)  # fmt: skip
