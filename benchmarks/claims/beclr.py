"""BECLR: transport of class prototypes onto the queries raises one-shot accuracy; a clustered memory adds a little.

Digits: trained on 0 to 4 without labels, episodes on 5 to 9. Every arm and the untrained encoder with and without
transport, so that what transport gives is not credited to the training; and with soft k-means, which sees all queries
as well but assigns each by itself: what transport gives beyond it comes from its equal class sizes.
"""

from __future__ import annotations

from experiment import Arm, Cell, Claim
from shared import PLAN, STRONG

EPISODES = "few-shot --ways 5 --shots 1,5 --queries 15 --episodes 300"
SHOTS = {"1-shot": (EPISODES, "1-shot"), "1-shot, transport": (EPISODES, "1-shot+opta"),
         "1-shot, soft k-means": (f"{EPISODES} --transductive soft-k-means", "1-shot+soft-k-means"),
         "5-shot": (EPISODES, "5-shot"), "5-shot, transport": (EPISODES, "5-shot+opta"),
         "5-shot, soft k-means": (f"{EPISODES} --transductive soft-k-means", "5-shot+soft-k-means")}  # fmt: skip
CLAIM = Claim(
    slug="beclr",
    claim="Attraction to memory prototypes gives features from which classes are told apart after one example.",
    cells={
        "digits, new classes": Cell("digits, new classes", {
            "beclr": Arm(f"beclr {STRONG}"),
            "beclr without memory": Arm(f"beclr --memory-start 1 {STRONG}"),
            "simclr": Arm(f"simclr {STRONG}"),
        }, PLAN, SHOTS),
    },
    control="beclr without memory",
    measure="1-shot, transport",
    pairs=[("beclr", "simclr")],
)  # fmt: skip
