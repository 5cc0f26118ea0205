"""The towers of transformers' models of images and texts (CLIP, SigLIP and their kin), and its encoders of images,
from local folders; those of open_clip are in `openclip`.

    images --vision model--> pooled --projection, where there is one--> vector
    texts    --text model, its last token--> state --projection--> vector
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nearfar import files
from nearfar.encoders import openclip
from nearfar.encoders.images import ImageEncoder
from nearfar.encoders.pretrained import TransformerText, find_layers, longest_text, recompute
from nearfar.encoders.quiet import quiet
from nearfar.encoders.texts import TextEncoder
from nearfar.encoders.tokens import Embedded, Tokens
from nearfar.errors import InputError

MEND = "The folder must be complete, of an architecture that the installed transformers knows."
HALF = (0.5, 0.5, 0.5)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's, in files without any


def said_by(folder: Path) -> dict[str, Any]:
    """The configuration of a folder of transformers; {} where there is none."""
    path = folder / "config.json"
    if not path.is_file():
        return {}
    with files.reading(path, MEND):
        found = json.loads(path.read_text("utf-8"))
    return found if isinstance(found, dict) and "model_type" in found else {}


def has_towers(folder: str | Path) -> bool:
    """Whether a folder holds a model of transformers or open_clip with a tower of images and one of texts."""
    return openclip.holds(folder) or {"text_config", "vision_config"} <= set(said_by(Path(folder)))


def is_vision(folder: str | Path) -> bool:
    """Whether a folder holds a model of transformers or open_clip that takes images."""
    if openclip.holds(folder):
        return True
    said = said_by(Path(folder))
    return "vision_config" in said or ("image_size" in said and "vocab_size" not in said)


def whole_model(folder: Path) -> Any:
    """The model of a folder with its weights, without a pooler where the folder has no weights of one.

    Raises InputError where it cannot be loaded, or where weights are missing."""
    from transformers import AutoModel

    try:
        with quiet():
            model, told = AutoModel.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, weights_only=True, dtype=torch.float32,
                output_loading_info=True,
            )  # fmt: skip
    except Exception as error:
        raise InputError(f"The model in {folder} cannot be loaded: {str(error).strip()[:300]}",
                         f"{MEND} Its weights must hold tensors only.") from error  # fmt: skip
    missing = sorted(told["missing_keys"])
    if any(not name.startswith("pooler.") for name in missing):
        raise InputError(f"The model in {folder} lacks weights: {', '.join(missing[:3])}"
                         + (f" and {len(missing) - 3} more." if len(missing) > 3 else "."), MEND)  # fmt: skip
    if missing:
        model.pooler = None
    return model


def fresh_model(folder: Path) -> Any:
    """The model that a folder's configuration describes, with random weights."""
    from transformers import AutoConfig, AutoModel

    try:
        inner = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return AutoModel.from_config(inner, trust_remote_code=False)
    except Exception as error:
        raise InputError(f"{folder} does not hold the configuration of a model: {error}", MEND) from error


def tokenizer_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise InputError(f"The tokenizer in {folder} cannot be loaded: {str(error).strip()[:300]}", MEND) from error


def text_projection(model: Any) -> nn.Linear | None:
    """The linear map behind the text model: CLIP's beside it, SigLIP's within."""
    for found in (getattr(model, "text_projection", None), getattr(model.text_model, "head", None)):
        if isinstance(found, nn.Linear):
            return found
    return None


class TowerText(TransformerText):
    """The tower of texts of a model with two towers: the state of the last token, projected.

    CLIP sees the tokens of the text; SigLIP was trained on texts filled up to its length, and gets them so.
    """

    def __init__(self, model: Any, tokenizer: Any, length: int | None = None, name: str = ""):
        projection, self.whole = text_projection(model), model.config
        layers = []
        if projection is not None:
            layers = [{"layer": "dense", "in": projection.in_features, "out": projection.out_features,
                       "bias": projection.bias is not None, "activation": "Identity"}]  # fmt: skip
        longest = longest_text(tokenizer, model.text_model)
        super().__init__(model.text_model, tokenizer, "lasttoken", min(length or longest, longest), layers, name)
        if hasattr(model.text_model, "final_layer_norm"):
            self._places = (self._places[0], "final_layer_norm")
        if projection is not None:
            self.dense[0][0].load_state_dict(projection.state_dict())  # pyright: ignore[reportIndexIssue]
        self.filled = not getattr(model.config.text_config, "is_causal", True) or "siglip" in model.config.model_type
        self.special = self.special._replace(fill=self.filled)
        head = getattr(model.text_model, "head", None)
        if isinstance(head, nn.Linear):
            head.requires_grad_(False)  # its copy behind the pooling is what is used and trained

    def states(self, x: Tokens | Embedded, layers: int) -> Tensor:
        """Vectors that are put in by hand take the place of those of the table: the model takes ids alone."""
        if not isinstance(x, Embedded):
            return super().states(x, layers)
        hook = self.table.register_forward_hook(lambda module, given, out: x.vectors)
        try:
            ids = torch.zeros(x.mask.shape, dtype=torch.long, device=x.vectors.device)
            return super().states(Tokens(ids, x.mask), layers)
        finally:
            hook.remove()

    def config(self) -> dict[str, Any]:
        return super().config() | {"name": "two-towers"}

    def save_files(self, folder: Path) -> None:
        self.whole.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


