"""From results.json to what the template prints: sorted rows, places on the scale, words."""

import math
from collections.abc import Sequence
from typing import Any

from nearfar.evaluation.comparison import beats, done
from nearfar.evaluation.tasks import METRIC_LABELS
from nearfar.reporting.pictures import class_colour

KINDS = {"chance": "random ranking", "reference": "no training", "untrained": "untrained", "pretrained": "pretrained",
         "method": "trained here"}
VERDICTS = {"good": "good", "watch": "watch", "bad": "bad", "info": "note"}
MAX_DIRECTIONS, MAX_COLUMNS = 40, 8


def points(value: float | None, signed: bool = False) -> str:
    """0.494 -> "49.4"; a real minus sign."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
    return text.replace("-", "−")


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


def scale_of(rows: Sequence[dict[str, Any]]) -> tuple[float, list[float]]:
    """The end of the leaderboard's axis and its ticks."""
    reach = [value for row in rows for value in [row.get("mean") or 0, *done(row).values()]]
    reach += [(row.get("interval") or row.get("bootstrap") or [0, 0])[1] for row in rows if row.get("mean")]
    most = min(max([*reach, 1e-3]), 1.6 * max([row.get("mean") or 0 for row in rows] + [1e-3]), 1.0)
    step = next(step for step in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 1.0) if most / step <= 6)
    end = min(1.0, math.ceil(most / step - 1e-9) * step)
    return end, [round(step * tick, 6) for tick in range(round(end / step) + 1)]


def board(results: dict[str, Any]) -> dict[str, Any]:
    """The leaderboard, best first, failed rows last; places in percent of the axis."""
    rows = sorted(results["rows"], key=lambda row: -(row["mean"] if row.get("mean") is not None else -1))
    end, ticks = scale_of(rows)
    many = any(len(done(row)) > 1 for row in rows)
    return {"rows": [_row(row, results, end) for row in rows], "many_seeds": many,
            "ticks": [{"at": 100 * tick / end, "text": f"{100 * tick:g}"} for tick in ticks],
            "has_cost": any(cell.get("samples") for row in rows for cell in row["seeds"]),
            "has_bootstrap": any(_items(row) for row in rows),
            "has_difference": any(row.get("difference") for row in rows),
            "has_hard": any(_mean_metric(row, f"hard/{results['task']['primary']}") is not None for row in rows)}


