"""`nearfar.compare`: several methods on the same data, encoder, steps and seeds, beside what needs no training."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from nearfar import evaluation, files, methods, modalities, options, stores, workers
from nearfar.checks import PositiveInt, Range, checked
from nearfar.errors import InputError, NearfarError, did_you_mean
from nearfar.files import write_json
from nearfar.methods import registry
from nearfar.methods.tower import Tower
from nearfar.models import kinds_in
from nearfar.progress import Say, silent
from nearfar.sources.storage import cache_dir
from nearfar.training import building, engine
from nearfar.training.cells import Cell, Train, Trained, cells_of, trained_here, trained_on
from nearfar.training.embedding import Embedder
from nearfar.training.entries import ALL, Entry, chosen, entry, named, split_specs
from nearfar.training.settings import DataSettings, TrainSettings

if TYPE_CHECKING:
    from nearfar.evaluation.task import Task
    from nearfar.sources.data import Data

PLAN = {"data_hash": str, "split_hash": str, "settings": dict, "steps": int, "batch_size": int, "seeds": list}
DAMAGED_PLAN = "Delete the comparison's folder, or choose another --out."
CELL = {"status": str, "primary": (int, float, type(None)), "metrics": dict}


Seeds = Annotated[int, Range(1, 1000)]


@dataclass
class Comparison:
    """A finished comparison. `path`: its folder (or URL), with report.html, results.json and best/; `results`: the
    JSON."""

    path: Path | str
    results: dict[str, Any]

    @property
    def best(self) -> Path | str | None:
        return None if self.results["best_on_validation"] is None else stores.below(self.path, "best")


@checked
def compare(
    data: Any,
    *,
    methods: Sequence[str] | str | None = None,
    auto: bool = False,
    seeds: Seeds = 3,
    budget: str | float | None = None,
    least_steps: PositiveInt = 100,
    baseline: str | None = None,
    out: str | Path | None = None,
    settings: TrainSettings | None = None,
    data_settings: DataSettings | None = None,
    progress: bool = True,
    say: Say = silent,
    command: str = "",
    report: bool = True,
    on: str | None = None,
    **given: Any,
) -> Comparison:
    """Trains each method with each seed under one plan, measures all by one task, and says which one works.

    Args:
        data: a path, the name of a built-in set, an object in memory, or an opened Data.
        methods: slugs, each with options of its own if wanted ("dcl --views members"); "all": every one that fits;
            default: at most four that suit the data.
        auto: halve the methods (default all that fit) by validation, in rounds of one seed, until two are left, which
            are compared with all seeds; the rounds have two fifths of the budget.
        seeds: seeds 0 .. seeds - 1 for every method.
        budget: of training, e.g. "30m" or seconds, from which the steps are fixed once; default 30 minutes, unless
            `steps` is given.
        least_steps: fewer steps a method than this are not worth a comparison: InputError, which says what fits.
        baseline: the row that the others are paired with; default the first of simclr, pairs, simcse that is there.
        out: folder; default runs/compare-DATA. Finished cells found there are not run again. Also a URL of an object
            store (s3://...), to which all is sent as it is made; another machine goes on there.
        report: write report.html, and draw what it shows of each trained model.
        on: None: this process trains. "ray" or "ray://HOST:PORT": the workers of a Ray cluster train the cells, several
            at once, to the same table; the plan and what needs no training are made here.
        given: fields of TrainSettings and DataSettings.

    Raises InputError for wrong input; a method that fails becomes a failed cell, and the others go on.
    """
    settings, data_settings, rest = engine.split_options(None, given, settings, data_settings)
    check_asked(settings, rest, on)
    limit = seconds_of(budget)
    building.check_settings(settings)
    opened = data_settings.open(data)
    warnings = engine.tell_overlaps(opened, building.weights_of(settings), say)
    own = None if methods in (None, ALL) else building.own_task(*(one.slug for one in named(opened, methods)))
    task = evaluation.task_for(opened, settings.task, shared={"layer": settings.layer}, before=own)
    entries = chosen(opened, task, settings, ALL if auto and methods is None else methods, say)
    settings = building.suited(settings, *(one.slug for one in entries))
    check_baseline(baseline, entries, opened, task)
    task.check()
    trained: Trained = functools.partial(trained_here, opened, progress)
    if on is not None:
        trained = functools.partial(trained_on, on, workers.SameData(opened, data, data_settings), say)
    where = out if out is not None else Path("runs") / f"compare-{opened.short_name}"
    spread = workers.connected(on) if on is not None and auto else contextlib.nullcontext()
    sending = stores.mirrored(where, again="the same command", check=lambda names: check_names(names, where), say=say)
    with sending as folder, claim(folder), spread:  # of the rounds of --auto each finds the cluster connected
        began, rounds = time.perf_counter(), None
        if auto:
            from nearfar.training.halving import halved

            field = Field(folder, opened, task, settings, seeds, limit, least_steps, trained, say)
            entries, rounds, limit = halved(field, entries)
            check_baseline(baseline, entries, opened, task)
        plan = make_plan(folder, opened, settings, entries, seeds, limit, say, least_steps, rounds)
        settings = dataclasses.replace(settings, steps=plan["steps"], batch_size=plan["batch_size"])
        rows = measured_without_training(folder, opened, task, settings, seeds, say)
        own = plan.get("own_batch_sizes", {})
        sized = [dataclasses.replace(settings, batch_size=own.get(one.label, settings.batch_size)) for one in entries]
        cells = [cells_of(folder, one, mine, seeds) for one, mine in zip(entries, sized, strict=True)]
        rows += train_rows(folder, opened, task, entries, cells, trained, say)
        before = sum(one["seconds"] for one in plan.get("rounds", []))
        seconds = max(time.perf_counter() - began, before + trained_seconds(rows))
        results = conclude(folder, opened, task, plan, rows, entries, baseline, command, seconds, illustrated=report)
        results["warnings"] = warnings
        write_results(folder, results, report)
    return Comparison(str(where) if stores.is_url(where) else folder, results)


def write_results(folder: Path, results: dict[str, Any], report: bool) -> None:
    write_json(folder / "results.json", results)
    keep_best(folder, results)
    if report:
        from nearfar.reporting import write_report

        write_report(folder / "report.html", results)


def check_asked(settings: TrainSettings, unknown: Mapping[str, Any], on: str | None) -> None:
    """Raises InputError for options that no comparison has, several devices, and a cluster out of reach."""
    if unknown:
        raise InputError(
            f"compare has no option '{next(iter(unknown))}'.",
            'Options of one method go beside its name: --methods "dcl --sigma 0.5".',
        )
    if settings.devices * settings.nodes > 1:
        raise InputError(
            "compare trains on one device.", "Train the winner on several: nearfar fit METHOD DATA --devices N."
        )
    if on is not None:
        workers.check_on(on)


def train_rows(
    folder: Path,
    data: Data,
    task: Task,
    entries: Sequence[Entry],
    cells: Sequence[Sequence[Cell]],
    trained: Trained,
    say: Say,
) -> list[dict[str, Any]]:
    """The row of each method, once all of its cells are finished."""
    rows = []
    with trained(folder, [cell for row in cells for cell in row if not cell.done]) as train:
        for number, (one, row) in enumerate(zip(entries, cells, strict=True)):
            rows.append(train_cells(folder, data, task, one, row, train, f"[{number + 1}/{len(entries)}]", say))
    return rows


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """The comparison's folder, owned by this process while the block runs. What was cut off in it is put in order; a
    folder in which nothing was begun is taken away again. Raises InputError where another process works in it, or where
    it holds something else."""
    with files.refused(folder):
        check_own(folder)
        made = files.make_folders(folder)
    try:
        with contextlib.ExitStack() as held:
            with files.refused(folder):
                held.enter_context(files.lock(folder / files.LOCK, f"'{folder}'"))
            files.tidy_inside(folder)
            yield
    finally:
        files.remove_empty(made)


OWN = ("plan.json", "references.json", "cells", "rounds", "results.json", "report.html", "best", "index")


def check_own(folder: Path) -> None:
    """Raises where a folder holds files and is not a comparison: those may be someone's data."""
    check_names({path.name for path in folder.iterdir()} if folder.is_dir() else set(), folder)


def check_names(names: set[str], folder: str | Path) -> None:
    """`check_own` by the names of what is below a folder."""
    there = {name.partition("/")[0] for name in names}
    if not {"plan.json", "rounds"} & there and any(name not in OWN and not name.startswith(".") for name in there):
        raise InputError(f"'{folder}' is not empty and is not a comparison of nearfar.", "Choose another --out.")


def check_baseline(baseline: str | None, entries: Sequence[Entry], data: Data, task: Task) -> None:
    """Raises where the baseline is none of the rows that there will be."""
    rows = [e.name for e in entries] + [r.slug for r in evaluation.references(data, task)] + ["untrained", "pretrained"]
    if baseline is not None and baseline not in rows:
        near = did_you_mean(baseline, rows)
        raise InputError(f"The baseline '{baseline}' is not among the rows.{near}", f"Rows: {', '.join(rows)}.")


def seconds_of(budget: str | float | None) -> float:
    """ "90", "45s", "30m", "2h" -> seconds."""
    if budget is None:
        return 1800.0
    match = re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]*)?|\.[0-9]+)\s*([smh]?)\s*", str(budget))
    if not match or float(match.group(1)) <= 0:
        raise InputError(f"The budget '{budget}' is not a time.", "Write for example 90s, 30m or 2h.")
    return float(match.group(1)) * {"": 1, "s": 1, "m": 60, "h": 3600}[match.group(2)]


