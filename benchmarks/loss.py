"""Time and memory of the losses beside their peers.

    python benchmarks/loss.py --rows 4096 --dim 256 --pairs 7

Every cell (loss, peer) is a process of its own, so that its peak memory is its own; the cells take turns, one forward
and backward pass a turn after a warm-up, and each peer's ratio to nearfar is formed turn by turn. The limit is the
machine's own rate for the matrix products that the loss needs, timed by a process that takes its turn with the others.
Printed: the median ratio with its quartiles, the median seconds, memory beyond inputs and gradients, and
the error of the gradient against float64 (at 256 rows). NEARFAR_CLOCK=cpu takes CPU time instead of wall time.
A ratio above 1: nearfar is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

TEMPERATURE = 0.07
# CPU time of the process stays comparable on a machine that others use too; set OMP_NUM_THREADS=1 with it.
clock = time.process_time if os.environ.get("NEARFAR_CLOCK") == "cpu" else time.perf_counter


def unit(x: torch.Tensor) -> torch.Tensor:
    return F.normalize(x, dim=1)


def dense_info_nce(a, b):
    return F.cross_entropy(unit(a) @ unit(b).T / TEMPERATURE, torch.arange(len(a)))


def dense_clip(a, b):
    s, target = unit(a) @ unit(b).T / TEMPERATURE, torch.arange(len(a))
    return (F.cross_entropy(s, target) + F.cross_entropy(s.T, target)) / 2


def dense_nt_xent(a, b):
    z, n = unit(torch.cat([a, b])), len(a)
    s = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return F.cross_entropy(s, (torch.arange(2 * n) + n) % (2 * n))


def labels(n):
    return torch.randint(0, 100, (n,), generator=torch.Generator().manual_seed(1))


def dense_sup_con(a, b):
    z, y = unit(a), labels(len(a))
    s, eye = z @ z.T / TEMPERATURE, torch.eye(len(a), dtype=torch.bool)
    log = s - s.masked_fill(eye, -torch.inf).logsumexp(1, keepdim=True)
    friends = (y[:, None] == y) & ~eye
    some = friends.any(1)
    return -(torch.where(friends, log, 0).sum(1)[some] / friends.sum(1)[some]).mean()


def chunked(x, keys):
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(unit(x) / TEMPERATURE, unit(keys), torch.arange(len(x)), options=options)


def open_clip(a, b):
    from open_clip.loss import ClipLoss

    return ClipLoss()(unit(a), unit(b), torch.tensor(1 / TEMPERATURE))


def lightly(a, b):
    from lightly.loss import NTXentLoss

    return NTXentLoss(temperature=TEMPERATURE)(a, b)


def ours(name: str) -> Callable:
    from nearfar import losses

    if name == "sup_con":
        return lambda a, b: losses.sup_con(a, labels(len(a)), temperature=TEMPERATURE)
    return lambda a, b: getattr(losses, name)(a, b, temperature=TEMPERATURE)


# loss -> (peers, matrix products needed in units of n^2 d flops, rows of each view for n rows in all)
CELLS: dict[str, tuple[dict[str, Callable], int, float]] = {
    "clip": ({"dense": dense_clip, "linear_cross_entropy": lambda a, b: (chunked(a, b) + chunked(b, a)) / 2,
              "open_clip": open_clip}, 8, 1),
    "info_nce": ({"dense": dense_info_nce, "linear_cross_entropy": chunked}, 6, 1),
    "nt_xent": ({"dense": dense_nt_xent, "lightly": lightly}, 4, 0.5),
    "sup_con": ({"dense": dense_sup_con}, 4, 1),
}


def inputs(rows: int, dim: int, dtype=torch.float32):
    make = torch.Generator().manual_seed(0)
    a = torch.randn(rows, dim, generator=make)
    return [x.to(dtype).requires_grad_() for x in (a, a + 2 * torch.randn(rows, dim, generator=make))]


def step(f: Callable, a, b) -> float:
    a.grad = b.grad = None
    start = clock()
    f(a, b).backward()
    return clock() - start


def products(rows: int, dim: int, count: int) -> float:
    """Seconds of the needed matrix products, at the shape of the tiles."""
    q, k, out = torch.randn(512, dim), torch.randn(1024, dim), torch.empty(512, 1024)
    tiles = max(1, round(count * rows * rows / (2 * 512 * 1024)))
    start = clock()
    for _ in range(max(1, tiles // 4)):
        torch.mm(q, k.T, out=out)
    return (clock() - start) * tiles / max(1, tiles // 4)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def serve(loss: str, peer: str, rows: int, dim: int) -> None:
    """A cell: answers each line on stdin with the seconds of one pass."""
    peers, count, share = CELLS[loss]
    if peer == "limit":
        for _ in sys.stdin:
            print(json.dumps({"seconds": products(rows, dim, count), "mib": 0}), flush=True)
        return
    f = ours(loss) if peer == "nearfar" else peers[peer]
    small = inputs(256, dim)
    step(f, *small)
    exact = inputs(256, dim, torch.float64)
    step(ours(loss), *exact)
    error = (small[0].grad - exact[0].grad).abs().max().item() / exact[0].grad.abs().max().item()
    a, b = inputs(int(rows * share), dim)
    a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    base = peak()
    for _ in sys.stdin:
        seconds = step(f, a, b)
        print(json.dumps({"seconds": seconds, "mib": peak() - base, "error": error}), flush=True)


def measure(loss: str, rows: int, dim: int, pairs: int) -> None:
    names = ["nearfar", *CELLS[loss][0], "limit"]
    command = [sys.executable, __file__, "--rows", str(rows), "--dim", str(dim), "--cell", loss]
    cells = {p: subprocess.Popen([*command, p], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
             for p in names}
    seen: dict[str, list[dict]] = {p: [] for p in names}
    for turn in range(pairs + 1):
        for p, cell in cells.items():
            assert cell.stdin is not None
            assert cell.stdout is not None
            cell.stdin.write("\n")
            cell.stdin.flush()
            answer = json.loads(cell.stdout.readline())
            if turn:
                seen[p].append(answer)
    for cell in cells.values():
        cell.communicate()
    mine = [x["seconds"] for x in seen["nearfar"]]
    for p in names:
        seconds = [x["seconds"] for x in seen[p]]
        low, middle, high = statistics.quantiles([t / m for t, m in zip(seconds, mine, strict=True)], n=4)
        label = f"limit ({CELLS[loss][1]} n^2 d)" if p == "limit" else p
        error = f"{seen[p][-1]['error']:.1e}" if p != "limit" else "-"
        print(f"{loss:9} {rows:6} x {dim:<4} {label:22} {statistics.median(seconds):8.3f} s   "
              f"ratio {middle:6.2f} [{low:.2f}, {high:.2f}]   {seen[p][-1]['mib']:7.0f} MiB   "
              f"error {error}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--dim", type=int, nargs="+", default=[256])
    parser.add_argument("--pairs", type=int, default=7, help="turns that count, after one for warming up")
    parser.add_argument("--loss", nargs="+", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        serve(*options.cell, options.rows[0], options.dim[0])
        return
    if options.pairs < 2:
        parser.error("--pairs must be at least 2: a spread needs two turns.")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; temperature {TEMPERATURE}")
    for dim in options.dim:
        for rows in options.rows:
            for loss in options.loss:
                measure(loss, rows, dim, options.pairs)


if __name__ == "__main__":
    main()
