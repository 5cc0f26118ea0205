"""Samples a second of `fit simclr` against hand-written loops with the same encoder, loss and batch.

    python benchmarks/train_throughput.py [--pairs 15] [--steps 12] [--batch 128] [--out FILE]

Four ways of training on the same images (the built-in set at 32 pixels), each a full step (views, forward, loss,
backward, AdamW), run in turn in one process, so that the machine's moods hit all alike; printed is the ratio of each
round and its median with a 95 % interval (order statistics):

  nearfar      `nearfar.fit("simclr")`: Lightning, batched views
  batched      a hand-written loop over the same batched views
  per-image  a hand-written loop over torchvision v2 transforms, one image at a time, in 2 worker processes
  lightly      lightly's SimCLR transform, loss and head in its documented loop, 2 worker processes

--also compile,bf16 adds `fit` with --compile and with --precision bf16.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from nearfar import encoders, heads, losses, views
from nearfar.sources import open_data
from nearfar.training import building, engine
from nearfar.training.settings import TrainSettings

OPTIONS: dict[str, dict[str, Any]] = {"compile": {"compile": True}, "bf16": {"precision": "bf16"}}


def interval(values: list[float]) -> tuple[float, float, float]:
    """Median with the 95 % interval of order statistics (binomial, n >= 6)."""
    x, n = sorted(values), len(values)
    k = max(0, int((n - 1.96 * n**0.5) / 2))
    return statistics.median(x), x[k], x[n - 1 - k]


class Images(Dataset):
    def __init__(self, images: Any, transform: Callable[[Any], Any]):
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Any:
        return self.transform(self.images[i])


def model() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    encoder = encoders.image("small", size=32)
    net = nn.Sequential(encoder, heads.mlp(encoder.dim, 512, 128))
    return net, torch.optim.AdamW(net.parameters(), 2e-3)


def step(net: nn.Module, optimiser: torch.optim.Optimizer, a: torch.Tensor, b: torch.Tensor, loss: Any) -> None:
    z = net(torch.cat([a, b]))
    value = loss(*z.chunk(2))
    optimiser.zero_grad()
    value.backward()
    optimiser.step()


def nearfar_rate(
    method: str, data: Any, batch: int, steps: int, training: dict[str, Any], options: dict[str, Any]
) -> Callable[[], float]:
    """Samples a second of `nearfar.fit`, its first three steps left out."""

    def run() -> float:
        settings = TrainSettings(steps=steps + 3, batch_size=batch, **training)
        setup = building.prepare(method, data, settings, options)
        marks: list[float] = []

        class Clock(engine.Curve):
            def __init__(self):
                pass

            def state_dict(self):
                return {}

            def on_train_start(self, trainer, pl_module):
                pass

            def on_train_batch_end(self, *rest):
                marks.append(time.perf_counter())

        engine.run_trainer(engine.trainer_for(setup, [Clock()], steps + 3), setup, None, engine.Signals(print, True))
        return batch * steps / (marks[-1] - marks[-1 - steps])

    return run


def batched_way(images: torch.Tensor, batch: int, steps: int) -> Callable[[], float]:
    def run() -> float:
        net, optimiser = model()
        plan, generator = views.build("two-crops"), torch.Generator().manual_seed(0)

        def one() -> None:
            rows = torch.randint(len(images), (batch,), generator=generator)
            a, b = plan(images[rows], generator)
            step(net, optimiser, a, b, lambda x, y: losses.nt_xent(x, y, temperature=0.1))

        for _ in range(3):
            one()
        start = time.perf_counter()
        for _ in range(steps):
            one()
        return batch * steps / (time.perf_counter() - start)

    return run


def loader_way(images: Any, transform: Callable[[Any], Any], batch: int, steps: int, loss: Any) -> Callable[[], float]:
    def run() -> float:
        net, optimiser = model()
        loader = DataLoader(
            Images(images, transform), batch, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True
        )

        def batches():
            while True:
                yield from loader

        stream = batches()
        for _ in range(3):
            a, b = next(stream)[:2]
            step(net, optimiser, a, b, loss)
        start = time.perf_counter()
        for _ in range(steps):
            a, b = next(stream)[:2]
            step(net, optimiser, a, b, loss)
        return batch * steps / (time.perf_counter() - start)

    return run


def torchvision_transform() -> Callable[[Any], Any]:
    from torchvision.transforms import v2

    one = v2.Compose(
        [
            v2.RandomResizedCrop(32, scale=(0.2, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    return lambda image: (one(image), one(image))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--also", default="", help="compile, bf16")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/train_throughput.json"))
    given = parser.parse_args()
    data = open_data("emoji")
    images = torch.from_numpy(data.image_memmap("image", 32)[data.splits["train"]])
    ways = {
        "nearfar": nearfar_rate("simclr", data, given.batch, given.steps, {}, {}),
        "batched": batched_way(images, given.batch, given.steps),
        "per-image": loader_way(
            images,
            torchvision_transform(),
            given.batch,
            given.steps,
            lambda x, y: losses.nt_xent(x, y, temperature=0.1),
        ),
    }
    for name in filter(None, given.also.split(",")):
        ways[f"nearfar, {name}"] = nearfar_rate("simclr", data, given.batch, given.steps, OPTIONS[name], {})
    try:
        from lightly.loss import NTXentLoss
        from lightly.transforms import SimCLRTransform
        from torchvision.transforms.functional import to_pil_image

        transform = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)
        ways["lightly"] = loader_way(
            [to_pil_image(p) for p in images], transform, given.batch, given.steps, NTXentLoss(temperature=0.1)
        )
    except ImportError:
        print("lightly is not installed (pip install .[bench]): left out")
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(given.pairs):
        for name, way in ways.items():
            rates[name].append(way())
        print(f"round {round_ + 1}: " + "  ".join(f"{n} {r[-1]:.0f}" for n, r in rates.items()), flush=True)
    report = {
        "unit": "samples/s",
        "batch": given.batch,
        "steps": given.steps,
        "threads": torch.get_num_threads(),
        "versions": engine.versions(),
        "rates": rates,
        "ratios": {},
    }
    for name in ways:
        if name != "nearfar":
            ratios = [a / b for a, b in zip(rates["nearfar"], rates[name], strict=True)]
            middle, low, high = interval(ratios)
            report["ratios"][name] = {"median": middle, "interval": [low, high]}
            print(f"nearfar / {name:<16} {middle:.2f}x  (95 % {low:.2f} .. {high:.2f}, {len(ratios)} rounds)")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {given.out}")


if __name__ == "__main__":
    main()
