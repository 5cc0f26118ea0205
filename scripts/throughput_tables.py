"""Markdown of docs/throughput.md: how fast texts are embedded and learned, searched and served, and what a corpus costs
as it grows, from benchmarks/results."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from markdown_tables import table

PROMISE = 4096  # MiB that a million rows may take


def page(measured: Mapping[str, Any]) -> str:
    """All that was measured."""
    parts = [
        "# Speed of embedding, search and serving",
        "Measured on two cores without a GPU. Peers run in turn with nearfar, on the same weights; a ratio is the "
        "median over the turns with its 95 % interval.",
    ]
    for name, section in SECTIONS.items():
        if name in measured:
            parts += section(measured[name])
    return "\n\n".join(parts)


def ratio(values: Sequence[float]) -> str:
    middle, low, high = values
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def versions(stored: Mapping[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {stored['versions'][name]}" for name in names if name in stored.get("versions", {}))


def texts(stored: Mapping[str, Any]) -> list[str]:
    rows = [
        [cell, name, f"{statistics.median(found['rates'][name]):.0f}", ratio(told)]
        for cell, found in stored["cells"].items()
        for name, told in found["ratios"].items()
    ]
    return [
        "## Texts",
        f"Texts, or pairs of texts, a second in batches of {stored['batch']} of at most {stored['length']} tokens, "
        f"beside sentence-transformers ({versions(stored, ('nearfar', 'torch', 'transformers'))}; "
        "`python benchmarks/text_encode.py`); above 1 nearfar is faster.",
        table(["work", "encoder", "a second", "of sentence-transformers"], rows, (2, 3)),
    ]


def search(stored: Mapping[str, Any]) -> list[str]:
    rows = []
    for cell, parts in stored["cells"].items():
        size = " x ".join(f"{int(n):,}" for n in cell.split(" x "))
        for part, found in parts.items():
            if not isinstance(found, Mapping) or "times" not in found:
                continue
            base = found["base"]
            for name, told in found["against"].items():
                middle = [1e3 * statistics.median(found["times"][n]["seconds"]) for n in (name, base)]
                rows.append([size, part, name, f"{middle[0]:,.4g}", f"{base}: {middle[1]:,.4g}",
                             ratio(told["seconds"]["ratio"]), f"{told['seconds']['above'][0]:+.2f}"])  # fmt: skip
    return [
        "## Search",
        "The ten nearest of vectors, rows x width. In the library an open index beside numpy's product with all of "
        "them; on the command line a whole process, which reads the index and embeds the query, beside `import "
        f"torch` alone ({versions(stored, ('nearfar', 'torch', 'numpy', 'lancedb'))}; `python benchmarks/search.py`).",
        table(["vectors", "where", "", "ms", "peer: ms", "time over the peer's", "seconds more"], rows, range(3, 7)),
    ]


def serve(stored: Mapping[str, Any]) -> list[str]:
    parts = [
        "## Serving",
        f"`nearfar serve` with the packaged all-MiniLM-L6-v2 and an index, 16 clients on the same cores "
        f"({versions(stored, ('nearfar', 'litserve', 'sentence-transformers', 'fastapi'))}; `python "
        "benchmarks/serve.py`).",
    ]
    if one := stored.get("mixed"):
        parts.append(
            f"{one['requests']:,} mixed requests, {one['wrong ones']} of them wrong: {one['lost']} lost or with "
            f"another status than they deserve, vectors within {one['largest difference']:.1e} of the model's, "
            f"{one['other hits']} searches with other hits."
        )
    if one := stored.get("memory"):
        each = one["requests"] // (len(one["megabytes"]) - 1)
        rows = [[f"{k * each:,}", f"{one['megabytes'][k]:,.0f}"] for k in range(0, len(one["megabytes"]), 4)]
        parts += [
            f"Memory of all processes of the server over {one['requests']:,} such requests; from the second fifth to "
            f"the last {one['growth']:+.1%}.",
            table(["requests", "MiB"], rows, (0, 1)),
        ]
    if one := stored.get("speed"):
        rows = [
            [name, *(f"{statistics.median(told[key]):,.0f}" for key in ("per second", "p50 ms", "p99 ms"))]
            for name, told in one["servers"].items()
        ]
        parts += [
            "Requests of one text, beside `SentenceTransformer.encode` in a FastAPI function: "
            f"{ratio(one['ratio'])} times as many a second.",
            table(["server", "requests a second", "median, ms", "99 % within, ms"], rows, range(1, 4)),
        ]
    return parts


def growth(stored: Mapping[str, Any]) -> list[str]:
    parts = [
        "## A corpus that grows",
        "`nearfar embed` of a table of texts with the `small` encoder (it reads, checks, embeds and indexes), and "
        "`nearfar search` in the index, each a process of its own; the peak of the memory is that of the process. "
        "*Recall*: of the ten nearest by a product with every vector in float64, the share that the search found. "
        "`python benchmarks/growth.py` measures it.",
    ]
    for width, sizes in stored.items():
        parts += [f"Vectors of {width} numbers:", *of_width(sizes)]
    return parts


GROWING = {
    "embedding, s": ("embed", "processor"),
    "its memory": ("embed", "peak_mib"),
    "index": ("index_mib",),
    "200 queries, s": ("search_many", "processor"),
    "their memory": ("search_many", "peak_mib"),
}


def of_width(sizes: Mapping[str, Any]) -> list[str]:
    """The table of the sizes, how each quantity grows from one to the next, and the largest process."""
    ordered = sorted(sizes, key=int)
    rows = [
        [
            f"{int(n):,}",
            *(f"{sizes[n]['embed'][key]:,.0f}" for key in ("seconds", "processor", "peak_mib")),
            f"{sizes[n]['index_mib']:,.0f}",
            f"{sizes[n]['search_one']['seconds']:.1f}",
            f"{sizes[n]['search_many']['seconds']:.1f}",
            f"{sizes[n]['search_many']['peak_mib']:,.0f}",
            f"{sizes[n]['recall']:.1%}",
        ]
        for n in ordered
    ]
    heads = ["rows", "embedding, s", "of the processor", "peak, MiB", "index, MiB", "1 query, s", "200 queries, s",
             "peak, MiB", "recall@10"]  # fmt: skip
    steps = [
        [f"{int(a):,} to {int(b):,}", *(grown(sizes, a, b, *path) for path in GROWING.values())]
        for a, b in itertools.pairwise(ordered)
    ]
    most = max(one[part]["peak_mib"] for one in sizes.values() for part in ("embed", "search_many", "search_one"))
    told = f"The largest process took {most:,.0f} MiB, {'within' if most <= PROMISE else 'MORE than'} 4 GiB."
    if not steps:
        return [table(heads, rows, range(9)), told]
    return [
        table(heads, rows, range(9)),
        "How each grows, as the exponent b of rows^b above the cost of starting (1: in proportion):",
        table(["from", *GROWING], steps, range(1, 6)),
        told,
    ]


def grown(sizes: Mapping[str, Any], before: str, after: str, *path: str) -> str:
    """b of rows^b, of what is above the cost of starting as far as that was measured."""

    def value(rows: str) -> float:
        found = sizes[rows]
        for name in path:
            found = found[name]
        return found - (sizes[rows]["start"][path[1]] if path[0] == "embed" else 0)

    if min(value(before), value(after)) <= 0:
        return ""
    return f"{math.log(value(after) / value(before)) / math.log(int(after) / int(before)):.2f}"


SECTIONS = {"text_encode": texts, "search": search, "serve": serve, "growth": growth}
