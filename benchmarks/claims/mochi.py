"""MoCHi against MoCo (the same with s = s' = 0) on scikit-learn's digits.

    python benchmarks/claims/mochi.py            # 5 seeds, about nine minutes on one core
    python benchmarks/claims/mochi.py --seeds 1 --steps 60 --dry   # a quick look, nothing is written

Every digit is its own class for the loss, so hard negatives should help most where a picture is to be found again:
the metric is instance retrieval, the test picture of a fresh view (of strength 1). How strong the views of the
training are is chosen first, for MoCo: by retrieval of 200 training pictures that are held out, with seeds of their
own. All other settings were fixed beforehand.
"""

from __future__ import annotations

import argparse
import math
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from checks import FIGURES, compare, digits, store
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar import evaluation
from nearfar.losses.rows import info_nce_rows
from nearfar.momentum import Teacher
from nearfar.negatives import Items, Mixing
from nearfar.negatives.mixing import hardest
from nearfar.reporting import map_2d
from nearfar.reporting.figures import Points, scatter_svg
from nearfar.similarity import one_way

BATCH, QUEUE, TEMPERATURE, MOMENTUM, WARMUP = 64, 512, 0.2, 0.99, 0.2
STRENGTHS, CHOOSING, HELD_OUT = (0.25, 0.5, 1.0, 1.5), (100, 101), 200
CASES = {"MoCo": (32, 0, 0), "MoCHi (32, 32, 16)": (32, 32, 16), "MoCHi (64, 128, 64)": (64, 128, 64)}


def augment(x: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """A random view. At strength 1: rotation to 15 degrees, shift to one pixel, scale to 15 %, contrast to 40 %, noise
    0.1, 3x3 erased; the first five grow with the strength."""
    n = len(x)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    angle, scale = strength * uniform(-15, 15) * math.pi / 180, 1 + strength * uniform(-0.15, 0.15)
    shift = strength * uniform(-0.25, 0.25, 2)
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()], 1), torch.stack([angle.sin(), angle.cos()], 1)], 1)
    grid = F.affine_grid(torch.cat([turn / scale[:, None, None], shift[:, :, None]], 2), list(x.shape), False)
    x = F.grid_sample(x, grid, align_corners=False) * (1 + strength * uniform(-0.4, 0.4, 1, 1, 1))
    x = x + 0.1 * strength * torch.randn(x.shape, generator=generator)
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


def train(case: tuple[int, int, int], seed: int, steps: int, strength: float) -> tuple[SmallNet, dict[str, float]]:
    """The trained network, and the mean of the diagnostics over the last tenth of the run."""
    net, _, told = trained(digits().train, case, seed, steps, strength)
    return net, {k: float(np.mean([t[k] for t in told])) for k in told[0]}


def trained(
    x: Tensor, case: tuple[int, int, int], seed: int, steps: int, strength: float
) -> tuple[SmallNet, Mixing, list[dict[str, float]]]:
    """The network, its queue, and the diagnostics of the last tenth of the steps."""
    torch.manual_seed(seed)
    net = SmallNet()
    teacher = Teacher(net)
    hard, mixed, with_query = case
    part = Mixing(QUEUE, hard, mixed, with_query, WARMUP, in_batch=False, random_start=True)
    part.setup(32, 1, BATCH, len(x), steps)
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    views, order, told = torch.Generator().manual_seed(seed), np.random.default_rng(seed), []
    for step in range(steps):
        rows = torch.from_numpy(order.choice(len(x), BATCH, replace=False))
        items = Items(rows, rows[:, None], None, step, steps, seed)
        teacher.follow(net, MOMENTUM)
        for mine, theirs in zip(teacher.buffers(), net.buffers(), strict=True):
            mine.copy_(torch.lerp(theirs, mine, MOMENTUM) if mine.is_floating_point() else theirs)
        query, key = net(augment(x[rows], views, strength)), teacher(augment(x[rows], views, strength))
        more = partial(part.further, items=items)
        layout = one_way(query, key, temperature=TEMPERATURE, in_batch=False, extra=more)
        loss = layout.loss(info_nce_rows)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        part.update(key, items)
        if step >= 0.9 * steps:
            told.append({k: float(v) for k, v in part.terms(layout.parts[0]).items()} | {"loss": float(loss.detach())})
    return net, part, told


def found_again(net: SmallNet, x: Tensor, seed: int) -> float:
    """The share of pictures that are the nearest to a fresh view of themselves, in percent."""
    views = augment(x, torch.Generator().manual_seed(1000 + seed))
    query, gallery = (F.normalize(torch.from_numpy(net.features(z))) for z in (views, x))
    return 100 * float(((query @ gallery.T).argmax(1) == torch.arange(len(x))).float().mean())


def choose(steps: int) -> dict[float, list[float]]:
    """Strength of the views -> MoCo's retrieval of held-out training pictures, a number a seed."""
    x = digits().train
    fit, held = x[:-HELD_OUT], x[-HELD_OUT:]
    found = {s: [found_again(trained(fit, CASES["MoCo"], seed, steps, s)[0], held, seed) for seed in CHOOSING]
             for s in STRENGTHS}
    print("held out, by strength:", found, flush=True)
    return found


