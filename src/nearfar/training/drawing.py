"""Which sampler draws the batches of a stage: the method's own, or one of every class equally often."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from nearfar.class_balanced import class_balanced
from nearfar.errors import InputError
from nearfar.samplers import Sampler

if TYPE_CHECKING:
    from nearfar.methods.base import Method
    from nearfar.sources.data import Data

Draw = Callable[[int], Sampler]
"""Stage -> its sampler, not yet bound to rows."""


def samplers_of(method: Method, data: Data, balanced: bool) -> Draw:
    """balanced: whether every class of the labels comes equally often.

    Raises InputError for data without labels; what it returns does for a stage in which the method draws its batches in
    a way of its own.
    """
    if not balanced:
        return method.sampler
    labels = balanced_by(method, data)

    def draw(stage: int) -> Sampler:
        made = class_balanced(method.sampler(stage), labels)
        if made is None:
            raise InputError(f"'{method.slug}' draws its batches in a way of its own, which --class-balanced would "
                             "change.", "Leave it out, or choose another method.")  # fmt: skip
        return made

    return draw


def balanced_by(method: Method, data: Data) -> str:
    """Whose classes are balanced: "target" where the method learns classes or the data name no labels, else "label",
    the first column of labels."""
    if method.target == "classes" or not data.labels:
        if data.targets is None:
            raise InputError(f"--class-balanced draws by labels, and {data.name} has none.",
                             "Name the column: --label COLUMN.")  # fmt: skip
        numbers = None if method.target == "classes" or "target" not in data.roles else data.target_values
        if numbers is not None and (numbers % 1 > 0).any():
            raise InputError(f"--class-balanced draws by labels; the target '{data.roles['target']}' holds numbers.",
                             "Name a column of labels: --label COLUMN.")  # fmt: skip
        return "target"
    return "label"


def balance_note(method: Method, data: Data, rows: np.ndarray) -> str:
    """What balancing does to an epoch, for the reader. rows: the training rows."""
    by = balanced_by(method, data)
    name = next(iter(data.labels), "target") if by == "label" else data.roles.get("target", "target")
    values = np.asarray(next(iter(data.labels.values())) if by == "label" else data.targets)[rows]
    sizes = np.unique(values[values >= 0], return_counts=True)[1]
    share = sizes.sum() / len(sizes)
    lacking = int((values < 0).sum())
    left = f"; {lacking:,} rows without one are left out" if lacking else ""
    return (f"note: rows are drawn by '{name}': in an epoch of {sizes.sum():,} rows each of its {len(sizes)} classes "
            f"comes {share:,.0f} times, the smallest ({sizes.min():,} rows) again and again, of the largest "
            f"({sizes.max():,} rows) not all{left}")  # fmt: skip
