"""SepCLR: what both sets show and what the target set alone shows go into two codes.

Patches of photographs, in the target set with a digit (or an emoji) on them; the shared label is the photograph, the
salient one the digit (the kind of emoji). Against the same two encoders without the null vector (two plain codes),
without the joint entropy, and SimCLR, whose one vector is asked for both. Every split has its own part of each
photograph.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiment import FIGURES, Arm, Cell, Claim

from nearfar.reporting.figures import bars_svg

VIEWS = "--views two-crops --views.crop 0.5,1 --views.flip 0 --views.strength 0.25 --views.grey 0"
MEASURES = {name: ("separation", name) for name in ("deviation", "shared from common", "shared from salient",
                                                    "salient from common", "salient from salient")}  # fmt: skip
ARMS = {
    "sepclr": Arm(f"sepclr --background background {VIEWS}"),
    "without null vector": Arm(f"sepclr --background background --null-vector false --null-weight 0 {VIEWS}"),
    "without joint entropy": Arm(f"sepclr --background background --entropy-weight 0 {VIEWS}"),
    "simclr": Arm(f"simclr --temperature 0.5 {VIEWS}"),
}
PLAN = {"batch_size": 128, "lr": 1e-3}


def null(folder: Path, data: Any) -> Mapping[str, float]:
    """The mean squared length of the background's salient codes in the last steps."""
    lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    found = [line["null"] for line in lines if "null" in line][-10:]
    return {"|s|^2 of the background": sum(found) / len(found)} if found else {}


CLAIM = Claim(
    slug="sepclr",
    claim="A null vector for the background keeps shared patterns out of the salient code.",
    cells={
        "digits on photographs": Cell("digits on photographs", ARMS, PLAN | {"steps": 300, "image_size": 16}, MEASURES,
                                      null),
        "emoji on photographs": Cell("emoji on photographs", {k: v for k, v in ARMS.items() if "entropy" not in k},
                                     PLAN | {"steps": 200, "batch_size": 64, "image_size": 24}, MEASURES, null),
    },
    control="without null vector",
    measure="deviation",
    higher=False,
    seeds=3,
    pairs=[("sepclr", "simclr"), ("sepclr", "without joint entropy")],
)  # fmt: skip


def figure(out: Path, result: dict[str, Any]) -> None:
    """The four probes of every arm, in docs/assets/methods/sepclr.svg."""
    rows = result["all"]["digits on photographs"]
    values = {name: {probe: [100 * x[probe] for x in seeds] for probe in list(MEASURES)[1:]}
              for name, seeds in rows.items() if name in ARMS}  # fmt: skip
    about = "Linear probes for the photograph (shared) and the digit on it (salient), from both codes."
    (FIGURES / "sepclr.svg").write_text(bars_svg(values, "What the common and the salient code tell", about, unit=" %"))
