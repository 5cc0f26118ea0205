"""The built-in data set `scenes`: emoji laid on photographs, with a mask of the emoji's categories.

Photographs: those below, which come inside scikit-image and scikit-learn; emoji: Twemoji and Noto of the set `emoji`.
Licences: docs/licences.md. Nothing is shipped: the images are made on the user's machine, once, in the cache folder.
"""

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from PIL import Image
from scipy.ndimage import binary_dilation, binary_propagation, uniform_filter

from nearfar.progress import track
from nearfar.sources.raw import Raw
from nearfar.sources.sets import register
from nearfar.sources.sets.emoji import open_emoji
from nearfar.sources.splits import SHARES, assign
from nearfar.sources.storage import entry, new_entry

SIDE = 96
COUNTS = {"train": 1000, "val": 250, "test": 350}
CLASSES = ("background", "Smileys & Emotion", "Animals & Nature", "Food & Drink", "Travel & Places")
STYLES = ("twemoji", "noto")
PHOTOS = {
    "train": ("astronaut", "china", "coffee", "hubble_deep_field", "immunohistochemistry", "brick", "gravel", "coins"),
    "val": ("chelsea", "grass", "clock"),
    "test": ("flower", "rocket", "camera"),
}
SAMPLES = ("china", "flower")  # of scikit-learn, the others of scikit-image
LICENCES = {
    "china": "CC-BY 2.0", "flower": "CC-BY 2.0", "brick": "CC0", "gravel": "CC0", "grass": "CC0", "camera": "CC0",
    "chelsea": "CC0", "coffee": "CC0", "clock": "public domain", "astronaut": "public domain (NASA)",
    "hubble_deep_field": "public domain (NASA)", "rocket": "public domain (SpaceX)",
    "coins": "no known copyright restrictions (Brooklyn Museum)",
    "immunohistochemistry": "no known copyright restrictions (CMMI)", "twemoji": "CC-BY 4.0", "noto": "Apache-2.0",
}  # fmt: skip
_VERSION = "1"


@dataclass(frozen=True)
class Sticker:
    """A drawing without its white ground: colours times opacity (48, 48, 3) and opacity (48, 48), both 0..1."""

    code: str
    family: str
    label: int
    colour: np.ndarray
    opacity: np.ndarray


@dataclass(frozen=True)
class Scene:
    """An image uint8 (SIDE, SIDE, 3), its mask uint8 (SIDE, SIDE), the photograph and the emoji on it."""

    image: np.ndarray
    mask: np.ndarray
    photo: str
    emoji: list[str]


@register
def open_scenes(cache: Path, seed: int = 0) -> Raw:
    """One row a scene. Emoji families and photographs of one split are in no other; the seed divides the families and
    draws the scenes."""
    emoji = open_emoji()
    key = hashlib.sha256(repr((_VERSION, seed, SIDE, COUNTS, PHOTOS, CLASSES, emoji.fingerprint)).encode()).hexdigest()
    path = cache / "scenes" / f"{key[:32]}.arrow"
    if not entry(path):
        _build(path, emoji.table, seed)
    return Raw(
        name="scenes",
        path=None,
        kind="built-in images with masks",
        table=Dataset.from_file(str(path)),
        fingerprint=key[:32],
        roles={"image": "image", "mask": "mask", "split": "split", "id": "key"},
        reasons={
            "image": f"emoji on a photograph, {SIDE} x {SIDE} pixels",
            "mask": "the category of the emoji at each pixel, exact",
            "split": "emoji families and photographs are in one split only",
            "id": "split and number",
        },
        meta={"classes": list(CLASSES), "licences": LICENCES, "native_size": SIDE},
    )


def _build(path: Path, emoji: Dataset, seed: int) -> None:
    fields = ("key", "image", "mask", "split", "photo", "emoji")
    kinds = (pa.large_string(), pa.large_binary(), pa.large_binary(), *[pa.large_string()] * 3)
    schema = pa.schema(list(zip(fields, kinds, strict=True)))
    with (
        new_entry(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_stream(sink, schema) as writer,
        track("making scenes", sum(COUNTS.values()), least=1) as advance,
    ):
        for split, found in stickers_of(emoji, seed).items():
            for number, scene in enumerate(scenes(found, split, COUNTS[split], seed)):
                row = (f"{split}/{number:04d}", _png(scene.image), _png(scene.mask), split, scene.photo,
                       " ".join(scene.emoji))  # fmt: skip
                cells = [pa.array([value], kind) for value, kind in zip(row, kinds, strict=True)]
                writer.write_batch(pa.RecordBatch.from_arrays(cells, schema=schema))
                advance(1)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def stickers_of(emoji: Dataset, seed: int) -> dict[str, list[Sticker]]:
    """The drawings of each split, whole families in one of them; drawings that are nearly all ground are left out."""
    table: Any = emoji.with_format("arrow")[:]
    columns = {name: table.column(name).to_pylist() for name in ("style", "category", "family", "emoji", "image")}
    rows = [i for i, (style, category) in enumerate(zip(columns["style"], columns["category"], strict=True))
            if style in STYLES and category in CLASSES]  # fmt: skip
    families = [columns["family"][i] for i in rows]
    known, codes = np.unique(families, return_inverse=True)
    marks = [int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest()) for name in known.tolist()]
    split = assign(codes, np.array(marks, np.int64)[codes], seed, SHARES)
    found: dict[str, list[Sticker]] = {}
    for name, places in split.items():
        made = [sticker(columns["image"][rows[p]], columns["emoji"][rows[p]], columns["family"][rows[p]],
                        CLASSES.index(columns["category"][rows[p]])) for p in places.tolist()]  # fmt: skip
        found[name] = [one for one in made if (one.opacity > 0.5).mean() > 0.15]
    return found


