"""Fully sharded training (FSDP2, Zhao et al., arXiv 2304.11277): every block of the encoders is divided among the
processes with its gradients and the optimiser's moments, and is whole only while it computes. What is no block (tables
of tokens, heads, temperatures) stays whole on each process; its gradients are averaged, as without sharding."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any

from nearfar import processes
from nearfar.encoders import Encoder
from nearfar.encoders.sharding import blocks_of
from nearfar.errors import InputError
from nearfar.methods.staged import Staged

if TYPE_CHECKING:
    from nearfar.methods.base import Method
    from nearfar.training.building import Setup
    from nearfar.training.settings import TrainSettings


class Whole:
    """Of a divided method a copy that is not, on the first process alone: what is measured, kept and saved. Of another
    there is none, and nothing to do."""

    def __init__(self, method: Method):
        same = {id(one): one for one in (method.survey, method.facts)}
        self.copy: Method | None = copy.deepcopy(method, same) if method.sharded and processes.leader() else None

    def of(self, setup: Setup) -> Setup:
        """The setup with the copy in place of its method, where there is one."""
        return setup if self.copy is None else dataclasses.replace(setup, method=self.copy)

    def gather(self, method: Method) -> None:
        """Gives the copy the state of the method; all processes must call it."""
        if not method.sharded:
            return
        state = {name: processes.whole(value) for name, value in method.state_dict().items()}
        if self.copy is not None:
            self.copy.load_state_dict(state)
            self.copy.to(method.device)


def sharded_strategy(backend: str, nodes: int) -> Any:
    """Lightning's strategy for it; checkpoints are whole, in one file."""
    from lightning.pytorch.strategies import ModelParallelStrategy

    class Sharded(ModelParallelStrategy):
        def setup_environment(self) -> None:
            if nodes == 1:
                processes.meet_here(self, backend)
            self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
            super().setup_environment()  # leaves processes that are connected as they are

    return Sharded(save_distributed_checkpoint=False, process_group_backend=backend)


def check_sharded(method: Method, settings: TrainSettings) -> list[str]:
    """What --strategy fsdp divides, in words. Raises InputError where it could divide nothing, or not this method."""
    if settings.strategy != "fsdp":
        return []
    why, mend, blocks = "", "Leave out --strategy.", blocks_of(method)
    if settings.devices * settings.nodes == 1:
        why, mend = "there is one process, which holds it all", "Ask for several: --devices 2."
    elif settings.freeze:
        why = "--freeze trains heads alone"
    elif settings.precision == "16":
        why, mend = "gradients are not scaled over the processes", "Use --precision bf16 or 32."
    elif settings.micro_batch == 1:
        why, mend = "they compute together, and one item may be too few for each", "Use --micro-batch 2 or more."
    elif method.in_turn or isinstance(method, Staged):
        why = f"'{method.slug}' trains {'its parts in turn' if method.in_turn else 'in stages'}"
    elif not blocks:
        names = ", ".join(dict.fromkeys(one.named for one in method.modules() if isinstance(one, Encoder)))
        why = f"none has any ({names or 'there is none'})"
        mend = "Leave it out, or take a transformer or an encoder of timm."
    if why:
        raise InputError(f"--strategy fsdp divides the blocks of the encoders among the processes; {why}.", mend)
    held = sum(p.numel() for p in method.parameters())
    divided = sum(p.numel() for block in blocks for p in block.parameters())
    count = settings.devices * settings.nodes
    return [f"divided among {count} processes: {len(blocks)} blocks of {divided:,} parameters; each holds the other "
            f"{held - divided:,} whole"]  # fmt: skip
