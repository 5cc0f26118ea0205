"""What a reader hands over, before roles, checks and splits."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset


def missing(value: Any) -> bool:
    """Whether a cell holds nothing: null, NaN, or a text of white space alone."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or (
        isinstance(value, str) and not value.strip()
    )


def filled(value: Any) -> str:
    """A cell as a text; "" where it holds nothing."""
    return "" if missing(value) else str(value)


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
    reader of the file counts (lines), where it is not 0, 1, 2...; `file_column` the file of each row, where each has
    its own; `shard_column` the table of each row, where several are read as one (paths below `base`). `corpus` and `corpus_keys` hold further documents per role; `splits` the hidden domains of each further
    split.
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
    file_column: str | None = None
    shard_column: str | None = None
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    corpus: dict[str, list[str]] = field(default_factory=dict)
    corpus_keys: dict[str, list[str]] = field(default_factory=dict)
    splits: dict[str, list[str]] = field(default_factory=dict)
    meta: dict = field(default_factory=dict)
    fit: str = "crop"
