"""SuSana: a margin to the nearest wrong prototype, and neighbourhoods of one class, tell new classes apart.

Emoji of one style by subgroup, half of the subgroups trained on and others told apart in the test, in equal episodes of
ten classes. Against ProtoNet (the cross-entropy over the prototypes alone); each term alone and the pairs of the
released scripts. The digits as rows of numbers: trained on six, told apart are the other four.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiment import FIGURES, Arm, Cell, Claim

import nearfar
from nearfar.losses import icnn_score
from nearfar.reporting.figures import bars_svg
from nearfar.training.modelled import ModelEmbedder

TERMS = {
    "susana": "",
    "protonet": "--proto-triplet false --icnn none --cross-entropy true",
    "proto-triplet alone": "--icnn none",
    "icnn alone": "--proto-triplet false",
    "cross-entropy + proto-triplet": "--icnn none --cross-entropy true",
    "cross-entropy + icnn": "--proto-triplet false --cross-entropy true",
}


def episodes(ways: int) -> str:
    return f"few-shot --classifier nearest --ways {ways} --shots 1,5 --queries 5 --episodes 300"


def measures(ways: int) -> dict[str, tuple[str, str]]:
    return {"5-shot": (episodes(ways), "5-shot"), "1-shot": (episodes(ways), "1-shot")}


def arms(ways: int) -> dict[str, Arm]:
    size = f"--ways {ways} --shots 5 --queries 5"
    return {name: Arm(f"susana {size} {words}".strip()) for name, words in TERMS.items()}


def separability(folder: Path, data: Any) -> Mapping[str, float]:
    """The ICNN score of the test rows, by their classes."""
    rows, labels = data.splits["test"], next(iter(data.labels.values()))
    embed = ModelEmbedder(nearfar.load(folder / "model"), data)
    z = torch.from_numpy(embed.raw(data.content_roles[0], rows)).double()
    return {"separability": float(icnn_score(z, torch.from_numpy(np.asarray(labels)[rows])))}


PLAN = {"batch_size": "auto", "lr": 1e-3}
CLAIM = Claim(
    slug="susana",
    claim="Proto-Triplet and ICNN losses tell new classes apart better than the cross-entropy over prototypes.",
    cells={
        "emoji, new subgroups": Cell("emoji, new subgroups", arms(10), PLAN | {"steps": 300, "image_size": 24},
                                     measures(5), separability),
        "digits, new classes": Cell("digits as numbers, new classes", arms(5),
                                    PLAN | {"steps": 300, "vector_width": 32}, measures(4), separability),
    },
    control="protonet",
    measure="5-shot",
    pairs=[("cross-entropy + proto-triplet", "protonet"), ("proto-triplet alone", "protonet"),
           ("icnn alone", "protonet"), ("cross-entropy + icnn", "protonet")],
)  # fmt: skip


def figure(out: Path, result: dict[str, Any]) -> None:
    """Accuracy and separability of new subgroups by the terms of the loss, in docs/assets/methods/susana.svg."""
    rows = result["all"]["emoji, new subgroups"]
    shown = {"5-shot": "told apart after 5 examples", "separability": "ICNN score of the vectors"}
    values = {name: {words: [100 * x[key] for x in seeds] for key, words in shown.items()}
              for name, seeds in rows.items() if name in TERMS}  # fmt: skip
    about = "Five-way accuracy on subgroups of emoji never trained on, and how well neighbourhoods agree with them."
    (FIGURES / "susana.svg").write_text(bars_svg(values, "New subgroups of emoji, by the terms of the loss", about,
                                                 unit=" %"))  # fmt: skip
