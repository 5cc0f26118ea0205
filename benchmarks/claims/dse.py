"""DSE: the scores of a model that reads both texts teach a model that reads each alone more than labels do.

Pairs of docstring sentences; a fifth of the training pairs has a label, all have the scores of a teacher (MiniLM, fine-
tuned on the labels of all). The students are small transformers from scratch. Against labels alone, the teacher alone,
labels of all pairs without a teacher, and the last layer alone in place of both side by side.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from experiment import Arm, Cell, Claim

import nearfar
from nearfar.evaluation.pairwise import pearson

ALL = "judged docstrings, all"
MEASURES = {"AP": ("pair-labels", "ap"), "accuracy": ("pair-labels", "accuracy")}


def agreement(folder: Path, data: Any) -> dict[str, float]:
    """Correlation of the student's scores with the teacher's on test rows, neither of which trained on them."""
    rows = data.splits["test"]
    told = np.array(nearfar.predict(folder / "model", data, on="test").columns["score"])
    return {"agreement": pearson(told, [float(value) for value in data.values("teacher", rows)])}


CLAIM = Claim(
    slug="dse",
    claim="Learning a cross-encoder's scores beside the labels tells pairs apart better than labels alone.",
    cells={
        "docstrings": Cell(
            "judged docstrings",
            {
                "dse": Arm("dse"),
                "labels alone": Arm("dse --alpha 0"),
                "teacher alone": Arm("dse --alpha 1"),
                "labels of all pairs": Arm("dse --alpha 0", data=ALL),
                "last layer alone": Arm("dse --layers 1"),
            },
            {"steps": 300, "batch_size": 32, "text_encoder": "tiny", "text_length": 32},
            MEASURES,
            look=agreement,
        )
    },
    control="labels alone",
    measure="AP",
    seeds=3,
    pairs=(("dse", "teacher alone"), ("labels of all pairs", "labels alone")),
)
