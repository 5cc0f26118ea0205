"""R-Drop: a classifier whose two passes under other dropout tell alike.

Sentences of three packages behind a word, 600 of them for training: first a word that is drawn without regard to the
class, then one that gives it away in 80 % of the training rows. Against the cross-entropy of the same two passes
(weight 0), so that nothing but the divergence differs; weight 5 as SPACE-2 has it, and 1 (R-Drop's alpha of 2).
"""

from __future__ import annotations

from experiment import Arm, Cell, Claim

ARMS = {
    "r-drop": Arm("r-drop"),
    "r-drop 1": Arm("r-drop --weight 1"),
    "cross-entropy": Arm("r-drop --weight 0"),
}
PLAN = {"steps": 300, "batch_size": 32, "text_encoder": "tiny", "text_length": 40}
MEASURES = {"accuracy": ("classification", "accuracy"), "worst": ("classification", "worst")}

CLAIM = Claim(
    slug="r-drop",
    claim="A classifier that is drawn to tell alike under any dropout is right more often.",
    cells={
        "no shortcut": Cell("shortcut, 0.33", ARMS, PLAN, MEASURES),
        "80 %": Cell("shortcut, 0.8", ARMS, PLAN, MEASURES),
    },
    control="cross-entropy",
    measure="accuracy",
)
