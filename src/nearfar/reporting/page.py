"""From results.json to what the template prints: sorted rows, places on the scale, words."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from nearfar.evaluation.comparison import (
    beats,
    best_first,
    done,
    in_order,
    ranked_apart,
    shown_difference,
    shown_interval,
    training_gain,
    winners_of,
)
from nearfar.reporting.images import class_colour
from nearfar.units import Metric, known_metrics, metric_of, places_of

KINDS = {
    "chance": "random ranking",
    "reference": "no training",
    "untrained": "untrained",
    "pretrained": "pretrained",
    "method": "trained here",
}
VERDICTS = {"good": "good", "watch": "watch", "bad": "bad", "info": "note"}
MAX_DIRECTIONS, MAX_COLUMNS = 40, 8


def number(metric: Metric, value: float | None, *, signed: bool = False, digits: int | None = None) -> str:
    """In the metric's unit, 0.494 -> "49.4" for a share; with a real minus sign."""
    if value is None or not math.isfinite(value):
        return "–"
    return metric.written.write(value, signed=signed, digits=digits).replace("-", "−")


def with_unit(metric: Metric, value: float | None) -> str:
    """ "49.4 %"."""
    unit = metric.written
    return f"{number(metric, value)} {unit.sign or unit.words}".strip()


def spell(seconds: float | None) -> str:
    """75 -> "1 min 15 s"."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def amount(value: float | None) -> str:
    """12345 -> "12,300", three digits are enough."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.{min(max(0, digits), 2)}f}".replace("-", "−")


def scale_of(rows: Sequence[dict[str, Any]], metric: Metric) -> tuple[float, float, list[float]]:
    """The ends of the leaderboard's axis, which holds zero, and its ticks."""
    low_bound, high_bound = metric.written.bounds
    means = [row["mean"] for row in rows if row.get("mean") is not None]
    values = [value for row in rows for value in [row.get("mean") or 0, *done(row).values()]]
    ends = [
        end
        for row in rows
        if row.get("mean") is not None
        for end in shown_interval(row) or row.get("bootstrap") or [0, 0]
    ]
    tiny = 1e-3 if metric.written.scale != 1 else 1e-6
    high = min(max([*values, *ends, tiny]), 1.6 * max([*means, tiny]), high_bound)
    low = max(min([*values, *ends, 0]), 1.6 * min([*means, 0]), low_bound) if metric.written.scale == 1 else 0.0
    step = _step(high - low)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = min(last, math.floor(high_bound / step + 1e-9)) if math.isfinite(high_bound) else last
    return first * step, last * step, [round(step * tick, 12) for tick in range(first, last + 1)]


def _step(span: float) -> float:
    """A round distance of at most six ticks."""
    size = 10.0 ** math.floor(math.log10(span / 6))
    return next(size * factor for factor in (1, 2, 5, 10, 20) if span / (size * factor) <= 6)


def board(results: dict[str, Any]) -> dict[str, Any]:
    """The leaderboard, best first, failed rows last; places in percent of the axis."""
    metric = metric_of(results["task"])
    parts = in_order(results["rows"], metric)
    rows = [row for part in parts.values() for row in part]
    heads = {part[0]["slug"]: kind for kind, part in parts.items() if kind and part}
    low, high, ticks = scale_of(rows, metric)
    many = any(len(done(row)) > 1 for row in rows)
    drawn = [_row(row, results, metric, low, high) | {"heading": heads.get(row["slug"], "").capitalize()}
             for row in rows]  # fmt: skip
    return {
        "rows": drawn,
        "many_seeds": many,
        "has_interval": any(shown_interval(row) for row in rows),
        "ticks": [
            {"at": 100 * (tick - low) / (high - low), "text": f"{metric.written.scale * tick:g}"} for tick in ticks
        ],
        "has_cost": any(cell.get("samples") for row in rows for cell in row["seeds"]),
        "has_bootstrap": any(_items(row) for row in rows),
        "has_difference": any(row.get("difference") for row in rows),
        "has_hard": any(_mean_metric(row, f"hard/{results['task']['primary']}") is not None for row in rows),
    }


