"""One pass over all rows: is every picture readable, is every text filled, and what digest has each one's content?"""

import hashlib
import io
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image

from nearfar.errors import InputError
from nearfar.progress import track
from nearfar.sources import masks, pictures, words
from nearfar.sources.files import identity
from nearfar.sources.raw import Problem, Raw, column_of, plain_values
from nearfar.sources.storage import entry, entry_bytes, new_entry

BATCH = 512
_PARTS = ("digests", "hashes", "sizes", "stamps", "classes", "spans")
_SETTLED = 20_000_000  # nanoseconds after which another change of a file gets another time
VERSION = "3"  # raise when digests change meaning: stored scans of another version are not read


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row: its number, the column and the message, without any path. `names_picture`: a path in
    that column belongs in front of the message."""

    row: int
    column: str
    message: str
    names_picture: bool = False


@dataclass
class Scan:
    """Per column: digests of the content, int64 (N,), of any sign; for pictures also difference hashes (uint64), width,
    height (N, 2) and which values were made black and white (N, 2), NaN where the file says so; for texts the number
    of words; for masks which values occur, as bits (N, 32), all 0 for a row without a mask. `stamps` tell whether a
    picture's file changed. `bad`: rows with a fault; `problem` words it."""

    digests: dict[str, np.ndarray] = field(default_factory=dict)
    hashes: dict[str, np.ndarray] = field(default_factory=dict)
    sizes: dict[str, np.ndarray] = field(default_factory=dict)
    stamps: dict[str, np.ndarray] = field(default_factory=dict)
    classes: dict[str, np.ndarray] = field(default_factory=dict)
    spans: dict[str, np.ndarray] = field(default_factory=dict)
    bad: list[Fault] = field(default_factory=list)

    def take(self, rows: np.ndarray) -> "Scan":
        """The same for some of the rows; problems are left out."""
        result = Scan()
        for part in _PARTS:
            setattr(result, part, {key: values[rows] for key, values in getattr(self, part).items()})
        return result


