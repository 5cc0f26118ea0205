"""AutoTCL: a learned view against fixed ones, and against the series itself.

Digits read pixel after pixel (64 steps; a set that any machine has), recordings of a smart watch (motions) and of
speakers (vowels; runs of 16 do not fit into its short series, so the local contrast is 0 there). Every arm has the same
encoder and the same steps: fixed jitter and scaling in a plain contrast, a view that equals the series (only steps are
hidden), AutoTCL without its local contrast, adversarial, with the released code's choices, and TS2Vec. The digits
decide by the probe; raw values and the nearest by warping stand beside them, as does the untrained encoder.
"""

from __future__ import annotations

from experiment import Arm, Cell, Claim

ENCODER = {"series_dim": 64, "series_width": 32, "series_depth": 4}
ARMS = {
    "autotcl": Arm("autotcl --aug-width 32"),
    "jitter": Arm("simclr --projector 0 --temperature 1 --views distort --views.crop 1 --views.mask 0"),
    "identity": Arm("autotcl --objective none"),
    "no local": Arm("autotcl --aug-width 32 --local-weight 0"),
    "adversarial": Arm("autotcl --aug-width 32 --objective adversarial"),
    "released": Arm("autotcl --aug-width 32 --double-sigmoid --local-series first --consistency released"),
    "ts2vec": Arm("ts2vec"),
}
MEASURES = {"probe": ("labels", "probe"), "knn": ("labels", "knn")}
PLAN = {"steps": 300, "batch_size": 64, **ENCODER}

CLAIM = Claim(
    slug="autotcl",
    claim="A view of a series that a network learns tells more than fixed jitter and scaling, or the series itself.",
    cells={
        "digits": Cell("digit-series", ARMS, PLAN, MEASURES),
        "motions": Cell("motions", ARMS, PLAN | {"batch_size": 16}, MEASURES),
        "vowels": Cell("vowels", ARMS, PLAN, MEASURES),
    },
    control="jitter",
    measure="probe",
)
