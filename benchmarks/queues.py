"""Queues and slow teachers in short runs: the automatic sizes against fixed ones, on the emoji, by validation R@1.

    python benchmarks/queues.py [--most 3000] [--out runs/queues]

One seed, batches of 64. Finished runs are read. Writes benchmarks/results/queues.json and prints a table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import nearfar
from nearfar import evaluation, files
from nearfar.training.comparing import entry, untrained_embedder
from nearfar.training.modelled import ModelEmbedder
from nearfar.training.settings import TrainSettings

RESULT = Path(__file__).parent / "results" / "queues.json"
SPECS = {  # method -> the numbers of steps
    "mochi --negatives queue": (300, 1000, 3000),
    "mochi --negatives queue --negatives.size 2304": (300, 1000),
    "mochi --negatives queue --negatives.size 2304 --momentum 0.999": (300, 1000),
    "nnclr": (300, 1000),
    "nnclr --queue 256": (300, 1000),
    "beclr": (300, 1000),
    "swav": (300, 1000),
    "swav --queue 3840": (300, 1000),
}
PLAN = {"batch_size": 64, "seed": 0, "val_every": 0, "progress": False}


def measured(folder: Path, spec: str, steps: int, data: object) -> dict[str, object]:
    """Validation R@1 of one run, what its automatic options became, and its seconds; trained unless it is there."""
    kept = folder / f"{'-'.join(spec.replace('--', '').split())}-{steps}"
    one = entry(spec)
    if not (kept / "scores.json").exists():
        nearfar.fit(
            one.slug, data, out=kept, resume=(kept / "config.json").exists(), steps=steps, **PLAN, **one.options
        )
    model = nearfar.load(kept / "model")
    score = evaluation.task_for(data, "groups").evaluate(ModelEmbedder(model, data), "val").metrics["hit@1"]
    told = json.loads((kept / "config.json").read_text())["resolved"]
    became = {k: v for k, v in told.items() if k in ("queue", "negatives.size", "momentum", "prototypes")}
    seconds = json.loads((kept / "scores.json").read_text())["cost"]["seconds"]
    return {"method": spec, "steps": steps, "R@1": round(float(score), 4), "became": became, "seconds": round(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=3000, help="steps of the longest runs that are made")
    parser.add_argument("--out", type=Path, default=Path("runs/queues"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = nearfar.data("emoji")
    task = evaluation.task_for(data, "groups")
    start = task.evaluate(untrained_embedder(data, task.roles, TrainSettings(seed=0)), "val").metrics["hit@1"]
    rows = [{"method": "untrained", "steps": 0, "R@1": round(float(start), 4)}]
    runs = sorted((steps, spec) for spec, all_steps in SPECS.items() for steps in all_steps if steps <= given.most)
    for steps, spec in runs:
        rows.append(measured(given.out, spec, steps, data))
        print(rows[-1], flush=True)
        files.write_json(RESULT, {"data": "emoji", "batch_size": PLAN["batch_size"], "rows": rows})
    print("\n".join(f"{row['method']:70} {row['steps']:5} {100 * float(row['R@1']):5.1f}" for row in rows))


if __name__ == "__main__":
    main()
