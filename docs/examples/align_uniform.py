"""Alignment and uniformity (Wang and Isola, ICML 2020).

    x --two views--> a, b --encoder--> h --projector--> z_a, z_b
    loss = E ||z_a - z_b||^alpha  +  weight * log E exp(-t ||z_i - z_j||^2)        (z on the unit sphere)

The first term pulls the two views of one sample together, the second spreads all samples over the sphere.
"""

from typing import Any

from nearfar import heads, views
from nearfar.encoders import Encoder
from nearfar.losses import align_uniform, uniformity
from nearfar.methods import Batch, Loss, Method, Paper, Tower, check_plan, default_views, forward_views, register


@register("align-uniform", family="image")
class AlignUniform(Method):
    """Two views of one sample are near, all samples are spread evenly.

    Args:
        views: what is contrasted; any plan with two views.
        alpha: exponent of the distance between the two views.
        t: sharpness of the spread.
        weight: of the spread beside the alignment.
        projector: width of the hidden layer of the projection head.
        dim: width of the contrasted vectors.
    """

    paper = Paper("Understanding Contrastive Representation Learning through Alignment and Uniformity on the "
                  "Hypersphere", "ICML 2020", "Minimise the distance of positives and the density on the sphere.",
                  arxiv="2005.10242")  # fmt: skip
    needs = (frozenset({"image"}), frozenset({"text"}))
    preset_paper = {"alpha": 2.0, "t": 2.0, "weight": 1.0}

    def __init__(self, encoder: Encoder, *, views: views.Views | None = None, alpha: float = 2.0, t: float = 2.0,
                 weight: float = 1.0, projector: int = 512, dim: int = 128):  # fmt: skip
        super().__init__()
        self.role = encoder.role
        self.plan = check_plan(views or default_views(encoder.modality), encoder)
        self.tower = Tower(encoder, heads.mlp(encoder.dim, projector, dim))
        self.alpha, self.t, self.weight = alpha, t, weight

    @property
    def members(self) -> int:
        return self.plan.members

    def make_views(self, batch: Batch) -> dict[str, list]:
        return {self.role: self.plan(batch.inputs[self.role], batch.generator())}

    def encode(self, batch: Batch) -> dict[str, Any]:
        return {"views": forward_views(self.tower, batch.views[self.role])}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        a, b = embedded["views"][:2]
        self.monitored = a.detach()  # the curve shows its spread and warns of a collapse
        total = align_uniform(a, b, alpha=self.alpha, t=self.t, weight=self.weight)
        return Loss(total, {"uniformity": uniformity(a.detach(), t=self.t)})

    def towers(self) -> dict[str, Tower]:
        return {self.role: self.tower}