def plan_settings(settings: TrainSettings) -> dict[str, Any]:
    """What all cells of a comparison share beside steps and batch size."""
    return {k: v for k, v in dataclasses.asdict(settings).items() if k not in ("seed", "steps", "batch_size", "logger")}


@dataclass(frozen=True)
class Field:
    """What rounds of a comparison share: where, on what, how, how long (`limit`: seconds of training) and by whom."""

    folder: Path
    data: Data
    task: Task
    settings: TrainSettings
    seeds: int
    limit: float
    least: int
    trained: Trained
    say: Say


@dataclass(frozen=True)
class Paces:
    """Seconds a step of each method by label (of those that train), the batch size that all can have, and the sizes of
    those that prescribe their own."""

    seconds: dict[str, float]
    batch: int
    own: dict[str, int]


def paced(data: Data, settings: TrainSettings, entries: Sequence[Entry], failed: dict[str, str] | None = None) -> Paces:
    """Times a few steps of each method, where the steps are "auto"; the smallest of the batches that suit them. failed:
    takes label -> why of those that cannot be prepared (None: they raise)."""
    paces, batch, own = {}, None, {}
    timed = settings.steps == "auto"
    for one in entries:
        planned = dataclasses.replace(settings, steps=1000 if timed else settings.steps)
        try:
            setup = building.prepare(one.slug, data, planned, one.options, cache=cache_dir())
        except InputError as error:
            if failed is None:
                raise
            failed[one.label] = str(error)
            continue
        if setup.prescribed is None:
            batch = min(batch or 1 << 30, int(setup.resolved["batch_size"]))
        else:
            own[one.label] = setup.prescribed
        if timed and setup.method.trained:
            paces[one.label] = engine.timed_steps(setup, 4)[0]
    return Paces(paces, batch or next(iter(own.values())), own)


