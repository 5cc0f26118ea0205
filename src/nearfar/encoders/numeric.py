"""The encoder of rows of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar import heads
from nearfar.checks import NonNegativeInt, Width, checked_init
from nearfar.encoders.base import Encoder
from nearfar.errors import InputError


@checked_init
class VectorEncoder(Encoder):
    """Float rows (n, d) -> (n, dim): standardised, empty numbers (NaN) at their mean, then linear layers of width `dim`
    with ReLU between them (Bahri et al., SCARF, ICLR 2022: four of 256).

    columns: the name of each number. layers: how many hidden layers; 0 is one linear map.
    """

    modality = "vector"
    mean: Tensor
    std: Tensor

    def __init__(self, columns: Sequence[str], dim: Width = 256, layers: NonNegativeInt = 3):
        super().__init__()
        self.columns, self.dim, self.layers = list(columns), dim, layers
        self.net = heads.mlp(len(self.columns), dim, dim, layers=layers + 1, norm=False)
        self.register_buffer("mean", torch.zeros(len(self.columns)))
        self.register_buffer("std", torch.ones(len(self.columns)))

    @property
    def inputs(self) -> int:
        """How many numbers a row has."""
        return len(self.columns)

    def standardise(self, rows: np.ndarray) -> VectorEncoder:
        """Takes mean and deviation of each number from some rows (n, d); what never changes is only centred. Returns
        the encoder itself."""
        mean, std = moments(rows)
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(std))
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.net(((x - self.mean) / self.std).nan_to_num(nan=0.0))

    def prepare(self, items: Any) -> Tensor:
        """Rows of numbers (lists, arrays, a matrix) -> float32 (n, d). Raises InputError that names the first row which
        is not one."""
        try:
            rows = np.asarray(items, np.float32)
        except (TypeError, ValueError):
            self._find(items)
            raise InputError("The rows are not numbers.", "Give lists or arrays of numbers.") from None
        if rows.ndim != 2:
            raise InputError(f"Vectors are rows of numbers (n, {self.inputs}). Got an array {rows.shape}.")
        if rows.shape[1] != self.inputs:
            raise self.wrong_width(rows.shape[1])
        if np.isinf(rows).any():
            raise InputError(f"Item {int(np.isinf(rows).any(1).argmax())} holds a number that is not finite.")
        return torch.from_numpy(np.ascontiguousarray(rows)).to(self.device)

    def _find(self, items: Any) -> None:
        for number, item in enumerate(items):
            try:
                width = np.asarray(item, np.float32).shape
            except (TypeError, ValueError):
                raise InputError(f"Item {number} is not a row of numbers but {str(item)[:60]!r}.") from None
            if width != (self.inputs,):
                many = width[0] if width else 1
                raise InputError(f"Item {number} has {many} numbers, the model takes {self.inputs}.")

    def wrong_width(self, found: int) -> InputError:
        """The error for rows of another length."""
        shown = ", ".join(self.columns[:6]) + (", ..." if self.inputs > 6 else "")
        return InputError(f"This encoder takes rows of {self.inputs} numbers ({shown}). Got {found}.",
                          "Give the same numbers in the same order, or train anew.")  # fmt: skip

    def order_of(self, names: Sequence[str], where: str) -> np.ndarray | None:
        """Where each number stands among the columns of other data; None where they stand as they are.

        Data whose names are quite others (a matrix without names) are taken as they stand. Raises InputError for a
        number that the data lack.
        """
        if list(names) == self.columns:
            return None
        place = {name: number for number, name in enumerate(names)}
        lacking = [name for name in self.columns if name not in place]
        if not lacking:
            return np.array([place[name] for name in self.columns])
        if len(lacking) == self.inputs and len(names) == self.inputs:
            return None
        if len(lacking) == self.inputs:
            raise self.wrong_width(len(names))
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise InputError(f"{where}: there is no column '{lacking[0]}'{more}, which the model was trained on; it takes "
                         f"{self.inputs} numbers, these data have {len(names)}.",
                         "Add the column (empty cells count as the mean), or train anew.")  # fmt: skip

    def config(self) -> dict[str, Any]:
        return {"modality": "vector", "name": "mlp", "columns": self.columns, "dim": self.dim, "layers": self.layers}


def moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 mean and deviation (d,) of each number of rows (n, d), empty ones (NaN) left out; deviation 1 where it
    would be 0."""
    there = ~np.isnan(rows)
    count = np.maximum(there.sum(0), 1)
    filled = np.where(there, rows, 0).astype(np.float64)
    mean = filled.sum(0) / count
    std = np.sqrt((np.where(there, filled - mean, 0) ** 2).sum(0) / count)
    still = std <= 1e-7 * np.maximum(np.abs(mean), 1)
    return mean.astype(np.float32), np.where(still, 1, std).astype(np.float32)
