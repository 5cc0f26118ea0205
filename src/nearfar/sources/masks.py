"""Masks: images whose pixels are classes. 0 to 254 are classes, 255 belongs to none and is never scored."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nearfar.errors import InputError
from nearfar.sources.images import Unreadable, opened

IGNORE = 255
MOST = 200  # more values than any labelled set has classes: grey levels, depth, soft edges
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "pictures", "photos", "jpegimages")
MASK_FOLDERS = ("masks", "mask", "annotations", "labels", "segmentations", "segmentationclass")
NAMES = "classes.txt"
_WHOLE = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B")


def decode(source: bytes | Path) -> np.ndarray:
    """uint8 (H, W) of a PNG (or another lossless image) of integer classes: grey, palette (its numbers, not its
    colours), 16 bits, or three equal channels. Raises Unreadable, which says why it is no mask."""
    with opened(source) as image:
        if image.format == "JPEG":
            raise Unreadable("a JPEG blurs class numbers; save masks as PNG")
        if image.mode in _WHOLE:
            values = np.asarray(image)
        else:
            values = _equal_channels(np.asarray(image), image.mode)
    if values.min(initial=0) < 0 or values.max(initial=0) > IGNORE:
        raise Unreadable(f"its values reach {values.max()}; classes are 0 to 254, and 255 is left out")
    return values.astype(np.uint8)


def _equal_channels(pixels: np.ndarray, mode: str) -> np.ndarray:
    if mode not in ("RGB", "RGBA", "LA") or pixels.dtype != np.uint8:
        raise Unreadable(f"a mask holds one whole number a pixel, not the mode {mode}")
    colours = pixels[..., : 1 if mode == "LA" else 3]
    if (colours != colours[..., :1]).any():
        raise Unreadable("it holds colours; a mask holds one whole number a pixel (a grey or palette PNG)")
    return colours[..., 0]


def square(mask: np.ndarray, size: int, fit: str = "crop") -> np.ndarray:
    """uint8 (size, size), cut as `images.square` cuts the image, nearest pixel; what "pad" adds is 255."""
    height, width = mask.shape
    image = Image.fromarray(mask)
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return np.asarray(image.crop((left, top, left + side, top + side)).resize((size, size), 0))
    scale = size / max(width, height)
    inner = image.resize((max(1, round(width * scale)), max(1, round(height * scale))), 0)
    out = Image.new("L", (size, size), IGNORE)
    out.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    return np.asarray(out)


def pack(mask: np.ndarray) -> np.ndarray:
    """Which of the 256 values occur, as bits: uint8 (32,)."""
    return np.packbits(np.bincount(mask.reshape(-1), minlength=256) > 0)


def unpack(bits: np.ndarray) -> np.ndarray:
    """bool (n, 256) of n packed rows."""
    return np.unpackbits(np.asarray(bits, np.uint8), axis=1).astype(bool)


def check_classes(values: np.ndarray, where: str) -> None:
    """Raises InputError for values (k,) that all masks of a data set hold together but that cannot be classes."""
    classes = values[values != IGNORE]
    if len(classes) > MOST:
        raise InputError(
            f"{where}: the masks hold {len(classes)} different values; at most {MOST} classes are taken.",
            "Grey levels and soft edges are no classes: store one whole number a class.",
        )
    if len(classes) < 2:
        held = ", ".join(map(str, values)) or "nothing"
        hint = "255 means that a pixel belongs to no class: write foreground as 1." if IGNORE in values else ""
        raise InputError(
            f"{where}: the masks hold one class only (values: {held}).", hint or "A mask needs two classes or more."
        )


def class_names(base: Path | None, known: list[str] | None, values: np.ndarray) -> list[str]:
    """A name for each of the values: `known` in the order of the classes, else the lines of classes.txt beside the
    data, else "class 3". Raises InputError where the names end before the classes do."""
    path = None if base is None else base / NAMES
    if known is None and path is not None and path.is_file():
        known = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        if len(known) <= values.max(initial=0):
            raise InputError(
                f"{path} names {len(known)} classes, but the masks hold the class {values.max()}.",
                "Its first line names class 0, the second class 1, and so on.",
            )
    return [f"class {value}" if known is None else known[value] for value in values.tolist()]


@dataclass(frozen=True)
class Pair:
    """What belongs to an image in a folder. masks: files of its name; mask: the one that it has or should have, None
    where no folder of masks lies beside its own; place: its path without the folder of images."""

    masks: list[str]
    mask: str | None
    place: str


def pairs(files: list[str]) -> dict[str, Pair] | None:
    """The images among the files of a folder, each with its mask; None where there are no masks.

    images/a.jpg goes with masks/a.png, images/x/a.jpg with masks/x/a.png, x/images/a.jpg with x/masks/a.png.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    beside: dict[tuple[str, ...], str] = {}
    images: dict[str, tuple[int, tuple[str, ...]]] = {}
    for file in files:
        path = Path(file)
        known = [part.casefold() in MASK_FOLDERS + IMAGE_FOLDERS for part in path.parts[:-1]]
        if not any(known):
            continue
        at = known.index(True)
        key = (*path.parts[:at], "", *path.parts[at + 1 : -1], path.stem)
        if path.parts[at].casefold() in MASK_FOLDERS:
            found.setdefault(key, []).append(file)
            beside.setdefault(path.parts[:at], path.parts[at])
        else:
            images[file] = at, key
    if not any(Path(file).parts[:at] in beside for file, (at, _) in images.items()):
        return None
    return {file: _pair(file, at, found.get(key, []), beside) for file, (at, key) in images.items()}


def _pair(file: str, at: int, masks: list[str], beside: dict[tuple[str, ...], str]) -> Pair:
    path = Path(file)
    before, after = path.parts[:at], path.parts[at + 1 :]
    folder = beside.get(before)
    expected = None if folder is None else str(Path(*before, folder, *after).with_suffix(".png"))
    return Pair(masks, masks[0] if masks else expected, str(Path(*before, *after)))
