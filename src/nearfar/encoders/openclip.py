"""The two towers of a folder of open_clip (open_clip_config.json and its weights), by that library."""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nearfar import files
from nearfar.encoders.depth import parted
from nearfar.encoders.images import ImageEncoder, timm_stages
from nearfar.encoders.pretrained import special_of
from nearfar.encoders.quiet import quiet
from nearfar.encoders.texts import TextEncoder
from nearfar.encoders.tokens import Embedded, Special, Tokens
from nearfar.errors import InputError, install

CONFIG = "open_clip_config.json"
MEND = "The folder must be complete, of an architecture that the installed open_clip knows."


def holds(folder: str | Path) -> bool:
    """Whether a folder holds a model of open_clip, and none of transformers beside it."""
    place = Path(folder)
    return (place / CONFIG).is_file() and not (place / "config.json").is_file()


def said_by(folder: Path) -> dict[str, Any]:
    """The description of the model in a folder: "model_cfg" and "preprocess_cfg"."""
    return files.read_json(folder / CONFIG, {"model_cfg": dict}, MEND)


def image_side(folder: Path) -> int:
    with files.reading(folder / CONFIG, MEND):
        size = said_by(folder)["model_cfg"]["vision_cfg"].get("image_size", 224)
        return size if isinstance(size, int) else size[0]


@contextmanager
def opened(folder: Path) -> Iterator[Any]:
    """The library, quiet; what it raises becomes an InputError about the folder."""
    if importlib.util.find_spec("open_clip") is None:
        raise InputError(f"{folder} was written by open_clip, which is not installed.",
                         install("openclip"))  # fmt: skip
    import open_clip  # pyright: ignore[reportMissingImports]

    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it warns of weights that are not asked for
    try:
        with quiet():
            yield open_clip
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"The model in {folder} cannot be loaded: {str(error).strip()[:300]}", MEND) from error
    finally:
        logging.getLogger().setLevel(level)


def model_of(folder: Path, weights: bool = True) -> Any:
    """The model of a folder, with its weights (tensors only) or random ones."""
    with opened(folder) as library:
        return library.create_model(f"local-dir:{folder}", load_weights=weights, require_pretrained=weights)


class OpenClipText(TextEncoder):
    """The tower of texts. Every text is filled up to the model's length, as open_clip does."""

    def __init__(self, model: Any, tokenizer: Any, said: Mapping[str, Any], name: str = ""):
        super().__init__()
        self.model, self.tokenizer, self.said, self.name = copy.copy(model), tokenizer, dict(said), name
        self.model._modules = {k: v for k, v in model._modules.items() if k != "visual"}
        self.dim = said["model_cfg"]["embed_dim"]
        self.special = special(tokenizer)

    def encode_ids(self, texts: Sequence[str]) -> list[list[int]]:
        inner = getattr(self.tokenizer, "tokenizer", None)
        if inner is None:
            return [self.tokenizer.encode(text) for text in texts]
        cleaned = [self.tokenizer.clean_fn(text) for text in texts]
        return inner(cleaned, add_special_tokens=False, verbose=False)["input_ids"] if cleaned else []

    @property
    def table(self) -> nn.Embedding:
        """The vectors of the tokens. Raises InputError for a text model of transformers inside."""
        found = getattr(self.model, "token_embedding", None) or getattr(
            getattr(self.model, "text", None), "token_embedding", None
        )
        if not isinstance(found, nn.Embedding):
            raise InputError("The text tower of this model of open_clip takes no vectors in place of tokens.",
                             "Take a model with open_clip's own text tower.")  # fmt: skip
        return found

    def embedded(self, x: Tokens) -> Embedded:
        """The vectors of the tokens from the table, before positions and layers; the last token is the eos."""
        return Embedded(self.table(x.ids), x.mask, (x.ids == self.special.eos).int().argmax(1))

    def forward(self, x: Tokens | Embedded) -> Tensor:
        """Vectors that are put in by hand take the place of those of the table: the model takes ids alone, among which
        it looks for the eos."""
        if not isinstance(x, Embedded):
            return self.model.encode_text(x.ids)
        ids = torch.ones(x.mask.shape, dtype=torch.long, device=x.vectors.device)
        ids.scatter_(1, x.end[:, None], self.special.eos or 0)
        hook = self.table.register_forward_hook(lambda module, given, out: x.vectors)
        try:
            return self.model.encode_text(ids)
        finally:
            hook.remove()

    def ordered_blocks(self) -> Sequence[nn.Module]:
        return resblocks(getattr(self.model, "text", None) or self.model)

    def stages(self, coarse: bool = False) -> list[list[nn.Parameter]]:
        return parted(self, self.ordered_blocks(), projections(self.model))

    def recompute(self) -> bool:
        within = getattr(self.model, "text", None)
        if within is not None:
            within.set_grad_checkpointing()
        else:
            self.model.transformer.grad_checkpointing = True
        self.recomputed = turned_on(self.model)
        return self.recomputed

    def config(self) -> dict[str, Any]:
        return {"modality": "text", "name": "open-clip", "source": self.name, "length": self.special.length,
                "dim": self.dim}  # fmt: skip

    def save_files(self, folder: Path) -> None:
        write(folder, self.said)
        if hasattr(self.tokenizer, "save_pretrained"):
            self.tokenizer.save_pretrained(folder)
            (folder / "config.json").unlink(missing_ok=True)


