"""SwAV: cluster codes learn what pairs of views teach: parity with SimCLR is what the small scale can show.

Digits: SwAV with 60 prototypes, one round of Sinkhorn instead of three, SimCLR with the same views. Then emoji.
"""

from __future__ import annotations

from experiment import Arm, Cell, Claim
from shared import DIGITS, EMOJI, EMOJI_PLAN, PLAN, STRONG

OWN = "--prototypes 60 --queue 0"
CLAIM = Claim(
    slug="swav",
    claim="Predicting balanced cluster codes teaches what contrasting pairs of views does.",
    cells={
        "digits": Cell("digits", {
            "swav": Arm(f"swav {OWN} {STRONG}"),
            "one round": Arm(f"swav --iterations 1 {OWN} {STRONG}"),
            "simclr": Arm(f"simclr {STRONG}"),
        }, PLAN, DIGITS),
        "emoji": Cell("emoji", {
            "swav": Arm("swav --queue 0 --views members"),
            "one round": Arm("swav --queue 0 --iterations 1 --views members"),
            "simclr": Arm("simclr --views members"),
        }, EMOJI_PLAN, EMOJI),
    },
    control="simclr",
    measure="5 labels a class",
    pairs=[("swav", "one round")],
)  # fmt: skip
