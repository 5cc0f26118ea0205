"""CVIB: noisy gates and contrast with an unpruned twin keep a classifier from a shortcut.

Sentences of three packages, behind a word that agrees with the class in 80 % (and in 60 %) of the training rows. It
says nothing in one half of the test and the wrong thing in the other ("worst"). Against the same network with
cross-entropy alone, and without either part. The first cell decides; a very sure word may well be what a bottleneck
keeps.
"""

from __future__ import annotations

from experiment import Arm, Cell, Claim

ARMS = {
    "cvib": Arm("cvib"),
    "plain": Arm("cvib --gates false --contrast 0"),
    "no contrast": Arm("cvib --contrast 0"),
    "no gates": Arm("cvib --gates false"),
}
PLAN = {"steps": 300, "batch_size": 32, "text_encoder": "tiny", "text_length": 40}
MEASURES = {"worst": ("classification", "worst"), "accuracy": ("classification", "accuracy")}

CLAIM = Claim(
    slug="cvib",
    claim="A classifier with gates and contrast is right more often where a shortcut of training is wrong.",
    cells={
        "80 %": Cell("shortcut, 0.8", ARMS, PLAN, MEASURES),
        "60 %": Cell("shortcut, 0.6", ARMS, PLAN, MEASURES),
    },
    control="plain",
    measure="worst",
)
