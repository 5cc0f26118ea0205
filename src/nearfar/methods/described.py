"""Classes that attributes describe, as the training rows have them: what methods that learn them share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nearfar.errors import InputError

if TYPE_CHECKING:
    from nearfar.sources.class_attributes import ClassAttributes
    from nearfar.sources.data import Data


@dataclass(frozen=True)
class Described:
    """What the training rows have. found: all described classes, those of the data first; seen (C,): which of them a
    training row has; matrix (C_s, K): attributes of those, divided by the largest in size; of (N,): which of them each
    row of the data has, -1 for none."""

    found: ClassAttributes
    seen: np.ndarray
    matrix: np.ndarray
    of: np.ndarray

    @property
    def words(self) -> str:
        told = f"{int(self.seen.sum()):,} of {len(self.seen):,} are trained on"
        if pair := alike(self.found.matrix, self.found.classes):
            told += f"; nothing tells {pair[0]} from {pair[1]}"
        return told

    @property
    def attributes(self) -> str:
        still = int((np.ptp(self.matrix, 0) == 0).sum())
        return f"{self.matrix.shape[1]:,}" + (
            f", {still:,} of them the same in all classes trained on" if still else ""
        )


def alike(matrix: np.ndarray, names: Sequence[str]) -> tuple[str, str] | None:
    """Two classes with the same attributes, up to their length; None where there are none."""
    from nearfar.evaluation.compositional import unit_rows

    known: dict[bytes, str] = {}
    for name, row in zip(names, np.round(unit_rows(matrix), 9) + 0.0, strict=True):
        if (other := known.setdefault(row.tobytes(), name)) != name:
            return other, name
    return None


def described_classes(data: Data, rows: np.ndarray, slug: str) -> Described:
    """Raises InputError: data without a file of attributes, classes that it lacks, training rows of one class, two
    classes of training rows that no attribute tells apart."""
    from nearfar.sources.class_attributes import META, ClassAttributes, class_attributes, has_class_attributes

    if not has_class_attributes(data):
        raise InputError(f"'{slug}' learns classes by their attributes, and {data.name} describes none.",
                         "Give a file of them: --class-attributes FILE (csv, tsv or json).")  # fmt: skip
    own, (names, known) = class_attributes(data), data.meta[META]
    others = [name for name, row in known.items() if name not in set(own.classes) and any(row)]
    matrix = np.concatenate([own.matrix, np.array([known[name] for name in others]).reshape(-1, len(names))])
    targets = np.asarray(data.targets)
    trained = np.unique(targets[rows][targets[rows] >= 0])
    if len(trained) < 2:
        raise InputError(f"All training rows of {data.name} have the class '{own.classes[trained[0]]}': there is "
                         "nothing to tell apart.", "Check --target and --split.")  # fmt: skip
    if pair := alike(own.matrix[trained], [own.classes[k] for k in trained]):
        raise InputError(f"The classes '{pair[0]}' and '{pair[1]}' have the same attributes: nothing tells them apart.",
                         "Give them an attribute in which they differ, or make them one class.")  # fmt: skip
    place = np.full(len(own.classes) + 1, -1)
    place[trained] = np.arange(len(trained))
    seen = np.isin(np.arange(len(matrix)), trained)
    return Described(ClassAttributes(list(names), own.classes + others, matrix), seen,
                     matrix[trained] / np.abs(matrix[trained]).max(), place[targets])  # fmt: skip


def batches_of_classes(counts: np.ndarray, classes: int | str, each: int | str, slug: str) -> tuple[int, int]:
    """Classes of a batch and images of every one, of classes with so many training rows (C,).

    classes: auto is 10, or as many as have enough; each: auto is 5, or as many as the smallest class with two has: of a
    class of one image a contrast sees no positive. Raises InputError where not two classes have enough."""
    several = counts[counts > 1]
    many = (min(5, int(several.min())) if len(several) else 1) if each == "auto" else int(each)
    enough = min(10, int((counts >= many).sum())) if classes == "auto" else int(classes)
    if enough < 2:
        raise InputError(f"Batches of '{slug}' hold {many} images of two classes at least; {enough} of the "
                         f"{len(counts)} classes of training rows have so many.", "Use a smaller --each.")  # fmt: skip
    return enough, many


__all__ = ["Described", "alike", "batches_of_classes", "described_classes"]
