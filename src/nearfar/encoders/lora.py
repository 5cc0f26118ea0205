"""Low-rank adapters (LoRA, Hu et al., ICLR 2022) by the library peft: W x + (alpha / r) B A x with W as it is.

encoder --adapted--> the same one, of which A and B alone are trained --merged--> a plain one, W + (alpha / r) B A
"""

from __future__ import annotations

import copy
import importlib.util
import sys

from torch import nn

from nearfar.encoders.base import Encoder
from nearfar.errors import InputError, install


def check_peft() -> None:
    """Raises InputError where the library is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise InputError("--lora needs the library peft.", install("lora"))


def adapted(encoder: Encoder, rank: int) -> Encoder:
    """The encoder with adapters of rank `rank` (alpha = 2 r, no dropout) beside all linear layers of its model but the
    projection behind its pooling; all else of it is frozen. In place.

    Raises InputError for an encoder without linear layers inside, and where peft is not installed."""
    check_peft()
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    body = getattr(encoder, "model", encoder)
    names = [name for name, part in body.named_modules() if isinstance(part, nn.Linear) and inside(name)]
    if not names:
        kind = encoder.config().get("name", type(encoder).__name__)
        raise InputError(f"--lora adapts linear layers; the {encoder.modality} encoder '{kind}' has none inside.",
                         "Leave it out, or take a transformer.")  # fmt: skip
    encoder.requires_grad_(False)
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, lora_dropout=0.0, bias="none")
    mode = body.training
    inject_adapter_in_model(settings, body)
    with torch.no_grad():
        for name, parameter in body.named_parameters():
            parameter.requires_grad_("lora_" in name)
    return encoder.train(mode)


def inside(name: str) -> bool:
    """Whether a layer of that name belongs to the blocks of a model, which stand in a numbered list."""
    return any(part.isdigit() for part in name.split("."))


def merged(encoder: Encoder) -> Encoder:
    """A copy of the encoder with its adapters added to the weights; the encoder itself where it has none."""
    if "peft" not in sys.modules:  # who put adapters in has imported it; its import takes as long as a short fit
        return encoder
    from peft.tuners.lora import LoraLayer

    if not any(isinstance(part, LoraLayer) for part in encoder.modules()):
        return encoder
    made = copy.deepcopy(encoder)
    for name, part in list(made.named_modules()):
        if isinstance(part, LoraLayer):
            part.merge()
            owner, _, last = name.rpartition(".")
            setattr(made.get_submodule(owner), last, part.get_base_layer())
    return made
