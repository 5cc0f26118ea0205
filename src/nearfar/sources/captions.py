"""Images with several captions: a column of lists (of parquet, of JSON lines) becomes a row for each caption.

image, captions: [a, b]   ->   image, a        both rows are one item (`ITEM`), of which training draws one at a time
                               image, b        and by which measuring counts both as right
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.table import InMemoryTable

from nearfar.errors import InputError
from nearfar.sources.raw import Raw, filled
from nearfar.sources.scan import Fault, cells, problem

if TYPE_CHECKING:
    from nearfar.modality import Modality

ITEM = "__item__"  # the row of the table before its lists were opened
LOOKED_AT = 64
_NUMBERED = re.compile(r"(.+)\.(\d+)")  # what JSON lines make of a list


def opened_lists(
    raw: Raw, wanted: Mapping[str, Any], role: str, names: Sequence[str], beside: Modality, skip: bool
) -> tuple[Raw, dict[str, Any], dict[str, str]] | None:
    """The table with a row for each text of its column of lists, where a column of images stands beside; else None.

    role: of the texts; names: of columns that are taken for it. beside: the kind of what the texts tell.
    skip: rows whose list holds no text are left out, and told in `problems`; else the first raises InputError.
    """
    lists = columns_of_lists(raw)
    column = wanted.get(role) or next((name for name in lists if name.casefold() in names), None)
    if not isinstance(column, str) or column not in lists or not has_column(raw, wanted, beside, lists):
        return None
    texts = [[text for text in map(filled, found) if text.strip()] for found in read_lists(raw, lists[column])]
    faults = [problem(raw, Fault(row, lists[column][0], "the list holds no text"))
              for row, found in enumerate(texts) if not found]  # fmt: skip
    if faults and not skip:
        more = f" ({len(faults) - 1} more like this)" if len(faults) > 1 else ""
        raise InputError(f"{faults[0]}{more}.", "Mend or remove such rows, or leave them out with --unreadable skip.")
    rows = np.repeat(np.arange(len(texts)), [len(found) for found in texts])
    table = raw.table.data.table if raw.table._indices is None else raw.table.flatten_indices().data.table
    kept = table.drop_columns(lists[column])
    taken = kept.take(pa.array(rows)) if kept.num_columns else pa.table({})
    flat = pa.array([text for found in texts for text in found], pa.large_string())
    made = taken.append_column(column, flat).append_column(ITEM, pa.array(rows))
    counts = [len(found) for found in texts if found]
    note = (f"'{column}' holds {min(counts)} to {max(counts)} texts a row: {len(counts):,} rows become {len(rows):,}, "
            "of which training draws one for each")  # fmt: skip
    changed = dataclasses.replace(
        raw,
        table=Dataset(InMemoryTable(made)),
        fingerprint=f"{raw.fingerprint}:{column}",
        notes=[*raw.notes, note],
        problems=[*raw.problems, *faults],
    )
    if "unit" not in wanted:
        changed.roles = {**raw.roles, "unit": ITEM}
        changed.reasons = {**raw.reasons, "unit": f"the texts of one {beside.word} stay together"}
    return changed, {**wanted, role: column}, {role: "its values are lists of texts"} if role not in wanted else {}


def columns_of_lists(raw: Raw) -> dict[str, list[str]]:
    """Name of a column of lists of texts -> the columns in which it is stored."""
    found: dict[str, list[str]] = {}
    for field in raw.table.data.table.schema:
        if pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
            if pa.types.is_string(field.type.value_type) or pa.types.is_large_string(field.type.value_type):
                found[field.name] = [field.name]
        elif numbered := _NUMBERED.fullmatch(field.name):
            found.setdefault(numbered.group(1), []).append(field.name)
    return {name: columns for name, columns in found.items() if name == columns[0] or f"{name}.0" in columns}


def read_lists(raw: Raw, columns: Sequence[str]) -> list[list[Any]]:
    """The list of each row."""
    read = [[value for block in cells(raw.table, column) for value in block] for column in columns]
    if len(columns) == 1 and "." not in columns[0]:
        return [list(value or []) for value in read[0]]
    return [list(values) for values in zip(*read, strict=True)]


def has_column(raw: Raw, wanted: Mapping[str, Any], kind: Modality, lists: Mapping[str, Any]) -> bool:
    """Whether a column of the kind stands in the table, named or found by its values."""
    if any(wanted.get(role) for role in kind.roles):
        return True
    names = [name for name in raw.table.column_names if not name.startswith("__") and name not in lists]
    return any(kind.looks_like(next(cells(raw.table, name, LOOKED_AT), [])) for name in names)


def numbered(keys: Sequence[str], items: np.ndarray) -> list[str]:
    """The keys of rows with the place of each among those of its item behind it: "7#0", "7#1"."""
    _, starts, counts = np.unique(items, return_index=True, return_counts=True)
    places = np.arange(len(items)) - np.repeat(starts, counts)
    return [f"{key}#{number}" for key, number in zip(keys, places.tolist(), strict=True)]
