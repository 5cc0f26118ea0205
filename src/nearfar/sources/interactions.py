"""Who met what, and when: a table of users, items and times as histories that end before each of its rows.

    row = (user, item, time)  ->  the user's earlier items, and the item that came next

A row of training sees training rows alone, one of validation those as well, one of testing all earlier ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nearfar import modalities
from nearfar.errors import InputError
from nearfar.modality import digest
from nearfar.progress import track
from nearfar.sources.raw import Raw, filled, missing, whole_numbers
from nearfar.sources.scan import BATCH, Fault, Scan, cells
from nearfar.sources.splits import SHARES
from nearfar.sources.times import MEND as DATES
from nearfar.sources.times import stamps

if TYPE_CHECKING:
    from nearfar.sources.data import Data

USER, ITEM, TIME = "user", "item", "time"
DIVISIONS = ("leave-one-out", "by-time")
TITLES = ("title", "movie_title", "name", "item_name", "product_name", "title:token_seq", "description")
TRAIN, VAL, TEST, AWAY = 0, 1, 2, -1
PARTS = ("train", "val", "test")


def scan_interactions(raw: Raw, columns: dict[str, str], found: Scan) -> None:
    """Ids and times of every row. columns: "user", "item" and, where there is one, "time" -> column; without it the
    number of a row is its time, so that none repeats another.

    Digests: of the item its id; of the user the whole row, since what a row holds of a user is the history before it.
    Sizes: how many rows have the same user, or item.
    Faults: an empty id, a time that is neither a number nor a date.
    """
    rows = len(raw.table)
    with track("checking interactions", rows) as advance:
        ids = {role: _ids(raw, columns[role], found) for role in (USER, ITEM)}
        times = _times(raw, columns[TIME], found) if TIME in columns else np.arange(float(rows))
        advance(rows)
    whole = (f"{u}\0{i}\0{t!r}" for u, i, t in zip(ids[USER], ids[ITEM], times.tolist(), strict=True))
    for role, values in ((USER, whole), (ITEM, ids[ITEM])):
        column = columns[role]
        found.digests[column] = np.fromiter(
            (digest(v.encode("utf-8", "surrogatepass")) for v in values), np.int64, rows
        )
        codes = np.unique(np.array(ids[role], dtype=object).astype(str), return_inverse=True)[1].reshape(-1)
        found.sizes[column] = np.bincount(codes)[codes].astype(np.int32) if rows else np.zeros(0, np.int32)
    found.part("times")[columns[USER]] = times


def _ids(raw: Raw, column: str, found: Scan) -> list[str]:
    """The ids of a column as texts; 1.0 is 1 where all are whole numbers."""
    values = [filled(value).strip() for block in cells(raw.table, column, 8 * BATCH) for value in block]
    found.bad += [Fault(row, column, "the id is empty") for row, value in enumerate(values) if not value]
    return whole_numbers(values)


def _times(raw: Raw, column: str, found: Scan) -> np.ndarray:
    """float64 (N,): numbers as they are, dates in seconds."""
    values = [value for block in cells(raw.table, column, 8 * BATCH) for value in block]
    try:
        times = stamps(values)
    except ValueError as error:
        raise InputError(f"{raw.path or raw.name}: column '{column}': {error}.", DATES) from None
    for row in np.flatnonzero(np.isnan(times)).tolist():
        empty = missing(values[row])
        what = "the time is empty" if empty else f"{str(values[row])[:40]!r} is neither a number nor a date"
        found.bad.append(Fault(row, column, what))
    return np.nan_to_num(times)


@dataclass(frozen=True)
class Spans:
    """Histories as slices of one array: codes int64 (m,), and of each row where its history ends and its length."""

    codes: np.ndarray
    ends: np.ndarray
    lengths: np.ndarray

    def of(self, rows: Sequence[int] | np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """int64 (n, l): the codes of the latest items (at most `most`) before each row, in order, -1 behind them; and
        their numbers (n,)."""
        rows = np.asarray(rows, np.int64)
        lengths = np.minimum(self.lengths[rows], most)
        columns = np.arange(max(1, int(lengths.max(initial=0))))
        places = (self.ends[rows] - lengths)[:, None] + columns
        inside = columns < lengths[:, None]
        codes = self.codes if len(self.codes) else np.full(1, -1)
        return np.where(inside, codes[np.minimum(places, len(codes) - 1)], -1), lengths


class Log:
    """Interactions in the order of their times; those of one time as they stand in the table.

    users, items: int64 (N,) into `user_names`, `item_names`; times: float64 (N,); part: int8 (N,): TRAIN, VAL, TEST, or
    AWAY for copies and for users with a single interaction. first: int64 (N,), of a copy the row that it repeats, else
    the row itself. single: bool (N,): rows of users with a single interaction. seen: bool (N,): the rows of training,
    those without a history among them. known: int64, sorted: their items.
    """

    def __init__(self, data: Data):
        ids = {role: whole_numbers([filled(v).strip() for v in data.values(role)]) for role in (USER, ITEM)}
        (self.user_names, self.users), (self.item_names, self.items) = (_codes(ids[role]) for role in (USER, ITEM))
        self.times = np.asarray(data.facts("times", USER), np.float64)
        self.order = np.lexsort((np.arange(len(self.users)), self.times, self.users))
        self.first = self._copies()
        self.copies = int((self.first != np.arange(len(self.first))).sum())
        kept = self.order[self.first[self.order] == self.order]
        users, sizes = np.unique(self.users[kept], return_counts=True)
        self.single = np.isin(self.users, users[sizes == 1])
        self.part = self._parts(data, kept[~self.single[kept]])
        self.seen = self.part == TRAIN
        self.known = np.unique(self.items[self.seen])

    def _copies(self) -> np.ndarray:
        """Of each row the first one with its user, item and time."""
        rows = np.arange(len(self.users))
        order = np.lexsort((rows, self.items, self.times, self.users))
        again = np.all([np.diff(x[order]) == 0 for x in (self.users, self.items, self.times)], axis=0)
        head = np.where(np.concatenate([[False], again])[: len(rows)], 0, rows)
        first = np.empty_like(rows)
        first[order] = order[np.maximum.accumulate(head)]
        return first

    def _parts(self, data: Data, order: np.ndarray) -> np.ndarray:
        """The part of each row. order: the rows that count, by user and time."""
        part = np.full(len(self.users), AWAY, np.int8)
        if not len(order):
            raise InputError(
                f"{data.path or data.name}: no user has two interactions, so nothing has a history.",
                "Check the columns of --user and --item.",
            )
        if "split" in data.roles:
            part[order] = _given(data)[order]
        elif data.split_name == DIVISIONS[1]:
            part[order] = self._by_time(order, data)
        else:
            left = from_end(self.users[order])
            part[order] = np.where(left == 0, TEST, np.where((left == 1) & ~_firsts(self.users[order]), VAL, TRAIN))
        return part

    def _by_time(self, order: np.ndarray, data: Data) -> np.ndarray:
        """Cut where so many of the interactions lie before: 70 and 85 in a hundred."""
        if TIME not in data.roles:
            raise InputError(f"{data.path or data.name} has no column of times to be divided by.",
                             "Name it: --time COLUMN; or leave out --split by-time.")  # fmt: skip
        times = np.sort(self.times[order])
        shares = np.cumsum(list(SHARES.values()))[:-1]
        cuts = times[np.minimum((shares * len(times)).round().astype(int), len(times) - 1)]
        found = np.searchsorted(cuts, self.times[order], side="right")
        if not (found == TRAIN).any() or not (found == TEST).any():
            raise InputError(
                f"{data.path or data.name}: too many interactions share one time to be divided by it.",
                "Leave out --split by-time: then each user's last interactions are the test.",
            )
        return found

    @cached_property
    def samples(self) -> dict[str, np.ndarray]:
        """Name of a split -> its rows that have a history, sorted."""
        length = self.lengths
        return {name: np.flatnonzero((self.part == k) & (length > 0)) for k, name in enumerate(PARTS)}

    def _seen(self, part: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What rows of a part may see: the rows in order, and of every row where its user begins among them, and where
        it stands itself."""
        rows = self.order[(self.part[self.order] >= 0) & (self.part[self.order] <= part)]
        place = np.zeros(len(self.users), np.int64)
        place[rows] = np.arange(len(rows))
        starts = np.searchsorted(self.users[rows], np.arange(len(self.user_names)))
        return rows, starts[self.users], place

    @cached_property
    def spans(self) -> Spans:
        """The histories of all rows, of all items."""
        return self.spans_of(np.ones(len(self.item_names), bool))

    @property
    def lengths(self) -> np.ndarray:
        """int64 (N,): items of the history before each row, of a copy those of the row that it repeats."""
        return self.spans.lengths

    def spans_of(self, kept: np.ndarray) -> Spans:
        """The histories of all rows, of the items that are `kept` (bool, by item)."""
        flat, ends, lengths = [], np.zeros(len(self.users), np.int64), np.zeros(len(self.users), np.int64)
        before = 0
        for part in range(len(PARTS)):
            rows, start, place = self._seen(part)
            codes = self.items[rows]
            count = np.concatenate([[0], np.cumsum(kept[codes])])
            here = np.flatnonzero(self.part == part)
            ends[here] = before + count[place[here]]
            lengths[here] = count[place[here]] - count[start[here]]
            flat.append(codes[kept[codes]])
            before += len(flat[-1])
        return Spans(np.concatenate(flat), ends[self.first], lengths[self.first])

    def histories(self) -> dict[str, list[str]]:
        """User -> the names of all that is known of them, in order: what comes next is asked of the latest of it, and
        none of it is an answer."""
        counted = (self.part >= 0) | (self.single & (self.first == np.arange(len(self.first))))
        rows = self.order[counted[self.order]]
        cuts = np.flatnonzero(np.diff(self.users[rows])) + 1
        groups = np.split(rows, cuts) if len(rows) else []
        return {self.user_names[self.users[g[0]]]: [self.item_names[i] for i in self.items[g]] for g in groups}

    @cached_property
    def sources(self) -> np.ndarray:
        """int64: of each of `known` a row that holds it."""
        items, first = np.unique(self.items, return_index=True)
        return first[np.searchsorted(items, self.known)]


