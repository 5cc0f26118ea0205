"""What methods of views share: plans of views, a tower with its head, a teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from nearfar import heads, modalities
from nearfar.checks import PositiveInt, UnitInterval, Width, WidthOrNone
from nearfar.encoders import Encoder
from nearfar.errors import InputError
from nearfar.methods.base import Loss
from nearfar.methods.batch import Batch, Facts, by_member
from nearfar.methods.contrast.shared import Contrast
from nearfar.methods.tower import Tower
from nearfar.momentum import Teacher, momentum_at
from nearfar.similarity import Layout, all_views, one_way
from nearfar.views import Views, build, plans

if TYPE_CHECKING:
    from nearfar.sources.data import Data


def auto_momentum(queue: int, batch_size: int, steps: int) -> float:
    """0.999 at the papers' scale; less where few steps need a faster teacher.

    (1 - m) K / B, the drift of the oldest key, stays at or below 0.1 within [0.99, 0.9995], unless the teacher would
    look back, 1 / (1 - m) steps, over more than a third of the run.
    """
    drift = 1 - 0.1 * batch_size / max(queue, batch_size)
    return max(0.0, min(0.9995, max(0.99, drift), 1 - 3 / max(steps, 3)))


class ViewContrast(Contrast):
    """Views of one sample (or several members of its group) against the views of the others.

    Args:
        views: what is contrasted: two-crops, multi-crop, members, weak-strong (images), twice, crops, ict, delete,
            mask, words (texts), corrupt, noise (vectors).
        momentum: m; a teacher that follows by EMA gives the targets: a number, auto, or none for no teacher.
        projector: width of the hidden layer of the projection head; 0 for no head.
        dim: width of the contrasted vectors.
        projector_layers: linear layers of the projection head.
        last_norm: batch norm after the last layer of the projection head, so that the vectors start spread out.
    """

    needs = (frozenset({"any"}),)
    both_directions = True
    fixed = ("projector_layers", "last_norm")
    follows = {"views": "learn_temperature", "momentum": "negatives"}

    def __init__(
        self,
        encoder: Encoder,
        *,
        views: Views | None = None,
        momentum: UnitInterval | Literal["auto"] | None = None,
        projector: WidthOrNone = 512,
        dim: Width = 128,
        projector_layers: PositiveInt = 2,
        last_norm: bool | Literal["layer"] = False,
        **shared: Any,
    ):
        super().__init__(**shared)
        self.role = encoder.role
        self.plan = check_plan(views or default_views(encoder.modality), encoder)
        head = heads.mlp(encoder.dim, projector, dim, projector_layers, last_norm=last_norm) if projector else None
        self.tower = Tower(encoder, head)
        self.dim = dim if projector else encoder.dim
        self.teacher = None if momentum is None else Teacher(self.tower)
        self.momentum = momentum

    @property
    def members(self) -> int:
        return self.plan.members

    def resolve(self, facts: Facts) -> dict[str, Any]:
        if self.plan.members > 1 and not facts.has_groups:
            raise InputError(
                f"The views '{type(self.plan).__name__.lower()}' draw {self.plan.members} members of a group, "
                "but these data have no groups.",
                "Name the column with --group COLUMN, or use other views.",
            )
        found = self.setup_negatives(self.dim, facts)
        if self.momentum == "auto":
            queue = self.negatives.capacity if self.negatives is not None else 0
            self.momentum = auto_momentum(queue, facts.batch_size, self.within(0)[1])
            found["momentum"] = self.momentum
        return found

    def reader(self, data: Data, role: str) -> Any:
        return self.plan.reader(data, role)

    def make_views(self, batch: Batch) -> dict[str, list]:
        return {self.role: self.plan(batch.inputs[self.role], batch.generator())}

    def encode(self, batch: Batch) -> dict[str, Any]:
        return {"views": forward_views(self.tower, batch.views[self.role])}

    def before_targets(self, batch: Batch) -> None:
        if self.teacher is not None:
            assert isinstance(self.momentum, float)
            self.teacher.follow(self.tower, momentum_at(batch.step, batch.steps, self.momentum))

    def targets(self, batch: Batch) -> dict[str, Any]:
        if self.teacher is None:
            return {}
        return {"targets": forward_views(self.teacher, batch.views[self.role][: self.plan.targets])}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        z = embedded["views"]
        if self.teacher is None:
            layout = all_views(z, targets=self.plan.targets, **self.layout_options(batch))
        else:
            queries = z if self.both_directions else z[:1]
            layout = against_targets(queries, embedded["targets"], self.in_batch, self.layout_options(batch))
        return self.report(layout, z[0], batch)

    @property
    def in_batch(self) -> bool:
        return self.negatives is None or self.negatives.in_batch

    def keys_of(self, embedded: dict[str, Any], own: bool = False) -> Tensor:
        return embedded["views"][0] if own or self.teacher is None else embedded["targets"][-1]

    def sides(self, embedded: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return embedded["views"][0], embedded["views" if self.teacher is None else "targets"][1]

    def side_rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        rows = by_member(batch.rows, batch.members)
        return rows[0], rows[min(1, len(rows) - 1)]

    def nested_width(self) -> int | None:
        own = type(self).loss is not ViewContrast.loss or self.tower.head is not None or self.negatives is not None
        return None if own else self.taught_width()

    def taught_width(self) -> int | None:
        cls = type(self)
        plain = cls.encode is ViewContrast.encode and cls.sides is ViewContrast.sides
        return self.dim if plain and self.plan.count > 1 else None

    def towers(self) -> dict[str, Tower]:
        return {self.role: self.tower}


def check_plan(plan: Views, encoder: Encoder) -> Views:
    """Raises where the views are for another kind of data than the encoder; tells text views the special ids."""
    if plan.modality != encoder.modality:
        name = next((k for k, v in plans.items() if isinstance(plan, v)), type(plan).__name__)
        fit = [k for k, v in plans.items() if v.modality == encoder.modality]
        raise InputError(
            f"The views '{name}' are for {plan.modality}s, but the data are {encoder.modality}s.",
            f"Choose one of {', '.join(fit)}.",
        )
    return plan.bind(encoder)


def default_views(modality: str) -> Views:
    """The views of a kind of data that are taken unasked. Raises InputError for a kind that has none."""
    kind = modalities.get(modality)
    if kind.default_plan is None:
        raise InputError(f"There are no views of {kind.words}: nothing says what two looks at one have in common.",
                         "Use a method of pairs, or name a class of your own: --views module.Class.")  # fmt: skip
    return build(kind.default_plan)


def forward_views(tower: Callable[[Any], Tensor], made: Sequence[Any]) -> list[Tensor]:
    """Embeddings of each view; views of one shape go through the network together."""
    groups: dict[Any, list[int]] = {}
    for v, x in enumerate(made):
        groups.setdefault(tuple(x.shape) if isinstance(x, Tensor) else v, []).append(v)
    out: list[Tensor | None] = [None] * len(made)
    for places in groups.values():
        x = made[places[0]] if len(places) == 1 else torch.cat([made[v] for v in places])
        for v, z in zip(places, tower(x).chunk(len(places)), strict=True):
            out[v] = z
    return [z for z in out if z is not None]


def against_targets(z: Sequence[Tensor], targets: Sequence[Tensor], in_batch: bool, options: dict[str, Any]) -> Layout:
    """Each view against the teacher's target of every other view: the mean over the ordered pairs."""
    parts = [
        part
        for v, query in enumerate(z)
        for t, key in enumerate(targets)
        if v != t
        for part in one_way(query, key, in_batch=in_batch, **options).parts
    ]
    return Layout(parts)
