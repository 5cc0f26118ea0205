"""What every view plan promises, and small checks that all plans share."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from nearfar.errors import InputError


class Views:
    """Turns one batch into the several things to be contrasted.

    members: rows that one item needs (1: one image or text; k: k members of a group, given member-major).
    targets: how many of the first views may serve as targets (big crops); the others are local.
    count:   how many views come out.
    equal:   whether they are the same, so that only what is random in the encoder tells them apart.
    """

    modality: ClassVar[str]
    members: int = 1
    targets: int = 2
    equal: ClassVar[bool] = False

    @property
    def count(self) -> int:
        return self.targets

    def __call__(self, inputs: Any, generator: torch.Generator) -> list:
        raise NotImplementedError

    def reader(self, data: Any, role: str) -> Any:
        """How training reads the rows of a role for this plan, (rows, random numbers or None) -> inputs; None: as their
        kind of data does."""
        return None

    def bind(self, encoder: Any) -> "Views":
        """Learn from the encoder what the plan needs to know (texts: the special ids). Returns the plan itself."""
        return self


def check_range(where: str, low: float, high: float, **values: Sequence[float]) -> None:
    """Raise InputError unless each value is a pair (from, to) with low < from <= to <= high."""
    for name, pair in values.items():
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not low < pair[0] <= pair[1] <= high:
            raise InputError(
                f"The '{name}' of {where} must be a pair (from, to) with "
                f"{low:g} < from <= to <= {high:g}. Got {pair} instead."
            )


def check_members(inputs_rows: int, members: int, where: str) -> int:
    """The number of items in a member-major batch; InputError where the rows do not divide."""
    if inputs_rows % members:
        raise InputError(f"{where} needs {members} rows an item, member-major; {inputs_rows} rows do not divide.")
    return inputs_rows // members
