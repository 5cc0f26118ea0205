"""What methods of copies share: one text several times, told apart by the encoder's dropout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nearfar import heads
from nearfar.encoders import Encoder
from nearfar.errors import InputError
from nearfar.losses import uniformity
from nearfar.methods.base import Loss
from nearfar.methods.batch import Batch
from nearfar.methods.contrast.views import ViewContrast, against_targets, forward_views
from nearfar.similarity import normalise
from nearfar.similarity.exchange import exchange


def check_dropout(encoder: nn.Module, slug: str, otherwise: str = "") -> None:
    """Raises InputError where an encoder in training makes the same vectors of a text each time. otherwise: what else
    the user may do."""
    random = any(isinstance(part, nn.Dropout) and part.p > 0 for part in encoder.modules())
    if not (random and any(p.requires_grad for p in encoder.parameters())):
        raise InputError(
            f"'{slug}' tells the copies of a text apart by the encoder's dropout, and this encoder has none.",
            f"Use --text-dropout 0.1 without --freeze{otherwise}.",
        )


class CopyContrast(ViewContrast):
    """The first copy of a text finds each of its other copies among those of the other texts; the losses of the other
    copies are added. A linear layer and tanh behind the encoder serve training alone.

    The curve shows `alignment` (mean squared distance of positives) and `uniformity` of the contrasted vectors.

    Args:
        temperature: T; divides the cosine.
        views: twice (copies that dropout tells apart), delete, mask, crops, ict.
    """

    needs = (frozenset({"text"}),)
    defaults = {"temperature": 0.05}
    fixed = ("projector", "dim", "momentum")

    def __init__(self, encoder: Encoder, **shared: Any):
        shared["views"] = shared["views"] or self.default_part("views")
        super().__init__(encoder, projector=0, **shared)
        if self.plan.equal:
            check_dropout(encoder, self.slug, ", or views that change the text: --views delete")
        self.tower.head = heads.pooler(encoder.dim, "tanh")

    @classmethod
    def parts(cls, chosen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        return {"views": {"name": "twice", "copies": 2}}

    def encode(self, batch: Batch) -> dict[str, Any]:
        return {"views": forward_views(self.tower, batch.views[self.role])}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        return self.contrasted(embedded["views"], batch)

    def contrasted(self, z: list[Tensor], batch: Batch) -> Loss:
        """The sum over the other copies v of the row loss of z_1 against all z_v."""
        found = self.report(against_targets(z[:1], z, self.in_batch, self.layout_options(batch)), z[0], batch)
        if self.logged(batch):
            with torch.no_grad():
                net, unit = exchange("global"), normalise(z[0])
                apart = torch.stack([(unit - normalise(v)).square().sum() for v in z[1:]]).mean()
                found.terms |= {"alignment": net.sum(apart) / net.count(unit),
                                "uniformity": uniformity(unit, negatives="global")}  # fmt: skip
        return Loss(found.total * (len(z) - 1), found.terms)