USED = 0.85  # of the time is planned for steps; the rest goes to what a run does beside


def steps_within(limit: float, paces: dict[str, float], seeds: int) -> int:
    """Steps for every method and seed in so many seconds; 20 at least."""
    return max(20, int(USED * limit / (seeds * sum(paces.values())))) if paces else 20


def check_time(limit: float, paces: dict[str, float], seeds: int, least: int, part: float = 1.0) -> None:
    """Raises where a part of the time is too little for `least` steps of each; says how many methods or how much time
    would do."""
    if not paces or (steps := steps_within(part * limit, paces, seeds)) >= least:
        return
    needed = math.ceil(least * seeds * sum(paces.values()) / (USED * part) / 60)
    many, labels = counted(len(paces), seeds), list(paces)
    fitting = [(k, n) for n in dict.fromkeys([seeds, 1]) for k in range(len(labels) - (n == seeds), 1, -1)
               if steps_within(part * limit, {name: paces[name] for name in labels[:k]}, n) >= least]  # fmt: skip
    less = ""
    if fitting:
        k, n = fitting[0]
        less = f' --methods "{",".join(labels[:k])}"' + f" --seeds {n}" * (n != seeds) + ", or"
    raise InputError(
        f"{engine.human(part * limit)} is too little time for {many}: {steps} steps each, and fewer than {least} tell "
        "little.",
        f"Take{less} --budget {needed}m; --least-steps {steps} accepts it as it is.",
    )