def scores(net: SmallNet, seed: int) -> dict[str, float]:
    found = digits()
    train_x, train_y, test_x, test_y = found.train, found.train_y, found.test, found.test_y
    labels = label_scores(net.features(train_x), train_y, net.features(test_x), test_y, seed)
    return {"retrieval": found_again(net, test_x, seed), **labels}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--figure", action="store_true", help="only draw docs/assets/methods/mochi.svg, from one run")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.figure:
        tried = choose(given.steps)
        figure(given.steps, max(tried, key=lambda s: np.mean(tried[s])))
        return
    began, table, told = time.perf_counter(), {}, {}
    tried = choose(given.steps)
    strength = max(tried, key=lambda s: np.mean(tried[s]))
    for seed in range(given.seeds):
        torch.manual_seed(seed)
        table.setdefault("untrained", []).append(scores(SmallNet(), seed))
        for name, case in CASES.items():
            net, terms = train(case, seed, given.steps, strength)
            table.setdefault(name, []).append(scores(net, seed))
            told.setdefault(name, []).append(terms)
            print(f"seed {seed}  {name:20}", {k: round(v, 3) for k, v in (table[name][-1] | terms).items()}, flush=True)
    result = conclude(table, told, given, (strength, tried), time.perf_counter() - began)
    if not given.dry:
        store("mochi", result)
    print(result["notes"])


def figure(steps: int, strength: float, queries: int = 3) -> None:
    """A map of the queue's keys, the hardest of some queries, and what was mixed from them."""
    x = digits().train
    net, part = trained(x, CASES["MoCHi (32, 32, 16)"], 0, steps, strength)[:2]
    with torch.no_grad():
        views = net(augment(x[:BATCH], torch.Generator().manual_seed(0), strength))
    query = torch.nn.functional.normalize(views[:queries])
    items = Items(torch.full((queries,), -1), torch.full((queries, 1), -1), None, steps, steps, 0)
    seen = one_way(query, query, extra=partial(part.further, items=items)).parts[0].blocks
    hard = hardest(query, seen[1].keys, 32).flatten().unique()
    mixed, with_query = seen[2].keys[:, :32].flatten(0, 1), seen[2].keys[:, 32:].flatten(0, 1)
    groups = {"key of the queue": seen[1].keys, "among the 32 hardest": seen[1].keys[hard], "mixture of two": mixed,
              "mixture with the query": with_query, "query": query}
    places = np.split(map_2d(torch.cat(list(groups.values()))), np.cumsum([len(z) for z in groups.values()])[:-1])
    points = [Points(name, at, 6 if name == "query" else 2.6) for (name, _), at in zip(groups.items(), places,
                                                                                       strict=True)]
    about = "Mixtures of hard keys lie among them; mixtures with the query lie between the query and its hard keys."
    FIGURES.mkdir(parents=True, exist_ok=True)
    (FIGURES / "mochi.svg").write_text(scatter_svg(points, "Hard negatives, real and mixed, of three digits", about))


def conclude(table: dict[str, Any], told: dict[str, Any], given: Any, chosen: tuple[float, dict[float, list[float]]],
             seconds: float) -> dict[str, Any]:
    def column(name: str, metric: str) -> list[float]:
        return [s[metric] for s in table[name]]

    ours, base = "MoCHi (32, 32, 16)", "MoCo"
    gap = compare(column(ours, "retrieval"), column(base, "retrieval"))
    metrics = {m: {n: [round(v, 2) for v in column(n, m)] for n in table} for m in ("retrieval", "knn", "probe", "few")}
    mechanism = {n: {k: round(float(np.mean([t[k] for t in seeds])), 4) for k in seeds[0]} for n, seeds in told.items()}
    gaps = {n: {m: compare(column(n, m), column(base, m)) for m in metrics} for n in CASES if n != base}
    proxy = {n: 100 * m["proxy"] for n, m in mechanism.items()}
    mass = 100 * mechanism[ours]["mixed_mass"]
    return {
        "slug": "mochi",
        "claim": "Mixed hard negatives find a picture again better than MoCo, the same run without mixtures.",
        "data": "scikit-learn digits, 1200 train / 597 test",
        "command": "python benchmarks/claims/mochi.py",
        "metric": "instance retrieval hit@1 of a fresh view, %",
        "higher_is_better": True,
        "seeds": list(range(given.seeds)),
        "method": {n: metrics["retrieval"][n] for n in CASES if n != base},
        "baselines": {n: metrics["retrieval"][n] for n in ("MoCo", "untrained")},
        "difference": gap,
        "holds": gap["holds"],
        "metrics": metrics,
        "differences": gaps,
        "mechanism": mechanism,
        "strength": {"chosen": chosen[0], "held_out": {str(s): v for s, v in chosen[1].items()}},
        "seconds": round(seconds, 1),
        "notes": f"Views of strength {chosen[0]:g}, chosen for MoCo among {', '.join(f'{s:g}' for s in chosen[1])} on "
        f"held-out training pictures. The mechanism: the positive is above all candidates for {proxy[base]:.1f} % of "
        f"the anchors without mixtures and {proxy[ours]:.1f} % with them; the mixtures hold {mass:.0f} % of the "
        f"softmax's mass. kNN {gaps[ours]['knn']['mean']:+.2f}, probe {gaps[ours]['probe']['mean']:+.2f}, 5 labels a "
        f"class {gaps[ours]['few']['mean']:+.2f} points against MoCo.",
    }


if __name__ == "__main__":
    main()
