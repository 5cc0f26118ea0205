"""What stands in two splits at once: contents, groups and units that a test should meet for the first time."""

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from nearfar import modalities
from nearfar.errors import InputError
from nearfar.sources.compositions import has_compositions
from nearfar.sources.raw import filled

if TYPE_CHECKING:
    from nearfar.sources.data import Data

TOGETHER = ("group", "bag", "unit")
_SPLITS = ("train", "val", "test")
_NAMES = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Shared:
    """One kind of thing (a role) in two splits: how many values both hold, how many rows of the later split (of how
    many) have one of them, and the first of these values."""

    role: str
    earlier: str
    later: str
    values: int
    rows: int
    of: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        one, many = (self.role, f"{self.role}s") if self.role in TOGETHER else _words(self.role)
        names = f" ({', '.join(self.examples)}{', ...' if self.values > len(self.examples) else ''})"
        return (
            f"{self.rows:,} of {self.of:,} {_NAMES[self.later]} rows share {self.values:,} "
            f"{one if self.values == 1 else many} of the role '{self.role}' with {_NAMES[self.earlier]} rows"
            f"{names if self.examples else ''}"
        )


def _words(role: str) -> tuple[str, str]:
    kind = modalities.of(role)
    return kind.word, kind.words


def marks(data: "Data") -> dict[str, np.ndarray]:
    """Role -> int64 (N,), equal where rows share the content, the group, the bag or the unit of that role; contents of
    a kind that divides its rows itself, and captions of compositions, which are their names, are left out."""
    roles = data.content_roles[:1] if has_compositions(data) else data.content_roles
    found = {role: data.content(role) for role in roles if not modalities.of(role).divisions}
    for role in data.only_tested & set(found):  # training rows have their first side alone
        found[role] = np.where(found[role] < 0, data.content(data.content_roles[0]), found[role])
    if "group" in data.roles and data.groups is not None:
        found["group"] = data.groups
    if data.bags is not None:
        found["bag"] = data.bags
    if "unit" in data.roles and data.units is not None:
        found["unit"] = data.units
    return found


def shared(data: "Data") -> list[Shared]:
    """All that two splits have in common, the groups and units first."""
    splits, found = data.splits, []
    for role, mark in sorted(marks(data).items(), key=lambda pair: pair[0] not in TOGETHER):
        for earlier, later in combinations(_SPLITS, 2):
            both = np.isin(mark[splits[later]], mark[splits[earlier]])
            rows = splits[later][both]
            if len(rows):
                first = rows[np.sort(np.unique(mark[rows], return_index=True)[1])[:3]]
                names = [filled(v) for v in data.values(role, first)] if role in TOGETHER else []
                count = len(np.unique(mark[rows]))
                found.append(Shared(role, earlier, later, count, len(rows), len(both), tuple(names)))
    return found


def tested_twice(data: "Data") -> int:
    """How many test rows share a content, a group or a unit with a training row."""
    train, test = data.splits["train"], data.splits["test"]
    both = np.zeros(len(test), bool)
    for mark in marks(data).values():
        both |= np.isin(mark[test], mark[train])
    return int(both.sum())


def refuse(data: "Data") -> None:
    """Raises InputError where two splits have anything in common."""
    found = shared(data)
    if found:
        more = f" ({len(found) - 1} more findings like this)" if len(found) > 1 else ""
        raise InputError(
            f"{data.path or data.name}: {found[0]}{more}.",
            "Mend the split, let nearfar divide the rows (roles={'split': None}), or leave out --strict.",
        )
