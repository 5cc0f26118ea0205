"""Time, memory and error of the losses beside their peers.

    python benchmarks/loss/run.py                                     # the whole grid: hours
    python benchmarks/loss/run.py --loss info_nce --rows 16384 --dim 256 --pairs 15
    python benchmarks/loss/run.py --precision                         # errors in half precision and at temperature 0.01
    python benchmarks/loss/run.py --show                              # prints what is stored

A cell is a loss at a number of rows and a width. Each peer of a cell is a process of its own, so that its peak memory
is its own; the processes take turns, one forward and backward pass a turn after one for warming up, and ratios are
formed turn by turn. Some more turns, which do not count, read the memory: the allocator then gives back at once what is
freed, and the buffers of the matrix library are there before. The limit is the machine's own rate for the matrix
products that the loss needs, timed in turn with the others. Stored in benchmarks/results/loss.json: for each peer the
seconds of its turns, MiB beyond inputs and their gradients, and the difference of value and gradient to a float64
reference straight from the equation (1,024 rows). Cells that are stored with enough turns are left out, so that an
interrupted run goes on where it stopped; --again measures them anew. A peer that would need more than --memory GiB, or
is not installed, is recorded as such; one whose first turn takes longer than --longest seconds is stored with that turn
alone, and stopped after four times that. gpu.py beside this measures the same on a GPU.

    python benchmarks/loss/run.py --explain --rows 16384 --dim 256      # the steps of each loss and their cost, untimed
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cells
import tables
import torch

from nearfar.similarity import Plan, engine

RESULTS = Path(__file__).resolve().parent.parent / "results" / "loss.json"
TEMPERATURE = 0.07
REFERENCE_ROWS = 1024
PATIENCE = 4
READINGS, LARGE = 3, 32768
TILE = (512, 1024)


def inputs(rows: int, dim: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    make = torch.Generator().manual_seed(0)
    a = torch.randn(rows, dim, generator=make)
    return [x.to(dtype).requires_grad_() for x in (a, a + 2 * torch.randn(rows, dim, generator=make))]


def step(f: cells.Loss, a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
    """Seconds of one pass, and the value of the loss."""
    a.grad = b.grad = None
    start = time.perf_counter()
    value = f(a, b)
    if value.requires_grad:
        value.backward()
    return time.perf_counter() - start, float(value.detach())


def products(rows: int, dim: int, count: int) -> float:
    """Seconds of the needed matrix products at the shape of the tiles, extrapolated where they are many."""
    q, k, out = torch.randn(TILE[0], dim), torch.randn(TILE[1], dim), torch.empty(*TILE)
    tiles = count * rows * rows / (2 * TILE[0] * TILE[1])
    done = max(1, min(round(tiles), 256))
    start = time.perf_counter()
    for _ in range(done):
        torch.mm(q, k.T, out=out)
    return (time.perf_counter() - start) * tiles / done


class Memory:
    """The peak beyond what is held now, in MiB: from the kernel's high-water mark, which is set back first."""

    MMAP_THRESHOLD = -3  # of mallopt(3)

    @classmethod
    def tight(cls) -> None:
        """From here on the process keeps no large block that is freed, so that the mark shows what is in use."""
        with contextlib.suppress(AttributeError, OSError):  # another C library has no such switch
            libc = ctypes.CDLL(None)
            libc.mallopt(cls.MMAP_THRESHOLD, 1 << 20)
            libc.malloc_trim(0)

    def __init__(self):
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self.start = self._read("VmRSS")

    @staticmethod
    def _read(name: str) -> float:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) / 1024
        raise SystemExit("The peak memory is read from /proc/self/status, which this system lacks.")

    def peak(self) -> float:
        return self._read("VmHWM") - self.start


def maker(loss: str, peer: str):
    return cells.nearfar(loss) if peer == "nearfar" else cells.CELLS[loss].peers[peer]


def errors(loss: str, peer: str, rows: int, dim: int, dtype: torch.dtype, t: float) -> dict[str, float]:
    """The largest difference of the gradient over the largest gradient, and that of the value, to float64."""
    rounded = inputs(rows, dim, dtype)
    exact = [x.detach().double().requires_grad_() for x in rounded]
    reference = step(cells.CELLS[loss].peers["dense"](t), *exact)[1]
    value = step(maker(loss, peer)(t), *rounded)[1]
    return difference(value, rounded, reference, exact)


def difference(
    value: float, inputs: Sequence[torch.Tensor], reference: float, exact: Sequence[torch.Tensor]
) -> dict[str, float]:
    pairs = [(x.grad, y.grad) for x, y in zip(inputs, exact, strict=True)]
    worst, largest = 0.0, 0.0
    for x, y in pairs:
        if x is not None and y is not None:
            worst, largest = max(worst, (x.double() - y).abs().max().item()), max(largest, y.abs().max().item())
    return {"value_error": abs(value - reference), "gradient_error": worst / largest}


