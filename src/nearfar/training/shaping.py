"""What the settings make of an encoder before it is trained: adapters in place of its weights, all of it or its first
stages frozen, blocks that are computed again in the backward pass, compiled code."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from nearfar.encoders import Encoder, Frozen
from nearfar.encoders.depth import freeze_stages, rates
from nearfar.encoders.lora import adapted, check_peft
from nearfar.errors import InputError

if TYPE_CHECKING:
    from nearfar.methods.base import Method
    from nearfar.training.settings import TrainSettings

NEEDS_TRAINING = {
    "lora": "trains adapters of the encoders",
    "freeze_stages": "freezes the first part of the encoders",
    "gradient_checkpointing": "saves memory of encoders that are trained",
    "layer_decay": "is about the learning rates of the encoders",
    "compile": "makes the training of encoders faster",
}


def check_shape(settings: TrainSettings, pretrained: bool) -> None:
    """Raises InputError for options that contradict each other, or that suit a pretrained encoder alone. pretrained:
    whether there is one."""
    if settings.lora is not None:
        check_peft()
    if settings.compile:
        check_compiler(settings)
    for name, what in NEEDS_TRAINING.items():
        if settings.freeze and getattr(settings, name) not in (None, False):
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} {what}; --freeze keeps these as they are.", "Leave one out.")
    if settings.lora is not None and settings.freeze_stages is not None:
        raise InputError("--freeze-stages: --lora keeps all weights of the encoders as they are already.",
                         "Leave one out.")  # fmt: skip
    for name, does in (("lora", "adapts"), ("freeze_stages", "keeps the first part of")):
        if getattr(settings, name) is not None and not pretrained:
            raise InputError(f"--{name.replace('_', '-')} {does} a pretrained encoder; none is named.",
                             "Name one: --model FOLDER, --text-encoder FOLDER or --encoder FOLDER.")  # fmt: skip


def shaped(encoder: Encoder, settings: TrainSettings) -> Encoder:
    """The encoder as it is trained. `check_shaped` tells where an option could do nothing at all."""
    if settings.gradient_checkpointing and not moves_twice(encoder):
        encoder.recompute()
    if settings.freeze_stages is not None and encoder.pretrained and encoder.stages():
        freeze_stages(encoder, settings.freeze_stages)
    if settings.lora is not None and encoder.pretrained:
        return adapted(encoder, settings.lora)
    return Frozen(encoder) if settings.freeze else encoder


def moves_twice(encoder: Encoder) -> bool:
    """Whether a second pass over a batch would move running statistics once more."""
    return any(isinstance(part, _BatchNorm) and part.track_running_stats for part in encoder.modules())


def check_shaped(method: Method, settings: TrainSettings) -> list[str]:
    """Notes on what the options did to the encoders of a method. Raises InputError where one does nothing at all."""
    notes, made = [], encoders_of(method)
    if settings.gradient_checkpointing:
        mend = "Leave it out, take a transformer, or save memory with --micro-batch."
        notes += _in_vain("--gradient-checkpointing", made, lambda one: one.recomputed, _why, mend)
    if settings.freeze_stages is not None:
        mend = "Leave it out, or freeze all of it with --freeze."
        known = [one for one in made if one.pretrained]
        notes += _in_vain("--freeze-stages", known, lambda one: one.frozen_stages is not None, _stageless, mend)
        notes += [_frozen(one) for one in known if one.frozen_stages is not None]
    if settings.layer_decay is not None:
        rates(method, settings.layer_decay)
    return notes


def encoders_of(method: Method) -> list[Encoder]:
    """The encoders that a method trains or has frozen in part, each once, without those within others."""
    found: dict[Encoder, set[Any]] = {}
    for one in method.modules():
        if not isinstance(one, Encoder) or any(one in within for within in found.values()):
            continue
        if one.frozen_stages or any(p.requires_grad for p in one.parameters()):
            found[one] = set(one.modules())
    return list(found)


def _in_vain(
    option: str, made: Sequence[Encoder], done: Callable[[Encoder], bool], why: Callable[[Encoder], str], mend: str
) -> list[str]:
    """Notes on the encoders to which an option did nothing; InputError where it did so to none at all."""
    without = [one for one in made if not done(one)]
    if len(without) == len(made):
        raise InputError(f"{option}: {why(without[0]) if made else 'no encoder is trained'}.", mend)
    return [f"note: {option}: {why(one)}" for one in without]


def _why(encoder: Encoder) -> str:
    if moves_twice(encoder):
        return f"{encoder.named} cannot be computed again: its batch norms would count every batch twice"
    return f"{encoder.named} has no blocks that can be computed again"


def _stageless(encoder: Encoder) -> str:
    return f"{encoder.named} has no blocks"


def _frozen(encoder: Encoder) -> str:
    """What of an encoder is frozen."""
    assert encoder.frozen_stages is not None
    count, there = encoder.frozen_stages
    sizes = [(p.numel(), p.requires_grad) for p in encoder.parameters()]
    many, of = sum(n for n, trained in sizes if not trained), sum(n for n, _ in sizes)
    what = f" and the first {count} of {there} stages" if count else f", none of {there} stages"
    return f"frozen: the embeddings{what} of {encoder.named} ({many:,} of {of:,} parameters)"


COMPILERS = ("g++", "clang++", "c++", "cl")


def has_compiler() -> bool:
    """Whether a C++ compiler is found, by CXX or its usual names."""
    return any(shutil.which(one) for one in (os.environ.get("CXX", ""), *COMPILERS) if one)


def check_compiler(settings: TrainSettings) -> None:
    """Raises InputError where torch.compile would find no compiler, or not the encoders as they train."""
    if settings.strategy == "fsdp":
        raise InputError("--compile translates whole encoders; --strategy fsdp divides them.", "Leave one out.")
    if not has_compiler():
        raise InputError(f"--compile needs a C++ compiler; none is found ({', '.join(COMPILERS)}).",
                         "Install one (apt install g++), name it by CXX, or leave out --compile.")  # fmt: skip


def compile_encoders(method: Method) -> None:
    """From now on the encoders of a method, teachers' included, run as code of torch.compile, with the random numbers
    (dropout) that they have without it. In place; names of weights stay."""
    for one in method.modules():
        if isinstance(one, Encoder) and not isinstance(one, Frozen):
            one.compile(options={"fallback_random": True})


def eagerly(settings: TrainSettings) -> AbstractContextManager[Any]:
    """While the block runs, compiled encoders run as they were written: for what is measured now and then on batches of
    other sizes, each of which would be compiled anew."""
    if not settings.compile:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")