def _codes(values: list[str]) -> tuple[list[str], np.ndarray]:
    names, codes = np.unique(np.array(values, dtype=object).astype(str), return_inverse=True)
    return names.tolist(), codes.reshape(-1).astype(np.int64)


def from_end(users: np.ndarray) -> np.ndarray:
    """Of sorted users, how many rows of the same one follow."""
    return np.searchsorted(users, users, side="right") - 1 - np.arange(len(users))


def _firsts(users: np.ndarray) -> np.ndarray:
    return np.searchsorted(users, users) == np.arange(len(users))


def _given(data: Data) -> np.ndarray:
    """int8 (N,): the part that the split column names."""
    return np.array([PARTS.index(name) if name else AWAY for name in data.given_splits()], np.int8)


def log_of(data: Data) -> Log:
    """The interactions of some data, worked out once."""
    return data.derived(Log)


def remarks(data: Data) -> list[str]:
    """What was left out of interactions, and in which order they were brought."""
    log = log_of(data)
    notes = [
        f"{len(log.user_names):,} users, {len(log.item_names):,} items, {len(log.known):,} of them in training rows"
    ]
    if log.copies:
        notes.append(f"{log.copies:,} rows repeat a user, an item and a time: each counts once")
    if TIME not in data.roles:
        notes.append("there is no column of times: the rows count as they stand (--time COLUMN)")
    else:
        same = (np.diff(log.users[log.order]) == 0) & (np.diff(log.times[log.order]) == 0)
        same &= (log.first[log.order] == log.order)[1:]
        if same.any():
            notes.append(f"{int(same.sum()):,} interactions have the time of the user's one before: they stay in the "
                         "order of the table")  # fmt: skip
        if (np.diff(log.times) < 0).any():
            notes.append("the rows are not in the order of time: they are sorted by user and time")
    alone = len(np.unique(log.users[log.single]))
    if alone:
        notes.append(f"{alone:,} users have a single interaction: they have no history and are left out")
    bare = int(((log.part >= 0) & (log.lengths == 0)).sum())
    notes.append(f"{bare:,} interactions have no earlier one that they may see: they are context, not samples")
    unseen = [int((~np.isin(log.items[log.samples[name]], log.known)).sum()) for name in ("val", "test")]
    if any(unseen):
        notes.append(f"{unseen[0]:,} validation and {unseen[1]:,} test rows ask for an item that no training row has: "
                     "they count as missed")  # fmt: skip
    return notes


