"""A served model under load, beside sentence-transformers in a plain FastAPI loop.

    python benchmarks/serve.py                    # all three parts on the packaged MiniLM, some minutes
    python benchmarks/serve.py --parts speed --rounds 11
    python benchmarks/serve.py --show             # prints what is stored

  mixed    2,000 requests of 16 clients, all at once: one text, several texts, searches, and 5 % that are wrong (an
           empty text, a number, a broken body, an unknown role, too many texts). Every one must come back with the
           status it deserves; of the right ones the vectors and hits are held against the model in this process.
  memory   20,000 requests of the same mixture; megabytes of all processes of the server (proportional set size) as
           they go by. Flat: the last fifth within 5 % of the second.
  speed    requests of one text from 16 clients, `nearfar serve` and the loop in turn: requests a second, the median
           time of one and that which one in a hundred exceeds. The loop is what one writes by hand: FastAPI and
           uvicorn, a function that calls `SentenceTransformer.encode` with what came in, run by FastAPI in its threads.

Both servers hold the same weights and run on the same cores as the clients. Stored in benchmarks/results/serve.json.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import inspect
import json
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from train_throughput import interval

RESULTS = Path(__file__).resolve().parent / "results" / "serve.json"
CLIENTS, POISON = 16, 0.05
LOOP = """
import sys
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

model, app = SentenceTransformer(sys.argv[1], device="cpu"), FastAPI()

class Asked(BaseModel):
    input: str | list[str]

@app.get("/health")
def health():
    return "ok"

@app.post("/v1/embeddings")
def embeddings(asked: Asked):
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    found = model.encode(texts, normalize_embeddings=True)
    return {"data": [{"index": k, "embedding": one.tolist()} for k, one in enumerate(found)]}

uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
"""
WRONG = (
    ({"input": ""}, 400),
    ({"input": 7}, 400),
    (b'{"input": ', 400),
    ({"input": "a", "role": "nobody"}, 400),
    ({"input": ["a"] * 300}, 400),
)


def texts() -> list[str]:
    """Sentences of the documentation of the standard library: the same on machines of one Python."""
    import argparse as a
    import collections as c
    import pathlib as p
    import statistics as s
    import subprocess as u

    things = [thing for module in (a, c, p, s, u, json, random, socket, textwrap, threading)
              for _, thing in sorted(vars(module).items())]  # fmt: skip
    inner = [one for thing in things if inspect.isclass(thing) for one in vars(thing).values()]
    found = [inspect.getdoc(one) or "" for one in things + inner if inspect.isroutine(one) or inspect.isclass(one)]
    lines = {" ".join(part.split()) for text in found for part in text.split("\n\n")}
    return sorted(line for line in lines if 20 < len(line) < 400)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def started(command: list[str], port: int) -> Iterator[tuple[int, int]]:
    """The port and the process group of a server that answers."""
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        while True:
            assert process.poll() is None, f"the server ended: {command}"
            with contextlib.suppress(OSError, http.client.HTTPException):
                if ask(http.client.HTTPConnection("127.0.0.1", port, timeout=5), "GET", "/health", None)[0] == 200:
                    break
            time.sleep(0.2)
        yield port, process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def ask(connection: http.client.HTTPConnection, verb: str, path: str, body: Any) -> tuple[int, Any]:
    sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(verb, path, sent, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def mixture(lines: list[str], count: int, seed: int) -> list[tuple[str, Any, int]]:
    """Requests: path, body, the status that each deserves."""
    draw, found = random.Random(seed), []
    for _ in range(count):
        kind = draw.random()
        if kind < POISON:
            body, status = draw.choice(WRONG)
            found.append(("/v1/embeddings", body, status))
        elif kind < 0.25:
            found.append(("/v1/search", {"query": draw.choice(lines), "k": 5}, 200))
        else:
            few = draw.choice(lines) if kind < 0.7 else draw.sample(lines, draw.randint(2, 8))
            found.append(("/v1/embeddings", {"input": few}, 200))
    return found


def load(port: int, requests: list[tuple[str, Any, int]]) -> tuple[list[tuple[int, Any]], list[float], float]:
    """Status and body of each request, its seconds, and the seconds of all; a client keeps its connection."""
    own = threading.local()

    def one(request: tuple[str, Any, int]) -> tuple[tuple[int, Any], float]:
        path, body, _ = request
        if not hasattr(own, "connection"):
            own.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        start = time.perf_counter()
        found = ask(own.connection, "POST", path, body)
        return found, time.perf_counter() - start

    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(one, requests))
    return [found for found, _ in answers], [seconds for _, seconds in answers], time.perf_counter() - began


def megabytes(group: int) -> float:
    """Proportional set size of all processes of a group."""
    total = 0
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            if int((place / "stat").read_text().rsplit(")", 1)[1].split()[2]) == group:
                rollup = (place / "smaps_rollup").read_text()
                total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


def per_cent(seconds: list[float], share: float) -> float:
    return float(np.quantile(seconds, share) * 1e3)


def mixed(port: int, lines: list[str], count: int, model: Any, index: Any) -> dict[str, Any]:
    """All requests at once; how many were lost, and how far vectors and hits lie from those of the model itself."""
    requests = mixture(lines, count, 0)
    answers, seconds, taken = load(port, requests)
    lost = sum(status != wanted for (status, _), (_, _, wanted) in zip(answers, requests, strict=True))
    worst, hits = 0.0, 0
    known = dict(zip(lines, model.embed_texts(lines), strict=True))
    for (status, body), (path, asked, _) in zip(answers, requests, strict=True):
        if status != 200:
            continue
        told = json.loads(body)
        if path == "/v1/search":
            wanted = [hit["key"] for hit in index.search(known[asked["query"]], 5)]
            hits += [hit["key"] for hit in told["hits"]] != wanted
            continue
        given = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
        for text, one in zip(given, told["data"], strict=True):
            worst = max(worst, float(np.abs(np.asarray(one["embedding"]) - known[text]).max()))
    wrong = sum(wanted != 200 for *_, wanted in requests)
    return {"requests": count, "wrong ones": wrong, "lost": lost, "largest difference": worst, "other hits": hits,
            "seconds": taken, "p50 ms": per_cent(seconds, 0.5), "p99 ms": per_cent(seconds, 0.99)}  # fmt: skip


def memory(port: int, group: int, lines: list[str], count: int) -> dict[str, Any]:
    """Megabytes of the server after each twentieth of the requests."""
    found = [megabytes(group)]
    for part in range(20):
        load(port, mixture(lines, count // 20, part + 1))
        found.append(megabytes(group))
    early, late = float(np.mean(found[4:8])), float(np.mean(found[-4:]))
    return {"requests": count, "megabytes": found, "growth": late / early - 1}


def speed(ports: dict[str, int], lines: list[str], rounds: int, count: int) -> dict[str, Any]:
    """Of each server, in turn: requests a second and times of one; of each round the ratio."""
    found: dict[str, dict[str, list[float]]] = {n: {"per second": [], "p50 ms": [], "p99 ms": []} for n in ports}
    for turn in range(-1, rounds):  # the first one warms up
        requests = [("/v1/embeddings", {"input": one}, 200) for one in random.Random(turn).choices(lines, k=count)]
        for name in list(ports) if turn % 2 else list(reversed(ports)):
            answers, seconds, taken = load(ports[name], requests)
            assert all(status == 200 for status, _ in answers), name
            if turn >= 0:
                for key, value in (("per second", count / taken), ("p50 ms", per_cent(seconds, 0.5)),
                                   ("p99 ms", per_cent(seconds, 0.99))):  # fmt: skip
                    found[name][key].append(value)
    ratios = [a / b for a, b in zip(*(found[name]["per second"] for name in ports), strict=True)]
    return {"servers": found, "requests": count, "ratio": interval(ratios)}


def show(stored: dict[str, Any]) -> None:
    if one := stored.get("mixed"):
        print(f"mixed   {one['requests']:,} requests of {CLIENTS} clients, {one['wrong ones']} of them wrong: "
              f"{one['lost']} lost, vectors within {one['largest difference']:.1e} of the model's, "
              f"{one['other hits']} searches with other hits; {one['seconds']:.1f} s, median {one['p50 ms']:.0f} ms, "
              f"99 % within {one['p99 ms']:.0f} ms")  # fmt: skip
    if one := stored.get("memory"):
        print(f"memory  {one['requests']:,} requests: {one['megabytes'][0]:.0f} MiB, then "
              f"{one['megabytes'][-1]:.0f} ; from the second fifth to the last {one['growth']:+.1%}")  # fmt: skip
    if one := stored.get("speed"):
        for name, told in one["servers"].items():
            middle = {key: interval(values)[0] for key, values in told.items()}
            print(f"speed   {name:<22} {middle['per second']:7.1f} requests/s, median {middle['p50 ms']:.0f} ms, 99 % "
                  f"within {middle['p99 ms']:.0f} ms")  # fmt: skip
        print("speed   ratio {:.2f} ({:.2f}..{:.2f})".format(*one["ratio"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="mixed,memory,speed")
    parser.add_argument("--requests", type=int, default=2000, help="of the mixed part")
    parser.add_argument("--long", type=int, default=20_000, help="requests of the memory part")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--each", type=int, default=300, help="requests a round of the speed part")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true")
    given = parser.parse_args()
    stored = json.loads(given.out.read_text()) if given.out.exists() else {}
    if given.show:
        return show(stored)
    import nearfar
    from nearfar import indexing
    from nearfar.encoders.choosing import minilm

    folder, lines, parts = minilm(), texts(), given.parts.split(",")
    model = nearfar.load(folder)
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as open_:
        vectors = model.embed_texts(lines)
        index = indexing.build_index(Path(place) / "index", vectors, [f"k{i}" for i in range(len(lines))],
                                     {"text": lines}, model_hash=model.hash, meta={"model": str(folder)})  # fmt: skip
        port = free_port()
        words = [sys.executable, "-m", "nearfar", "serve", str(folder), "--index", str(index.path), "--port", str(port)]
        _, group = open_.enter_context(started(words, port))
        if "mixed" in parts:
            stored["mixed"] = mixed(port, lines, given.requests, model, index)
        if "memory" in parts:
            stored["memory"] = memory(port, group, lines, given.long)
        if "speed" in parts:
            other = free_port()
            open_.enter_context(started([sys.executable, "-c", LOOP, str(folder), str(other)], other))
            stored["speed"] = speed({"nearfar serve": port, "sentence-transformers": other}, lines, given.rounds,
                                    given.each)  # fmt: skip
    from importlib.metadata import version

    packages = ("nearfar", "torch", "litserve", "fastapi", "sentence-transformers")
    stored |= {"machine": platform.machine(), "cores": os.cpu_count(), "model": folder.name,
               "versions": {n: version(n) for n in packages}}  # fmt: skip
    show(stored)
    given.out.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
