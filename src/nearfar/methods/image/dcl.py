"""DCL: decoupled contrastive learning (Yeh et al., ECCV 2022).

    x --two views--> a, b --encoder--> h --projector--> z_a, z_b --> -s_positive + logsumexp(negatives)

In InfoNCE the gradients of positive and negatives share the factor q = 1 - p(positive); with a small batch p is near
1 and learning stalls. Without the positive in the denominator the factor is gone. The equation is
`nearfar.losses.dcl`, its rows `nearfar.losses.rows.dcl_rows`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.checks import PositiveFloat
from nearfar.encoders import Encoder
from nearfar.methods import Batch, Loss, Paper, ViewContrast, register
from nearfar.similarity import Layout, LogSumExp, Similarity


def coupling(s: Similarity) -> Float[Tensor, "anchors"]:
    """q = U / (p + U), the factor that InfoNCE's gradient has and DCL's has not (negative-positive coupling)."""
    with torch.no_grad():
        return torch.sigmoid(s.reduce(LogSumExp(where=s.negative)) - s.paired())


@register("dcl", family="image")
class DecoupledContrast(ViewContrast):
    """SimCLR without the positive in the denominator; the curve shows `coupling`, the mean of q.

    Args:
        temperature: tau; divides the cosine.
        sigma: width of the von Mises-Fisher weights of the positives (DCLW); unweighted without it.
        loss: another row loss in place of the decoupled one.
    """

    paper = Paper(
        "Decoupled Contrastive Learning",
        "ECCV 2022",
        "Take the positive out of the denominator, so that a small batch no longer starves the gradient.",
        arxiv="2110.06848",
        differs="the weights of DCLW are constants in the gradient; masked entries are left out, not added "
        "as e^-103 as in a released implementation",
    )
    preset_paper = {"temperature": 0.1, "sigma": 0.5, "projector": 512, "dim": 128}
    paper_training = {"optimiser": "sgd", "lr": 0.03, "lr_batch": 256, "weight_decay": 1e-6}

    follows = {"sigma": "learn_temperature"}
    of_part = {"sigma": "loss"}

    def __init__(self, encoder: Encoder, *, sigma: PositiveFloat | None = None, **shared: Any):
        loss = shared.pop("loss") or self.default_part("loss", sigma=sigma)
        super().__init__(encoder, loss=loss, **shared)

    @classmethod
    def parts(cls, chosen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        return {"loss": {"name": "dcl", "sigma": chosen["sigma"]}}

    def report(self, layout: Layout, z: Tensor, batch: Batch) -> Loss:
        loss = super().report(layout, z, batch)
        if self.logged(batch):
            loss.terms["coupling"] = coupling(layout.parts[0]).mean()
        return loss
