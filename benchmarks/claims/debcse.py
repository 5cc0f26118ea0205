"""DebCSE (a reconstruction): with pairs drawn by inverse propensity, similarities of sentences follow words less.

Sentences of docstrings; pairs of them are graded by where they stand, neighbours in a docstring are candidates. Against
SimCSE of as many steps (equal total), SimCSE of the teacher's steps, candidates drawn uniformly, and by meaning alone.
Bias: correlation, without its sign, of the similarity of two sentences of different packages with the words that they
share, and with the difference of their lengths; 0 is right. What decides is the first (the card: both, against uniform
draws as well, on every seed), over 600 steps, 300 of them the teacher's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from experiment import FIGURES, Arm, Cell, Claim, arms_told

from nearfar.reporting.figures import bars_svg

TASK = "sts --biases true"
MEASURES = {"surface bias": (TASK, "surface bias"), "length bias": (TASK, "length bias"), "grades": (TASK, "spearman")}
STEPS = 600
PLAN = {"text_encoder": "small", "text_length": 32, "steps": STEPS, "batch_size": 64, "lr": 1e-3}
ARMS = {
    "debcse": Arm("debcse"),
    "simcse": Arm("simcse"),
    "teacher": Arm("simcse", {"steps": STEPS // 2}),
    "uniform": Arm("debcse --weighting uniform"),
    "meaning alone": Arm("debcse --weighting semantic"),
}


def notes(result: dict[str, Any]) -> str:
    """Which rows that need no training follow words as little as DebCSE does, and all means."""
    bias = {name: float(np.mean([seed["surface bias"] for seed in seeds]))
            for name, seeds in result["all"]["docstrings"].items() if name != "chance"}  # fmt: skip
    less = [name for name, value in bias.items() if name not in ARMS and value <= bias["debcse"]]
    first = f"Words sway {' and '.join(less)}, without training, no more than debcse. " if less else ""
    return first + arms_told(result)


def figure(out: Path, result: dict[str, Any]) -> None:
    """Both biases and the correlation with grades of every arm, in docs/assets/methods/debcse.svg."""
    rows = result["all"]["docstrings"]
    values = {name: {m: [100 * seed[m] for seed in rows[name]] for m in MEASURES}
              for name in [*ARMS, "untrained"]}  # fmt: skip
    about = "Correlation (x 100) of the similarity of two sentences; each tick is a seed. 0 is right of a bias."
    title = "Sentences of docstrings: what similarities follow"
    (FIGURES / "debcse.svg").write_text(bars_svg(values, title, about))


CLAIM = Claim(
    slug="debcse",
    claim="Similarities of unrelated sentences follow the words that they share less than SimCSE's (a reconstruction).",
    cells={
        "docstrings": Cell("sentences", ARMS, PLAN, MEASURES)
    },
    control="simcse",
    measure="surface bias",
    higher=False,
    seeds=3,
    notes=notes,
    pairs=[("debcse", "uniform"), ("debcse", "meaning alone"), ("debcse", "teacher")],
)  # fmt: skip
