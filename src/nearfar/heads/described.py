"""Heads as data: what a model folder says of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from nearfar.errors import InputError


def describe(head: nn.Module) -> list[dict[str, Any]]:
    """A head of linear layers, batch norms and ReLUs as data; InputError for other parts."""
    out: list[dict[str, Any]] = []
    for part in head if isinstance(head, nn.Sequential) else [head]:
        if isinstance(part, nn.Linear):
            out.append(
                {"layer": "linear", "in": part.in_features, "out": part.out_features, "bias": part.bias is not None}
            )
        elif isinstance(part, nn.BatchNorm1d):
            out.append({"layer": "batch_norm", "size": part.num_features, "affine": part.affine})
        elif isinstance(part, nn.ReLU):
            out.append({"layer": "relu"})
        elif not isinstance(part, nn.Identity):
            raise InputError(
                f"A head with a {type(part).__name__} cannot be stored.",
                "Linear, BatchNorm1d and ReLU layers can: see nearfar.heads.",
            )
    return out


def build(layers: Sequence[Mapping[str, Any]]) -> nn.Module:
    """The head of `describe`; one linear layer alone comes back alone."""
    made: list[nn.Module] = []
    for layer in layers:
        if layer["layer"] == "linear":
            made.append(nn.Linear(layer["in"], layer["out"], bias=layer["bias"]))
        elif layer["layer"] == "batch_norm":
            made.append(nn.BatchNorm1d(layer["size"], affine=layer["affine"]))
        else:
            made.append(nn.ReLU())
    return made[0] if len(made) == 1 else nn.Sequential(*made)