def counted(many: int, seeds: int) -> str:
    return f"{many} method{'s' * (many > 1)} x {seeds} seed{'s' * (seeds > 1)}"


def make_plan(
    folder: Path,
    data: Data,
    settings: TrainSettings,
    entries: Sequence[Entry],
    seeds: int,
    limit: float,
    say: Say,
    least: int = 1,
    rounds: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Steps and batch size, fixed once and kept in plan.json: the same for every cell, also when resumed. rounds: how
    the methods were found, where they were halved before."""
    path = folder / "plan.json"
    facts = {
        "data_hash": data.hash,
        "split_hash": data.split_hash,
        "settings": plan_settings(settings),
    }
    if path.exists():
        return read_plan(path, facts, settings, say)
    found = paced(data, settings, entries)
    steps = settings.steps
    if steps == "auto":
        check_time(limit, found.seconds, seeds, least)
        steps = steps_within(limit, found.seconds, seeds)
        say(f"{engine.human(limit)} of training for {counted(len(entries), seeds)}: {steps} steps each")
        for label, pace in found.seconds.items():
            say(f"  {label}: {1000 * pace:.0f} ms a step")
    plan = facts | {
        "steps": steps,
        "batch_size": found.batch,
        "own_batch_sizes": found.own,
        "seeds": list(range(seeds)),
        "encoder": encoder_words(data, entries, settings),
        "precision": settings.precision,
        "budget_seconds": limit if settings.steps == "auto" else None,
        "seconds_a_step": found.seconds,
        "rounds": rounds or [],
    }
    write_json(path, plan)
    return plan


def read_plan(path: Path, facts: dict[str, Any], settings: TrainSettings, say: Say) -> dict[str, Any]:
    """The plan of a comparison that was begun. Raises InputError where it is one of other data, splits or settings."""
    plan = files.read_json(path, PLAN, DAMAGED_PLAN)
    plan["settings"] = plan_settings(TrainSettings()) | plan["settings"]  # what has become an option since
    for name in facts:
        if plan[name] != json.loads(json.dumps(facts[name])):
            raise InputError(
                f"'{stores.named(path.parent)}' holds a comparison with other {name.replace('_', ' ')}: scores on "
                "different data, splits or settings are not ranked together.",
                "Choose another --out.",
            )
    if settings.steps not in ("auto", plan["steps"]):
        raise InputError(
            f"The plan in '{stores.named(path.parent)}' has {plan['steps']} steps, not {settings.steps}.",
            "Choose another --out.",
        )
    say(f"plan of {stores.named(path.parent)}: {plan['steps']} steps of {plan['batch_size']} items")
    return plan


def encoder_words(data: Data, entries: Sequence[Entry], settings: TrainSettings) -> str:
    """The encoders that are trained, each as its kind of data calls it."""
    kinds = [building.kinds_of(registry.get(one.slug), data, settings) for one in entries]
    names = list(dict.fromkeys(name for found in kinds for name in found))
    return ", ".join(modalities.get(name).described_encoder(settings.of(modalities.get(name))) for name in names)


def cell(seed: int | None, scores: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One seed of one row, as results.json has it. Scores without a test split come from validation."""
    test = scores.get("test") or scores.get("val") or {}
    return {
        "seed": seed,
        "primary": test.get("primary"),
        "val": (scores.get("val") or {}).get("primary"),
        "metrics": test.get("metrics", {}),
        "directions": test.get("directions", {}),
        "domains": test.get("domains", {}),
        "bootstrap": test.get("bootstrap"),
        "counts": test.get("counts", {}),
        "status": "done",
        **more,
    }


def splits_of(data: Data) -> list[str]:
    return [s for s in ("val", "test") if len(data.splits.get(s, ()))]


def measured_without_training(
    folder: Path, data: Data, task: Task, settings: TrainSettings, seeds: int, say: Say
) -> list[dict[str, Any]]:
    """Chance, raw pixels, HOG, TF-IDF, BM25; the untrained encoder for each seed; a pretrained one where given."""
    path = folder / "references.json"
    if path.exists():
        return stored_rows(path)
    rows = []
    for one in evaluation.references(data, task):
        say(f"measuring: {one.label}")
        start = time.perf_counter()
        scores = {s: one.evaluate(s).to_dict() for s in splits_of(data)}
        rows.append(
            {
                "slug": one.slug,
                "label": one.label,
                "kind": one.kind,
                "seeds": [cell(0, scores, seconds=time.perf_counter() - start, samples=0)],
            }
        )
    roles = roles_measured(task, settings)
    kinds = modalities.kinds(roles)
    known = any(building.pretrained(k, settings) for k in kinds)
    if len(kinds) == 1 or (settings.model is not None and set(kinds) <= set(kinds_in(settings.model))):
        say(f"measuring: {'pretrained' if known else 'untrained'} encoder")
        cells = [untrained_cell(data, task, settings, seed, roles) for seed in range(1 if known else seeds)]
        kind = "pretrained" if known else "untrained"
        rows.append({"slug": kind, "label": f"{kind} encoder", "kind": kind, "seeds": cells})
    write_json(path, {"rows": rows}, checksum=True)
    return rows


def stored_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of references.json. Raises InputError where it is damaged."""
    mend = "Delete it: it is measured again."
    rows = files.read_json(path, {"rows": list}, mend)["rows"]
    with files.reading(path, mend):
        for row in rows:
            files.check_fields(row, {"slug": str, "label": str, "kind": str, "seeds": list}, path, mend)
            for one in row["seeds"]:
                files.check_fields(one, CELL, path, mend)
    return rows


def untrained_embedder(data: Data, roles: Sequence[str], settings: TrainSettings) -> Embedder:
    """The encoders as the settings describe them and their seed makes them, for roles of one kind of data, or of
    several that one model brings into one space."""
    kinds = modalities.kinds(roles)
    made = {kind: building.build_encoder(kind, data, settings) for kind in kinds}
    heads = {kind: encoder.joint.head if encoder.joint else None for kind, encoder in made.items()}
    towers = {role: (made[kind], heads[kind]) for role in roles for kind in [modalities.of(role).name]}
    return Embedder({role: Tower(encoder, head, kept=True) for role, (encoder, head) in towers.items()}, data)


def roles_measured(task: Task, settings: TrainSettings) -> tuple[str, ...]:
    """The roles that a task asks for, and those that it also asks of the model of --model where that embeds them."""
    known = () if settings.model is None else kinds_in(settings.model)
    return (*task.roles, *(role for role in task.also if modalities.of(role).name in known))


def untrained_cell(
    data: Data, task: Task, settings: TrainSettings, seed: int, roles: Sequence[str] | None = None
) -> dict[str, Any]:
    embed = untrained_embedder(data, roles or task.roles, dataclasses.replace(settings, seed=seed))
    start = time.perf_counter()
    scores = {s: task.evaluate(embed, s).to_dict() for s in splits_of(data)}
    return cell(seed, scores, seconds=time.perf_counter() - start, samples=0)


def train_cells(
    folder: Path, data: Data, task: Task, one: Entry, row: Sequence[Cell], train: Train, place: str, say: Say
) -> dict[str, Any]:
    """All seeds of one method; finished cells are read, begun ones resumed, failed ones marked."""
    cells, supervised = [], False
    for mine in row:
        seed, run = mine.settings.seed, mine.run
        done = run / "scores.json"
        relative = str(run.relative_to(folder))
        if not mine.done:
            say(f"{place} {one.label}, seed {seed}")
            try:
                train(mine)
            except (NearfarError, RuntimeError) as error:
                if isinstance(error, files.Busy) or (isinstance(error, InputError) and seed == 0):
                    raise
                say(f"{place} {one.label}, seed {seed} failed: {error}")
                cells.append(cell(seed, {}, run=relative) | {"status": "failed", "message": str(error)})
                continue
        stored = files.read_json(done, engine.SCORES, "Delete it: the cell is finished from its checkpoint.")
        files.check_fields(stored["cost"], {"seconds": (int, float)}, done, engine.DAMAGED)
        check_same(stored, data, run)
        supervised = supervised or bool(files.read_json(run / "config.json", {}, engine.DAMAGED).get("supervised"))
        with files.reading(done, "Delete it: the cell is finished from its checkpoint."):
            cells.append(cell(seed, stored["scores"], run=relative, **stored["cost"]))
        if cells[-1]["primary"] is not None:
            reached = task.metric().written.text(cells[-1]["primary"])
            say(f"{place} {one.label}, seed {seed}: {reached} in {stored['cost']['seconds']:.0f} s")
    label = f"{one.label} (sees labels)" if supervised else one.label
    return {"slug": one.name, "label": label, "method": one.slug, "kind": "method", "supervised": supervised,
            "seeds": cells}  # fmt: skip


def trained_seconds(rows: Sequence[dict[str, Any]]) -> float:
    """What all cells took to train, also those that an earlier call has finished."""
    return sum(one.get("seconds") or 0.0 for row in rows for one in row["seeds"])


def check_same(stored: dict[str, Any], data: Data, run: Path) -> None:
    """Runs whose data or split differ are not ranked together."""
    for name in ("data_hash", "split_hash"):
        if stored[name] != getattr(data, name.removeprefix("data_")):
            raise InputError(
                f"The run '{stores.named(run)}' was made on other data or another split ({name} differs).",
                "Take it away, or choose another --out.",
            )


def conclude(
    folder: Path,
    data: Data,
    task: Task,
    plan: dict[str, Any],
    rows: list[dict[str, Any]],
    entries: Sequence[Entry],
    baseline: str | None,
    command: str,
    seconds: float,
    illustrated: bool = True,
) -> dict[str, Any]:
    """results.json: statistics of every row, the verdict, and what the report shows of the trained models."""
    base = baseline or max(entries, key=lambda e: methods.get(e.slug).baseline if e.name == e.slug else 0).name
    best = best_on_validation(rows, task.metric())
    kinds = evaluation.ranked_apart(rows).values()
    chosen = [slug for part in kinds if (slug := best_on_validation(part, task.metric())) is not None]
    verdict = evaluation.compare_rows(rows, base, proxy=task.proxy, chosen=chosen, metric=task.metric())
    shown = illustrations(folder, data, task, verdict["rows"], (best, base)) if illustrated else {}
    return {
        "format": 1,
        "data": {
            "name": data.name,
            "hash": data.hash,
            "split": data.split_name,
            "split_hash": data.split_hash,
            "rows": {k: len(v) for k, v in data.splits.items()},
            "roles": data.roles,
        },
        "task": task.summary("test" if len(data.splits.get("test", ())) else "val"),
        "plan": plan,
        "baseline": base,
        "rows": verdict["rows"],
        "winner": verdict["winner"],
        "winners": verdict["winners"],
        "best_on_validation": best,
        "reason": verdict["reason"],
        **shown,
        "commands": commands(folder, data, plan, entries, best, command),
        "versions": engine.versions(),
        "seconds": seconds,
    }


def best_on_validation(rows: Sequence[dict[str, Any]], metric: evaluation.Metric) -> str | None:
    """The trained row with the best mean on validation data; test data choose nothing."""
    means = {
        r["slug"]: float(
            np.mean([c["val"] if c["val"] is not None else c["primary"] for c in r["seeds"] if c["status"] == "done"])
        )
        for r in rows
        if r["kind"] == "method" and any(c["status"] == "done" and c["primary"] is not None for c in r["seeds"])
    }
    return min(means, key=lambda k: metric.key(means[k])) if means else None


def commands(
    folder: Path, data: Data, plan: dict[str, Any], entries: Sequence[Entry], best: str | None, command: str
) -> list[str]:
    """What to type to repeat the comparison, to train its best method alone, and to search with it."""
    spec = shlex.quote(data.name if data.path is None else str(data.path))
    found, place = [command] if command else [], stores.named(folder)
    for one in entries:
        if one.name == best and data.given is not None:
            read = vars(options.checked(building.targets_of(one.slug), one.options))
            plain = {name: read[name] if isinstance(read[name], int | float) else said
                     for name, said in one.options.items()}  # fmt: skip
            own = {**plain, "steps": plan["steps"], "batch_size": plan["batch_size"]}
            found += [
                f"nearfar.fit({one.slug!r}, data, {', '.join(f'{name}={value!r}' for name, value in own.items())})",
                f"nearfar.embed({str(stores.below(place, 'best'))!r}, data, out={str(stores.below(place, 'index'))!r})",
                f"nearfar search {stores.below(place, 'index')} QUERY",
            ]
        elif one.name == best:
            own = one.label[len(one.slug) :]
            found += [
                f"nearfar fit {one.slug} {spec}{own} --steps {plan['steps']} --batch-size {plan['batch_size']}",
                f"nearfar embed {stores.below(place, 'best')} {spec} --out {stores.below(place, 'index')}",
                f"nearfar search {stores.below(place, 'index')} QUERY",
            ]
    return found


def illustrations(
    folder: Path, data: Data, task: Task, rows: Sequence[dict[str, Any]], mapped: Sequence[str | None]
) -> dict[str, Any]:
    """Curves of every seed; diagnostics and examples of the first finished seed of every trained row, and maps of those
    in `mapped` (drawing one takes seconds)."""
    from nearfar.training import showing

    out: dict[str, Any] = {"curves": {}}
    for row in rows:
        if row["kind"] != "method":
            continue
        finished = [c for c in row["seeds"] if c["status"] == "done"]
        out["curves"][row["slug"]] = {str(c["seed"]): showing.curve(folder / c["run"]) for c in finished}
        if finished:
            shown = showing.illustrate(
                folder / finished[0]["run"] / "model", data, task, points=600 if row["slug"] in mapped else 0
            )
            for name, value in shown.items():
                out.setdefault(name, {})[row["slug"]] = value
    return out


def keep_best(folder: Path, results: dict[str, Any]) -> None:
    """Copies the model of the row chosen on validation data (its first seed) to best/."""
    row = next((r for r in results["rows"] if r["slug"] == results["best_on_validation"]), None)
    if row is None:
        return
    first = next(c for c in row["seeds"] if c["status"] == "done")
    with files.whole(folder / "best") as fresh:
        shutil.copytree(folder / first["run"] / "model", fresh)


__all__ = ["Comparison", "Entry", "compare", "entry", "seconds_of", "split_specs"]
