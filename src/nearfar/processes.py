"""One run on several processes: who writes and speaks, and how gradients meet. Cheap to import."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from nearfar.errors import InputError

LAUNCHED = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
FOLDER = "NEARFAR_RUN"


def rank() -> int:
    """The number of this process among those that were started together, known before they are connected."""
    for name in ("RANK", "SLURM_PROCID"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    local, node = (int(os.environ.get(name) or 0) for name in ("LOCAL_RANK", "NODE_RANK"))
    return local or node


def leader() -> bool:
    """Whether this process writes files and speaks to the user."""
    return rank() == 0


def started() -> int:
    """How many processes a launcher (torchrun, Lightning) started together; 1 without one."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def place() -> tuple[int, int]:
    """(rank, world) of the connected processes; (0, 1) where there are none."""
    import torch.distributed as dist

    connected = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if connected else (0, 1)


def share(count: int, number: int, world: int) -> slice:
    """Which of `count` items the process `number` of `world` takes; sizes differ by at most one."""
    return slice(round(number * count / world), round((number + 1) * count / world))


def mean(values: dict[str, float]) -> dict[str, float]:
    """Named numbers averaged over the connected processes; all of them must call it."""
    import torch
    import torch.distributed as dist

    if place()[1] == 1 or not values:
        return values
    total = torch.tensor(list(values.values()), dtype=torch.float64, device=device())
    dist.all_reduce(total)
    return dict(zip(values, (total / dist.get_world_size()).tolist(), strict=True))


def anywhere(flag: bool) -> bool:
    """Whether the flag is raised on any connected process; all of them must call it."""
    import torch
    import torch.distributed as dist

    if place()[1] == 1:
        return flag
    raised = torch.tensor(float(flag), device=device())
    dist.all_reduce(raised, dist.ReduceOp.MAX)
    return bool(raised)


def agreed(values: Any) -> Any:
    """The first process's tensor, on all of them: what each computes from equal numbers may still differ (running
    statistics, another machine's k-means)."""
    import torch.distributed as dist

    if place()[1] == 1:
        return values
    shared = values.to(device()).contiguous()
    dist.broadcast(shared, 0)
    return shared.to(values.device)


def average_gradients(parameters: Iterable[Any]) -> None:
    """The mean of the gradients over the connected processes, in one exchange a dtype. A parameter without a gradient
    on every process keeps none."""
    import torch
    import torch.distributed as dist

    if place()[1] == 1:
        return
    trained = [p for p in parameters if p.requires_grad]
    held = torch.tensor([float(p.grad is not None) for p in trained], device=device())
    dist.all_reduce(held, dist.ReduceOp.MAX)
    used = [p for p, h in zip(trained, held.tolist(), strict=True) if h]
    for p in used:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    for kind in dict.fromkeys(p.dtype for p in used):
        part = [p for p in used if p.dtype == kind]
        flat = torch.cat([p.grad.reshape(-1) for p in part])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for p, grad in zip(part, flat.split([p.numel() for p in part]), strict=True):
            p.grad.copy_(grad.view_as(p.grad))


def device() -> Any:
    """Where small messages live: NCCL knows only the GPU's memory."""
    import torch
    import torch.distributed as dist

    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def check_launch(devices: int, nodes: int) -> None:
    """Raises where a launcher started another number of processes than was asked for."""
    if started() > 1 and started() != devices * nodes:
        raise InputError(
            f"{started()} processes were started together, but --devices {devices} and --nodes {nodes} ask for "
            f"{devices * nodes}.",
            f"Add --devices {started() // nodes}.",
        )


@contextmanager
def connected() -> Iterator[None]:
    """Leaves no process group and no mark of a launch behind, so that the next run of this process starts afresh."""
    before = {name: os.environ.get(name) for name in LAUNCHED}
    joined = place()[1] > 1
    try:
        yield
    finally:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized() and not joined:
            dist.destroy_process_group()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
