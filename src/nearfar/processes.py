"""One run on several processes: who writes and speaks, and how gradients meet. Cheap to import."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from nearfar.errors import InputError, NearfarError

STORE, PARENT = "NEARFAR_STORE", "NEARFAR_PARENT"
PATIENCE = timedelta(minutes=10)
LAUNCHED = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
FOLDER, DATA = "NEARFAR_RUN", "NEARFAR_DATA"


def rank() -> int:
    """The number of this process among those that were started together, known before they are connected.

    RANK or SLURM_PROCID left in an environment by something else count for nothing: only where more than one process
    was started are they followed.
    """
    if started() > 1:
        for name in ("RANK", "SLURM_PROCID"):
            if os.environ.get(name, "").isdigit():
                return _number(name)
    elif "MASTER_ADDR" not in os.environ:
        return 0
    return _number("LOCAL_RANK") or _number("NODE_RANK")


def _number(name: str) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else 0


def leader() -> bool:
    """Whether this process writes files and speaks to the user."""
    return rank() == 0


def started() -> int:
    """How many processes a launcher (torchrun, Lightning, srun) started together; 1 without one."""
    if _number("WORLD_SIZE"):
        return _number("WORLD_SIZE")
    # The script of a batch job runs once, whatever the job's number of tasks; srun starts a step of them.
    return _number("SLURM_STEP_NUM_TASKS") or 1 if "SLURM_PROCID" in os.environ else 1


def rank_and_world() -> tuple[int, int]:
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

    if rank_and_world()[1] == 1 or not values:
        return values
    total = torch.tensor(list(values.values()), dtype=torch.float64, device=device())
    dist.all_reduce(total)
    return dict(zip(values, (total / dist.get_world_size()).tolist(), strict=True))


def any_rank(flag: bool) -> bool:
    """Whether the flag is raised on any connected process; all of them must call it."""
    import torch
    import torch.distributed as dist

    if rank_and_world()[1] == 1:
        return flag
    raised = torch.tensor(float(flag), device=device())
    dist.all_reduce(raised, dist.ReduceOp.MAX)
    return bool(raised)


def broadcast(values: Any) -> Any:
    """The first process's tensor, on all of them: what each computes from equal numbers may still differ (running
    statistics, another machine's k-means)."""
    import torch.distributed as dist

    if rank_and_world()[1] == 1:
        return values
    shared = values.to(device()).contiguous()
    dist.broadcast(shared, 0)
    return shared.to(values.device)


def sharded(tensor: Any) -> bool:
    """Whether a tensor is divided among the processes (torch's `DTensor`): then its gradients have met already."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Any) -> Any:
    """All of a tensor, gathered where it is divided; all processes must call it."""
    return tensor.full_tensor() if sharded(tensor) else tensor


def average_gradients(parameters: Iterable[Any]) -> None:
    """The mean of the gradients over the connected processes, in one exchange a dtype. A parameter without a gradient
    on every process keeps none; those of sharded ones are means already."""
    import torch
    import torch.distributed as dist

    if rank_and_world()[1] == 1:
        return
    trained = [p for p in parameters if p.requires_grad and not sharded(p)]
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
    """Raises where a launcher started another number of processes than was asked for, or where several machines are
    asked for and nothing says how they find each other."""
    if nodes > 1 and started() == 1 and "MASTER_ADDR" not in os.environ:
        raise InputError(
            f"--nodes {nodes} asks for {nodes} machines, but nothing says where they meet (MASTER_ADDR is not set).",
            f"Start the same command on each with torchrun --nnodes {nodes} or srun, or leave --nodes out.",
        )
    if started() > 1 and started() != devices * nodes:
        raise InputError(
            f"{started()} processes were started together, but --devices {devices} and --nodes {nodes} ask for "
            f"{devices * nodes}.",
            f"Add --devices {started() // nodes} (and --nodes, where they run on several machines), or start one.",
        )


def prepare_local(backend: str, rank: int, world: int) -> None:
    """Connects the processes of one machine over a file, and their messages over the loopback interface alone: no
    host name is resolved and nothing listens to other machines.

    Raises NearfarError where they do not find each other within ten minutes, or there is no loopback.
    """
    import torch.distributed as dist

    if sys.platform.startswith("linux"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    try:
        dist.init_process_group(
            backend, init_method=f"file://{os.environ[STORE]}", rank=rank, world_size=world, timeout=PATIENCE
        )
    except (RuntimeError, ValueError) as error:
        raise NearfarError(
            f"The {world} processes of this machine cannot be connected: {str(error).splitlines()[0][:200]}.",
            "They need the loopback interface (ip link set lo up).",
        ) from error


def meet_here(strategy: Any, backend: str) -> None:
    """Connects the processes of a strategy of Lightning that were started on this machine, as `prepare_local` does."""
    if STORE in os.environ:
        strategy.set_world_ranks()
        prepare_local(backend, strategy.global_rank, strategy.world_size)


@contextmanager
def meeting_place() -> Iterator[None]:
    """Where the processes that are about to be started will find each other, and whom they follow. Those that a
    launcher started meet where it says."""
    if STORE in os.environ or started() > 1:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="nearfar-") as folder:
        os.environ |= {STORE: os.path.join(folder, "store"), PARENT: str(os.getpid())}
        try:
            yield
        finally:
            for name in (STORE, PARENT):
                os.environ.pop(name, None)


def follow_parent() -> None:
    """A process that another one started ends with it, also where that one is killed (Linux)."""
    parent = _number(PARENT)
    if not parent or parent == os.getpid() or not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


@contextmanager
def same_threads() -> Iterator[None]:
    """Gives torch as many threads as before, also where the block changes it: a launch divides them among the
    processes, and numba, which shares torch's OpenMP, sets its own number when it first works in parallel."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def connected() -> Iterator[None]:
    """Leaves no process group and no mark of a launch behind, so that the next run of this process starts afresh; with
    as many threads as before."""
    before = {name: os.environ.get(name) for name in (*LAUNCHED, "OMP_NUM_THREADS")}
    joined = rank_and_world()[1] > 1
    try:
        with same_threads(), meeting_place():
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
