"""Checks of claims: arms that differ in one idea, trained by the library's own `fit`, beside what needs no training.

A check is a file of this folder with a `CLAIM`. `python benchmarks/claims` runs them (see __main__.py).
"""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sets

import nearfar
from nearfar import evaluation, files, modalities
from nearfar.evaluation.statistics import holds, paired_interval
from nearfar.training.comparing import entry, untrained_embedder
from nearfar.training.engine import fit, versions
from nearfar.training.modelled import ModelEmbedder
from nearfar.training.settings import TrainSettings
from nearfar.units import UNITS, known_metrics

RESULTS = Path(__file__).parent / "results"
FIGURES = Path(__file__).parent.parent.parent / "docs" / "assets" / "methods"
TINY = {"steps": 4, "batch_size": 8}
FEW_EPISODES = "--episodes 10"
Look = Callable[[Path, Any], Mapping[str, float]]


@dataclass(frozen=True)
class Arm:
    """A registered method with its options, as on the command line ("dcl --sigma 0.5"). `settings`: of the training,
    where they differ from the cell's (twice the steps for equal compute, say); `data`: what it is trained on, where
    that is not what is measured; `starts`: the arm whose model, of the same seed, it starts from."""

    spec: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None
    starts: str | None = None


@dataclass(frozen=True)
class Cell:
    """Arms on one data set under one plan. measures: name -> (task with its options, metric). look: further numbers of
    a finished run, from its folder and the data; units: how they are written where they are no shares; lower: which of
    them are better where they are lower. worst: name ->
    arms of which each seed's worst is a row of its own. divided: whether each seed divides the rows anew, for a test
    part so small that one division would decide."""

    data: str
    arms: Mapping[str, Arm]
    settings: Mapping[str, Any]
    measures: Mapping[str, tuple[str, str]]
    look: Look | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    lower: Sequence[str] = ()
    worst: Mapping[str, Sequence[str]] = field(default_factory=dict)
    divided: bool = False


@dataclass(frozen=True)
class Claim:
    """What a paper claims, in cells of which the first decides, by its row `method` (default the first arm) against its
    row `control`, in the `measure`; all of it fixed before anything is measured. pairs: further rows to compare."""

    slug: str
    claim: str
    cells: Mapping[str, Cell]
    control: str
    measure: str
    method: str | None = None
    seeds: int = 5
    higher: bool = True
    pairs: Sequence[tuple[str, str]] = ()
    notes: Callable[[dict[str, Any]], str] | None = None


@dataclass(frozen=True)
class Plan:
    """How a check is run: where runs are kept, how many seeds, and whether only for crashes."""

    out: Path
    seeds: int | None = None
    tiny: bool = False
    say: Callable[[str], None] = print

    def settings(self, cell: Cell, arm: Arm, seed: int) -> dict[str, Any]:
        given = {**cell.settings, **arm.settings, "seed": seed, "val_every": 0, "progress": False}
        if not self.tiny:
            return given
        small = {k: min(v, given[k]) if isinstance(given.get(k), int) else v for k, v in TINY.items()}
        return given | {k: v for k, v in small.items() if given.get(k) != "auto"}

    def cells(self, claim: Claim) -> dict[str, Cell]:
        """All cells; only for crashes the first, measured on few episodes."""
        if not self.tiny:
            return dict(claim.cells)
        (name, cell), *_ = claim.cells.items()
        few = {
            k: (re.sub(r"--episodes \d+", FEW_EPISODES, task), metric) for k, (task, metric) in cell.measures.items()
        }
        return {name: dataclasses.replace(cell, measures=few)}

    def whole(self, claim: Claim, cell: Cell) -> set[str]:
        """The arms that are trained and measured: all; only for crashes what decides, and what arms start from. Of the
        others a few steps are run."""
        if not self.tiny or claim.notes is not None:
            return set(cell.arms)
        decide = {next(iter(cell.arms)), claim.method, claim.control}
        decide |= {next(iter(arms)) for label, arms in cell.worst.items() if label in decide}
        return {label for label in cell.arms if label in decide} | {
            arm.starts for arm in cell.arms.values() if arm.starts
        }


