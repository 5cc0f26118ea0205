"""One function a command: words in, something printed, an exit code out."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from nearfar import files, options, processes, stores, terminal
from nearfar.checks import PositiveInt, Range, Seed
from nearfar.cli import help as helping
from nearfar.cli import tables
from nearfar.errors import InputError
from nearfar.training.settings import DataSettings, TrainSettings, with_tasks


@dataclass
class Output:
    """What is printed.

    Args:
        json: print one JSON document and nothing else on standard output.
    """

    json: bool = False


@dataclass
class FitOptions:
    """Where the run goes, and whether it goes on.

    Args:
        out: folder of the run, or its URL on an object store (s3://...); default runs/METHOD-DATA-NUMBER.
        resume: go on from the last checkpoint of --out.
        trust: with --resume alone, import parts of your own (module.Class) that the run's config names, which runs
            their code; only for runs that you made.
        dry_run: show the plan after a few timed steps, and write nothing.
        config: YAML file of options; the command line goes before it.
        on: where the --devices times --nodes processes of the run are: ray (workers of the cluster of RAY_ADDRESS or of
            `ray start`, else processes of this machine) or ray://HOST:PORT; default this machine. --out must lie where
            all of them reach it, or be a URL.
    """

    out: str | None = None
    resume: bool = False
    trust: bool = False
    dry_run: bool = False
    config: str | None = None
    on: str | None = None


@dataclass
class CompareOptions:
    """What is compared, how often, for how long.

    Args:
        methods: methods divided by commas, each with options of its own if wanted: "simclr,dcl --views members"; all:
            every one that fits; default at most four that suit the data.
        auto: halve the methods (default all that fit) by validation, in rounds of one seed, until two are left, which
            are compared with all seeds; the rounds have two fifths of the time.
        seeds: how many seeds a method.
        budget: time for all training, from which the steps are fixed once: 90s, 30m, 2h. Default 30m.
        least_steps: where the time gives a method fewer steps than this, say so and train nothing.
        baseline: the row that the others are compared with.
        out: folder, or a URL (s3://...); default runs/compare-DATA. What is finished there is not run again.
        on: where cells are trained, several at once: ray (the cluster of RAY_ADDRESS or of `ray start`, else processes
            of this machine) or ray://HOST:PORT; default this process, one after the other.
    """

    methods: str | None = None
    auto: bool = False
    seeds: Annotated[int, Range(1, 1000)] = 3
    budget: str | None = None
    least_steps: PositiveInt = 100
    baseline: str | None = None
    out: str | None = None
    on: str | None = None


@with_tasks
@dataclass
class MeasureOptions:
    """What is measured.

    Args:
        task: {tasks}; default what the method of the model names, else the first that the data hold. The options of a
            task stand beside it.
        on: the split that is looked at.
        variant: which of the vectors of one input, where the model gives several.
        dims: of every vector its first numbers alone, of length 1 by themselves; default all, and in `evaluate` beside
            them the prefixes that the model was trained for.
    """

    task: str | None = None
    variant: str | None = None
    dims: PositiveInt | None = None
    on: Literal["train", "val", "test"] = "test"


@dataclass
class EmbedOptions:
    """Where vectors go.

    Args:
        out: FILE.parquet, FILE.npy, or a folder (a searchable index); FILE.parquet and a folder also as a URL
            (s3://...).
        role: what is embedded, by the role of its column (image, text, text_b...; `nearfar data` tells them); default
            the first that the model can.
        append: add the rows that are not there yet, and replace those that have changed.
        columns: which go with the vectors: auto (all plain ones), none, or names divided by commas.
        batch_size: rows a batch.
        variant: which of the vectors of one input, where the model gives several.
        dims: of every vector its first numbers alone, of length 1 by themselves; `search` follows the index.
        on: where it is computed: ray (the cluster of RAY_ADDRESS or of `ray start`, else processes of this machine) or
            ray://HOST:PORT; default this process.
    """

    out: str | None = None
    role: str | None = None
    variant: str | None = None
    dims: PositiveInt | None = None
    append: bool = False
    columns: str = "auto"
    batch_size: Annotated[int, Range(1, 1_000_000)] = 256
    on: str | None = None


@dataclass
class PredictOptions:
    """Of which rows, and where the answers go.

    Args:
        out: FILE.csv, .tsv, .jsonl or .parquet, also as a URL (s3://...); default the first rows are shown.
        on: which rows are asked about: all, or those of a split.
        batch_size: rows that pass the encoder at once.
        variant: which of the vectors of one input is used, where the model gives several.
    """

    out: str | None = None
    on: Literal["all", "train", "val", "test"] = "all"
    batch_size: Annotated[int, Range(1, 1_000_000)] = 256
    variant: str | None = None


@dataclass
class GenerateOptions:
    """What is generated from, and where it goes.

    Args:
        prompts: text file with a prompt on each line, in place of those on the command line.
        out: FILE.txt or FILE.jsonl of texts, or a folder of images, also as a URL; default texts are shown.
        seed: of what is drawn.
    """

    prompts: str | None = None
    out: str | None = None
    seed: Seed = 0


@dataclass
class CacheOptions:
    """Which entries of the cache are meant.

    Args:
        kind: tables, scans, pixels, features, scenes, objects or a built-in set (functions, imports,
            sentences, docstrings, descriptions, catalogues); default all.
        unused: only what was not used for so long: 90m, 12h, 30d.
    """

    kind: str | None = None
    unused: str = "0s"


@dataclass
class ReportOptions:
    """Where the page goes.

    Args:
        out: path or URL of the page; default report.html in the first folder.
    """

    out: str | None = None


@dataclass
class DemoOptions:
    """Where the demo goes.

    Args:
        out: folder of the demo.
        seconds: time for all training.
    """

    out: str = "runs/demo"
    seconds: Annotated[int, Range(1, 1_000_000)] = 240


def parse(
    words: Sequence[str], targets: Sequence[Any], counts: Sequence[int], usage: str
) -> tuple[list[str], dict[str, Any]]:
    """Positional words and options given; shows help; raises where the number of positional words is wrong."""
    if wants_help(words):
        show_help(usage, targets)
    places: list[str] = []
    given = options.from_command_line(targets, words, places)
    if len(places) not in counts:
        got = f"Got {len(places)} argument{'s' * (len(places) != 1)}{': ' + ' '.join(places[:4]) if places else ''}"
        of_shell = len(places) > max(counts) and all(Path(place).exists() for place in places[-2:])
        quoted = " Where the shell made files of a pattern, put it in quotes: 'photos/*.jpg'." if of_shell else ""
        raise InputError(f"Expected: {usage}.", f"{got}{' ...' * (len(places) > 4)}.{quoted}")
    return places, given


def wants_help(words: Sequence[str]) -> bool:
    return "--help" in words or "-h" in words


def show_help(usage: str, targets: Sequence[Any], further: str = "") -> NoReturn:
    sys.stdout.write(helping.text(usage, targets) + further)
    raise SystemExit(0)


def emit(value: Any, indent: int | None = 2) -> None:
    """One JSON document; on one line without an indent."""
    sys.stdout.write(json.dumps(value, indent=indent, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def speaker(quiet: bool) -> Any:
    """Where remarks go: standard output, or standard error where that holds a JSON document."""
    stream = sys.stderr if quiet else sys.stdout

    def say(text: str) -> None:
        terminal.say(text, stream)

    return say


def written(command: str, words: Sequence[str]) -> str:
    return shlex.join(["nearfar", command, *words])


def run_methods(words: list[str]) -> None:
    from nearfar import methods

    places, given = parse(words, [Output], (0, 1), "nearfar methods [METHOD]")
    as_json = options.checked([Output], given).json
    if places:
        found = methods.describe(places[0])
        emit(found) if as_json else tables.method(found)
        return
    emit(methods.list_methods()) if as_json else tables.gallery(methods.overview())


def run_data(words: list[str]) -> None:
    from nearfar.cli.data import ReportedOptions, understood

    targets = [ReportedOptions, Output, DataSettings]
    places, given = parse(words, targets, (1,), "nearfar data PATH")
    checked = options.checked(targets, given)
    found = understood(places[0], checked.report, options.build(DataSettings, checked), checked.json)
    if found is not None:
        emit(found)


def run_fit(words: list[str]) -> None:
    from nearfar import methods

    base = [FitOptions, Output, TrainSettings, DataSettings]
    usage = "nearfar fit [METHOD] DATA"
    named = next((w for w in words if w in methods.slugs()), None)
    if wants_help(words):
        show_help(usage, base, helping.method(named))
    targets = [*base, methods.get(named)] if named else base
    places, given = parse(words, targets, (0, 1, 2), usage)
    method, data = (places[0], places[1]) if len(places) == 2 else (None, places[0] if places else None)
    if method is not None:
        methods.get(method)
        targets = [*base, methods.get(method)]
    if "config" in given:

        def with_method(values: dict[str, Any]) -> list[Any]:
            named = method or values.get("method")
            return [*base, methods.get(named)] if named else base

        from_file = options.from_file(given["config"], with_method)
        targets = with_method(from_file)
        method, data = method or from_file.pop("method", None), data or from_file.pop("data", None)
        given = {k: v for k, v in from_file.items() if k not in ("method", "data")} | given
    if data is None and given.get("resume") and given.get("out"):
        method, data, given = remembered(given)
        targets = [*base, methods.get(method)]
    if data is None:
        raise InputError(f"Expected: {usage}.", "Name the data: a path, or emoji.")
    if data in methods.slugs() and not Path(data).exists():
        raise InputError(f"'{data}' is a method; the data are missing.", f"Expected: {usage}.")
    checked = options.checked(targets, given)
    from nearfar.training.engine import fit

    own = {k: v for k, v in given.items() if k not in options.names(base)}
    say = speaker(checked.json)
    run = fit(
        method,
        data,
        out=checked.out,
        resume=checked.resume,
        dry_run=checked.dry_run,
        on=checked.on,
        settings=options.build(TrainSettings, checked),
        data_settings=options.build(DataSettings, checked),
        say=say,
        command=written("fit", words),
        **own,
    )
    if not processes.leader():
        return
    if checked.json:
        emit({"path": run.path, "method": run.method, "plan": run.plan, "scores": run.scores, "cost": run.cost})
    elif run.path is not None:
        tables.run(run)


def remembered(given: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """`fit --resume --out RUN` alone: everything else is in the run's config.json."""
    from nearfar.training.engine import CONFIG, DAMAGED

    path = stores.local(given["out"], lambda name: name == "config.json") / "config.json"
    if not path.exists():
        raise InputError(f"'{given['out']}' holds no run to resume.")
    config = files.read_json(path, CONFIG, DAMAGED)
    if config.get("data_given"):
        raise InputError(
            f"The data of the run in '{given['out']}' were given in memory ({config['data']}); a command takes paths.",
            "Go on from Python, with the options that it had: "
            f"nearfar.fit({config['method']!r}, data, out={given['out']!r}, resume=True, ...).",
        )
    foreign = options.foreign_parts(config["options"])
    if foreign and str(given.get("trust", "false")).lower() not in ("true", "yes"):
        raise InputError(
            f"The run in '{given['out']}' names parts that are not nearfar's own: {', '.join(foreign)}. Going on "
            "with it imports that code and runs it.",
            "If the run is yours, add --trust.",
        )
    stored = {
        k: v for part in ("settings", "data_settings", "options") for k, v in config[part].items() if v is not None
    }
    from nearfar import methods

    try:
        options.checked([TrainSettings, DataSettings, methods.get(config["method"])], stored)
    except InputError as error:
        raise InputError(f"{path} does not hold the options of a run: {error.message}", DAMAGED) from error
    return config["method"], config["data"], stored | given


def run_compare(words: list[str]) -> None:
    targets = [CompareOptions, Output, TrainSettings, DataSettings]
    places, given = parse(words, targets, (1,), "nearfar compare DATA")
    checked = options.checked(targets, given)
    from nearfar.training.comparing import compare

    done = compare(
        places[0],
        methods=checked.methods,
        auto=checked.auto,
        seeds=checked.seeds,
        budget=checked.budget,
        least_steps=checked.least_steps,
        baseline=checked.baseline,
        out=checked.out,
        on=checked.on,
        settings=options.build(TrainSettings, checked),
        data_settings=options.build(DataSettings, checked),
        say=speaker(checked.json),
        command=written("compare", words),
    )
    if checked.json:
        emit(done.results)
        return
    tables.leaderboard(done.results)
    tables.next_steps(done)


def measuring(words: list[str], usage: str) -> tuple[list[str], Any, dict[str, Any]]:
    """Positional words, checked options, and those of a task among them, of a command that measures."""
    base = [MeasureOptions, Output, DataSettings]
    if wants_help(words):
        show_help(usage, base, helping.tasks())
    from nearfar.evaluation import tasks

    targets = [*base, *tasks.classes()]
    places, given = parse(words, targets, (2,), usage)
    checked = options.checked(targets, given)
    return places, checked, {name: getattr(checked, name) for name in tasks.option_names() if name in given}


def run_evaluate(words: list[str]) -> None:
    places, checked, own = measuring(words, "nearfar evaluate MODEL DATA")
    from nearfar import using

    with tables.bar("measuring") as progress:
        found = using.evaluate(
            places[0],
            places[1],
            task=checked.task,
            on=checked.on,
            variant=checked.variant,
            dims=checked.dims,
            data_settings=options.build(DataSettings, checked),
            say=speaker(True),
            progress=progress,
            **own,
        )
    emit(found) if checked.json else tables.evaluation(found)


def run_diagnose(words: list[str]) -> None:
    places, checked, own = measuring(words, "nearfar diagnose MODEL DATA")
    from nearfar import using

    with tables.bar("reading factors") as progress:
        found = using.diagnose(
            places[0],
            places[1],
            task=checked.task,
            on=checked.on,
            variant=checked.variant,
            dims=checked.dims,
            progress=progress,
            data_settings=options.build(DataSettings, checked),
            **own,
        )
    emit(found) if checked.json else tables.diagnosis(found)


def run_embed(words: list[str]) -> None:
    targets = [EmbedOptions, Output, DataSettings]
    places, given = parse(words, targets, (2,), "nearfar embed MODEL DATA --out X")
    checked = options.checked(targets, given)
    from nearfar import using

    if checked.out is None:
        raise InputError("Where to? The option '--out' is missing.", "Write FILE.parquet, FILE.npy or a folder.")
    with tables.bar("embedding") as progress:
        found = using.embed(
            places[0],
            places[1],
            out=checked.out,
            role=checked.role,
            variant=checked.variant,
            dims=checked.dims,
            append=checked.append,
            columns=checked.columns,
            batch_size=checked.batch_size,
            on=checked.on,
            progress=progress,
            say=speaker(True),
            data_settings=options.build(DataSettings, checked),
        )
    if checked.json:
        emit(dataclasses.asdict(found))
        return
    path = found.path
    counts = f"{found.added} rows added, {found.replaced} replaced, {found.left} left as they were"
    terminal.say(f"{path}: {counts}", sys.stdout)
    if not Path(path).suffix:
        terminal.say(f"search it:  nearfar search {path} QUERY", sys.stdout)


def run_cache(words: list[str]) -> None:
    targets = [CacheOptions, Output]
    places, given = parse(words, targets, (0, 1), "nearfar cache [clear]")
    checked = options.checked(targets, given)
    from nearfar.sources import storage

    if places not in ([], ["clear"]):
        raise InputError(
            f"`nearfar cache` has no '{places[0]}'.", "It shows what is kept; `nearfar cache clear` removes."
        )
    if checked.kind is not None and checked.kind not in storage.KINDS:
        raise InputError(f"There is no kind '{checked.kind}'.", f"Kinds: {', '.join(storage.KINDS)}.")
    folder, age = storage.cache_dir(), storage.seconds(checked.unused)
    if places:
        count, freed = storage.clear(folder, checked.kind, age)
        emit({"path": folder, "removed": count, "bytes": freed}) if checked.json else tables.cleared(
            folder, count, freed
        )
        return
    found = storage.summary(folder, checked.kind, age)
    emit(found) if checked.json else tables.cache(found)


def answers(words: list[str], base: list[Any], usage: str, *verbs: str) -> tuple[list[str], Any, dict[str, Any], Any]:
    """Positional words, checked options, those of the model's own among them, and the loaded model."""
    if wants_help(words) and not any(names_model(word) for word in words):
        named = "; one of texts takes classes by their names (--classes, --templates, --top)" * ("predict" in verbs)
        verb = usage.split()[1]
        said = f"A model may have options of its own{named}: nearfar {verb} MODEL --help"
        show_help(usage, base, f"\n{helping.paragraph(said)}\n")
    from nearfar import answering

    named = [word for word in words if not word.startswith("-")]
    if not named:
        raise InputError(f"Expected: {usage}.", "Got 0 arguments.")
    first = named[0] if words[0] == named[0] else next((w for w in named if names_model(w)), named[0])
    model, module = answering.answering(first, *verbs)
    targets = [*base, module.options]
    places, given = parse(words, targets, range(1, 1000), usage)
    checked = options.checked(targets, given)
    return places, checked, {name: given[name] for name in options.names([module.options]) if name in given}, model


def names_model(word: str) -> bool:
    return stores.is_url(word) or Path(word).is_dir()


def run_predict(words: list[str]) -> None:
    usage = "nearfar predict MODEL DATA [--out FILE]"
    places, checked, own, model = answers(words, [PredictOptions, Output, DataSettings], usage, "predict", "score")
    if len(places) != 2:
        raise InputError(f"Expected: {usage}.", f"Got {len(places)} arguments: {' '.join(places)}.")
    from nearfar import answering

    with tables.bar("predicting") as progress:
        found = answering.predict(
            model,
            places[1],
            out=checked.out,
            on=checked.on,
            batch_size=checked.batch_size,
            variant=checked.variant,
            progress=progress,
            data_settings=options.build(DataSettings, checked),
            **own,
        )
    if checked.json:
        emit({"path": found.path, "rows": found.rows()})
    else:
        tables.predictions(found)


def run_generate(words: list[str]) -> None:
    usage = "nearfar generate MODEL [PROMPT...] [--out X]"
    places, checked, own, model = answers(words, [GenerateOptions, Output], usage, "generate")
    from nearfar import answering

    if checked.prompts is not None and len(places) > 1:
        raise InputError("Prompts are given twice: in a file and on the command line.", "Leave one of them out.")
    prompts = places[1:] if checked.prompts is None else lines_of(checked.prompts)
    made = answering.generate(model, prompts, out=checked.out, seed=checked.seed, **own)
    texts = all(isinstance(one, str) for one in made)
    if not texts and checked.out is None:
        raise InputError("This model makes images: where to?", "Add --out FOLDER.")
    if checked.json:
        emit({"path": checked.out, "made": made if texts else len(made)})
    elif checked.out is not None:
        terminal.say(f"{checked.out}: {len(made)} {'texts' if texts else 'images'}", sys.stdout)
    else:
        for one in made:
            terminal.say(one, sys.stdout)


def lines_of(path: str) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        found = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The prompts in '{path}' cannot be read: {error}.", "Give a text file.") from error
    if not found:
        raise InputError(f"'{path}' holds no prompt.", "Write one on each line.")
    return found


def run_search(words: list[str]) -> int:
    from nearfar.cli.search import SearchOptions, search

    targets = [SearchOptions, Output]
    places, given = parse(words, targets, (1, 2), 'nearfar search INDEX "QUERY"|IMAGE|key:KEY')
    checked = options.checked(targets, given)
    query = places[1] if len(places) == 2 else None
    return search(places[0], query, options.build(SearchOptions, checked), checked.json)


def run_serve(words: list[str]) -> None:
    from nearfar.cli.serve import ServeOptions, serve

    places, given = parse(words, [ServeOptions], (1,), "nearfar serve MODEL")
    serve(places[0], options.build(ServeOptions, options.checked([ServeOptions], given)), speaker(False))


def run_explore(words: list[str]) -> None:
    from nearfar.cli.explore import ExploreOptions, show

    targets = [ExploreOptions, DataSettings]
    places, given = parse(words, targets, (1, 2), "nearfar explore INDEX [DATA]")
    checked = options.checked(targets, given)
    data = places[1] if len(places) == 2 else None
    show(places[0], data, options.build(ExploreOptions, checked), options.build(DataSettings, checked), speaker(False))


def run_export(words: list[str]) -> None:
    from nearfar.cli import export

    targets = [export.ExportOptions, Output, DataSettings]
    places, given = parse(words, targets, (1,), "nearfar export MODEL --to FORM")
    checked = options.checked(targets, given)
    done = export.export(places[0], options.build(export.ExportOptions, checked), options.build(DataSettings, checked))
    emit(done.to_dict()) if checked.json else export.show(done, speaker(False))


def run_report(words: list[str]) -> None:
    targets = [ReportOptions, Output]
    places, given = parse(words, targets, range(1, 1000), "nearfar report RUN...")
    checked = options.checked(targets, given)
    from nearfar import using

    path = using.report(*places, out=checked.out, say=speaker(True))
    emit({"path": path}) if checked.json else terminal.say(f"report: {path}", sys.stdout)


def run_demo(words: list[str]) -> None:
    targets = [DemoOptions, Output]
    _, given = parse(words, targets, (0,), "nearfar demo")
    from nearfar.cli.demo import demo

    checked = options.checked(targets, given)
    demo(
        stores.on_disk(checked.out, "the demo shows what lies on this machine"),
        checked.seconds,
        speaker(checked.json),
        checked.json,
    )
