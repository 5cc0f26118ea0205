"""What the data say of the rows of an index: their splits, groups, labels and contents, and how an item is shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar import modalities
from nearfar.errors import NearfarError
from nearfar.indexing.appending import own_key
from nearfar.indexing.payload import CHUNK, Payload
from nearfar.progress import Say, track
from nearfar.searching import TRAINED
from nearfar.training.settings import DataSettings

if TYPE_CHECKING:
    from nearfar.indexing import Index
    from nearfar.sources.data import Data


@dataclass
class Facts:
    """Of n rows; None where nothing is known. `digests`: of the content, where `known`; `groups`: codes, -1 for none;
    `labels`: column -> names; `shown`: what kind of cell `cells` are, "image" (data-URIs) or "text"; `columns`: role ->
    column; `found`: how many rows the data have."""

    splits: list[str | None]
    digests: np.ndarray
    known: np.ndarray
    groups: np.ndarray
    labels: dict[str, list[str | None]] = field(default_factory=dict)
    cells: list[str | None] = field(default_factory=list)
    shown: str = ""
    columns: dict[str, Any] = field(default_factory=dict)
    found: int = 0

    @classmethod
    def none(cls, count: int) -> Facts:
        nothing: list[str | None] = [None] * count
        unknown = np.zeros(count, bool)
        return cls(list(nothing), np.zeros(count, np.int64), unknown, np.full(count, -1), cells=nothing)

    @property
    def contents(self) -> np.ndarray:
        """int64 (n,): equal where contents are, -1 where it is not known."""
        return np.where(self.known, np.unique(self.digests, return_inverse=True)[1].reshape(-1), -1)

    def label(self, column: str) -> tuple[np.ndarray, list[str]]:
        """Codes of a column of labels by sorted names, -1 for none."""
        names = sorted({name for name in self.labels[column] if name is not None})
        number = {name: code for code, name in enumerate(names)}
        return np.array([-1 if name is None else number[name] for name in self.labels[column]], np.int64), names


def sources_of(index: Index, rows: np.ndarray) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """Where the rows of an index come from -> which of them (places among `rows`), and how the data were opened."""
    if "_source" not in index.schema.names:
        return {}
    names = np.array(index.rows(["_source"])["_source"].to_pylist(), dtype=object)[rows]
    settings = index.meta.get("sources", {})
    return {str(name): (np.flatnonzero(names == name), settings.get(name, {})) for name in dict.fromkeys(names) if name}


def gather(
    index: Index, keys: list[str], rows: np.ndarray, data: Any, given: DataSettings, size: int, say: Say
) -> Facts:
    """The facts of the rows with these keys. data: a path, name or Data in place of those that the index names; what
    cannot be opened of these is said and left out. size: pixels a side of an image, 0 for none."""
    facts, sources = Facts.none(len(keys)), sources_of(index, rows)
    if data is not None:
        opened = given.open(data)
        for source, places in stood_for(opened, index, sources, len(keys)).items():
            add(facts, opened, source, index, keys, rows, places, size, 0)
        if not facts.found:
            say(f"warning: no row of {data} is one of {index.path}")
        return facts
    for number, (source, (places, settings)) in enumerate(sources.items()):
        if settings.get("given"):
            say(f"warning: {source} was given in memory, so the splits, groups and images of its rows are not shown; "
                f"in Python: nearfar.explore({str(index.path)!r}, data)")  # fmt: skip
            continue
        before = facts.found
        try:
            add(facts, reopened(source, settings, given), source, index, keys, rows, places, size, number)
        except NearfarError as error:
            say(f"warning: {error.message} So their splits, groups and images are not shown; name the data: "
                f"nearfar explore {index.path} DATA")  # fmt: skip
            continue
        gone = len(places) - (facts.found - before)
        if gone:
            say(f"warning: {gone:,} of {len(places):,} rows of {source} are not in it any more as they were embedded: "
                "their splits, groups and images are not shown")  # fmt: skip
    return facts


def reopened(source: str, settings: Mapping[str, Any], given: DataSettings) -> Data:
    """Data as they were opened when they were embedded, but for what is given now."""
    known = {one.name for one in dataclasses.fields(DataSettings)}
    plain = DataSettings()
    now = {name: getattr(given, name) for name in known if getattr(given, name) != getattr(plain, name)}
    return DataSettings(**{name: value for name, value in settings.items() if name in known} | now).open(source)


def role_of(index: Index, data: Data) -> str:
    return str(index.meta.get("role") or data.content_roles[0])


def stood_for(
    data: Data, index: Index, sources: Mapping[str, tuple[np.ndarray, Any]], count: int
) -> dict[str, np.ndarray]:
    """The sources whose rows the named data are, with their places: themselves, else those that are not where they
    were, else all rows."""
    own = Payload(data, role_of(index, data), None, []).source
    found = [own] if own in sources else [one for one in sources if Path(one).is_absolute() and not Path(one).exists()]
    return {one: sources[one][0] for one in found} or {"": np.arange(count)}


def met(
    data: Data, source: str, index: Index, keys: list[str], shown: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which of some places (of the shown rows of an index) are rows of the data, and which rows. Known by their keys;
    rows that have only numbers by their content, since a number moves with every line that is put in above."""
    load = Payload(data, role_of(index, data), index.meta.get("size"))
    stamps = load.stamped(index.schema, {TRAINED}) if load.named == "line" else None
    if stamps is not None:
        row_of: dict[Any, int] = {stamp: row for row, stamp in reversed(list(enumerate(stamps.tolist())))}
        held = index.rows(["_content"])["_content"].to_numpy()[shown]
        found = [row_of.get(stamp) for stamp in held[places].tolist()]
    else:
        row_of = {key: row for row, key in enumerate(load.keys(data.ids))}
        names = {data.name, Path(source).name, Path(source).stem}
        own = [[keys[place], *(own_key(keys[place], name, load.named) for name in names)] for place in places]
        found = [next((row_of[key] for key in known if key in row_of), None) for known in own]
    known = np.array([row is not None for row in found], bool)
    return places[known], np.array([row for row in found if row is not None], np.int64)


