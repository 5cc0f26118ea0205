"""What a sentence-transformers folder says about its model: pooling, the layers after it, prompt, length, lower case.

`read` only reads JSON; `pool` and `build_layer` compute what the modules of sentence-transformers would.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearfar import files
from nearfar.errors import InputError

_MEND = "The model folder is damaged: copy it again."
POOLINGS = ("mean", "cls", "max", "lasttoken", "mean_sqrt_len_tokens", "weightedmean")
# In the order in which sentence-transformers joins them.
_OLD_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass
class SentenceFolder:
    """transformer: its folder, relative; pooling: modes whose vectors are joined, None where the folder lists none;
    pool_prompt: whether the tokens of the prompt count in the pooling; length: most tokens, None where it says
    nothing; layers: those after the pooling, as data, the last normalisation left out (`weights`: folder of each);
    prompts: name -> text; prompt: the one that every text gets."""

    transformer: str = ""
    pooling: tuple[str, ...] | None = None
    pool_prompt: bool = True
    length: int | None = None
    lower: bool = False
    layers: list[dict[str, Any]] = field(default_factory=list)
    weights: list[Path] = field(default_factory=list)
    prompts: dict[str, str] = field(default_factory=dict)
    prompt: str = ""


def read(folder: Path) -> SentenceFolder:
    """Of a folder without modules.json (one of transformers) nothing is said.

    Raises InputError for a file that is missing or damaged, and for a module that nearfar does not know.
    """
    said = SentenceFolder()
    if not (folder / "modules.json").is_file():
        return said
    modules = _json(folder / "modules.json", list)
    for module in modules:
        if not isinstance(module, dict) or not isinstance(module.get("type"), str):
            raise InputError(
                f"{folder / 'modules.json'} does not list modules with a type and a path.",
                "Give a folder written by sentence-transformers.",
            )
        _add(said, folder, module["type"].rsplit(".", 1)[-1], str(module.get("path") or ""))
    while said.layers and said.layers[-1]["layer"] == "normalize":  # cosine models normalise at the very end anyway
        said.layers.pop()
        said.weights.pop()
    _prompts(said, folder)
    return said


def _add(said: SentenceFolder, folder: Path, kind: str, place: str) -> None:
    path = folder / place
    if kind == "Transformer":
        said.transformer = place
        names = (
            "sentence_bert_config.json",
            "sentence_roberta_config.json",
            "sentence_distilbert_config.json",
            "sentence_camembert_config.json",
            "sentence_albert_config.json",
            "sentence_xlm-roberta_config.json",
            "sentence_xlnet_config.json",
        )
        config = next((_json(path / name) for name in names if (path / name).is_file()), {})
        said.length, said.lower = config.get("max_seq_length"), bool(config.get("do_lower_case"))
    elif kind == "Pooling":
        config = _json(path / "config.json")
        said.pooling, said.pool_prompt = _pooling(config, path), bool(config.get("include_prompt", True))
    elif kind in ("Dense", "LayerNorm", "Dropout", "Normalize"):
        said.layers.append(_layer(kind, path))
        said.weights.append(path)
    else:
        raise InputError(
            f"{folder} has a module '{kind}' that nearfar does not know.",
            "Transformer, Pooling, Dense, LayerNorm, Dropout and Normalize are.",
        )


def _layer(kind: str, path: Path) -> dict[str, Any]:
    if kind == "Normalize":
        return {"layer": "normalize"}
    config = _json(path / "config.json")
    try:
        if kind == "Dropout":
            return {"layer": "dropout", "p": float(config["dropout"])}
        if kind == "LayerNorm":
            return {"layer": "layer_norm", "size": int(config["dimension"])}
        if config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
            raise InputError(f"{path} has a layer of token vectors, which nearfar does not know.")
        activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
        return {
            "layer": "dense",
            "in": int(config["in_features"]),
            "out": int(config["out_features"]),
            "bias": bool(config.get("bias", True)),
            "activation": activation.rsplit(".", 1)[-1],
            **({"residual": True} if config.get("use_residual") else {}),
        }
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path / 'config.json'} does not describe a {kind} layer ({error}).",
            "The model folder is damaged: copy it again.",
        ) from error


def _pooling(config: dict[str, Any], path: Path) -> tuple[str, ...]:
    mode = config.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else list(mode or ())
    modes = modes or [name for key, name in _OLD_POOLINGS.items() if config.get(key)] or ["mean"]
    return check_pooling(modes, str(path))


def check_pooling(modes: str | Sequence[str], where: str = "") -> tuple[str, ...]:
    """One or several poolings as a tuple; InputError for an unknown one."""
    modes = [modes] if isinstance(modes, str) else list(modes)
    for mode in modes:
        if mode not in POOLINGS:
            raise InputError(
                f"{where + ': ' if where else ''}the pooling '{mode}' is not known.", f"Known: {', '.join(POOLINGS)}."
            )
    return tuple(modes)


def _prompts(said: SentenceFolder, folder: Path) -> None:
    path = folder / "config_sentence_transformers.json"
    config = _json(path) if path.is_file() else {}
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict):
        raise InputError(f"{path}: 'prompts' is not a table of names and texts.", "Mend the file, or leave them out.")
    said.prompts = {str(name): str(text) for name, text in prompts.items() if text}
    name = config.get("default_prompt_name")
    if name is not None and name not in prompts:
        raise InputError(
            f"{path}: the default prompt '{name}' is not among its prompts ({', '.join(prompts)}).", "Mend the file."
        )
    said.prompt = said.prompts.get(str(name), "")


def pool(states: Tensor, mask: Tensor, modes: Sequence[str], skip: int = 0) -> Tensor:
    """States (n, L, d) of the tokens under a mask (n, L) -> (n, d * number of modes), the modes side by side.

    skip: so many tokens at the beginning (a prompt) do not count. A row without a token gives zeros.
    """
    counted = mask.clone()
    counted[:, :skip] = False
    return torch.cat([_pool(states, counted, mode) for mode in modes], 1)


def pool_layers(states: Tensor, mask: Tensor, join: str = "concat", pooling: str = "mean", skip: int = 0) -> Tensor:
    """States (k, n, L, d) of k layers under a mask (n, L) -> one vector of each row: the layers joined to (n, k d), or
    their mean (n, d), then pooled over the tokens. A row without a token gives zeros.

    join: "concat" or "mean"; pooling: "mean", "mean_sqrt_len_tokens" (the sum over the square root of the count) or
    "max"; skip: so many tokens at the beginning ([CLS]) are neither summed nor counted. Source: DSE (arXiv 1908.05161),
    official code.
    """
    layers, n, length, width = states.shape
    joined = states.mean(0) if join == "mean" else states.permute(1, 2, 0, 3).reshape(n, length, layers * width)
    return pool(joined, mask, (pooling,), skip)


def _pool(states: Tensor, mask: Tensor, mode: str) -> Tensor:
    if mode == "max":
        lowest = torch.finfo(states.dtype).min
        return states.masked_fill(~mask[..., None], lowest).amax(1) * mask.any(1, keepdim=True)
    if mode in ("cls", "lasttoken"):
        places = torch.arange(mask.shape[1], device=mask.device)
        place = mask.float().argmax(1) if mode == "cls" else (places * mask).amax(1)
        return states[torch.arange(states.shape[0], device=states.device), place]
    weights = mask.to(states.dtype)
    if mode == "weightedmean":
        weights = weights * torch.arange(1, mask.shape[1] + 1, device=mask.device, dtype=states.dtype)
    total = weights.sum(1, keepdim=True).clamp(min=1)
    return (states * weights[..., None]).sum(1) / (total.sqrt() if mode == "mean_sqrt_len_tokens" else total)


class Normalize(nn.Module):
    """Rows of length 1."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1)


