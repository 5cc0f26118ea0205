"""CoOp: a learned context of prompts tells images better than a written one; of new compositions it need not.

A small CLIP (600 steps on half of the digits under operations, with noisy captions) is frozen. On the other half the
vectors of "a photo of" are learned from 50 compositions, 300 steps of Adam. The measure that decides is the accuracy
of compositions trained on, at the best bias for them; new ones stand beside it, where the paper's follow-up (CoCoOp)
says that a shared context loses. Controls: other written contexts, which cost no training, contexts of one and of six
vectors, and a tenth of the rate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiment import Arm, Cell, Claim
from shared import COMPOSING_CLIP, COMPOSING_PLAN, COMPOSITIONS, compositions_figure

START = "zero-shot"
OTHERS = {"names alone": "{attribute} {object}", "with an article": "a {attribute} {object}"}
WRITTEN = {f"{name}, by {words}": (f"compositions --read prompts --template '{template}'", metric)
           for words, template in OTHERS.items() for name, metric in (("seen", "seen"), ("AUC", "auc"))}  # fmt: skip
LEARNED = {"lr": 1e-2}

CLAIM = Claim(
    slug="coop",
    claim="A learned context tells compositions that it was trained on better than the written one.",
    cells={
        "digits": Cell("digit operations", {
            "coop": Arm("coop", LEARNED, starts=START),
            START: Arm("align", COMPOSING_CLIP, data="digit captions"),
            "coop, one vector": Arm("coop --context a", LEARNED, starts=START),
            "coop, six vectors": Arm("coop --context 'a photo of a photo of'", LEARNED, starts=START),
            "coop, a tenth of the rate": Arm("coop", {"lr": 1e-3}, starts=START),
        }, COMPOSING_PLAN, COMPOSITIONS, divided=True),
        "written contexts": Cell("digit operations", {START: Arm("align", COMPOSING_CLIP, data="digit captions")},
                                 COMPOSING_PLAN, WRITTEN, divided=True),
    },
    control=START,
    measure="seen",
    pairs=[("coop", "coop, one vector"), ("coop, six vectors", "coop"), ("coop", "coop, a tenth of the rate")],
)  # fmt: skip


def figure(out: Path, result: dict[str, Any]) -> None:
    """What each context tells of compositions seen in training and new ones, in docs/assets/methods/coop.svg."""
    about = "Digits under operations: accuracy of compositions by the context of the prompt."
    compositions_figure("coop", result["all"]["digits"], "A context that is written or learned", about)
