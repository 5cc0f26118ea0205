"""DCL: without the positive in the denominator learning is faster where batches and steps are small.

Digits with weak views, SGD with momentum (Adam rescales gradients and hides the effect), 150 steps of 8; every learning
rate is shown. Then emoji, another drawing as the positive, where training helps: batches of 16.
"""

from __future__ import annotations

from experiment import Arm, Cell, Claim
from shared import DIGITS, EMOJI, SIDE, WEAK

SMALL = {"image_size": SIDE, "optimiser": "sgd", "steps": 150, "batch_size": 8}
LARGER = SMALL | {"steps": 100, "batch_size": 32}
PAIRED = {"optimiser": "sgd", "steps": 600, "batch_size": 16, "lr": 0.03}


def arms(views: str) -> dict[str, Arm]:
    return {"dcl": Arm(f"dcl {views}"), "dclw": Arm(f"dcl --sigma 0.5 {views}"), "infonce": Arm(f"simclr {views}")}


def cell(plan: dict, rate: float) -> Cell:
    return Cell("digits", arms(WEAK), plan | {"lr": rate}, DIGITS)


CLAIM = Claim(
    slug="dcl",
    claim="With small batches and small steps, the decoupled loss learns faster than InfoNCE.",
    cells={
        "digits, batch 8, lr 3e-4": cell(SMALL, 3e-4),
        "digits, batch 8, lr 1e-3": cell(SMALL, 1e-3),
        "digits, batch 8, lr 3e-3": cell(SMALL, 3e-3),
        "digits, batch 32, lr 1e-3": cell(LARGER, 1e-3),
        "emoji, batch 16": Cell("emoji", arms("--views members"), PAIRED, EMOJI),
    },
    control="infonce",
    measure="5 labels a class",
    pairs=[("dclw", "infonce")],
)
