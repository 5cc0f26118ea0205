"""`nearfar demo`: find the same thing drawn by another hand."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from nearfar import stores
from nearfar.checks import Range
from nearfar.cli import tables
from nearfar.cli.common import Output, read, speaker
from nearfar.progress import Say

if TYPE_CHECKING:
    from nearfar.training.comparing import Comparison

METHODS = ("simclr", "pairs", "dcl --views members", "swav --views members")
ENCODER = {"channels": "orientation", "grid": 2}  # the best on validation emoji (benchmarks/layout.py)
QUERIES = 3


@dataclass
class DemoOptions:
    """Where the demo goes.

    Args:
        out: folder of the demo.
        seconds: time for all training.
    """

    out: str = "runs/demo"
    seconds: Annotated[int, Range(1, 1_000_000)] = 240


def demo(out: Path, seconds: int, say: Say, as_json: bool) -> None:
    """Compares four methods on the emoji set with one seed each, embeds all drawings with the best, and searches."""
    lines(
        say,
        "nearfar demo: find the same thing drawn by another hand\n\n"
        "3,500 emoji in four drawing styles; measured are emoji never trained on.\n"
        "simclr sees augmentations of one drawing; for the other methods another\n"
        "drawing of the emoji is the positive. The encoder sees colours and the\n"
        "direction of outlines, as HOG does, and keeps where they are\n"
        "(--channels orientation --grid 2).\n",
    )
    from nearfar import sources, using
    from nearfar.cli.hits import show
    from nearfar.training.comparing import compare

    data = sources.open_data("emoji")
    done = compare(
        data,
        methods=METHODS,
        seeds=1,
        budget=seconds,
        least_steps=1,
        **ENCODER,
        out=out,
        say=say,
        command=f"nearfar compare emoji --methods {shlex.quote(','.join(METHODS))} --channels orientation "
        f"--grid 2 --seeds 1 --budget {seconds}s --least-steps 1",
    )
    index = out / "index"
    if not index.exists():
        using.embed(done.best or out, data, out=index)
    found = searches(index, data)
    if as_json:
        sys.stdout.write(json.dumps({"results": done.results, "searches": found}) + "\n")
        return
    tables.leaderboard(done.results)
    lines(say, "\nOne seed a method: enough to see the large differences, not to settle the small ones.")
    for query, hits in found:
        lines(say, f"\n{query}")
        show(hits)
    closing(done, index, say)


def lines(say: Say, text: str) -> None:
    for line in text.split("\n"):
        say(line)


def searches(index: Path, data: Any) -> list[tuple[str, list[dict[str, Any]]]]:
    """Test drawings as queries, each searched among the drawings of the other hands."""
    from nearfar.searching import search

    rows = np.asarray(data.splits["test"])
    drawn = np.random.default_rng(0).permutation(rows)
    families = drawn[np.unique(data.units[drawn], return_index=True)[1]]  # one drawing of each family
    chosen = families[:: max(1, len(families) // QUERIES)][:QUERIES]
    domain = data.roles["domain"]
    names = data.texts("text")
    found = []
    for row in chosen:
        style = data.domain_names[data.domains[row]]
        hits = search(index, f"key:{data.keys[row]}", k=5, where=f"{domain} != '{style}'")
        keep = [{k: h[k] for k in ("key", "score", "text") if k in h} for h in hits]
        found.append((f"searched with: {names[row].split(':')[0]}, drawn by {style}; among the other hands", keep))
    return found


def closing(done: Comparison, index: Path, say: Say) -> None:
    lines(
        say,
        f"""
report: {Path(done.path) / "report.html"}
model:  {done.best}

The same on your own data - a folder of images, a csv of pairs, a text file:
  nearfar data PATH
  nearfar compare PATH --out RUN
  nearfar embed RUN/best PATH --out INDEX
  nearfar search INDEX "QUERY"   (a text, an image, or key:KEY)
and here:
  nearfar search {index} 'key:{next(iter(_keys(index)))}'""",
    )


def _keys(index: Path) -> list[str]:
    from nearfar import indexing

    return indexing.open_index(index).keys()[:1]


def run_demo(words: list[str]) -> None:
    targets = [DemoOptions, Output]
    _, checked = read(words, targets, (0,), "nearfar demo")
    demo(
        stores.on_disk(checked.out, "the demo shows what lies on this machine"),
        checked.seconds,
        speaker(checked.json),
        checked.json,
    )
