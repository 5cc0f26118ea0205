"""Files of the .ts format of aeon and sktime: a header of @ lines, then a series a line, channels between colons, the
class or the target last.

    @univariate false
    @dimensions 2
    @equalLength true
    @classLabel true low high
    @data
    0.1,0.2,?:1,2,3:high
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nearfar.errors import InputError
from nearfar.sources.raw import Problem, Raw
from nearfar.sources.series import list_batches
from nearfar.sources.tables import LINE, SHARD, file_digest, raw_table, stored, text_file
from nearfar.sources.times import stamps

_HALF = re.compile(r"(.+)_(train|test)", re.IGNORECASE)
_STAMPED = re.compile(r"\(([^(),]*),([^(),]*)\)")
_FORMAT = "A series is a line such as 0.1,0.2:1,2:CLASS. Mend the file, or leave such rows out with --unreadable skip."
Line = tuple[int, list[np.ndarray], str]


class Wrong(Exception):
    """What is wrong with a line, in words."""


@dataclass
class Header:
    """What the @ lines say; None where they are silent. classes: the names that they list."""

    said: dict[str, str] = field(default_factory=dict)
    line: int = 0

    def flag(self, name: str) -> bool | None:
        words = self.said.get(name, "").casefold().split()
        return None if not words else words[0] == "true"

    def number(self, *names: str) -> int | None:
        found = next((self.said[name] for name in names if self.said.get(name, "").isdigit()), None)
        return None if found is None else int(found)

    @property
    def channels(self) -> int | None:
        return 1 if self.flag("univariate") else self.number("dimensions", "dimension")

    @property
    def classes(self) -> list[str]:
        return self.said.get("classlabel", "").split()[1:]

    @property
    def last(self) -> str | None:
        """What stands behind the channels of each line: "label", "target" or nothing."""
        return "label" if self.flag("classlabel") else "target" if self.flag("targetlabel") else None


@dataclass
class Found:
    """The series of one file, and what is wrong or worth telling."""

    path: Path
    lines: list[Line]
    header: Header
    problems: list[Problem]
    notes: list[str]


def read_ts(path: Path, cache: Path, skip: bool) -> Raw:
    """One .ts file; X_TRAIN.ts and X_TEST.ts of one folder are read together, and give the splits."""
    half = _HALF.fullmatch(path.stem)
    files = [path]
    if half:
        others = [p for p in sorted(path.parent.iterdir()) if p.suffix.casefold() == ".ts"]
        files = [p for p in others if (m := _HALF.fullmatch(p.stem)) and m[1] == half[1]]
    return _joined(path.parent if len(files) > 1 else path, files, cache, skip)


def read_ts_folder(path: Path, names: Sequence[str], cache: Path, skip: bool) -> Raw:
    """The .ts files of a folder. Raises InputError where they are of several data sets."""
    files = [path / name for name in sorted(names)]
    sets = {m[1] if (m := _HALF.fullmatch(p.stem)) else p.stem for p in files}
    if len(sets) > 1:
        raise InputError(f"{path} holds the series of {len(sets)} data sets: {', '.join(sorted(sets)[:5])}.",
                         f"Give one file of them: {files[0]}.")  # fmt: skip
    return _joined(path, files, cache, skip)


def _joined(path: Path, files: Sequence[Path], cache: Path, skip: bool) -> Raw:
    found = [_read(file, skip) for file in files]
    counts = {len(channels) for one in found for _, channels, _ in one.lines}
    if not counts:
        raise InputError(f"{files[0]} holds no series.", _FORMAT)
    if len(counts) > 1:
        shown = " and ".join(map(str, sorted(counts)))
        raise InputError(f"{path}: the files hold series of {shown} channels.", _FORMAT)
    names = [f"channel_{i}" for i in range(counts.pop())]
    fingerprint = "+".join(file_digest(file) for file in files)
    channels: dict[str, Any] = {name: [one[i] for part in found for _, one, _ in part.lines]
                                for i, name in enumerate(names)}  # fmt: skip
    last = found[0].header.last
    beside: dict[str, list[Any]] = {}
    if last:
        beside[last] = [label or None for part in found for _, _, label in part.lines]
    if len(files) > 1:
        beside["split"] = [_half(part.path) for part in found for _ in part.lines]
        beside[SHARD] = [part.path.name for part in found for _ in part.lines]
    beside[LINE] = [line for part in found for line, _, _ in part.lines]
    table = stored(cache, f"ts:{skip}:{fingerprint}", list_batches(channels, beside))
    raw = raw_table(path, ".ts file" if len(files) == 1 else ".ts files", table, fingerprint)
    raw.base = files[0].parent
    raw.shard_column = SHARD if len(files) > 1 else None
    raw.roles, raw.reasons = {"series": names}, {"series": "the channels of the file"}
    if last:
        raw.roles[last] = [last] if last == "label" else last
        raw.reasons[last] = "what stands last in each line"
    if len(files) > 1:
        raw.roles["split"], raw.reasons["split"] = "split", "the names of the files"
    raw.problems = [problem for part in found for problem in part.problems]
    raw.notes = [f"{part.path.name}: {note}" for part in found for note in part.notes]
    return raw


def _half(path: Path) -> str:
    half = _HALF.fullmatch(path.stem)
    return half[2].casefold() if half else "train"


def _read(path: Path, skip: bool) -> Found:
    with text_file(path) as file:
        lines = [(number, line.strip()) for number, line in enumerate(file, 1)]
    header = _header(path, lines)
    found = Found(path, [], header, [], [])
    for number, line in lines[header.line :]:
        if not line or line.startswith(("#", "%")):
            continue
        try:
            found.lines.append((number, *_series(line, header)))
        except Wrong as wrong:
            if not skip:
                raise InputError(f"{path}, line {number}: {wrong}.", _FORMAT) from wrong
            found.problems.append(Problem(str(path), number, str(wrong), "line"))
    found.notes = list(_lies(found))
    return found


def _header(path: Path, lines: Sequence[tuple[int, str]]) -> Header:
    header = Header()
    for number, line in lines:
        if line.startswith("@"):
            name, _, value = line[1:].partition(" ")
            if name.strip().casefold() == "data":
                header.line = number
                return header
            header.said[name.strip().casefold()] = value.strip()
        elif line and not line.startswith(("#", "%")):
            raise InputError(f"{path}, line {number}: there is no @data line before the first series.",
                             "Begin with @ lines, the last one @data. Save a plain table as .csv.")  # fmt: skip
    raise InputError(f"{path} has no @data line.", "Is it cut off? Everything behind that line is read.")


def _series(line: str, header: Header) -> tuple[list[np.ndarray], str]:
    """The channels of one line, and its class or target, "" where that is "?"."""
    parts, label = line.split(":") if not header.flag("timestamps") else _parts_with_stamps(line), ""
    if header.last:
        if header.channels is not None and len(parts) == header.channels:
            raise Wrong(f"the {header.last} is missing: there are {len(parts)} channels and nothing behind them")
        *parts, label = parts
        if not label.strip():
            raise Wrong(f"the {header.last} is missing behind the last colon (write ? where it is not known)")
        label = label.strip() if label.strip() != "?" else ""
        if header.classes and label and label not in header.classes:
            raise Wrong(f"the class '{label[:40]}' is none of those in the header ({', '.join(header.classes[:8])})")
    if header.channels is not None and len(parts) != header.channels:
        raise Wrong(f"there are {len(parts)} channels, the header says {header.channels}")
    read = _stamped if header.flag("timestamps") else _plain
    channels = [read(part, place) for place, part in enumerate(parts)]
    lengths = [len(one) for one in channels]
    if len(set(lengths)) > 1:
        raise Wrong(f"its channels have {' and '.join(map(str, sorted(set(lengths))))} steps")
    if not lengths or not any(np.isfinite(one).any() for one in channels):
        raise Wrong("the series is empty: it holds no value")
    return channels, label


def _parts_with_stamps(line: str) -> list[str]:
    """The channels, whose stamps may hold colons, and what stands behind them."""
    return re.split(r":(?![^(]*\))", line)


def _numbers(words: Sequence[str], place: int) -> np.ndarray:
    out = np.full(len(words), np.nan)
    for step, word in enumerate(word.strip() for word in words):
        if word in ("?", "") or word.casefold() == "nan":
            continue
        try:
            out[step] = float(word)
        except ValueError:
            raise Wrong(f"channel {place}, step {step}: '{word[:40]}' is not a number") from None
    return out


def _plain(part: str, place: int) -> np.ndarray:
    return _numbers(part.split(","), place) if part.strip() else np.zeros(0)


def _stamped(part: str, place: int) -> np.ndarray:
    """Values in the order of their stamps."""
    found = _STAMPED.findall(part)
    if not found:
        raise Wrong(f"channel {place}: the header says that there are stamps, and there is none such as (0,1.5)")
    try:
        times, values = stamps([time for time, _ in found]), _numbers([value for _, value in found], place)
    except ValueError as error:
        raise Wrong(f"channel {place}: the stamp {error}") from None
    if np.isnan(times).any():
        raise Wrong(f"channel {place}: '{found[int(np.isnan(times).argmax())][0][:40]}' is not a time")
    order = np.argsort(times, kind="stable")
    if (np.diff(times[order]) == 0).any():
        raise Wrong(f"channel {place}: two values have one time")
    return values[order]


def _lies(found: Found) -> Iterator[str]:
    """Where the header says something else than the series."""
    header, lengths = found.header, [len(channels[0]) for _, channels, _ in found.lines]
    if not lengths:
        return
    least, most = min(lengths), max(lengths)
    wanted = header.number("serieslength")
    if header.flag("equallength") and least < most:
        yield f"the header says that all series are of equal length; they have {least} to {most} steps"
    elif header.flag("equallength") and wanted is not None and wanted != most:
        yield f"the header says {wanted} steps; the series have {most}"
    if header.flag("missing") is False:
        holes = sum(any(np.isnan(one).any() for one in channels) for _, channels, _ in found.lines)
        if holes:
            yield f"the header says that no value is missing; some are in {holes:,} series"
    if header.flag("univariate") is False and len(found.lines[0][1]) == 1:
        yield "the header says that there are several channels; there is one"
