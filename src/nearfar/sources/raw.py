"""What a reader hands over, before roles, checks and splits."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.table import InMemoryTable


def column_of(table: Dataset, column: str, rows: slice | np.ndarray) -> pa.ChunkedArray:
    """Some cells of one column, as stored. No other column is looked at and nothing is decoded.

    `Dataset.select_columns` would copy the description of all columns each time.
    """
    stored = table.data.column(column)
    if table._indices is not None:
        chosen = table._indices.column(0)
        rows = (chosen.slice(rows.start, rows.stop - rows.start) if isinstance(rows, slice) else chosen.take(
            pa.array(rows, pa.int64()))).to_numpy()  # fmt: skip
    if isinstance(rows, slice):
        return stored.slice(rows.start, rows.stop - rows.start)
    if not len(rows):
        return stored.slice(0, 0)
    return InMemoryTable(pa.table({"": stored})).fast_gather(np.asarray(rows, np.int64)).column(0)


def plain_values(column: pa.ChunkedArray) -> list[Any]:
    """Python values; a stored image is its {bytes, path}. What Python has no value for (a date far off) is a text."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):
        return column.cast(pa.string()).to_pylist()


_WHOLE = re.compile(r"-?\d+(\.0+)?")
NO_VALUE = {"", "nan", "<na>", "nat"}  # what programs write into a table for a number or a time that is not there


def missing(value: Any) -> bool:
    """Whether a cell holds nothing: null, NaN, or a text of white space alone or of `NO_VALUE`."""
    if isinstance(value, str):
        return value.strip().casefold() in NO_VALUE
    return value is None or (isinstance(value, float) and math.isnan(value))


def filled(value: Any) -> str:
    """A cell as a text; "" where it holds nothing."""
    return "" if missing(value) else str(value)


def whole_numbers(values: list[str]) -> list[str]:
    """Cells with 1.0 as 1 where all that are filled are whole numbers: a file that lacks a value writes floats, its
    neighbour integers. Other columns (1.5, 2.0; versions; words) stay as they are."""
    if not all(_WHOLE.fullmatch(value) for value in values if value):
        return values
    return [value.partition(".")[0] for value in values]


@dataclass(frozen=True)
class Problem:
    """Something wrong in the input: the file, the row (or line: `unit`) and what it is."""

    file: str
    row: int | None
    message: str
    unit: str = "row"

    def __str__(self) -> str:
        return f"{self.file}{'' if self.row is None else f', {self.unit} {self.row}'}: {self.message}"


@dataclass
class Raw:
    """A readable table. `fingerprint` changes with any input; `base` is the folder of relative image paths.

    `roles` and `reasons` are those that the format itself fixes. `row_column` holds the number of each row as a
    reader of the file counts (lines), where it is not 0, 1, 2..., and `row_file` the file of the rows where `path` is a
    folder of several; `file_column` the file of each row, where each has its own; `shard_column` the table of each row,
    where several are read as one (paths below `base`). `corpus` and `corpus_keys` hold the documents of a gallery per
    role; `query_column` and `grade_column` the id of the query and the relevance of each row, where pairs were judged;
    `splits` the hidden domains of each further split; `only_tested` the roles that training rows lack
    (`nearfar.sources.tested`). `given`: of data that were given in memory what a run records of them (object, rows,
    features, fingerprint); None where a path or a name leads to them. `order`: the rows of the table below that such
    data were, where they are a choice of them (`Dataset.select`).
    """

    name: str
    path: Path | None
    kind: str
    table: Dataset
    fingerprint: str
    base: Path | None = None
    roles: dict[str, str | list[str]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    row_column: str | None = None
    row_file: Path | None = None
    file_column: str | None = None
    shard_column: str | None = None
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    corpus: dict[str, list[str]] = field(default_factory=dict)
    corpus_keys: dict[str, list[str]] = field(default_factory=dict)
    query_column: str | None = None
    grade_column: str | None = None
    splits: dict[str, list[str]] = field(default_factory=dict)
    only_tested: frozenset[str] = frozenset()
    meta: dict = field(default_factory=dict)
    fit: str = "crop"
    given: dict[str, Any] | None = None
    order: np.ndarray | None = None
