"""What the small checks on scikit-learn's digits share: pictures, views, a small network, scores, the result file."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar import evaluation
from nearfar.evaluation.statistics import paired_interval

RESULTS = Path(__file__).parent / "results"
FIGURES = Path(__file__).parent.parent.parent / "docs" / "assets" / "methods"


def digits(train: int = 1200, seed: int = 0) -> tuple[Tensor, np.ndarray, Tensor, np.ndarray]:
    """Pictures (n, 1, 8, 8) in [0, 1] and labels: `train` for training, the rest for the test, one fixed split."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    x = torch.from_numpy(data.images).float()[:, None] / 16
    order = np.random.default_rng(seed).permutation(len(x))
    a, b = order[:train], order[train:]
    return x[a], data.target[a], x[b], data.target[b]


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """A random view: rotation to 15 degrees, shift to one pixel, scale to 15 %, contrast, noise 0.1, 3x3 erased."""
    n = len(x)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    angle, scale, shift = uniform(-15, 15) * math.pi / 180, uniform(0.85, 1.15), uniform(-0.25, 0.25, 2)
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()], 1), torch.stack([angle.sin(), angle.cos()], 1)], 1)
    grid = F.affine_grid(torch.cat([turn / scale[:, None, None], shift[:, :, None]], 2), list(x.shape), False)
    x = F.grid_sample(x, grid, align_corners=False) * uniform(0.6, 1.4, 1, 1, 1)
    x = x + 0.1 * torch.randn(x.shape, generator=generator)
    place = torch.randint(0, x.shape[-1] - 2, (n, 2), generator=generator)
    line = torch.arange(x.shape[-1])
    inside = (line >= place[:, :, None]) & (line < place[:, :, None] + 3)
    return x.masked_fill((inside[:, 0, :, None] & inside[:, 1, None, :])[:, None], 0.0)


class SmallNet(nn.Module):
    """Three 3x3 convolutions (16, 32, 64 channels) with batch norm, average pooling after the first two: 256 features,
    and a projection 256-64-32."""

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = []
        for before, width, pool in ((1, 16, True), (16, 32, True), (32, 64, False)):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.AvgPool2d(2)] if pool else []
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    @torch.no_grad()
    def features(self, x: Tensor) -> np.ndarray:
        self.eval()
        made = self.body(x)
        self.train()
        return made.numpy()


def label_scores(train_z: Any, train_y: Any, test_z: Any, test_y: Any, seed: int) -> dict[str, float]:
    """kNN, linear probe (C chosen on a sixth of the training part), and 1-NN with 5 labels a class, in percent."""
    held = np.random.default_rng(seed).permutation(len(train_z))
    fit, val = held[len(held) // 6 :], held[: len(held) // 6]
    probe = evaluation.linear_probe(train_z[fit], train_y[fit], train_z[val], train_y[val], test_z, test_y)
    rng = np.random.default_rng(seed)
    few = np.concatenate([rng.choice(np.flatnonzero(train_y == c), 5, replace=False) for c in np.unique(train_y)])
    return {
        "knn": 100 * evaluation.knn(train_z, train_y, test_z, test_y).accuracy,
        "probe": 100 * probe.accuracy,
        "few": 100 * evaluation.knn(train_z[few], train_y[few], test_z, test_y, k=1).accuracy,
    }


def difference(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Mean and 95 % interval (Student t) of the differences, paired by seed."""
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    found = paired_interval(gaps)
    return {"mean": found.mean, "interval": [found.low, found.high]}


def verdict(found: Mapping[str, Any], better: bool = True) -> bool | str:
    """Whether the interval lies on the claimed side of zero, on the other, or spans it (or there is none)."""
    if found["interval"][0] is None:
        return "undecided"
    low, high = found["interval"] if better else [-x for x in reversed(found["interval"])]
    return True if low > 0 else False if high < 0 else "undecided"


def write(slug: str, result: dict[str, Any]) -> None:
    """results/SLUG.json, replaced in one step, with the versions."""
    names = ("torch", "numpy", "scikit-learn")
    result["versions"] = {"python": platform.python_version(), **{n: version(n) for n in names}}
    RESULTS.mkdir(parents=True, exist_ok=True)
    part = RESULTS / f"{slug}.json.tmp"
    part.write_text(json.dumps(result, indent=2) + "\n")
    os.replace(part, RESULTS / f"{slug}.json")
