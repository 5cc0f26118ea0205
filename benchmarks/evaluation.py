"""Seconds and memory of exact neighbours and rankings, each measurement in a process of its own.

    python benchmarks/evaluation.py                                   # the small cells, some minutes
    python benchmarks/evaluation.py --ask knn --rows 200000 --dim 64  # one cell
    python benchmarks/evaluation.py --peer scikit-learn --ask knn     # another library in place of nearfar
    python benchmarks/evaluation.py --show                            # prints what is stored

Rows are as many queries as gallery items: normal vectors, the gallery a noisy copy of the queries. Asks: `knn` (the
vote of the 20 nearest), `retrieval` (one relevant item a query), `labels` (a tenth of the gallery is relevant to each
query), `mine` (16 hard negatives a row). Stored in benchmarks/results/evaluation.json by ask, rows, width and peer:
seconds of the clock and of the processor (the fairer ones on a busy machine, with OMP_NUM_THREADS=1), the least of the
turns, and MiB beyond the inputs. `--peer NAME` with an unknown name measures nearfar under that name (an earlier
version on the PYTHONPATH, say).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results" / "evaluation.json"
CELLS = [("knn", 20_000, 256), ("retrieval", 20_000, 256), ("labels", 20_000, 256), ("mine", 20_000, 256)]


def inputs(rows: int, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, gallery, and labels of ten kinds."""
    draw = np.random.default_rng(0)
    query = draw.standard_normal((rows, dim), dtype=np.float32)
    gallery = query + 2 * draw.standard_normal((rows, dim), dtype=np.float32)
    return query, gallery, draw.integers(0, 10, rows)


def mine(query: np.ndarray, gallery: np.ndarray, labels: np.ndarray) -> Any:
    import torch

    from nearfar.negatives.mined import mine

    return mine(torch.from_numpy(query), torch.from_numpy(gallery), 16)


def question(ask: str, peer: str) -> Callable[..., Any]:
    if peer == "scikit-learn":
        from sklearn.neighbors import NearestNeighbors

        if ask != "knn":
            raise SystemExit("scikit-learn is measured for --ask knn alone.")
        return lambda query, gallery, labels: (
            NearestNeighbors(n_neighbors=20, algorithm="brute", metric="cosine").fit(gallery).kneighbors(query)
        )
    from nearfar.evaluation import knn, retrieval

    ids = np.arange
    return {
        "knn": lambda query, gallery, labels: knn(gallery, labels, query, labels),
        "retrieval": lambda query, gallery, labels: retrieval(query, gallery, ids(len(query)), ids(len(query))),
        "labels": lambda query, gallery, labels: retrieval(query, gallery, labels, labels),
        "mine": mine,
    }[ask]


def resident(name: str) -> float:
    """VmRSS or VmHWM of this process, MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise SystemExit("The peak memory is read from /proc/self/status, which this system lacks.")


def serve(ask: str, peer: str, rows: int, dim: int) -> None:
    """The process of a measurement; small inputs warm it up."""
    f = question(ask, peer)
    f(*inputs(500, dim))
    given = inputs(rows, dim)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    start, busy = time.perf_counter(), time.process_time()
    f(*given)
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - start,
                "processor": time.process_time() - busy,
                "mib": resident("VmHWM") - before,
            }
        )
    )


def measure(ask: str, peer: str, rows: int, dim: int, turns: int) -> dict[str, float]:
    command = [
        sys.executable,
        __file__,
        "--serve",
        "--ask",
        ask,
        "--peer",
        peer,
        "--rows",
        str(rows),
        "--dim",
        str(dim),
    ]
    found = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(turns)
    ]
    return {
        **{name: round(min(x[name] for x in found), 2) for name in ("seconds", "processor")},
        "mib": round(max(x["mib"] for x in found)),
    }


def versions() -> dict[str, str]:
    import sklearn
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
    }


def stored() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cells": {}}


def show(results: dict[str, Any]) -> None:
    for name, peers in results["cells"].items():
        for peer, x in peers.items():
            print(f"{name:28} {peer:14} {x['seconds']:9.2f} s {x['processor']:9.2f} s {x['mib']:7.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ask", choices=["knn", "retrieval", "labels", "mine"])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--peer", default="nearfar")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.ask, options.peer, options.rows, options.dim)
    results = stored()
    if not options.show:
        threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
        results |= {"versions": versions(), "threads": threads}
        for ask, rows, dim in [(options.ask, options.rows, options.dim)] if options.ask else CELLS:
            cell = results["cells"].setdefault(f"{ask}/{rows}/{dim}", {})
            cell[options.peer] = measure(ask, options.peer, rows, dim, options.turns)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    show(results)


if __name__ == "__main__":
    main()
