"""How long a search takes, beside the least that it can take.

    python benchmarks/search.py                              # library and command line, some minutes
    python benchmarks/search.py --rows 1000000 --dim 128     # in the library also the approximate index
    python benchmarks/search.py --parts library --rounds 60
    python benchmarks/search.py --show                       # prints what is stored

Two comparisons, each in turn in one run, so that the machine's moods hit both alike; printed is the ratio of each
round, its median with a 95 % interval (order statistics):

  library        `Index.search` of an open index, hits with their columns, against `vectors @ query` with argpartition
                 and a sort of the ten best in numpy
  command line   `nearfar search INDEX "a text"`, a process that embeds the text with a small encoder, against
                 `python -c "import torch"`; also the seconds by which it takes longer

Vectors are normal around 1,000 centres, with a text and a number each. An index from 512 MiB of vectors on has an
approximate index, which is measured beside the exact search: milliseconds of a query, recall of the ten nearest,
seconds of its building. Stored in benchmarks/results/search.json by rows and width: seconds of the clock and of the
processor (the fairer ones on a busy machine, with OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from train_throughput import interval

RESULTS = Path(__file__).resolve().parent / "results" / "search.json"
K, CENTRES = 10, 1000
CLOCKS = ("seconds", "processor")

Times = dict[str, list[float]]


def made(folder: Path, rows: int, dim: int) -> tuple[Any, np.ndarray]:
    """An index beside its model, and unit queries (100, dim)."""
    from nearfar import encoders, indexing
    from nearfar.models import save_model

    draw = np.random.default_rng(0)
    centres = draw.standard_normal((CENTRES, dim), dtype=np.float32)
    kinds = draw.integers(0, CENTRES, rows + 100)
    vectors = centres[kinds] + draw.standard_normal((rows + 100, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = [f"item {i} of kind {kind}" for i, kind in enumerate(kinds[:rows].tolist())]
    encoder = encoders.text("small", texts=texts[:1000], vocabulary=500, dim=dim)
    save_model(folder / "model", {"text": encoder}, {"method": "none"})
    from nearfar.models import load

    keys, columns = [f"k{i}" for i in range(rows)], {"text": texts, "kind": kinds[:rows].tolist()}
    facts = {"model": str(folder / "model")}
    index = indexing.build_index(folder / "index", vectors[:rows], keys, columns,
                                 model_hash=load(folder / "model").hash, meta=facts)  # fmt: skip
    return index, vectors[rows:]


def in_turn(rounds: int, jobs: dict[str, Callable[[int], Any]], children: bool = False) -> dict[str, Times]:
    """Seconds of each job in each round; every second round the other way round."""
    found = {name: {clock: [] for clock in CLOCKS} for name in jobs}
    for turn in range(-1, rounds):  # the first one warms up
        names = list(jobs) if turn % 2 else list(reversed(jobs))
        for name in names:
            busy, start = processor(children), time.perf_counter()
            jobs[name](turn)
            taken = time.perf_counter() - start, processor(children) - busy
            if turn >= 0:
                for clock, value in zip(CLOCKS, taken, strict=True):
                    found[name][clock].append(value)
    return found


def processor(children: bool) -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def library(index: Any, queries: np.ndarray, rounds: int) -> dict[str, Any]:
    """Seconds of a query in numpy and in nearfar; the hits are the same."""
    vectors = np.load(index.path / "vectors.npy")

    def numpy(turn: int) -> list[int]:
        scores = vectors @ queries[turn % len(queries)]
        best = np.argpartition(scores, -K)[-K:]
        return best[np.argsort(-scores[best])].tolist()

    jobs: dict[str, Callable[[int], Any]] = {
        "numpy": numpy,
        "nearfar": lambda turn: index.search(queries[turn % len(queries)], K, exact=True),
    }
    right = [[f"k{row}" for row in numpy(turn)] for turn in range(len(queries))]
    exact = [[hit["key"] for hit in index.search(query, K, exact=True)] for query in queries]
    assert exact == right, "the hits are not those of numpy"
    told: dict[str, Any] = {}
    if index.approximate is not None:
        jobs["approximate"] = lambda turn: index.search(queries[turn % len(queries)], K)
        found = [{hit["key"] for hit in index.search(query, K)} for query in queries]
        recall = sum(len(a & set(b)) for a, b in zip(found, right, strict=True)) / K / len(queries)
        told = {"approximate": index.approximate, "recall": recall}
    return compared(in_turn(rounds, jobs), "numpy") | told


def command_line(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds of a process that searches, beside one that imports torch."""
    search = [sys.executable, "-m", "nearfar", "search", str(folder / "index"), "an item of kind 7"]

    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def run(*words: str) -> Callable[[int], Any]:
        return lambda turn: subprocess.run(words, check=True, capture_output=True, env=compiled)

    jobs = {
        "import torch": run(sys.executable, "-c", "import torch"),
        "nearfar search": run(*search),
        "nearfar search key:KEY": run(*search[:-1], "key:k7"),
        "nearfar search --hybrid": run(*search, "--hybrid"),
    }
    return compared(in_turn(rounds, jobs, children=True), "import torch")


