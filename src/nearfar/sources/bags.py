"""Bags: rows that belong together and are labelled as a whole, as slides of patches and documents of sentences are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nearfar.errors import InputError, did_you_mean
from nearfar.sources.raw import filled

if TYPE_CHECKING:
    from nearfar.sources.data import Data


@dataclass(frozen=True)
class Bags:
    """The bags of n rows.

    rows: sample ids (n,); of: the number of each row's bag (n,), 0 .. k - 1; names (k,); labels: class of each bag (k,)
    into `Data.target_names`, -1 where it has none.
    """

    rows: np.ndarray
    of: np.ndarray
    names: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sizes(self) -> np.ndarray:
        """Rows of each bag, (k,)."""
        return np.bincount(self.of, minlength=len(self))

    def members(self) -> list[np.ndarray]:
        """Sample ids of each bag."""
        return [self.rows[places] for places in places_of(self.of)]


def places_of(codes: np.ndarray) -> list[np.ndarray]:
    """The places at which each of the codes 0 .. k - 1 stands in (n,), in order."""
    return np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])


def bag_targets(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Of each row the lowest and the highest class of its bag, (N,) each: equal where all its rows that have a label
    have the same; -1 where none has one, or the data lack bags or labels."""
    if data.bags is None or data.targets is None:
        return np.full(len(data), -1), np.full(len(data), -1)
    codes = np.unique(data.bags, return_inverse=True)[1].reshape(-1)
    known = data.targets >= 0
    high = np.full(codes.max(initial=-1) + 1, -1)
    np.maximum.at(high, codes, data.targets)
    low = high.copy()
    np.minimum.at(low, codes[known], data.targets[known])
    return low[codes], high[codes]


def mixed(data: Data) -> np.ndarray:
    """bool (N,): rows of bags that have two labels or more."""
    low, high = bag_targets(data)
    return low < high


def bags_of(data: Data, rows: np.ndarray) -> Bags:
    """The bags of some rows; a row without a bag is one of its own, and a bag has the label of those of its rows that
    have one. Raises InputError for data without bags or labels, and for a bag with two labels."""
    if data.bags is None or data.targets is None:
        lacking = "--bag COLUMN" if data.bags is None else "--target COLUMN"
        raise InputError(
            f"{data.name} has no {'bags' if data.bags is None else 'labels of bags'}.", f"Name the column: {lacking}."
        )
    rows = np.asarray(rows)
    here = rows[mixed(data)[rows]]
    if len(here):
        raise _two_labels(data, int(here[0]))
    _, first, of = np.unique(data.bags[rows], return_index=True, return_inverse=True)
    of = of.reshape(-1)
    labels = bag_targets(data)[1][rows[first]]
    values = data.values("bag", rows[first])
    names = [filled(v) or data.keys[row] for v, row in zip(values, rows[first], strict=True)]
    return Bags(rows, of, names, labels)


def _two_labels(data: Data, row: int) -> InputError:
    assert data.bags is not None
    assert data.targets is not None
    own = np.flatnonzero((data.bags == data.bags[row]) & (data.targets >= 0))
    first = int(own[0])
    other = int(own[data.targets[own] != data.targets[first]][0])
    told = [f"'{data.target_names[data.targets[r]]}' (row {data.keys[r]})" for r in (first, other)]
    column = data.roles["target"] if "target" in data.roles else data.roles["label"][0]
    return InputError(
        f"The bag '{filled(data.values('bag', [first])[0])}' has two labels in '{column}': {told[0]} and {told[1]}.",
        "A bag has one label. Name the column of the bag's label with --target, and that of labels of single rows, if "
        "there is one, with --label.",
    )


def positive_class(data: Data, wanted: str | None = None) -> int:
    """Which class makes a bag positive: the one that is named, or, of two, the last in the order of their names.

    Raises InputError where there are not two classes and none is named, and for a name that is none of them."""
    names = data.target_names
    if wanted is not None:
        if str(wanted) not in names:
            raise InputError(
                f"No bag of {data.name} is '{wanted}'.{did_you_mean(str(wanted), names)}",
                f"Classes: {', '.join(names)}.",
            )
        return names.index(str(wanted))
    if len(names) != 2:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise InputError(
            f"Bags are positive or negative, and those of {data.name} have {len(names)} "
            f"class{'es' * (len(names) != 1)}: {shown}.",
            "Say which of them is positive: --positive CLASS (positive=...); all others are negative then."
            if len(names) > 2
            else "Two are needed: check the column of --target.",
        )
    return 1


__all__ = ["Bags", "bags_of", "mixed", "places_of", "positive_class"]
