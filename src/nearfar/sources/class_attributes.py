"""Classes described by attributes: a file with one line a class (antelope: horns 1, hooves 1, stripes 0...), beside
rows that have a class. Without a column of splits some classes are held out.

    csv, tsv: class, then a number for each attribute; json: {class: [attributes]} or {class: {attribute: number}}
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nearfar.errors import InputError, did_you_mean
from nearfar.sources.compositions import homes

if TYPE_CHECKING:
    from nearfar.sources.data import Data

UNSEEN = 0.3  # the share of the classes that are drawn as unseen
META = "class_attributes"


@dataclass(frozen=True)
class ClassAttributes:
    """names (K,) of the attributes; classes (C,), as `Data.target_names`; matrix float64 (C, K)."""

    names: list[str]
    classes: list[str]
    matrix: np.ndarray


def read_class_attributes(path: str | Path) -> tuple[list[str], dict[str, list[float]]]:
    """Names of the attributes, and the numbers of each class. Raises InputError, with the line, for anything else."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"There is no file of class attributes '{path}'.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.", "Give a text file in UTF-8.") from error
    return _from_json(path, text) if path.suffix.lower() == ".json" else _from_table(path, text)


def _from_table(path: Path, text: str) -> tuple[list[str], dict[str, list[float]]]:
    rows = list(csv.reader(text.splitlines(), delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    rows = [(number, row) for number, row in enumerate(rows, 1) if any(cell.strip() for cell in row)]
    if len(rows) < 2 or len(rows[0][1]) < 2:
        raise InputError(f"{path} is no table of classes and attributes.",
                         "Write a line of names (class, then the attributes), then one line a class.")  # fmt: skip
    names = [cell.strip() for cell in rows[0][1][1:]]
    found: dict[str, list[float]] = {}
    for number, row in rows[1:]:
        name = row[0].strip()
        if len(row) != len(names) + 1:
            raise InputError(f"{path}, line {number}: {len(row)} cells; {len(names) + 1} are expected.")
        if name in found:
            raise InputError(f"{path}, line {number}: the class '{name}' stands twice.", "Keep one of its lines.")
        found[name] = [_number(cell, f"{path}, line {number}, '{what}'") for what, cell in zip(names, row[1:],
                                                                                             strict=True)]  # fmt: skip
    return _checked(path, names, found)


def _from_json(path: Path, text: str) -> tuple[list[str], dict[str, list[float]]]:
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON: {error}.") from error
    if not isinstance(given, dict) or not all(isinstance(v, list | dict) for v in given.values()):
        raise InputError(f"{path} must hold an object {{class: [attributes]}} or {{class: {{attribute: number}}}}.")
    known = {k: v if isinstance(v, dict) else {str(one): 1.0 for one in v} for k, v in given.items()}
    names = list(dict.fromkeys(str(one) for values in known.values() for one in values))
    found = {k: [_number(v.get(name, 0.0), f"{path}, '{k}', '{name}'") for name in names] for k, v in known.items()}
    return _checked(path, names, found)


def _number(cell: object, where: str) -> float:
    try:
        found = float(str(cell).strip())
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise InputError(f"{where}: {cell!r} is not a finite number.", "Write 0 and 1, or how far it holds.")
    return found


def _checked(path: Path, names: list[str], found: dict[str, list[float]]) -> tuple[list[str], dict[str, list[float]]]:
    lower = [name.casefold() for name in names]
    twice = next((name for name in names if lower.count(name.casefold()) > 1 or not name), None)
    if twice is not None:
        raise InputError(f"{path}: the attribute '{twice}' " + ("stands twice." if twice else "has no name."),
                         "Give each attribute a name of its own.")  # fmt: skip
    return names, found


def has_class_attributes(data: Data) -> bool:
    return META in data.meta and data.targets is not None


def class_attributes(data: Data) -> ClassAttributes:
    """Those of the classes of the data. Raises InputError for a class that the file does not describe, or by zeros
    alone."""
    return data.derived(_class_attributes)


def _class_attributes(data: Data) -> ClassAttributes:
    return matched(data.target_names, *data.meta[META])


def matched(classes: Sequence[str], names: Sequence[str], known: Mapping[str, Sequence[float]]) -> ClassAttributes:
    """The attributes of some classes, of a file that may hold others too."""
    missing = [name for name in classes if name not in known]
    if missing:
        more = f" (nor have {len(missing) - 1} others)" if len(missing) > 1 else ""
        raise InputError(f"The class '{missing[0]}' has no attributes in the file of class attributes{more}."
                         f"{did_you_mean(missing[0], list(known))}",
                         "Add a line for it, or leave its rows out.")  # fmt: skip
    matrix = np.array([known[name] for name in classes], np.float64)
    empty = next((name for name, row in zip(classes, matrix, strict=True) if not row.any()), None)
    if empty is not None:
        raise InputError(f"The class '{empty}' has no attribute other than 0: nothing describes it.",
                         "Give it one, or leave its rows out.")  # fmt: skip
    return ClassAttributes(list(names), list(classes), matrix)


def unseen_classes(classes: Sequence[str], seed: int) -> list[str]:
    """About three in ten of the classes, one at least, in an order drawn from the seed and their names.

    Raises InputError for fewer than three classes."""
    if len(classes) < 3:
        raise InputError(f"Of {len(classes)} classes none can be held out.",
                         "Give more classes, or a column of splits (--split COLUMN).")  # fmt: skip
    order = sorted(classes, key=lambda name: hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16).digest())
    return order[: max(1, round(len(classes) * UNSEEN))]


def divide(data: Data) -> dict[str, np.ndarray]:
    """ "train", "val" and "test" of data with described classes and without a column of splits: about three in ten of
    the classes are never trained on, and val and test hold different rows of them; of the rows of the others 70/15/15
    by unit and content. A number that is chosen on validation data thus knows rows of the classes that are tested; a
    column of splits with other unseen classes in val avoids that."""
    found = class_attributes(data)
    away = set(unseen_classes(found.classes, data.seed))
    of = np.array([-1 if k < 0 else int(found.classes[k] in away) for k in np.asarray(data.targets)])
    return homes(data, of, alike=True)
