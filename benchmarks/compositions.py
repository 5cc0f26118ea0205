"""mochi, mcl and beclr: with parts of each other, and beside simclr of equal cost.

    python benchmarks/compositions.py [--parts retrieval few-shot stages] [--seeds 3] [--out runs/compositions]

retrieval: the same emoji in another style, for emoji that were never trained on; every row has the same steps, batch
and seeds. few-shot: episodes on kinds of emoji that were never trained on, with and without optimal transport (BECLR's
inference, on models that were trained otherwise as well). stages: which labels are read off linearly after each stage
of the `mcl` models of the retrieval part. The runs are short. Writes benchmarks/results/compositions.json; finished
cells are not run again. The tables of the docs are made from it by scripts/build_docs.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nearfar import models
from nearfar.evaluation.factors import Readout
from nearfar.evaluation.statistics import paired_interval
from nearfar.sources import open_data
from nearfar.training import showing
from nearfar.training.comparing import Comparison, compare
from nearfar.training.modelled import ModelEmbedder

METHODS = ["simclr", "mochi --negatives queue", "mochi", "mochi --loss dcl", "mcl", "mcl --negatives mixing", "beclr"]
PAIRS = [("mochi", "mochi --negatives queue"), ("mochi --loss dcl", "mochi"), ("mcl --negatives mixing", "mcl"),
         ("mochi", "simclr"), ("mcl", "simclr"), ("beclr", "simclr")]  # fmt: skip
FEW_SHOT = ["swav --prototypes 60"]  # fewer than the batch: no queue, with which these short runs collapsed
FACTORS = ["category", "subcategory", "tone"]
RESULTS = Path("benchmarks/results/compositions.json")


def values(row: dict[str, Any], metric: str | None = None) -> list[float]:
    """One number a seed: the main score, or another metric."""
    done = [c for c in row["seeds"] if c["status"] == "done"]
    return [c["primary"] if metric is None else c["metrics"][metric] for c in done]


def gap(one: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    found = paired_interval(np.subtract(one, other))
    return {"mean": found.mean, "interval": found.bounds}


def trained(data: Any, methods: Sequence[str], given: Any, **more: Any) -> Comparison:
    return compare(
        data,
        methods=methods,
        seeds=given.seeds,
        steps=given.steps,
        batch_size=given.batch,
        val_every=0,
        say=print,
        progress=False,
        report=False,
        **more,
    )


def facts(data: Any, given: Any, done: Comparison) -> dict[str, Any]:
    return {
        "steps": given.steps,
        "batch": given.batch,
        "seeds": given.seeds,
        "data_hash": data.hash,
        "split_hash": data.split_hash,
        "rows": {k: len(v) for k, v in data.splits.items()},
        "versions": done.results["versions"],
    }


def retrieval(given: Any) -> dict[str, Any]:
    data = open_data("emoji")
    done = trained(data, METHODS, given, baseline="simclr", out=given.out / "retrieval")
    rows = done.results["rows"]
    found = {r["label"]: r for r in rows}
    table = [{"label": r["label"], "kind": r["kind"], "r1": r["mean"], "interval": r["interval"], "values": values(r),
              "r10": float(np.mean(values(r, "hit@10"))), "hard_r1": float(np.mean(values(r, "hard/hit@1"))),
              "seconds": [c.get("seconds") for c in r["seeds"]]} for r in rows]  # fmt: skip
    gaps = [{"one": a, "other": b, **gap(values(found[a]), values(found[b]))} for a, b in PAIRS]
    return facts(data, given, done) | {"table": table, "gaps": gaps, "reason": done.results["reason"]}


def few_shot(given: Any) -> dict[str, Any]:
    data = open_data("emoji", roles={"unit": "subcategory"})
    done = trained(data, FEW_SHOT, given, task="few-shot", out=given.out / "few-shot")
    table = []
    for r in done.results["rows"]:
        for shots in (1, 5):
            plain, aligned = values(r, f"{shots}-shot"), values(r, f"{shots}-shot+opta")
            ends = {name: [[c["directions"][f"5-way {name}"][e] for e in ("low", "high")] for c in r["seeds"]]
                    for name in (f"{shots}-shot", f"{shots}-shot+opta")}  # fmt: skip
            table.append(
                {
                    "label": r["label"],
                    "kind": r["kind"],
                    "shots": shots,
                    "plain": plain,
                    "opta": aligned,
                    "episodes": list(ends.values()),
                    **gap(aligned, plain),
                }
            )
    return facts(data, given, done) | {"table": table, "task": done.results["task"]["description"]}


def stages(given: Any) -> dict[str, Any]:
    """Of the models that the retrieval part left: each factor, read off each stage of mcl, all stages, and simclr."""
    data = open_data("emoji", roles={"label": FACTORS})
    rows = np.asarray(data.splits["test"])

    def read(name: str) -> list[list[Readout]]:
        """Factor by factor, a readout a seed."""
        found = []
        for seed in range(given.seeds):
            model = models.load(given.out / "retrieval" / "cells" / f"{name}-s{seed}" / "model")
            found.append(showing.read_stages(ModelEmbedder(model, data), data, "image", rows))
            print(name, seed, found[-1], flush=True)
        return [list(one) for one in zip(*found, strict=True)]

    table = []
    for ours, plain in zip(read("mcl"), read("simclr"), strict=True):
        alone = np.array([r.alone for r in ours]).T.tolist()
        joined, simclr = [r.joined[-1] for r in ours], [r.alone[0] for r in plain]
        table.append(
            {
                "factor": ours[0].factor,
                "commonest": ours[0].commonest,
                "alone": alone,
                "joined": joined,
                "simclr": simclr,
                "gain": gap(alone[-1], alone[0]),
                "over_simclr": gap(joined, simclr),
            }
        )
    return {"steps": given.steps, "batch": given.batch, "seeds": given.seeds, "table": table}


PARTS = {"retrieval": retrieval, "few-shot": few_shot, "stages": stages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/compositions"))
    given = parser.parse_args()
    for name in given.parts:
        found = PARTS[name](given)
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(results | {name: found}, indent=1) + "\n")
        print(f"written: {RESULTS} ({name})")


if __name__ == "__main__":
    main()
