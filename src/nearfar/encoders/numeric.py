"""Encoders of rows of numbers: of all together, and of groups of them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nearfar import heads
from nearfar.checks import NonNegativeInt, Width, checked_init
from nearfar.encoders.base import Encoder
from nearfar.errors import InputError


@checked_init
class VectorEncoder(Encoder):
    """Float rows (n, d) -> (n, dim): standardised, empty numbers (NaN) at their mean, then linear layers of width `dim`
    with ReLU between them (Bahri et al., SCARF, ICLR 2022: four of 256).

    columns: the name of each number. layers: how many hidden layers; 0 is one linear map. scale: "min-max" brings each
    number to 0..1 over the training rows instead.
    """

    modality = "vector"
    mean: Tensor
    std: Tensor
    low: Tensor
    span: Tensor

    def __init__(
        self,
        columns: Sequence[str],
        dim: Width = 256,
        layers: NonNegativeInt = 3,
        scale: Literal["standard", "min-max"] = "standard",
    ):
        super().__init__()
        self.columns, self.dim, self.layers = list(columns), dim, layers
        self.scale: Literal["standard", "min-max"] = scale
        self.net: nn.Module = self.layers_of(len(self.columns))
        self.register_buffer("mean", torch.zeros(len(self.columns)))
        self.register_buffer("std", torch.ones(len(self.columns)))
        if scale == "min-max":
            self.register_buffer("low", torch.zeros(len(self.columns)))
            self.register_buffer("span", torch.ones(len(self.columns)))

    def layers_of(self, inputs: int, outputs: int | None = None) -> nn.Sequential:
        """Fresh layers from so many numbers to so many, by default the width of the others."""
        return heads.mlp(inputs, self.dim, outputs or self.dim, layers=self.layers + 1, norm=False)

    @property
    def inputs(self) -> int:
        """How many numbers a row has."""
        return len(self.columns)

    def standardise(self, rows: np.ndarray) -> VectorEncoder:
        """Takes mean and deviation (and, where they scale, least and largest value) of each number from some rows
        (n, d); what never changes is only centred. Returns the encoder itself."""
        mean, std = moments(rows)
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(std))
        if self.scale == "min-max":
            filled = np.where(np.isnan(rows), mean, rows).astype(np.float32)
            low, span = filled.min(0), np.ptp(filled, 0)
            self.low.copy_(torch.from_numpy(low))
            self.span.copy_(torch.from_numpy(np.where(span > 0, span, 1)))
        return self

    def scaled(self, x: Tensor) -> Tensor:
        """Numbers as the layers take them, an empty one as its mean."""
        if self.scale == "min-max":
            return (self.filled(x) - self.low) / self.span
        return ((x - self.mean) / self.std).nan_to_num(nan=0.0)

    def filled(self, x: Tensor) -> Tensor:
        """Rows with the mean in the place of each empty number."""
        return torch.where(x.isnan(), self.mean, x)

    def ordered_blocks(self) -> Sequence[nn.Module]:
        return [part for part in self.net.children() if isinstance(part, nn.Linear)]

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.scaled(x))

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
        told = {"modality": "vector", "name": "mlp", "columns": self.columns, "dim": self.width, "layers": self.layers}
        return told | ({} if self.scale == "standard" else {"scale": self.scale})

    @property
    def width(self) -> int:
        """That of each layer."""
        return self.dim


class GroupedVectors(VectorEncoder):
    """Groups of the numbers of a row, each with layers of its own: their vectors one after the other, (n, groups each),
    or with join="mean" their mean. `variants`: each group's alone.

    groups: name -> places of its numbers among the columns. dim: width of the inner layers; outputs: length of a
    group's vector, default as wide.
    """

    def __init__(
        self,
        columns: Sequence[str],
        groups: Mapping[str, Sequence[int]],
        dim: Width = 256,
        layers: NonNegativeInt = 3,
        scale: Literal["standard", "min-max"] = "standard",
        join: Literal["concat", "mean"] = "concat",
        outputs: Width | None = None,
    ):
        super().__init__(columns, dim, layers, scale)
        self.groups = {name: list(places) for name, places in groups.items()}
        self.net = nn.ModuleList(self.layers_of(len(places), outputs) for places in self.groups.values())
        self.inner, self.each_dim = dim, outputs or dim
        self.joined_by(join)

    @classmethod
    def of(
        cls, encoder: VectorEncoder, groups: Mapping[str, Sequence[int]], outputs: int | None = None
    ) -> GroupedVectors:
        """Fresh layers for groups of the numbers of an encoder, with its width, depth and scale."""
        made = cls(encoder.columns, groups, encoder.dim, encoder.layers, encoder.scale, outputs=outputs)
        for name, buffer in encoder.named_buffers():
            made.get_buffer(name).copy_(buffer)
        return made

    def joined_by(self, join: Literal["concat", "mean"]) -> GroupedVectors:
        """The same encoder, whose groups make one vector in this way."""
        self.join, self.dim = join, self.each_dim * (1 if join == "mean" else len(self.groups))
        return self

    @property
    def width(self) -> int:
        return self.inner

    def each(self, x: Tensor) -> list[Tensor]:
        """Rows (n, d) -> the vector of each group, (n, each_dim) each."""
        scaled, parts = self.scaled(x), zip(self.net, self.groups.values(), strict=True)  # pyright: ignore
        return [net(scaled[:, places]) for net, places in parts]

    def forward(self, x: Tensor) -> Tensor:
        each = self.each(x)
        return torch.cat(each, 1) if self.join == "concat" else torch.stack(each).mean(0)

    def variants(self) -> dict[str, OneGroup]:
        return {name: OneGroup(self, place) for place, name in enumerate(self.groups)}

    def config(self) -> dict[str, Any]:
        return super().config() | {"groups": self.groups, "join": self.join, "outputs": self.each_dim}


class OneGroup(Encoder):
    """One group of `GroupedVectors`, whose weights it reads; its rows hold the numbers of all groups."""

    modality = "vector"

    def __init__(self, encoder: GroupedVectors, place: int):
        super().__init__()
        self._of, self.place, self.dim = (encoder,), place, encoder.each_dim

    @property
    def encoder(self) -> GroupedVectors:
        return self._of[0]

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    def prepare(self, items: Any) -> Tensor:
        return self.encoder.prepare(items)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder.each(x)[self.place]

    def train(self, mode: bool = True) -> OneGroup:
        self.encoder.train(mode)
        return super().train(mode)


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
