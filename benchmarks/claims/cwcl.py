"""CWCL: weights from a frozen tower carry its geometry over better than one positive a row.

Emoji of one hand with their names, the packaged sentence encoder frozen; the image encoder learns. Against one
positive a row with the same frozen tower, with the temperature learned, as the paper does, and fixed.
"""

from __future__ import annotations

from experiment import Arm, Cell, Claim

PLAN = {"steps": 300, "batch_size": 128, "text_encoder": "minilm"}
FOUND = {"recall@10": ("pairs", "hit@10"), "recall@1": ("pairs", "hit@1")}
LEARNED, FIXED = "--learn-temperature true", "--temperature 0.07 --learn-temperature false"


def arms(temperature: str) -> dict[str, Arm]:
    return {
        "cwcl": Arm(f"cwcl {temperature}"),
        "frozen anchors": Arm(f"cwcl --weighted frozen {temperature}"),
        "plain": Arm(f"cwcl --weighted none {temperature}"),
    }


CLAIM = Claim(
    slug="cwcl",
    claim="Weights from the frozen tower beat one positive a row in what the other tower learns.",
    cells={
        "names, learned": Cell("names", arms(LEARNED), PLAN, FOUND),
        "names, 0.07": Cell("names", arms(FIXED), PLAN, FOUND),
    },
    control="plain",
    measure="recall@10",
)