def serve(loss: str, peer: str, rows: int, dim: int) -> None:
    """A process of a cell: answers each line of stdin with one pass, or with its errors."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a peer prints is no answer
    for answer in _answers(loss, peer, rows, dim):
        print(json.dumps(answer), file=answers, flush=True)


def _answers(loss: str, peer: str, rows: int, dim: int) -> Iterator[dict[str, Any]]:
    cell = cells.CELLS[loss]
    if peer == "limit":
        for _ in sys.stdin:
            yield {"seconds": products(rows, dim, cell.products)}
        return
    try:
        f = maker(loss, peer)(TEMPERATURE)
    except ImportError as problem:
        if peer == "nearfar":
            raise
        yield {"missing": str(problem)}
        return
    step(f, *inputs(64, dim))  # loads what is loaded at the first call
    a, b = inputs(int(rows * cell.share), dim)
    for line in sys.stdin:
        if line.strip() == "errors":
            steps = {} if peer != "nearfar" else {"steps": [s for p in plans(f, a, b) for s in p.names]}
            few = int(REFERENCE_ROWS * cell.share)
            yield {**steps, "mib": held(f, a, b), **errors(loss, peer, few, dim, torch.float32, TEMPERATURE)}
        else:
            seconds, value = step(f, a, b)
            yield {"seconds": seconds, "value": value}


def plans(f: cells.Loss, a: torch.Tensor, b: torch.Tensor) -> list[Plan]:
    """How each similarity of the loss is answered."""
    with engine() as here:
        f(a, b)
    return here.plans


def explained(loss: str, rows: int, dim: int) -> str:
    """The steps of a loss, and its products beside those that it needs."""
    cell, (a, b) = cells.CELLS[loss], inputs(int(rows * cells.CELLS[loss].share), dim)
    made = plans(maker(loss, "nearfar")(TEMPERATURE), a, b)
    total = sum(p.cost.products for p in made) / (rows * rows * dim)
    return "\n".join([f"{loss}/{rows}/{dim}: {total:.2f} n^2 d products, needed {cell.products}", *map(str, made)])


def held(f: cells.Loss, a: torch.Tensor, b: torch.Tensor) -> float:
    """MiB at the peak of a pass, beyond the inputs and their gradients: the median of a few (of large ones, one)."""
    a.grad = b.grad = None
    Memory.tight()
    products(TILE[0], a.shape[1], 1)
    peaks = []
    for _ in range(READINGS if len(a) < LARGE else 1):
        a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
        memory = Memory()
        step(f, a, b)
        unused = sum(x.numel() * x.element_size() for x in (a, b) if x.grad is None)
        peaks.append(memory.peak() + unused / 2**20)
    return statistics.median(peaks)


def ask(process: subprocess.Popen, what: str = "turn", longest: float | None = None) -> dict[str, Any]:
    """The answer of a peer; one that takes longer than `longest` seconds is stopped."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(what + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass
    if not select.select([process.stdout], [], [], longest)[0]:
        process.kill()
        return {"skipped": f"over {longest:.0f} s a turn"}
    line = process.stdout.readline()
    return json.loads(line) if line else {"missing": f"ended with exit code {process.wait()}"}


