"""MCL: a second stage with negatives from the clusters of the first learns the suppressed feature.

Images of two digits, the right one at 0.4 of the contrast; the label read off is the right one. Equal compute: SimCLR
with the steps of both stages; equal steps and width: MCL whose groups are random would need clusters of no meaning, so
the control of equal width is MCL that continues from the first stage's weights. Then the same images with captions
that name both digits: `mcl-pairs` beside `pairs`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiment import FIGURES, Arm, Cell, Claim
from shared import SIDE

from nearfar.reporting.figures import bars_svg

READ = "weak digit, probe"
VIEWS = "--views two-crops --views.crop 0.8,1 --views.flip 0 --views.strength 0 --views.grey 0"
MEASURES = {READ: ("labels", "probe"), "weak digit, kNN": ("labels", "knn")}
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
        }, PLAN, MEASURES),
        "two digits, captions": Cell("two digits, captions", {
            "mcl-pairs": Arm("mcl-pairs"),
            "pairs, the same steps": Arm("pairs"),
            "pairs, twice the steps": Arm("pairs", {"steps": 1200}),
            "locked text": Arm("mcl-pairs --locked"),
        }, PLAN, MEASURES | {"hit@1": ("pairs", "hit@1")}),
    },
    control="simclr, the same steps",
    measure=READ,
)  # fmt: skip


def figure(out: Path, result: dict[str, Any]) -> None:
    """How well each row reads the weak digit, in docs/assets/methods/mcl.svg."""
    rows = result["all"]["two digits"]
    values = {name: {"weak digit": [100 * float(x[READ]) for x in seeds]} for name, seeds in rows.items()
              if name in CLAIM.cells["two digits"].arms or name == "untrained"}  # fmt: skip
    about = "Accuracy of a linear probe for the fainter of two digits in one image."
    (FIGURES / "mcl.svg").write_text(bars_svg(values, "The weak digit of two in one image: linear probe", about,
                                              unit=" %"))  # fmt: skip