class HubImage(ImageEncoder):
    """The tower of images of a model with two towers, or an encoder of images alone (ViT, DINOv2...): its pooled
    output, projected where the model has a projection; without a pooled output the first token."""

    def __init__(self, model: Any, mean: Any, std: Any, name: str = ""):
        super().__init__()
        self.whole, self.name = model.config, name
        self.model = getattr(model, "vision_model", model)
        self.pooled = getattr(self.model, "pooler", self) is not None
        found = getattr(model, "visual_projection", None)
        self.projection = found if isinstance(found, nn.Linear) else nn.Identity()
        given = self.model.config
        size = given.image_size if isinstance(given.image_size, int) else given.image_size[0]
        self._set_input(size, "rgb", mean, std)
        self.patch = given.patch_size if isinstance(given.patch_size, int) else given.patch_size[0]
        self.width = given.hidden_size
        self.dim = found.out_features if isinstance(found, nn.Linear) else self.width
        self.depth = given.num_hidden_layers

    def forward(self, x: Tensor) -> Tensor:
        out = self.model(pixel_values=self._input(x))
        pooled = getattr(out, "pooler_output", None)
        return self.projection(out.last_hidden_state[:, 0] if pooled is None else pooled)

    def ordered_blocks(self) -> Sequence[nn.Module]:
        name = find_layers(self.model)[0]
        return [] if name is None else list(self.model.get_submodule(name).children())

    def recompute(self) -> bool:
        self.recomputed = recompute(self.model)
        return self.recomputed

    @property
    def layers(self) -> int:
        return self.depth

    def feature_map(self, x: Tensor, layer: int | None = None) -> Tensor:
        self.check_layer(layer)
        out = self.model(pixel_values=self._input(x), output_hidden_states=layer is not None)
        tokens = out.last_hidden_state if layer is None else out.hidden_states[layer]
        h, w = x.shape[-2] // self.patch, x.shape[-1] // self.patch
        return tokens[:, tokens.shape[1] - h * w :].transpose(1, 2).unflatten(2, (h, w))

    def config(self) -> dict[str, Any]:
        moments = {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}
        return {"modality": "image", "name": "two-towers", "source": self.name, "size": self.size, "channels": "rgb",
                "dim": self.dim, "pooled": self.pooled, **moments}  # fmt: skip

    def save_files(self, folder: Path) -> None:
        self.whole.save_pretrained(folder)


def moments_of(folder: Path) -> tuple[Any, Any]:
    """Mean and deviation of the channels by which a folder's images are normalised."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return MEAN, STD
    with files.reading(path, MEND):
        said = json.loads(path.read_text("utf-8"))
    said = said.get("image_processor", said)
    if not said.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return said.get("image_mean", HALF), said.get("image_std", HALF)


def image_of(folder: str | Path, model: Any = None) -> ImageEncoder:
    """The encoder of images of a folder of transformers or open_clip. Raises InputError where it has none."""
    place = Path(folder)
    if not is_vision(place):
        raise InputError(f"The model in {folder} takes no images.", "Give the folder of a CLIP, SigLIP or ViT.")
    if openclip.holds(place):
        made: ImageEncoder = openclip.image_of(place, model)
    else:
        made = HubImage(model or whole_model(place), *moments_of(place), str(folder))
    made.pretrained = True
    return made


def text_of(folder: str | Path, length: int | None = None, model: Any = None) -> TextEncoder:
    """The tower of texts of a folder with two towers."""
    place = Path(folder)
    if openclip.holds(place):
        made: TextEncoder = openclip.text_of(place, model)
    else:
        made = TowerText(model or whole_model(place), tokenizer_of(place), length, str(folder))
    made.pretrained = True
    return made


def both_of(folder: str | Path) -> dict[str, Any]:
    """ "image" and "text" -> the towers of a folder, read once."""
    place = Path(folder)
    model = openclip.model_of(place) if openclip.holds(place) else whole_model(place)
    return {"image": image_of(folder, model=model), "text": text_of(folder, model=model)}


def restored_text(config: Mapping[str, Any], folder: Path) -> TowerText:
    """The tower that `config` describes, with random weights; `folder` holds what `save_files` wrote."""
    made = TowerText(fresh_model(folder), tokenizer_of(folder), config["length"], config["source"])
    made.restore_inserted(config)
    return made


def restored_image(config: Mapping[str, Any], folder: Path) -> HubImage:
    """As `restored_text`, of images."""
    model = fresh_model(folder)
    if not config["pooled"]:
        model.pooler = None
    return HubImage(model, config["mean"], config["std"], config["source"])


def image_side(folder: str | Path) -> int:
    """The side in pixels of the images that the model in a folder takes."""
    if openclip.holds(folder):
        return openclip.image_side(Path(folder))
    said = said_by(Path(folder))
    size = said.get("vision_config", said).get("image_size", 224)
    return size if isinstance(size, int) else size[0]


def of_options(folder: str, size: int | None, weights: Any, channels: str, grid: int | None) -> ImageEncoder:
    """The encoder of images of a folder. Raises InputError for options that only other encoders have."""
    side = image_side(folder)
    others = {"weights": weights, "grid": grid, "channels": None if channels == "rgb" else channels,
              "size": None if size in (None, side) else size}  # fmt: skip
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise InputError(f"The model in {folder} has {given[0]} of its own"
                         + (f": {side} pixels." if given[0] == "size" else "."), f"Leave out {given[0]}.")  # fmt: skip
    return image_of(folder)
