"""PamC: clusters in place of node pairs as negatives cost far less and cluster about as well.

Digits, all 1,797 as nodes, each joined to its 3 nearest neighbours (cosine), influence of order 4; an auto-encoder
64-128-128-256-10, 60 epochs of reconstruction, K-means, then 100 full-batch Adam steps 1e-3 of 0.5 times the loss
(tau 0.5) plus 12.5 times the divergence to the sharpened assignment. All arms start from the same encoder; one has the
divergence alone, which says what the loss itself adds. Labels are used to measure alone, at the last step: those of
every other node chose between the paper's weights (2 and 2, 0.5 and 12.5) on another seed, the rest is reported. Also
seconds of loss and gradient as the nodes grow. No method is registered for the loss yet, so the steps are written here.
"""

from __future__ import annotations

import copy
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from experiment import Plan, difference
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import normalized_mutual_info_score
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from nearfar.losses import cluster_divergence, graph_mlp, influence_matrix, pamc, soft_assignment

K, TAU, WIDTHS = 10, 0.5, (64, 128, 128, 256, 10)
X = torch.from_numpy(load_digits().data).float().div(16)
Y = load_digits().target


def neighbours(x: Tensor, k: int) -> Tensor:
    near = NearestNeighbors(n_neighbors=k, metric="cosine").fit(x.numpy()).kneighbors(return_distance=False)
    return torch.stack([torch.arange(len(x)).repeat_interleave(k), torch.from_numpy(near).reshape(-1)])


def layers(widths: tuple[int, ...]) -> nn.Sequential:
    made: list[nn.Module] = []
    for i, o in pairwise(widths):
        made += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(*made[:-1])


def auto_encoder(seed: int) -> nn.Sequential:
    encoder, decoder = layers(WIDTHS), layers(WIDTHS[::-1])
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    make = torch.Generator().manual_seed(seed)
    for _ in range(60):
        for rows in torch.randperm(len(X), generator=make).split(256):
            optimiser.zero_grad()
            (decoder(encoder(X[rows])) - X[rows]).square().mean().backward()
            optimiser.step()
    return encoder


def scores(guess: np.ndarray) -> dict[str, float]:
    guess, truth, table = guess[1::2], Y[1::2], np.zeros((K, K))
    np.add.at(table, (guess, truth), 1)
    return {
        "acc": float(table[linear_sum_assignment(-table)].sum() / len(truth)),
        "nmi": float(normalized_mutual_info_score(truth, guess)),
    }


Start = tuple[nn.Sequential, Tensor]


NEGATIVES: dict[str, Any] = {
    "pamc": lambda z, y, influence: pamc(z, y, influence, inverse_temperature=TAU),
    "exact": lambda z, y, influence: graph_mlp(z, influence, inverse_temperature=TAU),
    "divergence alone": lambda z, y, influence: 0.0,
    "k-means start": None,
}


def train(seed: int, name: str, started: dict[int, Start], influence: Tensor, steps: int) -> dict[str, float]:
    if seed not in started:
        encoder = auto_encoder(seed)
        with torch.no_grad():
            found = KMeans(K, n_init=20, random_state=seed).fit(encoder(X).numpy())
        started[seed] = encoder, torch.from_numpy(found.cluster_centers_)
    encoder, centres = copy.deepcopy(started[seed][0]), nn.Parameter(started[seed][1].clone())
    optimiser, start = torch.optim.Adam([*encoder.parameters(), centres], lr=1e-3), time.perf_counter()
    for _ in range(0 if name == "k-means start" else steps):
        z = encoder(X)
        q = soft_assignment(z, centres)
        optimiser.zero_grad()
        (0.5 * NEGATIVES[name](z, q.detach().argmax(1), influence) + 12.5 * cluster_divergence(q)).backward()
        optimiser.step()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        return scores(soft_assignment(encoder(X), centres).argmax(1).numpy()) | {"seconds": seconds}


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
    """All arms and the cost of the loss beside that of the exact one, each size in a process of its own."""
    influence, started, seeds = influence_matrix(neighbours(X, 3), len(X), order=4), {}, range(plan.seeds or 5)
    began, found = time.perf_counter(), {name: [] for name in NEGATIVES}
    for seed in seeds:
        for name in NEGATIVES:
            torch.manual_seed(seed)
            found[name].append(train(seed, name, started, influence, 4 if plan.tiny else 100))
        plan.say(f"pamc, seed {seed}: " + "; ".join(f"{k} {v[-1]['nmi']:.3f}" for k, v in found.items()))
    costs = {}
    for n in (500,) if plan.tiny else (500, 1000, 1797, 8000, 32000):
        for name in ("pamc", "exact") if n <= 8000 else ("pamc",):
            told = subprocess.run([sys.executable, __file__, name, str(n)], capture_output=True, check=True)
            costs[f"{name}, {n} nodes"] = float(told.stdout)
    nmi = {k: [x["nmi"] for x in v] for k, v in found.items()}
    told = difference(found, "pamc", "divergence alone", "nmi")
    others = {f"pamc - {name}, {key}": difference(found, "pamc", name, key)
              for name in list(NEGATIVES)[1:] for key in ("acc", "nmi")}  # fmt: skip
    return {
        "slug": "pamc",
        "claim": "Clusters in place of node pairs as negatives add what the divergence alone does not give.",
        "data": "scikit-learn digits, 1797 nodes, 3 neighbours, half of them measured",
        "command": "python benchmarks/claims pamc",
        "metric": "NMI of the clusters after 100 steps, against the divergence alone",
        "higher_is_better": True,
        "seeds": list(seeds),
        "method": {"pamc": nmi["pamc"]},
        "baselines": {k: v for k, v in nmi.items() if k != "pamc"},
        "difference": {k: told[k] for k in ("mean", "interval")},
        "holds": told["holds"],
        "further": others,
        "cost": costs,
        "all": {"digits": found},
        "seconds": time.perf_counter() - began,
        "notes": notes(found, costs),
    }


def notes(found: dict[str, Any], costs: dict[str, float]) -> str:
    means = "; ".join(f"{k}: " + " / ".join(f"{100 * np.mean([x[m] for x in v]):.1f}" for m in ("acc", "nmi"))
                      for k, v in found.items())  # fmt: skip
    table = "; ".join(f"{k}: {1000 * s:.0f} ms" for k, s in costs.items())
    return f"ACC / NMI in %: {means}. Loss and gradient: {table} (the exact loss is streamed)."


if __name__ == "__main__":
    print(cost(sys.argv[1], int(sys.argv[2])))
