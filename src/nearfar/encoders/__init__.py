"""Encoders: items to one vector each. Small ones from scratch, timm's and transformers' from local files.

encoder = encoders.image("small", size=32)          # or any timm name
encoder = encoders.text("small", texts=my_texts)    # or "tiny" (a transformer), "minilm", or a folder
vectors = encoder(encoder.prepare(items))           # (n, encoder.dim)
"""

from pathlib import Path
from typing import Any

from nearfar import modalities
from nearfar.encoders import openclip
from nearfar.encoders.base import Encoder, Features
from nearfar.encoders.batches import vectors
from nearfar.encoders.choosing import text
from nearfar.encoders.frozen import Frozen, unfrozen
from nearfar.encoders.images import ImageEncoder, SmallImage, TimmImage, image
from nearfar.encoders.joined import Joined
from nearfar.encoders.pretrained import TransformerText
from nearfar.encoders.texts import LayeredText, SmallText, TextEncoder, layered, train_tokenizer
from nearfar.encoders.tokens import Embedded, Special, Tokens, frame, one_sequence, pad
from nearfar.encoders.transformer import Transformer
from nearfar.encoders.two_towers import both_of, has_towers, image_of, is_vision, said_by
from nearfar.errors import InputError
from nearfar.heads import build


def from_config(config: dict[str, Any], folder: str | Path | None = None) -> Encoder:
    """The encoder that `config` describes, with random weights; `folder` holds what its `save_files` wrote.

    Raises InputError for a description or files that do not make one.
    """
    config = dict(config)
    if config.pop("frozen", False):
        return Frozen(from_config(config, folder))
    if "joined" in config:
        parts = [from_config(part, folder) for part in config["joined"]]
        return Joined(parts, [build(head) for head in config["heads"]] if config.get("heads") else None)
    try:
        return modalities.get(config["modality"]).restore(config, Path(folder or "."))
    except KeyError as error:
        raise InputError(f"The description of the encoder has no {error}.") from error


def is_foreign(folder: str | Path) -> bool:
    """Whether a folder holds a model that transformers, sentence-transformers or open_clip wrote."""
    return openclip.holds(folder) or (Path(folder) / "modules.json").is_file() or bool(said_by(Path(folder)))


def of_folder(folder: str | Path) -> dict[str, Encoder]:
    """Role ("image", "text") -> the encoders of a model that another library wrote. Raises InputError where it cannot
    be loaded."""
    if has_towers(folder):
        return both_of(folder)
    return {"image": image_of(folder)} if is_vision(folder) else {"text": text(str(folder))}


def kinds_of_folder(folder: str | Path) -> list[str]:
    """The kinds of data that `of_folder` gives encoders for, without loading them."""
    if has_towers(folder):
        return ["image", "text"]
    return ["image"] if is_vision(folder) else ["text"]


__all__ = [
    "Embedded",
    "Encoder",
    "Features",
    "Frozen",
    "ImageEncoder",
    "Joined",
    "LayeredText",
    "SmallImage",
    "SmallText",
    "Special",
    "TextEncoder",
    "TimmImage",
    "Tokens",
    "Transformer",
    "TransformerText",
    "frame",
    "from_config",
    "image",
    "is_foreign",
    "kinds_of_folder",
    "layered",
    "of_folder",
    "one_sequence",
    "pad",
    "text",
    "train_tokenizer",
    "unfrozen",
    "vectors",
]
