"""Work spread over the workers of a Ray cluster: each keeps what it needs, does one job after the other, and is started
again, with its job, where it dies.

    with connected("ray://head:10001") as cluster:
        for number, answer in spread(cluster, make, jobs):      # make() is called once on each worker
            ...
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import pickle
import re
import socket
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from nearfar.errors import InputError, NearfarError, did_you_mean, install

if TYPE_CHECKING:
    from nearfar.sources.data import Data
    from nearfar.training.settings import DataSettings

Job = TypeVar("Job")
Answer = TypeVar("Answer")
Work = Callable[[Job], Answer]

REACH = 5.0  # seconds within which a cluster has to answer
CLIENT = 10001  # the port of Ray's client server, where an address names none
STORE = 200 << 20  # bytes of Ray's memory for results, of a cluster that is started here
AGAIN = 3  # times that a job is done anew whose worker died
SETTLE = 2.0  # seconds after which a cluster knows that work has ended


@dataclass(frozen=True)
class Cluster:
    """Where work is spread: how many `workers`, of how many `threads` each, with `cpus` and `gpus` of a machine, and
    how many of them other work keeps `busy`."""

    workers: int
    threads: int
    cpus: int
    gpus: int = 0
    busy: int = 0

    def words(self, jobs: int) -> str:
        """Who does so many pieces of work, and who has to wait."""
        many = min(jobs, self.workers)
        gpu = " and a GPU" if self.gpus else ""
        held = max(0, many - (self.workers - self.busy))
        waits = f"; the cluster does other work, for which {held} of them wait{'s' * (held == 1)}" if held else ""
        return f"on Ray: {many} worker{'s' * (many > 1)} of {self.threads} thread{'s' * (self.threads > 1)}{gpu}{waits}"


def check_on(on: str) -> None:
    """Raises InputError for what names no cluster, for one that is out of reach, and where Ray is not installed."""
    kind, _, address = on.partition("://")
    if kind != "ray" or (not address and on != "ray") or "/" in address:
        near = did_you_mean(kind, ["ray"])
        raise InputError(
            f"--on takes ray, or ray://HOST:PORT. Got '{on}' instead.{near}",
            "ray is the cluster of RAY_ADDRESS or of `ray start` on this machine, or else processes of this machine.",
        )
    try:
        _ray()
    except ModuleNotFoundError as error:
        raise InputError(
            f"--on {on} needs the package '{error.name}', which is not installed.",
            install("ray"),
        ) from error
    named, place = (on, address) if address else ("RAY_ADDRESS", os.environ.get("RAY_ADDRESS", ""))
    if place and place not in ("auto", "local"):
        check_reached(named, place.removeprefix("ray://"))


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    return ray


@contextlib.contextmanager
def connected(on: str, gpus: bool = False) -> Iterator[Cluster]:
    """A cluster of Ray while the block runs: the one at ray://HOST:PORT, else that of RAY_ADDRESS or of `ray start` on
    this machine, else processes of this machine that end with the block. What this process is connected with already
    stays so.

    A worker takes as many threads as this process (OMP_NUM_THREADS), so it comes to the same numbers. gpus: where the
    cluster has GPUs, a worker is one of them.
    Raises InputError where the cluster is out of reach, or Ray is not installed.
    """
    import torch

    check_on(on)
    ray, threads = _ray(), torch.get_num_threads()
    already = ray.is_initialized()
    with contextlib.redirect_stdout(sys.stderr):  # where Ray tells of workers that died
        if not already:
            _connect(ray, on)
        try:
            found = divided([node["Resources"] for node in ray.nodes() if node["Alive"]], threads, gpus)
            if found is None:
                raise InputError(f"The cluster at {on} has no processors for work.", "Start it with `ray start`.")
            yield replace(found, busy=_busy(ray, found))
        finally:
            if not already:
                ray.shutdown()
            if (colours := sys.modules.get("colorama.initialise")) is not None:
                atexit.unregister(colours.reset_all)  # Ray's, which would end the output with a code


def _busy(ray: Any, cluster: Cluster) -> int:
    """How many workers wait for other work on the cluster; what has just ended counts no more."""
    until = time.monotonic() + SETTLE
    while True:
        have = ray.available_resources()
        free = int(have.get("CPU", 0) // cluster.cpus)
        free = min(free, int(have.get("GPU", 0) // cluster.gpus)) if cluster.gpus else free
        if free >= cluster.workers or time.monotonic() > until:
            return max(0, cluster.workers - free)
        time.sleep(0.1)


def divided(machines: Sequence[Mapping[str, float]], threads: int, gpus: bool) -> Cluster | None:
    """The workers that machines with so many "CPU" and "GPU" make; None where there are no processors."""
    have = [(int(one.get("CPU", 0)), int(one.get("GPU", 0))) for one in machines]
    if gpus and any(gpu and cpu for cpu, gpu in have):
        each = max(1, min(threads, *(cpu // gpu for cpu, gpu in have if gpu and cpu)))
        return Cluster(sum(min(gpu, cpu // each) for cpu, gpu in have), threads, each, 1)
    each = min(threads, max((cpu for cpu, _ in have), default=0))
    return Cluster(sum(cpu // each for cpu, _ in have), threads, each) if each else None


def _connect(ray: Any, on: str) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if "://" in on:
            ray.init(address=on, **quiet)
            return
        try:
            ray.init(include_dashboard=False, object_store_memory=STORE, **quiet)
        except ValueError:  # of a cluster that runs already the memory is not ours to set
            ray.init(**quiet)
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise NearfarError(f"Ray cannot be used at '{on}': {said}", "`ray status` says whether it runs.") from error


def check_reached(named: str, address: str) -> None:
    """Raises InputError, within seconds, where nothing listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":") if ":" in address else (address, "", str(CLIENT))
    try:
        with socket.create_connection((host.strip("[]"), int(port)), REACH):
            return
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(
            f"No Ray cluster answers at {named if address in named else f'{named} ({address})'}: {said}.",
            f"Start it (`ray start --head` listens for ray:// at port {CLIENT}), or mend the address.",
        ) from error


