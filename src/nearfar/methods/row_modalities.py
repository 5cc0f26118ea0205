"""Several modalities of one row: which roles are one, and groups of numbers, each an own one."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nearfar import modalities
from nearfar.encoders import Encoder, Frozen
from nearfar.encoders.numeric import GroupedVectors, VectorEncoder
from nearfar.errors import InputError, did_you_mean
from nearfar.modality import digest

if TYPE_CHECKING:
    from nearfar.sources.data import Data

FUSION = "fusion"  # what no group may be called: the classifier on all of them


def roles_of_modalities(roles: Set[str]) -> list[str]:
    """The roles of items that are modalities of a row: of kinds whose rows are not seen through each other; the second
    column of a kind is another modality, unless the kind takes several columns as one item (numbers: their groups)."""
    kinds = [kind for kind in modalities.everyone() if not kind.transductive and not kind.divisions]
    return [role for kind in kinds for role in kind.roles[: 1 if kind.several else 2] if role in roles]


def column_groups(columns: Sequence[str], words: str | None = None) -> dict[str, list[int]]:
    """Groups of columns -> the places of theirs.

    words: groups divided by ";", each the names or patterns of its columns divided by ",", if need be behind a name:
    "mean *; *error; size=worst radius,worst area". A column that holds lists is named as a whole. None: each column of
    lists is a group.
    Raises InputError: fewer than two groups, a column in none or in two, a pattern that is nobody's."""
    whole = [re.sub(r"\[\d+\]$", "", column) for column in columns]
    if words is None:
        told = {name: [name] for name in dict.fromkeys(whole)}
        if len(told) < 2 or any(one == column for one, column in zip(whole, columns, strict=True)):
            raise InputError(f"One row of {len(columns)} numbers is one modality; there must be two or more.",
                             'Name groups of columns, for example --groups "mean *; *error; worst *", or a column of '
                             "images or texts beside them.")  # fmt: skip
    else:
        told = _named_groups(words)
    found: dict[str, list[int]] = {}
    owner: dict[int, str] = {}
    for name, patterns in told.items():
        for pattern in patterns:
            places = [i for i, (column, one) in enumerate(zip(columns, whole, strict=True))
                      if pattern in (column, one) or fnmatch.fnmatchcase(one, pattern)]  # fmt: skip
            if not places:
                raise InputError(f"--groups: no column of numbers is called '{pattern}' (group '{name}')."
                                 f"{did_you_mean(pattern, list(dict.fromkeys(whole)))}",
                                 f"Columns: {', '.join(list(dict.fromkeys(whole))[:12])}.")  # fmt: skip
            for i in places:
                if owner.setdefault(i, name) != name:
                    raise InputError(f"--groups: the column '{columns[i]}' is in '{owner[i]}' and in '{name}'.",
                                     "Each column belongs to one group.")  # fmt: skip
        found[name] = sorted({i for i in owner if owner[i] == name})
    left = next((column for i, column in enumerate(columns) if i not in owner), None)
    if left is not None:
        raise InputError(f"--groups: the column '{left}' is in no group.",
                         "Name it in one, or name the columns that are read: --vector COLUMNS.")  # fmt: skip
    return found


def _named_groups(words: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for number, part in enumerate(filter(None, (one.strip() for one in words.split(";")))):
        given, _, listed = part.rpartition("=")
        patterns = [one.strip() for one in listed.split(",") if one.strip()]
        name = given.strip() or re.sub(r"[*?]|^[\W_]+|[\W_]+$", "", patterns[0] if patterns else "").strip(" _-.")
        name = name or f"group {number + 1}"
        if name in found or "/" in name or name == FUSION:
            raise InputError(f"--groups: '{name}' cannot be the name of one group more.",
                             'Give each a name of its own without "/": "name=COLUMN,COLUMN; ...".')  # fmt: skip
        if not patterns:
            raise InputError(f"--groups: the group '{name}' has no columns.", "Write name=COLUMN,COLUMN.")
        found[name] = patterns
    if len(found) < 2:
        raise InputError(f"--groups: there must be two groups or more. Got '{words}'.",
                         'Divide them by ";": --groups "mean *; *error; worst *".')  # fmt: skip
    return found


def grouped(encoder: Encoder, words: str | None, alone: bool, outputs: int | None) -> Encoder:
    """An encoder of numbers with layers for each group of them, where there are groups; else as it is. alone: it is the
    only one, so that there must be. outputs: the length of a group's vector; None: the encoder's width."""
    join: Literal["concat", "mean"] = "concat" if alone else "mean"
    if isinstance(encoder, GroupedVectors):
        if words is not None and [*column_groups(encoder.columns, words).values()] != [*encoder.groups.values()]:
            raise InputError(f"--groups: the model has other groups: {', '.join(encoder.groups)}.", "Leave it out.")
        if outputs not in (None, encoder.each_dim):
            raise InputError(f"The model's groups give vectors of {encoder.each_dim} numbers, not of {outputs}.",
                             f"Use --dim {encoder.each_dim}.")  # fmt: skip
        return encoder.joined_by(join)
    if encoder.modality != "vector" or (words is None and not alone):
        return encoder
    if not isinstance(encoder, VectorEncoder) or encoder.pretrained:
        raise InputError("Groups of numbers need encoders of their own; this one sees all of them together"
                         f"{' and is frozen' if isinstance(encoder, Frozen) else ''}.",
                         "Leave out --freeze and --model, or take a model that was trained with groups.")  # fmt: skip
    return GroupedVectors.of(encoder, column_groups(encoder.columns, words), outputs).joined_by(join)


def check_there(data: Data, role: str, rows: np.ndarray, encoder: Any) -> None:
    """Raises InputError that names the first row of which a modality is not there: an empty cell, or a group of numbers
    of which all are empty."""
    if role not in data.roles:
        raise InputError(f"{data.name} has no {role}, which is one of the modalities.",
                         f"Name its column: --{role.replace('_', '-')} COLUMN.")  # fmt: skip
    rows, kind = np.asarray(rows), modalities.of(role)
    if isinstance(encoder, GroupedVectors):
        values = kind.reader(data, role, encoder).raw(rows, None).numpy()
        parts = {f"the group '{name}'": np.isnan(values[:, i]).all(1) for name, i in encoder.groups.items()}
    elif kind.name == "vector":
        parts = {f"'{role}'": np.isnan(kind.items(data, role, rows)).all(1)}
    elif kind.name == "text":
        parts = {f"'{data.roles[role]}'": np.array([not text.strip() for text in data.texts(role, rows)], bool)}
    else:
        return
    for what, missing in parts.items():
        if missing.any():
            raise InputError(f"{data.name}: {what} of row '{data.keys[rows[int(missing.argmax())]]}' is empty "
                             f"({missing.sum():,} such rows); every row needs all of its modalities.",
                             "Fill it, or leave such rows out.")  # fmt: skip


def group_contents(data: Data, role: str, encoder: GroupedVectors) -> np.ndarray:
    """Of each group of numbers an integer for each row of the data, equal where all its numbers are, (groups, N)."""
    kind, rows = modalities.of(role), np.arange(len(data))
    values = kind.reader(data, role, encoder).raw(rows, None).numpy()
    found = [[digest(kind.content(row)) for row in values[:, places]] for places in encoder.groups.values()]
    return np.unique(np.array(found, np.int64), return_inverse=True)[1].reshape(len(found), len(rows))


__all__ = ["FUSION", "check_there", "column_groups", "group_contents", "grouped", "roles_of_modalities"]
