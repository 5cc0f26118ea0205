"""A term between images and captions beside their contrast: BarLIP, SiamLIP, BYOLIP and SwALIP (Fini et al., TMLR
2023)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from nearfar import heads
from nearfar.losses import barlip, siamlip, swalip
from nearfar.methods.batch import Batch
from nearfar.methods.contrast.pairs import PairContrast
from nearfar.methods.tower import Tower
from nearfar.momentum import Teacher

WEIGHTS = {"barlow": 1.0, "simsiam": 1.0, "byol": 1.0, "swav": 0.2}
PROJECTED = ("barlow", "simsiam", "byol")


class WithExtraTerm(PairContrast):
    """Pairs of several views a side that also meet in a further term. A derived class calls `take_term` in its
    constructor, puts `projections` into what it encodes, and adds `extra_term`."""

    official = False

    def take_term(
        self, extra: str, weight: float | Literal["auto"], hidden: int, dim: int | Literal["auto"], momentum: float,
        eps: float, iterations: int,
    ) -> dict[str, Any]:  # fmt: skip
        """Its projectors, predictors and teacher, as `extra` (none, or one of `WEIGHTS`) needs them; what weight and
        width became."""
        self.extra, self.momentum, self.sinkhorn = extra, momentum, {"eps": eps, "iterations": iterations}
        self.extra_weight = WEIGHTS.get(extra, 0.0) if weight == "auto" else float(weight)
        width = (hidden if extra == "barlow" else 128) if dim == "auto" else dim
        self.projectors, self.predictors = nn.ModuleList(), nn.ModuleList()
        if extra in PROJECTED:
            sides = self.tower_a, self.tower_b
            self.projectors.extend(extra_projector(extra, t.encoder.dim, hidden, width) for t in sides)
        if extra in ("simsiam", "byol"):
            self.predictors.extend(heads.predictor(width, hidden) for _ in "ab")
        self.teacher = Teacher(self.projected()) if extra == "byol" else None
        if extra == "none":
            return {}
        return {"extra_weight": self.extra_weight} | ({"extra_dim": width} if extra in PROJECTED else {})

    def projected(self) -> nn.ModuleList:
        """Both encoders with the projectors of the extra term."""
        encoders = self.tower_a.encoder, self.tower_b.encoder
        return nn.ModuleList(Tower(e, p) for e, p in zip(encoders, self.projectors, strict=True))

    def features(self, tower: Tower, x: Any, local: bool) -> Tensor:
        """(n, encoder.dim) of a view. local: whether it is not the first one."""
        return tower.features(x)

    def projections(self, side: int, features: list[Tensor]) -> dict[str, list[Tensor]]:
        """v, and p of it, of each view of the first (0) or second side, as far as the term needs them."""
        if not self.projectors:
            return {}
        v, name = [self.projectors[side](f) for f in features], "ab"[side]
        made = {} if self.teacher is not None else {f"v_{name}": v}
        return made | ({f"p_{name}": [self.predictors[side](x) for x in v]} if self.predictors else {})

    def targets(self, batch: Batch) -> dict[str, Any]:
        """v of the same views by the momentum copy."""
        if self.teacher is None:
            return {}
        towers: Any = self.teacher.module
        return {
            f"v_{side}": [tower.project(self.features(tower, x, bool(v))) for v, x in enumerate(batch.views[role])]
            for side, tower, role in zip("ab", towers, self.roles, strict=True)
        }

    def extra_term(self, embedded: dict[str, Any], temperature: Tensor) -> Tensor:
        """temperature: of the local views h, which swav compares."""
        if self.extra == "swav":
            options = {"official": self.official, "negatives": "global", **self.sinkhorn}
            return swalip(embedded["h_a"], embedded["h_b"], temperature=temperature, **options)
        v = embedded["v_a"], embedded["v_b"]
        if self.extra == "barlow":
            return barlip(*v, negatives="global")
        return siamlip(embedded["p_a"], embedded["p_b"], *v, negatives="global")

    def after_step(self, embedded: dict[str, Any], batch: Batch) -> None:
        super().after_step(embedded, batch)
        if self.teacher is not None:
            self.teacher.follow(self.projected(), self.momentum)


def extra_projector(kind: str, inputs: int, hidden: int, outputs: int) -> nn.Module:
    """What the extra term compares: of barlow three layers and a batch norm, else two and one without scale."""
    if kind == "barlow":
        return nn.Sequential(*heads.mlp(inputs, hidden, outputs, layers=3), nn.BatchNorm1d(outputs))
    return heads.mlp(inputs, hidden, outputs, last_norm=True)


__all__ = ["PROJECTED", "WEIGHTS", "WithExtraTerm"]
