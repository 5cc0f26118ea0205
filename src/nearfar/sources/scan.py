"""One pass over all rows: is every picture readable, is every text filled, and what digest has each one's content?"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from PIL import Image

from nearfar.errors import InputError
from nearfar.progress import track
from nearfar.sources import masks, pictures, words
from nearfar.sources.raw import Problem, Raw
from nearfar.sources.storage import whole

BATCH = 512
_PARTS = ("digests", "hashes", "sizes", "stamps", "classes")
VERSION = "2"  # raise when digests change meaning: stored scans of another version are not read


@dataclass
class Scan:
    """Per column: digests of the content, int64 (N,), of any sign; for pictures also difference hashes (uint64) and
    width, height (N, 2); for texts the number of words; for masks which values occur, as bits (N, 32), all 0 for a row
    without a mask. `stamps` tell whether a picture's file changed. `bad` lists (row, problem)."""

    digests: dict[str, np.ndarray] = field(default_factory=dict)
    hashes: dict[str, np.ndarray] = field(default_factory=dict)
    sizes: dict[str, np.ndarray] = field(default_factory=dict)
    stamps: dict[str, np.ndarray] = field(default_factory=dict)
    classes: dict[str, np.ndarray] = field(default_factory=dict)
    bad: list[tuple[int, Problem]] = field(default_factory=list)

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
    arrow = table.select_columns([column]).with_format("arrow")
    for start in range(0, len(table), size):
        block: Any = arrow[start : min(start + size, len(table))]
        yield plain_values(block.column(0))


def plain_values(column: pa.ChunkedArray) -> list[Any]:
    """Python values; a stored picture is its {bytes, path}."""
    return column.to_pylist()


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
    if path.exists():
        return _load(path)
    result = Scan(stamps=stamps)
    for column in images:
        _scan_images(raw, column, result)
    for column in texts:
        _scan_texts(raw, column, result)
    if mask:
        _scan_masks(raw, *mask, result)
    result.bad.sort(key=lambda pair: pair[0])
    _store(path, result)
    return result


def row_number(raw: Raw, row: int) -> int:
    """The number by which a reader finds a row in its file (a line where lines count)."""
    return int(raw.table[row][raw.row_column]) if raw.row_column else row


def _problem(raw: Raw, row: int, column: str, message: str, picture: Any = None) -> tuple[int, Problem]:
    if raw.file_column:
        return row, Problem(str((raw.base or Path()) / raw.table[row][raw.file_column]), None, message)
    where = f" ({picture})" if isinstance(picture, Path) else ""
    unit = "line" if raw.row_column else "row"
    return row, Problem(str(raw.path or raw.name), row_number(raw, row), f"column '{column}'{where}: {message}", unit)


def stamp(value: Any, base: Path | None) -> int:
    """An int64 of a picture file's size and time of change; 0 for stored bytes and for files that are not there."""
    if isinstance(value, bytes) or not value:
        return 0
    try:
        source = picture_source(value, base)
        found = os.stat(source) if isinstance(source, Path) else None
    except (OSError, pictures.Unreadable):
        return 0
    return hash((found.st_size, found.st_mtime_ns)) if found else 0


def _stamps(raw: Raw, column: str) -> np.ndarray:
    return np.array([stamp(value, raw.base) for block in cells(raw.table, column) for value in block], np.int64)


def _look(value: Any, base: Path | None) -> tuple[int, int, int, int] | tuple[Any, str]:
    source: Any = None
    try:
        source = picture_source(value, base)
        picture = pictures.decode(source)
    except pictures.Unreadable as error:
        return source, str(error)
    return pictures.pixel_digest(picture), pictures.difference_hash(picture), *picture.size


def _scan_images(raw: Raw, column: str, result: Scan) -> None:
    rows = len(raw.table)
    digests, hashes = np.zeros(rows, np.int64), np.zeros(rows, np.uint64)
    sizes = np.zeros((rows, 2), np.int32)
    row = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, track(f"checking {column}", rows) as advance:
        for block in cells(raw.table, column):
            for found in in_chunks(pool, lambda value: _look(value, raw.base), block):
                if len(found) == 2:
                    result.bad.append(_problem(raw, row, column, found[1], found[0]))
                else:
                    digests[row], hashes[row], sizes[row] = found[0], found[1], found[2:]
                row += 1
            advance(len(block))
    result.digests[column], result.hashes[column], result.sizes[column] = digests, hashes, sizes


def _look_at_mask(value: Any, base: Path | None) -> tuple[int, np.ndarray, int, int] | str | None:
    """Digest, values, width and height; what is wrong; or None for an empty cell."""
    if value is None or value in ("", b""):
        return None
    source: Any = None
    try:
        source = picture_source(value, base)
        mask = masks.decode(source)
    except pictures.Unreadable as error:
        return f"its mask{f' {source}' if isinstance(source, Path) else ''}: {error}"
    return pictures.pixel_digest(Image.fromarray(mask)), masks.pack(mask), *mask.shape[::-1]


def _scan_masks(raw: Raw, column: str, pictures_of: str, result: Scan) -> None:
    rows = len(raw.table)
    digests, bits = np.zeros(rows, np.int64), np.zeros((rows, 32), np.uint8)
    wrong = {row for row, _ in result.bad}
    row = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, track(f"checking {column}", rows) as advance:
        for block in cells(raw.table, column):
            for value, found in zip(block, in_chunks(pool, lambda v: _look_at_mask(v, raw.base), block), strict=True):
                width, height = result.sizes[pictures_of][row].tolist()
                if isinstance(found, str):
                    result.bad.append(_problem(raw, row, column, found))
                elif found is not None:
                    digests[row], bits[row] = found[:2]
                    if found[2:] != (width, height) and row not in wrong:
                        where = f" {value}" if isinstance(value, str) else ""
                        told = f"its mask{where} has {found[2]} x {found[3]} pixels, the picture {width} x {height}"
                        result.bad.append(_problem(raw, row, column, told))
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
                    result.bad.append(_problem(raw, row, column, "the text is empty"))
                digests[row], sizes[row] = words.text_digest(text), len(text.split())
                row += 1
            advance(len(block))
    result.digests[column], result.sizes[column] = digests, sizes


def _store(path: Path, result: Scan) -> None:
    arrays = {f"{part}/{key}": value for part in _PARTS for key, value in getattr(result, part).items()}
    bad = [(str(row), p.file, "" if p.row is None else str(p.row), p.message, p.unit) for row, p in result.bad]
    with whole(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays, bad=np.array(bad, dtype=np.str_).reshape(-1, 5))


def _load(path: Path) -> Scan:
    result = Scan()
    with np.load(path, allow_pickle=False) as stored:
        for key in stored.files:
            if key != "bad":
                part, column = key.split("/", 1)
                getattr(result, part)[column] = stored[key]
        for row, file, number, message, unit in stored["bad"]:
            result.bad.append((int(row), Problem(str(file), int(number) if number else None, str(message), str(unit))))
    return result
