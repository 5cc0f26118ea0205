"""What methods of two copies of a graph share: contrast with a head with ELU; hosts that need no negatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from nearfar import heads
from nearfar.checks import WidthOrNone
from nearfar.encoders import Encoder
from nearfar.losses import bgrl, graph_barlow_twins
from nearfar.methods.base import Loss, Method
from nearfar.methods.batch import Batch
from nearfar.methods.contrast.views import ViewContrast, check_plan, default_views, forward_views
from nearfar.methods.tower import Tower
from nearfar.momentum import Teacher, momentum_at
from nearfar.views import Views


class GraphContrast(ViewContrast):
    """Two copies of a graph: a node is near itself, and far from all others in both copies.

    Args:
        projector: h_p; width of the hidden layer of the head W2 elu(W1 h + b1) + b2, which gives vectors as long as the
            encoder's; 0 for no head.
    """

    needs = (frozenset({"node"}),)
    fixed = ("dim", "momentum")

    def __init__(self, encoder: Encoder, *, projector: WidthOrNone = 256, **shared: Any):
        super().__init__(encoder, projector=0, **shared)
        if projector:
            self.tower = Tower(encoder, heads.mlp(encoder.dim, projector, encoder.dim, norm=False, activation="elu"))


class Bootstrap(nn.Module):
    """BGRL's way: p = predictor(h) of one copy points as a teacher's h of the other does.

    momentum: m of the teacher at the first step; 1 - m falls to 0 by cosine. fresh: the teacher starts from weights of
    its own.
    """

    def __init__(self, tower: Tower, predictor: int, momentum: float, fresh: bool = True):
        super().__init__()
        dim = tower.encoder.dim
        self.predictor = heads.mlp(dim, predictor, dim, norm=False, activation="prelu")
        self.teacher, self.momentum = Teacher(tower), momentum
        for module in self.teacher.modules() if fresh else ():
            reset: Any = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()

    def predicted(self, z: Sequence[Tensor]) -> dict[str, Any]:
        return {"predicted": [self.predictor(h) for h in z]}

    def before_targets(self, tower: Tower, batch: Batch) -> None:
        if batch.step:
            self.teacher.follow(tower, momentum_at(batch.step - 1, batch.steps, self.momentum, schedule="cosine"))

    def targets(self, views: Sequence[Any]) -> dict[str, Any]:
        return {"targets": forward_views(self.teacher, views)}

    def loss(self, embedded: dict[str, Any]) -> Tensor:
        (a, b), (target_a, target_b) = embedded["predicted"], embedded["targets"]
        return bgrl(a, target_b, b, target_a)


class Decorrelation(nn.Module):
    """Graph Barlow Twins' way: each column of the two copies agrees with itself and with no other."""

    def predicted(self, z: Sequence[Tensor]) -> dict[str, Any]:
        return {}

    def before_targets(self, tower: Tower, batch: Batch) -> None:
        """There is no teacher."""

    def targets(self, views: Sequence[Any]) -> dict[str, Any]:
        return {}

    def loss(self, embedded: dict[str, Any]) -> Tensor:
        a, b = embedded["views"]
        return graph_barlow_twins(a, b, negatives="global")


class GraphTwins(Method):
    """Two copies of a graph through one encoder, and a host, which says how they agree without negatives.

    Args:
        views: copies of the graph: drop (evenly), communal.
    """

    needs = (frozenset({"node"}),)
    prefers = {"graph_norm": "batch"}
    host: Bootstrap | Decorrelation

    def __init__(self, encoder: Encoder, *, views: Views | None = None):
        super().__init__()
        self.role = encoder.modality
        self.plan = check_plan(views or default_views(encoder.modality), encoder)
        self.tower = Tower(encoder)

    def make_views(self, batch: Batch) -> dict[str, list]:
        return {self.role: self.plan(batch.inputs[self.role], batch.generator())}

    def encode(self, batch: Batch) -> dict[str, Any]:
        z = forward_views(self.tower, batch.views[self.role])
        return {"views": z} | self.host.predicted(z)

    def before_targets(self, batch: Batch) -> None:
        self.host.before_targets(self.tower, batch)

    def targets(self, batch: Batch) -> dict[str, Any]:
        return self.host.targets(batch.views[self.role])

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        self.monitored = embedded["views"][0].detach()
        return Loss(self.host.loss(embedded))

    def towers(self) -> dict[str, Tower]:
        return {self.role: self.tower}
