"""PixPro: pixel-level pretext tasks give maps from which places are read better than instance-level ones.

The built-in scenes (64 pixels), a linear probe on the last map; PixPro, PixContrast and SimCLR with the same steps,
batch and learning rate. `python benchmarks/dense.py` chooses the rate of each on validation scenes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiment import FIGURES, Arm, Cell, Claim

from nearfar.methods.image.pixpro import cell_centres, positive_pixels
from nearfar.reporting.figures import Points, scatter_svg

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


def figure(out: Path, result: dict[str, Any], side: int = 6) -> None:
    """Which cells of two crops of one image are positives, in docs/assets/methods/pixpro.svg."""
    crops = torch.tensor([[0.05, 0.1, 0.7, 0.75], [0.95, 0.3, 0.4, 0.95]])  # the second one mirrored
    a, b = (cell_centres(c[None], side, side)[0][0].numpy() for c in crops)
    pairs = positive_pixels(crops[:1], crops[1:], side, side)[0].nonzero().numpy()
    lines = np.stack([a[pairs[:, 0]], b[pairs[:, 1]]], 1)
    both = [Points("positive cells", np.concatenate([a[pairs[:, 0]], b[pairs[:, 1]]]), 7),
            Points("cells of the first crop", a, 4), Points("cells of the second crop, mirrored", b, 4)]  # fmt: skip
    about = "Two grids of cells overlap; cells whose centres lie near each other are joined as positives."
    svg = scatter_svg(both, "Cells of two crops that show the same place", about, lines=lines, height=560)
    (FIGURES / "pixpro.svg").write_text(svg)