def measure(
    loss: str, rows: int, dim: int, pairs: int, memory: float, only: Sequence[str], longest: float
) -> dict[str, Any]:
    """One cell: the peers in turn, after a turn for warming up."""
    cell = cells.CELLS[loss]
    found: dict[str, Any] = {}
    names = ["nearfar", *(p for p in cell.peers if not only or p in only), "limit"]
    for p in list(names):
        many = cell.built.get(p, 0)
        need = (rows if many == cells.EACH_ROW else many) * 4 * rows * rows / 2**30
        if need > memory:
            found[p] = {"skipped": f"needs about {need:.0f} GiB"}
            names.remove(p)
    command = [sys.executable, __file__, "--rows", str(rows), "--dim", str(dim), "--cell", loss]
    running = {
        p: subprocess.Popen([*command, p], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for p in names
    }
    seconds: dict[str, list[float]] = {p: [] for p in names}
    for turn in range(pairs + 1):
        for p in list(running):
            answer = ask(running[p], longest=None if p in ("nearfar", "limit") else PATIENCE * longest)
            if "missing" in answer and p == "nearfar":
                raise SystemExit("nearfar itself failed; its message stands above.")
            if "seconds" not in answer:
                found[p] = answer
                running.pop(p).communicate()
                continue
            found[p] = answer
            slow = not turn and answer["seconds"] > longest and p not in ("nearfar", "limit")
            if turn or slow:
                seconds[p].append(answer["seconds"])
            if slow:
                running.pop(p).communicate()
    for p, process in running.items():
        if p != "limit":
            found[p] = {**found[p], **ask(process, "errors")}
        process.communicate()
    return {p: {**x, "seconds": seconds[p]} if seconds.get(p) else x for p, x in found.items()}


def precision(dim: int = 256, rows: int = REFERENCE_ROWS) -> dict[str, Any]:
    """Errors of value and gradient at float32 and bfloat16 inputs, temperatures 0.07 and 0.01."""
    found: dict[str, Any] = {}
    for loss, cell in cells.CELLS.items():
        for t in (TEMPERATURE, 0.01):
            for dtype in (torch.float32, torch.bfloat16):
                here = found.setdefault(f"{loss}/{t}/{str(dtype).removeprefix('torch.')}", {})
                for p in ("nearfar", *(p for p in cell.peers if cell.built.get(p) != cells.EACH_ROW)):
                    try:
                        here[p] = errors(loss, p, int(rows * cell.share), dim, dtype, t)
                    except ImportError as problem:
                        here[p] = {"missing": str(problem)}
                    except (RuntimeError, ValueError) as problem:  # a peer that cannot take this type
                        here[p] = {"failed": str(problem).splitlines()[0]}
    return found


def stored(path: Path = RESULTS) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {"format": 1, "cells": {}}


def store(results: dict[str, Any], path: Path = RESULTS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    os.replace(part, path)


def facts() -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for name in (
        "torch",
        "lightly",
        "open-clip-torch",
        "sentence-transformers",
        "pytorch-metric-learning",
        "info-nce-pytorch",
        "pykeops",
    ):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    q, k, out = torch.randn(TILE[0], 256), torch.randn(TILE[1], 256), torch.empty(*TILE)
    rates = []
    for _ in range(20):
        start = time.perf_counter()
        torch.mm(q, k.T, out=out)
        rates.append(2 * out.numel() * 256 / (time.perf_counter() - start) / 1e9)
    return {
        "threads": torch.get_num_threads(),
        "versions": versions,
        "gflops": max(rates),
        "temperature": TEMPERATURE,
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loss", nargs="+", default=list(cells.CELLS), choices=list(cells.CELLS))
    parser.add_argument("--rows", type=int, nargs="+", default=[1024, 4096, 16384, 65536])
    parser.add_argument("--dim", type=int, nargs="+", default=[128, 256, 768])
    parser.add_argument("--pairs", type=int, default=15, help="turns that count; at 65,536 rows a third of them")
    parser.add_argument(
        "--peer", nargs="+", default=[], help="only these peers beside nearfar and the limit; others lose their turns"
    )
    parser.add_argument("--memory", type=float, default=6.0, help="GiB that a peer may need")
    parser.add_argument("--longest", type=float, default=60.0, help="seconds a peer's turn may take to be repeated")
    parser.add_argument("--again", action="store_true", help="measure stored cells anew")
    parser.add_argument("--precision", action="store_true", help="only the errors")
    parser.add_argument("--show", action="store_true", help="only print what is stored")
    parser.add_argument("--explain", action="store_true", help="only the steps of each loss and their cost")
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    o = options()
    if o.cell:
        serve(*o.cell, o.rows[0], o.dim[0])
        return
    if o.explain:
        print(*(explained(loss, rows, dim) for rows in o.rows for dim in o.dim for loss in o.loss), sep="\n\n")
        return
    if o.pairs < 2:
        raise SystemExit("--pairs must be at least 2: a spread needs two turns.")
    results = stored()
    if not o.show:
        now, before = facts(), results.get("versions", {})
        results |= now | {
            "versions": before | now["versions"],
            "gflops": max(now["gflops"], results.get("gflops", 0.0)),
        }
        rate = f"matrix products at {results['gflops']:.0f} GF/s"
        print(f"torch {torch.__version__}, {results['threads']} threads, {rate}")
    if o.precision:
        results["precision"] = precision()
        store(results)
    grid = [] if o.show or o.precision else [(n, d, x) for n in o.rows for d in o.dim for x in o.loss]
    for rows, dim, loss in grid:
        name, pairs = f"{loss}/{rows}/{dim}", o.pairs if rows < 65536 else max(2, o.pairs // 3)
        have = results["cells"].get(name, {})
        if not o.again and len(have.get("nearfar", {}).get("seconds", [])) >= pairs and not o.peer:
            continue
        untimed = {p: x for p, x in have.items() if "seconds" not in x}  # turns of another day give no ratio
        results["cells"][name] = {**untimed, **measure(loss, rows, dim, pairs, o.memory, o.peer, o.longest)}
        store(results)
        print(tables.cell(name, results["cells"][name]), flush=True)
    if o.show or o.precision:
        print(tables.page(results))


if __name__ == "__main__":
    main()
