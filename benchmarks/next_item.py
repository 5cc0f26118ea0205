"""Seconds of an epoch of `fit sasrec --positions last` beside RecBole's SASRec, at equal work.

    python benchmarks/next_item.py [--pairs 15] [--steps 20] [--batch 256] [--users 2000] [--out FILE]

Both train on every prefix of the same made-up histories, with the same batch, widths, layers and length, cross-entropy
over all items and Adam, in turn in one process, so that the machine's moods hit both alike. Printed are samples a
second, the seconds of an epoch that follow from them, and the ratio of each round: its median with a 95 % interval
(order statistics).

RecBole 1.2.1 pins libraries (colorlog 4.7.2, ray up to 2.6.3) that nearfar's environment does not hold, so it is not
imported. What stands here is a plain rendition of what its sequential data set and its SASRec do: prefixes padded to
the full length once, before training; blocks with three linear maps, attention written out with an additive mask of
-10,000, normalised behind the sum; scores of all items and the padding. nearfar reads each batch's histories when it
is drawn, as long as the longest of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from train_throughput import interval, nearfar_rate

from nearfar.sources import open_data
from nearfar.sources.interactions import log_of

LENGTH, DIM, LAYERS, HEADS, INNER, DROPOUT = 50, 64, 2, 2, 256, 0.5
TRAINING = {"device": "cpu", "optimiser": "adam", "lr": 1e-3, "weight_decay": 0.0, "warmup": 0}


class Block(nn.Module):
    """Attention and MLP, each normalised behind the sum."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.dense = (nn.Linear(DIM, DIM) for _ in range(4))
        self.up, self.down = nn.Linear(DIM, INNER), nn.Linear(INNER, DIM)
        self.norm_a, self.norm_b = nn.LayerNorm(DIM, eps=1e-12), nn.LayerNorm(DIM, eps=1e-12)
        self.drop = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = (f(x).view(n, length, HEADS, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        weights = self.drop((q @ k.transpose(2, 3) / (DIM // HEADS) ** 0.5 + mask).softmax(-1))
        mixed = (weights @ v).transpose(1, 2).reshape(n, length, DIM)
        x = self.norm_a(x + self.drop(self.dense(mixed)))
        return self.norm_b(x + self.drop(self.down(nn.functional.gelu(self.up(x)))))


class Rendition(nn.Module):
    """What RecBole's SASRec computes."""

    def __init__(self, items: int):
        super().__init__()
        self.items, self.places = nn.Embedding(items + 1, DIM, padding_idx=0), nn.Embedding(LENGTH, DIM)
        self.norm, self.drop = nn.LayerNorm(DIM, eps=1e-12), nn.Dropout(DROPOUT)
        self.blocks = nn.ModuleList([Block() for _ in range(LAYERS)])
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        h = self.drop(self.norm(self.items(ids) + self.places.weight))
        seen = (ids != 0)[:, None, None] & torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
        mask = torch.where(seen, 0.0, -10_000.0)
        for block in self.blocks:
            h = block(h, mask)
        return h[torch.arange(len(h)), lengths - 1] @ self.items.weight.T


def made_up(users: int, items: int, folder: Path) -> Any:
    """Histories of 20 to 120 items, drawn by a law of few popular ones."""
    rng, rows = np.random.default_rng(0), ["user,item,time"]
    shares = 1 / np.arange(1, items + 1)
    for user in range(users):
        drawn = rng.choice(items, int(rng.integers(20, 120)), p=shares / shares.sum())
        rows += [f"{user},{item},{time}" for time, item in enumerate(drawn)]
    (folder / "log.csv").write_text("\n".join(rows) + "\n")
    return open_data(folder / "log.csv", cache=folder)


def rendition_rate(data: Any, batch: int, steps: int) -> Callable[[], float]:
    """Samples a second of a plain loop over tensors that are padded once."""
    log, rows = log_of(data), data.splits["train"]
    codes, lengths = log.spans.of(rows, LENGTH)
    place = np.searchsorted(log.known, codes) + 1
    ids = np.zeros((len(rows), LENGTH), np.int64)
    ids[:, : codes.shape[1]] = np.where(codes >= 0, place, 0)
    tensors = [torch.from_numpy(x) for x in (ids, lengths, np.searchsorted(log.known, log.items[rows]) + 1)]

    def run() -> float:
        torch.manual_seed(0)
        net = Rendition(len(log.known))
        optimiser, order = torch.optim.Adam(net.parameters(), 1e-3), torch.randperm(len(rows))
        start = 0.0
        for step in range(steps + 3):
            if step == 3:
                start = time.perf_counter()
            some = order[(np.arange(batch) + step * batch) % len(rows)]
            x, n, wanted = (t[some] for t in tensors)
            loss = nn.functional.cross_entropy(net(x, n), wanted)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return batch * steps / (time.perf_counter() - start)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("pairs", 15), ("steps", 20), ("batch", 256), ("users", 2000), ("items", 1700)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = made_up(args.users, args.items, Path(folder))
        ways = {
            "nearfar": nearfar_rate("sasrec", data, args.batch, args.steps, TRAINING, {"positions": "last"}),
            "rendition of RecBole": rendition_rate(data, args.batch, args.steps),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(args.pairs):
            for name in list(ways) if number % 2 == 0 else list(ways)[::-1]:
                rates[name].append(ways[name]())
        samples = len(data.splits["train"])
    middle, low, high = interval([a / b for a, b in zip(*rates.values(), strict=True)])
    for name, values in rates.items():
        rate = statistics.median(values)
        print(f"{name}: {rate:,.0f} samples/s, {samples / rate:,.1f} s an epoch of {samples:,} prefixes")
    print(f"nearfar / rendition: {middle:.2f} times the samples a second (95 % {low:.2f} to {high:.2f})")
    if args.out:
        found = {"ratio": middle, "interval": [low, high], "rates": rates, "samples": samples, "batch": args.batch,
                 "threads": torch.get_num_threads(), "torch": torch.__version__}  # fmt: skip
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
