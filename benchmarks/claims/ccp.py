"""CCP: sentences that stand near each other teach what they are about, in every language alike.

Manual pages in English, German and French, each language with pages of its own. Against the same network that finds the
sentence itself under other dropout, ordinary batch norm on both sides, one bank for all languages, and SimCLR with
dropout. Neighbours: the sentence behind one in pages never trained on. Translations: messages of programs, which no arm
sees, nor does the calibration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sets
from experiment import Arm, Cell, Claim

import nearfar
from nearfar import evaluation
from nearfar.training.modelled import ModelEmbedder

PLAN = {"steps": 500, "batch_size": 64, "lr": 2e-3}
CCP = "ccp --bank 512 --dim 96 --projector 256"
NEAR = "pairs --pool domain --candidates 1000"
NEIGHBOURS = {"MRR": (NEAR, "mrr"), "hit@1": (NEAR, "hit@1"), "language": ("labels", "probe")}
STEPS = {"accuracy@1": "none", "shifted": "shift", "scaled": "scale", "rotated": "rotate"}


def translations(folder: Path, data: Any) -> dict[str, float]:
    """Accuracy@1 of English messages and their translations, before and after each step of the calibration."""
    found = sets.opened("translations", folder.parents[2])
    embed = ModelEmbedder(nearfar.load(folder / "model"), found)
    tasks = {name: evaluation.task_for(found, f"bitext --calibrate {steps}") for name, steps in STEPS.items()}
    return {name: float(task.evaluate(embed, "test").primary) for name, task in tasks.items()}


ARMS = {
    "ccp": Arm(CCP),
    "itself": Arm(f"{CCP} --context itself"),
    "ordinary batch norm": Arm(f"{CCP} --norm batch"),
    "one bank": Arm(f"{CCP} --banks shared"),
    "dropout": Arm("simclr --views twice"),
}
CLAIM = Claim(
    slug="ccp",
    claim="A sentence's neighbours in the document, as positives, teach more than the sentence itself.",
    cells={
        "neighbours": Cell("neighbours", ARMS, PLAN, NEIGHBOURS, look=translations),
    },
    control="itself",
    measure="MRR",
    seeds=3,
    pairs=[("ccp", "ordinary batch norm"), ("ccp", "one bank")],
)
