"""L1 regression: a network learns the number itself. The baseline of methods that learn vectors from a number.

    x --a view--> encoder --> h --linear--> o;    loss = mean |o - (y - mean) / std|

What is kept for embedding is the encoder. The linear layer tells the number (`nearfar predict`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.encoders import Encoder
from nearfar.errors import InputError
from nearfar.methods import Batch, Inference, Loss, Method, Paper, Tower, check_plan, default_views, register
from nearfar.methods.regressing import Regressor, absolute_error, numbers_of
from nearfar.views import Views

if TYPE_CHECKING:
    from nearfar.sources.data import Data


@register("l1-regression", family="regression")
class L1Regression(Method):
    """A linear layer on the encoder tells the number of each row (`--target COLUMN`).

    Args:
        views: how a row is changed before it is embedded; the first view is used. Default: as of contrast.
    """

    paper = Paper(
        "Delving into Deep Imbalanced Regression (its plain network)",
        "ICML 2021",
        "The encoder learns to tell the number, by its mean absolute error.",
        arxiv="2102.09554",
        differs="the number is brought to mean 0 and deviation 1 of the training rows; cosine instead of steps in the "
        "learning rate",
    )
    needs = (frozenset({"any", "target"}),)
    target = "numbers"
    supervised = True
    uses_batch = False
    paper_training = {"optimiser": "adam", "lr": 1e-3, "weight_decay": 0.0}
    place: Tensor
    scale: Tensor

    def __init__(self, encoder: Encoder, *, views: Views | None = None):
        super().__init__()
        self.role = encoder.role
        self.plan = check_plan(views or default_views(encoder.modality), encoder)
        if self.plan.members > 1:
            raise InputError("'l1-regression' learns a number of each row, and these views show rows of a group "
                             "together.", "Choose other --views.")  # fmt: skip
        self.tower, self.linear = Tower(encoder), nn.Linear(encoder.dim, 1)

    def prepare(self, data: Data, rows: Any) -> None:
        """Raises InputError where all training rows have the same number."""
        values = numbers_of(data, rows)
        self.register_buffer("place", torch.tensor(float(np.mean(values)), dtype=torch.float64))
        self.register_buffer("scale", torch.tensor(float(np.std(values)), dtype=torch.float64))

    def make_views(self, batch: Batch) -> dict[str, list]:
        return {self.role: self.plan(batch.inputs[self.role], batch.generator())[:1]}

    def encode(self, batch: Batch) -> dict[str, Any]:
        h = self.tower.features(batch.views[self.role][0])
        return {"features": h, "predicted": self.linear(h)[:, 0]}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        self.monitored = embedded["features"].detach()
        assert batch.values is not None
        wanted = ((batch.values.double() - self.place) / self.scale).float()
        error = absolute_error(embedded["predicted"], wanted, negatives="global")
        return Loss(error, {"absolute_error": error.detach() * self.scale})

    def towers(self) -> dict[str, Tower]:
        return {self.role: self.tower}

    def inference(self) -> Regressor | None:
        """The linear layer, in the target's own unit."""
        if "place" not in dict(self.named_buffers()):
            return None
        found = Regressor(self.linear.in_features, raw=True)
        with torch.no_grad():
            found.linear.weight.copy_(self.linear.weight * self.scale)
            found.linear.bias.copy_(self.linear.bias * self.scale + self.place)
        return found

    @classmethod
    def restore_inference(cls, config: Mapping[str, Any], towers: Mapping[str, Any]) -> Inference:
        return Regressor(**config)
