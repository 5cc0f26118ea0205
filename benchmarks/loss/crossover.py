"""From which size each engine is the faster one: what CROSSOVER in nearfar/similarity/answer/plan.py is set from.

    python benchmarks/loss/crossover.py --rows 128 256 512 1024 2048

What closed forms and the log-sum-exp sweep answer ("auto" uses them at any size) is compared with the dense engine; a
loss that only the general sweep can answer (a triplet with mining) with streaming against dense, where CROSSOVER
decides. One process, engines in turn; medians of the ratios. Stored under "crossover" in benchmarks/results/loss.json,
or loss_cuda.json for a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import gpu
import run
import torch

from nearfar import losses
from nearfar.similarity import engine


def seconds(f: Callable[[], torch.Tensor], inputs: list[torch.Tensor], how: str) -> float:
    for x in inputs:
        x.grad = None
    if inputs[0].device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    with engine(how):
        f().backward()
    if inputs[0].device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compared(loss: str, rows: int, dim: int, turns: int, device: str) -> dict:
    a, b = (x.detach().to(device).requires_grad_() for x in run.inputs(rows, dim))
    labels = torch.arange(rows, device=device) % max(1, rows // 4)
    calls = {
        "info_nce": lambda: losses.info_nce(a, b),
        "clip": lambda: losses.clip(a, b),
        "nt_xent": lambda: losses.nt_xent(a, b),
        "sup_con": lambda: losses.sup_con(a, labels),
        "triplet": lambda: losses.triplet(a, labels),
    }
    other = "streaming" if loss == "triplet" else "auto"
    ratios = []
    for turn in range(turns + 1):
        mine, whole = (seconds(calls[loss], [a, b], how) for how in (other, "dense"))
        if turn:
            ratios.append(whole / mine)
    return {"loss": loss, "rows": rows, "dim": dim, "engine": other, "dense": statistics.median(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[128, 256, 512, 1024, 2048])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    o = parser.parse_args()
    found = []
    for loss in ("info_nce", "clip", "nt_xent", "sup_con", "triplet"):
        for rows in o.rows:
            found.append(compared(loss, rows, o.dim, o.turns, o.device))
            print(f"{loss:9} {rows:5} x {o.dim}: dense over {found[-1]['engine']} {found[-1]['dense']:.2f}", flush=True)
    path = gpu.RESULTS if o.device == "cuda" else run.RESULTS
    results = run.stored(path)
    results.setdefault("crossover", {})[o.device] = found
    run.store(results, path)


if __name__ == "__main__":
    main()
