"""Data that are in memory as data: `datasets` (whole, in parts or streaming), frames of pandas and polars, tables of
Arrow, dicts of columns, lists of texts or records, arrays.

A `Dataset` that is mapped from files stays so. All others are written to the cache once, block by block, and are read
from there like files: training, workers of a cluster and pickles see an Arrow file. Equal rows are the same data,
whatever held them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Column, Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from datasets.table import MemoryMappedTable

from nearfar.errors import InputError
from nearfar.sources.blocks import ROWS, arrays_in, batches_of, kept
from nearfar.sources.contents import content_digest
from nearfar.sources.folders import joined
from nearfar.sources.frames import frame_columns
from nearfar.sources.mistaken import mistaken
from nearfar.sources.raw import Raw
from nearfar.sources.streams import read_stream
from nearfar.sources.tables import check_names, readable_columns
from nearfar.sources.values import Columns, array_columns, block_of, checked_lengths, list_columns, rows_in

KIND = "given"  # of the cache


def read_object(value: Any, cache: Path, limit: int | None) -> Raw:
    """The rows of an object. limit: how many rows of a stream are read; others are limited later, by their groups.

    Raises InputError for what holds no rows, or none that go together, and says what to give instead.
    """
    if isinstance(value, IterableDataset | IterableDatasetDict):
        return read_stream(value, cache, limit)
    if isinstance(value, Dataset | DatasetDict):
        return _of_datasets(value, cache)
    if isinstance(value, Mapping) and value and all(isinstance(one, Dataset) for one in value.values()):
        return _of_datasets(DatasetDict(value), cache)
    if isinstance(value, Mapping) and value and all(isinstance(one, IterableDataset) for one in value.values()):
        return read_stream(IterableDatasetDict(value), cache, limit)
    if isinstance(value, pd.Series):
        value = value.to_frame("text" if value.name is None else value.name)
    if isinstance(value, pd.DataFrame):
        return _of_columns("DataFrame", frame_columns(value), cache)
    if hasattr(value, "__arrow_c_stream__") and not isinstance(value, Column):
        return _of_table(type(value).__name__, value, cache)
    if isinstance(value, Mapping):
        return _of_columns("dict", checked_lengths(value), cache)
    if isinstance(value, np.ndarray) or (hasattr(value, "detach") and hasattr(value, "numpy")):
        return _of_columns("array", array_columns(value), cache)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview | range):
        return _of_columns("list", list_columns(value), cache)
    raise mistaken(value)


def called(kind: str, rows: int) -> str:
    """ "Dataset of 1,000 rows"."""
    return f"{kind} of {rows:,} row{'s' * (rows != 1)}"


def given_raw(kind: str, table: Dataset, digest: str, how: str = "given in memory", **facts: Any) -> Raw:
    """A table of an object, with what a run records of it. how: it was given, in words."""
    name = called(kind, len(table))
    given = {
        "object": kind,
        "rows": len(table),
        "features": {name: str(one) for name, one in table.features.items()},
        "fingerprint": digest,
    }
    return Raw(name, None, how, table, digest, given=given, **facts)


def _of_datasets(value: Dataset | DatasetDict, cache: Path) -> Raw:
    roles, notes = {}, []
    kind = type(value).__name__
    parts = list(value.values()) if isinstance(value, DatasetDict) else [value]
    if not any(map(len, parts)):
        raise empty(kind)
    if any(one.format["type"] == "custom" for one in parts):
        notes.append("its transform (set_transform) is not applied: the rows are read as they are stored (`map` makes "
                     "rows of what a transform gives)")  # fmt: skip
    table = joined(kind, value, roles, notes) if isinstance(value, DatasetDict) else value
    table = table.with_format(None)
    check_names(table.column_names, kind)
    arrays = arrays_in(table.features)
    if arrays:
        notes.append(f"each array of {', '.join(repr(one) for one in arrays)} is read as one row of numbers")
    if arrays or not mapped(table):
        schema = table.features.arrow_schema
        table, digest = kept(cache, KIND, (pa.table(one.columns, schema=schema) for one in batches_of(table)), kind)
    else:
        digest = content_digest(batches_of(table), table.features)
    raw = given_raw(kind, table, digest, roles=roles, notes=notes)
    raw.reasons = {"split": f"the parts of the {kind}"}
    return raw


def mapped(table: Dataset) -> bool:
    """Whether columns of the table lie in files."""
    blocks = getattr(table.data, "blocks", [[table.data]])
    return any(isinstance(one, MemoryMappedTable) for row in blocks for one in row)


def _of_table(kind: str, value: Any, cache: Path) -> Raw:
    """What hands over Arrow: a table or a batch of pyarrow, a frame of polars..."""
    try:
        table = pa.table(value)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(f"The {kind} is no table of Arrow ({error}).", "Give its rows as a DataFrame.") from error
    if not len(table):
        raise empty(kind)
    chosen, schema, notes = readable_columns(table.schema, kind)
    plain = table.select(chosen).cast(schema)
    found, digest = kept(cache, KIND, (pa.table(one) for one in plain.to_batches(ROWS)), kind)
    return given_raw(kind, found, digest, notes=notes)


def _of_columns(kind: str, columns: Columns, cache: Path) -> Raw:
    if not rows_in(columns):
        raise empty(kind)
    check_names(list(columns.values), kind)
    table, digest = kept(cache, KIND, _blocks(kind, columns), kind)
    raw = given_raw(kind, table, digest, notes=list(columns.notes))
    raw.roles, raw.reasons = dict(columns.roles), dict(columns.reasons)
    return raw


def _blocks(kind: str, columns: Columns) -> Iterator[pa.Table]:
    for start in range(0, rows_in(columns), ROWS):
        yield block_of({name: values[start : start + ROWS] for name, values in columns.values.items()}, kind, start)


def empty(kind: str) -> InputError:
    return InputError(f"The {kind} holds no rows.", "Is it the right one, and was it not filtered to nothing?")


__all__: Iterable[str] = ["called", "given_raw", "read_object"]