class OpenClipImage(ImageEncoder):
    """The tower of images."""

    def __init__(self, model: Any, said: Mapping[str, Any], name: str = ""):
        super().__init__()
        self.model, self.said, self.name = model.visual, dict(said), name
        given = self.model.preprocess_cfg
        size = self.model.image_size
        self._set_input(size if isinstance(size, int) else size[0], "rgb", given["mean"], given["std"])
        self.dim = said["model_cfg"]["embed_dim"]

    def forward(self, x: Tensor) -> Tensor:
        out = self.model(self._input(x))
        return out[0] if isinstance(out, tuple) else out

    def ordered_blocks(self) -> Sequence[nn.Module]:
        return resblocks(self.model)

    def stages(self, coarse: bool = False) -> list[list[nn.Parameter]]:
        trunk = getattr(self.model, "trunk", None)
        if trunk is None:
            return parted(self, self.ordered_blocks(), projections(self.model))
        within = timm_stages(trunk, coarse)
        return [*within[:-1], [*within[-1], *getattr(self.model, "head", nn.Identity()).parameters()]] if within else []

    def recompute(self) -> bool:
        self.model.set_grad_checkpointing()
        self.recomputed = turned_on(self.model)
        return self.recomputed

    def config(self) -> dict[str, Any]:
        return {"modality": "image", "name": "open-clip", "source": self.name, "size": self.size, "channels": "rgb",
                "dim": self.dim}  # fmt: skip

    def save_files(self, folder: Path) -> None:
        write(folder, self.said)


def resblocks(model: Any) -> list[nn.Module]:
    """The blocks of open_clip's own transformer; none in another model."""
    return list(getattr(getattr(model, "transformer", None), "resblocks", ()))


def projections(model: nn.Module) -> list[nn.Parameter]:
    """What leads from the last state into the common space, and what is learned of that space."""
    last = ("proj", "text_projection", "logit_scale", "logit_bias")
    return [p for name, p in model.named_parameters() if name.rpartition(".")[2] in last]


def turned_on(model: nn.Module) -> bool:
    """Whether any part computes its blocks again; a part that cannot says nothing."""
    return any(getattr(part, "grad_checkpointing", False) is True for part in model.modules())


def special(tokenizer: Any) -> Special:
    """The special ids of a tokenizer of open_clip, which fills texts up to its length."""
    length, inner = tokenizer.context_length, getattr(tokenizer, "tokenizer", None)
    if inner is not None:
        return special_of(inner, length)._replace(fill=True)
    return Special(tokenizer.sot_token_id, tokenizer.eot_token_id, 0, None, tokenizer.vocab_size, length, fill=True)


def write(folder: Path, said: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(said), encoding="utf-8")


def tokenizer_of(folder: Path) -> Any:
    with opened(folder) as library:
        return library.get_tokenizer(f"local-dir:{folder}")


def image_of(folder: Path, model: Any = None) -> OpenClipImage:
    return OpenClipImage(model or model_of(folder), said_by(folder), str(folder))


def text_of(folder: Path, model: Any = None) -> OpenClipText:
    return OpenClipText(model or model_of(folder), tokenizer_of(folder), said_by(folder), str(folder))


def restored_text(config: Mapping[str, Any], folder: Path) -> OpenClipText:
    return OpenClipText(model_of(folder, weights=False), tokenizer_of(folder), said_by(folder), config["source"])


def restored_image(config: Mapping[str, Any], folder: Path) -> OpenClipImage:
    return OpenClipImage(model_of(folder, weights=False), said_by(folder), config["source"])
