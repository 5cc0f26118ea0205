"""Long tables of time series, a row a step: (series, time, values). Rows in order of time become one row a series, or
one a window of a long series, of which the earliest are for training.

    series_id,time,load,heat        ->      series_id,  load,        heat,        ...
    a,2024-01-01 00:00,1.5,20               a           [1.5, 1.7]   [20, 19]
    a,2024-01-01 01:00,1.7,19
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from nearfar.errors import InputError
from nearfar.modalities.vector import cell_numbers, mostly_numbers, no_number
from nearfar.sources.raw import Problem, Raw, filled
from nearfar.sources.roles import checked_role, listed
from nearfar.sources.scan import Fault, cells, problem
from nearfar.sources.series import SOURCE, START, holds_lists, list_batches
from nearfar.sources.times import MEND, stamps

IDS = ("series_id", "unique_id", "sequence_id")
TIMES = ("time", "timestamp", "date", "datetime", "ds")
PARTS = {"train": 0.6, "val": 0.2, "test": 0.2}  # of the windows of a long series, in order of time
Gathered = tuple[Raw, dict[str, Any], dict[str, str]]
FEWEST = 4  # series that can be trained on
UNEVEN = 1.2  # a step of time longer than so many usual ones is uneven: months are not


def gathered(raw: Raw, wanted: Mapping[str, Any], window: int | None, skip: bool) -> Gathered | None:
    """The table of series (or windows) and the roles that the user named of it; None for a table that is not long."""
    wanted = dict(wanted)
    names = [name for name in raw.table.column_names if not name.startswith("__")]
    ident = wanted.get("series_id") or next((name for name in names if name.casefold() in IDS), None)
    time = wanted.get("time") or next((name for name in names if name.casefold() in TIMES), None)
    where = str(raw.path or raw.name)
    given = listed(checked_role("series", wanted.get("series"), names, where) or [])
    fixed = raw.roles.get("series", [])
    columns = given or ([fixed] if isinstance(fixed, str) else list(fixed))
    if columns and holds_lists(raw, columns[0]):
        return None if window is None else _cut_lists(raw, wanted, columns, window)
    long = wanted.get("series_id") or window or (given and wanted.get("time")) or (ident and time)
    if fixed or not long:
        return None
    for role, column in (("series_id", ident), ("time", time)):
        if column is not None and column not in names:
            raise InputError(f"{where}: there is no column '{column}' for the role '{role}'.",
                             f"Columns: {', '.join(names)}.")  # fmt: skip
    used = {ident, time} | {c for role, value in wanted.items() if role != "series" and value
                            for c in ([value] if isinstance(value, str) else value)}  # fmt: skip
    columns = given or [name for name in names if name not in used and _numeric(raw, name)]
    if not columns and not (wanted.get("series_id") or wanted.get("time")):
        return None
    if not columns:
        raise InputError(f"{where}: no column holds the numbers of the series.",
                         "Name them: --series COLUMN,COLUMN.")  # fmt: skip
    return Long(raw, wanted, columns, ident, time, skip).table(window)


def _numeric(raw: Raw, column: str) -> bool:
    return mostly_numbers(next(cells(raw.table, column, 64), []))


class Long:
    """A long table on its way to one row a series."""

    def __init__(self, raw: Raw, wanted: dict[str, Any], columns: list[str], ident: Any, time: Any, skip: bool):
        self.raw, self.wanted, self.columns, self.ident, self.time, self.skip = raw, wanted, columns, ident, time, skip
        self.notes: list[str] = []
        self.faults: list[Fault] = []
        self.values = np.stack([self.numbers(column) for column in columns], 1)
        names = self.column(ident) if ident else ["series"] * len(raw.table)
        self.ids = np.array([filled(name) for name in names], dtype=object)
        for row in np.flatnonzero(self.ids == "").tolist():
            self.faults.append(Fault(row, str(ident), "the name of the series is empty"))
        self.times = None if time is None else self.timed(time)

    def column(self, name: str) -> list[Any]:
        return [value for block in cells(self.raw.table, name) for value in block]

    def numbers(self, column: str) -> np.ndarray:
        out = np.full(len(self.raw.table), np.nan)
        for row, value in enumerate(self.column(column)):
            if not no_number(value):
                found = cell_numbers(value)
                if found is None or len(found) != 1:
                    self.faults.append(Fault(row, column, f"{str(value)[:60]!r} is not a finite number"))
                else:
                    out[row] = found[0]
        return out

    def timed(self, column: str) -> np.ndarray:
        """Stamps in seconds or as they are; two rows of one series with one time are a fault of the second."""
        values = self.column(column)
        try:
            found = stamps(values)
        except ValueError as error:
            raise InputError(f"{self.raw.path or self.raw.name}: column '{column}': {error}.", MEND) from None
        for row in np.flatnonzero(np.isnan(found)).tolist():
            shown = filled(values[row])
            self.faults.append(Fault(row, column, f"'{shown[:40]}' is not a time" if shown else "the time is empty"))
        seen: dict[tuple[str, float], int] = {}
        for row, pair in enumerate(zip(self.ids.tolist(), found.tolist(), strict=True)):
            if pair[1] == pair[1] and seen.setdefault(pair, row) != row:
                of = f" in the series '{pair[0]}'" if self.ident else ""
                self.faults.append(Fault(row, column, f"the time '{filled(values[row])}' stands twice{of}"))
        return found

    def table(self, window: int | None) -> Gathered:
        bad = self.left_out()
        rows = [part[~bad[part]] for part in self.by_series()]
        rows = [self.ordered(part) for part in rows if len(part)]
        turned = sum(bool((np.diff(part) < 0).any()) for part in rows)
        if self.times is None:
            self.notes.append("no column of times: the rows count as steps in the order of the file")
        elif turned:
            self.notes.append(f"{turned:,} series did not stand in order of '{self.time}': they are sorted")
        self.notes += uneven([self.times[part] for part in rows] if self.times is not None else [])
        parts = [(part, 0, place) for place, part in enumerate(rows)]
        if window is not None:
            parts = self.windows(rows, window)
        elif len(rows) < FEWEST:
            steps = max(map(len, rows), default=0)
            raise InputError(
                f"{self.raw.path or self.raw.name} holds {len(rows)} series of up to {steps:,} steps; training needs "
                f"{FEWEST} at least.",
                "Cut long ones into windows: --series-window 128. Several series: name the column that tells them "
                "apart (--series-id COLUMN).",
            )
        return self.made(parts, window)

    def left_out(self) -> np.ndarray:
        """bool (N,): rows with a fault; raises for the first one unless they are to be skipped."""
        self.faults.sort(key=lambda fault: fault.row)
        if self.faults and not self.skip:
            more = f" ({len(self.faults) - 1} more like this)" if len(self.faults) > 1 else ""
            raise InputError(f"{problem(self.raw, self.faults[0])}{more}.",
                             "Mend or remove it, or leave such rows out with --unreadable skip.")  # fmt: skip
        bad = np.zeros(len(self.raw.table), bool)
        bad[[fault.row for fault in self.faults]] = True
        return bad

    def by_series(self) -> list[np.ndarray]:
        """Rows of each series, in the order in which they first occur."""
        _, first, codes = np.unique(self.ids.astype(str), return_index=True, return_inverse=True)
        order = np.argsort(first)
        return [np.flatnonzero(codes == code) for code in order]

    def ordered(self, rows: np.ndarray) -> np.ndarray:
        return rows if self.times is None else rows[np.argsort(self.times[rows], kind="stable")]

    def windows(self, rows: list[np.ndarray], window: int) -> list[tuple[np.ndarray, int, int]]:
        """Runs of `window` rows of each series from its end on, in order: rows, first step, which series."""
        made, away = [], 0
        for place, part in enumerate(rows):
            starts, rest = cut(len(part), window)
            away += rest
            made += [(part[start : start + window], start, place) for start in starts]
        parts = [one for one in made if np.isfinite(self.values[one[0]]).any()]
        bare = len(made) - len(parts)
        self.notes.append(windows_in_words(len(rows), len(parts), window, away, bare, "split" in self.wanted))
        if len(parts) < FEWEST:
            raise few_windows(self.raw, len(parts), window)
        return parts

    def made(self, parts: list[tuple[np.ndarray, int, int]], window: int | None) -> Gathered:
        kept = self.constants([rows for rows, _, _ in parts])
        if window is not None:
            counts = np.bincount([place for _, _, place in parts])
            order = np.concatenate([np.arange(n) for n in counts])
            split = [part_of(int(k), int(counts[place])) for k, (_, _, place) in zip(order, parts, strict=True)]
            kept |= {"split": split} if "split" not in self.wanted else {}
            kept["window"] = [f"{self.ids[rows[0]]}@{start}" for rows, start, _ in parts]
            kept |= {SOURCE: [place for *_, place in parts], START: [start for _, start, _ in parts]}
        if self.raw.row_column:
            lines = self.column(self.raw.row_column)
            kept[self.raw.row_column] = [lines[rows[0]] for rows, _, _ in parts]
        channels: dict[str, Any] = {
            name: [self.values[rows, i] for rows, _, _ in parts] for i, name in enumerate(self.columns)
        }
        roles = {role: value for role, value in self.wanted.items() if role not in ("series_id", "time")}
        why = {} if self.wanted.get("series") else {"series": "its columns of numbers"}
        if window is not None:
            why |= {"id": "the series and its first step", "split": "in order of time"}
            fresh: dict[str, Any] = {"id": "window", "split": "split"}
        else:
            why |= {"id": "the name of the series"}
            fresh = {"id": self.ident} if self.ident else {}
        roles, why = fresh | roles, {role: text for role, text in why.items() if role not in roles}
        roles["series"] = self.columns
        key = f"{self.raw.fingerprint}:series:{self.columns}:{self.ident}:{self.time}:{window}:{self.skip}"
        return replaced(self.raw, channels, kept, key, self.notes, window, self.problems()), roles, why

    def problems(self) -> list[Problem]:
        return [problem(self.raw, fault) for fault in self.faults]

    def constants(self, parts: list[np.ndarray]) -> dict[str, list[Any]]:
        """The other columns, where their value is the same in all steps of an item; empty where it is not. Those that
        are so in no item are left out."""
        found: dict[str, list[Any]] = {}
        asked = {c for value in self.wanted.values() if value for c in ([value] if isinstance(value, str) else value)}
        for name in self.raw.table.column_names:
            if name in self.columns or name.startswith("__"):
                continue
            values = self.column(name)
            if name == self.time:
                found[name] = [filled(values[rows[0]]) for rows in parts]
                continue
            sets = [{filled(values[row]) for row in rows} for rows in parts]
            same = [next(iter(one)) or None if len(one) == 1 else None for one in sets]
            mixed = sum(len(one) > 1 for one in sets)
            if mixed and 2 * mixed > len(parts) and name not in asked:
                continue
            if mixed:
                self.notes.append(f"'{name}' changes within {mixed:,} of {len(parts):,} series: it is empty there")
            found[name] = same
        return found


def replaced(
    raw: Raw, channels: dict[str, Any], beside: dict[str, list[Any]], key: str, notes: list[str],
    window: int | None = None, problems: Sequence[Problem] = (),
) -> Raw:  # fmt: skip
    """A table of series in the place of the table that they were read from."""
    import pyarrow as pa
    from datasets.table import InMemoryTable

    rows = pa.Table.from_batches(list(list_batches(channels, beside)))
    return dataclasses.replace(
        raw,
        table=Dataset(InMemoryTable(rows)),
        fingerprint=key,
        roles={role: column for role, column in raw.roles.items() if role in ("label", "target", "split")},
        kind=f"{raw.kind} of series",
        notes=[*raw.notes, *notes],
        problems=[*raw.problems, *problems],
        meta=raw.meta | ({} if window is None else {"window": window}),
    )


def cut(steps: int, window: int) -> tuple[list[int], int]:
    """Where windows begin that end with a series of so many steps, and the steps before the first one."""
    rest = steps % window
    return list(range(rest, steps - window + 1, window)), rest if steps >= window else steps


def part_of(place: int, count: int) -> str:
    """The split of a window, in order of time."""
    train, val = round(PARTS["train"] * count), round((PARTS["train"] + PARTS["val"]) * count)
    return "train" if place < train else "val" if place < val else "test"


def windows_in_words(series: int, windows: int, window: int, away: int, bare: int, divided: bool) -> str:
    """What was cut, in words; bare: windows without a value; divided: the splits are given."""
    shares = "/".join(f"{100 * share:.0f}" for share in PARTS.values())
    return (
        f"{series:,} series cut into {windows:,} windows of {window} steps"
        + ("" if divided else f", in order of time {shares} for training, validation and test")
        + (f"; {away:,} steps at the beginning left out" if away else "")
        + (f"; {bare:,} windows without a value left out" if bare else "")
    )


def few_windows(raw: Raw, windows: int, window: int) -> InputError:
    return InputError(
        f"{raw.path or raw.name}: only {windows} windows of {window} steps.", "Use a smaller --series-window."
    )


def uneven(times: Sequence[np.ndarray]) -> list[str]:
    """What to tell of series whose steps of time differ; they are read as if they did not."""
    found = []
    for one in times:
        gaps = np.diff(one)
        if len(gaps) and gaps.max() > UNEVEN * np.median(gaps):
            found.append((float(np.median(gaps)), float(gaps.max())))
    if not found:
        return []
    usual, most = max(found, key=lambda pair: pair[1] / pair[0])
    return [
        f"the steps of time are uneven in {len(found):,} of {len(times):,} series (usually {usual:g}, up to {most:g}, "
        "in the unit of the stamps, dates in seconds): they are read as if they were even; resample them first, or add "
        "the gap as a channel"
    ]


def _cut_lists(raw: Raw, wanted: dict[str, Any], columns: list[str], window: int) -> Gathered:
    """Windows of the series in list columns, each with the other cells of its row."""
    from nearfar.sources.scan import Scan
    from nearfar.sources.series import scan_series

    found = Scan()
    scan_series(raw, columns, "series", found)
    if found.bad:
        raise InputError(f"{problem(raw, found.bad[0])}.", "Mend or remove it.")
    values, lengths = found.part("values")["series"], found.sizes["series"]
    parts, away = [], 0
    for row, steps in enumerate(lengths.tolist()):
        starts, rest = cut(steps, window)
        away += rest
        parts += [(row, start, k, len(starts)) for k, start in enumerate(starts)]
    made = len(parts)
    parts = [one for one in parts if np.isfinite(values[one[0], one[1] : one[1] + window]).any()]
    if len(parts) < FEWEST:
        raise few_windows(raw, len(parts), window)
    channels: dict[str, Any] = {
        name: [values[row, start : start + window, i].astype(np.float64) for row, start, *_ in parts]
        for i, name in enumerate(columns)
    }
    beside: dict[str, list[Any]] = {}
    why = {"series": raw.reasons.get("series", "you named it"), "id": "its row and its first step"}
    for name in raw.table.column_names:
        if name not in columns:
            cells_ = [value for block in cells(raw.table, name) for value in block]
            beside[name] = [cells_[row] if name.startswith("__") else filled(cells_[row]) or None for row, *_ in parts]
    beside |= {SOURCE: [row for row, *_ in parts], START: [start for _, start, *_ in parts]}
    beside["window"] = [f"{row}@{start}" for row, start, *_ in parts]
    divided = "split" in raw.roles or "split" in wanted or "split" in raw.table.column_names
    if not divided:
        beside["split"] = [part_of(k, count) for _, _, k, count in parts]
        wanted["split"], why["split"] = "split", "in order of time"
    wanted["series"], wanted["id"] = columns, "window"
    told = windows_in_words(len(lengths), len(parts), window, away, made - len(parts), divided)
    return replaced(raw, channels, beside, f"{raw.fingerprint}:windows:{window}", [told], window), wanted, why
