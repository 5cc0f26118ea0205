"""Decoding pictures of every mode into RGB, their fingerprints, and square arrays of them."""

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

ENDINGS = {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}
_MARKS = ((b"\x89PNG", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"RIFF", "WEBP"), (b"GIF8", "GIF"))


class Unreadable(Exception):
    """A picture that cannot be decoded; the message says why."""


def decode(source: bytes | str | Path, draft: int | None = None) -> Image.Image:
    """A file or its bytes as an RGB picture: turned as its EXIF says, alpha on white, 16 bits scaled to 8.

    `draft` lets a JPEG be decoded at a lower resolution of at least so many pixels a side. Raises Unreadable.
    """
    with opened(source) as picture:
        if draft:
            picture.draft("RGB", (draft, draft))
        picture.load()
        return rgb(ImageOps.exif_transpose(picture) if "exif" in picture.info else picture)


@contextmanager
def opened(source: bytes | str | Path) -> Iterator[Image.Image]:
    """The picture of a file or its bytes; what goes wrong while it is read becomes Unreadable, which says why."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large pictures below Pillow's limit, odd EXIF blocks
            with _opened(source) as picture:
                yield picture
    except FileNotFoundError:
        raise Unreadable("there is no such file") from None
    except PermissionError:
        raise Unreadable("permission denied") from None
    except IsADirectoryError:
        raise Unreadable("it is a folder") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise Unreadable(f"it has more than {limit:.0f} million pixels; scale it down") from None
    except UnidentifiedImageError:
        raise Unreadable("it is empty" if _empty(source) else "it is not a picture in a known format") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, KeyError, MemoryError) as error:
        raise Unreadable(f"it is damaged or cut off ({error})") from None


def _opened(source: bytes | str | Path) -> Image.Image:
    if not isinstance(source, bytes):
        return Image.open(source)
    kind = next((name for mark, name in _MARKS if source.startswith(mark)), None)
    # Pillow would try a dozen formats in turn, which takes longer than decoding a small picture.
    return Image.open(io.BytesIO(source), formats=[kind] if kind else None)


def _empty(source: bytes | str | Path) -> bool:
    return not source if isinstance(source, bytes) else Path(source).stat().st_size == 0


def rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, np.float64)
        # Pillow's own conversion clips what lies above 255 to white.
        scale = 255.0 / 65535.0 if values.max(initial=0) > 255 else 1.0
        return Image.fromarray(np.clip(np.round(values * scale), 0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        ground.alpha_composite(picture)
        picture = ground
    return picture.convert("RGB")


def pixel_digest(picture: Image.Image) -> int:
    """A signed 64-bit digest: equal for equal width, height and pixels. The same on every machine; no id of a
    relation."""
    digest = hashlib.blake2b(picture.tobytes(), digest_size=8, person=b"%dx%d" % picture.size)
    return int.from_bytes(digest.digest(), "little", signed=True)


def difference_hash(picture: Image.Image) -> int:
    """64 signs of the brightness steps along the rows of a 9 x 8 thumbnail: near-copies differ in few bits.
    Unsigned."""
    small = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def square(picture: Image.Image, size: int, fit: str = "crop") -> np.ndarray:
    """uint8 (3, size, size). "crop": the short side becomes `size`, then the middle is cut out; "pad": the long side,
    then white around."""
    width, height = picture.size
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        middle = picture.crop((left, top, left + side, top + side))  # resize(box=...) would blend in what lies outside
        out = middle.resize((size, size), Image.Resampling.LANCZOS)
    else:
        scale = size / max(width, height)
        inner = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS)
        out = Image.new("RGB", (size, size), (255, 255, 255))
        out.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    return np.ascontiguousarray(np.asarray(out).transpose(2, 0, 1))
