"""One pass over all rows: is every item readable, and what digest has each one's content? The kinds of data look."""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from nearfar import modalities
from nearfar.errors import InputError
from nearfar.modality import digest
from nearfar.progress import track
from nearfar.sources.raw import Problem, Raw, column_of, plain_values
from nearfar.sources.storage import entry, entry_bytes, new_entry

BATCH = 512
Columns = Mapping[str, Mapping[str, Sequence[str]]]
VERSION = "5"  # raise when digests or faults change meaning: stored scans of another version are not read


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row: its number, the column and the message, without any path. `names_file`: a path in
    that column belongs in front of the message."""

    row: int
    column: str
    message: str
    names_file: bool = False


@dataclass
class Scan:
    """What one look at all rows found. `digests`: column -> hashes of the content, int64 (N,), of any sign; `sizes`:
    column -> (N,) or (N, 2), 0 for an empty cell; further parts are those of the kinds of data, column -> (N, ...).
    `kinds`: column -> name of its kind. `bad`: rows with a fault; `problem` words it."""

    parts: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    bad: list[Fault] = field(default_factory=list)

    def part(self, name: str) -> dict[str, np.ndarray]:
        """Column -> values of one part, empty where there are none."""
        return self.parts.setdefault(name, {})

    @property
    def digests(self) -> dict[str, np.ndarray]:
        return self.part("digests")

    @property
    def sizes(self) -> dict[str, np.ndarray]:
        return self.part("sizes")

    def take(self, rows: np.ndarray) -> "Scan":
        """The same for some of the rows; problems are left out."""
        parts = {name: {key: values[rows] for key, values in part.items()} for name, part in self.parts.items()}
        return Scan(parts, dict(self.kinds))


def cells(table: Dataset, column: str, size: int = BATCH) -> Iterator[list[Any]]:
    """The values of a column in order, in lists of at most `size`; only one list is in memory."""
    for start in range(0, len(table), size):
        yield plain_values(column_of(table, column, slice(start, min(start + size, len(table)))))


def key_of(columns: str | Sequence[str]) -> str:
    """The name under which facts about a role are kept: its column, or its columns together."""
    return columns if isinstance(columns, str) else ", ".join(columns)


def scan(raw: Raw, columns: Columns, cache: Path) -> Scan:
    """Reads a stored scan of the same input, or makes and stores it. columns: name of a kind -> role -> its columns."""
    states = {name: modalities.get(name).state(raw, roles) for name, roles in columns.items()}
    parts = [VERSION, raw.fingerprint, json.dumps(columns)]
    state = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass"))
    for found in states.values():
        for column, stamp in found.items():
            state.update(column.encode() + stamp.tobytes())
    path = cache / "scans" / f"{state.hexdigest()[:32]}.npz"
    result = _load(path) if entry(path) else None
    if result is None:
        result = Scan()
        for name, roles in columns.items():
            result.part("stamps").update(states[name])
            modalities.get(name).scan(raw, roles, result)
        result.bad.sort(key=lambda fault: fault.row)
        _store(path, result)
    result.kinds = {column: name for name, roles in columns.items() for column in held_columns(name, roles)}
    return result


def held_columns(name: str, roles: Mapping[str, Sequence[str]]) -> list[str]:
    """The keys of the items among the roles of a kind; companions are none."""
    kind = modalities.get(name)
    found = []
    for role, columns in roles.items():
        if role not in kind.companions:
            found += [key_of(columns)] if kind.several and role in kind.roles else columns
    return found


def scan_cells(kind: Any, raw: Raw, column: str, result: Scan, optional: bool) -> None:
    """One column whose cells are items: the digest of what `kind.content` gives, `kind.size`, and what is wrong with a
    cell. optional: cells may be empty."""
    rows = len(raw.table)
    digests, sizes = np.zeros(rows, np.int64), np.zeros(rows, np.int32)
    row = 0
    with track(f"checking {column}", rows) as advance:
        for block in cells(raw.table, column, 8 * BATCH):
            for value in block:
                if value is not None and kind.cell is not None and not isinstance(value, kind.cell):
                    raise InputError(f"{raw.path or raw.name}: column '{column}' holds {type(value).__name__}, not "
                                     f"{kind.words}.", "Name another column.")  # fmt: skip
                empty = value is None or not str(value).strip()
                wrong = None if empty else kind.fault(value)
                if wrong or (empty and not optional):
                    result.bad.append(Fault(row, column, wrong or f"the {kind.word} is empty"))
                digests[row] = digest(kind.content("" if value is None else value))
                sizes[row] = 0 if empty else kind.size(value)
                row += 1
            advance(len(block))
    result.digests[column], result.sizes[column] = digests, sizes


def cell(table: Dataset, column: str, row: int) -> Any:
    """One raw cell. No other column is read, and nothing is decoded."""
    return plain_values(column_of(table, column, slice(row, row + 1)))[0]


def place(raw: Raw, row: int) -> tuple[str, int, str]:
    """The file of a row, its number as a reader of the file counts, and what is counted: a line or a row."""
    file = raw.row_file or raw.path or raw.name
    if raw.shard_column and raw.base is not None:
        file = raw.base / cell(raw.table, raw.shard_column, row)
    number = int(cell(raw.table, raw.row_column, row)) if raw.row_column else row
    return str(file), number, "line" if raw.row_column else "row"


def problem(raw: Raw, fault: Fault) -> Problem:
    """A fault in words, with the paths of the data at hand."""
    path = source_path(cell(raw.table, fault.column, fault.row), raw.base) if fault.names_file else ""
    if raw.file_column:
        message = fault.message.replace("{}", f" {path}" if path else "")
        return Problem(str((raw.base or Path()) / cell(raw.table, raw.file_column, fault.row)), None, message)
    file, number, unit = place(raw, fault.row)
    where = f" ({path})" if path and "{}" not in fault.message else ""
    message = fault.message.replace("{}", f" {path}" if path else "")
    return Problem(file, number, f"column '{fault.column}'{where}: {message}", unit)


def source_path(value: Any, base: Path | None) -> str:
    """The path that a cell holds, or nothing where it holds bytes or is empty."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    return "" if not value or isinstance(value, bytes) else str((base or Path()) / str(value))


def _store(path: Path, result: Scan) -> None:
    arrays = {f"{part}/{key}": value for part, found in result.parts.items() for key, value in found.items()}
    bad = [(str(f.row), f.column, f.message, "1" if f.names_file else "") for f in result.bad]
    with new_entry(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays, bad=np.array(bad, dtype=np.str_).reshape(-1, 4))


def _load(path: Path) -> Scan | None:
    """A stored scan; None where it is damaged."""
    result = Scan()
    try:
        with np.load(io.BytesIO(entry_bytes(path)), allow_pickle=False) as stored:
            for key in stored.files:
                if key != "bad":
                    part, column = key.split("/", 1)
                    result.part(part)[column] = stored[key]
            for row, column, message, names_file in stored["bad"]:
                result.bad.append(Fault(int(row), str(column), str(message), bool(names_file)))
    except (OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile):
        return None
    return result
