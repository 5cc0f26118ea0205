"""AutoTCL: a learned view against fixed ones, and against the series itself.

Digits read pixel after pixel (64 steps; a set that any machine has), recordings of a smart watch (motions) and of
speakers (vowels; runs of 16 do not fit into its short series, so the local contrast is 0 there). Every arm has the same
encoder and the same steps: fixed jitter and scaling in a plain contrast, a view that equals the series (only steps are
hidden), AutoTCL without its local contrast, adversarial, with the paper's weight of what is kept (its mask becomes 1
everywhere), with the released code's choices too, and TS2Vec. The digits
decide by the probe, against the arm that lacks the learned view alone: the plain contrast hides no steps, keeps no mean
of the weights and has no local term either. Raw values and the nearest by warping stand beside them, as does the
untrained encoder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiment import Arm, Cell, Claim

ENCODER = {"series_dim": 64, "series_width": 32, "series_depth": 4}
RELEASED = "--double-sigmoid true --local-series first --consistency released"
ARMS = {
    "autotcl": Arm("autotcl --aug-width 32"),
    "jitter": Arm("simclr --projector 0 --temperature 1 --views distort --views.crop 1 --views.mask 0"),
    "identity": Arm("autotcl --objective none"),
    "no local": Arm("autotcl --aug-width 32 --local-weight 0"),
    "adversarial": Arm("autotcl --aug-width 32 --objective adversarial"),
    "paper's weight": Arm("autotcl --aug-width 32 --reg-weight 0.1"),
    "released": Arm(f"autotcl --aug-width 32 --reg-weight 0.1 {RELEASED}"),
    "ts2vec": Arm("ts2vec"),
}
MAIN = {name: ARMS[name] for name in ("autotcl", "jitter", "identity", "ts2vec")}
MEASURES = {"probe": ("labels", "probe"), "knn": ("labels", "knn")}
PLAN = {"steps": 300, "batch_size": 64, **ENCODER}


def masks(folder: Path, data: Any) -> dict[str, float]:
    """Of the masks at the end of training: the mean, and the mean variance over the steps of a series. A mean of 0 or 1
    and no variance would be no view."""
    last = json.loads((folder / "curve.jsonl").read_text().splitlines()[-1])
    return {name: last[name] for name in ("kept", "kept_spread") if name in last}


UNITS = {"kept_spread": "value"}
CLAIM = Claim(
    slug="autotcl",
    claim="A view of a series that a network learns tells more than the series itself with steps hidden, or fixed "
    "jitter and scaling.",
    cells={
        "digits": Cell("digit-series", ARMS, PLAN, MEASURES, look=masks, units=UNITS),
        "motions": Cell("motions", MAIN, PLAN | {"batch_size": 16}, MEASURES, look=masks, units=UNITS),
        "vowels": Cell("vowels", MAIN, PLAN, MEASURES, look=masks, units=UNITS),
    },
    control="identity",
    measure="probe",
    pairs=[("identity", "jitter")],
)
