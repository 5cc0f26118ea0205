"""What a command shows on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.markup import escape
from rich.table import Table

from nearfar import terminal

LABELS = {
    "spearman": "Spearman",
    "pearson": "Pearson",
    "hit@1": "hit@1",
    "hit@5": "hit@5",
    "hit@10": "hit@10",
    "ndcg@10": "nDCG@10",
    "mrr": "MRR",
    "map": "MAP",
    "miou": "mIoU",
    "pixel accuracy": "pixel accuracy",
    "knn": "kNN",
    "probe": "probe",
    "recall@10": "recall@10",
    "precision@10": "precision@10",
    "pair ap": "pair AP",
    "pair accuracy": "pair accuracy",
    "pair f1": "pair F1",
    "accuracy": "accuracy",
    "gain": "gain",
    "low": "from",
    "high": "to",
}
SHOWN = tuple(name for name in LABELS if name not in ("hit@5", "map", "precision@10"))
MARKS = {"good": "[green]good[/]", "watch": "[yellow]watch[/]", "bad": "[red]bad[/]", "info": "[dim]info[/]"}


def columns(found: Iterable[Mapping[str, float]]) -> dict[str, str]:
    """The metrics that a table of these rows shows, with their labels; few-shot ones whatever their shots."""
    present = list(dict.fromkeys(name for metrics in found for name in metrics))
    shots = [name for name in present if "-shot" in name and "/" not in name]
    return {name: LABELS.get(name, name) for name in [*(n for n in SHOWN if n in present), *shots]}


def console() -> Any:
    return terminal.console()


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def gallery(found: list[dict[str, Any]]) -> None:
    """The methods, one a row."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head in ("method", "family", "needs", "idea"):
        table.add_column(head, overflow="fold")
    for m in found:
        needs = " or ".join(" + ".join(n) for n in m["needs"])
        table.add_row(
            f"[bold cyan]{m['slug']}[/]", m["family"], needs, f"{m['paper']['idea']} [dim]{m['paper']['venue']}[/]"
        )
    console().print(table)
    console().print("\n[dim]`nearfar methods METHOD` shows one with its options.[/]")


def method(m: dict[str, Any]) -> None:
    """One method: paper, idea, needs, options."""
    out, paper = console(), m["paper"]
    out.print(f"[bold cyan]{m['slug']}[/]  {escape(paper['title'])}, {paper['venue']}  [dim]{paper['link']}[/]")
    out.print(f"\n{escape(paper['idea'])}")
    if paper["differs"]:
        out.print(f"[dim]Differs from the paper or its code:[/] {escape(paper['differs'])}")
    out.print(f"\n[bold]needs[/]  {' or '.join(' + '.join(n) for n in m['needs'])}\n")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head, folds in (("option", False), ("default", True), ("paper", True), ("meaning", True)):
        table.add_column(head, overflow="fold" if folds else "ellipsis", no_wrap=not folds)
    for o in m["options"]:
        default = "-" if o["default"] is None else str(o["default"])
        table.add_row(f"--{o['name'].replace('_', '-')}", default, _paper(o.get("paper")), escape(o["help"]))
    out.print(table)
    out.print(f"\n[dim]nearfar fit {m['slug']} DATA; with the paper's values: --preset paper[/]")


