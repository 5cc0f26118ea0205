"""A cluster of Ray on this machine for tests: the processes that `ray start` starts, ended with their starter."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STARTED = "Ray runtime started"
PATIENCE = 240  # seconds; a machine that does other work starts Python slowly


def free_ports(count):
    """Ports that nobody listens at."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def cluster(processors=2):
    """The address HOST:PORT of a small cluster. Its ports are named, since Ray waits only 15 seconds for processes that
    choose theirs. It would give up where a busy machine takes more than half a minute: it is given more, and tried
    again. What its processes still write while they end may stay."""
    # of a short name: paths of sockets are short
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        head, address = started(Path(folder), processors)
        try:
            yield address
        finally:
            head.terminate()
            head.wait(60)


def started(folder, processors, tries=3):
    """The process that keeps a cluster, and the cluster's address."""
    for _ in range(tries):
        head, port, log = begun(folder, processors)
        until = time.monotonic() + PATIENCE
        while head.poll() is None and time.monotonic() < until:
            if STARTED in log.read_text():
                return head, f"{address(log)}:{port}"
            time.sleep(0.2)
        head.kill()
        head.wait()
    raise AssertionError(log.read_text()[-2000:])


def begun(folder, processors):
    """A process that starts a cluster, the port of its head, and what it says."""
    head, *agents = free_ports(6)
    flags = (
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "runtime-env-agent-port",
        "metrics-export-port",
        "ray-client-server-port",
    )
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={head}",
        f"--num-cpus={processors}", "--object-store-memory=80000000", "--include-dashboard=false", "--no-monitor",
        "--include-log-monitor=false", "--disable-usage-stats", f"--temp-dir={folder}",
        *(f"--{flag}={port}" for flag, port in zip(flags, agents, strict=True)),
    ]  # fmt: skip
    calm = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    calm |= dict.fromkeys(("RAY_raylet_start_wait_time_s", "RAY_worker_register_timeout_seconds"), str(PATIENCE))
    log = folder / "start.log"
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=os.environ | calm)
    return process, head, log


def address(log):
    """The address of this machine that the cluster took."""
    line = next(line for line in log.read_text().splitlines() if "Local node IP" in line)
    return re.search(r"\d+(\.\d+){3}", line).group()


def working(name="Worker"):
    """The numbers of the processes of this cluster's actors of a class."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(f"ray::{name}".encode()):
                found.append(int(entry.name))
    return found
