"""SupReMix: mixtures of one's own pairs make the vectors follow a number, better than contrast without them.

Diabetes (few rows, a number each) and the angle of turned digits. Against the same loss without mixtures, with and
without its weights (without both it is SupCon with equal numbers as positives), each kind of mixture alone, a network
that learns the number itself, SimCLR, which sees no number, and the method on permuted numbers (which must be no
better than no training). All are read by the same ridge probe. Diabetes has few test rows, so each seed divides them
anew.
"""

from __future__ import annotations

from experiment import Arm, Cell, Claim

VIEWS = "--views noise"
TURNED = "--views two-crops --views.crop 0.8,1 --views.flip 0 --views.strength 0 --views.grey 0"
MEASURES = {"MAE": ("regression", "mae"), "R2": ("regression", "r2"), "ordering": ("regression", "ordering")}


def arms(views: str, permuted: str) -> dict[str, Arm]:
    return {
        "supremix": Arm(f"supremix {views}"),
        "no mixtures": Arm(f"supremix --mix none {views}"),
        "supcon": Arm(f"supremix --mix none --weight none {views}"),
        "negatives only": Arm(f"supremix --mix negatives {views}"),
        "positives only": Arm(f"supremix --mix positives {views}"),
        "l1-regression": Arm(f"l1-regression {views}"),
        "simclr": Arm(f"simclr --temperature 0.3 {views}"),
        "numbers permuted": Arm(f"supremix {views}", data=permuted),
    }


CLAIM = Claim(
    slug="supremix",
    claim="Mixtures lower the error of a number read from frozen vectors, against the same contrast without them.",
    cells={
        "diabetes": Cell("diabetes", arms(VIEWS, "diabetes, permuted"),
                         {"steps": 300, "batch_size": 64, "vector_width": 64}, MEASURES, divided=True),
        "angle": Cell("digits, turned", arms(TURNED, "digits, turned, permuted"),
                      {"steps": 300, "batch_size": 64, "image_size": 16}, MEASURES),
    },
    control="supcon",
    measure="MAE",
    higher=False,
)  # fmt: skip
