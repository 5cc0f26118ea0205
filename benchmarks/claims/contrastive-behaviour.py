"""The hard contrastive loss does not depend on its temperature, and rescues the simple loss.

    python benchmarks/claims/contrastive-behaviour.py [--seeds 5]

Digits; views: shifts of one pixel, contrast 0.3, noise 0.1, a 3 x 3 square erased; an MLP 64-256-128-32 with batch
norm, also after the last layer; Adam 2e-3, 300 steps of 128, both directions, alpha 0.1. Uniformity (-U) and tolerance
are those of the 597. Writes benchmarks/claims/results/contrastive-behaviour.json.
"""

from __future__ import annotations

import argparse
from itertools import pairwise

import torch
from checks import Augment, batches, compare, digits, embed, knn, probe, run, write
from torch import Tensor, nn

from nearfar.evaluation.diagnostics import tolerance, uniformity
from nearfar.losses import clip, hard_contrastive, simple

DATA = digits()
VIEW = Augment(contrast=0.3, noise=0.1, erase=3)
TEMPERATURES = (0.07, 0.2, 0.5, 1.0)
ARMS = {f"ordinary {t:g}": (lambda a, b, t=t: clip(a, b, temperature=t)) for t in (0.03, *TEMPERATURES)}
ARMS |= {f"hard {t:g}": (lambda a, b, t=t: hard_contrastive(a, b, temperature=t, alpha=0.1)) for t in TEMPERATURES}
ARMS |= {"simple": simple, "hard simple": lambda a, b: simple(a, b, alpha=0.1)}


def view(x: Tensor, make: torch.Generator) -> Tensor:
    """A shift by -1, 0 or 1 pixel in each direction, then the other changes."""
    wide = torch.nn.functional.pad(x, (1, 1, 1, 1))
    at = torch.randint(0, 3, (len(x), 2), generator=make)
    rows, columns = (at[:, k, None] + torch.arange(8) for k in (0, 1))
    return VIEW(wide[torch.arange(len(x))[:, None, None], 0, rows[:, :, None], columns[:, None]][:, None], make)


def mlp() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for i, o in ((64, 256), (256, 128)):
        layers += [nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, 32), nn.BatchNorm1d(32, affine=False))


def train(seed: int, name: str) -> dict[str, float]:
    net = mlp()
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    make = torch.Generator().manual_seed(seed)
    for rows in batches(len(DATA.train), 128, 300, make):
        a, b = net(torch.cat([view(DATA.train[rows], make) for _ in range(2)])).chunk(2)
        optimiser.zero_grad()
        ARMS[name](a, b).backward()
        optimiser.step()
    z = embed(net, DATA.test)
    parts = (embed(net, DATA.train), DATA.train_y, z, DATA.test_y)
    return {"knn": knn(*parts), "probe": probe(*parts), "spread": -uniformity(z),
            "tolerance": tolerance(z, DATA.test_y)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    found, seconds = run({name: (lambda seed, n=name: train(seed, n)) for name in ARMS}, range(given.seeds))

    def values(name: str, key: str = "knn") -> list[float]:
        return [x[key] for x in found[name]]

    def worst(kind: str) -> list[float]:
        return [min(v) for v in zip(*(values(f"{kind} {t:g}") for t in TEMPERATURES), strict=True)]

    def span(kind: str) -> list[float]:
        return [max(v) - min(v) for v in zip(*(values(f"{kind} {t:g}") for t in TEMPERATURES), strict=True)]

    further = {"span over the temperatures, hard - ordinary": compare(span("hard"), span("ordinary"), higher=False),
               "simple - ordinary at its best temperature": compare(values("simple"), values("ordinary 0.07")),
               "hard simple - simple": compare(values("hard simple"), values("simple")),
               "hard simple - ordinary 0.07": compare(values("hard simple"), values("ordinary 0.07"))}
    for low, high in pairwise(TEMPERATURES):
        further[f"ordinary, -U at {low:g} - at {high:g}"] = compare(
            values(f"ordinary {low:g}", "spread"), values(f"ordinary {high:g}", "spread"))
        further[f"ordinary, tolerance at {high:g} - at {low:g}"] = compare(
            values(f"ordinary {high:g}", "tolerance"), values(f"ordinary {low:g}", "tolerance"))

    def told(name: str) -> str:
        means = [sum(values(name, k)) / given.seeds for k in ("knn", "probe", "spread", "tolerance")]
        return f"{name}: {100 * means[0]:.1f} / {100 * means[1]:.1f} / {means[2]:.2f} / {means[3]:.2f}"

    write("contrastive-behaviour",
          claim="Keeping only the hardest tenth of the negatives frees the loss from its temperature.",
          data="scikit-learn digits, 1200 / 597", command="python benchmarks/claims/contrastive-behaviour.py",
          metric="5-NN accuracy at the worst temperature of 0.07, 0.2, 0.5, 1, hard against ordinary",
          seeds=list(range(given.seeds)), method={"hard": worst("hard")}, baselines={"ordinary": worst("ordinary")},
          further=further, all=found, seconds=seconds,
          notes="5-NN accuracy / probe / -U / tolerance: " + "; ".join(told(name) for name in ARMS) + ".")


if __name__ == "__main__":
    main()
