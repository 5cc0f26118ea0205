"""MCL: a second stage with negatives from the clusters of the first learns the suppressed feature.

Pictures of two digits, the right one at 0.4 of the contrast; the label read off is the right one. Equal compute: SimCLR
with the steps of both stages; equal steps and width: MCL whose groups are random would need clusters of no meaning, so
the control of equal width is MCL that continues from the first stage's weights.
"""

from __future__ import annotations

from experiment import Arm, Cell, Claim
from shared import SIDE

VIEWS = "--views two-crops --views.crop 0.8,1 --views.flip 0 --views.strength 0 --views.grey 0"
PLAN = {"image_size": SIDE, "steps": 600, "batch_size": 32, "lr": 2e-3}
CLAIM = Claim(
    slug="mcl",
    claim="A second stage with negatives from the clusters of the first learns the suppressed feature.",
    cells={
        "two digits": Cell("two digits", {
            "mcl": Arm(f"mcl {VIEWS}"),
            "simclr, the same steps": Arm(f"simclr --temperature 0.2 {VIEWS}"),
            "simclr, twice the steps": Arm(f"simclr --temperature 0.2 {VIEWS}", {"steps": 1200}),
            "continued weights": Arm(f"mcl --stage-weights continue {VIEWS}"),
        }, PLAN, {"weak digit, probe": ("labels", "probe"), "weak digit, kNN": ("labels", "knn")}),
    },
    control="simclr, the same steps",
    measure="weak digit, probe",
)  # fmt: skip
