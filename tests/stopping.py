"""Runs in a process of their own, which may end in the middle."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import json
import sys

sys.path.insert(0, {root!r})
from tests import stopping

method, table, out, options, stop = sys.argv[1:]
stopping.at(int(stop))
{body}
"""


def clean():
    """The environment without the marks of a launcher."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    return kept | {"OMP_NUM_THREADS": "1"}


def start(body, out, *words):
    """Runs the lines of `body`, which find method, table, out, options and stop (`words`), in a script beside `out`."""
    script = out.with_suffix(".py")
    script.write_text(SCRIPT.format(root=str(ROOT), body=body))
    called = [sys.executable, script, *words]
    return subprocess.run(list(map(str, called)), capture_output=True, text=True, timeout=400, env=clean())


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
