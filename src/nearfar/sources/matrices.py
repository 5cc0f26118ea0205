"""Rows of numbers: read from columns of any table, from lists in its cells, and from .npy and .npz files."""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nearfar import modalities
from nearfar.errors import InputError
from nearfar.limits import MOST_COLUMNS
from nearfar.modalities.vector import cell_numbers, no_finite_number, no_number
from nearfar.modality import digest
from nearfar.progress import track
from nearfar.sources.listing import open_regular
from nearfar.sources.raw import Raw
from nearfar.sources.scan import BATCH, Fault, Scan, cells
from nearfar.sources.tables import check_names, file_digest, raw_table, stored

COLUMN = "vector"
_LABELS = ("y", "label", "labels", "target", "targets")


def scan_numbers(raw: Raw, columns: Sequence[str], key: str, found: Scan, optional: bool = False) -> None:
    """The numbers of some columns together, one row each.

    Parts of the scan under `key`: values float32 (N, d), NaN for an empty cell; widths, how many numbers each column
    gives (N, columns), the same in every row. Faults: what is no number, lists of unlike lengths, rows without any
    number (unless optional).
    """
    if len(columns) > MOST_COLUMNS:
        raise InputError(f"{raw.path or raw.name}: {len(columns)} columns of numbers; at most {MOST_COLUMNS} are read.")
    rows, blocks, widths = len(raw.table), [], []
    with track(f"checking {len(columns)} columns" if len(columns) > 1 else f"checking {key}", rows) as advance:
        for column in columns:
            block = column_of_numbers(raw, column, found)
            blocks.append(block)
            widths.append(block.shape[1])
        values = np.concatenate(blocks, 1)
        bare, wrong = np.isnan(values).all(1), {fault.row for fault in found.bad}
        for row in np.flatnonzero(bare).tolist() if not optional else ():
            if row not in wrong:
                found.bad.append(Fault(row, columns[0], "every number of the row is empty"))
        content = modalities.get("vector").content
        found.digests[key] = np.fromiter((digest(content(row)) for row in values), np.int64, rows)
        found.sizes[key] = np.where(bare, 0, values.shape[1]).astype(np.int32)
        found.part("values")[key] = values
        found.part("widths")[key] = np.tile(np.array(widths, np.int32), (rows, 1))
        advance(rows)


def column_of_numbers(raw: Raw, column: str, found: Scan) -> np.ndarray:
    """float32 (N, width) of one column."""
    parts, row, width = [], 0, 0
    for block in cells(raw.table, column, 8 * BATCH):
        read = _plain(block)
        if read is None:
            read, faults = _each(block, row, column)
            found.bad += faults
        parts.append(read)
        width, row = max(width, read.shape[1]), row + len(block)
    for number, part in enumerate(parts):
        if part.shape[1] != width:  # nothing but empty or wrong cells in this block
            parts[number] = np.full((len(part), width), np.nan, np.float32)
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)


def _plain(block: Sequence[Any]) -> np.ndarray | None:
    """Cells that are all numbers, or all lists of numbers of one length; None for others."""
    try:
        read = np.array(block, np.float64)
    except (TypeError, ValueError):
        return None
    with np.errstate(over="ignore"):
        read = read.astype(np.float32)
    if read.ndim not in (1, 2) or not read.size or np.isinf(read).any() or np.isnan(read).any():
        return None
    return read.reshape(len(block), -1)


def _each(block: Sequence[Any], start: int, column: str) -> tuple[np.ndarray, list[Fault]]:
    """Cell after cell: the numbers, and what is wrong."""
    read = [None if no_number(value) else cell_numbers(value) for value in block]
    lengths = [len(one) for one in read if one is not None]
    width = max(set(lengths), key=lengths.count) if lengths else 1
    out, faults = np.full((len(block), width), np.nan, np.float32), []
    for place, (value, one) in enumerate(zip(block, read, strict=True)):
        if no_number(value):
            continue
        if one is None:
            faults.append(Fault(start + place, column, no_finite_number(value)))
        elif len(one) != width:
            faults.append(Fault(start + place, column, f"the list has {len(one)} numbers, the others have {width}"))
        else:
            out[place] = one
    return out, faults


def read_matrix(path: Path, cache: Path) -> Raw:
    """A .npy file with one matrix (rows, numbers), or a .npz file with one and further arrays of a value a row, which
    become columns (y or label: the label)."""
    arrays = arrays_of(path)
    matrices = [name for name, array in arrays.items() if array.ndim == 2]
    if len(matrices) != 1:
        found = ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "nothing"
        raise InputError(
            f"{path} holds {len(matrices) or 'no'} matrices of rows and numbers where there should be one: {found}.",
            "Save one array of two dimensions, a row an item: numpy.save(path, x.reshape(len(x), -1)).",
        )
    matrix = arrays.pop(matrices[0])
    if matrix.dtype.kind not in "fiub" or not matrix.size:
        raise InputError(f"{path} holds {matrix.dtype} {matrix.shape}, no numbers.", "Save floats or whole numbers.")
    beside, roles, reasons, notes = labelled_arrays(arrays, len(matrix))
    check_names([COLUMN, *beside], path)
    fingerprint = file_digest(path)
    table = stored(cache, f"matrix:{fingerprint}", _batches(matrix, beside))
    raw = raw_table(path, f"matrix of {matrix.shape[1]} numbers a row", table, fingerprint)
    raw.roles, raw.reasons = {COLUMN: [COLUMN], **roles}, {COLUMN: "the rows of the matrix", **reasons}
    raw.notes += notes
    return raw


def labelled_arrays(
    arrays: dict[str, np.ndarray], rows: int
) -> tuple[dict[str, np.ndarray], dict[str, str | list[str]], dict[str, str], list[str]]:
    """Of the arrays of a file beside its items: those with a value a row, which are columns; the role of the label
    among them and why; what to say of the others."""
    beside = {name: array for name, array in arrays.items() if array.shape == (rows,)}
    roles, reasons = {}, {}
    label = next((name for name in _LABELS if name in beside), None)
    if label is not None:
        roles["label"], reasons["label"] = [label], f"the array '{label}' of the file"
    away = [name for name in arrays if name not in beside]
    notes = [f"arrays that do not have a value a row left out: {', '.join(away)}"] if away else []
    return beside, roles, reasons, notes


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name; objects are not read, since that would run their code."""
    try:
        with open_regular(path) as file:
            found: Any = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return {COLUMN: found}
            return {name: np.asarray(found[name]) for name in found.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, PermissionError):
            raise
        what = "it holds Python objects" if "allow_pickle" in str(error) else str(error).splitlines()[0][:120]
        raise InputError(f"{path} cannot be read as arrays: {what}.", "Save it with numpy.save as numbers.") from error


def _batches(matrix: np.ndarray, beside: dict[str, np.ndarray]) -> Iterator[pa.RecordBatch]:
    width = matrix.shape[1]
    for start in range(0, len(matrix), 4096):
        some = slice(start, start + 4096)
        flat = pa.array(np.ascontiguousarray(matrix[some], np.float64).reshape(-1))
        columns = {COLUMN: pa.FixedSizeListArray.from_arrays(flat, width)}
        columns |= {name: pa.array(array[some].tolist()) for name, array in beside.items()}
        yield pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
