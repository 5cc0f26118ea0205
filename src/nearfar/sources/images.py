"""Decoding images of every mode into RGB, their fingerprints, and square arrays of them."""

import hashlib
import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from nearfar.sources.listing import NotRegular, open_regular

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")  # none of them is read by another program
_MARKS = ((b"\x89PNG", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"RIFF", "WEBP"), (b"GIF8", "GIF"))
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_STRIP = 1 << 22  # pixels that are converted at once
_LARGE = 1 << 24  # pixels from which on images are decoded one after the other: each may take a gigabyte
_one_by_one = threading.RLock()


class Unreadable(Exception):
    """An image that cannot be decoded; the message says why."""


@dataclass(frozen=True)
class Extent:
    """The least and the largest finite value of an image with more than 8 bits whose file does not say which value is
    white: whole numbers of 32 bits, or floats."""

    floats: bool
    low: float
    high: float


Span = tuple[float, float]  # the values that become black and white


def decode(source: bytes | str | Path, span: Span | None = None) -> Image.Image:
    """A file or its bytes as an RGB image: turned as its EXIF says, alpha on white, more bits scaled to 8.

    16 bits are divided by 257. For 32 bits and floats `span` says which values become black and white; None: as
    `span_of` finds from the image's own extent. Raises Unreadable.
    """
    return read(source, span)[0]


def read(source: bytes | str | Path, span: Span | None = None) -> tuple[Image.Image, Extent | None]:
    """As `decode`, with the extent of an image of 32 bits or floats."""
    with opened(source) as image:
        image.load()
        extent = extent_of(image)
        return _plain(image, extent, span), extent


def plain(image: Image.Image) -> Image.Image:
    """An image that is open already, as `decode` gives its file. Raises Unreadable."""
    try:
        image.load()
        return _plain(image, extent_of(image), None)
    except Exception as error:
        raise Unreadable(_damage(error)) from None


def _plain(image: Image.Image, extent: Extent | None, span: Span | None) -> Image.Image:
    turn = _turn(image)
    found = rgb(image, (span or span_of(extent)) if extent else None)
    return found if turn is None else found.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How the image is to be turned; a wrong entry of its EXIF turns nothing and rejects nothing."""
    try:
        return _TURNS.get(int(image.getexif().get(_ORIENTATION, 1)))
    except Exception:
        return None


@contextmanager
def opened(source: bytes | str | Path) -> Iterator[Image.Image]:
    """The image of a file or its bytes; what goes wrong while it is read becomes Unreadable, which says why."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large images below Pillow's limit, odd EXIF blocks
            with _stream(source) as file, Image.open(file, formats=_formats(source)) as image:
                large = image.width * image.height > _LARGE
                with _one_by_one if large else nullcontext():
                    yield image
    except Unreadable:
        raise
    except FileNotFoundError:
        raise Unreadable("there is no such file") from None
    except PermissionError:
        raise Unreadable("permission denied") from None
    except NotRegular as error:
        raise Unreadable(f"it is {error.kind}, not a file") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise Unreadable(f"it has more than {limit:.0f} million pixels; scale it down") from None
    except UnidentifiedImageError:
        raise Unreadable("it is empty" if _empty(source) else "it is not an image in a known format") from None
    except Exception as error:  # decoders raise whatever damaged bytes lead them to
        raise Unreadable(_damage(error)) from None


def _damage(error: Exception) -> str:
    return f"it is damaged or cut off ({str(error) or type(error).__name__})"


def _stream(source: bytes | str | Path) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else open_regular(source)


def _formats(source: bytes | str | Path) -> list[str]:
    if isinstance(source, bytes):
        kind = next((name for mark, name in _MARKS if source.startswith(mark)), None)
        # Pillow would try each format in turn, which takes longer than decoding a small image.
        return [kind] if kind else _known()
    return _known()


@cache
def _known() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _empty(source: bytes | str | Path) -> bool:
    return not source if isinstance(source, bytes) else Path(source).stat().st_size == 0


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Runs of whole rows, each with the number of its first one: what is converted at once stays small."""
    rows = max(1, _STRIP // max(1, image.width))
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def extent_of(image: Image.Image) -> Extent | None:
    """Of images of 32 bits or floats; None for all others."""
    if image.mode not in ("I", "F"):
        return None
    low, high = np.inf, -np.inf
    for _, strip in _strips(image):
        values = np.asarray(strip, np.float64)
        values = values[np.isfinite(values)]
        low, high = min(low, float(values.min(initial=np.inf))), max(high, float(values.max(initial=-np.inf)))
    return Extent(image.mode == "F", low, high) if low <= high else Extent(image.mode == "F", 0.0, 0.0)


def span_of(extent: Extent) -> Span:
    """The usual range that holds the values: 8, 16 or 32 bits, and for floats also 0 to 1 and -1 to 1.

    Floats may lie a little outside (what resampling adds is clipped). Decided from many images together it gives
    them one factor.
    """
    if not extent.floats:
        return 0.0, next((top for top in (255.0, 65535.0) if extent.high <= top), 2.0**32 - 1)
    if extent.high <= 2:
        return (-1.0 if -2 <= extent.low < -0.25 else 0.0), 1.0
    return 0.0, next((top for top in (255.0, 65535.0) if extent.high <= 1.2 * top), 2.0**32 - 1)


def rgb(image: Image.Image, span: Span | None = None) -> Image.Image:
    """RGB, alpha on white; `span`: the values that become black and white where the mode does not say so."""
    if image.mode.startswith("I;16"):
        span = (0.0, 65535.0)
    alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if span is None and not alpha:
        return image.convert("RGB")
    out = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        out.paste(_scaled(strip, *span) if span else _on_white(strip), (0, top))
    return out


def _scaled(image: Image.Image, low: float, high: float) -> Image.Image:
    """Pillow's own conversion clips what lies above 255 to white."""
    values = (np.nan_to_num(np.asarray(image, np.float64), posinf=high, neginf=low) - low) * (255.0 / (high - low))
    return Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
    ground.alpha_composite(image)
    return ground.convert("RGB")


def pixel_digest(image: Image.Image) -> int:
    """A signed 64-bit digest: equal for equal width, height and pixels. The same on every machine; no id of a
    relation."""
    digest = hashlib.blake2b(digest_size=8, person=b"%dx%d" % image.size)
    for _, strip in _strips(image):
        digest.update(strip.tobytes())
    return int.from_bytes(digest.digest(), "little", signed=True)


def difference_hash(image: Image.Image) -> int:
    """64 signs of the brightness steps along the rows of a 9 x 8 thumbnail: near-copies differ in few bits.
    Unsigned."""
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def square(image: Image.Image, size: int, fit: str = "crop") -> np.ndarray:
    """uint8 (3, size, size). "crop": the short side becomes `size`, then the middle is cut out; "pad": the long side,
    then white around."""
    width, height = image.size
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        middle = image.crop((left, top, left + side, top + side))  # resize(box=...) would blend in what lies outside
        out = middle.resize((size, size), Image.Resampling.LANCZOS)
    else:
        scale = size / max(width, height)
        inner = image.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS)
        out = Image.new("RGB", (size, size), (255, 255, 255))
        out.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    return np.ascontiguousarray(np.asarray(out).transpose(2, 0, 1))