def _row(row: dict[str, Any], results: dict[str, Any], metric: Metric, low: float, high: float) -> dict[str, Any]:
    finished = [cell for cell in row["seeds"] if cell["seed"] in done(row)]
    failed = [cell for cell in row["seeds"] if cell["seed"] not in done(row)]
    difference = (row.get("difference") or {}) if row["kind"] != "chance" else {}
    baseline = next((one for one in results["rows"] if one["slug"] == results.get("baseline")), row)
    return _drawn(row, metric, low, high) | {
        "slug": row["slug"],
        "label": row["label"],
        "kind": row["kind"],
        "kind_words": (
            results["task"].get("chance", KINDS["chance"]) if row["kind"] == "chance" else KINDS[row["kind"]]
        ),
        "winner": row["slug"] in winners_of(results),
        "baseline": row["slug"] == results.get("baseline"),
        "value": number(metric, row.get("mean")),
        "done": bool(finished),
        "seeds": len(finished),
        "bootstrap": _between(metric, _items(row), row.get("mean")),
        "hard": number(metric, _mean_metric(row, f"hard/{_primary(results)}")),
        "difference": number(metric, difference.get("mean"), signed=True) if difference else "",
        "difference_between": _between(metric, shown_difference(row, baseline), difference.get("mean"), signed=True),
        "tone": _tone(row),
        "seconds": spell(_mean_cell(finished, "seconds")),
        "samples": amount(_mean_cell(finished, "samples")),
        "speed": amount(_mean_cell(finished, "samples_per_second")),
        "memory": amount(_mean_cell(finished, "peak_mib")),
        "kept": "–" if (kept := _mean_cell(finished, "kept_step")) is None else f"{kept:,.0f}",
        "trained": any(cell.get("samples") for cell in finished),
        "failed": [{"seed": cell["seed"], "message": cell.get("message") or "no finite score"} for cell in failed],
    }


def _drawn(row: dict[str, Any], metric: Metric, low: float, high: float) -> dict[str, Any]:
    """The bar (from zero to the mean), a dot a seed and the interval, in percent of the axis."""

    def place(value: float) -> float:
        return max(0.0, min(100.0, 100 * (value - low) / (high - low)))

    begin, end = sorted((place(0.0), place(row.get("mean") or 0.0)))
    interval = shown_interval(row)
    half = number(metric, (interval[1] - interval[0]) / 2) if interval else ""
    return {
        "bar": {"left": begin, "width": end - begin},
        "dots": [place(value) for value in done(row).values()],
        "half": half,
        "whisker": [place(interval[0]), place(interval[1])] if interval else None,
    }


def _items(row: dict[str, Any]) -> list[float] | None:
    """The bootstrap interval over test items; of several seeds the mean of its ends."""
    known = [cell["bootstrap"] for cell in row["seeds"] if cell["seed"] in done(row) and cell.get("bootstrap")]
    return row.get("bootstrap") or ([sum(ends) / len(known) for ends in zip(*known)] if known else None)


def _tone(row: dict[str, Any]) -> str:
    """Colour of the difference, where it is beyond doubt."""
    return {True: "up", False: "down"}[row["holds"]] if row.get("holds") in (True, False) else ""


def _primary(results: dict[str, Any]) -> str:
    return results["task"]["primary"]


def _between(metric: Metric, bounds: Sequence[float] | None, middle: float | None = None, signed: bool = False) -> str:
    """ "48.1 to 50.3", with as many digits as the number between."""
    places = None if middle is None else places_of(middle)
    return " to ".join(number(metric, bound, signed=signed, digits=places) for bound in bounds) if bounds else ""


def parts_of(task: dict[str, Any]) -> dict[str, str]:
    """What a score consists of: one, many, note."""
    stored = task.get("parts", "direction")
    if isinstance(stored, dict):
        return stored
    known = {
        "direction": {"one": "direction", "many": "directions", "note": "from queries → gallery"},
        "class": {"one": "class", "many": "classes", "note": "intersection over union"},
    }  # of earlier results
    return known[stored]


