"""Encoders: pictures or texts to one vector each. Small ones from scratch, timm's and transformers' from local files.

    encoder = encoders.image("small", size=32)          # or any timm name
    encoder = encoders.text("small", texts=my_texts)    # or "minilm", or a folder
    vectors = encoder(encoder.prepare(items))           # (n, encoder.dim)
"""

from pathlib import Path
from typing import Any

from nearfar.encoders.base import Encoder
from nearfar.encoders.batches import vectors
from nearfar.encoders.frozen import Frozen
from nearfar.encoders.joined import Joined
from nearfar.encoders.pictures import ImageEncoder, SmallImage, TimmImage, image
from nearfar.encoders.texts import SmallText, TextEncoder, TransformerText, text, train_tokenizer
from nearfar.encoders.tokens import Special, Tokens, frame, pad
from nearfar.errors import InputError, did_you_mean


def from_config(config: dict[str, Any], folder: str | Path | None = None) -> Encoder:
    """The encoder that `config` describes, with random weights; `folder` holds what its `save_files` wrote.

    Raises InputError for a description or files that do not make one.
    """
    config = dict(config)
    if config.pop("frozen", False):
        return Frozen(from_config(config, folder))
    if "joined" in config:
        return Joined([from_config(part, folder) for part in config["joined"]])
    try:
        if config["modality"] == "image":
            grid = config.get("grid", 1) if config["name"] == "small" else None  # older folders say none
            return image(config["name"], config["size"], channels=config["channels"], dim=config["dim"], grid=grid)
        if config["name"] == "small":
            return _small_text(config, Path(folder or "."))
        return _transformer_text(config, Path(folder or "."))
    except KeyError as error:
        raise InputError(f"The description of the encoder has no {error}.") from error


def _small_text(config: dict[str, Any], folder: Path) -> SmallText:
    from tokenizers import Tokenizer
    if not (folder / "tokenizer.json").is_file():
        raise InputError(f"{folder / 'tokenizer.json'} is missing.", "The model folder is not complete.")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return SmallText(tokenizer, config["dim"], config["hidden"], config["dropout"], config["length"])


def _transformer_text(config: dict[str, Any], folder: Path) -> TransformerText:
    from transformers import AutoConfig, AutoModel, AutoTokenizer
    try:
        inner = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise InputError(f"{folder} does not hold a transformer's configuration and tokenizer: {error}",
                         "The model folder is not complete.") from error
    model = AutoModel.from_config(inner, trust_remote_code=False)
    layers = config.get("layers") or [{"layer": "dense", **layer} for layer in config.get("dense", ())]
    return TransformerText(model, tokenizer, config["pooling"], config["length"], layers, config["source"],
                           config.get("prompt", ""), config.get("pool_prompt", True))


def check_names(picture: str, text: str, weights: str | None) -> None:
    """Raises InputError early for names that `image` and `text` would refuse: an architecture, a folder, a file."""
    if picture != "small":
        import timm
        if not timm.is_model(picture):
            raise InputError(f"timm has no model '{picture}'.{did_you_mean(picture, ['small', *timm.list_models()])}",
                             "See timm.list_models(), or use 'small'.")
    if text not in ("small", "minilm") and not (text.strip() and Path(text).is_dir()):
        raise InputError(f"There is no text encoder '{text}': it is neither 'small' nor 'minilm' nor a folder.",
                         "Models are not downloaded: give the path of a local folder.")
    if weights is not None and not (weights.strip() and Path(weights).exists()):
        raise InputError(f"There is no weights file or folder '{weights}'.", "Check --weights.")


__all__ = ["Encoder", "Frozen", "ImageEncoder", "Joined", "SmallImage", "SmallText", "Special", "TextEncoder",
           "TimmImage", "Tokens", "TransformerText", "frame", "from_config", "image", "pad", "text", "train_tokenizer",
           "vectors"]
