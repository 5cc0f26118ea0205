"""Which parts of a model are divided among the processes that train it (FSDP2, Zhao et al., arXiv 2304.11277)."""

from __future__ import annotations

from typing import Any

from torch import nn

from nearfar.encoders.base import Encoder

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)  # whose parts are often called one by one


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The blocks of all encoders within a module, teachers' included, each once and none within another: the largest
    modules whose parameters all belong to one block of `Encoder.stages`."""
    found: dict[nn.Module, None] = {}
    for encoder in module.modules():
        if isinstance(encoder, Encoder):
            for stage in encoder.stages()[1:-1]:
                _gather_blocks(encoder, set(stage), found)
    return list(found)


def _gather_blocks(module: nn.Module, stage: set[nn.Parameter], found: dict[nn.Module, None]) -> None:
    for part in module.children():
        own = set(part.parameters())
        if part in found or not own & stage:
            continue
        if own <= stage and not isinstance(part, CONTAINERS):
            found[part] = None
        else:
            _gather_blocks(part, stage, found)


def shard(module: nn.Module, mesh: Any) -> None:
    """Divides the blocks of the encoders of a module among the processes of a mesh (torch's `DeviceMesh`). In place."""
    from torch.distributed.fsdp import fully_shard

    for block in blocks_of(module):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)  # each is a root, which would stay whole
