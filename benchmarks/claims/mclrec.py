"""MCLRec: augmenters that learn against the updated encoder make views that teach more than views drawn at random.

MovieLens-100k, the last item of each user among all items. MCLRec updates its encoder twice a step, so its baselines
stand beside it with the same steps and with twice as many; the second decides. Further: one update of both (MCLRec-J),
no regulariser; and a tenth of both weights (the scripts of the code have none of the contrast of plain views and 0.01
of the other for MovieLens-1M). Popularity and item kNN need no training. Every place of a history of 20 films tells the
next one (--positions all), in all arms: prefixes as samples of their own would take twenty times the steps for as many
films.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiment import Arm, Cell, Claim

STEPS = 400
PLAN = {
    "steps": STEPS,
    "batch_size": 128,
    "optimiser": "adam",
    "lr": 3e-3,
    "weight_decay": 0.0,
    "history_width": 32,
    "history_inner": 64,
    "history_length": 20,
    "history_dropout": 0.2,
}
TWICE = {"steps": 2 * STEPS}
SASREC = "sasrec --positions all"
CL4SREC = "cl4srec --positions all --weight 0.1"
MCLREC = "mclrec --positions all --weight 0.1 --beta 0.1"
ARMS = {
    "MCLRec": Arm(MCLREC),
    "SASRec": Arm(SASREC),
    "CL4SRec": Arm(CL4SREC),
    "SASRec, twice the steps": Arm(SASREC, TWICE),
    "CL4SRec, twice the steps": Arm(CL4SREC, TWICE),
    "MCLRec-J": Arm(f"{MCLREC} --joint true"),
    "no regulariser": Arm(f"{MCLREC} --regularise 0"),
    "MCLRec, small weights": Arm("mclrec --positions all --weight 0.01 --beta 0.01"),
    "CL4SRec, small weight, twice the steps": Arm("cl4srec --positions all --weight 0.01", TWICE),
}


def agreement(folder: Path, data: Any) -> dict[str, float]:
    """The mean cosine of what the two augmenters make of a history's views, at the end of training: 1 would be no
    view at all."""
    lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    return {"agreement": lines[-1]["agreement"]} if "agreement" in lines[-1] else {}


CLAIM = Claim(
    slug="mclrec",
    claim="Augmenters trained in turn with the encoder find the next item better than random views alone, at equal "
    "compute.",
    cells={
        "movielens": Cell(
            "movielens",
            ARMS,
            PLAN,
            {"nDCG@10": ("next-item", "ndcg@10"), "HR@10": ("next-item", "hit@10")},
            look=agreement,
            units={"agreement": "correlation"},
        )
    },
    control="CL4SRec, twice the steps",
    measure="nDCG@10",
    seeds=3,
    pairs=[
        ("CL4SRec", "SASRec"),
        ("CL4SRec, twice the steps", "SASRec, twice the steps"),
        ("MCLRec-J", "CL4SRec"),
        ("MCLRec, small weights", "SASRec, twice the steps"),
        ("MCLRec, small weights", "CL4SRec, small weight, twice the steps"),
    ],
)
