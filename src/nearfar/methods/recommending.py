"""What methods of the next item share: histories as training rows, and the cross-entropy over all items.

A row of the data is a history with the item that came next. positions "last": every row is a sample, and its item is
told from the last state. positions "all": each state of a history tells the item behind it, so that rows at distances
of the encoder's length, from each user's latest one back, cover every item once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from nearfar.checks import NonNegativeFloat, PositiveFloat
from nearfar.encoders import Encoder
from nearfar.encoders.histories import Histories, HistoryEncoder, last_state
from nearfar.errors import InputError
from nearfar.losses.recommending import next_item, pair_contrast
from nearfar.methods.base import Loss, Method
from nearfar.methods.batch import Batch
from nearfar.methods.contrast import check_plan, default_views
from nearfar.methods.tower import Tower
from nearfar.modalities.interactions import inner
from nearfar.samplers import Permutation, Sampler
from nearfar.sources.interactions import from_end, log_of
from nearfar.views import Views

if TYPE_CHECKING:
    from nearfar.sources.data import Data

USER, ITEM = "user", "item"


class NextItem(Method):
    """Tells the next item of a history by the inner product of its state with the rows of the item table.

    Args:
        positions: what is told of a history: with all, every place tells the item behind it, with last, the last
            state alone, of every row.
    """

    needs = (frozenset({"user", "item"}),)
    similarity = "dot"
    uses_batch = False

    def __init__(self, encoder: Encoder, *, positions: Literal["all", "last"] = "all"):
        super().__init__()
        if not any(p.requires_grad for p in encoder.parameters()):
            raise InputError(f"'{self.slug}' trains the table of items, which --freeze keeps as it is.",
                             "Leave out --freeze.")  # fmt: skip
        self.role, self.tower, self.positions = encoder.role, Tower(encoder), positions
        self.starts: np.ndarray | None = None

    @property
    def own(self) -> HistoryEncoder:
        """The encoder of histories, with its item table."""
        return inner(self.tower.encoder)

    @property
    def reads(self) -> tuple[str, ...]:
        return USER, ITEM

    def prepare(self, data: Data, rows: Any) -> None:
        if self.positions == "all":
            self.starts = covering(data, rows, self.own.length)

    def sampler(self, stage: int) -> Sampler:
        return Permutation() if self.starts is None else Permutation().only(self.starts)

    def make_views(self, batch: Batch) -> dict[str, list]:
        return {role: [batch.inputs[role]] for role in (USER, ITEM)}

    def encode(self, batch: Batch) -> dict[str, Any]:
        """The states of which an item is to be told, (m, d), and its row of the item table, (m,)."""
        x, item = batch.views[USER][0], batch.views[ITEM][0]
        states = self.own.states(x)
        if self.positions == "last":
            return {"states": last_state(states, x.lengths), "items": item - 1}
        told = following(x, item)
        return {"states": states[x.there], "items": told[x.there] - 1}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        return Loss(self.next_item(embedded))

    def next_item(self, embedded: dict[str, Any]) -> Tensor:
        """The cross-entropy over all items."""
        self.monitored = embedded["states"].detach()
        return next_item(embedded["states"], self.own.item_vectors, embedded["items"], negatives="global")

    def towers(self) -> dict[str, Tower]:
        return {USER: self.tower, ITEM: self.tower}


class ContrastedNextItem(NextItem):
    """The next item, and two views of each history that must find each other among the views of the others.

    Args:
        views: how a history is changed twice.
        weight: lambda; of the contrast of the views beside the next item.
        temperature: tau; divides the inner products of views.
        product: how states of views are compared: dot (as they are), or cos (of length 1).
    """

    uses_batch = True
    defaults = {"positions": "last"}

    def __init__(
        self,
        encoder: Encoder,
        *,
        views: Views | None = None,
        weight: NonNegativeFloat = 0.1,
        temperature: PositiveFloat = 1.0,
        product: Literal["dot", "cos"] = "dot",
        **shared: Any,
    ):
        super().__init__(encoder, **shared)
        self.plan = check_plan(views or default_views(encoder.modality), encoder)
        if self.plan.members > 1 or self.plan.count != 2:
            raise InputError(f"'{self.slug}' contrasts two views of one history.", "Choose other --views.")
        self.weight, self.temperature = weight, temperature
        self.product: Literal["dot", "cos"] = product

    def make_views(self, batch: Batch) -> dict[str, list]:
        made = super().make_views(batch)
        return made | {USER: [*made[USER], *self.plan(batch.inputs[USER], batch.generator())]}

    def encode(self, batch: Batch) -> dict[str, Any]:
        return super().encode(batch) | {"views": self.encode_views(batch)}

    def encode_views(self, batch: Batch) -> list[Tensor]:
        """The states of both views, (n, d) each; no dropout is shared."""
        return [self.tower(x) for x in batch.views[USER][1:]]

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        told, apart = self.next_item(embedded), self.contrast(embedded["views"])
        return Loss(told + self.weight * apart, {"next_item": told.detach(), "contrast": apart.detach()})

    def contrast(self, h: list[Tensor]) -> Tensor:
        """L_cl1, of two views."""
        return pair_contrast(*h, temperature=self.temperature, similarity=self.product, negatives="global")


def following(x: Histories, item: Tensor) -> Tensor:
    """int64 (n, l): behind each place of a history the next id in it, behind the last one the item that came next."""
    shifted = torch.cat([x.ids[:, 1:], x.ids.new_zeros(len(x.ids), 1)], 1)
    last = (x.lengths - 1).clamp(min=0)[:, None]
    return shifted.scatter(1, last, item[:, None])


def covering(data: Data, rows: np.ndarray, length: int) -> np.ndarray:
    """Of training rows those whose histories, of the latest `length` items each, cover every item that follows another
    once: each user's latest row, the one so many before it, and so on."""
    log, rows = log_of(data), np.asarray(rows)
    ordered = log.order[np.isin(log.order, rows)]
    users = log.users[ordered]
    return np.sort(ordered[from_end(users) % length == 0])


__all__ = ["ITEM", "USER", "ContrastedNextItem", "NextItem", "covering", "following"]
