"""Ratio tables of the loss benchmark, for the terminal and for the documentation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def interval(values: Sequence[float], coverage: float = 0.95) -> tuple[float, float, float]:
    """Median with an interval from order statistics that holds it with at least this chance (the range where few)."""
    x, n = sorted(values), len(values)
    best, tail = 0, 0.0
    for k in range(n // 2):
        tail += math.comb(n, k) / 2**n
        if 1 - 2 * tail < coverage:
            break
        best = k + 1
    low, high = (x[best - 1], x[n - best]) if best else (x[0], x[-1])
    return statistics.median(x), low, high


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    """A line for each peer: name, seconds, ratio to nearfar with its interval, MiB, errors."""
    mine = found.get("nearfar", {}).get("seconds", [])
    out = []
    for peer, x in found.items():
        if "seconds" not in x or not mine:
            reason = "not installed" if "missing" in x else x.get("skipped", "not measured")
            out.append([peer, reason, "", "", "", ""])
            continue
        turns = min(len(x["seconds"]), len(mine))
        ratio = [t / m for t, m in zip(x["seconds"][:turns], mine[:turns], strict=True)]
        middle, low, high = interval(ratio)
        spread = f"[{low:.2f}, {high:.2f}]" if turns > 1 else "(one turn)"
        out.append(
            [
                peer,
                f"{statistics.median(x['seconds']):.3f}",
                f"{middle:.2f} {spread}",
                f"{x['mib']:.0f}" if "mib" in x else "",
                *(f"{x[e]:.0e}" if e in x else "" for e in ERRORS),
            ]
        )
    return out


ERRORS = ("value_error", "gradient_error")
HEADS = ("peer", "seconds", "over nearfar [95 %]", "MiB", "error of value", "of gradient")


def cell(name: str, found: Mapping[str, Any]) -> str:
    """For the terminal."""
    lines = [HEADS, *rows(found)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADS))]
    return f"{name}\n" + "\n".join(
        "  " + "  ".join(x.ljust(w) for x, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(["| " + " | ".join(x) + " |" for x in (heads, ["---"] * len(heads), *lines)])


def page(results: Mapping[str, Any]) -> str:
    """docs/speed.md: what was measured, one table a loss; errors below."""
    known = results.get("cells", {})
    if not known:
        return "Not measured yet."
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    rate = f"{results['gflops']:.0f} GF/s, {results['cpu']}" if "cpu" in results else f"{results['gflops']:.0f} GF/s"
    parts = [
        f"One forward and backward pass at temperature {results['temperature']}, {results['threads']} thread(s), "
        "each peer in a process of its own, all in turn. Columns of peers: their time over nearfar's (median over "
        "the turns, 95 % interval; above 1 nearfar is faster), and MiB at the peak beyond the inputs and their "
        "gradients. *of the limit*: nearfar's time over that of the matrix products that the loss needs, timed in "
        f"turn (up to {rate}). `python benchmarks/loss/run.py` measures it. {versions}."
    ]
    for loss in sorted({name.split("/")[0] for name in known}):
        parts += [f"## {loss}", _by_size({n: x for n, x in known.items() if n.split("/")[0] == loss})]
    parts += [
        "## Errors",
        "Largest difference to float64 at 1,024 rows: of the value, and of the gradient over the largest gradient.",
        _errors(known),
    ]
    if "precision" in results:
        parts += ["### By precision and temperature", _precision(results["precision"])]
    if "crossover" in results:
        parts += ["## Closed forms and fast sweeps against the whole matrix", _crossover(results["crossover"])]
    return "\n\n".join(parts)


def accelerator(results: Mapping[str, Any]) -> str:
    """What gpu.py measured, as a section of the same page."""
    known = results["cells"]
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    parts = [
        "## On a GPU",
        f"{results['device']}, temperature {results['temperature']}; columns as above, time in "
        "milliseconds, the peers in turn in one process. *of the limit*: over the device's own rate in the type "
        f"of the inputs. `python benchmarks/loss/gpu.py` measures it. {versions}.",
    ]
    for loss in sorted({name.split("/")[0] for name in known}):
        parts += [f"### {loss}", _by_size({n: x for n, x in known.items() if n.split("/")[0] == loss}, "ms")]
    return "\n\n".join(parts)


UNITS = {"s": 1, "ms": 1000}


def _by_size(found: Mapping[str, Any], unit: str = "s") -> str:
    """The sizes of one loss: nearfar's time and memory, its distance to the limit, and every peer."""
    peers = list(dict.fromkeys(p for x in found.values() for p in x if p not in ("nearfar", "limit")))
    lines, heads = [], ["rows", "width", *(["inputs"] if any(name.count("/") == 3 for name in found) else [])]
    for name in sorted(found, key=_order):
        _, n, d, *inputs = name.split("/")
        x = found[name]
        mine = x["nearfar"]
        limit = _ratio(mine["seconds"], x["limit"]["seconds"]) if "limit" in x else ""
        memory = f"{mine['mib']:.0f}" if "mib" in mine else ""
        time = f"{UNITS[unit] * statistics.median(mine['seconds']):.3f}"
        lines.append(
            [f"{int(n):,}", d, *inputs, time, limit, memory, *(_peer(x.get(p), mine["seconds"]) for p in peers)]
        )
    return markdown((*heads, unit, "of the limit", "MiB", *peers), lines)


def _ratio(above: Sequence[float], below: Sequence[float]) -> str:
    turns = min(len(above), len(below))
    middle, low, high = interval([a / b for a, b in zip(above[:turns], below[:turns], strict=True)])
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]" if turns > 1 else f"{middle:.1f} (one turn)"


def _peer(x: Mapping[str, Any] | None, mine: Sequence[float]) -> str:
    if x is None:
        return ""
    if "seconds" not in x:
        return "not installed" if "missing" in x else x.get("skipped", "not measured")
    memory = f", {x['mib']:.0f} MiB" if "mib" in x else ""
    return _ratio(x["seconds"], mine) + memory


def _errors(known: Mapping[str, Any]) -> str:
    """One line a loss and width: the errors do not depend on the rows that were timed."""
    lines = {}
    for name in sorted(known, key=_order):
        loss, _, d = name.split("/")
        for peer, x in known[name].items():
            if "gradient_error" in x:
                lines[loss, int(d), peer] = [loss, d, peer, *(f"{x[e]:.0e}" for e in ERRORS)]
    return markdown(("loss", "width", "", "value", "gradient"), [lines[k] for k in sorted(lines, key=_first)])


def _first(key: tuple[str, int, str]) -> tuple[str, int, bool, str]:
    loss, width, peer = key
    return loss, width, peer != "nearfar", peer


def _order(name: str) -> tuple[str, int, int, list[str]]:
    loss, n, d, *inputs = name.split("/")
    return loss, int(n), int(d), inputs


def _precision(found: Mapping[str, Any]) -> str:
    lines = []
    for name, peers in sorted(found.items()):
        for peer, x in peers.items():
            held = [f"{x[e]:.0e}" if e in x else x.get("failed", "not installed") for e in ERRORS]
            lines.append([*name.split("/"), peer, *held])
    return markdown(("loss", "temperature", "inputs", "peer", "error of value", "of gradient"), lines)


def _crossover(found: Mapping[str, Any]) -> str:
    lines = [[device, x["loss"], str(x["rows"]), f"{x['dense']:.2f}"] for device, xs in found.items() for x in xs]
    return markdown(("device", "loss", "rows", "whole matrix over default"), lines)