def picture_source(value: Any, base: Path | None) -> bytes | Path:
    """The bytes or the path that an image cell holds. Raises Unreadable for an empty cell."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if value is None or value in ("", b""):
        raise pictures.Unreadable("there is no picture: the cell is empty")
    if isinstance(value, bytes):
        return value
    return (base or Path()) / str(value)


def cells(table: Dataset, column: str, size: int = BATCH) -> Iterator[list[Any]]:
    """The values of a column in order, in lists of at most `size`; only one list is in memory."""
    for start in range(0, len(table), size):
        yield plain_values(column_of(table, column, slice(start, min(start + size, len(table)))))


def in_chunks(
    pool: ThreadPoolExecutor, function: Callable[[Any], Any], values: Sequence[Any], size: int = 32
) -> Iterator[Any]:
    """`pool.map` that hands over several small tasks at a time: the threads would spend more time on changing
    places."""
    parts = [values[start : start + size] for start in range(0, len(values), size)]
    for results in pool.map(lambda part: [function(value) for value in part], parts):
        yield from results


def scan(raw: Raw, images: list[str], texts: list[str], cache: Path, mask: tuple[str, str] | None = None) -> Scan:
    """Reads a stored scan of the same input, or makes and stores it. mask: its column, and that of its pictures."""
    stamps = {column: _stamps(raw, column) for column in [*images, *(mask or ())[:1]]}
    parts = [VERSION, raw.fingerprint, *images, "|", *texts, *(["mask", *mask] if mask else [])]
    state = hashlib.sha256("\0".join(parts).encode())
    for stamp in stamps.values():
        state.update(stamp.tobytes())
    name = state.hexdigest()[:32]
    path = cache / "scans" / f"{name}.npz"
    if entry(path):
        stored = _load(path)
        if stored is not None:
            return stored
    result = Scan(stamps=stamps)
    for column in images:
        _scan_images(raw, column, result)
    for column in texts:
        _scan_texts(raw, column, result)
    if mask:
        _scan_masks(raw, *mask, result)
    result.bad.sort(key=lambda fault: fault.row)
    _store(path, result)
    return result


def cell(table: Dataset, column: str, row: int) -> Any:
    """One raw cell. No other column is read, and nothing is decoded."""
    return plain_values(column_of(table, column, slice(row, row + 1)))[0]


def place(raw: Raw, row: int) -> tuple[str, int, str]:
    """The file of a row, its number as a reader of the file counts, and what is counted: a line or a row."""
    file = raw.path or raw.name
    if raw.shard_column and raw.base is not None:
        file = raw.base / cell(raw.table, raw.shard_column, row)
    number = int(cell(raw.table, raw.row_column, row)) if raw.row_column else row
    return str(file), number, "line" if raw.row_column else "row"


def problem(raw: Raw, fault: Fault) -> Problem:
    """A fault in words, with the paths of the data at hand."""
    try:
        source = picture_source(cell(raw.table, fault.column, fault.row), raw.base) if fault.names_picture else b""
    except pictures.Unreadable:
        source = b""
    path = "" if isinstance(source, bytes) else str(source)
    if raw.file_column:
        message = fault.message.replace("{}", f" {path}" if path else "")
        return Problem(str((raw.base or Path()) / cell(raw.table, raw.file_column, fault.row)), None, message)
    file, number, unit = place(raw, fault.row)
    where = f" ({path})" if path and "{}" not in fault.message else ""
    message = fault.message.replace("{}", f" {path}" if path else "")
    return Problem(file, number, f"column '{fault.column}'{where}: {message}", unit)


def stamp(value: Any, base: Path | None) -> int:
    """An int64 that tells a picture's file and its state from all others; 0 for stored bytes and for files that are
    not there."""
    return _stamp(value, base)[0]


def _stamp(value: Any, base: Path | None) -> tuple[int, int]:
    """The stamp, and the time of the file's last change in nanoseconds."""
    if isinstance(value, bytes) or not value:
        return 0, 0
    try:
        source = picture_source(value, base)
        found = () if isinstance(source, bytes) else identity(source)
    except (OSError, ValueError, pictures.Unreadable):
        return 0, 0
    if not found:
        return 0, 0
    digest = hashlib.blake2b(repr(found).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True), found[-1]


def _stamps(raw: Raw, column: str) -> np.ndarray:
    """The stamps of all rows. Waits until the latest change is a little past: a later one has another time then."""
    found = [_stamp(value, raw.base) for block in cells(raw.table, column) for value in block]
    age = time.time_ns() - max((changed for _, changed in found), default=0)
    if 0 <= age < _SETTLED:
        time.sleep((_SETTLED - age) / 1e9)
    return np.array([one for one, _ in found], np.int64)


@dataclass(frozen=True)
class _Look:
    """A picture's content id, difference hash, width and height, and the extent of one of 32 bits or floats."""

    content: int
    hash: int
    size: tuple[int, int]
    extent: pictures.Extent | None


def _look(value: Any, base: Path | None, span: pictures.Span | None = None) -> _Look | str:
    """What is found in a picture, or what is wrong with it."""
    try:
        picture, extent = pictures.read(picture_source(value, base), span)
    except pictures.Unreadable as error:
        return str(error)
    return _Look(pictures.pixel_digest(picture), pictures.difference_hash(picture), picture.size, extent)


def _scan_images(raw: Raw, column: str, result: Scan) -> None:
    rows = len(raw.table)
    digests, hashes = np.zeros(rows, np.int64), np.zeros(rows, np.uint64)
    sizes, spans = np.zeros((rows, 2), np.int32), np.full((rows, 2), np.nan)
    extents: dict[int, pictures.Extent] = {}

    def keep(row: int, found: _Look) -> None:
        digests[row], hashes[row], sizes[row] = found.content, found.hash, found.size

    row = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, track(f"checking {column}", rows) as advance:
        for block in cells(raw.table, column):
            for found in in_chunks(pool, lambda value: _look(value, raw.base), block):
                if isinstance(found, str):
                    result.bad.append(Fault(row, column, found, names_picture=True))
                else:
                    keep(row, found)
                    if found.extent is not None:
                        extents[row] = found.extent
                row += 1
            advance(len(block))
    for row, span in _common_spans(extents).items():
        spans[row] = span
        if span != pictures.span_of(extents[row]):
            found = _look(cell(raw.table, column, row), raw.base, span)
            if isinstance(found, _Look):
                keep(row, found)
    result.digests[column], result.hashes[column], result.sizes[column] = digests, hashes, sizes
    result.spans[column] = spans


