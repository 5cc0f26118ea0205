"""NNCLR: a neighbour as the positive teaches more than the other view alone, and needs augmentation less.

    python benchmarks/claims/nnclr.py [--seeds 5]
    python benchmarks/claims/nnclr.py --seeds 1 --steps 20 --dry      # a quick look, nothing is written

Digits, the library's methods on a 3-layer convolutional net with a 64-64-32 head (NNCLR with a predictor of 64 and a
queue of 256), temperature 0.1, Adam 1e-3, 400 steps of 64. Two kinds of views: "all" (rotation 15 degrees, shift 25 %,
contrast, noise 0.1, a 3 x 3 square erased) and "shifts" (12 % and nothing else), in place of the paper's full
augmentation and crops alone. Nothing was tuned. Writes benchmarks/claims/results/nnclr.json.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from checks import Augment, batches, compare, conv_net, digits, embed, few_labels, knn, probe, run, write
from torch import Tensor

from nearfar.encoders import Encoder
from nearfar.methods import Batch, Facts, ViewContrast
from nearfar.methods.image.nnclr import NNCLR
from nearfar.methods.image.simclr import SimCLR

DATA = digits()
SIZE = 64
VIEWS = {"all": Augment(degrees=15, shift=0.25, contrast=0.3, noise=0.1, erase=3), "shifts": Augment(shift=0.12)}
METHODS: dict[str, tuple[type[ViewContrast], dict[str, Any]]] = {
    "nnclr": (NNCLR, {"queue": 256, "predictor": 64}),
    "simclr": (SimCLR, {}),
}
METRICS = ("probe", "knn", "few")


class Small(Encoder):
    """(n, 1, 8, 8) -> (n, 64)."""

    modality = "image"
    dim = 64

    def __init__(self):
        super().__init__()
        self.net = conv_net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def scores(train: np.ndarray, test: np.ndarray) -> dict[str, float]:
    parts = (train, DATA.train_y, test, DATA.test_y)
    return {"probe": probe(*parts), "knn": knn(*parts), "few": few_labels(*parts)}


def of(encoder: Encoder) -> dict[str, float]:
    return scores(embed(encoder, DATA.train), embed(encoder, DATA.test))


def pixels() -> dict[str, float]:
    """Raw pixels as unit vectors."""
    flat = [torch.nn.functional.normalize(x.flatten(1), dim=1).numpy() for x in (DATA.train, DATA.test)]
    return scores(*flat)


def train(seed: int, name: str, view: Augment, steps: int) -> dict[str, float]:
    """Scores of the trained encoder, and for NNCLR how often the neighbours of the last tenth have the same digit."""
    kind, options = METHODS[name]
    method = kind(Small(), temperature=0.1, projector=64, dim=32, **options)
    method.attach(Facts(len(DATA.train), len(DATA.train), SIZE, steps))
    optimiser = torch.optim.Adam(method.parameters(), lr=1e-3)
    make, purity = torch.Generator().manual_seed(seed), []
    past = np.zeros(0, int)  # digits of the queue, which holds the latest items in a ring
    for step, rows in enumerate(batches(len(DATA.train), SIZE, steps, make)):
        views = [view(DATA.train[rows], make) for _ in range(2)]
        batch = Batch(rows, {}, step=step, steps=steps, seed=seed, views={"image": views})
        embedded = method.encode(batch)
        if isinstance(method, NNCLR) and step >= 0.9 * steps and method.support.filled.all():
            purity.append(same_digit(method, embedded["views"][0], past, DATA.train_y[rows]))
        optimiser.zero_grad()
        method.loss(embedded, batch).total.backward()
        optimiser.step()
        method.after_step({k: [x.detach() for x in v] for k, v in embedded.items()}, batch)
        past = ring(past, DATA.train_y[rows], step)
    return of(method.tower.encoder) | ({"purity": float(np.mean(purity))} if purity else {})


def ring(past: np.ndarray, new: np.ndarray, step: int, size: int = 256) -> np.ndarray:
    """The digits in the places of the queue after a step."""
    past = np.zeros(size, int) if not len(past) else past.copy()
    past[(step * len(new) + np.arange(len(new))) % size] = new
    return past


def same_digit(method: NNCLR, z: Tensor, past: np.ndarray, own: np.ndarray) -> float:
    unit = torch.nn.functional.normalize
    nearest = (unit(z.detach(), dim=1) @ unit(method.support.keys, dim=1).T).argmax(1)
    return float((past[nearest.numpy()] == own).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--dry", action="store_true", help="write nothing")
    given = parser.parse_args()
    arms = {f"{name}, {views}": (lambda seed, n=name, v=VIEWS[views]: train(seed, n, v, given.steps))
            for views in VIEWS for name in METHODS}  # fmt: skip
    arms |= {"untrained": lambda seed: of(Small()), "raw pixels": lambda seed: pixels()}
    found, seconds = run(arms, range(given.seeds))
    if given.dry:
        return
    further = {f"nnclr - simclr, {views}, {metric}": compare(*(values(found, f"{n}, {views}", metric) for n in METHODS))
               for views in VIEWS for metric in METRICS}  # fmt: skip
    for metric in METRICS:
        lost = [np.subtract(values(found, f"{n}, all", metric), values(found, f"{n}, shifts", metric)) for n in METHODS]
        further[f"lost without augmentation, nnclr - simclr, {metric}"] = compare(*lost, higher=False)
    write("nnclr",
          claim="The nearest neighbour as the positive gives better features than the other view alone.",
          data="scikit-learn digits, 1200 / 597", command="python benchmarks/claims/nnclr.py",
          metric=f"linear probe, all augmentations, {given.steps} steps", seeds=list(range(given.seeds)),
          method={"nnclr": values(found, "nnclr, all", "probe")},
          baselines={"simclr": values(found, "simclr, all", "probe"), "untrained": values(found, "untrained", "probe"),
                     "raw pixels": values(found, "raw pixels", "probe")},
          further=further, all=found, seconds=seconds, notes=notes(found, further))  # fmt: skip


def values(found: dict[str, list[dict[str, float]]], arm: str, metric: str) -> list[float]:
    return [x[metric] for x in found[arm]]


def notes(found: dict[str, list[dict[str, float]]], further: dict[str, Any]) -> str:
    told = [f"{metric} {100 * further[f'nnclr - simclr, {views}, {metric}']['mean']:+.1f} ({views})"
            for views in VIEWS for metric in METRICS]  # fmt: skip
    purity = np.mean([x["purity"] for x in found["nnclr, all"] if "purity" in x])
    lost = 100 * further["lost without augmentation, nnclr - simclr, probe"]["mean"]
    return (f"NNCLR minus SimCLR in points: {', '.join(told)}. The probe loses with shifts alone, NNCLR minus SimCLR: "
            f"{lost:+.1f}. {100 * purity:.0f} % of the neighbours in the last tenth of a run are the same digit.")


if __name__ == "__main__":
    main()
