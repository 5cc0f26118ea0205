"""Batches in which every class of a column of labels comes equally often, however many rows it has."""

from __future__ import annotations

import numpy as np

from nearfar.errors import InputError
from nearfar.samplers import Groups, Labels, OfItems, Permutation, Sampler


class ClassBalanced(OfItems):
    """Every class equally often, to within one: batches are cut from one line of draws, in which all classes stand once
    in each round, in a seeded order; a class gives its items in a seeded order, all of them before one comes again.

    An epoch has as many draws as there are items with a label: those of small classes come several times in it, those
    of large ones not all. A class with fewer items than its share of a batch has some of them in it more than once.
    labels: see `Rows.of`; a group of `members` has the label of its first row, and items without one (-1) are never
    drawn. Raises InputError, once bound, where there are not two classes.
    """

    def __init__(self, labels: Labels, members: int = 1):
        super().__init__(members)
        self.labels = labels

    def bind(self) -> None:
        super().bind()
        item_labels = self.of_items(self.table.of(self.labels))
        known = np.unique(item_labels[item_labels >= 0])
        if len(known) < 2:
            raise InputError(f"Classes cannot be balanced: the training rows have {len(known)} of them.",
                             "Leave out --class-balanced, or name another column with --label.")  # fmt: skip
        self.choices = [np.flatnonzero(item_labels == c) for c in known]

    @property
    def items(self) -> int:
        return sum(map(len, self.choices))

    def rows(self, number: int) -> np.ndarray:
        places = number * self.batch_size + np.arange(self.batch_size)
        rounds, inside = np.divmod(places, len(self.choices))
        orders = {r: self._permutation(len(self.choices), 17, int(r)) for r in np.unique(rounds)}
        classes = np.array([orders[r][k] for r, k in zip(rounds, inside, strict=True)])
        chosen = [self._item(int(c), int(r)) for c, r in zip(classes, rounds, strict=True)]
        return self.drawn(np.array(chosen), number, 23)

    def _item(self, c: int, draw: int) -> int:
        """The item that a class gives at its draw of that number."""
        turn, place = divmod(draw, len(self.choices[c]))
        order = self.kept(f"class {c}", turn, lambda: self._permutation(len(self.choices[c]), 19, c, turn))
        return int(self.choices[c][order[place]])

    def _permutation(self, length: int, *place: int) -> np.ndarray:
        return np.random.default_rng([self.seed, *place]).permutation(length)


def class_balanced(sampler: Sampler, labels: Labels) -> ClassBalanced | None:
    """A sampler of every row or group once an epoch as one of every class equally often, with the same rows and
    negatives; None for a sampler of another kind."""
    if type(sampler) not in (Permutation, Groups):
        return None
    return ClassBalanced(labels, sampler.members).restricted_as(sampler)
