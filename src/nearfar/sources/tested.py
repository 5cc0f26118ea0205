"""Roles that no training row has: single items are trained on, pairs with a score (or a label) are measured on."""

from __future__ import annotations

import numpy as np

from nearfar import modalities
from nearfar.errors import InputError
from nearfar.sources.raw import Raw, filled
from nearfar.sources.scan import Fault, cells
from nearfar.sources.splits import standard_name

JUDGED = ("pair_label", "score")


def trained_rows(raw: Raw) -> np.ndarray:
    """bool (N,): the rows that the split column gives for training; none without such a column."""
    if "split" not in raw.roles:
        return np.zeros(len(raw.table), bool)
    return _where(raw, str(raw.roles["split"]), lambda value: standard_name(value) == "train")


def only_tested(raw: Raw) -> frozenset[str]:
    """The second sides of pairs, and what is said of pairs, that are empty in every row for training and not in all
    others.

    Raises InputError where val or test then have no rows: they cannot be cut from rows without pairs.
    """
    train = trained_rows(raw)
    if not train.any() or train.all():
        return frozenset()
    held = [role for role in modalities.roles() if role in raw.roles]
    seconds = {b for a, b in modalities.pairs() if {a, b} <= set(held)} - {held[0]}
    asked = [role for role in (*held, *JUDGED) if role in seconds or (role in raw.roles and role in JUDGED)]
    found = [role for role in asked if _lacking(raw, role, train)]
    if not set(found) & seconds:
        return frozenset()
    names = {standard_name(v) for v in _values(raw, str(raw.roles["split"]))}
    for name, words in (("val", "validation"), ("test", "test")):
        if name not in names:
            raise InputError(
                f"{raw.path or raw.name}: '{raw.roles[found[0]]}' is empty in all training rows, so it only measures, "
                f"and no row of '{raw.roles['split']}' is for {words}.",
                f"Mark some of the other rows as {name}.",
            )
    return frozenset(found)


def excused(raw: Raw, bad: list[Fault]) -> list[Fault]:
    """The faults without those of empty cells that only measuring asks for."""
    columns = {str(raw.roles[role]) for role in raw.only_tested}
    if not columns:
        return bad
    train = trained_rows(raw)
    return [fault for fault in bad if not (fault.column in columns and train[fault.row])]


def _lacking(raw: Raw, role: str, train: np.ndarray) -> bool:
    columns = raw.roles[role]
    if not isinstance(columns, str):
        return False
    there = _where(raw, columns, lambda value: bool(value))
    return not there[train].any() and bool(there[~train].any())


def _values(raw: Raw, column: str) -> list[str]:
    return [filled(value).strip() for block in cells(raw.table, column) for value in block]


def _where(raw: Raw, column: str, holds) -> np.ndarray:
    values = _values(raw, column)
    known = {value: holds(value) for value in set(values)}
    return np.array([known[value] for value in values], bool)