def _common_spans(extents: dict[int, pictures.Extent]) -> dict[int, pictures.Span]:
    """One span for all float pictures and one for all of 32-bit whole numbers, from their extent together; one picture
    in a hundred may lie outside."""
    spans: dict[int, pictures.Span] = {}
    for floats in (False, True):
        rows = [row for row, extent in extents.items() if extent.floats == floats]
        if rows:
            low = np.quantile([extents[row].low for row in rows], 0.01, method="lower")
            high = np.quantile([extents[row].high for row in rows], 0.99, method="higher")
            span = pictures.span_of(pictures.Extent(floats, float(low), float(high)))
            spans |= dict.fromkeys(rows, span)
    return spans


def _look_at_mask(value: Any, base: Path | None) -> tuple[int, np.ndarray, int, int] | str | None:
    """Digest, values, width and height; what is wrong; or None for an empty cell."""
    if value is None or value in ("", b""):
        return None
    try:
        mask = masks.decode(picture_source(value, base))
    except pictures.Unreadable as error:
        return f"its mask{{}}: {error}"
    return pictures.pixel_digest(Image.fromarray(mask)), masks.pack(mask), *mask.shape[::-1]


def _scan_masks(raw: Raw, column: str, pictures_of: str, result: Scan) -> None:
    rows = len(raw.table)
    digests, bits = np.zeros(rows, np.int64), np.zeros((rows, 32), np.uint8)
    wrong = {fault.row for fault in result.bad}
    row = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, track(f"checking {column}", rows) as advance:
        for block in cells(raw.table, column):
            for found in in_chunks(pool, lambda value: _look_at_mask(value, raw.base), block):
                width, height = result.sizes[pictures_of][row].tolist()
                if isinstance(found, str):
                    result.bad.append(Fault(row, column, found, names_picture=True))
                elif found is not None:
                    digests[row], bits[row] = found[:2]
                    if found[2:] != (width, height) and row not in wrong:
                        told = f"its mask{{}} has {found[2]} x {found[3]} pixels, the picture {width} x {height}"
                        result.bad.append(Fault(row, column, told, names_picture=True))
                row += 1
            advance(len(block))
    result.digests[column], result.classes[column] = digests, bits


def _scan_texts(raw: Raw, column: str, result: Scan) -> None:
    rows = len(raw.table)
    digests, sizes = np.zeros(rows, np.int64), np.zeros(rows, np.int32)
    optional = column in (raw.roles.get("negative") or [])
    row = 0
    with track(f"checking {column}", rows) as advance:
        for block in cells(raw.table, column, 8 * BATCH):
            for value in block:
                if value is not None and not isinstance(value, str):
                    kind = type(value).__name__
                    raise InputError(
                        f"{raw.path or raw.name}: column '{column}' holds {kind}, not texts.", "Name another column."
                    )
                text = value or ""
                if not text.strip() and not optional:
                    result.bad.append(Fault(row, column, "the text is empty"))
                digests[row], sizes[row] = words.text_digest(text), len(text.split())
                row += 1
            advance(len(block))
    result.digests[column], result.sizes[column] = digests, sizes


def _store(path: Path, result: Scan) -> None:
    arrays = {f"{part}/{key}": value for part in _PARTS for key, value in getattr(result, part).items()}
    bad = [(str(f.row), f.column, f.message, "1" if f.names_picture else "") for f in result.bad]
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
                    getattr(result, part)[column] = stored[key]
            for row, column, message, names_picture in stored["bad"]:
                result.bad.append(Fault(int(row), str(column), str(message), bool(names_picture)))
    except (OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile):
        return None
    return result
