"""What the checks of claims on scikit-learn's digits share: data, views, a small network, measures, the result file.

1,797 scans of handwritten digits, 8 x 8; 1,200 to train on and 597 to test on, drawn once. Nothing is chosen by the
597: steps, rates and sizes are those that each check states. One thread.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, normalize

import nearfar
from nearfar.evaluation.statistics import holds, paired_interval

torch.set_num_threads(1)
RESULTS = Path(__file__).parent / "results"
FIGURES = Path(__file__).parent.parent.parent / "docs" / "assets" / "methods"


@dataclass(frozen=True)
class Digits:
    """Pictures (n, 1, 8, 8) in [0, 1] and labels (n,) to train on and to test on."""

    train: Tensor
    train_y: np.ndarray
    test: Tensor
    test_y: np.ndarray


def digits() -> Digits:
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    x = torch.from_numpy(found.data[order]).float().div(16).reshape(-1, 1, 8, 8)
    y = found.target[order]
    return Digits(x[:1200], y[:1200], x[1200:], y[1200:])


@dataclass(frozen=True)
class Augment:
    """Random view of each picture. degrees, shift (share of the side), contrast, noise: half-widths or deviations;
    erase: side of an erased square in pixels; pixels: whole-pixel shifts instead of a smooth one."""

    degrees: float = 0.0
    shift: float = 0.0
    contrast: float = 0.0
    noise: float = 0.0
    erase: int = 0

    def __call__(self, x: Tensor, make: torch.Generator) -> Tensor:
        n = len(x)

        def spread(*shape: int) -> Tensor:
            return 2 * torch.rand(n, *shape, generator=make) - 1

        if self.degrees or self.shift:
            turn = spread() * self.degrees * np.pi / 180
            rows = torch.stack([torch.stack([turn.cos(), -turn.sin(), 2 * self.shift * spread()], 1),
                                torch.stack([turn.sin(), turn.cos(), 2 * self.shift * spread()], 1)], 1)
            x = grid_sample(x, affine_grid(rows, list(x.shape), align_corners=False), align_corners=False)
        x = x * (1 + self.contrast * spread(1, 1, 1))
        if self.erase:
            at = torch.randint(0, 8 - self.erase + 1, (n, 2), generator=make)
            place = torch.arange(8)
            inside = [(place >= at[:, k, None]) & (place < at[:, k, None] + self.erase) for k in (0, 1)]
            x = x.masked_fill((inside[0][:, :, None] & inside[1][:, None])[:, None], 0)
        return x + self.noise * torch.randn(x.shape, generator=make)


def conv_net(width: int = 32, features: int = 64) -> nn.Sequential:
    """(n, 1, 8, 8) -> (n, features): three convolutions with batch norm."""
    def block(i: int, o: int) -> list[nn.Module]:
        return [nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
    return nn.Sequential(*block(1, width), nn.MaxPool2d(2), *block(width, 2 * width), nn.MaxPool2d(2),
                         *block(2 * width, features), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def batches(n: int, size: int, steps: int, make: torch.Generator) -> list[Tensor]:
    """Row numbers of each step; every epoch is a new permutation."""
    rows = torch.cat([torch.randperm(n, generator=make)[: n // size * size] for _ in range(steps * size // n + 1)])
    return list(rows.split(size))[:steps]


@torch.no_grad()
def embed(net: nn.Module, x: Tensor) -> np.ndarray:
    """Unit vectors in evaluation mode."""
    net.eval()
    return normalize(net(x), dim=1).numpy()


def few_labels(train: np.ndarray, train_y: np.ndarray, test: np.ndarray, test_y: np.ndarray, labels: int = 5,
               draws: int = 20) -> float:
    """1-NN accuracy with `labels` examples a class, the mean over draws that are the same for all."""
    rng, scores = np.random.default_rng(1), []
    for _ in range(draws):
        rows = np.concatenate([rng.choice(np.flatnonzero(train_y == c), labels, replace=False) for c in range(10)])
        scores.append((train_y[rows][(test @ train[rows].T).argmax(1)] == test_y).mean())
    return float(np.mean(scores))


def knn(train: np.ndarray, train_y: np.ndarray, test: np.ndarray, test_y: np.ndarray, k: int = 5) -> float:
    return float(KNeighborsClassifier(k).fit(train, train_y).score(test, test_y))


def probe(train: np.ndarray, train_y: np.ndarray, test: np.ndarray, test_y: np.ndarray) -> float:
    """Logistic regression on standardised features."""
    scale = StandardScaler().fit(train)
    return float(LogisticRegression(max_iter=300).fit(scale.transform(train), train_y)
                 .score(scale.transform(test), test_y))


def compare(method: Sequence[float], baseline: Sequence[float], higher: bool = True) -> dict[str, Any]:
    """Paired difference over seeds with its interval, and whether it lies on the claimed side of zero."""
    sign = 1.0 if higher else -1.0
    found = paired_interval(sign * (np.asarray(method) - np.asarray(baseline)))
    bounds = found.bounds
    return {"mean": sign * found.mean, "interval": None if bounds is None else sorted(sign * b for b in bounds),
            "holds": holds(found)}


def run(arms: Mapping[str, Callable[[int], Any]], seeds: Sequence[int]) -> tuple[dict[str, list[Any]], float]:
    """What each arm gives for each seed, interleaved, and the seconds of all."""
    start, found = time.perf_counter(), {name: [] for name in arms}
    for seed in seeds:
        for name, arm in arms.items():
            torch.manual_seed(seed)
            found[name].append(arm(seed))
        print(f"seed {seed}: " + "; ".join(f"{k} {shown(v[-1])}" for k, v in found.items()), flush=True)
    return found, time.perf_counter() - start


def shown(value: Any) -> str:
    values = value.values() if isinstance(value, Mapping) else [value]
    return "/".join(f"{v:.3f}" for v in values if isinstance(v, float))


def write(slug: str, *, method: dict[str, list[float]], baselines: dict[str, list[float]],
          higher_is_better: bool = True, **facts: Any) -> None:
    """benchmarks/claims/results/<slug>.json, atomically: the first method against the first baseline, and the facts."""
    difference = compare(next(iter(method.values())), next(iter(baselines.values())), higher_is_better)
    result = {"slug": slug, **facts, "higher_is_better": higher_is_better, "method": method, "baselines": baselines,
              "difference": {k: difference[k] for k in ("mean", "interval")}, "holds": difference["holds"]}
    store(slug, result)


def store(slug: str, result: dict[str, Any]) -> None:
    """benchmarks/claims/results/<slug>.json with the versions, replaced in one step."""
    result = {**result, "versions": {"nearfar": nearfar.__version__, "torch": torch.__version__.split("+")[0],
                           "numpy": np.__version__, "python": platform.python_version()}}
    RESULTS.mkdir(exist_ok=True)
    handle, name = tempfile.mkstemp(dir=RESULTS, suffix=".part")
    with os.fdopen(handle, "w") as file:
        json.dump(rounded(result), file, indent=1)
        file.write("\n")
    Path(name).chmod(0o644)
    Path(name).replace(RESULTS / f"{slug}.json")
    print(json.dumps(rounded({"difference": result["difference"], "holds": result["holds"]})))


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, Mapping):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, (list, tuple)) else value
