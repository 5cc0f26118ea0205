"""Images: files or bytes in a column, or a folder of them; masks may stand beside."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from nearfar.checks import Range
from nearfar.errors import InputError, did_you_mean
from nearfar.limits import MOST_SIDE
from nearfar.modality import Modality, Reader, register

if TYPE_CHECKING:
    import numpy as np

    from nearfar.encoders import Encoder
    from nearfar.evaluation.embedding import DataEmbed
    from nearfar.evaluation.task import Reference, Task
    from nearfar.sources.data import Data
    from nearfar.sources.raw import Raw
    from nearfar.sources.scan import Scan

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm",
                     ".avif"})  # fmt: skip
ASKED = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
NEAR_BITS = 2  # of 64: images whose difference hashes differ in no more count as near copies


@dataclass
class Options:
    """The encoder of images.

    Args:
        encoder: image encoder: small (4 conv layers), any name that timm knows, or the folder of a CLIP, SigLIP or
            ViT of transformers.
        image_size: pixels a side. auto: 32 for images of at most 64 pixels a side, else 64 (small) or 224 (timm).
        channels: rgb, or orientation for gradient-orientation channels beside them.
        grid: parts a side of its last map that the small image encoder averages; 1, the default, forgets where
            things are.
        weights: file of weights (safetensors) for the image encoder, or the folder of a nearfar model with such an
            encoder.
    """

    encoder: str = "small"
    image_size: Annotated[int, Range(8, MOST_SIDE)] | Literal["auto"] = "auto"
    channels: Literal["rgb", "orientation"] = "rgb"
    grid: Annotated[int, Range(1, 8)] | None = None
    weights: str | None = None


@register
class Image(Modality):
    """Items are uint8 (n, 3, size, size), RGB on white; the encoder takes them as float32 in [0, 1]."""

    word, words = "image", "images"
    roles = ("image", "image_b")
    columns = {
        "image": ("image", "img", "picture", "photo", "image_path", "image_file", "file_name", "filename", "filepath",
                  "image_a", "image1", "image_1", "path", "file"),
        "image_b": ("image_b", "image2", "image_2", "img2", "img_b", "picture_b", "positive_image"),
        "mask": ("mask", "masks", "mask_path", "mask_file", "segmentation", "segmentation_mask", "label_map"),
    }  # fmt: skip
    described = {
        "image": "column of images",
        "image_b": "second column of images",
        "mask": "column of masks, images whose pixels are classes (0 to 254; 255 is left out)",
    }
    companions = {"mask": "image"}
    rank, certainty = 0, 100
    endings = ENDINGS
    by_rows = True
    options = Options
    plans = {
        "two-crops": "nearfar.views.image:TwoCrops",
        "multi-crop": "nearfar.views.image:MultiCrop",
        "members": "nearfar.views.image:Members",
        "weak-strong": "nearfar.views.image:WeakStrong",
    }
    default_plan = "two-crops"
    pair_plan = ("members", {"k": 1})
    why = "there are images without pairs: two augmentations of one image are its positives"
    example = "emoji"
    tag = "image-feature-extraction"
    usage = 'embed_images(["image.png"])'

    # -- the way in

    def looks_like(self, values: Sequence[Any]) -> bool:
        filled = [v for v in values if v not in (None, "", b"")]
        return bool(filled) and all(
            isinstance(v, bytes) or (isinstance(v, dict) and "bytes" in v) or (isinstance(v, str) and _named(v))
            for v in filled
        )

    def fits(self, role: str, values: Sequence[Any]) -> bool:
        return self.looks_like(values)

    def read_files(self, path: Path, files: list[str], others: list[str], cache: Path, skip: bool) -> Raw:
        from nearfar.sources.folders import read_images

        return read_images(path, files, others, cache, skip)

    def state(self, raw: Raw, columns: Mapping[str, Sequence[str]]) -> Mapping[str, np.ndarray]:
        from nearfar.sources.looking import stamps

        return {column: stamps(raw, column) for names in columns.values() for column in names}

    def scan(self, raw: Raw, columns: Mapping[str, Sequence[str]], found: Scan) -> None:
        from nearfar.sources.looking import scan_images, scan_masks

        for role, names in columns.items():
            for column in names if role not in self.companions else ():
                scan_images(raw, column, found, optional=role == "negative")
        for column in columns.get("mask", ()):
            scan_masks(raw, column, columns["image"][0], found)

    def sizes_in_words(self, sizes: Mapping[str, Any]) -> str:
        named = [f"{s[0]}x{s[1]}" for s in (sizes["least"], sizes["median"], sizes["most"])]
        return f"{named[0]} px" if len(set(named)) == 1 else f"{' / '.join(named)} px"

    def near_copies(self, data: Data, role: str, rows: np.ndarray) -> list[tuple[int, int]]:
        """Images whose difference hash is at most two bits away."""
        import numpy as np

        hashes = data.facts("hashes", role)[rows]
        flat = np.bitwise_count(hashes) < 6  # hardly any edge: unlike images look alike
        return [(int(rows[a]), int(rows[b])) for a, b in hamming_pairs(hashes) if not (flat[a] or flat[b])]

    def samples(self, data: Data, role: str, rows: np.ndarray) -> list[str]:
        return [f"{width} x {height} pixels" for width, height in data.facts("sizes", role)[rows].tolist()]

    # -- items

    def items(self, data: Data, role: str, rows: Any = None, size: int | None = None) -> Any:
        return data.image_memmap(role, size or 32) if rows is None else data.images(role, size or 32, rows)

    def other_look(self, items: Any, rows: np.ndarray) -> Any:
        from nearfar.evaluation.heldout import transform_images

        return transform_images(items, rows)

    def show(self, data: Data, role: str, items: Any, size: int = 48) -> list[dict[str, str]]:
        from nearfar.reporting.cells import thumbnail

        return [{"image": thumbnail(image, size)} for image in items]

    def stamp(self, data: Data, role: str, rows: np.ndarray, size: int | None = None) -> list[bytes]:
        return [pixels.tobytes() for pixels in self.items(data, role, None, size)[rows]]

    def references(self, task: Task, size: int) -> list[Reference]:
        from nearfar.evaluation.references import by_images

        return by_images(task, size)

    def raw_features(self, data: Data, role: str) -> DataEmbed | None:
        from nearfar.evaluation.references import gradients

        return gradients(data)

    # -- training

    def check(self, options: Any) -> None:
        if names_folder(options.encoder):
            from nearfar.encoders.two_towers import is_vision

            if not is_vision(options.encoder):
                raise InputError(f"The folder '{options.encoder}' holds no model of transformers that takes images.",
                                 "Give that of a CLIP, SigLIP or ViT; a nearfar model goes to --weights.")  # fmt: skip
            if options.weights is not None:
                raise InputError("--encoder names a folder with weights of its own.", "Leave out --weights.")
        elif options.encoder != "small":
            import timm

            if not timm.is_model(options.encoder):
                near = did_you_mean(options.encoder, ["small", *timm.list_models()])
                raise InputError(f"timm has no model '{options.encoder}'.{near}",
                                 "See timm.list_models(), or use 'small'.")  # fmt: skip
        weights = options.weights
        if weights is not None and not (weights.strip() and Path(weights).exists()):
            raise InputError(f"There is no weights file or folder '{weights}'.", "Check --weights.")

    def resolve(self, options: Any, data: Data) -> Any:
        """32 for images of at most 64 pixels a side; else 64 for the small encoder and 224 for timm's."""
        if options.image_size != "auto":
            return options
        if names_folder(options.encoder):
            from nearfar.encoders.two_towers import image_side

            return dataclasses.replace(options, image_size=image_side(options.encoder))
        role = next((r for r in self.roles if r in data.roles), None)
        large = role is not None and data.side(role) > 64
        size = (64 if large else 32) if options.encoder == "small" else (224 if large else 64)
        return dataclasses.replace(options, image_size=size)

    def resolved(self, options: Any) -> dict[str, Any]:
        return {"image_size": options.image_size}

    def pretrained(self, options: Any) -> bool:
        return bool(options.weights) or names_folder(options.encoder)

    def weights(self, options: Any) -> str | None:
        return options.weights

    def described_encoder(self, options: Any) -> str:
        return options.encoder

    def learning_rate(self, options: Any) -> float:
        return 2e-3 if options.encoder == "small" else 1e-3

    def encoder(self, options: Any, data: Data, seed: int) -> Encoder:
        from nearfar import encoders

        options = self.resolve(options, data)
        return encoders.image(
            options.encoder,
            size=options.image_size,
            weights=options.weights,
            channels=options.channels,
            grid=options.grid,
        )

    def reader(self, data: Data, role: str, encoder: Any, length: int | None = None) -> Reader:
        """uint8 images of a role, read from the memory-mapped cache."""
        import torch

        images = data.image_memmap(role, encoder.size)

        def raw(rows: np.ndarray, rng: Any = None) -> Any:
            return torch.from_numpy(images[rows])

        return Reader(raw, lambda rows: self.ready(raw(rows), encoder))

    def reader_of(self, items: Any, encoder: Any) -> Reader:
        def ready(rows: np.ndarray) -> Any:
            return encoder.prepare(items[rows] if hasattr(items, "shape") else [items[int(row)] for row in rows])

        return Reader(lambda rows, rng: (ready(rows) * 255).byte(), ready)

    def ready(self, inputs: Any, encoder: Any) -> Any:
        return inputs.float() / 255

    # -- a model and its use

    def restore(self, config: Mapping[str, Any], folder: Path) -> Encoder:
        from nearfar import encoders
        from nearfar.encoders import openclip, two_towers

        towers = {"two-towers": two_towers.restored_image, "open-clip": openclip.restored_image}
        if config["name"] in towers:
            return towers[config["name"]](config, folder)
        grid = config.get("grid", 1) if config["name"] == "small" else None  # older folders say none
        return encoders.image(config["name"], config["size"], channels=config["channels"], dim=config["dim"], grid=grid)

    def accepts(self, item: Any) -> bool:
        shape = getattr(item, "shape", None)
        return not isinstance(item, str) and (len(shape) == 3 if shape is not None else not isinstance(item, list))

    def preprocessing(self, encoder: Any) -> dict[str, Any]:
        return {"size": encoder.size, "resize": "centre square, then Lanczos", "background": "white", "range": [0, 1],
                "mean": encoder.mean.flatten().tolist(), "std": encoder.std.flatten().tolist()}  # fmt: skip

    def examples(self, encoder: Any) -> list[Any]:
        from nearfar.encoders.stored import noise_images

        return list(noise_images(encoder.size).transpose(0, 2, 3, 1))

    def kept(self, data: Data, role: str, rows: np.ndarray, encoder: Any) -> list[Any]:
        return [image.transpose(1, 2, 0) for image in data.images(role, encoder.size, rows)]

    def write(self, items: Sequence[Any], encoder: Any) -> list[Any]:
        """Prepared to the encoder's size, as PNG in base64."""
        from nearfar.encoders.stored import to_base64

        return [to_base64(image) for image in encoder.prepare(items)]

    def read(self, coded: Sequence[Any], encoder: Any) -> list[Any]:
        from nearfar.encoders.stored import from_base64

        return [from_base64(text) for text in coded]

    def query(self, words: str, alone: bool) -> Any:
        """The path of an image."""
        if Path(words).suffix.lower() in ASKED:
            if not Path(words).is_file():
                raise InputError(f"There is no image '{words}'.")
            return Path(words)
        if alone:
            raise InputError(
                "This model embeds images only, so it cannot search by a text.",
                "Give the path of an image, or key:KEY for an item of the index.",
            )
        return None


def names_folder(encoder: str) -> bool:
    """Whether a folder of a model is meant, not an architecture: a folder of results may be called like one."""
    path = Path(encoder)
    return bool(encoder.strip()) and path.is_dir() and (len(path.parts) > 1 or (path / "config.json").is_file())


def _named(value: str) -> bool:
    return "." + value.rsplit(".", 1)[-1].casefold() in ENDINGS


def hamming_pairs(hashes: np.ndarray) -> list[tuple[int, int]]:
    """Pairs at most NEAR_BITS apart: with four bands of 16 bits, one band of such a pair is equal."""
    import numpy as np

    found: set[tuple[int, int]] = set()
    for shift in range(0, 64, 16):
        band = (hashes >> np.uint64(shift)) & np.uint64(0xFFFF)
        order = np.argsort(band, kind="stable")
        for step in range(1, 9):  # neighbours in the sorted band; a crowded band is sampled
            a, b = order[:-step], order[step:]
            near = (band[a] == band[b]) & (np.bitwise_count(hashes[a] ^ hashes[b]) <= NEAR_BITS)
            found.update((int(min(x, y)), int(max(x, y))) for x, y in zip(a[near], b[near], strict=True))
    return sorted(found)