def run(claim: Claim, plan: Plan) -> dict[str, Any]:
    """Trains and measures every arm of every cell with every seed, interleaved; finished ones are read."""
    seeds = range(plan.seeds or claim.seeds)
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    seconds: dict[Path, float] = {}
    for name, cell in plan.cells(claim).items():
        opened = opened_for(cell, plan, 0)
        folder = cell_folder(plan.out, claim.slug, name, plan.tiny)
        rows = found.setdefault(name, {})
        for seed in seeds:
            opened = opened_for(cell, plan, seed) if cell.divided else opened
            for label, arm in sorted(cell.arms.items(), key=lambda pair: pair[1].starts is not None):
                kept = run_folder(claim, plan, name, label, seed)
                start = None if arm.starts is None else run_folder(claim, plan, name, arm.starts, seed)
                if label not in plan.whole(claim, cell):
                    fitted(cell, arm, opened, seed, plan, start, dry_run=True)
                    continue
                told = trained(cell, arm, opened, kept, seed, plan, start)
                seconds[kept] = told.pop("seconds")
                rows.setdefault(label, []).append(told)
            made = untrained(cell, opened[cell.data], folder / f"untrained-s{seed}.json", seed)
            rows.setdefault("untrained", []).append(made)
            known = folder / ("references" + f"-s{seed}" * cell.divided + ".json")
            for label, values in references(cell, opened[cell.data], known).items():
                rows.setdefault(label, []).append(values)
            plan.say(f"{claim.slug}, {name}, seed {seed}: " + "; ".join(shown(k, v[-1]) for k, v in rows.items()))
        for label, arms in cell.worst.items():
            ran = [rows[a] for a in arms if a in rows]
            rows[label] = [worst([scores[k] for scores in ran]) for k in range(len(seeds))]
    return concluded(claim, found, list(seeds), sum(seconds.values()))


def cell_folder(out: Path, slug: str, cell: str, tiny: bool = False) -> Path:
    """Where the runs of a cell are kept, ARM-sSEED each."""
    return out / slug / (slugged(cell) + ("-tiny" if tiny else ""))


def run_folder(claim: Claim, plan: Plan, cell: str, label: str, seed: int) -> Path:
    """Where an arm's run is kept: with the first arm of the claim that is trained and measured alike."""

    def key(one: Cell, arm: Arm) -> tuple[Any, ...]:
        return (arm.spec, arm.data or one.data, {**one.settings, **arm.settings}, one.data, one.measures, one.look,
                one.divided, arm.starts)  # fmt: skip

    mine = key(claim.cells[cell], claim.cells[cell].arms[label])
    first, name = next((c, a) for c, one in claim.cells.items() for a, arm in one.arms.items() if key(one, arm) == mine)
    return cell_folder(plan.out, claim.slug, first, plan.tiny) / f"{slugged(name)}-s{seed}"


def opened_for(cell: Cell, plan: Plan, seed: int) -> dict[str, Any]:
    """The data sets of a cell by name, divided by that seed where they say nothing of their splits."""
    names = dict.fromkeys([cell.data, *(a.data for a in cell.arms.values() if a.data)])
    return {name: sets.opened(name, plan.out, plan.tiny, seed) for name in names}


