"""Encoders in the forms of other libraries: a sentence-transformers folder, a timm folder."""

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.encoders.base import Encoder
from nearfar.encoders.frozen import unfrozen
from nearfar.encoders.images import TimmImage
from nearfar.encoders.pretrained import TransformerText
from nearfar.encoders.sentence import Dense
from nearfar.encoders.texts import PUT_IN, LayeredText, SmallText
from nearfar.errors import InputError


def sentence_transformer(encoder: Encoder, head: nn.Module | None, normalise: bool, folder: Path) -> None:
    """Write a text encoder, its head and the normalisation as a sentence-transformers folder.

    Batch norms of the head are folded into the linear layers before them (evaluation mode).
    """
    from sentence_transformers import SentenceTransformer

    parts = _parts()
    encoder = unfrozen(encoder)
    if isinstance(encoder, LayeredText) and (put := [PUT_IN[k] for k in PUT_IN if k in encoder.config()]):
        raise InputError(f"This encoder has {' and '.join(put)}, which sentence-transformers does not know.",
                         "Keep the nearfar folder: nearfar.load reads it.")  # fmt: skip
    if isinstance(encoder, SmallText):
        modules: list[Any] = [_static(encoder)]
    elif isinstance(encoder, TransformerText):
        modules = _transformer(encoder, folder)
    else:
        raise InputError(
            f"The encoder {type(encoder).__name__} of this model is not one that sentence-transformers knows: it loads "
            "transformers' models and the mean of word vectors ('small').",
            "`nearfar export MODEL --to onnx` writes any text encoder.",
        )
    for linear, activation in folded_layers(head):
        dense = parts.Dense(linear.in_features, linear.out_features, linear.bias is not None, activation)
        dense.linear.load_state_dict(linear.state_dict())
        modules.append(dense)
    if normalise:
        modules.append(parts.Normalize())
    prompt = (
        {}
        if not getattr(encoder, "prompt", "")
        else {"prompts": {"default": encoder.prompt}, "default_prompt_name": "default"}
    )
    SentenceTransformer(modules=modules, device="cpu", **prompt).save(str(folder), create_model_card=True)


def _parts() -> Any:
    """The module classes of sentence-transformers, under the name that all its versions know."""
    return importlib.import_module("sentence_transformers.models")


def folded_layers(head: nn.Module | None) -> list[tuple[nn.Linear, nn.Module]]:
    """The head in evaluation mode as (linear, activation) pairs."""
    out: list[tuple[nn.Linear, nn.Module]] = []
    for part in [] if head is None else head if isinstance(head, nn.Sequential) else [head]:
        if isinstance(part, nn.Linear):
            out.append((part, nn.Identity()))
        elif isinstance(part, nn.BatchNorm1d) and out and isinstance(out[-1][1], nn.Identity):
            out[-1] = (_fold(out[-1][0], part), nn.Identity())
        elif isinstance(part, nn.ReLU) and out and isinstance(out[-1][1], nn.Identity):
            out[-1] = (out[-1][0], nn.ReLU())
        elif not isinstance(part, nn.Identity):
            raise InputError(f"A head with a {type(part).__name__} there cannot be exported.")
    return out


@torch.no_grad()
def _fold(linear: nn.Linear, norm: nn.BatchNorm1d) -> nn.Linear:
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise InputError("A batch norm without running statistics cannot be exported.")
    scale = (variance.double() + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight.double())
    start: Tensor | float = 0.0 if linear.bias is None else linear.bias.double()
    shift = (start - mean.double()) * scale + (0 if norm.bias is None else norm.bias.double())
    out = nn.Linear(linear.in_features, linear.out_features)
    out.weight.copy_(linear.weight.double() * scale[:, None])
    out.bias.copy_(shift)
    return out


@torch.no_grad()
def _static(encoder: SmallText) -> Any:
    """The small encoder is a mean of one vector a token: a table, once its MLP has been applied."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(encoder.tokenizer.to_str())
    tokenizer.enable_truncation(encoder.special.length)
    ids = torch.arange(encoder.special.size, device=encoder.device)
    return _parts().StaticEmbedding(tokenizer, embedding_weights=encoder.vocabulary(ids).cpu().numpy())


def _transformer(encoder: TransformerText, folder: Path) -> list[Any]:
    parts = _parts()
    raw = folder / "raw"
    encoder.model.save_pretrained(raw)
    encoder.tokenizer.save_pretrained(raw)
    module = parts.Transformer(str(raw), max_seq_length=encoder.special.length)
    shutil.rmtree(raw)
    width = encoder.model.config.hidden_size
    pooling = parts.Pooling(width, pooling_mode=encoder.pooling, include_prompt=encoder.pool_prompt)
    return [module, pooling, *[_module(parts, layer) for layer in encoder.dense]]


def _module(parts: Any, layer: nn.Module) -> Any:
    """The module of sentence-transformers that computes what a layer after the pooling does."""
    if isinstance(layer, Dense):
        linear, activation = layer[0], layer[1]
        made = parts.Dense(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            activation,
            **({} if layer.passed is None else {"use_residual": True}),
        )
        made.linear.load_state_dict(linear.state_dict())
        if isinstance(layer.passed, nn.Linear):
            made.residual.load_state_dict(layer.passed.state_dict())
        return made
    if isinstance(layer, nn.LayerNorm):
        made = parts.LayerNorm(layer.normalized_shape[0])
        made.norm.load_state_dict(layer.state_dict())
        return made
    return parts.Dropout(layer.p) if isinstance(layer, nn.Dropout) else parts.Normalize()


def timm_folder(encoder: Encoder, head: nn.Module | None, folder: Path) -> TimmImage:
    """Write a timm encoder as timm.create_model("local-dir:FOLDER", pretrained=True) loads it."""
    encoder = unfrozen(encoder)
    if not isinstance(encoder, TimmImage):
        raise InputError(
            f"The encoder {type(encoder).__name__} of this model is not an architecture of timm.",
            "`nearfar export MODEL --to onnx` writes any image encoder.",
        )
    if head is not None or encoder.channels != "rgb":
        what = "a head" if head is not None else "orientation channels"
        raise InputError(
            f"This model has {what}, which timm does not know.",
            "Leave the head out (--head false)."
            if head is not None
            else "`nearfar export MODEL --to onnx` writes them.",
        )
    from safetensors.torch import save_file

    given = dict(encoder.model.pretrained_cfg)
    kept = ("mean", "std", "interpolation", "crop_pct", "first_conv", "classifier", "pool_size")
    config = {key: given[key] for key in kept if given.get(key) is not None}
    config |= {"input_size": [3, encoder.size, encoder.size], "num_classes": 0, "fixed_input_size": False}
    state = {key: value.detach().cpu().contiguous().clone() for key, value in encoder.model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    described = {
        "architecture": encoder.name,
        "num_classes": 0,
        "num_features": encoder.dim,
        "pretrained_cfg": config,
        "model_args": encoder.arguments,
    }
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    return encoder


def load_timm(folder: Path) -> nn.Module:
    """The model of such a folder, by timm itself."""
    import timm

    return timm.create_model(f"local-dir:{folder}", pretrained=True)