def _mean_cell(cells: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [cell[name] for cell in cells if cell.get(name) is not None]
    return sum(values) / len(values) if values else None


def _mean_metric(row: dict[str, Any], name: str) -> float | None:
    finished = done(row)
    values = [
        cell["metrics"][name]
        for cell in row["seeds"]
        if cell["seed"] in finished and name in (cell.get("metrics") or {})
    ]
    return sum(values) / len(values) if values else None


def metric_table(results: dict[str, Any]) -> dict[str, Any]:
    """Every metric of every row beside the primary one; heading words where there are some."""
    rows = [row for row in results["rows"] if done(row)]
    names = list(
        dict.fromkeys(
            name
            for row in rows
            for cell in row["seeds"]
            for name in cell.get("metrics") or {}
            if not name.startswith("hard/")
        )
    )
    names = [name for name in names if not _repeats(name, names, rows)]
    task = results["task"]
    order = [name for name in (_primary(results), *task.get("metrics", known_metrics())) if name in names]
    names = list(dict.fromkeys([*order, *names]))[:MAX_COLUMNS]
    metrics = [metric_of(task, name) for name in names]
    return {
        "names": [_heading(metric, metric_of(task)) for metric in metrics],
        "rows": [
            {
                "label": row["label"],
                "values": [number(metric, _mean_metric(row, name)) for name, metric in zip(names, metrics)],
            }
            for row in best_first(rows, metric_of(task))
        ],
    }


def _heading(metric: Metric, main: Metric) -> str:
    """The label; with the unit where that is not the table's, and the direction where less is better."""
    unit = "" if metric.unit == main.unit else metric.written.words
    return " ".join(filter(None, [metric.label, unit, "" if metric.higher_is_better else "(lower is better)"]))


def _repeats(name: str, names: Sequence[str], rows: Sequence[dict[str, Any]]) -> bool:
    """recall@k and precision@k where they follow from hit@k everywhere: every query has one relevant item."""
    kind, _, k = name.partition("@")
    twin, share = f"hit@{k}", {"recall": 1.0, "precision": 1 / int(k or 1)}.get(kind) if k.isdigit() else None
    return (
        share is not None
        and twin in names
        and all(abs((_mean_metric(row, name) or 0) - share * (_mean_metric(row, twin) or 0)) < 1e-9 for row in rows)
    )


def part_table(results: dict[str, Any], key: str) -> dict[str, Any] | None:
    """The primary metric by part (rows) and method (columns), the hard directions apart. key: "directions" (or what the
    task calls its parts) or "domains"."""
    name_of, task = _primary(results), results["task"]
    metric = metric_of(task)
    rows = best_first([row for row in results["rows"] if done(row) and row["kind"] != "chance"], metric)[:MAX_COLUMNS]
    names = list(
        dict.fromkeys(
            name
            for row in rows
            for cell in row["seeds"]
            for name, value in (cell.get(key) or {}).items()
            if name_of in value
        )
    )
    if len(names) < 2:
        return None
    hard = [name for name in names if key != "directions" or name in task.get("hard", names)] or names
    easy = [name for name in names if name not in hard]
    values = {name: [_part(row, key, name, name_of) for row in rows] for name in names}
    parts = [
        _direction_part(title, {name: values[name] for name in part}, metric)
        for title, part in (("different outlines" if easy else "", hard), ("shared outlines", easy))
        if part
    ]
    return {
        "columns": [row["label"] for row in rows],
        "parts": parts,
        "apart": bool(easy),
        "what": parts_of(task)["one"] if key == "directions" else "domain",
        "note": parts_of(task)["note"] if key == "directions" else "",
    }


def _direction_part(title: str, values: dict[str, list[float | None]], metric: Metric) -> dict[str, Any]:
    """Shaded rows of some directions and their mean; the deepest shade is the part's best value."""
    known = [value for line in values.values() for value in line if value is not None] or [0.0]
    best, worst = (max(known), min(known)) if metric.higher_is_better else (min(known), max(known))
    if metric.higher_is_better and metric.written.scale != 1:
        worst = 0.0

    def shade(value: float | None) -> int:
        return 0 if value is None or best == worst else max(0, round(100 * (value - worst) / (best - worst)))

    lines = [*list(values.items())[:MAX_DIRECTIONS], ("mean", [_mean(column) for column in zip(*values.values())])]
    rows = [_cells(name, line, metric, shade) for name, line in lines]
    return {"title": title, "rows": rows[:-1], "mean": rows[-1]}


def _part(row: dict[str, Any], key: str, name: str, metric: str) -> float | None:
    finished = done(row)
    return _mean(
        [cell[key].get(name, {}).get(metric) for cell in row["seeds"] if cell["seed"] in finished and cell.get(key)]
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _cells(
    name: str, values: Sequence[float | None], metric: Metric, shade: Callable[[float | None], int]
) -> dict[str, Any]:
    best = min((value for value in values if value is not None), key=metric.key, default=None)
    return {
        "name": name,
        "values": [
            {"text": number(metric, value), "shade": shade(value), "best": value is not None and value == best}
            for value in values
        ],
    }


def verdict(results: dict[str, Any]) -> dict[str, Any]:
    """Headline, the sentence under it, and up to five facts."""
    metric = metric_of(results["task"])
    ranked = best_first([row for row in results["rows"] if row.get("mean") is not None], metric)
    real = [row for row in ranked if row["kind"] != "chance"]
    if not real:
        return {"title": "Nothing finished", "tone": "bad", "text": results.get("reason", ""), "facts": []}
    best, winner = real[0], results.get("winner")
    parts = ranked_apart(real)
    if results["task"].get("proxy"):
        title, tone = "No winner: this is a proxy", "open"
    elif len(parts) > 1:
        title, tone = _titles(parts, winners_of(results)), "won" if winners_of(results) else "open"
    elif winner:
        title, tone = f"{next(row['label'] for row in real if row['slug'] == winner)} wins", "won"
    elif len(real) == 1:
        title, tone = f"{best['label']}: {with_unit(metric, best['mean'])} {metric.label}", "open"
    else:
        title, tone = _open_title(real, metric), "open"
    return {
        "title": title,
        "tone": tone,
        "text": results.get("reason", "").replace(" -", " −"),
        "facts": _facts(results, real, metric),
    }


def _titles(parts: dict[str, list[dict[str, Any]]], winners: Sequence[str]) -> str:
    """Who wins of those that saw no labels, and of those that did."""
    won = {kind: next((row["label"] for row in part if row["slug"] in winners), None) for kind, part in parts.items()}
    return "; ".join(f"{label} wins {kind}" if label else f"no winner {kind}" for kind, label in won.items())


def _open_title(real: list[dict[str, Any]], metric: Metric) -> str:
    """Two or three rows that cannot be told apart are named; more are not."""
    level = [row["label"] for row in real[1:] if not beats(real[0], row, metric)]
    if max(len(done(row)) for row in real) < 2:
        return f"{real[0]['label']} leads, from one seed"
    if 1 <= len(level) <= 2:
        return f"{', '.join([real[0]['label'], *level[:-1]])} or {level[-1]}: too close to call"
    return "No winner: too close to call"


def found_and_missed(examples: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Examples whose first hit is right, and the others."""
    right = [bool(example["hits"] and example["hits"][0].get("relevant")) for example in examples]
    return [
        ("Found", [example for example, good in zip(examples, right) if good]),
        ("Missed", [example for example, good in zip(examples, right) if not good]),
    ]


def _best(kind: str, best: dict[str, Any], metric: Metric) -> dict[str, str]:
    """The best mean of all rows, or of one kind (`ranked_apart`)."""
    half, seeds = shown_interval(best), len(done(best))
    spread = f", ± {number(metric, (half[1] - half[0]) / 2)} over {seeds} seeds" if half else ""
    return {
        "name": f"best {metric.label} {kind}".strip(),
        "value": with_unit(metric, best["mean"]),
        "note": best["label"] + (spread or (f", mean of {seeds} seeds" if seeds > 1 else "")),
    }


def _facts(results: dict[str, Any], real: list[dict[str, Any]], metric: Metric) -> list[dict[str, str]]:
    facts = [_best(kind, part[0], metric) for kind, part in ranked_apart(real).items()]
    paid = training_gain(real, metric)
    if paid:
        note = f"{paid['best']['label']} against {paid['plain']['label']} ({KINDS[paid['plain']['kind']]})"
        others = [row["label"] for row in paid["unpaid"] if row is not paid["best"]]
        facts.append(
            {
                "name": "did training pay?",
                "value": number(metric, paid["gain"], signed=True) + metric.written.difference,
                "note": note + (f"; not for {', '.join(others)}" if others else ""),
            }
        )
    chance = next((row for row in results["rows"] if row["kind"] == "chance" and row.get("mean") is not None), None)
    if chance:
        facts.append(
            {
                "name": chance["label"],
                "value": with_unit(metric, chance["mean"]),
                "note": results["task"].get("chance", "a random ranking, expected"),
            }
        )
    if results.get("seconds"):
        seeds = len(results.get("plan", {}).get("seeds", []) or [1])
        facts.append(
            {
                "name": "computing",
                "value": spell(results["seconds"]),
                "note": f"{len(results['rows'])} rows, {seeds} seed{'s' if seeds != 1 else ''} a method",
            }
        )
    return facts


def legend(results: dict[str, Any]) -> list[dict[str, str]]:
    """Name and colour of each class of the masks; class 0 has none."""
    return [
        {"name": name, "colour": "" if value == "0" else "#{:02x}{:02x}{:02x}".format(*class_colour(int(value)))}
        for value, name in results["task"].get("classes", {}).items()
    ]


def measured(results: dict[str, Any]) -> list[tuple[str, str]]:
    """How it was measured, as pairs of name and words; what is unknown is left out."""
    data, plan = results.get("data", {}), results.get("plan", {})
    rows = data.get("rows") or {}
    roles = ", ".join(
        f"{role} = {', '.join(column) if isinstance(column, list) else column}"
        for role, column in (data.get("roles") or {}).items()
    )
    facts = [
        ("data", f"{data.get('name', '')} ({data['hash'][:12]})" if data.get("hash") else data.get("name")),
        ("roles", roles),
        (
            "split",
            ", ".join(f"{amount_exact(count)} {name}" for name, count in rows.items())
            + (f" ({data['split_hash'][:12]})" if data.get("split_hash") else ""),
        ),
        ("encoder", plan.get("encoder")),
        ("halved by validation", halvings(plan.get("rounds") or [])),
        ("steps", amount_exact(plan.get("steps"))),
        ("batch size", amount_exact(plan.get("batch_size"))),
        ("seeds", ", ".join(map(str, plan.get("seeds") or []))),
        ("precision", plan.get("precision")),
        ("budget", spell(plan["budget_seconds"]) if plan.get("budget_seconds") else None),
        ("baseline", next((row["label"] for row in results["rows"] if row["slug"] == results.get("baseline")), None)),
    ]
    return [(name, str(words)) for name, words in facts if words]


def halvings(rounds: Sequence[dict[str, Any]]) -> str:
    """How the methods of `--auto` became two: methods and steps of each round, what it took, who went on."""
    return "; ".join(
        f"{len(one['scores'])} methods, {amount_exact(one['steps'])} steps each, {spell(one['seconds'])}: "
        f"{', '.join(one['kept'])}"
        for one in rounds
    )


def amount_exact(value: Any) -> str | None:
    return None if value is None else f"{value:,}" if isinstance(value, int) else str(value)
