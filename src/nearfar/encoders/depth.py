"""The depth of an encoder: what embeds its input, the blocks that follow one after the other, and what stands behind
them. By it learning rates decay, and the first blocks are frozen.

    stages(encoder) = [what embeds, block 1, ..., block N, what stands behind], each a list of parameters
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from nearfar.encoders.base import Encoder
from nearfar.errors import InputError


def parted(encoder: nn.Module, blocks: Sequence[nn.Module], behind: Sequence[nn.Parameter] = ()) -> list[list[Any]]:
    """The parameters of an encoder by stages, N + 2 lists; none where it has no blocks.

    What is registered before the first block embeds, and so do tables of vectors wherever they are registered; the
    rest, and the parameters in `behind`, stands behind the blocks.
    """
    if not blocks:
        return []
    place: dict[nn.Parameter, int] = dict.fromkeys(behind, len(blocks) + 1)
    for number, block in enumerate(blocks, 1):
        for p in block.parameters():
            place.setdefault(p, number)
    tables = {p for part in encoder.modules() if isinstance(part, nn.Embedding) for p in part.parameters()}
    found: list[list[nn.Parameter]] = [[] for _ in range(len(blocks) + 2)]
    reached = False
    for p in encoder.parameters():
        reached = reached or 0 < place.get(p, 0) <= len(blocks)
        found[place.get(p, 0 if p in tables or not reached else len(blocks) + 1)].append(p)
    return found


def rates(module: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """The share of the learning rate of each parameter of the encoders within a module: decay^(N + 1 - i) in stage i of
    0 to N + 1 (BEiT, Bao et al., ICLR 2022; timm). Encoders without blocks, heads and all else are not in it.

    Raises InputError where no encoder has blocks.
    """
    found: dict[nn.Parameter, float] = {}
    encoders = [one for one in module.modules() if isinstance(one, Encoder)]
    for encoder in encoders:
        stages = encoder.stages()
        for i, parameters in enumerate(stages):
            for p in parameters:
                found.setdefault(p, decay ** (len(stages) - 1 - i))
    if not found:
        names = ", ".join(dict.fromkeys(one.named for one in encoders)) or "there is none"
        raise InputError(f"--layer-decay goes by the blocks of an encoder, and none has any ({names}).",
                         "Leave it out, or take a transformer or an encoder of timm.")  # fmt: skip
    return found


def freeze_stages(encoder: Encoder, count: int) -> None:
    """Freezes what embeds and the first `count` blocks (of a convolutional network of timm: its stages): no gradient,
    and in evaluation mode always, so that statistics and dropout rest too. In place.

    Raises InputError for an encoder without blocks, or with fewer.
    """
    stages = encoder.stages(coarse=True)
    if not stages:
        raise InputError(f"--freeze-stages counts the blocks of an encoder; {encoder.named} has none.",
                         "Leave it out, or freeze all of it with --freeze.")  # fmt: skip
    there = len(stages) - 2
    if count > there:
        raise InputError(f"--freeze-stages {count}: {encoder.named} has {there} stages.",
                         f"Use {there} or less, or freeze all of it with --freeze.")  # fmt: skip
    frozen = {p for stage in stages[: count + 1] for p in stage}
    for p in frozen:
        p.requires_grad_(False)
    whole = [part for part in encoder.modules() if (own := list(part.parameters())) and frozen.issuperset(own)]
    encoder.resting, encoder.frozen_stages = tuple(whole), (count, there)
