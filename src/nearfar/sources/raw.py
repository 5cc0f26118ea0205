"""What a reader hands over, before roles, checks and splits."""

from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset


@dataclass(frozen=True)
class Problem:
    """Something wrong in the input: the file, the row (a line or a row number as `row_name` of the source counts) and what it is."""

    file: str
    row: int | None
    message: str

    def __str__(self) -> str:
        return f"{self.file}{'' if self.row is None else f', row {self.row}'}: {self.message}"


@dataclass
class Raw:
    """A readable table. `fingerprint` changes with any input; `base` is the folder of relative image paths.

    `roles` and `reasons` are those that the format itself fixes; `rows` numbers each row as a reader of the file counts (line
    numbers for text formats), None for 0, 1, 2...; `corpus` and `corpus_keys` hold further documents per role.
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
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    corpus: dict[str, list[str]] = field(default_factory=dict)
    corpus_keys: dict[str, list[str]] = field(default_factory=dict)
    splits: dict[str, list[str]] = field(default_factory=dict)
    meta: dict = field(default_factory=dict)
    fit: str = "crop"
