"""Do pixel-level methods give maps from which places are read better? Scenes of emoji on photographs, mIoU.

    python benchmarks/dense.py [--seeds 3] [--steps 200] [--batch-size 32] [--out runs/benchmark-dense]

Data: the built-in `scenes` (emoji families and photographs of test scenes are in no training scene), 64 pixels a side.
The small encoder, two crops, the same steps and batch for PixPro, PixContrast and SimCLR; each takes the learning rate
of RATES that reads best on VALIDATION scenes with seed 0. Probe: `segmentation_probe` on the last map, penalty chosen
on validation scenes. Beside them the untrained encoder, and raw pixels and HOG of each cell through the same probe.
Writes benchmarks/results/dense.json; finished runs are not run again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from nearfar import evaluation
from nearfar.evaluation.statistics import holds, paired_interval
from nearfar.sources import open_data
from nearfar.training.comparing import untrained_embedder
from nearfar.training.engine import fit, versions, write_json
from nearfar.training.settings import TrainSettings

RATES = (1e-4, 5e-4, 2e-3)
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "simclr": ("simclr", {}),
    "pixpro": ("pixpro", {}),
    "pixpro --pretext contrast": ("pixpro", {"pretext": "contrast"}),
}
PAIRS = [("pixpro --pretext contrast", "simclr"), ("pixpro", "simclr"), ("pixpro --pretext contrast", "pixpro"),
         ("simclr", "untrained encoder"), ("pixpro", "untrained encoder"),
         ("pixpro --pretext contrast", "untrained encoder")]  # fmt: skip
RESULT = Path(__file__).parent / "results" / "dense.json"


def trained(arm: str, rate: float, seed: int, given: argparse.Namespace, data: Any) -> dict[str, Any]:
    """Scores of one run, from its folder where it is finished."""
    slug, options = ARMS[arm]
    folder = given.out / f"{arm.replace(' --pretext ', '-')}-{rate:g}-s{seed}"
    if not (folder / "scores.json").exists():
        fit(slug, data, out=folder, resume=(folder / "config.json").exists(), progress=False, steps=given.steps,
            batch_size=given.batch_size, lr=rate, seed=seed, val_every=0, **options)  # fmt: skip
    told = json.loads((folder / "scores.json").read_text())
    return told["scores"] | {"seconds": told["cost"]["seconds"]}


def untrained(seed: int, data: Any, task: Any) -> dict[str, Any]:
    embed = untrained_embedder(data, task.roles[:1], TrainSettings(image_size=64, seed=seed))
    return {"test": task.evaluate(embed, "test").to_dict()}


def row(label: str, cells: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    tests = [c["test"] for c in cells]
    found = evaluation.interval([t["primary"] for t in tests])
    return {"label": label, "miou": found.mean, "interval": found.bounds, "values": [t["primary"] for t in tests],
            "pixel accuracy": float(np.mean([t["metrics"]["pixel accuracy"] for t in tests])),
            "items": np.mean([t["bootstrap"] for t in tests], 0).tolist(),
            "classes": {n: float(np.mean([t["directions"][n]["miou"] for t in tests])) for n in tests[0]["directions"]},
            **more}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-dense"))
    given = parser.parse_args()
    data = open_data("scenes")
    task = evaluation.task_for(data, "dense")
    chosen, tried = {}, {}
    for arm in ARMS:
        tried[arm] = {f"{rate:g}": trained(arm, rate, 0, given, data)["val"]["primary"] for rate in RATES}
        chosen[arm] = max(RATES, key=lambda rate: tried[arm][f"{rate:g}"])
        print(f"{arm}: mIoU on validation scenes by learning rate {tried[arm]}", flush=True)
    rows = []
    for arm in ARMS:
        cells = [trained(arm, chosen[arm], seed, given, data) for seed in range(given.seeds)]
        seconds = float(np.mean([c["seconds"] for c in cells]))
        rows.append(row(arm, cells, kind="method", lr=chosen[arm], seconds=seconds))
        print(arm, rows[-1]["values"], flush=True)
    rows.append(row("untrained encoder", [untrained(s, data, task) for s in range(given.seeds)], kind="untrained"))
    for one in evaluation.references(data, task):
        rows.append(row(one.label, [{"test": one.evaluate("test").to_dict()}], kind=one.kind))
    values = {r["label"]: np.array(r["values"]) for r in rows}
    differences = []
    for a, b in PAIRS:
        apart = paired_interval(values[a] - values[b])
        differences.append({"a": a, "b": b, "mean": apart.mean, "interval": apart.bounds, "holds": holds(apart)})
    RESULT.parent.mkdir(exist_ok=True)
    write_json(RESULT, {"data": data.name, "data_hash": data.hash, "rows": {k: len(v) for k, v in data.splits.items()},
                        "steps": given.steps, "batch": given.batch_size, "seeds": given.seeds, "table": rows,
                        "differences": differences, "rates on validation": tried, "versions": versions()})  # fmt: skip
    for r in sorted(rows, key=lambda r: -r["miou"]):
        print(f"{r['label']:<28} mIoU {100 * r['miou']:.1f}")


if __name__ == "__main__":
    main()