class Dense(nn.Sequential):
    """A linear layer and its activation, with `residual` beside what comes in."""

    def __init__(self, layer: dict[str, Any]):
        activation = getattr(nn, layer["activation"], None)
        known = isinstance(activation, type) and activation.__module__.endswith((".activation", ".linear"))
        if activation is None or not known or layer["activation"] in ("Linear", "Bilinear", "MultiheadAttention"):
            raise InputError(f"The activation '{layer['activation']}' of a linear layer is not known.")
        super().__init__(nn.Linear(layer["in"], layer["out"], bias=layer["bias"]), activation())
        self.passed: nn.Module | None = None
        if layer.get("residual"):
            same = layer["in"] == layer["out"]
            self.passed = nn.Identity() if same else nn.Linear(layer["in"], layer["out"], bias=False)

    def forward(self, input: Tensor) -> Tensor:
        out = self[1](self[0](input))
        return out if self.passed is None else out + self.passed(input)

    def load(self, state: dict[str, Tensor]) -> None:
        """Weights as sentence-transformers names them."""
        self[0].load_state_dict({k.removeprefix("linear."): v for k, v in state.items() if k.startswith("linear.")})
        if isinstance(self.passed, nn.Linear):
            self.passed.load_state_dict({"weight": state["residual.weight"]})


def build_layer(layer: dict[str, Any]) -> nn.Module:
    """The module of one entry of `SentenceFolder.layers`."""
    kind = layer["layer"]
    if kind == "dense":
        return Dense(layer)
    if kind == "layer_norm":
        return nn.LayerNorm(layer["size"])
    return nn.Dropout(layer["p"]) if kind == "dropout" else Normalize()


def _json(path: Path, kind: type = dict) -> Any:
    if not path.is_file():
        raise InputError(f"{path} is missing.", "The model folder is not complete.")
    with files.reading(path, _MEND):
        found = json.loads(path.read_text("utf-8"))
    if not isinstance(found, kind):
        raise files.damaged(path, f"it does not hold a JSON {'list' if kind is list else 'object'}", _MEND)
    return found
