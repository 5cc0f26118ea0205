"""Heads as data: what a model folder says of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from nearfar.errors import InputError
from nearfar.heads.ensemble import Ensemble

ACTIVATIONS: Mapping[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU}


def describe(head: nn.Module) -> list[dict[str, Any]]:
    """A head of linear layers, norms, ReLUs, ELUs and tanhs, or two of them side by side, as data; InputError for other
    parts."""
    if isinstance(head, Ensemble):
        parts = {name: describe(part) for name, part in (("first", head.first), ("second", head.second))}
        return [{"layer": "ensemble", "share": head.share, **parts}]
    out: list[dict[str, Any]] = []
    for part in head if isinstance(head, nn.Sequential) else [head]:
        if isinstance(part, nn.Linear):
            out.append(
                {"layer": "linear", "in": part.in_features, "out": part.out_features, "bias": part.bias is not None}
            )
        elif isinstance(part, nn.BatchNorm1d):
            out.append({"layer": "batch_norm", "size": part.num_features, "affine": part.affine})
        elif isinstance(part, nn.LayerNorm):
            out.append({"layer": "layer_norm", "size": part.normalized_shape[0]})
        elif isinstance(part, tuple(ACTIVATIONS.values())):
            out.append({"layer": next(name for name, kind in ACTIVATIONS.items() if isinstance(part, kind))})
        elif not isinstance(part, nn.Identity):
            raise InputError(
                f"A head with a {type(part).__name__} cannot be stored.",
                "Linear, BatchNorm1d, LayerNorm, ReLU, ELU and Tanh layers can: see nearfar.heads.",
            )
    return out


def build(layers: Sequence[Mapping[str, Any]]) -> nn.Module:
    """The head of `describe`; one linear layer alone comes back alone."""
    if layers and layers[0]["layer"] == "ensemble":
        both = (build(layers[0][name]) for name in ("first", "second"))
        return Ensemble(*both, share=layers[0]["share"])
    made: list[nn.Module] = []
    for layer in layers:
        if layer["layer"] == "linear":
            made.append(nn.Linear(layer["in"], layer["out"], bias=layer["bias"]))
        elif layer["layer"] == "batch_norm":
            made.append(nn.BatchNorm1d(layer["size"], affine=layer["affine"]))
        elif layer["layer"] == "layer_norm":
            made.append(nn.LayerNorm(layer["size"]))
        else:
            made.append(ACTIVATIONS[layer["layer"]]())
    return made[0] if len(made) == 1 else nn.Sequential(*made)


def width(layers: Sequence[Mapping[str, Any]], inputs: int) -> int:
    """How many numbers the head of `describe` gives of so many."""
    if layers and layers[0]["layer"] == "ensemble":
        return sum(width(layers[0][name], inputs) for name in ("first", "second"))
    return next((layer["out"] for layer in reversed(layers) if layer["layer"] == "linear"), inputs)