def worst(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The lowest of each measure."""
    return {name: min(s[name] for s in scores) for name in scores[0]}


def trained(
    cell: Cell, arm: Arm, opened: Mapping[str, Any], folder: Path, seed: int, plan: Plan, start: Path | None = None
) -> dict[str, float]:
    """Scores of one run, trained unless its folder holds it; start: the run whose model it starts from."""
    kept, data = folder / "claim.json", opened[cell.data]
    made = {
        "arm": arm.spec,
        "settings": plan.settings(cell, arm, seed),
        "data": identity(opened[arm.data or cell.data]),
    }
    of = made | {"measures": dict(cell.measures), "measured": identity(data)}
    if (told := finished(kept, of)) is not None:
        return told
    if kept.exists():
        plan.say(f"{folder}: trained under another plan, and so once more")
        shutil.rmtree(folder)
    fitted(cell, arm, opened, seed, plan, start, out=folder, resume=(folder / "config.json").exists())
    model = nearfar.load(folder / "model")
    scores = measured(cell, data, ModelEmbedder(model, data))
    if cell.look is not None:
        scores |= cell.look(folder, data)
    scores["seconds"] = json.loads((folder / "scores.json").read_text())["cost"]["seconds"]
    files.write_json(kept, {"of": of, "scores": scores})
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return scores


def identity(data: Any) -> list[str]:
    """What data and their splits are recognised by."""
    return [data.hash, data.split_hash]


def finished(kept: Path, of: Mapping[str, Any]) -> Any:
    """The scores in a file, if they are of the same plan and data."""
    found = json.loads(kept.read_text()) if kept.exists() else {}
    return found["scores"] if found.get("of") == json.loads(json.dumps(of)) else None


def fitted(
    cell: Cell, arm: Arm, opened: Mapping[str, Any], seed: int, plan: Plan, start: Path | None, **how: Any
) -> None:
    one = entry(arm.spec)
    given = plan.settings(cell, arm, seed) | ({} if start is None else {"model": str(start)})
    fit(one.slug, opened[arm.data or cell.data], **how, **given, **one.options)


def measured(cell: Cell, data: Any, embed: Any) -> dict[str, float]:
    """name -> score of each measure, on test rows."""
    scores: dict[str, dict[str, float]] = {}
    for task, _ in cell.measures.values():
        if task not in scores:
            scores[task] = evaluation.task_for(data, task).evaluate(embed, "test").metrics
    return {name: float(scores[task][metric]) for name, (task, metric) in cell.measures.items()}


def untrained(cell: Cell, data: Any, kept: Path, seed: int) -> dict[str, float]:
    """The same measures of the encoder as its seed made it, but for those of two towers, which have no common space
    yet, and those by prompts, which need both."""
    of = {"settings": {**cell.settings, "seed": seed}, "measures": dict(cell.measures), "measured": identity(data)}
    if (told := finished(kept, of)) is not None:
        return told
    names = {f.name for f in dataclasses.fields(TrainSettings)}
    settings = TrainSettings(**{k: v for k, v in {**cell.settings, "seed": seed}.items() if k in names})
    tasks = {name: evaluation.task_for(data, task) for name, (task, _) in cell.measures.items()}
    roles = {name: task.roles for name, task in tasks.items() if getattr(task, "read", "") != "prompts"}
    of_one = {name: own for name, own in roles.items() if len(modalities.kinds(own)) == 1}
    if not of_one:
        return {}
    kind = modalities.kinds(next(iter(of_one.values())))
    same = {name: own for name, own in of_one.items() if modalities.kinds(own) == kind}
    embed = untrained_embedder(data, sorted(set().union(*same.values())), settings)
    scores = measured(dataclasses.replace(cell, measures={name: cell.measures[name] for name in same}), data, embed)
    files.write_json(kept, {"of": of, "scores": scores})
    return scores


def references(cell: Cell, data: Any, kept: Path) -> dict[str, dict[str, float]]:
    """label -> measures of the rows that no seed changes: chance, raw features, HOG, TF-IDF, BM25."""
    of = {"measures": dict(cell.measures), "measured": identity(data)}
    if (told := finished(kept, of)) is not None:
        return told
    rows: dict[str, dict[str, float]] = {}
    for task in dict.fromkeys(task for task, _ in cell.measures.values()):
        for one in evaluation.references(data, evaluation.task_for(data, task)):
            metrics = one.evaluate("test").metrics
            for name, (asked, metric) in cell.measures.items():
                if asked == task and metric in metrics:
                    rows.setdefault(one.label, {})[name] = float(metrics[metric])
    kept.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(kept, {"of": of, "scores": rows})
    return rows


def concluded(claim: Claim, found: dict[str, Any], seeds: list[int], seconds: float) -> dict[str, Any]:
    """The result: values of all, paired differences of the first arm, what decides, and what must be said first."""
    (name, cell), *_ = claim.cells.items()
    first = claim.method or next(iter(cell.arms))
    decided = difference(found[name], first, claim.control, claim.measure, claim.higher)
    result = {
        "slug": claim.slug,
        "claim": claim.claim,
        "data": sets.SETS[cell.data].words,
        "command": f"python benchmarks/claims {claim.slug}",
        "metric": f"{claim.measure} ({name})",
        "higher_is_better": claim.higher,
        "metrics": {
            m: one
            for c in claim.cells.values()
            for m, one in [*((m, metric) for m, (_, metric) in c.measures.items()), *c.units.items()]
        },
        "seeds": seeds,
        "method": {first: column(found[name], first, claim.measure)},
        "baselines": {k: column(found[name], k, claim.measure) for k in found[name] if k != first},
        "difference": {k: decided[k] for k in ("mean", "interval")},
        "holds": decided["holds"],
        "first": first_of_all(claim, found),
        "further": further(claim, found),
        "all": found,
        "settings": {k: dict(c.settings) for k, c in claim.cells.items() if k in found},
        "seconds": seconds,
    }
    return result | {"notes": " ".join(filter(None, [result["first"], (claim.notes or arms_told)(result)]))}


def column(rows: Mapping[str, list[dict[str, float]]], label: str, measure: str) -> list[float]:
    return [x[measure] for x in rows[label] if measure in x]


def difference(rows: Any, a: str, b: str, measure: str, higher: bool = True) -> dict[str, Any]:
    """Paired over seeds, with its interval, and whether it lies on the better side of zero."""
    sign = 1.0 if higher else -1.0
    gaps = np.subtract(column(rows, a, measure), column(rows, b, measure))
    found = paired_interval(sign * gaps)
    bounds = found.bounds
    return {"mean": sign * found.mean, "interval": None if bounds is None else sorted(sign * b for b in bounds),
            "holds": holds(found)}  # fmt: skip


def further(claim: Claim, found: dict[str, Any]) -> dict[str, Any]:
    """Every cell and measure: the first arm against each other row, and the pairs that the claim names."""
    told, known = {}, known_metrics()
    for name, cell in ((name, cell) for name, cell in claim.cells.items() if name in found):
        better = {m: known[metric].higher_is_better for m, (_, metric) in cell.measures.items() if metric in known}
        better |= dict.fromkeys(cell.lower, False)
        first = next(iter(cell.arms))
        pairs = [(first, other) for other in found[name] if other != first]
        pairs += [p for p in claim.pairs if set(p) <= set(found[name]) and p not in pairs]
        for measure in found[name][first][0]:
            for a, b in pairs:
                if len(column(found[name], a, measure)) == len(column(found[name], b, measure)) > 0:
                    told[f"{name}: {a} - {b}, {measure}"] = difference(
                        found[name],
                        a,
                        b,
                        measure,
                        claim.higher if measure == claim.measure else better.get(measure, True),
                    )
    return told


def first_of_all(claim: Claim, found: dict[str, Any]) -> str:
    """What a reader must know before the number: cells in which no arm beats what needs no training."""
    told = []
    for name, cell in ((name, cell) for name, cell in claim.cells.items() if name in found):
        means = {k: float(np.mean(v)) for k in found[name] if (v := column(found[name], k, claim.measure))}
        best = {k: m for k, m in means.items() if k not in cell.arms}
        arms = [means[k] for k in cell.arms if k in means]
        sign = 1 if claim.higher else -1
        if best and arms and max(sign * m for m in best.values()) >= max(sign * m for m in arms):
            told.append(f"On {name} no arm reaches {max(best, key=lambda k: sign * best[k])} ({claim.measure}).")
    return " ".join(told)


def arms_told(result: dict[str, Any]) -> str:
    """Means of all rows by cell, shares in percent."""
    known, told = known_metrics(), []
    written = {metric: one.written for metric, one in known.items()} | UNITS
    units = {m: written[metric] for m, metric in result.get("metrics", {}).items() if metric in written}
    for name, rows in result["all"].items():
        values = []
        for label, seeds in rows.items():
            means = {m: np.mean([s[m] for s in seeds]) for m in seeds[0]} if seeds[0] else {}
            if means:
                numbers = [units.get(m, UNITS["share"]).write(float(v)) for m, v in means.items()]
                values.append(f"{label} {' / '.join(numbers)}")
        measures = ", ".join(next(s[0] for s in rows.values() if s[0]))
        told.append(f"{name} ({measures}): {'; '.join(values)}.")
    return " ".join(told)


def shown(label: str, scores: Mapping[str, float]) -> str:
    return f"{label} " + "/".join(f"{v:.3f}" for v in scores.values())


def slugged(text: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def store(result: dict[str, Any], folder: Path = RESULTS) -> None:
    """<folder>/<slug>.json with the versions, replaced in one step."""
    made = versions()
    kept = {k: made[k] for k in ("nearfar", "torch", "timm", "numpy", "scikit-learn") if k in made}
    folder.mkdir(parents=True, exist_ok=True)
    result = result | {"versions": kept | {"python": platform.python_version()}}
    files.write_json(folder / f"{result['slug']}.json", rounded(result))


def rounded(value: Any) -> Any:
    if isinstance(value, (float, np.floating)):
        return round(float(value), 5)
    if isinstance(value, Mapping):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, Iterable) and not isinstance(value, str) else value
