"""CSP: learned words of attributes and objects tell compositions that were never trained on better than a learned
context, and than the words of the model.

A small CLIP (600 steps on half of the digits under operations, with noisy captions) is frozen. On the other half CSP
and CoOp learn from 50 compositions, 300 steps of Adam each at one rate; beside them both at a tenth and at three times
of it, so that the order of the two does not hang on a rate that suits one of them. Further rows: hard prompts of the
CLIP itself, CSP without dropout, and CSP whose words are exchanged among attributes, which must fall to chance where
words carry what was learned.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from experiment import Arm, Cell, Claim
from shared import COMPOSING_CLIP, COMPOSING_PLAN, COMPOSITIONS, compositions_figure

import nearfar
from nearfar.evaluation import task_for
from nearfar.training.modelled import ModelEmbedder

TASK = "compositions"
OPEN = "compositions --world open"
START = "zero-shot"


def exchanged(folder: Path, data: Any) -> dict[str, float]:
    """AUC once the words of attributes have changed places, each with the next; nothing for a model without words."""
    model = nearfar.load(folder / "model")
    if model.inference is None:
        return {}
    prompts = model.inference.prompts
    count = len(prompts.attributes)
    with torch.no_grad():
        prompts.words[:count] = prompts.words[:count].roll(1, 0)
    return {"AUC, words exchanged": task_for(data, TASK).evaluate(ModelEmbedder(model, data), "test").metrics["auc"]}


def arms(csp: float, coop: float) -> dict[str, Arm]:
    return {
        "csp": Arm("csp", {"lr": csp}, starts=START),
        START: Arm("align", COMPOSING_CLIP, data="digit captions"),
        "coop": Arm("coop", {"lr": coop}, starts=START),
        "csp without dropout": Arm("csp --dropout 0", {"lr": csp}, starts=START),
    }


def at_rates(rate: float) -> dict[str, Arm]:
    return {f"{slug}, {words} the rate": Arm(slug, {"lr": rate * times}, starts=START)
            for slug in ("csp", "coop") for words, times in (("a tenth of", 0.1), ("three times", 3.0))}  # fmt: skip


CLAIM = Claim(
    slug="csp",
    claim="Learned words of attributes and objects tell new compositions better than a learned context of all.",
    cells={
        "digits": Cell("digit operations", arms(1e-2, 1e-2) | at_rates(1e-2), COMPOSING_PLAN, COMPOSITIONS,
                       look=exchanged, divided=True),
        "digits, open world": Cell("digit operations", arms(1e-2, 1e-2), COMPOSING_PLAN,
                                   {"AUC": (OPEN, "auc"), "H": (OPEN, "harmonic")}, divided=True),
    },
    method="csp",
    control="coop",
    measure="AUC",
    pairs=[("csp", START), ("coop", START), ("csp", "csp without dropout"),
           ("csp, a tenth of the rate", "coop, a tenth of the rate"),
           ("csp, three times the rate", "coop, three times the rate")],
)  # fmt: skip


def figure(out: Path, result: dict[str, Any]) -> None:
    """What each row tells of compositions seen in training and new ones, in docs/assets/methods/csp.svg."""
    about = "Digits under operations: accuracy of compositions by how the words of the prompt came about."
    compositions_figure("csp", result["all"]["digits"], "Compositions of an operation and a digit", about)
