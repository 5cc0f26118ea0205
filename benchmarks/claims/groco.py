"""GroCo: sorting positives before the ten nearest negatives beats NT-Xent where neighbours are read.

Every arm has the same views, encoder, head and optimiser; they differ in the loss alone. The k-NN of the head's output
decides, as in the paper's account of the idea, against the best temperature of NT-Xent that was known beforehand (0.1).
The control "nt-xent, 10 nearest" sees the same negatives and sorts nothing: what it reaches is not the sorting's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from experiment import Arm, Cell, Claim, arms_told, first_of_all
from shared import EMOJI, PLAN, STRONG

from nearfar import evaluation, heads, load, models
from nearfar.methods import Tower
from nearfar.training.modelled import ModelEmbedder

OUTPUT = "output kNN"
KNN = {"kNN": ("labels", "knn"), "probe": ("labels", "probe")}
NT_XENT = "groco --own-view false --loss infonce --temperature"
ARMS = {
    "groco": Arm(f"groco {STRONG}"),
    "nt-xent 0.1": Arm(f"{NT_XENT} 0.1 {STRONG}"),
    "nt-xent 0.2": Arm(f"{NT_XENT} 0.2 {STRONG}"),
    "nt-xent 0.5": Arm(f"{NT_XENT} 0.5 {STRONG}"),
    "nt-xent, 10 nearest": Arm(f"groco --loss nearest {STRONG}"),
    "simclr": Arm(f"simclr {STRONG}"),
}
ABLATIONS = {
    "groco": Arm(f"groco {STRONG}"),
    "groco, steepness 5": Arm(f"groco --steepness 5 {STRONG}"),
    "groco, 3 nearest": Arm(f"groco --top-k 3 {STRONG}"),
    "groco, 30 nearest": Arm(f"groco --top-k 30 {STRONG}"),
    "groco, gradient to all": Arm(f"groco --detach false {STRONG}"),
}
DIGITS_PLAN = PLAN | {"steps": 150, "batch_size": 128}
DRAWINGS = {
    "groco": Arm("groco --views members"),
    "nt-xent 0.1": Arm(f"{NT_XENT} 0.1 --views members"),
    "nt-xent, 10 nearest": Arm("groco --loss nearest --views members"),
}


def trained_head(folder: Path) -> torch.nn.Module:
    """The projection head of a finished run, as its last checkpoint has it."""
    held = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    state = {k.removeprefix("tower.head."): v for k, v in held.items() if k.startswith("tower.head.")}
    layers = [v for v in state.values() if v.dim() == 2]
    last = list(state)[-1].partition(".")[0]
    head = heads.mlp(layers[0].shape[1], layers[0].shape[0], layers[-1].shape[0], len(layers),
                     last_norm=f"{last}.running_mean" in state)  # fmt: skip
    head.load_state_dict(state)
    return head.eval()


def at_the_output(folder: Path, data: Any) -> Mapping[str, float]:
    """The paper's k-NN (20 neighbours) and the linear probe on what the head gives, in place of the encoder."""
    model = load(folder / "model")
    (role, tower), *_ = model.roles.items()
    whole = models.Model({role: Tower(tower.encoder, trained_head(folder), kept=True)}, model.config)
    found = evaluation.task_for(data, "labels").evaluate(ModelEmbedder(whole, data), "test").metrics
    return {OUTPUT: float(found["knn"]), "output probe": float(found["probe"])}


def notes(result: dict[str, Any]) -> str:
    """What needs no training and is better, what the control says of the gain, then all rows."""
    better = [first_of_all(replace(CLAIM, measure=m), result["all"]) for m in ("kNN", "hit@1")]
    gap = result["further"][f"digits: groco - nt-xent, 10 nearest, {OUTPUT}"]
    low, high = (100 * x for x in gap["interval"] or (float("nan"),) * 2)
    more = "more than" if gap["holds"] is True else "not shown to be more than"
    told = (f"Against the control, NT-Xent over the same ten negatives, sorting changes the {OUTPUT} of digits by "
            f"{100 * gap['mean']:+.1f} points ({low:+.1f} to {high:+.1f}): {more} what the choice of negatives "
            "gives.")  # fmt: skip
    return " ".join([*filter(None, better), told, arms_told(result)])


CLAIM = Claim(
    slug="groco",
    claim="Positives sorted before the nearest negatives make better neighbours than NT-Xent at any temperature.",
    cells={
        "digits": Cell("digits", ARMS, DIGITS_PLAN, KNN, look=at_the_output),
        "digits, ablations": Cell("digits", ABLATIONS, DIGITS_PLAN, KNN, look=at_the_output),
        "emoji": Cell("emoji", DRAWINGS, {"steps": 150, "batch_size": 128}, EMOJI),
    },
    control="nt-xent 0.1",
    measure=OUTPUT,
    seeds=3,
    pairs=[("nt-xent, 10 nearest", "nt-xent 0.1")],
    notes=notes,
)
