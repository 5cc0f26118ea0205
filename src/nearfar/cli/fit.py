"""`nearfar fit`: one method is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearfar import files, options, processes, stores
from nearfar.cli import help as helping
from nearfar.cli import tables
from nearfar.cli.common import Output, emit, parse, show_help, speaker, wants_help, written
from nearfar.errors import InputError
from nearfar.training.settings import DataSettings, TrainSettings


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


BASE = [FitOptions, Output, TrainSettings, DataSettings]
USAGE = "nearfar fit [METHOD] DATA"


def run_fit(words: list[str]) -> None:
    from nearfar import methods

    named = next((w for w in words if w in methods.slugs()), None)
    if wants_help(words):
        show_help(USAGE, BASE, helping.method(named))
    method, data, given = asked(words, named)
    if data is None:
        raise InputError(f"Expected: {USAGE}.", "Name the data: a path, or emoji.")
    if data in methods.slugs() and not Path(data).exists():
        raise InputError(f"'{data}' is a method; the data are missing.", f"Expected: {USAGE}.")
    checked = options.checked(targets_of(method), given)
    own = {k: v for k, v in given.items() if k not in options.names(BASE)}
    from nearfar.training.engine import fit

    run = fit(
        method,
        data,
        out=checked.out,
        resume=checked.resume,
        dry_run=checked.dry_run,
        on=checked.on,
        settings=options.build(TrainSettings, checked),
        data_settings=options.build(DataSettings, checked),
        say=speaker(checked.json),
        command=written("fit", words),
        **own,
    )
    if not processes.leader():
        return
    if checked.json:
        emit({"path": run.path, "method": run.method, "plan": run.plan, "scores": run.scores, "cost": run.cost})
    elif run.path is not None:
        tables.run(run)


def targets_of(method: str | None) -> list[Any]:
    """Whose options a command takes, that of a method's where one is named."""
    from nearfar import methods

    return [*BASE, methods.get(method)] if method else BASE


def asked(words: list[str], named: str | None) -> tuple[str | None, str | None, dict[str, Any]]:
    """Method, data and options: of the command line, of --config beneath it, and of the run that goes on."""
    places, given = parse(words, targets_of(named), (0, 1, 2), USAGE)
    method, data = (places[0], places[1]) if len(places) == 2 else (None, places[0] if places else None)
    targets_of(method)  # a method that is unknown is told before a file of options is read
    if "config" in given:
        from_file = options.from_file(given["config"], lambda values: targets_of(method or values.get("method")))
        method, data = method or from_file.pop("method", None), data or from_file.pop("data", None)
        given = {k: v for k, v in from_file.items() if k not in ("method", "data")} | given
    if data is None and given.get("resume") and given.get("out"):
        return remembered(given)
    return method, data, given


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
