"""CSP: learned words of attributes and objects tell compositions that were never trained on better than a learned
context, and than the words of the model.

A small CLIP (600 steps on half of the digits under operations, with noisy captions) is frozen. On the other half CSP
and CoOp learn from 50 compositions, 300 steps of Adam each at one rate, which was not tuned for either.
Beside them hard prompts of the CLIP itself, CSP without dropout, and CSP whose words are exchanged among attributes,
which must fall to chance where words carry what was learned.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from experiment import FIGURES, Arm, Cell, Claim

import nearfar
from nearfar.evaluation import task_for
from nearfar.reporting.figures import bars_svg
from nearfar.training.modelled import ModelEmbedder

CLIP = {
    "steps": 600, "batch_size": 64, "image_size": 16, "text_encoder": "tiny", "text_causal": True,
    "text_pooling": "lasttoken", "text_length": 12, "lr": 2e-3,
}  # fmt: skip
PLAN = {"steps": 300, "batch_size": 128}
TASK = "compositions"
OPEN = "compositions --world open"
FOUND = {"AUC": (TASK, "auc"), "H": (TASK, "harmonic"), "seen": (TASK, "seen"), "unseen": (TASK, "unseen")}
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
        START: Arm("align", CLIP, data="digit captions"),
        "coop": Arm("coop", {"lr": coop}, starts=START),
        "csp without dropout": Arm("csp --dropout 0", {"lr": csp}, starts=START),
    }


CLAIM = Claim(
    slug="csp",
    claim="Learned words of attributes and objects tell new compositions better than a learned context of all.",
    cells={
        "digits": Cell("digit operations", arms(1e-2, 1e-2), PLAN, FOUND, look=exchanged, divided=True),
        "digits, open world": Cell("digit operations", arms(1e-2, 1e-2), PLAN,
                                   {"AUC": (OPEN, "auc"), "H": (OPEN, "harmonic")}, divided=True),
    },
    method="csp",
    control="coop",
    measure="AUC",
    pairs=[("csp", START), ("coop", START), ("csp", "csp without dropout")],
)  # fmt: skip


def figure(out: Path, result: dict[str, Any]) -> None:
    """What each row tells of compositions seen in training and new ones, in docs/assets/methods/csp.svg."""
    rows = result["all"]["digits"]
    shown = {"seen": "trained on, at best", "unseen": "never trained on, at best", "AUC": "area under both"}
    values = {name: {words: [100 * x[key] for x in seeds] for key, words in shown.items()}
              for name, seeds in rows.items() if set(shown) <= set(seeds[0])}  # fmt: skip
    about = "Digits under operations: accuracy of compositions by how the words of the prompt came about."
    (FIGURES / "csp.svg").write_text(bars_svg(values, "Compositions of an operation and a digit", about, unit=" %"))
