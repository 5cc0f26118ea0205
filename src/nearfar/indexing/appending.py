"""Which rows an output lacks, which of its rows have changed, and which it has already."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from nearfar.errors import InputError

pc: Any = pyarrow.compute


@dataclass(frozen=True)
class Change:
    """`rows`: the rows (k,) that are written, under `keys`; the stored keys `gone` among them are replaced. `left`: how
    many rows were there already."""

    rows: np.ndarray
    keys: pa.Array
    gone: frozenset[str]
    left: int

    @property
    def replaced(self) -> int:
        return len(self.gone)

    @property
    def added(self) -> int:
        return len(self.rows) - len(self.gone)


def check_unique(keys: pa.Array, name: str) -> None:
    """Raises InputError that names the first key that stands twice."""
    if len(keys.unique()) == len(keys):
        return
    seen: dict[str, int] = {}
    for row, key in enumerate(keys.to_pylist()):
        if key in seen:
            raise InputError(
                f"The id '{key}' of {name} is given twice (rows {seen[key]} and {row}).",
                "Ids must be unique: mend the column, or name another one with --id.",
            )
        seen[key] = row


def change(known: pa.Table | None, keys: pa.Array, contents: np.ndarray, source: str, named: str, name: str) -> Change:
    """What is to be written of rows with these keys and contents.

    known: the stored rows (key, _content, _source), or None for a new output. named: what the keys are. An "id" names
    its row wherever it stands. A path ("file") or number ("line") does so within its source alone; of another source,
    a row of equal content is the same row, and one whose key is taken gets the name of its source before it. A number
    moves when a line is put in above: a row is only replaced where its old content is nowhere in the data any more.
    """
    if known is None or not len(known):
        return Change(np.arange(len(keys)), keys, frozenset(), 0)
    stored = known["_content"].to_numpy()
    place = pc.index_in(keys, value_set=known["key"].combine_chunks()).fill_null(-1).to_numpy()
    taken = place >= 0
    same = taken & (stored[place] == contents)
    mine = taken if named == "id" else taken & pc.equal(known["_source"], source).to_numpy()[place]
    there = same | np.isin(contents, stored) if named == "line" else same
    moved = np.isin(stored[place], contents) if named == "line" else np.zeros(len(keys), bool)
    gone, new = mine & ~there & ~moved, ~there
    final, clash = keys.to_pylist(), np.flatnonzero(new & taken & ~gone)
    used = {*known["key"].to_pylist(), *final} if len(clash) else set()
    for row in clash:
        final[row] = _free(f"{_before(name, named)}{final[row]}", used)
    rows = np.flatnonzero(new)
    written = pa.array([final[row] for row in rows], pa.string())
    return Change(rows, written, frozenset(final[row] for row in np.flatnonzero(gone)), int(there.sum()))


def own_key(key: str, name: str, named: str) -> str | None:
    """The key that a row has in its own data, where it is stored under one with the name of its source before it; None
    for a key that is not of that form."""
    before = _before(name, named)
    return re.sub(r"#\d+$", "", key.removeprefix(before)) if key.startswith(before) else None


def _before(name: str, named: str) -> str:
    """What stands before the key of a row whose own is taken."""
    return f"{name}{'/' if named == 'file' else ':'}"


def _free(key: str, used: set[str]) -> str:
    free, number = key, 2
    while free in used:
        free, number = f"{key}#{number}", number + 1
    used.add(free)
    return free
