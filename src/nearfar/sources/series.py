"""Time series: lists in columns, columns of steps, arrays in .npz; long tables (`stamped`) and .ts files (`ts_files`)
become tables with a list column a channel, of which these are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nearfar import modalities
from nearfar.errors import InputError
from nearfar.limits import MOST_COLUMNS
from nearfar.modalities.vector import cell_numbers, no_number
from nearfar.modality import digest
from nearfar.progress import track
from nearfar.sources.matrices import arrays_of, column_of_numbers, labelled_arrays
from nearfar.sources.raw import Raw, missing
from nearfar.sources.scan import BATCH, Fault, Scan, cells
from nearfar.sources.tables import check_names, file_digest, raw_table, stored

MOST_VALUES = 1 << 28  # with the padding of shorter series
SOURCE, START = "__source__", "__start__"
"""Columns of windows: which long series each was cut from, and at which step it begins."""


def scan_series(raw: Raw, columns: Sequence[str], key: str, found: Scan) -> None:
    """The series of some columns together, one a row: a channel each where cells are lists, else a step each.

    Parts of the scan under `key`: values float32 (N, T, C), NaN for a missing value and behind the end of a series;
    sizes, the steps of each. Faults: what is no number, channels of unlike lengths, a series without any value.
    """
    if len(columns) > MOST_COLUMNS:
        raise InputError(f"{raw.path or raw.name}: {len(columns)} columns of a series; at most {MOST_COLUMNS}.")
    rows = len(raw.table)
    with track(f"checking {key[:40]}", rows) as advance:
        if any(holds_lists(raw, column) for column in columns):
            values, lengths = _padded(raw, list(_each(raw, columns, found)), len(columns))
        else:
            wide = np.concatenate([column_of_numbers(raw, column, found) for column in columns], 1)
            values, lengths = wide[..., None], last_filled(wide[..., None])
        bad = {fault.row for fault in found.bad}
        for row in np.flatnonzero(lengths == 0).tolist():
            if row not in bad:
                found.bad.append(Fault(row, columns[0], "the series is empty: it holds no value"))
        content = modalities.get("series").content
        pairs = zip(values, lengths.tolist(), strict=True)
        found.digests[key] = np.fromiter((digest(content(row[:n])) for row, n in pairs), np.int64, rows)
        found.sizes[key], found.part("values")[key] = lengths.astype(np.int32), values
        advance(rows)


def holds_lists(raw: Raw, column: str) -> bool:
    """Whether the first filled cell of a column is a list."""
    for block in cells(raw.table, column, 64):
        for value in block:
            if not missing(value) and value != []:
                return isinstance(value, list) or (isinstance(value, str) and value.strip().startswith("["))
    return False


def last_filled(values: np.ndarray) -> np.ndarray:
    """The steps of each series (N, T, C) up to its last value, (N,)."""
    there: np.ndarray = np.any(np.isfinite(values), axis=2)
    if not there.shape[1]:
        return np.zeros(len(there), np.int64)
    return np.where(np.any(there, axis=1), there.shape[1] - there[:, ::-1].argmax(1), 0)


def _each(raw: Raw, columns: Sequence[str], found: Scan) -> Iterator[np.ndarray]:
    """float64 (T, C) of each row, (0, C) of one with a fault."""
    empty, row = np.zeros((0, len(columns))), 0
    for block in zip(*(cells(raw.table, column, BATCH) for column in columns), strict=True):
        for values in zip(*block, strict=True):
            channels = [_channel(value) for value in values]
            fault = next((Fault(row, columns[i], one) for i, one in enumerate(channels) if isinstance(one, str)), None)
            lengths = [len(one) for one in channels]
            if fault is None and len(set(lengths)) > 1:
                odd = next(i for i, n in enumerate(lengths) if n != lengths[0])
                what = f"it has {lengths[odd]} steps, '{columns[0]}' has {lengths[0]}"
                fault = Fault(row, columns[odd], what)
            if fault is not None:
                found.bad.append(fault)
            yield empty if fault is not None else np.stack([np.asarray(one) for one in channels], 1)
            row += 1


def _channel(value: Any) -> np.ndarray | str:
    """float64 (T,) of a cell, NaN where a value is missing; what is wrong with it, in words."""
    if missing(value) or value == []:
        return np.zeros(0)
    try:
        found = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        found = None
    if isinstance(value, list) and found is not None and found.ndim == 1:
        with np.errstate(over="ignore"):
            wrong = np.flatnonzero(np.isinf(found.astype(np.float32)))
        return f"step {wrong[0]} is not a finite number" if len(wrong) else found
    if isinstance(value, list) and any(isinstance(part, list) for part in value):
        return "it holds lists of lists: write one column a channel, each cell a list of numbers"
    parts = cell_numbers(value)
    if parts is not None:
        return np.array(parts)
    inner = value if isinstance(value, list) else str(value).strip("[] ").replace(",", " ").split()
    step = next((k for k, part in enumerate(inner) if not no_number(part) and cell_numbers(part) is None), None)
    if step is None:
        return np.full(len(inner), np.nan)
    return f"step {step}, {str(inner[step])[:40]!r}, is not a finite number"


def _padded(raw: Raw, items: Sequence[np.ndarray], channels: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 (N, T, C) and the steps of each."""
    longest = max(map(len, items), default=0)
    if len(items) * longest * channels > MOST_VALUES:
        raise InputError(
            f"{raw.path or raw.name}: {len(items)} series of up to {longest} steps and {channels} channels are more "
            "than is held in memory.",
            "Cut them into windows: --series-window 512.",
        )
    out = np.full((len(items), longest, channels), np.nan, np.float32)
    for row, item in enumerate(items):
        out[row, : len(item)] = item
    lengths = last_filled(out)
    return out[:, : lengths.max(initial=0)], lengths


