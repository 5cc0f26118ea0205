"""Compositions: rows that are told by an attribute and an object together (wet dog, old car), of which some never stand
in training.

    columns attribute (one or several) and object  ->  names, pairs, the pair of each row
    without a column of splits: pairs are held out, so that val and test hold pairs seen in training and unseen ones
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nearfar.errors import InputError
from nearfar.sources.raw import filled
from nearfar.sources.splits import SHARES, assign, components

if TYPE_CHECKING:
    from nearfar.sources.data import Data

ROLES = ("attribute", "object")
HELD_OUT = {"val": 3 / 16, "test": 3 / 16}  # shares of the compositions that are drawn as unseen
MISSING = -1


@dataclass(frozen=True)
class Compositions:
    """attributes (A,), objects (O,): names, sorted. pairs (K, m + 1): the attributes of each composition, -1 behind the
    last where it has fewer than m, and in the last column its object; sorted, each once. of (N,): the composition of
    each row, -1 where its attribute or its object is missing."""

    attributes: list[str]
    objects: list[str]
    pairs: np.ndarray
    of: np.ndarray

    def __len__(self) -> int:
        return len(self.pairs)

    def words(self, pair: Sequence[int] | np.ndarray) -> tuple[tuple[str, ...], str]:
        """The attributes and the object of one row of `pairs`."""
        *attributes, item = (int(one) for one in pair)
        return tuple(self.attributes[one] for one in attributes if one >= 0), self.objects[item]

    @property
    def names(self) -> list[tuple[tuple[str, ...], str]]:
        """The attributes and the object of each composition."""
        return [self.words(pair) for pair in self.pairs]

    @property
    def orders(self) -> np.ndarray:
        """How many attributes each composition has, (K,)."""
        return (self.pairs[:, :-1] >= 0).sum(1)

    def within(self, rows: np.ndarray) -> np.ndarray:
        """bool (K,): which compositions some rows have."""
        found = np.zeros(len(self), bool)
        of = self.of[rows]
        found[of[of >= 0]] = True
        return found

    def every_pair(self) -> np.ndarray:
        """(A O + h, m + 1): all pairs of one attribute and one object, and the compositions of several attributes that
        rows have; sorted."""
        a, o = (x.reshape(-1) for x in np.meshgrid(range(len(self.attributes)), range(len(self.objects)),
                                                   indexing="ij"))  # fmt: skip
        none = np.full((len(a), self.pairs.shape[1] - 2), MISSING)
        return np.unique(np.concatenate([np.column_stack([a, none, o]), self.pairs]), axis=0)


def clean_name(name: str) -> str:
    """A name as the papers write it: lower case, "." and "_" as blanks."""
    return " ".join(name.casefold().replace(".", " ").replace("_", " ").split())


def in_words(name: tuple[tuple[str, ...], str]) -> str:
    """ "old dark car" of its attributes and its object."""
    return " ".join([*name[0], name[1]])


def has_compositions(data: Data) -> bool:
    return all(role in data.roles for role in ROLES)


def compositions(data: Data) -> Compositions:
    """Those of the data, worked out once. Raises InputError for two values of a column with one name, and where fewer
    than two attributes or objects are named."""
    return data.derived(_compositions)


def _compositions(data: Data) -> Compositions:
    attributes = data.roles["attribute"]
    columns = [attributes] if isinstance(attributes, str) else list(attributes)
    cells = {column: [filled(v) for v in data.cells_of(column)] for column in [*columns, str(data.roles["object"])]}
    words = [_cleaned(data, column, values) for column, values in cells.items()]
    tables = [sorted({v for column in part for v in column if v}) for part in (words[:-1], words[-1:])]
    for role, names in zip(ROLES, tables, strict=True):
        if len(names) < 2:
            where = ", ".join(columns) if role == "attribute" else data.roles[role]
            raise InputError(
                f"{data.path or data.name}: the column '{where}' names {'one' if names else 'no'} {role}: there is "
                "nothing to compose.",
                f"Name another column: --{role} COLUMN.",
            )
    place = [{name: i for i, name in enumerate(names)} | {"": MISSING} for names in tables]
    known = np.array([[place[0][v] for v in column] for column in words[:-1]], np.int64).T
    known = np.sort(np.where(known < 0, np.iinfo(np.int64).max, known), axis=1)  # in one order, those missing last
    known[:, 1:][known[:, 1:] == known[:, :-1]] = np.iinfo(np.int64).max  # an attribute named twice
    known = np.sort(known, axis=1)
    known[known == np.iinfo(np.int64).max] = MISSING
    both = np.column_stack([known, [place[1][v] for v in words[-1]]])
    there = (both[:, 0] >= 0) & (both[:, -1] >= 0)
    if not there.any():
        raise InputError(f"No row of {data.path or data.name} has both an attribute and an object.",
                         "Check --attribute and --object.")  # fmt: skip
    pairs, inverse = np.unique(both[there], axis=0, return_inverse=True)
    of = np.full(len(data), MISSING)
    of[there] = inverse.reshape(-1)
    return Compositions(tables[0], tables[1], pairs, of)


def _cleaned(data: Data, column: str, values: Sequence[str]) -> list[str]:
    """The names of a column, cleaned. Raises InputError where two different values get one name."""
    names = {value: clean_name(value) for value in dict.fromkeys(values)}
    first: dict[str, str] = {}
    for value, name in names.items():
        if value and not name:
            raise InputError(f"{data.path or data.name}: '{value}' in the column '{column}' has no words.",
                             "Write a name, or leave the cell empty.")  # fmt: skip
        if first.setdefault(name, value) != value:
            raise InputError(
                f"{data.path or data.name}: '{first[name]}' and '{value}' in the column '{column}' are one name "
                f"('{name}') when case, dots and underscores are left aside.",
                "Write them in one way, or tell them apart by words.",
            )
    return [names[value] for value in values]


def unseen_parts(found: Compositions, train: np.ndarray) -> list[tuple[str, str]]:
    """The attributes and objects that no training row has: role and name."""
    seen = found.pairs[found.within(train)]
    sides = ((ROLES[0], found.attributes, seen[:, :-1]), (ROLES[1], found.objects, seen[:, -1]))
    return [(role, name) for role, names, used in sides for k, name in enumerate(names) if k not in used]


def held_out(pairs: np.ndarray, seed: int, names: Sequence[str]) -> np.ndarray:
    """(K,): 0 for compositions of the training part, 1 and 2 for those that val and test alone hold, `HELD_OUT` of
    them each, in an order drawn from the seed and their names. One is passed over where an attribute or an object of
    it would be left in no training composition.

    Raises InputError where not one can be held out for each."""
    order = sorted(range(len(pairs)), key=lambda k: hashlib.blake2b(f"{seed}:{names[k]}".encode(), digest_size=16)
                   .digest())  # fmt: skip
    parts = np.concatenate([pairs[:, :-1], pairs[:, -1:] + pairs.max() + 1], 1)
    left = np.bincount(parts[parts >= 0], minlength=int(parts.max()) + 1)
    counts = [max(1, round(len(pairs) * share)) for share in HELD_OUT.values()]
    wanted = [code for turn in range(max(counts)) for code, count in enumerate(counts, 1) if turn < count]
    found = np.zeros(len(pairs), np.int64)
    for k in order:
        mine = np.unique(parts[k][parts[k] >= 0])
        if wanted and (left[mine] > 1).all():
            left[mine] -= 1
            found[k] = wanted.pop(0)
    if not {1, 2} <= set(found.tolist()):
        raise InputError(
            f"No two of the {len(pairs)} compositions can be held out: an attribute or an object would be left in no "
            "training row.",
            "Give more pairs of each attribute and object, or a column of splits (--split COLUMN).",
        )
    return found


def divide(data: Data) -> dict[str, np.ndarray]:
    """ "train", "val" and "test" of data with compositions and without a column of splits: `HELD_OUT` of the
    compositions stand in val alone, and as many in test alone; of the rows of the others 70/15/15 by unit and content.
    A row whose composition is held out, and whose unit is trained on, is in no part."""
    found = compositions(data)
    part = held_out(found.pairs, data.seed, [repr(name) for name in found.names])
    lack = int((found.of < 0).sum())
    if lack:
        data.notes.append(f"{lack:,} rows lack an attribute or an object: they are in no part")
    of = np.where(found.of >= 0, part[found.of], MISSING)
    return homes(data, of)


def homes(data: Data, of: np.ndarray, alike: bool = False) -> dict[str, np.ndarray]:
    """Rows by parts. of (N,): 0 for rows of what is trained on, 1 and 2 for rows of what val and test alone hold, -1
    for rows that are left out; alike: val and test hold the same of these."""
    assert data.units is not None
    unit = components([data.units, data.content(data.content_roles[0])])
    marks = data.unit_marks(data.content_roles[0])
    shares = assign(unit, marks, data.seed, SHARES)
    home = np.zeros(len(of), np.int64)
    for code, rows in enumerate(shares.values()):
        home[rows] = code
    trained = np.zeros(unit.max() + 1, bool)
    trained[unit[of == 0]] = True
    free = ~trained[unit] & (of > 0)  # of a unit with nothing but unseen ones: it goes where these are tested
    if alike:
        halves = assign(unit, marks, data.seed + 1, {"val": 0.5, "test": 0.5})
        home[halves["val"][free[halves["val"]]]], home[halves["test"][free[halves["test"]]]] = 1, 2
        here = np.where(of == 0, True, (of > 0) & (home > 0))
    else:
        first = np.full(unit.max() + 1, 3)
        np.minimum.at(first, unit[free], of[free])
        home[free] = first[unit[free]]
        here = np.where(of == 0, True, (of > 0) & (home == of))
    away = int(((of > 0) & ~here).sum())
    if away:
        data.notes.append(f"{away:,} rows of what is held out belong to units that stand in another part: they are in "
                          "none")  # fmt: skip
    return {name: np.flatnonzero(here & (home == code)) for code, name in enumerate(SHARES)}
