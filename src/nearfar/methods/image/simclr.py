"""SimCLR (Chen et al., ICML 2020).

    x --two views--> a, b --encoder--> h --projector--> z_a, z_b --> NT-Xent over the 2n embeddings

The baseline of everything that has views. The equation is `nearfar.losses.nt_xent`.
"""

from __future__ import annotations

from typing import Literal

from nearfar.checks import PositiveFloat, UnitInterval, Width, WidthOrNone
from nearfar.encoders import Encoder
from nearfar.losses.parts import InfoNCE, RowLoss
from nearfar.methods.base import Paper
from nearfar.methods.contrast import ViewContrast
from nearfar.methods.registry import register
from nearfar.negatives import Negatives
from nearfar.views import Views


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
        differs="AdamW instead of LARS unless asked for (--optimiser lars)",
    )
    preset_paper = {"temperature": 0.1, "projector": 2048, "dim": 128}

    def __init__(
        self,
        encoder: Encoder,
        *,
        temperature: PositiveFloat = 0.1,
        learn_temperature: bool = False,
        views: Views | None = None,
        loss: RowLoss | None = None,
        negatives: Negatives | None = None,
        momentum: UnitInterval | Literal["auto"] | None = None,
        projector: WidthOrNone = 512,
        dim: Width = 128,
        mask_duplicates: bool = True,
    ):
        super().__init__(
            encoder,
            views=views,
            loss=loss or InfoNCE(),
            temperature=temperature,
            learn_temperature=learn_temperature,
            negatives=negatives,
            momentum=momentum,
            projector=projector,
            dim=dim,
            mask_duplicates=mask_duplicates,
        )
