"""Contrast of all nodes of a graph with all others in two copies: seconds and memory beside dense matrices (PyGCL).

    python benchmarks/graph_contrast.py [--nodes 5000,20000] [--dim 128] [--turns 9] [--memory 16] [--out FILE]

One turn is value and gradient of GRACE's loss for two random (n, d) matrices. Each way is a process of its own, so that
its peak memory is its own; they take turns. The dense way is written as PyGCL's `InfoNCE` with its `add_extra_mask`
samples works: exponentials of both n x n matrices, in both directions. Where its six matrices would need more than
--memory GiB it is recorded as such. Printed: median seconds, MiB beyond the inputs, and the median ratio with its 95 %
interval (order statistics); above 1: the sweeps of nearfar are faster.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from train_throughput import interval

from nearfar.losses import nt_xent
from nearfar.training import engine

TAU, MATRICES = 0.4, 6


def dense(a: Tensor, b: Tensor) -> Tensor:
    """GRACE's loss by whole matrices of exponentials."""
    a, b = normalize(a, dim=1), normalize(b, dim=1)

    def half(x: Tensor, y: Tensor) -> Tensor:
        within, across = (x @ x.T / TAU).exp(), (x @ y.T / TAU).exp()
        return -(across.diag() / (within.sum(1) + across.sum(1) - within.diag())).log()

    return (half(a, b) + half(b, a)).mean() / 2


WAYS = {"nearfar": lambda a, b: nt_xent(a, b, temperature=TAU), "dense": dense}


def worker(way: str, nodes: int, dim: int) -> None:
    """Answers each line on standard input with the seconds of a turn, the peak memory in KiB, and the value."""
    make = torch.Generator().manual_seed(0)
    a, b = (torch.randn(nodes, dim, generator=make, requires_grad=True) for _ in range(2))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in sys.stdin:
        a.grad = b.grad = None
        start = time.perf_counter()
        value = WAYS[way](a, b)
        value.backward()
        taken = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(json.dumps([taken, peak, value.item(), float(a.grad.norm())]), flush=True)


def measure(nodes: int, given: Any) -> dict[str, Any]:
    """Turns of both ways at one size."""
    ways = list(WAYS)
    if MATRICES * 4 * nodes**2 > given.memory * 2**30:
        ways.remove("dense")
    command = [sys.executable, __file__, "--dim", str(given.dim), "--worker"]
    running = {w: subprocess.Popen([*command, f"{w},{nodes}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
               for w in ways}  # fmt: skip
    turns: dict[str, list[list[float]]] = {w: [] for w in ways}
    for turn in range(given.turns + 1):
        for way, process in running.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            found = json.loads(process.stdout.readline())
            if turn:  # the first warms up
                turns[way].append(found)
    for process in running.values():
        process.communicate()
    cell: dict[str, Any] = {
        way: {
            "seconds": [t[0] for t in found],
            "MiB": max(t[1] for t in found) / 1024,
            "value": found[0][2],
            "gradient": found[0][3],
        }
        for way, found in turns.items()
    }
    if "dense" in ways:
        pairs = zip(cell["dense"]["seconds"], cell["nearfar"]["seconds"], strict=True)
        cell["ratio"] = list(interval([a / b for a, b in pairs]))
    return cell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="5000,20000")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--memory", type=float, default=16, help="GiB that the dense way may take")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/graph_contrast.json"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        way, nodes = given.worker.split(",")
        worker(way, int(nodes), given.dim)
        return
    report: dict[str, Any] = {"dim": given.dim, "threads": torch.get_num_threads(), "versions": engine.versions(),
                              "cells": {}}  # fmt: skip
    for nodes in map(int, given.nodes.split(",")):
        cell = report["cells"][str(nodes)] = measure(nodes, given)
        told = "; ".join(f"{w} {sorted(c['seconds'])[len(c['seconds']) // 2]:.2f} s, {c['MiB']:.0f} MiB"
                         for w, c in cell.items() if w != "ratio")  # fmt: skip
        ratio = "{:.2f} [{:.2f}, {:.2f}]".format(*cell["ratio"]) if "ratio" in cell else "dense: too large here"
        print(f"{nodes:,} nodes: {told}; ratio {ratio}", flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
