"""Who leads: what other programs leave in the environment, launchers, and processes that outlive their parent."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from nearfar import processes
from nearfar.errors import InputError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "SLURM_PROCID", "SLURM_NTASKS",
         "SLURM_STEP_NUM_TASKS")  # fmt: skip


@pytest.mark.parametrize(("given", "rank", "started"), [
    ({}, 0, 1),
    ({"RANK": "3"}, 0, 1),
    ({"SLURM_PROCID": "1"}, 0, 1),
    ({"RANK": "2", "WORLD_SIZE": "1"}, 0, 1),
    ({"LOCAL_RANK": "1"}, 0, 1),
    ({"RANK": "x", "WORLD_SIZE": "y"}, 0, 1),
    ({"RANK": "3", "WORLD_SIZE": "4"}, 3, 4),
    ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"}, 0, 1),
    ({"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8"}, 5, 8),
    ({"MASTER_ADDR": "127.0.0.1", "LOCAL_RANK": "1"}, 1, 1),
    ({"MASTER_ADDR": "10.0.0.1", "NODE_RANK": "1"}, 1, 1),
    ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, 1, 2),
])  # fmt: skip
def test_rank_is_followed_in_company_only(given, rank, started, monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert (processes.rank(), processes.started()) == (rank, started)
    if started > 1:
        with pytest.raises(InputError, match=f"{started} processes were started together"):
            processes.check_launch(1, 1)
    else:
        processes.check_launch(1, 1)


def test_a_stray_rank_does_not_lose_the_model(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("text,text_b\n" + "".join(f"a question {i},an answer {i}\n" for i in range(40)))
    words = [sys.executable, "-m", "nearfar", "fit", "pairs", str(table), "--steps", "2", "--batch-size", "8",
             "--val-every", "0", "--out", str(tmp_path / "run")]  # fmt: skip
    env = os.environ | {"RANK": "1", "SLURM_PROCID": "2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model" / "verify.json").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel tells of a parent's death on Linux")
def test_a_process_ends_with_the_one_that_started_it(tmp_path):
    child = (
        "import sys, time; from nearfar import processes; processes.follow_parent(); print('ready', flush=True); "
        "time.sleep(600)"
    )
    parent = (
        "import os, subprocess, sys, time; os.environ['NEARFAR_PARENT'] = str(os.getpid()); "
        f"c = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE); c.stdout.readline(); "
        "print(c.pid, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(200):
        try:
            os.kill(pid, 0)
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    break
        except (ProcessLookupError, FileNotFoundError):
            break
        time.sleep(0.05)
    else:
        os.kill(pid, signal.SIGKILL)
        pytest.fail("the process stayed")


def test_a_process_whose_parent_is_gone_does_not_begin():
    program = "from nearfar import processes; processes.follow_parent(); print('began')"
    env = os.environ | {"NEARFAR_PARENT": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_a_launch_leaves_the_threads_as_they_were(monkeypatch):
    """Lightning divides them among the processes that it starts, in the environment too."""
    from lightning.fabric.utilities.distributed import _set_num_threads_if_needed

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with processes.same_threads():
        torch.set_num_threads(2)
        with processes.connected():
            _set_num_threads_if_needed(1024)
            assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"]) == 1
        assert torch.get_num_threads() == 2
    assert "OMP_NUM_THREADS" not in os.environ
