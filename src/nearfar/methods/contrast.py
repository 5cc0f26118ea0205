"""What methods of views and methods of pairs share: a similarity from embeddings, a loss part, negatives, a teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nearfar import heads, views
from nearfar.checks import PositiveFloat, UnitInterval, Width, WidthOrNone
from nearfar.encoders import Encoder
from nearfar.errors import InputError
from nearfar.losses.parts import RowLoss
from nearfar.losses.parts import parts as loss_parts
from nearfar.methods.base import Batch, Facts, Loss, Method, Tower
from nearfar.momentum import Teacher, momentum_at
from nearfar.negatives import Items, Negatives
from nearfar.similarity import Anchors, Further, Hidden, Layout, Temperature, all_views, one_way, same


def auto_momentum(queue: int, batch_size: int) -> float:
    """0.999 at the papers' scale; less where few steps or a short queue need a faster teacher.

    The rule keeps (1 - m) K / B, the drift of the oldest key, at or below 0.1, within [0.99, 0.9995].
    """
    return min(0.9995, max(0.99, 1 - 0.1 * batch_size / max(queue, batch_size)))


def part_name(loss: RowLoss) -> str:
    """The name of a loss on the command line."""
    return next((name for name, cls in loss_parts.items() if type(loss) is cls), type(loss).__name__.lower())


class Contrast(Method):
    """Shared wiring: temperature, loss, negatives, masking of duplicates.

    Args:
        temperature: tau; divides the similarities.
        learn_temperature: train tau (kept in log space, within 0.01 and 100).
        loss: the row loss: infonce, smoothed, dcl, hcl, debiased, hard, simple, siglip, triplet, cacr; with labels or
            groups as positives: supcon, milnce; of `pairs` with a score: cosent, cosine-regression.
        negatives: further negatives, or fewer: none, queue, mixing, cross-batch, mined, cluster, fnc.
        mask_duplicates: known positives (one group) and exact duplicates are no negatives.
    """

    reads_scores = False

    def __init__(
        self,
        *,
        temperature: PositiveFloat,
        learn_temperature: bool = False,
        loss: RowLoss,
        negatives: Negatives | None = None,
        mask_duplicates: bool = True,
    ):
        super().__init__()
        if learn_temperature and not loss.tempered:
            raise InputError(
                f"The loss '{part_name(loss)}' has no temperature to learn.", "Use --learn-temperature false."
            )
        if loss.graded and not self.reads_scores:
            raise InputError(f"The loss '{part_name(loss)}' needs pairs with a score.",
                             "Use it with pairs: nearfar fit pairs DATA --score COLUMN.")
        self.tau = Temperature(temperature, learned=learn_temperature)
        self.row_loss, self.negatives, self.mask_duplicates = loss, negatives, mask_duplicates
        self.kinds = 0

    def scaled_parameters(self) -> dict[nn.Parameter, float]:
        # A temperature that starts far from its optimum has few steps to get there.
        return {self.tau.log_tau: 5.0}

    def temperature(self) -> Tensor:
        return self.tau()

    def place(self, batch: Batch) -> dict[str, Any]:
        """What every layout takes: temperature, hidden and befriended pairs, further blocks, all ranks."""
        friends = self.friends(batch)
        return {
            "temperature": self.temperature() if self.row_loss.tempered else 1.0,
            "negatives": "global",
            "hidden": batch.hidden() if self.mask_duplicates else None,
            "friends": None if friends is None else Hidden([(friends, friends)]),
            "extra": self.extra(batch),
        }

    def friends(self, batch: Batch) -> Tensor | None:
        """What makes items positives of each other, where the loss takes several: (n,) integers."""
        return None if self.row_loss.positives is None else batch.friends(self.row_loss.positives)

    def extra(self, batch: Batch, blocks: bool = True) -> Callable[[Anchors], Further] | tuple[()]:
        """What the negatives part and the pools of the batch add to each similarity; `blocks=False`: only who hides
        from whom (the way back, whose candidates are the anchors)."""
        part, items = self.negatives, self.items(batch)
        if part is None and items.pools is None:
            return ()

        def further(anchors: Anchors) -> Further:
            found = Further() if part is None else part.further(anchors, items)
            hidden = found.hidden
            if items.pools is not None:
                hidden = hidden | ~same(items.pools[anchors.items], anchors.columns(items.pools))
            return Further(found.blocks if blocks else (), hidden, found.friends)

        return further

    def marks(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(n, kinds) of the items as anchors and as candidates: what hides an item from a remembered one; items of one
        class are no negatives either."""
        both = batch.marks(), batch.key_marks()
        if not self.mask_duplicates:
            both = both[0][:, :0], both[1][:, :0]
        if self.row_loss.positives is None:
            return both
        friends = self.friends(batch)
        mine = both[0].new_full((len(both[0]), 1), -1) if friends is None else friends[:, None]
        return torch.cat([both[0], mine], 1), torch.cat([both[1], mine], 1)

    def items(self, batch: Batch) -> Items:
        """The batch as a negatives part sees it; steps are those of the stage."""
        step, steps = self.within(batch.step)
        marks, key_marks = self.marks(batch)
        known = None if batch.known is None or not self.mask_duplicates else (batch.known[0], batch.partner_kind)
        return Items(
            batch.rows[: len(batch)],
            marks,
            batch.pools,
            step,
            steps,
            batch.seed + 7919 * (batch.step - step) + 104_729 * batch.turn + (batch.rank << 40),
            key_marks,
            known,
        )

    def setup_negatives(self, dim: int, facts: Facts) -> dict[str, Any]:
        if self.negatives is None:
            return {}
        kinds = (facts.kinds if self.mask_duplicates else 0) + (self.row_loss.positives is not None)
        self.negatives.setup(dim, kinds, facts.batch_size, facts.samples, self.within(0)[1])
        size = {"size": self.negatives.capacity} if self.negatives.capacity else {}
        return {f"negatives.{k}": v for k, v in (size | self.negatives.resolved).items()}

    def before_draw(self, step: int) -> None:
        super().before_draw(step)
        if self.negatives is not None:
            self.negatives.before(*self.within(step), self.survey)

    def report(self, layout: Layout, z: Tensor, batch: Batch) -> Loss:
        self.watched = z.detach()
        terms: dict[str, Tensor | float] = {}
        if self.row_loss.tempered:
            terms["temperature"] = self.temperature().detach()
        if self.logged(batch):
            if self.mask_duplicates:
                terms["masked"] = batch.masked_share()
            if self.negatives is not None:
                with torch.no_grad():
                    terms |= self.negatives.terms(layout.parts[0])
        return Loss(layout.loss(self.row_loss), terms)

    def after_step(self, embedded: dict[str, Any], batch: Batch) -> None:
        self.tau.project()
        if self.negatives is not None:
            keys = self.keys_of(embedded, own=self.negatives.own_keys)
            self.negatives.update(keys, self.items(batch))

    def sides(self, embedded: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Each item as an anchor and as a key, (n, D) twice."""
        raise TypeError(f"{type(self).__name__} keeps no memory")

    def keys_of(self, embedded: dict[str, Any], own: bool = False) -> Tensor:
        """What enters the memory after a step, (n, D); `own`: the student's, also where a teacher gives the keys."""
        raise TypeError(f"{type(self).__name__} keeps no memory")


class ViewContrast(Contrast):
    """Views of one sample (or several members of its group) against the views of the others.

    Args:
        views: what is contrasted: two-crops, multi-crop, members (pictures), twice, crops, delete, mask (texts).
        momentum: m; a teacher that follows by EMA gives the targets: a number, auto, or none for no teacher.
        projector: width of the hidden layer of the projection head; 0 for no head.
        dim: width of the contrasted vectors.
        last_norm: batch norm after the last layer of the projection head, so that the vectors start spread out.
    """

    needs = (frozenset({"image"}), frozenset({"text"}))
    both_directions = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        views: views.Views | None,
        loss: RowLoss,
        temperature: PositiveFloat,
        learn_temperature: bool = False,
        negatives: Negatives | None = None,
        momentum: UnitInterval | Literal["auto"] | None = None,
        projector: WidthOrNone = 512,
        dim: Width = 128,
        last_norm: bool = False,
        mask_duplicates: bool = True,
    ):
        super().__init__(
            temperature=temperature,
            learn_temperature=learn_temperature,
            loss=loss,
            negatives=negatives,
            mask_duplicates=mask_duplicates,
        )
        self.role = encoder.modality
        self.plan = check_plan(views or default_views(encoder.modality), encoder)
        head = heads.mlp(encoder.dim, projector, dim, last_norm=last_norm) if projector else None
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
            self.momentum = auto_momentum(queue, facts.batch_size)
            found["momentum"] = self.momentum
        return found

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
            layout = all_views(z, targets=self.plan.targets, **self.place(batch))
        else:
            queries = z if self.both_directions else z[:1]
            layout = against_targets(queries, embedded["targets"], self.in_batch, self.place(batch))
        return self.report(layout, z[0], batch)

    @property
    def in_batch(self) -> bool:
        return self.negatives is None or self.negatives.in_batch

    def keys_of(self, embedded: dict[str, Any], own: bool = False) -> Tensor:
        return embedded["views"][0] if own or self.teacher is None else embedded["targets"][-1]

    def sides(self, embedded: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return embedded["views"][0], embedded["views" if self.teacher is None else "targets"][1]

    def towers(self) -> dict[str, Tower]:
        return {self.role: self.tower}


def check_plan(plan: views.Views, encoder: Encoder) -> views.Views:
    """Raises where the views are for another kind of data than the encoder; tells text views the special ids."""
    if plan.modality != encoder.modality:
        name = next((k for k, v in views.plans.items() if isinstance(plan, v)), type(plan).__name__)
        fit = [k for k, v in views.plans.items() if v.modality == encoder.modality]
        raise InputError(
            f"The views '{name}' are for {plan.modality}s, but the data are {encoder.modality}s.",
            f"Choose one of {', '.join(fit)}.",
        )
    return plan.bind(encoder)


def default_views(modality: str) -> views.Views:
    return views.build("two-crops" if modality == "image" else "twice")


def forward_views(tower: nn.Module, made: Sequence[Any]) -> list[Tensor]:
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


def against_targets(z: Sequence[Tensor], targets: Sequence[Tensor], in_batch: bool, place: dict[str, Any]) -> Layout:
    """Each view against the teacher's target of every other view: the mean over the ordered pairs."""
    parts = [
        part
        for v, query in enumerate(z)
        for t, key in enumerate(targets)
        if v != t
        for part in one_way(query, key, in_batch=in_batch, **place).parts
    ]
    return Layout(parts)
