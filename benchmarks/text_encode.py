"""Texts a second of encoding, and training steps, beside sentence-transformers with the same model and batch.

    python benchmarks/text_encode.py [--pairs 15] [--texts 1024] [--batch 64] [--length 128] [--steps 4] [--out FILE]

Two models from the same folder for both: the packaged all-MiniLM-L6-v2 (nearfar[minilm]) and a random BERT of 2 layers
of 128 with its tokenizer; beside the latter nearfar's own `tiny`, which has the same layers, heads and width. Texts are
the summaries and codes of the built-in set `functions`, tokenised anew each time, all of them in memory. A training
step is one batch of pairs through the encoder, in-batch InfoNCE at temperature 0.05 both in nearfar.fit("pairs") and in
a hand-written loop over sentence-transformers' MultipleNegativesRankingLoss, with AdamW. The ways take turns; printed
is the median ratio with its 95 % interval (order statistics); above 1: nearfar is faster. What is measured is stored
after each turn, so that a run cut short leaves the turns that it finished.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from train_throughput import interval, nearfar_rate

from nearfar import encoders
from nearfar.encoders.choosing import minilm
from nearfar.sources import open_data
from nearfar.training import engine

TEMPERATURE = 0.05


def small_bert(folder: Path) -> Path:
    """A random BERT of the size of `tiny`, with MiniLM's tokenizer, as sentence-transformers writes it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers import models as parts
    from transformers import BertConfig, BertModel

    like = encoders.text("minilm")
    torch.manual_seed(0)
    config = BertConfig(vocab_size=like.special.size, hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
                        intermediate_size=512)  # fmt: skip
    BertModel(config).save_pretrained(folder / "raw")
    like.tokenizer.save_pretrained(folder / "raw")
    inner = parts.Transformer(str(folder / "raw"), max_seq_length=512)
    SentenceTransformer(modules=[inner, parts.Pooling(128, pooling_mode="mean")], device="cpu").save(str(folder / "m"))
    return folder / "m"


def peer(folder: Path, length: int) -> Any:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    model.max_seq_length = length
    return model


def rate_of(work: Callable[[], Any], number: int) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        work()
        return number / (time.perf_counter() - start)

    return run


def peer_steps(model: Any, pairs: list[tuple[str, str]], batch: int, steps: int) -> Callable[[], float]:
    """Pairs a second of a hand-written loop."""
    from sentence_transformers import losses

    loss = losses.MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE)
    optimiser = torch.optim.AdamW(model.parameters(), 2e-5)
    draw = torch.Generator().manual_seed(0)

    def one() -> None:
        rows = torch.randperm(len(pairs), generator=draw)[:batch].tolist()
        sides = [model.preprocess([pairs[r][side] for r in rows]) for side in (0, 1)]
        value = loss(sides, None)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()

    def run() -> float:
        model.train()
        one()
        start = time.perf_counter()
        for _ in range(steps):
            one()
        return batch * steps / (time.perf_counter() - start)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/text_encode.json"))
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    data = open_data("functions", limit=3000)
    train = data.splits["train"]
    sides = [data.texts(role, train) for role in ("text", "text_b")]
    texts = [text for side in sides for text in side[: given.texts // 2]]
    with tempfile.TemporaryDirectory() as place:
        folders = {"minilm": minilm(), "bert of 2 layers": small_bert(Path(place))}
        ways: dict[str, dict[str, Callable[[], float]]] = {}
        for name, folder in folders.items():
            theirs = peer(folder, given.length)
            pairs = list(zip(*sides))
            own = {name: str(folder)} | ({} if name == "minilm" else {"tiny": "tiny"})
            encode: dict[str, Callable[[], float]] = {}
            steps: dict[str, Callable[[], float]] = {}
            for label, source in own.items():
                model = encoders.text(source, texts=texts, length=given.length)
                encode[label] = rate_of(lambda m=model: encoders.vectors(m, texts, given.batch), len(texts))
                options = {"text_encoder": source, "text_length": given.length}
                steps[label] = nearfar_rate("pairs", data, given.batch, given.steps, options,
                                            {"temperature": TEMPERATURE})  # fmt: skip
            encode["sentence-transformers"] = rate_of(
                lambda t=theirs: t.encode(texts, batch_size=given.batch, show_progress_bar=False), len(texts)
            )
            steps["sentence-transformers"] = peer_steps(peer(folder, given.length), pairs, given.batch, given.steps)
            ways |= {f"encode, {name}": encode, f"training step, {name}": steps}
        report: dict[str, Any] = {}
        for report in measured(ways, given):
            given.out.write_text(json.dumps(report, indent=1) + "\n")
    for cell, found in report["cells"].items():
        for name, (middle, low, high) in found["ratios"].items():
            print(f"{cell}: {name} {middle:.2f} [{low:.2f}, {high:.2f}] of sentence-transformers")


def measured(ways: dict[str, dict[str, Callable[[], float]]], given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The report after each turn; the first turn warms up and is left out."""
    rates: dict[str, dict[str, list[float]]] = {cell: {name: [] for name in own} for cell, own in ways.items()}
    told = {"unit": "texts/s, pairs/s", "batch": given.batch, "length": given.length, "texts": given.texts,
            "steps": given.steps, "threads": torch.get_num_threads(), "versions": engine.versions()}  # fmt: skip
    for turn in track(range(given.pairs + 1), "turns"):
        for cell, own in ways.items():
            for name, way in own.items():
                rate = way()
                if turn:
                    rates[cell][name].append(rate)
        if turn:
            yield told | {"cells": {cell: cell_of(own) for cell, own in rates.items()}}


def cell_of(rates: dict[str, list[float]]) -> dict[str, Any]:
    theirs = rates["sentence-transformers"]
    ratios = {n: interval([a / b for a, b in zip(r, theirs)]) for n, r in rates.items() if r is not theirs}
    return {"rates": rates, "ratios": ratios}


if __name__ == "__main__":
    main()
