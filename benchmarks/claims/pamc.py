"""PamC: clusters in place of node pairs as negatives cost far less and cluster about as well.

Digits, all 1,797 as nodes, each joined to its 3 nearest (cosine), influence of order 4: 400 steps of an auto-encoder,
k-means, then 100 steps of 0.5 times the loss (tau 0.5) plus 12.5 times the divergence to the sharpened clusters, all
nodes in every step. One arm has the divergence alone, which says what the loss itself adds; one is the k-means from
which all others start. Labels are used to measure alone, of one half of the nodes at the last step. Also milliseconds
of loss and gradient as the nodes grow.
"""

from __future__ import annotations

import dataclasses
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from experiment import Arm, Cell, Claim, Plan, arms_told
from experiment import run as run_claim

from nearfar.losses import graph_mlp, influence_matrix, pamc

K = 10
SHARED = "pamc --clusters 10 --beta 12.5 --inverse-temperature 0.5 --order 4 --reconstruction 0.8"
ARMS = {
    "pamc": Arm(f"{SHARED} --alpha 0.5"),
    "exact": Arm(f"{SHARED} --alpha 0.5 --against nodes"),
    "divergence alone": Arm(f"{SHARED} --alpha 0"),
    "k-means start": Arm("pamc --clusters 10 --alpha 0 --beta 0 --reconstruction 0.8"),
}
PLAN = {
    "steps": 500,
    "batch_size": "auto",
    "lr": 1e-3,
    "weight_decay": 0.0,
    "optimiser": "adam",
    "schedule": "constant",
    "graph_width": 128,
    "graph_encoder": "mlp",
    "graph_activation": "relu",
    "graph_features": "plain",
}
MEASURES = {"NMI": ("clustering", "nmi"), "ACC": ("clustering", "accuracy")}

CLAIM = Claim(
    slug="pamc",
    claim="Clusters in place of node pairs as negatives add what the divergence alone does not give.",
    cells={"digits": Cell("near digits, 1797", ARMS, PLAN, MEASURES)},
    control="divergence alone",
    measure="NMI",
)


def cost(name: str, n: int) -> float:
    """Median seconds of one value and gradient for n nodes."""
    make = torch.Generator().manual_seed(0)
    z = torch.randn(n, 10, generator=make, requires_grad=True)
    influence = influence_matrix(torch.randint(0, n, (2, 3 * n), generator=make), n)
    y = torch.randint(0, K, (n,), generator=make)
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        (pamc(z, y, influence) if name == "pamc" else graph_mlp(z, influence)).backward()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def run(plan: Plan) -> dict[str, Any]:
    """All arms, and the cost of the loss beside that of the exact one, each size in a process of its own."""
    costs: dict[str, float] = {}
    for n in (500,) if plan.tiny else (500, 1000, 1797, 8000, 32000):
        for name in ("pamc", "exact") if n <= 8000 else ("pamc",):
            told = subprocess.run([sys.executable, __file__, name, str(n)], capture_output=True, check=True)
            costs[f"{name}, {n} nodes"] = float(told.stdout)
    table = "; ".join(f"{k}: {1000 * s:.0f} ms" for k, s in costs.items())

    def notes(result: dict[str, Any]) -> str:
        return f"{arms_told(result)} Loss and gradient: {table} (the exact loss is streamed)."

    return run_claim(dataclasses.replace(CLAIM, notes=notes), plan) | {"cost": costs}


if __name__ == "__main__":
    print(cost(sys.argv[1], int(sys.argv[2])))
