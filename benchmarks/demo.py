"""The demo's question with three seeds at fixed steps, on both splits: the table of the README.

    python benchmarks/demo.py [--steps 480] [--seeds 3] [--out runs/benchmark-demo]

Writes benchmarks/results/demo.json and demo.md. Resumable: finished cells are not run again. The README's table is made
from these files by scripts/build_docs.py, never typed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from nearfar.cli.demo import ENCODER
from nearfar.sources import open_data
from nearfar.training.comparing import compare

METHODS = ["pairs", "dcl --views members", "simclr", "swav --views members"]
PLAIN = "pairs, plain colours"
SPLITS = {"unseen emoji": None, "unseen hand": "unseen-hand"}


def row(r: dict[str, Any], hard: str) -> dict[str, Any]:
    done = [c for c in r["seeds"] if c["status"] == "done"]

    def mean(values: list[float]) -> float | None:
        return sum(values) / len(values) if values else None

    return {
        "label": r["label"],
        "kind": r["kind"],
        "r1": r["mean"],
        "interval": r["interval"],
        "r10": mean([c["metrics"]["hit@10"] for c in done if "hit@10" in c["metrics"]]),
        "hard_r1": mean([c["metrics"][hard] for c in done if hard in c["metrics"]]),
        "difference": r["difference"],
        "seconds": mean([c["seconds"] for c in done if c.get("seconds")]),
        "values": [c["primary"] for c in done],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=480)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--note", default="", help="what a reader of the table should know (a shared machine, say)")
    parser.add_argument("--no-plain", action="store_true", help="without pairs on plain colours")
    parser.add_argument("--splits", nargs="*", default=list(SPLITS))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-demo"))
    given = parser.parse_args()
    results = Path("benchmarks/results/demo.json")
    table: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {"splits": {}}
    for name in given.splits:
        data = open_data("emoji", split=SPLITS[name])
        done = compare(
            data,
            methods=given.methods,
            seeds=given.seeds,
            steps=given.steps,
            batch_size=128,
            val_every=0,
            baseline="simclr",
            out=given.out / name.replace(" ", "-"),
            say=print,
            progress=False,
            **ENCODER,
        )
        rows = [row(r, "hard/hit@1") for r in done.results["rows"]]
        if not given.no_plain:
            plain = compare(
                data,
                methods=["pairs"],
                seeds=given.seeds,
                steps=given.steps,
                batch_size=128,
                val_every=0,
                grid=ENCODER["grid"],
                out=given.out / f"{name.replace(' ', '-')}-plain",
                say=print,
                progress=False,
            )
            rows += [row(r, "hard/hit@1") | {"label": PLAIN} for r in plain.results["rows"] if r["kind"] == "method"]
        table["splits"][name] = {
            "rows": rows,
            "reason": done.results["reason"],
            "steps": given.steps,
            "seeds": given.seeds,
            "note": given.note,
            "data_hash": data.hash,
            "split_hash": data.split_hash,
        }
        table["versions"] = done.results["versions"]
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(json.dumps(table, indent=1) + "\n")
    print(f"written: {results}")


if __name__ == "__main__":
    main()