def read_inter(path: Path, cache: Path, skip: bool) -> Raw:
    """RecBole's atomic file of interactions: tab-separated, a type behind each name (user_id:token). Titles are read
    from the .item file beside it."""
    from nearfar.sources.tables import read_csv

    raw = read_csv(path, cache, skip)
    plain = {name: name.partition(":")[0] for name in raw.table.column_names}
    raw.table, raw.kind = raw.table.rename_columns(plain), "interactions of RecBole"
    held = [name for name in plain if not name.startswith("__")]
    lower = {name.casefold(): name for name in plain.values()}
    for role, names in (*modalities.of(USER).columns.items(), (TIME, ("timestamp", "time"))):
        column = next((lower[name] for name in names if name in lower), None)
        if column is not None:
            raw.roles[role], raw.reasons[role] = column, "the format says so"
    for role in (USER, ITEM):
        if role not in raw.roles:
            raise InputError(f"{path}, line 1: there is no column of {role}s ({', '.join(held)}).",
                             f"Name it {role}_id:token.")  # fmt: skip
    beside = path.with_suffix(".item")
    if beside.is_file():
        raw.meta["titles"] = read_titles(beside, cache)
    return raw


def read_titles(path: Path, cache: Path) -> dict[str, str]:
    """Id -> title, from a table of items: its columns are found by name, else they are the first and the second."""
    from nearfar.sources.tables import read_csv, read_table

    if not path.is_file():
        raise InputError(f"There is no table of items '{path}'.", "Give a csv, a parquet, or RecBole's .item file.")
    raw = read_csv(path, cache, False) if path.suffix == ".item" else read_table(path, cache, False)
    names = [] if raw is None else [name for name in raw.table.column_names if not name.startswith("__")]
    if raw is None or len(names) < 2:
        raise InputError(f"{path} is no table of items with ids and titles.", "Give a table with both columns.")
    lower = {name.partition(":")[0].casefold(): name for name in names}
    key = next((lower[name] for name in (*modalities.of(ITEM).columns[ITEM], "id") if name in lower), names[0])
    title = next((lower[name] for name in TITLES if name in lower and lower[name] != key), None)
    title = title or next(name for name in names if name != key)
    columns = [[filled(v).strip() for block in cells(raw.table, column) for v in block] for column in (key, title)]
    return dict(zip(whole_numbers(columns[0]), columns[1], strict=True))
