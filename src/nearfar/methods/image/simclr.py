"""SimCLR (Chen et al., ICML 2020).

    x --two views--> a, b --encoder--> h --projector--> z_a, z_b --> NT-Xent over the 2n embeddings

The baseline of everything that has views. The equation is `nearfar.losses.nt_xent`.
"""

from collections.abc import Mapping
from typing import Any

from nearfar import modalities
from nearfar.methods import Paper, ViewContrast, register


@register("simclr", family="image")
class SimCLR(ViewContrast):
    """Two augmented views of one sample are near, all other samples of the batch far.

    Args:
        temperature: tau; divides the cosine.
    """

    paper = Paper(
        "A Simple Framework for Contrastive Learning of Visual Representations",
        "ICML 2020",
        "Two random augmentations of one sample must find each other among all others of the batch.",
        arxiv="2002.05709",
        differs="AdamW instead of LARS unless asked for (--optimiser lars or --preset paper)",
    )
    preset_paper = {
        "views": {"name": "two-crops", "crop": (0.08, 1.0), "strength": 1.0, "blur": 0.5},
        "temperature": 0.1,
        "projector": 2048,
        "dim": 128,
    }
    paper_training = {"optimiser": "lars", "lr": 0.3, "lr_batch": 256, "weight_decay": 1e-6}
    baseline = 3

    @classmethod
    def suits(cls, roles: Mapping[str, Any]) -> tuple[int, str] | None:
        kind = modalities.first(roles)
        return None if kind is None else (20 if kind != "text" else 5, modalities.get(kind).why)
