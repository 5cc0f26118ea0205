"""One look at every image and mask: can it be read, what is in it, and from which state of its file does that come?

Parts of a `Scan` that are kept of images: `hashes`, difference hashes (uint64); `spans`, which values were made black
and white (N, 2), NaN where the file says so; `stamps`, which tell whether a file changed. Of masks: `classes`, which
values occur, as bits (N, 32), all 0 for a row without a mask. `sizes` are width and height (N, 2).
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nearfar.progress import track
from nearfar.sources import images, masks
from nearfar.sources.listing import identity
from nearfar.sources.raw import Raw
from nearfar.sources.scan import Fault, Scan, cell, cells

ADDRESS = ("it is an address on the network, and nothing is downloaded: fetch the images first (img2dataset, say, "
           "writes shards that are read here)")  # fmt: skip
_SETTLED = 20_000_000  # nanoseconds after which another change of a file gets another time


def image_source(value: Any, base: Path | None) -> bytes | Path:
    """The bytes or the path that an image cell holds. Raises Unreadable for an empty cell."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if value is None or value in ("", b""):
        raise images.Unreadable("there is no image: the cell is empty")
    if isinstance(value, bytes):
        return value
    if str(value).startswith(("http://", "https://")):
        raise images.Unreadable(ADDRESS)
    return (base or Path()) / str(value)


def in_chunks(
    pool: ThreadPoolExecutor, function: Callable[[Any], Any], values: Sequence[Any], size: int = 32
) -> Iterator[Any]:
    """`pool.map` that hands over several small tasks at a time: the threads would spend more time on changing
    places."""
    parts = [values[start : start + size] for start in range(0, len(values), size)]
    for results in pool.map(lambda part: [function(value) for value in part], parts):
        yield from results


def stamp(value: Any, base: Path | None) -> int:
    """An int64 that tells an image's file and its state from all others; 0 for stored bytes and for files that are
    not there."""
    return _stamp(value, base)[0]


def _stamp(value: Any, base: Path | None) -> tuple[int, int]:
    """The stamp, and the time of the file's last change in nanoseconds."""
    if isinstance(value, bytes) or not value:
        return 0, 0
    try:
        source = image_source(value, base)
        found = () if isinstance(source, bytes) else identity(source)
    except (OSError, ValueError, images.Unreadable):
        return 0, 0
    if not found:
        return 0, 0
    digest = hashlib.blake2b(repr(found).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True), found[-1]


def stamps(raw: Raw, column: str) -> np.ndarray:
    """The stamps of all rows. Waits until the latest change is a little past: a later one has another time then."""
    found = [_stamp(value, raw.base) for block in cells(raw.table, column) for value in block]
    age = time.time_ns() - max((changed for _, changed in found), default=0)
    if 0 <= age < _SETTLED:
        time.sleep((_SETTLED - age) / 1e9)
    return np.array([one for one, _ in found], np.int64)


@dataclass(frozen=True)
class _Look:
    """An image's content id, difference hash, width and height, and the extent of one of 32 bits or floats."""

    content: int
    hash: int
    size: tuple[int, int]
    extent: images.Extent | None


def _look(value: Any, base: Path | None, span: images.Span | None = None) -> _Look | str:
    """What is found in an image, or what is wrong with it."""
    try:
        image, extent = images.read(image_source(value, base), span)
    except images.Unreadable as error:
        return str(error)
    return _Look(images.pixel_digest(image), images.difference_hash(image), image.size, extent)


def scan_images(raw: Raw, column: str, result: Scan, optional: bool = False) -> None:
    """Content, difference hash, width and height, and the extent of each image; optional: cells may be empty."""
    rows = len(raw.table)
    digests, hashes = np.zeros(rows, np.int64), np.zeros(rows, np.uint64)
    sizes, spans = np.zeros((rows, 2), np.int32), np.full((rows, 2), np.nan)
    extents: dict[int, images.Extent] = {}

    def look(value: Any) -> _Look | str | None:
        return None if optional and value in (None, "", b"") else _look(value, raw.base)

    def keep(row: int, found: _Look) -> None:
        digests[row], hashes[row], sizes[row] = found.content, found.hash, found.size

    row = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, track(f"checking {column}", rows) as advance:
        for block in cells(raw.table, column):
            for found in in_chunks(pool, look, block):
                if isinstance(found, str):
                    result.bad.append(Fault(row, column, found, names_file=True))
                elif found is not None:
                    keep(row, found)
                    if found.extent is not None:
                        extents[row] = found.extent
                row += 1
            advance(len(block))
    for row, span in _common_spans(extents).items():
        spans[row] = span
        if span != images.span_of(extents[row]):
            found = _look(cell(raw.table, column, row), raw.base, span)
            if isinstance(found, _Look):
                keep(row, found)
    result.digests[column], result.sizes[column] = digests, sizes
    result.part("hashes")[column], result.part("spans")[column] = hashes, spans


def _common_spans(extents: dict[int, images.Extent]) -> dict[int, images.Span]:
    """One span for all float images and one for all of 32-bit whole numbers, from their extent together; one image
    in a hundred may lie outside."""
    spans: dict[int, images.Span] = {}
    for floats in (False, True):
        rows = [row for row, extent in extents.items() if extent.floats == floats]
        if rows:
            low = np.quantile([extents[row].low for row in rows], 0.01, method="lower")
            high = np.quantile([extents[row].high for row in rows], 0.99, method="higher")
            span = images.span_of(images.Extent(floats, float(low), float(high)))
            spans |= dict.fromkeys(rows, span)
    return spans


def _look_at_mask(value: Any, base: Path | None) -> tuple[int, np.ndarray, int, int] | str | None:
    """Digest, values, width and height; what is wrong; or None for an empty cell."""
    if value is None or value in ("", b""):
        return None
    try:
        mask = masks.decode(image_source(value, base))
    except images.Unreadable as error:
        return f"its mask{{}}: {error}"
    return images.pixel_digest(Image.fromarray(mask)), masks.pack(mask), *mask.shape[::-1]


def scan_masks(raw: Raw, column: str, images_of: str, result: Scan) -> None:
    """The values and the size of each mask, which is that of its image; the images were scanned before."""
    rows = len(raw.table)
    digests, bits = np.zeros(rows, np.int64), np.zeros((rows, 32), np.uint8)
    wrong = {fault.row for fault in result.bad}
    row = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, track(f"checking {column}", rows) as advance:
        for block in cells(raw.table, column):
            for found in in_chunks(pool, lambda value: _look_at_mask(value, raw.base), block):
                width, height = result.sizes[images_of][row].tolist()
                if isinstance(found, str):
                    result.bad.append(Fault(row, column, found, names_file=True))
                elif found is not None:
                    digests[row], bits[row] = found[:2]
                    if found[2:] != (width, height) and row not in wrong:
                        fault = f"its mask{{}} has {found[2]} x {found[3]} pixels, the image {width} x {height}"
                        result.bad.append(Fault(row, column, fault, names_file=True))
                row += 1
            advance(len(block))
    result.digests[column], result.part("classes")[column] = digests, bits
