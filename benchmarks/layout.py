"""Should the small image encoder keep where things are? The default of `--grid`, chosen on validation data.

    python benchmarks/layout.py [--seeds 3] [--steps 200] [--out runs/benchmark-layout]

Data, none of them the set of the demo, as folders of classes: `digits` (scikit-learn, 8 x 8 handwritten digits),
`patches` (32-pixel cuts of the photographs inside scikit-image and scikit-learn; the class is the photograph, the
splits are strips of it), `scenes` (the built-in scenes; the class is the category of emoji that covers most). All are
read at 32 pixels. SimCLR with the same steps, batch and seeds for each grid; kNN accuracy on validation data.
Rule: the grid with the highest mean over sets and seeds; within half a point of it, the smallest. Then what the demo
takes, by the validation emoji alone: `pairs` on the emoji set with gradient orientations, 300 steps, seed 0.
Writes benchmarks/results/layout.json; finished runs are not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nearfar import evaluation
from nearfar.sources import open_data
from nearfar.training.comparing import untrained_embedder
from nearfar.training.engine import fit, versions, write_json
from nearfar.training.settings import TrainSettings

sys.path.insert(0, str(Path(__file__).parent / "claims"))
from made.writing import Item, folders

GRIDS = (1, 2, 4)
MARGIN = 0.005
SIDE = 32
RESULT = Path(__file__).parent / "results" / "layout.json"


def digits() -> Iterator[Item]:
    from sklearn.datasets import load_digits

    found = load_digits()
    split = np.random.default_rng(0).choice(["train", "val", "test"], len(found.target), p=[0.6, 0.2, 0.2])
    for where, label, values in zip(split, found.target, found.images, strict=True):
        yield str(where), str(label), np.uint8(values * 255 / 16)


def photographs() -> Iterator[tuple[str, np.ndarray]]:
    from nearfar.sources.sets import scenes

    for name in sorted({n for names in scenes.PHOTOS.values() for n in names}):
        yield name, np.asarray(scenes.photograph(name))


def patches() -> Iterator[Item]:
    for name, image in photographs():
        strips = np.split(np.arange(image.shape[1]), (np.array([0.6, 0.8]) * image.shape[1]).astype(int))
        for where, strip in zip(("train", "val", "test"), strips, strict=True):
            for y in range(0, image.shape[0] - SIDE + 1, SIDE):
                for x in range(strip[0], strip[-1] - SIDE + 2, SIDE):
                    yield where, name, image[y : y + SIDE, x : x + SIDE]


def scenes() -> Iterator[Item]:
    data = open_data("scenes")
    for where, rows in data.splits.items():
        images, masks = data.images("image", SIDE, rows), data.masks(SIDE, rows)
        for image, mask in zip(images, masks, strict=True):
            area = np.bincount(mask.ravel(), minlength=256)[1:255]
            if area.max():
                yield where, data.mask_names[int(area.argmax()) + 1], image.transpose(1, 2, 0)


SETS: dict[str, Callable[[], Iterator[Item]]] = {"digits": digits, "patches": patches, "scenes": scenes}


def cell(name: str, data: Any, grid: int, seed: int, given: argparse.Namespace) -> float:
    folder = given.out / f"{name}-{grid}-s{seed}"
    if not (folder / "scores.json").exists():
        fit("simclr", data, out=folder, resume=(folder / "config.json").exists(), progress=False, seed=seed,
            steps=given.steps, batch_size=128, val_every=0, grid=grid, image_size=SIDE)  # fmt: skip
    return json.loads((folder / "scores.json").read_text())["scores"]["val"]["primary"]


def for_demo(given: argparse.Namespace) -> dict[int, float]:
    """hit@1 on validation emoji for each grid; the demo takes the best."""
    found, data = {}, open_data("emoji")
    for grid in GRIDS:
        folder = given.out / f"demo-{grid}"
        if not (folder / "scores.json").exists():
            fit("pairs", data, out=folder, resume=(folder / "config.json").exists(), progress=False, seed=0, steps=300,
                batch_size=128, val_every=0, grid=grid, channels="orientation")  # fmt: skip
        found[grid] = json.loads((folder / "scores.json").read_text())["scores"]["val"]["primary"]
    return found


def references(data: Any, seeds: int) -> dict[str, float]:
    """Validation accuracy of the untrained encoder with each grid."""
    task, found = evaluation.task_for(data, "labels"), {}
    for grid in GRIDS:
        settings = [TrainSettings(image_size=SIDE, grid=grid, seed=seed) for seed in range(seeds)]
        values = [task.evaluate(untrained_embedder(data, task.roles, one), "val").primary for one in settings]
        found[f"untrained, grid {grid}"] = float(np.mean(values))
    return found


def choose(means: dict[int, float]) -> int:
    """The smallest grid within half a point of the best."""
    return min(g for g, mean in means.items() if mean >= max(means.values()) - MARGIN)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-layout"))
    given = parser.parse_args()
    table: dict[str, Any] = {}
    for name in SETS:
        data = open_data(folders(name, SETS[name], given.out))
        values = {g: [cell(name, data, g, seed, given) for seed in range(given.seeds)] for g in GRIDS}
        table[name] = {
            "rows": {k: len(v) for k, v in data.splits.items()},
            "references": references(data, given.seeds),
            "grids": {g: {"mean": float(np.mean(v)), "values": v} for g, v in values.items()},
        }
        print(name, {g: round(float(np.mean(v)) * 100, 1) for g, v in values.items()}, table[name]["references"])
    means = {g: float(np.mean([one["grids"][g]["mean"] for one in table.values()])) for g in GRIDS}
    result = {
        "sets": table,
        "means": means,
        "chosen": choose(means),
        "margin": MARGIN,
        "steps": given.steps,
        "seeds": given.seeds,
        "demo": for_demo(given),
        "versions": versions(),
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    write_json(RESULT, result)
    print(f"means {means}: grid {result['chosen']}\nwritten: {RESULT}")


if __name__ == "__main__":
    main()