def list_batches(
    channels: Mapping[str, Sequence[Any]], beside: Mapping[str, Sequence[Any]]
) -> Iterator[pa.RecordBatch]:
    """A table with a list of numbers a cell for each channel, and further columns."""
    kind = pa.large_list(pa.float64())
    arrays = [pa.array([list(cell) for cell in column], kind) for column in channels.values()]
    arrays += [pa.array(list(column)) if name.startswith("__") else pa.array(list(column), pa.large_string())
               for name, column in beside.items()]  # fmt: skip
    yield from pa.table(dict(zip([*channels, *beside], arrays, strict=True))).combine_chunks().to_batches(1024)


def read_array(path: Path, cache: Path) -> Raw | None:
    """A .npz file with one array (series, steps, channels), and further arrays of a value a row, which become columns
    (y or label: the label). None where it holds no such array."""
    arrays = arrays_of(path)
    deep = [name for name, array in arrays.items() if array.ndim == 3]
    if not deep:
        return None
    if len(deep) > 1:
        raise InputError(f"{path} holds {len(deep)} arrays of series: {', '.join(deep)}.", "Save one of them alone.")
    values = arrays.pop(deep[0])
    if values.dtype.kind not in "fiub" or not values.size:
        raise InputError(f"{path} holds {values.dtype} {values.shape}, no numbers.", "Save floats or whole numbers.")
    names = [f"channel_{i}" for i in range(values.shape[2])]
    beside, roles, reasons, notes = labelled_arrays(arrays, len(values))
    check_names([*names, *beside], path)
    fingerprint = file_digest(path)
    channels: dict[str, Any] = {name: values[:, :, i].astype(np.float64) for i, name in enumerate(names)}
    text = {name: [str(value) for value in array.tolist()] for name, array in beside.items()}
    table = stored(cache, f"series:{fingerprint}", list_batches(channels, text))
    raw = raw_table(path, "array of series", table, fingerprint)
    raw.roles, raw.reasons = {"series": names, **roles}, {"series": f"the array '{deep[0]}'", **reasons}
    rows, steps, many = values.shape
    said = f"'{deep[0]}' is read as {rows:,} series of {steps} steps and {many} channels"
    if many > steps:
        said += "; if it is (series, channels, steps), save x.transpose(0, 2, 1)"
    raw.notes += [said, *notes]
    return raw
