"""What a reader hands over, before roles, checks and splits."""

from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset


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
    its own. `corpus` and `corpus_keys` hold the documents of a gallery per role; `query_column` and `grade_column` the
    id of the query and the relevance of each row, where pairs were judged; `splits` the hidden domains of each further
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
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    corpus: dict[str, list[str]] = field(default_factory=dict)
    corpus_keys: dict[str, list[str]] = field(default_factory=dict)
    query_column: str | None = None
    grade_column: str | None = None
    splits: dict[str, list[str]] = field(default_factory=dict)
    meta: dict = field(default_factory=dict)
    fit: str = "crop"
