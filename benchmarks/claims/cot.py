"""CoT: attributes from several layers as the object directs, and rare ones mixed in, tell pairs never trained on.

Digits under eight operations; of each digit the training images of its operations follow 1 / rank. The last layer
alone, the maps of layers without and with gates, and with partners of rare attributes; as many images with partners
but nothing mixed, partners by their frequency, and an encoder that goes on learning. rare: accuracy on test images of
compositions that have fewer training images than the median one, told among all without a bias.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiment import FIGURES, Arm, Cell, Claim

import nearfar
from nearfar.reporting.figures import bars_svg
from nearfar.sources.compositions import compositions
from nearfar.training.modelled import ModelEmbedder

PLAN = {"image_size": 16, "steps": 600, "batch_size": 64, "lr": 2e-3}
PLAIN = "cot --dim 32 --augment-from 1"
FOUND = {"AUC": ("compositions", "auc"), "H": ("compositions", "harmonic"), "unseen": ("compositions", "unseen"),
         "seen": ("compositions", "seen")}  # fmt: skip


def rare(folder: Path, data: Any) -> dict[str, float]:
    """How often compositions and attributes with few training images are told."""
    found, model = compositions(data), nearfar.load(folder / "model")
    train, test = (np.asarray(data.splits[name]) for name in ("train", "test"))
    count = np.bincount(found.of[train[found.of[train] >= 0]], minlength=len(found))
    few = (count > 0) & (count < np.median(count[count > 0]))
    rows = test[(found.of[test] >= 0) & few[found.of[test]]]
    if not len(rows):
        return {"rare": 0.0, "rare attribute": 0.0}
    with torch.inference_mode():
        scores = model.inference.of_compositions(data, rows, ModelEmbedder(model, data), found.names)
    told, true = scores.argmax(1).cpu().numpy(), found.of[rows]
    same = found.pairs[told, 0] == found.pairs[true, 0]
    return {"rare": float((told == true).mean()), "rare attribute": float(same.mean())}


CLAIM = Claim(
    slug="cot",
    claim="Attributes read from several layers as the object directs, and rare attributes mixed in, tell compositions "
    "better than the last layer does.",
    cells={
        "digit operations, long-tailed": Cell("digit operations, long-tailed", {
            "attention and mixing": Arm("cot --dim 32"),
            "last layer": Arm(f"{PLAIN} --attention last"),
            "maps without gates": Arm(f"{PLAIN} --attention pooled"),
            "attention": Arm(PLAIN),
            "partners, not mixed": Arm("cot --dim 32 --mix-weight 0"),
            "partners by frequency": Arm("cot --dim 32 --partners frequent"),
            "mixing, encoder not held": Arm("cot --dim 32 --hold-encoder false"),
        }, PLAN, FOUND, look=rare),
    },
    control="last layer",
    measure="AUC",
    pairs=[("attention", "last layer"), ("attention", "maps without gates"), ("maps without gates", "last layer"),
           ("attention and mixing", "attention"), ("attention and mixing", "partners, not mixed")],
)  # fmt: skip


def figure(out: Path, result: dict[str, Any]) -> None:
    """Compositions never trained on and rare ones, by what attributes are read from, in docs/assets/methods/cot.svg."""
    rows, arms = next(iter(result["all"].values())), next(iter(CLAIM.cells.values())).arms
    shown = {"AUC": "AUC of seen and unseen", "unseen": "unseen compositions", "rare": "compositions with few images"}
    values = {name: {words: [100 * x[key] for x in rows[name]] for key, words in shown.items()} for name in arms}
    about = "How well digits under operations are told, by where their attributes are read and by what is mixed."
    (FIGURES / "cot.svg").write_text(bars_svg(values, "Attribute and digit together", about, unit=" %"))
