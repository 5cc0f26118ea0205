"""What a command shows on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.markup import escape
from rich.table import Table

from nearfar import modalities, terminal
from nearfar.stores import below
from nearfar.units import Metric, metric_of, places_of

MARKS = {"good": "[green]good[/]", "watch": "[yellow]watch[/]", "bad": "[red]bad[/]", "info": "[dim]info[/]"}


def columns(task: Mapping[str, Any], found: Iterable[Mapping[str, float]]) -> dict[str, Metric]:
    """The metrics that a table of these rows shows: the brief ones of the task, as far as they are there; all of them
    where the task names none."""
    present = list(dict.fromkeys(name for metrics in found for name in metrics))
    named = [name for name in task.get("metrics") or present if name in present]
    main = [name for name in present if name == task.get("primary") and name not in named]
    known = {name: metric_of(task, name) for name in [*main, *named]}
    return {name: metric for name, metric in known.items() if metric.brief}


def console() -> Any:
    return terminal.console()


def gallery(found: list[dict[str, Any]]) -> None:
    """The methods of each family: what each needs, and its idea."""
    out, widest = console(), max(len(m["slug"]) for m in found)
    for family in dict.fromkeys(m["family"] for m in found):
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(min_width=widest, no_wrap=True)
        table.add_column(overflow="fold")
        for m in found:
            if m["family"] == family:
                idea, venue = escape(m["paper"]["idea"]), escape(m["paper"]["venue"])
                table.add_row(f"[bold cyan]{m['slug']}[/]", f"{idea} [dim]{venue}[/]")
                table.add_row("", f"[dim]needs[/] {modalities.needs_in_words(m['needs'])}")
        out.print(f"[bold]{family}[/]", table, "", sep="\n")
    out.print("[dim]`nearfar methods METHOD` shows one with its options.[/]")


def method(m: dict[str, Any]) -> None:
    """One method: paper, idea, needs, options."""
    out, paper = console(), m["paper"]
    out.print(f"[bold cyan]{m['slug']}[/]  {escape(paper['title'])}, {paper['venue']}  [dim]{paper['link']}[/]")
    out.print(f"\n{escape(paper['idea'])}")
    if paper["differs"]:
        out.print(f"[dim]Differs from the paper or its code:[/] {escape(paper['differs'])}")
    out.print(f"\n[bold]needs[/]  {modalities.needs_in_words(m['needs'])}\n")
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
    task = done.task or {}
    names = columns(task, [s["metrics"] for s in done.scores.values()])
    rows = [[split, *[m.written.write(scores["metrics"].get(n)) for n, m in names.items()]]
            for split, scores in done.scores.items()]  # fmt: skip
    if rows:
        print_columns(out, ["split", *(metric.heading for metric in names.values())], rows)
    cost = done.cost
    out.print(f"{cost['seconds']:.0f} s, {cost['samples_per_second']:.0f} samples/s, peak {cost['peak_mib']:.0f} MiB")
    out.print(f"model: {below(done.path, 'model')}\nnext:  nearfar report {done.path}", soft_wrap=True)


def leaderboard(results: dict[str, Any]) -> None:
    """All rows, best first, with intervals and cost."""
    from nearfar.evaluation.comparison import in_order, training_gain, winners_of

    shown = ("task", "data", "rows", "baseline", "reason")
    results = terminal.visible_all({name: results[name] for name in shown} | {"winners": winners_of(results)})
    out, task = console(), results["task"]
    out.print()
    out.print(f"[bold]{results['data']['name']}[/]  {escape(task['description'])}")
    metric = metric_of(task)
    label = metric.heading
    directions(out, [metric])
    hard = any("hard/" + task["primary"] in c["metrics"] for r in results["rows"] for c in r["seeds"])
    second = beside(results)
    heads = [
        "",
        label,
        "95 %",
        *(["hard " + label] if hard else []),
        *([metric_of(task, second).heading] if second else []),
        f"vs {results['baseline']}",
        "s",
        "samples",
        "MiB",
    ]
    rows = []
    for kind, part in in_order(results["rows"], metric).items():
        rows += [[f"[bold]{kind.capitalize()}[/]"]] if kind else []
        rows += [_row(r, results, hard, second) for r in part]
    against = heads.index(f"vs {results['baseline']}")
    rest = [k for k in range(3, len(heads)) if k != against]
    print_columns(out, heads, rows, [[0, 1, 2, against], [0, *rest]])
    out.print(f"\n{escape(results['reason'])}")
    paid = None if task.get("proxy") else training_gain(results["rows"], metric)
    if paid:
        out.print(escape(paid["words"]))


def print_columns(
    out: Any, heads: Sequence[str], rows: Sequence[Sequence[str]], parts: Sequence[Sequence[int]] | None = None
) -> None:
    """One table where the terminal is wide enough, else one below the other: no number is cut. parts: the columns of
    each; without them, as many columns as fit, each time beside the first."""
    from rich.measure import Measurement

    def made(columns: Sequence[int]) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for k in columns:
            table.add_column(heads[k], justify="left" if k == 0 else "right", no_wrap=k > 0, overflow="fold")
        for row in rows:
            table.add_row(*[row[k] if k < len(row) else "" for k in columns])
        return table

    def fits(columns: Sequence[int]) -> bool:
        return Measurement.get(out, out.options.update(max_width=10_000), made(columns)).maximum <= out.width

    def packed() -> list[list[int]]:
        found = [[0]]
        for k in range(1, len(heads)):
            if len(found[-1]) > 1 and not fits([*found[-1], k]):
                found.append([0])
            found[-1].append(k)
        return found

    whole = [range(len(heads))] if fits(range(len(heads))) else parts or packed()
    for k, columns in enumerate(whole):
        out.print(*([""] if k else []), made(columns))


def directions(out: Any, metrics: Iterable[Metric]) -> None:
    """Says of which metrics less is better."""
    falling = [metric.label for metric in metrics if not metric.higher_is_better]
    if falling:
        out.print(f"[dim]lower is better: {escape(', '.join(falling))}[/]")


def beside(results: Mapping[str, Any]) -> str | None:
    """The metric that the task sets beside the main one, where some row has it."""
    name = results["task"].get("beside")
    return name if any(name in c["metrics"] for r in results["rows"] for c in r["seeds"]) else None


def _row(r: dict[str, Any], results: dict[str, Any], hard: bool, second: str | None) -> list[str]:
    from nearfar.evaluation.comparison import shown_difference, shown_interval

    done = [c for c in r["seeds"] if c["status"] == "done"]
    primary, metric = results["task"]["primary"], metric_of(results["task"])
    unit, other = metric.written, metric_of(results["task"], second).written
    name = f"[bold cyan]{escape(r['label'])}[/]" if r["kind"] == "method" else f"[dim]{escape(r['label'])}[/]"
    if r["slug"] in results["winners"]:
        name += " *"
    if r["mean"] is None:
        return [name, "failed", *[""] * (5 + hard + (second is not None))]
    interval, many = shown_interval(r), len(done)
    few = f"{many} seed{'s' * (many != 1)}" if r["kind"] == "method" or many > 1 else ""
    spread = between(metric, interval, r["mean"]) if interval else few
    d, baseline = r.get("difference"), next(x for x in results["rows"] if x["slug"] == results["baseline"])
    gap, ends = "" if not d else unit.write(d["mean"], signed=True), shown_difference(r, baseline)
    if d and ends:
        gap += f" [dim]({between(metric, ends, d['mean'], signed=True)})[/]"
    trained = r["kind"] == "method"
    cost = (
        [f"{_mean(done, 'seconds'):.0f}", f"{_mean(done, 'samples'):,.0f}", f"{_mean(done, 'peak_mib'):.0f}"]
        if trained
        else [""] * 3
    )
    return [
        name,
        unit.write(r["mean"]),
        spread,
        *([unit.write(_metric(done, "hard/" + primary))] if hard else []),
        *([other.write(_metric(done, second))] if second else []),
        gap,
        *cost,
    ]


def between(metric: Metric, ends: Sequence[float | None] | None, middle: float | None, signed: bool = False) -> str:
    """ "48.1..50.3", with as many digits as the number between; "-" where there are too few items for an interval."""
    if not ends or None in ends:
        return metric.written.write(None)
    places = None if middle is None else places_of(middle)
    return "..".join(metric.written.write(end, signed=signed, digits=places) for end in ends)


def _mean(cells: list[dict[str, Any]], name: str) -> float:
    values = [c[name] for c in cells if c.get(name) is not None]
    return sum(values) / len(values) if values else 0.0


def _metric(cells: list[dict[str, Any]], name: str) -> float | None:
    values = [c["metrics"][name] for c in cells if name in c["metrics"]]
    return sum(values) / len(values) if values else None


def next_steps(done: Any) -> None:
    out = console()
    out.print(f"\nreport: {below(done.path, 'report.html')}", soft_wrap=True)
    if done.best:
        out.print(f"best model (chosen on validation data): {done.best}", soft_wrap=True)


def evaluation(found: dict[str, Any]) -> None:
    found, out = terminal.visible_all(found), console()
    out.print(escape(found["task"]["description"]))
    task, main = found["task"], metric_of(found["task"])
    names = columns(task, [r["metrics"] for r in found["rows"]])
    directions(out, names.values())
    rows = []
    for r in found["rows"]:
        values = [m.written.write(r["metrics"].get(n)) for n, m in names.items()]
        rows.append([escape(r["label"]), between(main, r["bootstrap"], r["primary"]), *values])
    print_columns(out, ["", "95 % (items)", *(metric.heading for metric in names.values())], rows)
    parts = found["rows"][0]["directions"]
    if len(parts) > 1:
        out.print(f"\n[bold]{task['parts']['many']}[/]")
        for name, metrics in parts.items():
            shown = columns(task, [metrics])
            words = "  ".join(f"{m.label} {m.written.write(metrics[n])}" for n, m in shown.items())
            out.print(f"  {escape(name)}:  {words}")
    by_domain(out, task, found["rows"][0].get("domains") or {})


def by_domain(out: Any, task: Mapping[str, Any], domains: Mapping[str, Mapping[str, float]]) -> None:
    """The metrics of each domain, one a row, and their mean over the domains."""
    if not domains:
        return
    names = {n: m for n, m in columns(task, domains.values()).items() if n != "rows"}
    means = {n: sum(known) / len(known) for n in names if (known := [d[n] for d in domains.values() if n in d])}
    rows = [[escape(name), f"{part['rows']:,}" if "rows" in part else "",
             *[m.written.write(part.get(n)) for n, m in names.items()]]
            for name, part in [*domains.items(), ("mean over domains", means)]]  # fmt: skip
    out.print()
    print_columns(out, ["domain", "rows", *(metric.heading for metric in names.values())], rows)


def diagnosis(found: list[dict[str, Any]]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("what", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("", no_wrap=True)
    table.add_column("advice", overflow="fold")
    for d in terminal.visible_all(found):
        table.add_row(escape(d["name"]), f"{d['value']:.3g}", MARKS[d["verdict"]], escape(d["advice"]))
    console().print(table)


def predictions(found: Any, most: int = 20) -> None:
    """The first rows with what the model says of them, or the file that holds all."""
    out, rows = console(), found.rows()
    if found.path is not None:
        names = ", ".join(found.columns)
        out.print(f"{escape(str(found.path))}: {len(rows):,} rows with {escape(names)}", soft_wrap=True)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("key", *found.columns):
        table.add_column(escape(name), justify="left", overflow="fold")
    for row in terminal.visible_all(rows[:most]):
        table.add_row(*[escape(f"{v:.4g}" if isinstance(v, float) else str(v)) for v in row.values()])
    out.print(table)
    if len(rows) > most:
        out.print(f"[dim]... and {len(rows) - most:,} more: --out FILE.csv writes all[/]")


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
