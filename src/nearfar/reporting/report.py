"""`write_report`: one HTML file with images, plots and numbers inside; it asks nothing of any network."""

import json
import math
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from nearfar import files
from nearfar.errors import InputError
from nearfar.evaluation.comparison import best_first, compare_rows
from nearfar.reporting import page
from nearfar.units import metric_of

MAX_LABELS, MAX_CURVE = 9, 300


def write_report(path: str | Path, results: dict[str, Any], runs: Sequence[dict[str, Any]] = ()) -> Path:
    """Writes the report of a comparison (`results` as in results.json), or of `runs` alone where results is empty.

    runs: dicts of a run folder's parts: config, scores, curve and, where known, diagnostics, examples, masks, tables,
    map and path. Beside results, runs fill in those parts that it lacks. A part that is missing everywhere is left out
    of the page. The file appears only when complete.
    Raises InputError where there is neither a row nor a run, or runs differ in data or split.
    """
    results = {**parts_of(runs), **results} if results else results_of_runs(runs)
    if not results.get("rows"):
        raise InputError("There is nothing to report: no row and no run was given.")
    html = render(results)
    path = Path(path)
    with files.writing(path), files.whole(path) as fresh:
        fresh.write_text(html, encoding="utf-8")
    return path


def render(results: dict[str, Any]) -> str:
    """The page as text."""
    environment = _environment()
    labels = {row["slug"]: row["label"] for row in results["rows"]}
    metric = metric_of(results["task"])
    ranked = [row["slug"] for row in best_first(results["rows"], metric)]
    maps, pool = pooled(_ordered(results.get("map"), ranked))
    curves = curve_lines(_ordered(results.get("curves"), ranked), labels)
    found = {slug: page.found_and_missed(shown) for slug, shown in _ordered(results.get("examples"), ranked).items()}
    return environment.get_template("report.html.j2").render(
        results=results,
        task=results["task"],
        verdict=page.verdict(results),
        board=page.board(results),
        metric=metric,
        parts=page.parts_of(results["task"]),
        metrics=page.metric_table(results),
        directions=page.part_table(results, "directions"),
        domains=page.part_table(results, "domains"),
        measured=page.measured(results),
        examples=found,
        masks=_ordered(results.get("masks"), ranked),
        tables=_ordered(results.get("tables"), ranked),
        classes=page.legend(results),
        diagnostics=_ordered(results.get("diagnostics"), ranked),
        verdicts=page.VERDICTS,
        labels=labels,
        maps=maps,
        curves=curves,
        plotly=plotly_source() if maps or curves else "",
        payload={"maps": maps, "pool": pool, "curves": curves, "labels": labels},
    )


