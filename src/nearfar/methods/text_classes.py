"""Classes of texts: what stands behind an encoder in training, and what tells the class afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nearfar.encoders.base import evaluating
from nearfar.errors import InputError
from nearfar.methods.batch import Batch
from nearfar.methods.inference import Inference, Request
from nearfar.methods.judged import SIDES, JointReader

if TYPE_CHECKING:
    from nearfar.sources.data import Data


def classifier(dim: int, classes: int, hidden: int = 300, layers: int = 2) -> nn.Sequential:
    """`layers` times linear and ReLU, then a linear layer: (n, dim) -> (n, classes)."""
    widths = [dim, *[hidden] * layers]
    inner = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*inner, nn.Linear(widths[-1], classes))


def class_loss(logits: Tensor, batch: Batch) -> Tensor:
    """The mean cross-entropy with the classes of the batch."""
    assert batch.targets is not None
    return cross_entropy(logits, batch.targets)


def training_classes(data: Data, rows: np.ndarray) -> list[str]:
    """The names of all classes. Raises InputError where the training rows are of one."""
    names, column = list(data.target_names), data.roles.get("target") or next(iter(data.labels))
    present = np.unique(np.asarray(data.targets)[rows])
    if len(present) < 2:
        raise InputError(f"'{column}' is '{names[present[0]]}' in all {len(rows):,} training rows: there is nothing to "
                         "tell apart.", "Name another column with --target.")  # fmt: skip
    return names


class Classes(Inference):
    """The class of a text. reader: of its aspect beside it, where it was trained with one."""

    classifies = True

    def __init__(self, head: nn.Sequential, names: list[str], reader: JointReader | None):
        super().__init__()
        self.head, self.names, self.reader = head, names, reader

    @classmethod
    def restored(cls, config: Mapping[str, Any], reader: JointReader | None) -> Classes:
        """As `config` says, with fresh weights."""
        head = classifier(config["dim"], len(config["names"]), config["hidden"], config["layers"])
        return cls(head, config["names"], reader)

    def config(self) -> dict[str, Any]:
        linear = [part for part in self.head if isinstance(part, nn.Linear)]
        return {"names": self.names, "hidden": linear[0].out_features, "layers": len(linear) - 1,
                "dim": linear[0].in_features, "aspect": self.reader is not None}  # fmt: skip

    def logits(self, data: Data, rows: np.ndarray, embed: Any) -> Tensor:
        device = next(self.head.parameters()).device
        with evaluating(self.head):
            if self.reader is None:
                return self.head(torch.from_numpy(np.array(embed.raw(SIDES[0], rows))).to(device))
            return torch.cat([self.head(r) for r in self.reader.of_rows(data, rows)])

    def of_classes(self, data: Data, rows: np.ndarray, embed: Any) -> list[str]:
        return [self.names[k] for k in self.logits(data, rows, embed).argmax(1).tolist()]

    def predict(self, request: Request, options: Any) -> dict[str, Any]:
        """prediction: name of the class; share: its probability."""
        share = self.logits(request.data, request.rows, request.embed).softmax(1)
        return {"prediction": [self.names[k] for k in share.argmax(1)], "share": share.amax(1)}
