"""The losses beside their peers on a GPU: time, memory and error, in one process.

    python benchmarks/loss/gpu.py                                       # the whole grid: minutes
    python benchmarks/loss/gpu.py --loss clip --rows 16384 --dtype bfloat16
    python benchmarks/loss/gpu.py --device cpu --rows 256               # the same way without a GPU, to try it

The peers of a cell take turns on the same inputs, one forward and backward pass a turn between two synchronisations,
after warming up; ratios are formed turn by turn. MiB: the allocator's peak in a turn of its own, beyond the inputs and
their gradients. The limit is the device's own rate for the matrix products that the loss needs, in the type of the
inputs, without TF32. A peer that would need more than --memory GiB, or is not installed, is recorded as such. Stored in
benchmarks/results/loss_cuda.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cells
import run
import tables
import torch

RESULTS = run.RESULTS.with_name("loss_cuda.json")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHAPE = (4096, 8192)
MIB = 2**20


class Device:
    def __init__(self, name: str):
        self.name, self.cuda = name, name == "cuda"

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def clear(self) -> None:
        if self.cuda:
            torch.cuda.empty_cache()

    def peak(self, f: Callable[[], Any]) -> float | None:
        """MiB at the peak of f beyond what is held before."""
        if not self.cuda:
            return None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        f()
        self.wait()
        return (torch.cuda.max_memory_allocated() - before) / MIB

    def title(self) -> str:
        return torch.cuda.get_device_name() if self.cuda else "CPU"


def timed(device: Device, f: Callable[[], Any]) -> float:
    device.wait()
    start = time.perf_counter()
    f()
    device.wait()
    return time.perf_counter() - start


def compiled(loss: str) -> Callable[[float], cells.Loss]:
    def make(t: float) -> cells.Loss:
        return torch.compile(cells.CELLS[loss].peers["dense"](t), dynamic=False)

    return make


def peers(loss: str, more: bool) -> dict[str, Callable[[float], cells.Loss]]:
    out = {"nearfar": cells.nearfar(loss), **cells.CELLS[loss].peers}
    out.pop("keops", None)  # it needs CUDA's compiler at run time
    if more:
        out["dense, compiled"] = compiled(loss)
    return out


def products(device: Device, rows: int, dim: int, count: int, dtype: torch.dtype) -> float:
    """Seconds of the needed matrix products at the shape of a tile, extrapolated where they are many."""
    height, width = (min(n, rows) for n in SHAPE)
    q, k = (torch.randn(n, dim, device=device.name).to(dtype) for n in (height, width))
    tiles = count * rows * rows / (2 * height * width)
    done = max(1, min(round(tiles), 64))
    out = torch.empty(height, width, device=device.name, dtype=dtype)
    return timed(device, lambda: [torch.mm(q, k.T, out=out) for _ in range(done)]) * tiles / done


def errors(device: Device, make: Callable[[float], cells.Loss], loss: str, dim: int, dtype: torch.dtype) -> dict:
    rows = int(run.REFERENCE_ROWS * cells.CELLS[loss].share)
    given = [x.detach().to(device.name, dtype) for x in run.inputs(rows, dim)]
    exact = [x.double().requires_grad_() for x in given]
    mine = [x.requires_grad_() for x in given]
    reference = run.step(cells.CELLS[loss].peers["dense"](run.TEMPERATURE), *exact)[1]
    value = run.step(make(run.TEMPERATURE), *mine)[1]
    return run.difference(value, mine, reference, exact)


def measure(device: Device, loss: str, rows: int, dim: int, dtype: torch.dtype, o: argparse.Namespace) -> dict:
    cell, found = cells.CELLS[loss], {}
    a, b = (x.detach().to(device.name, dtype).requires_grad_() for x in run.inputs(int(rows * cell.share), dim))
    turns: dict[str, Callable[[], Any]] = {}
    for peer, make in peers(loss, o.compile).items():
        many = cell.built.get(peer.removesuffix(", compiled"), 0)
        need = (rows if many == cells.EACH_ROW else many) * a.element_size() * rows * rows / 2**30
        if need > o.memory:
            found[peer] = {"skipped": f"needs about {need:.0f} GiB"}
            continue
        try:
            f = make(run.TEMPERATURE)
            for _ in range(3):
                run.step(f, a, b)
            device.clear()
            a.grad = b.grad = None
            peak = device.peak(lambda f=f: run.step(f, a, b))
            held = sum(x.numel() * x.element_size() for x in (a, b) if x.grad is not None)
            found[peer] = {} if peak is None else {"mib": peak - held / MIB}
            found[peer] |= errors(device, make, loss, dim, dtype) if rows >= run.REFERENCE_ROWS else {}
        except ImportError as problem:
            found[peer] = {"missing": str(problem)}
        except (RuntimeError, ValueError) as problem:
            if peer == "nearfar":
                raise
            found[peer] = {"skipped": str(problem).splitlines()[0][:80]}
        else:
            turns[peer] = lambda f=f: run.step(f, a, b)
    seconds: dict[str, list[float]] = {p: [] for p in (*turns, "limit")}
    for _ in range(o.turns):
        for peer, turn in turns.items():
            device.clear()
            turn()  # the allocator's cache of its own
            seconds[peer].append(timed(device, turn))
        device.clear()
        seconds["limit"].append(products(device, rows, dim, cell.products, dtype))
    return {p: {**found.get(p, {}), **({"seconds": seconds[p]} if p in seconds else {})} for p in (*found, "limit")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loss", nargs="+", default=list(cells.CELLS), choices=list(cells.CELLS))
    parser.add_argument("--rows", type=int, nargs="+", default=[1024, 4096, 16384, 65536])
    parser.add_argument("--dim", type=int, nargs="+", default=[256, 768])
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], choices=list(DTYPES))
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--memory", type=float, default=40.0, help="GiB that a peer may need")
    parser.add_argument("--compile", action="store_true", help="also the dense form through torch.compile")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    o = parser.parse_args()
    if o.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("No GPU is there. --device cpu tries the same way without one.")
    torch.backends.cuda.matmul.allow_tf32 = False
    device = Device(o.device)
    results = run.stored(RESULTS)
    facts = run.facts()
    results |= {"device": device.title(), "versions": facts["versions"], "temperature": run.TEMPERATURE}
    for rows in o.rows:
        for dim in o.dim:
            for dtype in o.dtype:
                for loss in o.loss:
                    name = f"{loss}/{rows}/{dim}/{dtype}"
                    new = measure(device, loss, rows, dim, DTYPES[dtype], o)
                    results["cells"][name] = {**results["cells"].get(name, {}), **new}
                    if device.cuda:
                        run.store(results, RESULTS)
                    middle = statistics.median(new["nearfar"]["seconds"]) * 1000
                    print(f"{name}: {middle:.2f} ms\n{tables.cell(name, new)}", flush=True)


if __name__ == "__main__":
    main()