def results_of_runs(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The results of single runs, in the shape of results.json: runs of one method are its seeds.

    Raises InputError where runs differ in data or split: their scores cannot stand in one table.
    """
    if not runs:
        return {"rows": []}
    configs = [run["config"] for run in runs]
    for name, words in (("data_hash", "data"), ("split_hash", "splits")):
        if len({config.get(name) for config in configs}) > 1:
            raise InputError(
                f"The runs were made on different {words}, so their scores cannot be compared.",
                "Report them one by one, or run `nearfar compare`.",
            )
    rows: dict[str, dict[str, Any]] = {}
    for run in runs:
        slug = run["config"].get("method", "run")
        row = rows.setdefault(slug, {"slug": slug, "label": slug, "kind": "method", "seeds": []})
        row["seeds"].append(_cell(run))
    first, scores = configs[0], next((run["scores"] for run in runs if run.get("scores")), {})
    task = scores.get("task") or {"primary": scores.get("primary_name", "hit@1"), "proxy": False, "description": ""}
    decided = compare_rows(list(rows.values()), next(iter(rows)), proxy=bool(task.get("proxy")), metric=metric_of(task))
    return {
        "task": task,
        "data": _data_of(first),
        "plan": _plan_of(configs),
        "baseline": next(iter(rows)),
        **decided,
        **parts_of(runs),
        "versions": first.get("versions", {}),
        "commands": list(dict.fromkeys(config["command"] for config in configs if config.get("command"))),
    }


def parts_of(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Curves of every run by method and seed; diagnostics, examples, masks, tables and map of the last run of each
    method."""
    parts: dict[str, Any] = {"curves": {}, "diagnostics": {}, "examples": {}, "masks": {}, "tables": {}, "map": {}}
    for run in runs:
        slug, seed = run["config"].get("method", "run"), str(run["config"].get("seed", 0))
        if run.get("curve"):
            parts["curves"].setdefault(slug, {})[seed] = run["curve"]
        for part in ("diagnostics", "examples", "masks", "tables", "map"):
            if run.get(part):
                parts[part][slug] = run[part]
    return {part: found for part, found in parts.items() if found}


def _cell(run: dict[str, Any]) -> dict[str, Any]:
    scores = run.get("scores") or {}
    cost = {
        name: scores.get(name, run["config"].get(name))
        for name in ("seconds", "samples", "samples_per_second", "peak_mib", "kept_step")
    }
    return {
        "seed": run["config"].get("seed", 0),
        "primary": scores.get("primary"),
        **cost,
        "metrics": scores.get("metrics", {}),
        "directions": scores.get("directions", {}),
        "domains": scores.get("domains", {}),
        "run": str(run.get("path", "")),
        "status": "done" if scores else "failed",
        "message": "" if scores else "the run has no scores yet",
    }


def _data_of(config: dict[str, Any]) -> dict[str, Any]:
    data = config.get("data", "")
    known = dict(data) if isinstance(data, dict) else {"name": Path(str(data)).name or str(data)}
    return {"hash": config.get("data_hash"), "split_hash": config.get("split_hash"), **known}


def _plan_of(configs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    shared = {
        name: configs[0].get(name)
        for name in ("steps", "batch_size", "encoder", "precision")
        if len({str(config.get(name)) for config in configs}) == 1
    }
    return shared | {"seeds": sorted({config.get("seed", 0) for config in configs})}


def _ordered(parts: dict[str, Any] | None, ranked: Sequence[str]) -> dict[str, Any]:
    """Best row first; empty parts left out."""
    return {slug: parts[slug] for slug in ranked if (parts or {}).get(slug)} if parts else {}


def pooled(maps: dict[str, dict[str, list]]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Maps with each image stored once, however many maps show it, and the images."""
    pool: dict[str, int] = {}
    compact = {}
    for slug, one in maps.items():
        places = [pool.setdefault(image(uri), len(pool)) for uri in one.get("thumb") or ()]
        rest = {name: values for name, values in one.items() if name != "thumb"}
        compact[slug] = rest | ({"thumb": places} if places else {}) | {"shown": _common(one.get("label") or [])}
    return compact, list(pool)


def _common(labels: Sequence[str]) -> list[str]:
    """The commonest labels, which get a colour of their own."""
    counts: dict[str, int] = {}
    for label in labels:
        counts[label] = counts.get(label, 0) + 1
    return sorted((label for label in counts if label != ""), key=lambda label: -counts[label])[:MAX_LABELS]


def curve_lines(curves: dict[str, dict[str, list[dict[str, Any]]]], labels: dict[str, str]) -> list[dict[str, Any]]:
    """Steps and losses of every seed, thinned to what a screen can show; not finite ones are left out."""
    lines = []
    for slug, seeds in curves.items():
        drawn = []
        for seed, points in seeds.items():
            kept = [
                point for point in points if isinstance(point.get("loss"), int | float) and math.isfinite(point["loss"])
            ]
            kept = kept[:: max(1, -(-len(kept) // MAX_CURVE))] + kept[-1:]
            if kept:
                drawn.append(
                    {
                        "seed": str(seed),
                        "x": [point.get("step", 0) for point in kept],
                        "y": [round(point["loss"], 5) for point in kept],
                    }
                )
        if drawn:
            lines.append({"slug": slug, "label": labels.get(slug, slug), "seeds": drawn})
    return lines


@cache
def plotly_source() -> str:
    """plotly.js, as it comes inside the plotly package."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["embedded"] = embedded
    environment.filters["image"] = image
    environment.filters["whole"] = whole
    environment.globals.update(spell=page.spell, amount=page.amount)
    return environment


def whole(text: str) -> str:
    """A text whose options (--batch-size) are not divided at the end of a line."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"--[a-z-]+", r'<span class="option">\g<0></span>', str(escape(text))))


def image(source: Any) -> str:
    """An image inside the page, or nothing: no other source is ever followed."""
    return source if isinstance(source, str) and _IMAGE.fullmatch(source) else ""


_IMAGE = re.compile(r"data:image/(png|webp|jpeg|gif);base64,[A-Za-z0-9+/=]*")


def embedded(value: Any) -> str:
    """JSON that may stand inside a script element."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))