def _row(row: dict[str, Any], results: dict[str, Any], end: float) -> dict[str, Any]:
    finished = [cell for cell in row["seeds"] if cell["seed"] in done(row)]
    failed = [cell for cell in row["seeds"] if cell["seed"] not in done(row)]
    low, high = row.get("interval") or (None, None)

    def place(value: float) -> float:
        return max(0.0, min(100.0, 100 * value / end))

    difference = (row.get("difference") or {}) if row["kind"] != "chance" else {}
    return {
        "slug": row["slug"], "label": row["label"], "kind": row["kind"], "kind_words": (
            results["task"].get("chance", KINDS["chance"]) if row["kind"] == "chance" else KINDS[row["kind"]]),
        "winner": row["slug"] == results.get("winner"), "baseline": row["slug"] == results.get("baseline"),
        "value": points(row.get("mean")), "done": bool(finished), "seeds": len(finished),
        "half": points((high - low) / 2) if low is not None and high is not None else "",
        "bar": place(row["mean"]) if row.get("mean") is not None else 0,
        "dots": [place(value) for value in done(row).values()],
        "whisker": [place(low), place(high)] if low is not None and high is not None else None,
        "bootstrap": _between(_items(row)), "hard": points(_mean_metric(row, f"hard/{_primary(results)}")),
        "difference": points(difference.get("mean"), signed=True) if difference else "",
        "difference_between": _between(difference.get("interval"), signed=True), "tone": _tone(row),
        "seconds": spell(_mean_cell(finished, "seconds")), "samples": amount(_mean_cell(finished, "samples")),
        "speed": amount(_mean_cell(finished, "samples_per_second")), "memory": amount(_mean_cell(finished, "peak_mib")),
        "trained": any(cell.get("samples") for cell in finished),
        "failed": [{"seed": cell["seed"], "message": cell.get("message") or "no finite score"} for cell in failed],
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


def _unit(results: dict[str, Any]) -> str:
    """Of the primary value times 100."""
    return results["task"].get("unit", "%")


def _between(bounds: Sequence[float] | None, signed: bool = False) -> str:
    return f"{points(bounds[0], signed)} to {points(bounds[1], signed)}" if bounds else ""


def _mean_cell(cells: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [cell[name] for cell in cells if cell.get(name) is not None]
    return sum(values) / len(values) if values else None


def _mean_metric(row: dict[str, Any], name: str) -> float | None:
    finished = done(row)
    values = [cell["metrics"][name] for cell in row["seeds"]
              if cell["seed"] in finished and name in (cell.get("metrics") or {})]
    return sum(values) / len(values) if values else None


def metric_table(results: dict[str, Any]) -> dict[str, Any]:
    """Every metric of every row beside the primary one; heading words where there are some."""
    rows = [row for row in results["rows"] if done(row)]
    names = list(dict.fromkeys(name for row in rows for cell in row["seeds"] for name in cell.get("metrics") or {}
                               if not name.startswith("hard/")))
    names = [name for name in names if not _repeats(name, names, rows)]
    order = [name for name in (_primary(results), *METRIC_LABELS) if name in names]
    names = list(dict.fromkeys([*order, *names]))[:MAX_COLUMNS]
    rows = sorted(rows, key=lambda row: -(row.get("mean") or 0))
    return {"names": [METRIC_LABELS.get(name, name) for name in names],
            "rows": [{"label": row["label"], "values": [points(_mean_metric(row, name)) for name in names]}
                     for row in rows]}


def _repeats(name: str, names: Sequence[str], rows: Sequence[dict[str, Any]]) -> bool:
    """recall@k and precision@k where they follow from hit@k everywhere: every query has one relevant item."""
    kind, _, k = name.partition("@")
    twin, share = f"hit@{k}", {"recall": 1.0, "precision": 1 / int(k or 1)}.get(kind) if k.isdigit() else None
    return share is not None and twin in names and all(
        abs((_mean_metric(row, name) or 0) - share * (_mean_metric(row, twin) or 0)) < 1e-9 for row in rows)


def direction_table(results: dict[str, Any]) -> dict[str, Any] | None:
    """The primary metric by direction (rows) and method (columns), the hard directions apart."""
    metric, task = _primary(results), results["task"]
    rows = sorted((row for row in results["rows"] if done(row) and row["kind"] != "chance"),
                  key=lambda row: -row["mean"])[:MAX_COLUMNS]
    names = list(dict.fromkeys(name for row in rows for cell in row["seeds"]
                               for name, value in (cell.get("directions") or {}).items() if metric in value))
    if len(names) < 2:
        return None
    hard = [name for name in names if name in task.get("hard", names)] or names
    easy = [name for name in names if name not in hard]
    values = {name: [_direction(row, name, metric) for row in rows] for name in names}
    parts = [_direction_part(title, {name: values[name] for name in part})
             for title, part in (("different outlines" if easy else "", hard), ("shared outlines", easy)) if part]
    return {"columns": [row["label"] for row in rows], "parts": parts, "apart": bool(easy),
            "what": task.get("parts", "direction"),
            "metric": METRIC_LABELS.get(metric, metric)}


def _direction_part(title: str, values: dict[str, list[float | None]]) -> dict[str, Any]:
    """Shaded rows of some directions and their mean; the deepest shade is the part's best value."""
    most = max([value or 0 for line in values.values() for value in line] + [1e-9])
    return {"title": title, "rows": [_cells(name, line, most) for name, line in list(values.items())[:MAX_DIRECTIONS]],
            "mean": _cells("mean", [_mean(column) for column in zip(*values.values())], most)}


def _direction(row: dict[str, Any], name: str, metric: str) -> float | None:
    finished = done(row)
    return _mean([cell["directions"].get(name, {}).get(metric) for cell in row["seeds"]
                  if cell["seed"] in finished and cell.get("directions")])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _cells(name: str, values: Sequence[float | None], most: float) -> dict[str, Any]:
    best = max((value for value in values if value is not None), default=None)
    return {"name": name, "values": [{"text": points(value), "shade": max(0, round(100 * (value or 0) / most)),
                                      "best": value is not None and value == best} for value in values]}


def verdict(results: dict[str, Any]) -> dict[str, Any]:
    """Headline, the sentence under it, and up to four facts."""
    metric = METRIC_LABELS.get(_primary(results), _primary(results))
    ranked = sorted((row for row in results["rows"] if row.get("mean") is not None), key=lambda row: -row["mean"])
    real = [row for row in ranked if row["kind"] != "chance"]
    if not real:
        return {"title": "Nothing finished", "tone": "bad", "text": results.get("reason", ""), "facts": []}
    best, winner = real[0], results.get("winner")
    if results["task"].get("proxy"):
        title, tone = "No winner: this is a proxy", "open"
    elif winner:
        title, tone = f"{next(row['label'] for row in real if row['slug'] == winner)} wins", "won"
    elif len(real) == 1:
        title, tone = f"{best['label']}: {points(best['mean'])} {_unit(results)} {metric}", "open"
    else:
        title, tone = _open_title(real), "open"
    return {"title": title, "tone": tone, "text": results.get("reason", "").replace(" -", " −"),
            "facts": _facts(results, real, metric)}


def _open_title(real: list[dict[str, Any]]) -> str:
    """Two or three rows that cannot be told apart are named; more are not."""
    level = [row["label"] for row in real[1:] if not beats(real[0], row)]
    if max(len(done(row)) for row in real) < 2:
        return f"{real[0]['label']} leads, from one seed"
    if 1 <= len(level) <= 2:
        return f"{', '.join([real[0]['label'], *level[:-1]])} or {level[-1]}: too close to call"
    return "No winner: too close to call"


def found_and_missed(examples: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Examples whose first hit is right, and the others."""
    right = [bool(example["hits"] and example["hits"][0].get("relevant")) for example in examples]
    return [("Found", [example for example, good in zip(examples, right) if good]),
            ("Missed", [example for example, good in zip(examples, right) if not good])]


def _facts(results: dict[str, Any], real: list[dict[str, Any]], metric: str) -> list[dict[str, str]]:
    best = real[0]
    half = best.get("interval")
    facts = [{"name": f"best {metric}", "value": f"{points(best['mean'])} {_unit(results)}", "note": best["label"] + (
        f", ± {points((half[1] - half[0]) / 2)} over {len(done(best))} seeds" if half else "")}]
    trained = next((row for row in real if row["kind"] == "method"), None)
    plain = next((row for row in real if row["kind"] in ("reference", "untrained", "pretrained")), None)
    if trained and plain:
        gain = trained["mean"] - plain["mean"]
        facts.append({"name": "did training pay?", "value": f"{points(gain, True)} points",
                      "note": f"{trained['label']} against {plain['label']} ({KINDS[plain['kind']]})"})
    chance = next((row for row in results["rows"] if row["kind"] == "chance" and row.get("mean") is not None), None)
    if chance:
        facts.append({"name": chance["label"], "value": f"{points(chance['mean'])} {_unit(results)}",
                      "note": results["task"].get("chance", "a random ranking, expected")})
    if results.get("seconds"):
        seeds = len(results.get("plan", {}).get("seeds", []) or [1])
        facts.append({"name": "computing", "value": spell(results["seconds"]),
                      "note": f"{len(results['rows'])} rows, {seeds} seed{'s' if seeds != 1 else ''} a method"})
    return facts


def legend(results: dict[str, Any]) -> list[dict[str, str]]:
    """Name and colour of each class of the masks; class 0 has none."""
    return [{"name": name, "colour": "" if value == "0" else "#{:02x}{:02x}{:02x}".format(*class_colour(int(value)))}
            for value, name in results["task"].get("classes", {}).items()]


def measured(results: dict[str, Any]) -> list[tuple[str, str]]:
    """How it was measured, as pairs of name and words; what is unknown is left out."""
    data, plan = results.get("data", {}), results.get("plan", {})
    rows = data.get("rows") or {}
    roles = ", ".join(f"{role} = {', '.join(column) if isinstance(column, list) else column}"
                      for role, column in (data.get("roles") or {}).items())
    facts = [
        ("data", f"{data.get('name', '')} ({data['hash'][:12]})" if data.get("hash") else data.get("name")),
        ("roles", roles),
        ("split", ", ".join(f"{amount_exact(count)} {name}" for name, count in rows.items())
         + (f" ({data['split_hash'][:12]})" if data.get("split_hash") else "")),
        ("encoder", plan.get("encoder")), ("steps", amount_exact(plan.get("steps"))),
        ("batch size", amount_exact(plan.get("batch_size"))),
        ("seeds", ", ".join(map(str, plan.get("seeds") or []))), ("precision", plan.get("precision")),
        ("budget", spell(plan["budget_seconds"]) if plan.get("budget_seconds") else None),
        ("baseline", next((row["label"] for row in results["rows"] if row["slug"] == results.get("baseline")), None)),
    ]
    return [(name, str(words)) for name, words in facts if words]


def amount_exact(value: Any) -> str | None:
    return None if value is None else f"{value:,}" if isinstance(value, int) else str(value)
