"""PixPro: pixel-level pretext tasks give maps from which places are read better than instance-level ones.

The built-in scenes (64 pixels), a linear probe on the last map; PixPro, PixContrast and SimCLR with the same steps,
batch and learning rate. `python benchmarks/dense.py` chooses the rate of each on validation scenes.
"""

from __future__ import annotations

from experiment import Arm, Cell, Claim

PLAN = {"steps": 200, "batch_size": 32, "lr": 5e-4}
CLAIM = Claim(
    slug="pixpro",
    claim="Pixel-level consistency gives a map from which places are read better than from an instance-level one.",
    cells={
        "scenes": Cell("scenes", {
            "pixpro": Arm("pixpro"),
            "pixcontrast": Arm("pixpro --pretext contrast"),
            "simclr": Arm("simclr"),
        }, PLAN, {"mIoU": ("dense", "miou"), "pixel accuracy": ("dense", "pixel accuracy")}),
    },
    control="simclr",
    measure="mIoU",
    seeds=3,
    pairs=[("pixcontrast", "simclr")],
)  # fmt: skip
