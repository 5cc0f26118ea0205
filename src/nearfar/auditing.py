"""What is odd in data, row by row and without a model: duplicates, near copies, outliers, unlike labels, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar import files, tabular
from nearfar.evaluation import issues
from nearfar.sources import scan
from nearfar.sources.describing import COMPARED, distinct_rows, near_pairs, split_of
from nearfar.vectors import normalise

if TYPE_CHECKING:
    from nearfar.sources.data import Data

KINDS = ("duplicate", "near copy", "outlier", "unlike label")


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    row, key, file, line: which row; line: as a reader of the file counts, None where the row is a file of its own;
    role: whose item; what: one of KINDS; other: the key of the row that it is odd beside; value: see docs/data.md;
    detail: the splits of both, or both labels.
    """

    row: int
    key: str
    file: str
    line: int | None
    role: str
    what: str
    other: str
    value: float
    detail: str


@dataclass(frozen=True)
class Audit:
    """`findings` in the order of the roles and of KINDS; `expected`: how many chance alone would give, by role and
    kind, summed over the columns of labels; `looked_at`: rows of each role that were compared with each other."""

    findings: list[Finding]
    expected: dict[tuple[str, str], float]
    looked_at: dict[str, int]

    def counts(self) -> dict[tuple[str, str], int]:
        """Findings by role and kind."""
        found = Counter((one.role, one.what) for one in self.findings)
        return {(role, what): found[role, what] for role in self.looked_at for what in KINDS}

    def to_dict(self) -> list[dict[str, Any]]:
        """Role, kind, number of findings, and how many chance alone would give."""
        return [{"role": role, "what": what, "found": count, "expected": self.expected.get((role, what))}
                for (role, what), count in self.counts().items()]  # fmt: skip

    def write(self, out: str | Path) -> Path:
        """The table as FILE.csv, .tsv, .jsonl or .parquet, whole or not at all."""
        names = [one.name for one in fields(Finding)]
        with files.writing(Path(out)):
            tabular.write_table(Path(out), {name: [getattr(one, name) for one in self.findings] for name in names})
        return Path(out)


def audit(data: Data) -> Audit:
    """All that is odd in the contents of data.

    Duplicates are rows whose content stands in an earlier row. The other kinds are looked for among the first 20,000
    different contents: near copies by difference hashes (images) or word triples (texts), of other kinds by the
    nearest row; outliers and unlike labels by the ten nearest in features that need no training (HOG, TF-IDF, the
    numbers themselves).
    """
    found: list[Finding] = []
    expected: dict[tuple[str, str], float] = {}
    looked_at: dict[str, int] = {}
    for role in data.content_roles:
        rows = distinct_rows(data, role)[:COMPARED]
        looked_at[role] = len(rows)
        teller = Teller(data, role)
        found += teller.duplicates()
        embed = data.modality(role).raw_features(data, role)
        z = None if embed is None or len(rows) < 3 else normalise(embed(role, rows), "raw features")
        near = None if z is None else issues.neighbours(z)
        found += teller.near_copies(rows, z, near)
        if near is not None:
            odd = issues.issues_of(near, labels={name: codes[rows] for name, codes in data.labels.items()})
            found += teller.outliers(rows, odd)
            found += teller.unlike_labels(rows, odd)
            expected[role, "outlier"] = odd.expected["outlier"]
            if data.labels:
                expected[role, "unlike label"] = sum(odd.expected[name] for name in data.labels)
    return Audit(found, expected, looked_at)


class Teller:
    """Findings of one role, in words."""

    def __init__(self, data: Data, role: str):
        self.data, self.role, self.split = data, role, split_of(data)
        self.names = [*data.splits, "none"]

    def finding(self, row: int, what: str, other: int | None, value: float, detail: str | None = None) -> Finding:
        file, line = self.place(row)
        if detail is None:
            ends = [self.names[self.split[one]] for one in (row, other) if one is not None]
            detail = ends[0] if len(set(ends)) == 1 else " ~ ".join(ends)
        beside = "" if other is None else self.data.keys[other]
        return Finding(row, self.data.keys[row], file, line, self.role, what, beside, round(float(value), 4), detail)

    def place(self, row: int) -> tuple[str, int | None]:
        """The file of a row, and its line in it, or its number where it is no file of lines."""
        raw = self.data._raw
        if raw.file_column:
            return str((self.data.base or Path()) / str(scan.cell(raw.table, raw.file_column, row))), None
        file, number, _ = scan.place(raw, row)
        return file, number

    def duplicates(self) -> list[Finding]:
        """Rows whose content stands in an earlier row. Value: 1."""
        first = issues.duplicates(self.data.content(self.role))
        return [self.finding(int(row), "duplicate", int(first[row]), 1.0) for row in np.flatnonzero(first >= 0)]

    def near_copies(self, rows: np.ndarray, z: Any, near: Any) -> Iterator[Finding]:
        """Value: the cosine of the raw features, NaN without any."""
        if self.data.modality(self.role).has_near_copies:
            places = {int(row): k for k, row in enumerate(rows)}
            for a, b in sorted((max(pair), min(pair)) for pair in near_pairs(self.data, self.role, rows)):
                yield self.finding(a, "near copy", b, np.nan if z is None else z[places[a]] @ z[places[b]])
        elif near is not None:
            groups = self.data.groups
            for at in np.flatnonzero(issues.near_copies(near)):
                a, b = int(rows[at]), int(rows[near.indices[at, 0]])
                if groups is None or groups[a] != groups[b]:
                    yield self.finding(a, "near copy", b, near.scores[at, 0])

    def outliers(self, rows: np.ndarray, odd: issues.Issues) -> Iterator[Finding]:
        """The farthest first, beside the nearest row. Value: the mean distance to the neighbours."""
        for at in np.argsort(-odd.isolation, kind="stable"):
            if odd.outlier[at]:
                nearest = int(rows[odd.near.indices[at, 0]])
                yield self.finding(int(rows[at]), "outlier", nearest, float(odd.isolation[at]))

    def unlike_labels(self, rows: np.ndarray, odd: issues.Issues) -> Iterator[Finding]:
        """The surest first, beside the nearest row of the other label. Value: the share of the neighbours that have
        it."""
        for name, (other, share) in odd.unlike.items():
            codes, names = self.data.labels[name], self.data.label_names[name]
            for at in np.argsort(-share, kind="stable"):
                if other[at] < 0:
                    continue
                around = rows[odd.near.indices[at]]
                beside = next(int(row) for row in around if codes[row] == other[at])
                own = names[codes[rows[at]]]
                yield self.finding(int(rows[at]), "unlike label", beside, float(share[at]),
                                   f"{name}: {own}, around it {names[other[at]]}")  # fmt: skip
