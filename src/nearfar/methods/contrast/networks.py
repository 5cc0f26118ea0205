"""What methods of two copies of a graph share: a head with ELU, and needs."""

from __future__ import annotations

from typing import Any

from nearfar import heads
from nearfar.checks import WidthOrNone
from nearfar.encoders import Encoder
from nearfar.methods.contrast.views import ViewContrast
from nearfar.methods.tower import Tower


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