def compared(times: dict[str, Times], base: str) -> dict[str, Any]:
    """The times, and of each job the ratio to the base and the seconds above it: median, low and high end."""
    against: dict[str, Any] = {}
    for name in times:
        if name == base:
            continue
        pairs = {clock: list(zip(times[name][clock], times[base][clock], strict=True)) for clock in CLOCKS}
        against[name] = {
            clock: {"ratio": interval([a / b for a, b in pairs[clock]]),
                    "above": interval([a - b for a, b in pairs[clock]])}
            for clock in CLOCKS
        }  # fmt: skip
    return {"times": times, "base": base, "against": against}


def show(cells: dict[str, Any]) -> None:
    for cell, parts in cells.items():
        print(cell)
        for part, found in parts.items():
            if not isinstance(found, dict) or "times" not in found:
                continue
            for clock in CLOCKS:
                middle, low, high = interval(found["times"][found["base"]][clock])
                print(f"  {part:<13} {clock:<10} {found['base']:<24} {middle * 1e3:9.1f} ms ({low * 1e3:.1f}.."
                      f"{high * 1e3:.1f})")  # fmt: skip
                for name, told in found["against"].items():
                    middle = interval(found["times"][name][clock])[0]
                    (ratio, low, high), above = told[clock]["ratio"], told[clock]["above"][0]
                    print(f"  {part:<13} {clock:<10} {name:<24} {middle * 1e3:9.1f} ms  ratio {ratio:.2f} ({low:.2f}.."
                          f"{high:.2f}), {above * 1e3:+.1f} ms")  # fmt: skip
            if "approximate" in found:
                print(f"  {part:<13} recall of the ten nearest {found['recall']:.3f} (of {len(found['times']['numpy'])}"
                      f" rounds' queries), {found['approximate']}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--runs", type=int, default=9, help="rounds of the command line")
    parser.add_argument("--parts", default="library,command line")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true")
    given = parser.parse_args()
    stored = json.loads(given.out.read_text()) if given.out.exists() else {"cells": {}}
    if given.show:
        return show(stored["cells"])
    name, parts = f"{given.rows} x {given.dim}", given.parts.split(",")
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        index, queries = made(Path(folder), given.rows, given.dim)
        cell = stored["cells"].get(name, {}) | {"building": round(time.process_time() - began, 1)}
        if "library" in parts:
            cell["library"] = library(index, queries, given.rounds)
        if "command line" in parts:
            cell["command line"] = command_line(Path(folder), given.runs)
    stored["cells"][name] = cell
    stored |= {"threads": os.environ.get("OMP_NUM_THREADS", ""), "machine": platform.machine(),
               "versions": versions()}  # fmt: skip
    show({name: cell})
    given.out.write_text(json.dumps(stored, indent=1) + "\n")


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"python": platform.python_version()} | {n: version(n) for n in ("nearfar", "torch", "numpy", "lancedb")}


if __name__ == "__main__":
    main()
