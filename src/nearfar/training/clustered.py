"""One run whose processes are workers of a Ray cluster, through Ray Train: each is told its rank as torchrun would tell
it, and trains as `fit` does on several processes. A worker that dies ends the others; all go on from the checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearfar import files, stores, workers
from nearfar.errors import InputError, NearfarError
from nearfar.progress import Say
from nearfar.training import engine
from nearfar.training.callbacks import Progress
from nearfar.training.engine import MARK, Asked
from nearfar.training.settings import TrainSettings

LOOK, LOOK_THERE = 1.0, 10.0  # seconds between two looks at the learning curve in a folder, and at a URL


@dataclass(frozen=True)
class Order:
    """What each worker is given; `run`: the folder that all reach, or the URL of one; `there`: the folder and the
    environment of the process that asks."""

    method: str
    data: workers.SameData
    run: Path | str
    resume: bool
    settings: TrainSettings
    options: Mapping[str, Any]
    asked: Asked
    threads: int = 1
    there: tuple[str, dict[str, str]] = (".", {})


def train_on(on: str, order: Order, say: Say, bar: Progress | None = None, steps: int = 0) -> None:
    """Trains on the cluster until the run is finished. Where a worker dies all begin again from the last checkpoint,
    `workers.AGAIN` times at most. Raises InputError where there are too few workers, the error of nearfar that a worker
    met at once (wrong input does not mend itself), and NearfarError where workers died again and again. bar: shows how
    many of the steps are done."""
    settings = order.settings
    count = settings.devices * settings.nodes
    with workers.connected(on, settings.device != "cpu") as cluster, tempfile.TemporaryDirectory() as place:
        if count > cluster.workers:
            raise InputError(
                f"--devices {settings.devices}{f' and --nodes {settings.nodes}' * (settings.nodes > 1)} ask for "
                f"{count} workers; the cluster has {cluster.workers} of {cluster.threads} threads.",
                "Ask for fewer, start more machines, or give each fewer threads (OMP_NUM_THREADS).",
            )
        say(cluster.words(count))
        given = dataclasses.replace(order, threads=cluster.threads, there=workers.here())
        with _marked(order.run), _followed(order.run, bar, steps):
            for again in range(workers.AGAIN + 1):
                try:
                    _trainer(cluster, given, count, place).fit()
                    return
                except NearfarError:
                    raise
                except Exception as error:
                    met = _met_by_a_worker(error)
                    held_on = again and isinstance(met, files.Busy)  # by a process that is about to end
                    if met is not None and not held_on:
                        raise met from error
                    if again == workers.AGAIN or not hasattr(error, "worker_failures"):  # no worker, Ray itself failed
                        raise _given_up(error, order.run) from error
                say(f"note: a worker failed; all go on from the last checkpoint ({again + 1} of {workers.AGAIN} times)")


@contextlib.contextmanager
def _marked(run: Path | str) -> Iterator[None]:
    """A folder has a mark while the block runs, by which workers know that they see the same one."""
    mark = None if isinstance(run, str) else run / MARK
    if mark is not None:
        mark.touch()
    try:
        yield
    finally:
        if mark is not None:
            mark.unlink(missing_ok=True)


def _trainer(cluster: workers.Cluster, order: Order, count: int, place: str) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    needs: dict[str, Any] = {"CPU": cluster.cpus} | ({"GPU": 1} if cluster.gpus else {})
    return TorchTrainer(
        train_worker,
        train_loop_config={"order": order},
        torch_config=TorchConfig(backend="nccl" if cluster.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=count,
            use_gpu=bool(cluster.gpus),
            resources_per_worker=needs,
            placement_strategy="SPREAD" if order.settings.nodes > 1 else "PACK",
        ),
        run_config=RunConfig(storage_path=place, failure_config=FailureConfig(max_failures=0)),
    )


def train_worker(given: dict[str, Any]) -> None:
    """What every worker does, in the process group that Ray Train has made."""
    import torch

    order: Order = given["order"]
    folder, environment = order.there
    os.environ.update(environment)
    os.environ["TORCHELASTIC_RUN_ID"] = "nearfar"  # Lightning reads the ranks as those of torchrun
    os.environ["GROUP_RANK"] = os.environ.get("NODE_RANK", "0")
    with contextlib.suppress(OSError):
        os.chdir(folder)
    torch.set_num_threads(order.threads)
    if isinstance(order.run, Path) and not (order.run / MARK).exists():
        raise InputError(f"{socket.gethostname()} does not see the run's folder {order.run}.",
                         "Name an --out that all machines of the cluster share, or a URL.")  # fmt: skip
    opened = order.data.open()
    engine.fit_opened(order.method, opened, order.asked, order.settings, order.options, order.run, _begun(order))


def _begun(order: Order) -> bool:
    """Whether there is a run to go on with, as the first worker sees it: an earlier one, or this one, whose worker
    died."""
    import torch.distributed as dist

    seen = [order.resume or _held(order.run, "config.json") is not None]
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(seen, 0)
    return seen[0]


def _held(run: Path | str, name: str) -> str | None:
    """What a file of the run holds; None where there is none."""
    if isinstance(run, str):
        return stores.Store(run).text(name)
    return (run / name).read_text("utf-8") if (run / name).exists() else None


def _failures(error: Exception) -> list[Exception]:
    """What each worker met, as Ray tells it."""
    return list((getattr(error, "worker_failures", None) or {0: error}).values())


def _met_by_a_worker(error: Exception) -> NearfarError | None:
    """The error of nearfar that a worker met; None where it died, or its processes lost each other."""
    for failure in _failures(error):
        found: BaseException | None = failure
        while found is not None:
            inner = getattr(found, "cause", None)
            for one in (found, inner):
                if isinstance(one, NearfarError):
                    return one
            found = found.__cause__ or (inner if isinstance(inner, BaseException) else None)
    return None


def _given_up(error: Exception, run: Path | str) -> NearfarError:
    """What Ray says of a run that failed again and again."""
    said = next((line for line in str(_failures(error)[0]).strip().splitlines()[::-1] if line.strip()), "")
    return NearfarError(f"Training on the cluster failed: {said[:300]}",
                        f"Its last checkpoint is kept: go on with --resume --out {run}.")  # fmt: skip


@contextlib.contextmanager
def _followed(run: Path | str, bar: Progress | None, steps: int) -> Iterator[None]:
    """Shows how far the workers have come, as their learning curve says, while the block runs."""
    if bar is None:
        yield
        return
    ended, look = threading.Event(), LOOK if isinstance(run, Path) else LOOK_THERE

    def follow() -> None:
        while not ended.wait(look):
            try:
                lines = (_held(run, "curve.jsonl") or "").split("\n")[:-1]
                if lines:
                    line = json.loads(lines[-1])
                    bar.log(line)
                    bar.reach(line["step"])
            except (OSError, InputError, ValueError):  # a line is on its way, or a store is away
                continue

    thread = threading.Thread(target=follow, daemon=True)
    bar.begin(steps)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        bar.stop()
