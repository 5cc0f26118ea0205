"""CREST, a reconstruction: evidence of two paths between regions and attributes, fused, tells classes never trained on.

Digits by facts of their shape: six trained on, two others validate (and choose the constant on unseen classes), two
others are tested, drawn anew each seed. One path with a softmax; both with the mean of their scores and a softmax; each
path's opinion alone, evidence summed or averaged in place of Dempster's rule, nothing weighed by certainty, each term
left out; and a plain regression of the attributes with the nearest class. mistakes, strangers, noise: the share of
pairs of a row that is told wrong (of an unseen class; pure noise) and one that is told right (of a seen class; any
digit) in which the first is less sure; 50 % says nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiment import FIGURES, Arm, Cell, Claim

import nearfar
from nearfar.evaluation.certainty import knows_mistakes
from nearfar.methods.describing import predicted
from nearfar.reporting.figures import bars_svg
from nearfar.training.modelled import ModelEmbedder

PLAN = {"image_size": 16, "steps": 400, "batch_size": "auto", "lr": 1e-3}
FULL = "crest --dim 32 --patterns 8"
ONE = "crest --dim 32 --paths"
SOFTMAX = "--learned cross-entropy --contrast-weight 0 --attribute-weight 0"
FOUND = {"H": ("generalised-zero-shot", "harmonic"), "unseen alone": ("generalised-zero-shot", "zero-shot"),
         "U": ("generalised-zero-shot", "unseen"), "S": ("generalised-zero-shot", "seen")}  # fmt: skip


def certainty(folder: Path, data: Any) -> dict[str, float]:
    """What uncertainty says of test rows told among all classes of training and test, and of noise beside them."""
    model = nearfar.load(folder / "model")
    inference, embed, targets = model.inference.eval(), ModelEmbedder(model, data), np.asarray(data.targets)
    train, rows = np.unique(targets[data.splits["train"]]), np.asarray(data.splits["test"])
    classes = np.union1d(train, np.unique(targets[rows]))
    matrix = inference.matrix[torch.from_numpy(classes)]
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (len(rows), 3, 16, 16), dtype=np.uint8))
    with torch.inference_mode():
        answer, encoder = inference.answer(rows, embed, matrix), model.roles["image"].encoder.eval()
        regions = encoder.feature_map(encoder.prepare(noise), inference.layer).flatten(2).transpose(1, 2)
        beside = predicted(inference.grounding(regions).psi, matrix, **inference.settings).uncertainty.cpu().numpy()
    unsure, right = answer.uncertainty.cpu().numpy(), classes[answer.score.argmax(1).cpu().numpy()] == targets[rows]
    known, both = np.isin(targets[rows], train), np.concatenate([unsure, beside])
    shares = {
        "mistakes": (unsure, right),
        "strangers": (unsure, known),
        "noise": (both, np.arange(len(both)) < len(rows)),
    }
    return {name: 0.5 if (found := knows_mistakes(u, fine)) is None else found for name, (u, fine) in shares.items()}


CLAIM = Claim(
    slug="crest",
    claim="Evidence of both paths, fused by Dempster's rule, tells classes never trained on better than one path with "
    "a softmax.",
    cells={
        "digits, described": Cell("digits, described", {
            "both, evidence fused": Arm(FULL),
            "visual, softmax": Arm(f"{ONE} visual {SOFTMAX}"),
            "both, mean, softmax": Arm(f"{FULL} {SOFTMAX} --pattern-weight 0"),
            "both, mean, softmax, all terms": Arm(f"{FULL} --learned cross-entropy"),
            "evidence summed": Arm(f"{FULL} --fusion sum"),
            "evidence averaged": Arm(f"{FULL} --fusion mean"),
            "visual, evidence": Arm(f"{ONE} visual"),
            "attribute, evidence": Arm(f"{ONE} attribute --patterns 8"),
            "not weighed by certainty": Arm(f"{FULL} --certainty false"),
            "without VICL": Arm(f"{FULL} --contrast-weight 0"),
            "without DIGS": Arm(f"{FULL} --pattern-weight 0"),
            "without ARISE": Arm(f"{FULL} --attribute-weight 0"),
            "scores times 10": Arm(f"{FULL} --scale 10"),
            "attribute regression": Arm("crest --paths pooled --learned regression"),
        }, PLAN, FOUND, look=certainty, divided=True),
    },
    control="visual, softmax",
    measure="H",
    pairs=[("both, mean, softmax", "visual, softmax"), ("both, mean, softmax", "attribute regression"),
           ("both, mean, softmax, all terms", "attribute regression")],
)  # fmt: skip


def figure(out: Path, result: dict[str, Any]) -> None:
    """Digits never trained on, and what uncertainty knows of them, in docs/assets/methods/crest.svg."""
    rows = next(iter(result["all"].values()))
    shown = {
        "H": "H of seen and unseen digits",
        "unseen alone": "unseen digits alone",
        "mistakes": "mistakes less sure",
    }
    arms = ["both, evidence fused", "visual, softmax", "both, mean, softmax, all terms", "visual, evidence",
            "evidence averaged", "attribute regression"]  # fmt: skip
    values = {name: {words: [100 * x[key] for x in rows[name]] for key, words in shown.items()} for name in arms}
    about = (
        "How well digits never trained on are told by facts of their shape, and whether wrong answers are less sure."
    )
    (FIGURES / "crest.svg").write_text(bars_svg(values, "Digits told by their attributes", about, unit=" %"))