def _paper(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return " ".join(str(v) for v in value.values())
    return str(value)


def run(done: Any) -> None:
    """A finished run: its scores and where its model is."""
    out = console()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("split")
    names = columns(s["metrics"] for s in done.scores.values())
    for label in names.values():
        table.add_column(label, justify="right")
    for split, scores in done.scores.items():
        table.add_row(split, *[percent(scores["metrics"].get(n)) for n in names])
    if done.scores:
        out.print(table)
    cost = done.cost
    out.print(f"{cost['seconds']:.0f} s, {cost['samples_per_second']:.0f} samples/s, peak {cost['peak_mib']:.0f} MiB")
    out.print(f"model: {done.path / 'model'}\nnext:  nearfar report {done.path}", soft_wrap=True)


def leaderboard(results: dict[str, Any]) -> None:
    """All rows, best first, with intervals and cost."""
    shown = ("task", "data", "rows", "winner", "baseline", "reason")
    results = terminal.visible_all({name: results[name] for name in shown})
    out, task = console(), results["task"]
    out.print()
    out.print(f"[bold]{results['data']['name']}[/]  {escape(task['description'])}")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    label = task.get("label", task["primary"]) + (f" {task['unit']}" if task.get("unit", "%") != "%" else "")
    hard = any("hard/" + task["primary"] in c["metrics"] for r in results["rows"] for c in r["seeds"])
    second = beside(results["rows"])
    heads = [
        "",
        label,
        "95 %",
        *(["hard " + label] if hard else []),
        *([LABELS[second]] if second else []),
        f"vs {results['baseline']}",
        "s",
        "samples",
        "MiB",
    ]
    for k, head in enumerate(heads):
        table.add_column(head, justify="left" if k == 0 else "right", no_wrap=True)
    for r in sorted(results["rows"], key=lambda r: -(r["mean"] if r["mean"] is not None else -1)):
        table.add_row(*_row(r, results, hard, second))
    out.print(table)
    out.print(f"\n{escape(results['reason'])}")


def beside(rows: list[dict[str, Any]]) -> str | None:
    """The metric that stands beside the main one: hit@10, the pixel accuracy of masks, Pearson of scores, or none."""
    known = {name for r in rows for c in r["seeds"] for name in c["metrics"]}
    return next((name for name in ("hit@10", "pixel accuracy", "pearson") if name in known), None)


def _row(r: dict[str, Any], results: dict[str, Any], hard: bool, second: str | None) -> list[str]:
    done = [c for c in r["seeds"] if c["status"] == "done"]
    primary = results["task"]["primary"]
    name = f"[bold cyan]{escape(r['label'])}[/]" if r["kind"] == "method" else f"[dim]{escape(r['label'])}[/]"
    if r["slug"] == results["winner"]:
        name += " *"
    if r["mean"] is None:
        return [name, "failed", *[""] * (5 + hard + (second is not None))]
    interval = r["interval"]
    spread = (
        f"{percent(interval[0])}..{percent(interval[1])}" if interval else "1 seed" if r["kind"] == "method" else ""
    )
    d = r.get("difference")
    gap = "" if not d else f"{100 * d['mean']:+.1f}"
    if d and d["interval"]:
        gap += f" [dim]({100 * d['interval'][0]:+.1f}..{100 * d['interval'][1]:+.1f})[/]"
    trained = r["kind"] == "method"
    cost = (
        [f"{_mean(done, 'seconds'):.0f}", f"{_mean(done, 'samples'):,.0f}", f"{_mean(done, 'peak_mib'):.0f}"]
        if trained
        else [""] * 3
    )
    return [
        name,
        percent(r["mean"]),
        spread,
        *([percent(_metric(done, "hard/" + primary))] if hard else []),
        *([percent(_metric(done, second))] if second else []),
        gap,
        *cost,
    ]


def _mean(cells: list[dict[str, Any]], name: str) -> float:
    values = [c[name] for c in cells if c.get(name) is not None]
    return sum(values) / len(values) if values else 0.0


def _metric(cells: list[dict[str, Any]], name: str) -> float | None:
    values = [c["metrics"][name] for c in cells if name in c["metrics"]]
    return sum(values) / len(values) if values else None


def next_steps(done: Any) -> None:
    out = console()
    out.print(f"\nreport: {done.path / 'report.html'}", soft_wrap=True)
    if done.best:
        out.print(f"best model (chosen on validation data): {done.best}", soft_wrap=True)


def evaluation(found: dict[str, Any]) -> None:
    found, out = terminal.visible_all(found), console()
    out.print(escape(found["task"]["description"]))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("")
    names = columns(r["metrics"] for r in found["rows"])
    table.add_column("95 % (items)", justify="right")
    for label in names.values():
        table.add_column(label, justify="right")
    for r in found["rows"]:
        low, high = r["bootstrap"] or (None, None)
        table.add_row(
            escape(r["label"]), f"{percent(low)}..{percent(high)}", *[percent(r["metrics"].get(n)) for n in names]
        )
    out.print(table)
    directions = found["rows"][0]["directions"]
    if len(directions) > 1:
        out.print(f"\n[bold]{'classes' if found['task'].get('parts') == 'class' else 'directions'}[/]")
        for name, metrics in directions.items():
            shown = "  ".join(
                f"{LABELS.get(k, k)} {percent(v)}" for k, v in metrics.items() if k in SHOWN or k in ("balanced",)
            )
            out.print(f"  {escape(name)}:  {shown}")


def diagnosis(found: list[dict[str, Any]]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("what", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("", no_wrap=True)
    table.add_column("advice", overflow="fold")
    for d in terminal.visible_all(found):
        table.add_row(escape(d["name"]), f"{d['value']:.3g}", MARKS[d["verdict"]], escape(d["advice"]))
    console().print(table)


def hits(query: str, found: list[dict[str, Any]]) -> None:
    out = console()
    if not found:
        out.print("nothing found")
    for n, h in enumerate(terminal.visible_all(found), 1):
        rest = "  ".join(
            f"[dim]{escape(k)}[/] {escape(_short(v))}"
            for k, v in h.items()
            if k not in ("key", "score", "trained_on") and v not in (None, "")
        )
        mark = "  [yellow]trained on[/]" if h.get("trained_on") is True else ""
        out.print(
            f"{n:>3}  [bold]{h['score']:.3f}[/]  {escape(str(h['key']))}{mark}  {rest}",
            soft_wrap=False,
            overflow="ellipsis",
            no_wrap=True,
        )


def cache(found: Mapping[str, Any]) -> None:
    """What the cache holds, kind by kind."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head in ("kind", "entries", "size", "last used", "what"):
        table.add_column(head, justify="right" if head in ("entries", "size") else "left")
    for one in found["kinds"]:
        table.add_row(one["kind"], f"{one['entries']:,}", size(one["bytes"]), one["last_used"] or "", one["what"])
    out = console()
    out.print(f"{escape(str(found['path']))}: {size(found['bytes'])} of at most {size(found['bound'])}", soft_wrap=True)
    out.print(table)
    out.print(
        "\n[dim]`nearfar cache clear` removes all; --kind KIND or --unused 30d some. NEARFAR_CACHE_SIZE bounds it.[/]"
    )


def cleared(path: Any, count: int, freed: int) -> None:
    console().print(f"removed {count:,} entries, {size(freed)}, from {escape(str(path))}", soft_wrap=True)


def size(count: float) -> str:
    """Bytes as kB, MB, GB or TB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _short(value: Any, most: int = 48) -> str:
    text = " ".join(str(value).split())
    return terminal.visible(text if len(text) <= most else text[: most - 1] + "…")


@contextmanager
def bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress callback (done, all), shown on a terminal only."""
    from rich.progress import Progress

    err = terminal.console(stderr=True)
    if not err.is_terminal:
        yield lambda done, all_: None
        return
    with Progress(console=err, transient=True) as shown:
        task = shown.add_task(title, total=None)
        yield lambda done, all_: shown.update(task, completed=done, total=all_)
    sys.stderr.flush()
