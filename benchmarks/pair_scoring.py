"""Queries a second of scoring 1,000 candidates: a head on stored vectors (dse), and a model that reads both texts.

    python benchmarks/pair_scoring.py [--turns 15] [--candidates 1000] [--encoders tiny] [--length 64] [--out FILE]

Both have the same encoder, weights as they begin (they do not change the time). The head's side encodes the query anew
and reads the candidates' vectors, computed once before; the other side gets the candidates' tokens, made once before,
and passes every pair through the encoder. The ways take turns; printed is the median ratio with its 95 % interval
(order statistics) of queries a second; above 1: stored vectors are faster.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from train_throughput import interval

from nearfar import encoders
from nearfar.encoders import pad
from nearfar.heads import PairHead
from nearfar.methods.judged import BATCH, JointScorer
from nearfar.sources import open_data
from nearfar.training import engine


def stored(encoder: Any, queries: list[str], candidates: list[str]) -> Callable[[int], torch.Tensor]:
    """Scores (n,) of the candidates for the query of a number, by a head on vectors."""
    encoder.pool_layers(min(4, encoder.depth))
    head = PairHead(encoder.dim).eval()
    v = torch.from_numpy(encoders.vectors(encoder, candidates, BATCH))

    def score(query: int) -> torch.Tensor:
        u = encoder(encoder.prepare([queries[query]]))
        return head(u.expand(len(v), -1), v)[:, 0]

    return score


def joint(encoder: Any, queries: list[str], candidates: list[str]) -> Callable[[int], torch.Tensor]:
    """The same by a model that reads both."""
    scorer, ids = JointScorer(encoder, 1).eval(), encoder.encode_ids(candidates)

    def score(query: int) -> torch.Tensor:
        asked, parts = encoder.encode_ids([queries[query]])[0], []
        for start in range(0, len(ids), BATCH):
            some = ids[start : start + BATCH]
            parts.append(scorer(pad([asked] * len(some)), pad(some))[:, 0])
        return torch.cat(parts)

    return score


@torch.inference_mode()
def rate(score: Callable[[int], torch.Tensor], query: int) -> float:
    start = time.perf_counter()
    score(query)
    return 1 / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--encoders", default="tiny")
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/pair_scoring.json"))
    given = parser.parse_args()
    texts = open_data("functions", limit=given.candidates + 100).texts("text")
    candidates, queries = texts[: given.candidates], texts[-50:]
    report: dict[str, Any] = {"unit": "queries/s", "candidates": len(candidates), "length": given.length,
                              "threads": torch.get_num_threads(), "versions": engine.versions(),
                              "cells": {}}  # fmt: skip
    for name in given.encoders.split(","):
        made = [encoders.text(name, texts=texts, length=given.length).eval() for _ in range(2)]
        ways = {"stored": stored(made[0], queries, candidates), "joint": joint(made[1], queries, candidates)}
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(given.turns + 1):
            for way, score in ways.items():
                found = rate(score, turn % len(queries))
                if turn:  # the first warms up
                    rates[way].append(found)
        middle, low, high = interval([a / b for a, b in zip(rates["stored"], rates["joint"], strict=True)])
        report["cells"][name] = {"rates": rates, "ratio": [middle, low, high]}
        print(f"{name}: a head on stored vectors {middle:.1f} [{low:.1f}, {high:.1f}] times as many queries a second")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
