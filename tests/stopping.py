"""Runs in processes of their own, which may end in the middle. They are forked from a server that has imported what a
run needs, so that starting one costs next to nothing."""

import json
import multiprocessing
import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 400


@dataclass(frozen=True)
class Done:
    """How the first process ended, or the first that failed, and what all of them wrote."""

    returncode: int
    stdout: str
    stderr: str


def clean():
    """The environment without the marks of a launcher."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    return kept | {"OMP_NUM_THREADS": "1"}


def start(body, out, method, table, to, options, stop):
    """Runs the lines of `body`, which find method, table, out, options (JSON) and stop, in as many processes as the
    option `devices` says, as a launcher such as torchrun starts them: the first failure ends all."""
    count = json.loads(options).get("devices", 1)
    environments = [clean() | (launched(k, count) if count > 1 else {}) for k in range(count)]
    if count > 1:
        port = str(free_port())
        environments = [one | {"MASTER_PORT": port} for one in environments]
    names = {"method": method, "table": str(table), "out": str(to), "options": options, "stop": str(stop)}
    logs = [(Path(f"{out}.{k}.out"), Path(f"{out}.{k}.err")) for k in range(count)]
    context = forkserver()
    running = [context.Process(target=_run, args=(body, names, one, *log))
               for one, log in zip(environments, logs, strict=True)]  # fmt: skip
    for one in running:
        one.start()
    code = _end(running)
    written = ["".join(log[k].read_text("utf-8") for log in logs) for k in (0, 1)]
    return Done(code, *written)


def forkserver():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nearfar.training.engine", "lightning.pytorch", "tests.stopping"])
    return context


class Forked:
    """One process that runs the lines of `body` with `argv`: wait() gives how it ended, what it wrote lies in .out and
    .err beside `out`."""

    def __init__(self, body, out, *argv):
        self.logs = Path(f"{out}.out"), Path(f"{out}.err")
        names = {"argv": [str(one) for one in argv]}
        self.process = forkserver().Process(target=_run, args=(body, names, clean(), *self.logs))
        self.process.start()

    def wait(self):
        self.process.join(PATIENCE)
        self.process.kill()
        self.process.join()
        return Done(self.process.exitcode, *(log.read_text("utf-8") for log in self.logs))


def launched(number, count):
    marks = {"RANK": number, "LOCAL_RANK": number, "GROUP_RANK": 0, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count,
             "MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "tests"}  # fmt: skip
    return {name: str(value) for name, value in marks.items()}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _end(running):
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        codes = [one.exitcode for one in running]
        failed = next((code for code in codes if code), None)
        if failed is not None or all(code == 0 for code in codes):
            break
        running[codes.index(None)].join(0.05)
    else:
        failed = -1
    for one in running:
        one.join(20)  # the others come to the same place, or notice that one is missing
        one.kill()
        one.join()
    return failed or 0


def _run(body, names, environment, out, err):
    import torch

    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (os.fdopen(k, "w", buffering=1, closefd=False) for k in (1, 2))
    os.environ.clear()
    os.environ.update(environment)
    if "stop" in names:
        at(int(names["stop"]))
    sys.argv[1:] = names.get("argv", [])
    torch.set_num_threads(1)  # OpenMP read the environment of the server
    exec(body, names | {"json": json})


def at(step):
    """Ends this process with code 3 after the step, when its checkpoint is written if it is due."""
    import torch

    from nearfar.training import callbacks

    torch.nn.Dropout.forward = lambda self, x: x  # its random numbers depend on how a batch is divided
    save = callbacks.Checkpoint.on_train_batch_end

    def stopping(self, trainer, *rest):
        save(self, trainer, *rest)
        if trainer.global_step == step:
            sys.exit(3)

    callbacks.Checkpoint.on_train_batch_end = stopping
