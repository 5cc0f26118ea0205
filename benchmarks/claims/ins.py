"""INS: instances of positive bags are told by prototypes and contrast, from labels of bags alone.

Bags of ten digits of 64 grey values, half of them with nines among the others. Against the label of the bag copied to
its instances, each idea left out, attention pooling, and training bags with permuted labels (which must be chance). The
plan is the card's: an MLP, the paper's SGD, W = 3 of 20 epochs after one of pre-training, queue 1024, m = 0.99.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiment import FIGURES, Arm, Cell, Claim, arms_told

from nearfar.evaluation.pairwise import auc
from nearfar.reporting.figures import bars_svg

TASK = "bags --instance-positive 9"
INS = "ins --queue 1024 --momentum 0.99 --pretraining 0.05 --start 0.2 --projector 64 --dim 32"
MEASURES = {"instance AUC": (TASK, "instance_auc"), "bag AUC": (TASK, "bag_auc")}
PLAN = {"steps": 750, "batch_size": 64, "vector_width": 128, "vector_layers": 1, "optimiser": "sgd", "lr": 0.01,
        "weight_decay": 1e-3, "schedule": "constant", "warmup": 0, "task": TASK}  # fmt: skip
MAIN = {
    "ins": Arm(INS),
    "bag label copied": Arm(f"{INS} --pseudo-labels bag --contrast 0 --bag-loss 0 --pretraining 0 --start 0"),
    "abmil": Arm("abmil"),
}
PARTS = {
    "without contrast": Arm(f"{INS} --contrast 0"),
    "without pseudo labels": Arm(f"{INS} --pseudo-labels none"),
    "without bag loss": Arm(f"{INS} --bag-loss 0"),
    "without warm-up": Arm(f"{INS} --start 0.05"),
    "labels permuted": Arm(INS, data="digit bags, 0.2, permuted"),
}


def look(folder: Path, data: Any) -> Mapping[str, float]:
    """How well the soft targets of instances of positive training bags tell the nines, at the end; 0.5 at first."""
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    if "soft" not in state:
        return {}
    rows = np.asarray(data.splits["train"])
    inside = data.targets[rows] == data.target_names.index("positive")
    nine = data.labels["digit"][rows] == data.label_names["digit"].index("9")
    return {"soft targets AUC": auc(state["soft"][:, 1].numpy()[inside], nine[inside])}


def notes(result: dict[str, Any]) -> str:
    """What became of the pseudo labels, then the means."""
    told = [f"{np.mean([seed['soft targets AUC'] for seed in rows[arm]]):.2f} ({cell}{', ' * bool(more)}{more})"
            for cell, rows in result["all"].items()
            for arm, more in (("ins", ""), ("without warm-up", "without warm-up")) if arm in rows]  # fmt: skip
    return (f"AUC of the soft targets of training instances of positive bags at the end, 0.5 at first: "
            f"{', '.join(told)}. {arms_told(result)}")  # fmt: skip


def figure(out: Path, result: dict[str, Any]) -> None:
    """Both areas of every arm where a fifth of a positive bag is positive, in docs/assets/methods/ins.svg."""
    rows = result["all"]["ratio 0.2"]
    shown = [*MAIN, *PARTS, "untrained"]
    values = {name: {m: [100 * seed[m] for seed in rows[name]] for m in MEASURES} for name in shown}
    about = "Area under the ROC curve of instances and of bags, from labels of bags alone; each tick is a seed."
    (FIGURES / "ins.svg").write_text(bars_svg(values, "Bags of digits, two of ten nines in a positive one: AUC", about))


CLAIM = Claim(
    slug="ins",
    claim="Instances are told better than with the label of their bag copied to each, where few of a positive bag are "
    "positive.",
    cells={
        "ratio 0.2": Cell("digit bags, 0.2", MAIN | PARTS, PLAN, MEASURES, look),
        "ratio 0.1": Cell("digit bags, 0.1", MAIN, PLAN, MEASURES, look),
        "ratio 0.5": Cell("digit bags, 0.5", MAIN, PLAN, MEASURES, look),
    },
    control="bag label copied",
    measure="instance AUC",
    notes=notes,
)
