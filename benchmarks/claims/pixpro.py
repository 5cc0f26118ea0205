"""PixPro: pixel-level pretext tasks give maps from which places can be read better than instance-level ones.

    python benchmarks/claims/pixpro.py [--seeds 5]

Scenes of 20 x 20 pixels: up to four scanned digits (8 x 8, each there with probability 0.85) in a jittered 2 x 2 grid;
digits of test scenes are not in training scenes. Two crops (area 0.3 to 1, no flip), contrast, noise 0.1; three 3x3
convolutions (16, 32 with stride 2, 48) give a 10 x 10 map, projectors 48-96-32; Adam 2e-3, 400 steps of 24. Probe: a
logistic regression on the cells of 80 scenes, scored on 200 others. Writes benchmarks/claims/results/pixpro.json.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from checks import FIGURES, compare, run, write
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from nearfar.evaluation import dense_probe
from nearfar.losses import info_nce
from nearfar.methods.image.pixpro import (
    Propagation,
    cell_centres,
    crop_coordinates,
    pixcontrast,
    pixel_mlp,
    pixels,
    pixpro,
    positive_pixels,
)
from nearfar.momentum import Teacher, momentum_at
from nearfar.reporting.figures import Points, scatter_svg
from nearfar.views import TwoCrops

STEPS, SIZE, MOMENTUM = 400, 24, 0.99
CROPS = TwoCrops(crop=(0.3, 1.0), flip=0.0, strength=0.0, grey=0.0)


def scenes(count: int, pool: np.ndarray, seed: int) -> tuple[Tensor, np.ndarray]:
    """uint8 pictures (n, 3, 20, 20) and classes of their pixels (n, 20, 20): 0 for the ground, digit + 1 under ink."""
    found: Any = load_digits()
    rng = np.random.default_rng(seed)
    pictures, masks = np.zeros((count, 20, 20)), np.zeros((count, 20, 20), np.int64)
    for n in range(count):
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            if rng.random() < 0.85:
                k = rng.choice(pool)
                y, x = (10 * place + rng.integers(0, 3) for place in (row, column))
                pictures[n, y : y + 8, x : x + 8] = found.images[k] / 16
                masks[n, y : y + 8, x : x + 8] = found.target[k] + 1
    grey = torch.from_numpy((255 * pictures).astype(np.uint8))
    return grey[:, None].expand(-1, 3, -1, -1).contiguous(), masks


ORDER = np.random.default_rng(0).permutation(1797)
TRAIN, TRAIN_MASKS = scenes(600, ORDER[:1200], 1)
TEST, TEST_MASKS = scenes(200, ORDER[1200:], 2)


class Net(nn.Module):
    """Pictures (n, 3, 20, 20) -> map (n, 48, 10, 10), and its projection (n, 32, 10, 10)."""

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = []
        for before, width, stride in ((3, 16, 1), (16, 32, 2), (32, 48, 1)):
            layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.body, self.projector = nn.Sequential(*layers), pixel_mlp(48, 96, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(self.body(x))


def pooled_byol(a: Tensor, b: Tensor, ta: Tensor, tb: Tensor, predict: nn.Module) -> Tensor:
    pairs = ((predict(a), tb), (predict(b), ta))
    return -sum(cosine_similarity(p.mean((2, 3)), t.mean((2, 3))).mean() for p, t in pairs)  # pyright: ignore


def loss_of(name: str, z: list[Tensor], t: list[Tensor], there: Tensor, head: nn.Module) -> Tensor:
    if name == "instance BYOL":
        return pooled_byol(z[0], z[1], t[0], t[1], head)
    if name == "instance InfoNCE":
        return info_nce(*(x.mean((2, 3)) for x in z), temperature=0.2, symmetric=True)
    flipped = there.transpose(1, 2)
    if name == "PixContrast":
        return pixcontrast(pixels(z[0]), pixels(t[1]), there) + pixcontrast(pixels(z[1]), pixels(t[0]), flipped)
    y = [pixels(head(x)) for x in z]
    return pixpro(y[0], pixels(t[1]), there) + pixpro(y[1], pixels(t[0]), flipped)


HEADS = {"PixPro": lambda: Propagation(32), "PixPro without propagation": nn.Identity,
         "instance BYOL": lambda: pixel_mlp(32, 96, 32), "PixContrast": nn.Identity,
         "instance InfoNCE": nn.Identity, "untrained": nn.Identity}  # fmt: skip


def train(seed: int, name: str) -> dict[str, float]:
    net, head = Net(), HEADS[name]()
    teacher = Teacher(net)
    optimiser = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=2e-3)
    make = torch.Generator().manual_seed(seed)
    for step in range(STEPS if name != "untrained" else 0):
        x = TRAIN[torch.randint(0, len(TRAIN), (SIZE,), generator=make)]
        drawn = CROPS.draw(SIZE, 20, 20, make)
        there = positive_pixels(*(crop_coordinates(d, 20, 20) for d in drawn), 10, 10)
        views = [changed(v, make) for v in CROPS.apply(x, drawn)]
        z = [net(v) for v in views]
        teacher.follow(net, momentum_at(step, STEPS, MOMENTUM, schedule="cosine"))
        t = [teacher(v) for v in views]
        optimiser.zero_grad()
        loss_of(name, z, t, there, head).backward()
        optimiser.step()
    return measured(net)


def changed(x: Tensor, make: torch.Generator) -> Tensor:
    contrast = 0.7 + 0.6 * torch.rand(len(x), 1, 1, 1, generator=make)
    return x * contrast + 0.1 * torch.randn(x.shape, generator=make)


@torch.no_grad()
def measured(net: Net) -> dict[str, float]:
    net.eval()
    maps = [net.body(x.float() / 255).numpy() for x in (TRAIN[:80], TEST)]
    found = dense_probe(maps[0], TRAIN_MASKS[:80], maps[1], TEST_MASKS)
    unit = normalize(torch.from_numpy(maps[1]), dim=1)
    return {"foreground": found.foreground, "miou": found.miou, "spread in space": float(unit.std((2, 3)).mean())}


def figure(side: int = 6) -> None:
    """Which cells of two crops of one picture are positives, in docs/assets/methods/pixpro.svg."""
    crops = torch.tensor([[0.05, 0.1, 0.7, 0.75], [0.95, 0.3, 0.4, 0.95]])  # the second one mirrored
    a, b = (cell_centres(c[None], side, side)[0][0].numpy() for c in crops)
    pairs = positive_pixels(crops[:1], crops[1:], side, side)[0].nonzero().numpy()
    lines = np.stack([a[pairs[:, 0]], b[pairs[:, 1]]], 1)
    both = [Points("positive cells", np.concatenate([a[pairs[:, 0]], b[pairs[:, 1]]]), 7),
            Points("cells of the first crop", a, 4), Points("cells of the second crop, mirrored", b, 4)]  # fmt: skip
    about = "Two grids of cells overlap; cells whose centres lie near each other are joined as positives."
    FIGURES.mkdir(parents=True, exist_ok=True)
    (FIGURES / "pixpro.svg").write_text(scatter_svg(both, "Cells of two crops that show the same place", about,
                                                    lines=lines, height=560))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--figure", action="store_true", help="only draw docs/assets/methods/pixpro.svg")
    given = parser.parse_args()
    if given.figure:
        figure()
        return
    found, seconds = run({name: (lambda seed, n=name: train(seed, n)) for name in HEADS}, range(given.seeds))

    def values(name: str, metric: str = "foreground") -> list[float]:
        return [x[metric] for x in found[name]]

    pairs = (("PixPro", "instance BYOL"), ("PixContrast", "instance InfoNCE"), ("PixPro", "PixPro without propagation"),
             ("PixPro", "untrained"), ("PixContrast", "PixPro"))  # fmt: skip
    further = {f"{a} - {b}, {metric}": compare(values(a, metric), values(b, metric))
               for a, b in pairs for metric in ("foreground", "miou")}
    told = "; ".join(f"{a} - {b} {100 * further[f'{a} - {b}, foreground']['mean']:+.1f}" for a, b in pairs)
    write("pixpro",
          claim="Pixel-level consistency gives maps from which places are read better than instance-level tasks do.",
          data="scenes of four scikit-learn digits, 600 / 200", command="python benchmarks/claims/pixpro.py",
          metric="accuracy of a linear probe on foreground cells, PixPro against BYOL on pooled vectors",
          seeds=list(range(given.seeds)), method={"PixPro": values("PixPro")},
          baselines={"instance BYOL": values("instance BYOL")}, further=further, all=found, seconds=seconds,
          notes=f"Foreground accuracy in points: {told}.")  # fmt: skip


if __name__ == "__main__":
    main()