def spread(
    cluster: Cluster, make: Callable[[], Work[Job, Answer]], jobs: Sequence[Job]
) -> Generator[tuple[int, Answer | Exception], None, None]:
    """(number of the job, what the work says to it), as they come, each once. `make` gives the work, once a worker.

    An error that the work raises is its answer. A job whose worker dies is done anew, `AGAIN` times at most: then its
    answer is a NearfarError.
    """
    ray = _ray()
    given, waiting = ray.put(make), list(enumerate(jobs))[::-1]
    needs = {"num_cpus": cluster.cpus, "num_gpus": cluster.gpus}
    actor = ray.remote(Worker).options(**needs, max_restarts=-1, max_task_retries=AGAIN)
    free = [actor.remote(cluster.threads, *here()) for _ in range(min(cluster.workers, len(jobs)))]
    everyone, running = list(free), {}

    def give() -> None:
        while waiting and free:
            number, job = waiting.pop()
            worker = free.pop()
            running[worker.do.remote([given], job)] = number, worker

    try:
        give()
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            number, worker = running.pop(done)
            free.append(worker)
            give()  # so that nobody waits for what is done with the answer
            yield number, _answer(ray, done)
    finally:
        for worker in everyone:
            with contextlib.suppress(Exception):
                ray.kill(worker)


def _answer(ray: Any, done: Any) -> Any:
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError:  # a fault of the work itself, with its traceback
        raise
    except ray.exceptions.RayError as error:
        if "creation task" in str(error):
            return _unlike(_said(error))
        return NearfarError(
            f"A worker died {AGAIN + 1} times over one piece of the work.",
            "Does its memory suffice? Finished pieces are kept: the same command goes on.",
        )


def _said(error: Exception) -> str:
    """The error that Ray tells of, without the traceback above it."""
    lines = [line for line in str(error).splitlines() if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return (lines or [str(error)])[-1]


def _unlike(said: str) -> NearfarError:
    return NearfarError(
        f"The workers of the cluster cannot begin: {said[:200]}.",
        "nearfar, with the same extras, must be installed on all machines in one version.",
    )


def here() -> tuple[str, dict[str, str]]:
    """The folder and the part of the environment that a worker takes over of this process."""
    names = ("NEARFAR_CACHE", "NEARFAR_CACHE_SIZE", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM")
    return os.getcwd(), {name: os.environ[name] for name in names if name in os.environ}


class Worker:
    """An actor: makes the work at its first job, and keeps it. It is started again without what an argument of its
    constructor would refer to, so each job refers to what makes the work."""

    def __init__(self, threads: int, folder: str, environment: dict[str, str]):
        import torch

        os.environ.update(environment)
        with contextlib.suppress(OSError):
            os.chdir(folder)  # relative paths mean what they mean here
        torch.set_num_threads(threads)
        self.work: Work[Any, Any] | None = None

    def do(self, given: list[Any], job: Any) -> Any:
        """The answer to a job, or the error that it met. given: a reference to what makes the work."""
        try:
            if self.work is None:
                self.work = self.made(given[0])
            return self.work(job)
        except (NearfarError, RuntimeError, MemoryError, OSError) as error:
            return error

    def made(self, given: Any) -> Work[Any, Any]:
        ray = _ray()
        try:
            make = ray.get(given)
        except (ImportError, AttributeError, ray.exceptions.RayError) as error:  # what it names is not there
            raise _unlike(_said(error)) from error
        return make()


def named(data: Any) -> str | None:
    """The path or the name of data; None for those that were given in memory, or opened."""
    return os.fspath(data) if isinstance(data, str | os.PathLike) else None


class SameData:
    """Data as other processes open them: by their files where these are in reach (of data that were given in memory the
    one in the cache), else anew from `spec`, so that machines need no common folder for what is derived."""

    def __init__(self, data: Data, spec: Any, settings: DataSettings):
        self.pickled, self.hash, self.name = pickle.dumps(data), data.hash, data.name
        self.spec, self.settings, self.given = named(spec), settings, data.given is not None

    def open(self) -> Data:
        """Raises InputError where the data are not in reach of this machine, or are others there."""
        where = socket.gethostname()
        try:
            return pickle.loads(self.pickled)
        except OSError as error:
            if self.spec is None:
                mend = "Set NEARFAR_CACHE to a folder that all machines reach, or " if self.given else ""
                said = f"{mend}{'name' if mend else 'Name'} the data by a path that all machines reach."
                raise InputError(f"{where} does not reach the files of {self.name} ({error}).", said) from error
        found = self.settings.open(self.spec)
        if found.hash != self.hash:
            raise InputError(
                f"'{self.spec}' holds other rows on {where} than here.", "Bring the machines to one state."
            )
        return found
