"""What a corpus costs as it grows: time, memory and recall of embedding, indexing and searching its texts.

    python benchmarks/growth.py                                      # 10,000, 100,000 and 1,000,000 rows
    python benchmarks/growth.py --rows 10000,30000
    python benchmarks/growth.py --show                               # prints what is stored

The commands are those of a user, each a process of its own whose memory the system measures at its highest:

  embed      `nearfar embed MODEL corpus.parquet --out INDEX`, with `--limit 1000` beside it as the cost of starting; it
             reads, checks, embeds and indexes (vectors, columns, BM25 of the texts, from 512 MiB of vectors on an
             approximate index)
  search     `nearfar search INDEX --queries FILE --k 10`: 200 queries at once, and one alone

Texts are sentences of 8 to 24 words of 20,000 (Zipf's law) around 1,000 topics; queries are such sentences that are not
in the corpus. The encoder is nearfar's `small`, trained on the first 2,000 sentences for 60 steps of `simcse`: what is
measured is the way through the library, not a model. `--dim` is the width of the vectors.

recall   of the ten nearest of each query by a product with every vector in float64, the share that the search found

Stored in benchmarks/results/growth.json by rows and width, and shown with how each quantity grows (docs/throughput.md).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import throughput_tables

RESULTS = Path(__file__).resolve().parent / "results" / "growth.json"
QUERIES, K, WORDS, TOPICS, BLOCK = 200, 10, 20_000, 1000, 10_000


def sentences(count: int, seed: int) -> list[str]:
    """Texts of 8 to 24 words: half of them of a topic's 40 words, half of all words by Zipf's law."""
    topics = np.random.default_rng(0).integers(0, WORDS, (TOPICS, 40))
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        length = int(draw.integers(8, 25))
        own = topics[draw.integers(TOPICS)][draw.integers(0, 40, length)]
        common = np.minimum(draw.zipf(1.3, length), WORDS) - 1
        made.append(" ".join(f"w{word}" for word in np.where(draw.random(length) < 0.5, own, common)))
    return made


def write_corpus(path: Path, rows: int) -> None:
    """A parquet table of rows with an id, a text and a number, written block by block."""
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("year", pa.int64())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, BLOCK):
            numbers = range(start, min(start + BLOCK, rows))
            texts = sentences(len(numbers), 1 + start)
            writer.write_table(pa.table({"id": [f"t{i}" for i in numbers], "text": texts,
                                         "year": [1900 + i % 120 for i in numbers]}, schema))  # fmt: skip


def train(folder: Path, dim: int) -> Path:
    """The folder of a small model of texts."""
    import nearfar

    table = folder / "train.txt"
    table.write_text("\n".join(sentences(2000, 10**9)) + "\n")
    run = nearfar.fit("simcse", table, out=folder / "run", steps=60, batch_size=64, val_every=0, progress=False,
                      text_encoder="small")  # fmt: skip
    width = run.model().dim
    if dim > width:
        raise SystemExit(f"the vectors of this model have {width} numbers")
    return folder / "run" / "model"


def ran(*words: str | Path) -> tuple[dict[str, float], str]:
    """Seconds, seconds of the processor and MiB at the highest of a nearfar command, and what it printed."""
    command = [sys.executable, "-m", "nearfar", *map(str, words)]
    start = time.perf_counter()
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=printed, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        printed.seek(0)
        said.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}\n{said.read().decode()[-2000:]}")
        peak = usage.ru_maxrss / (1024 if sys.platform == "linux" else 2**20)
        return {"seconds": seconds, "processor": usage.ru_utime + usage.ru_stime, "peak_mib": peak}, (
            printed.read().decode()
        )


def nearest(index: Path, queries: np.ndarray) -> list[set[str]]:
    """The keys of the ten nearest items of each query, by a product with every vector."""
    from nearfar.indexing import open_index
    from nearfar.indexing.stored import VECTORS

    vectors, keys = np.load(index / VECTORS, mmap_mode="r"), open_index(index).keys()
    scores, places = np.full((len(queries), K), -np.inf), np.zeros((len(queries), K), np.int64)
    for start in range(0, len(vectors), BLOCK):
        block = queries @ np.asarray(vectors[start : start + BLOCK], np.float64).T
        scores = np.concatenate([scores, block], axis=1)
        places = np.concatenate([places, np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)], 1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :K]
        scores, places = np.take_along_axis(scores, best, 1), np.take_along_axis(places, best, 1)
    return [{keys[place] for place in row} for row in places.tolist()]


def measured(folder: Path, model: Path, rows: int, dim: int) -> dict[str, Any]:
    """Everything of one size."""
    import nearfar

    corpus, index, asked = folder / f"{rows}.parquet", folder / f"{rows}-index", folder / "queries.txt"
    write_corpus(corpus, rows)
    texts = sentences(QUERIES, 2 * 10**9)
    asked.write_text("\n".join(texts) + "\n")
    width = ["--dims", str(dim)]
    begun, _ = ran("embed", model, corpus, "--limit", "1000", "--out", folder / f"{rows}-few", *width)
    embedded, _ = ran("embed", model, corpus, "--out", index, *width)
    one, _ = ran("search", index, texts[0], "--k", str(K), "--json")
    many, printed = ran("search", index, "--queries", asked, "--k", str(K), "--json")
    vectors = nearfar.load(model).truncated(dim).embed(texts).astype(np.float64)
    found = [{hit["key"] for hit in answer["hits"]} for answer in json.loads(printed)]
    right = nearest(index, vectors)
    size = sum(path.stat().st_size for path in index.rglob("*") if path.is_file())
    return {
        "corpus_mib": corpus.stat().st_size / 2**20,
        "index_mib": size / 2**20,
        "approximate": json.loads((index / "index.json").read_text()).get("approximate"),
        "start": begun,
        "embed": embedded,
        "search_one": one,
        "search_many": many,
        "recall": sum(len(a & b) for a, b in zip(found, right, strict=True)) / (K * QUERIES),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="10000,100000,1000000")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--work", help="folder for corpus and index; default a temporary one")
    parser.add_argument("--show", action="store_true")
    given = parser.parse_args()
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if not given.show:
        with tempfile.TemporaryDirectory(dir=given.work) as place:
            folder = Path(place)
            os.environ["NEARFAR_CACHE"] = str(folder / "cache")  # reading and checking are part of the cost
            model = train(folder, given.dim)
            for rows in map(int, given.rows.split(",")):
                found = measured(folder, model, rows, given.dim)
                machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "when": time.strftime("%F")}
                stored.setdefault(str(given.dim), {})[str(rows)] = found | {"machine": machine}
                RESULTS.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
                own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                print(f"{rows:,} rows done; this script took {own:,.0f} MiB")
    print("\n\n".join(throughput_tables.growth(stored)))


if __name__ == "__main__":
    main()
