"""Hydra: pairs of any two classes through learned gates give features that carry over to new classes.

Digits: trained on the classes 0 to 6, episodes on 7 to 9, which no training saw. Without gates the same code must fail
(it pulls all classes together), and with pairs of one class and open gates it is SupCon; SimCLR sees no label. Beside
the episodes: a linear probe and 5-NN among the new classes, the effective rank of the features, and the gates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from experiment import Arm, Cell, Claim, first_of_all
from shared import EMOJI, PLAN, STRONG

from nearfar import load
from nearfar.evaluation.diagnostics import effective_rank
from nearfar.evaluation.probe import knn, linear_probe
from nearfar.methods.inference import Request
from nearfar.training.modelled import ModelEmbedder

EPISODES = "few-shot --ways 3 --shots 1,5 --queries 15 --episodes 100"
SHOTS = {"5-shot": (EPISODES, "5-shot"), "1-shot": (EPISODES, "1-shot")}


def new_classes(folder: Path, data: Any) -> Mapping[str, float]:
    """Probe and 5-NN among the new classes (a half, a quarter and a quarter of their rows), rank, gates."""
    model, rows = load(folder / "model"), np.random.default_rng(0).permutation(data.splits["test"])
    embed = ModelEmbedder(model, data)
    role = next(iter(model.roles))
    z, labels = embed(role, rows), next(iter(data.labels.values()))[rows]
    fit, choose, test = np.split(np.arange(len(rows)), [len(rows) // 2, 3 * len(rows) // 4])
    told = {
        "probe": linear_probe(z[fit], labels[fit], z[choose], labels[choose], z[test], labels[test]).accuracy,
        "5-NN": knn(z[fit], labels[fit], z[test], labels[test], k=5).accuracy,
        "rank": effective_rank(z),
    }
    if model.inference is not None:
        told |= {d.name: d.value for d in model.inference.diagnostics(Request(data, data.splits["train"], embed))}
    return told


def notes(result: dict[str, Any]) -> str:
    """Means of all rows; accuracies in percent, the rank and the numbers of the gates as they are."""
    told = []
    for cell, rows in result["all"].items():
        lines = []
        for label, seeds in rows.items():
            means = {name: float(np.mean([s[name] for s in seeds])) for name in seeds[0]}
            plain = {name for name in means if name == "rank" or name.startswith("gate")}
            shown = [f"{k} {v:.2f}" if k in plain else f"{k} {100 * v:.1f}" for k, v in means.items()]
            lines.append(f"{label}: {', '.join(shown)}")
        told.append(f"{cell}: {'; '.join(lines)}.")
    return " ".join(filter(None, [first_of_all(replace(CLAIM, measure="hit@1"), result["all"]), *told]))


CLAIM = Claim(
    slug="hydra",
    claim="Arbitrary pairs through gates carry over to new classes at least as well as positives of one class.",
    cells={
        "digits, three new classes": Cell("digits, three new classes", {
            "hydra": Arm(f"hydra {STRONG}"),
            "arbitrary pairs, open gates": Arm(f"hydra --gate none {STRONG}"),
            "identical pairs, open gates": Arm(f"hydra --gate none --pairs identical {STRONG}"),
            "identical pairs": Arm(f"hydra --pairs identical {STRONG}"),
            "simclr": Arm(f"simclr {STRONG}"),
            "simclr, supcon": Arm(f"simclr --loss supcon {STRONG}"),
        }, PLAN | {"steps": 150, "task": "few-shot --ways 3 --episodes 10"}, SHOTS, look=new_classes),
        "emoji, subcategories": Cell("emoji, subcategories", {
            "hydra": Arm("hydra"),
            "arbitrary pairs, open gates": Arm("hydra --gate none"),
            "identical pairs, open gates": Arm("hydra --gate none --pairs identical"),
        }, {"steps": 100, "batch_size": 64}, EMOJI),
    },
    control="identical pairs, open gates",
    measure="5-shot",
    pairs=[("hydra", "arbitrary pairs, open gates"), ("hydra", "simclr")],
    notes=notes,
)  # fmt: skip