def sticker(png: bytes, code: str, family: str, label: int) -> Sticker:
    """Takes away the white that hangs together with the border; pixels beside it were mixed with white and are
    unmixed, so that no pale seam stays around the drawing."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.float64) / 255
    light = pixels.min(-1) > 0.97
    border = np.zeros_like(light)
    border[[0, -1]], border[:, [0, -1]] = True, True
    ground = np.asarray(binary_propagation(border & light, mask=light), bool)
    seam = np.asarray(binary_dilation(ground, iterations=2), bool) & ~ground
    core = ~ground & ~seam
    share = uniform_filter(core.astype(float), 5)
    inner = np.stack([uniform_filter(pixels[..., k] * core, 5) for k in range(3)], -1)
    colour = np.where((seam & (share > 1e-9))[..., None], inner / np.maximum(share, 1e-9)[..., None], pixels)
    away = 1 - colour
    mixed = ((1 - pixels) * away).sum(-1) / np.maximum((away**2).sum(-1), 1e-9)
    opacity = np.where(ground, 0.0, np.where(seam, mixed.clip(0, 1), 1.0))
    colour = np.where((opacity < 0.999)[..., None], colour, pixels)
    return Sticker(code, family, label, colour * opacity[..., None], opacity)


def scenes(stickers: list[Sticker], split: str, count: int, seed: int) -> Iterator[Scene]:
    """Scenes of one split, each with random numbers of its own."""
    photos = [(name, photograph(name)) for name in PHOTOS[split]]
    kinds = [[one for one in stickers if one.label == label] for label in range(1, len(CLASSES))]
    for number in range(count):
        yield _scene(np.random.default_rng([seed, list(PHOTOS).index(split), number]), photos, kinds)


def photograph(name: str) -> Image.Image:
    """One of the packaged photographs, RGB."""
    if name in SAMPLES:
        from sklearn.datasets import load_sample_image

        return Image.fromarray(load_sample_image(f"{name}.jpg")).convert("RGB")
    from skimage import data

    load: Callable[[], np.ndarray] = getattr(data, name)
    return Image.fromarray(load()).convert("RGB")


def _scene(rng: np.random.Generator, photos: list[tuple[str, Image.Image]], kinds: list[list[Sticker]]) -> Scene:
    """A square of a photograph, at random lightness and mirrored or not, with one to three emoji on it. A later emoji
    covers at most a quarter of the pixels of the earlier ones."""
    name, photo = photos[rng.integers(len(photos))]
    side = int(rng.integers(SIDE, min(photo.size) + 1))
    left, top = (int(rng.integers(0, room - side + 1)) for room in photo.size)
    ground = photo.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    canvas = np.asarray(ground, np.float64) / 255 * rng.uniform(0.7, 1.1)
    canvas = np.minimum(canvas[:, ::-1] if rng.random() < 0.5 else canvas, 1)
    mask, codes = np.zeros((SIDE, SIDE), np.uint8), []
    for _ in range(int(rng.integers(1, 4))):
        family = kinds[rng.integers(len(kinds))]
        one = family[rng.integers(len(family))]
        size = int(rng.integers(30, 57))
        opacity = _resized(one.opacity, size)
        colour = np.stack([_resized(one.colour[..., k], size) for k in range(3)], -1)
        for _ in range(20):
            y, x = rng.integers(0, SIDE - size + 1, 2).tolist()
            here = (slice(y, y + size), slice(x, x + size))
            if (mask[here][opacity > 0.5] > 0).mean() <= 0.25:
                canvas[here] = canvas[here] * (1 - opacity[..., None]) + np.minimum(colour, opacity[..., None])
                mask[here][opacity > 0.5] = one.label
                codes.append(one.code)
                break
    return Scene((canvas * 255).round().astype(np.uint8), mask, name, codes)


def _resized(values: np.ndarray, size: int) -> np.ndarray:
    made = Image.fromarray(values.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(made, np.float64).clip(0, 1)