def add(
    facts: Facts,
    data: Data,
    source: str,
    index: Index,
    keys: list[str],
    shown: np.ndarray,
    places: np.ndarray,
    size: int,
    number: int,
) -> None:
    """Adds what data say of the rows at some places among those that are shown."""
    role = role_of(index, data)
    at, rows = met(data, source, index, keys, shown, places)
    facts.found += len(rows)
    facts.columns |= data.roles
    if not len(rows):
        return
    for name, part in data.splits.items():
        for place in at[np.isin(rows, part)]:
            facts.splits[place] = name
    if role in data.roles:
        facts.digests[at], facts.known[at] = data.digests(role, rows), True
        if size:
            show(facts, data, role, at, rows, size)
    if data.groups is not None:
        facts.groups[at] = (facts.groups.max() + 1 if number else 0) + data.groups[rows]
    for column, codes in data.labels.items():
        names = [*data.label_names[column], None]
        held = facts.labels.setdefault(column, [None] * len(keys))
        for place, code in zip(at, codes[rows], strict=True):
            held[place] = names[code]


def show(facts: Facts, data: Data, role: str, at: np.ndarray, rows: np.ndarray, size: int) -> None:
    """How the report shows each item, in chunks."""
    kind = modalities.of(role)
    with track(f"drawing {kind.words}", len(rows)) as advance:
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            for place, cell in zip(at[start : start + CHUNK], kind.show(data, role, kind.items(data, role, part, size),
                                                                        size), strict=True):  # fmt: skip
                facts.shown = "image" if "image" in cell else "text"
                facts.cells[place] = cell.get("image", cell.get("text"))
            advance(len(part))
