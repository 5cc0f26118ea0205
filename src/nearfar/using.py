"""After training: evaluate, diagnose, embed, report. Each is a command and a Python call of the same name."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nearfar import evaluation, files, indexing, modalities, stores, trained, workers
from nearfar.checks import PositiveInt, check, checked
from nearfar.errors import InputError, did_you_mean
from nearfar.evaluation import tasks
from nearfar.indexing import outputs
from nearfar.indexing.appending import Change, change, check_unique
from nearfar.indexing.payload import CHUNK, Payload
from nearfar.models import open_model
from nearfar.progress import Say, silent
from nearfar.searching import TRAINED, searched
from nearfar.sources import Data
from nearfar.tabular import check_place
from nearfar.training import showing
from nearfar.training.chunks import Chunks, vectors_here, vectors_on
from nearfar.training.engine import CONFIG, DAMAGED, SCORES, versions
from nearfar.training.modelled import ModelEmbedder
from nearfar.training.settings import DataSettings

Progress = Callable[[int, int], None]


@checked
def evaluate(
    model: Any,
    data: Any,
    *,
    task: str | None = None,
    on: str = "test",
    variant: str | None = None,
    dims: PositiveInt | None = None,
    baseline: bool = True,
    data_settings: DataSettings | None = None,
    say: Say = silent,
    progress: Progress | None = None,
    **given: Any,
) -> dict[str, Any]:
    """Scores of a model on data by one task: masks, retrieval (both directions for two columns), kNN, linear probe...

    Args:
        model: a model or its folder; data: path, name, object in memory or Data.
        task: a name of `nearfar.evaluation.tasks.names()`, with options of its own if wanted; default what the method
            of the model names, else the first that the data hold.
        on: the split that is scored.
        variant: which of the vectors of one input, where the model gives several (`Model.variants`).
        dims: of every vector its first numbers alone. None: all of them, and beside them, in rows of their own, the
            prefixes that the model was trained for (`Model.dims`).
        progress: called with (done, all) while rows pass the model.
        baseline: also score what needs no training (chance, raw pixels, HOG, TF-IDF, BM25).
        given: options of the task (ways, shots, queries and episodes of few-shot, layer of dense...), and fields of
            DataSettings.
    """
    if task is not None:
        tasks.parsed(task)
    roles, own = divided(given, data_settings)
    opened = roles.open(data)
    loaded = cut(open_model(model), dims, say)
    measure = evaluation.task_for(opened, task, before=loaded.measured_by, **own)
    embed = ModelEmbedder(loaded, opened, variant=variant)
    embed.progress = progress or embed.progress
    check_towers(embed, measure.roles)
    repeated = measured_twice(loaded, opened, measure.rows(on), on)
    if repeated["rows"]:
        name = model if isinstance(model, (str, Path)) else "the model"
        say(trained.warning(name, repeated["rows"], repeated["of"], f"{on} rows"))
    for one in opened.shared():
        say(f"warning: {one}")
    rows = [{"slug": "model", "label": str(model), **measure.evaluate(embed, on).to_dict()}]
    for width in loaded.dims[1:] if dims is None else ():
        shorter = ModelEmbedder(loaded.truncated(width), opened, variant=variant)
        shorter.progress = embed.progress
        label = f"its first {width} numbers"
        rows.append({"slug": f"model-{width}", "label": label, **measure.evaluate(shorter, on).to_dict()})
    if baseline:
        for one in evaluation.references(opened, measure):
            say(f"measuring: {one.label}")
            rows.append({"slug": one.slug, "label": one.label, **one.evaluate(on).to_dict()})
    return {
        "task": measure.summary(on),
        "data": {"name": opened.name, "hash": opened.hash},
        "split": on,
        "split_hash": opened.split_hash,
        "model_hash": loaded.hash,
        "trained_on": repeated,
        "shared": [str(one) for one in opened.shared()],
        "precision": "32",
        "batch_size": embed.batch_size,
        "seed": None,
        "versions": versions(),
        "rows": rows,
    }


def check_towers(embed: ModelEmbedder, roles: Sequence[str]) -> None:
    """Raises InputError for a role of a task that the model has no tower for."""
    for role in roles:
        if not embed.has(role):
            raise InputError(
                f"This model embeds {', '.join(embed.model.roles)}, but the task asks for {role}.",
                "Choose another --task, or a model with that tower.",
            )


def cut(model: Any, dims: int | None, say: Say) -> Any:
    """The model, or as it gives so many numbers of each vector; says where it was not trained for these."""
    if dims is None:
        return model
    made = model.truncated(dims)
    if dims != model.dim and dims not in model.dims:
        say(untrained_width(model, dims))
    return made


def untrained_width(model: Any, dims: int) -> str:
    """That a model was not trained for its first numbers alone, in words."""
    known = f"for {', '.join(map(str, model.dims))}" if model.dims else "for the whole vector alone (fit --dims)"
    return f"note: the model was trained {known}; its first {dims} numbers may say less than others could"


def divided(given: Mapping[str, Any], data_settings: DataSettings | None) -> tuple[DataSettings, dict[str, Any]]:
    """Keyword options to those of the data and those of a task. Raises InputError for one of neither."""
    modalities.everyone()  # those of other packages add columns of theirs
    known = [*(f.name for f in dataclasses.fields(DataSettings)), *tasks.option_names()]
    for name in given:
        if name not in known:
            raise InputError(f"Unknown option '{name}'.{did_you_mean(name, known)}")
    return columns_of(given, data_settings)


def columns_of(given: Mapping[str, Any], data_settings: DataSettings | None) -> tuple[DataSettings, dict[str, Any]]:
    """Keyword options to those of the data and the others."""
    modalities.everyone()
    mine = [f.name for f in dataclasses.fields(DataSettings)]
    others = {k: v for k, v in given.items() if k not in mine}
    return data_settings or DataSettings(**{k: v for k, v in given.items() if k in mine}), others


def measured_twice(model: Any, data: Any, rows: np.ndarray, what: str) -> dict[str, Any]:
    """How many of the rows the model was trained on, of how many; rows None where its folder does not say."""
    known = model.training_rows
    roles = [role for role in data.content_roles if role in model.roles or modalities.of(role).name in model.modalities]
    count = None if known is None else int(trained.seen(known, data, rows, roles).sum())
    return {"rows": count, "of": len(rows), "split": what}


@checked
def diagnose(
    model: Any,
    data: Any,
    *,
    task: str | None = None,
    on: str = "test",
    variant: str | None = None,
    dims: PositiveInt | None = None,
    progress: Progress | None = None,
    data_settings: DataSettings | None = None,
    **given: Any,
) -> list[dict[str, Any]]:
    """Alignment, uniformity, effective rank, collapse, ... of a model's embedding of a split, each with advice.

    For a model of several stages also which labels each can tell; `progress` is called with (done, all) of them.
    `given`: options of the task, and fields of DataSettings.
    """
    roles, own = divided(given, data_settings)
    opened = roles.open(data)
    measure = evaluation.task_for(opened, task, **own)
    embed = ModelEmbedder(cut(open_model(model), dims, silent), opened, variant=variant)
    if not embed.has(measure.roles[0]):
        measure = evaluation.task_for(opened, "proxy")
    return [d.to_dict() for d in showing.diagnostics(embed, opened, measure, measure.rows(on), progress)]


@dataclass(frozen=True)
class Embedded:
    """An output of `embed`: its path, and how many rows were added to it, replaced in it, and left as they were. It
    stands wherever a path does. On an object store `path` is the URL."""

    path: Path | str
    added: int
    replaced: int
    left: int

    def __fspath__(self) -> str:
        return str(self.path)


@checked
def embed(
    model: Any,
    data: Any,
    *,
    out: str | Path,
    role: str | None = None,
    variant: str | None = None,
    dims: PositiveInt | None = None,
    append: bool = False,
    columns: str | Sequence[str] = "auto",
    batch_size: PositiveInt = 256,
    on: str | None = None,
    progress: Progress | None = None,
    say: Say = silent,
    data_settings: DataSettings | None = None,
    **roles: Any,
) -> Embedded:
    """Embeds every row and writes vectors with their keys, chunk by chunk: memory does not grow with the vectors.

    Args:
        out: FILE.parquet (key, vector and columns), FILE.npy (vectors; keys in FILE.keys.json), or a folder: an index
            for `search`. The first and the last also as a URL of an object store (s3://...).
        role: the column to embed; default the first that the model has a tower for.
        variant: which of the vectors of one input, where the model gives several (`Model.variants`).
        dims: of every vector its first numbers alone, of length 1 by themselves (`Model.truncated`).
        append: add the rows that are not there, and replace those that have changed. A row is known by its id, by the
            path of its file, or, in a table without an id column, by its content.
        columns: those that travel with the vectors: "auto" for all plain ones, "none", or names.
        batch_size: rows a batch.
        on: None: this process computes. "ray" or "ray://HOST:PORT": the workers of a Ray cluster do
            (`nearfar.workers`), chunk by chunk, to the same output.

    Done chunks are kept beside `out` until the end, so an interrupted call goes on where it stopped.
    Raises InputError: a model without a tower for the data, an output that exists (without append), is in use by
    another process or cannot be written, ids given twice, an output of another model or role; a cluster out of reach.
    """
    if on is not None:
        workers.check_on(on)
    if batch_size < 1:
        raise InputError(f"--batch-size must be at least 1. Got {batch_size} instead.")
    check_holds(out, columns)
    modalities.everyone()
    settings = data_settings or DataSettings(**roles)
    with contextlib.ExitStack() as held:
        path, append = held.enter_context(stores.appended(out, append))
        place = outputs.output(path)
        check_free(place, append)
        opened, loaded = settings.open(data), cut(open_model(model), dims, say)
        vectors_of = ModelEmbedder(loaded, opened, batch_size, variant)
        role = embedded_role(role, loaded, opened, vectors_of)
        load = Payload(opened, role, vectors_of.size, chosen_columns(columns) if place.columned else [])
        marks = trained_column(loaded, opened, role)
        if place.columned and columns == "auto" and marks is not None:
            load.mark(TRAINED, marks)
        with files.refused(place.path):
            held.enter_context(files.lock_of(place.path))
        place.recover()
        check_free(place, append)
        facts = {
            "model_hash": loaded.hash,
            "model": stores.origin(Path(loaded.path)) if loaded.path else "",
            "role": role,
            "variant": variant or "",
            "dims": dims or 0,
            "size": vectors_of.size,
            "similarity": loaded.similarity,
            "data": opened.name,
            "sources": {load.source: opened_with(settings, data) | ({"given": True} if opened.given else {})},
            "versions": versions(),
        }
        made = vectors_here(vectors_of, role)
        if on is not None:
            made = vectors_on(on, vectors_of, role, workers.SameData(opened, data, settings), say)
        done = _embed(place, made, load, facts, columns == "auto", progress, say)
    return dataclasses.replace(done, path=str(out)) if stores.is_url(out) else done


def check_holds(out: str | Path, columns: str | Sequence[str]) -> None:
    """Raises InputError for an output that does not hold columns, or that a store would hold in two objects."""
    kind = outputs.output(Path(out))
    if not kind.columned and columns not in ("auto", "none"):
        raise InputError(f"'{out}' holds keys and vectors, no columns.", "Write FILE.parquet or a folder.")
    if stores.is_url(out) and kind.path.suffix == ".npy":
        raise InputError(f"'{out}' would be two objects.", "Write FILE.parquet or a folder to an object store.")


def opened_with(settings: DataSettings, data: Any) -> dict[str, Any]:
    """The settings that open the same data again, as far as they are no defaults; of a Data its roles."""
    if isinstance(data, Data):
        known = {one.name for one in dataclasses.fields(DataSettings)}
        roles = {role: column if isinstance(column, str) else ",".join(column) for role, column in data.roles.items()}
        return {role: column for role, column in roles.items() if role in known} | {"split_seed": data.seed}
    return {one.name: value for one in dataclasses.fields(settings)
            if (value := getattr(settings, one.name)) != one.default}  # fmt: skip


def check_free(place: outputs.Output, append: bool) -> None:
    if place.exists() and not append:
        raise InputError(f"'{place.path}' exists already.", "Add new rows with --append, or choose another --out.")


def embedded_role(role: str | None, loaded: Any, opened: Any, vectors_of: ModelEmbedder) -> str:
    """The role that is embedded: the one asked for, or the first that the model has a tower for."""
    kinds = modalities.everyone()
    order = [one for place in (0, 1) for kind in kinds for one in kind.roles[place : place + 1]]
    able = [one for one in order if one in opened.roles and vectors_of.has(one)]
    found = role or next(iter(able), None)
    if found not in able:
        flags = [f"--{one} COLUMN" for kind in kinds if kind.name in loaded.modalities for one in kind.roles[:1]]
        raise InputError(
            f"This model embeds {', '.join(loaded.roles)}; {opened.name} has {', '.join(opened.roles)}.",
            f"Name the column: {' or '.join(flags)}.",
        )
    return found


def chosen_columns(columns: str | Sequence[str]) -> list[str] | None:
    """Names from "a,b", "none" or a list; None for all plain ones."""
    if columns == "auto":
        return None
    if columns == "none":
        return []
    return [c.strip() for c in columns.split(",") if c.strip()] if isinstance(columns, str) else list(columns)


def trained_column(model: Any, data: Any, role: str) -> Callable[[np.ndarray], list[bool]] | None:
    """Marks rows that the model was trained on; None where its folder does not say."""
    known = model.training_rows
    return None if known is None else lambda rows: trained.seen(known, data, rows, [role]).tolist()


def _embed(
    place: outputs.Output,
    made: Chunks,
    load: Payload,
    facts: dict[str, Any],
    every: bool,
    progress: Progress | None,
    say: Say,
) -> Embedded:
    """Embeds what the output lacks and writes it. every: all plain columns travel, as far as the output has them."""
    before, types = place.exists(), load.types
    if before:
        place.read()
        check_same_kind(place, facts)
        facts = facts | {"sources": place.facts.get("sources", {}) | facts["sources"]}
        left = load.keep(list(place.types))
        if left and not every:
            raise InputError(f"'{place.path}' has no column '{left[0]}'.", "Choose others, or another --out.")
        if left and place.types:
            say(f"left out, as '{place.path}' has no such columns: {', '.join(left)}")
        types = place.types
    for name, column in load.columns.items():
        if name != column:
            say(f"the column '{column}' is stored as '{name}'")
    keys = pa.array([key for rows in chunks(len(load.data)) for key in load.keys(rows)], pa.string())
    check_unique(keys, load.data.name)
    contents = np.concatenate([load.contents(rows, types) for rows in chunks(len(load.data))])
    todo = change(place.known if before else None, keys, contents, load.source, load.named, load.data.name)
    done = Embedded(place.path, todo.added, todo.replaced, todo.left)
    if before and not len(todo.rows):
        sweep_parts(place.path)
        return done
    with parts_of(
        place.path, f"{facts['model_hash']}-{load.data.hash}-{load.role}-{facts['variant']}-{facts['dims']}"
    ) as folder:
        parts = embedded_parts(made, todo.rows, folder, progress)
        dim = np.load(parts[0], mmap_mode="r").shape[1]
        schema = outputs.schema_of(dim, types)
        batches = record_batches(parts, todo, contents, load, schema)
        place.write(schema, batches, facts, len(todo.rows), todo.gone)
    return done


def check_same_kind(place: outputs.Output, facts: dict[str, Any]) -> None:
    """Raises where the stored vectors are those of another model or another column."""
    if place.facts["model_hash"] != facts["model_hash"]:
        raise InputError(
            f"'{place.path}' was made by another model, so its vectors cannot be compared with new ones.",
            "Choose another --out.",
        )
    if place.facts.get("role", facts["role"]) != facts["role"]:
        raise InputError(
            f"'{place.path}' holds the vectors of '{place.facts['role']}', not of '{facts['role']}'.",
            "Choose another --out for each column.",
        )
    if place.facts.get("variant", "") != facts["variant"]:
        raise InputError(
            f"'{place.path}' holds other vectors of the same items "
            f"({place.facts.get('variant') or 'the plain ones'}, not {facts['variant'] or 'the plain ones'}).",
            "Choose another --out for each variant.",
        )
    if place.facts.get("dims", 0) != facts["dims"]:
        held, asked = (
            f"the first {n} numbers" if n else "all numbers" for n in (place.facts.get("dims"), facts["dims"])
        )
        raise InputError(f"'{place.path}' holds {held} of each vector, not {asked}.",
                         "Choose another --out for each of --dims.")  # fmt: skip


def chunks(count: int) -> list[np.ndarray]:
    """Row numbers 0 .. count - 1 in pieces."""
    return [np.arange(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


@contextmanager
def parts_of(out: Path, made_of: str) -> Iterator[Path]:
    """The folder beside `out` where finished chunks wait: another model, other data or another role never meet them. It
    goes when all is written; those of calls that were never finished go as well."""
    key = hashlib.sha256(made_of.encode()).hexdigest()[:12]
    folder = out.parent / f".{out.name}.{key}.parts"
    sweep_parts(out, but=folder)
    with files.writing(out):
        folder.mkdir(exist_ok=True)
    try:
        yield folder
        files.remove(folder)
    finally:
        files.remove_empty([folder])


def sweep_parts(out: Path, but: Path | None = None) -> None:
    """Takes away the chunks of calls that were never finished."""
    for folder in out.parent.glob(f".{glob.escape(out.name)}.*.parts"):
        if folder != but:
            files.remove(folder)


def embedded_parts(made: Chunks, rows: np.ndarray, folder: Path, progress: Progress | None) -> list[Path]:
    """Files of the vectors of the rows, chunk by chunk; a finished chunk that is whole is not computed again."""
    files.tidy_inside(folder)
    pieces = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    found = [folder / f"{n * CHUNK}-{hashlib.sha256(some.tobytes()).hexdigest()[:8]}.npy"
             for n, some in enumerate(pieces)]  # fmt: skip
    missing = [n for n, path in enumerate(found) if files.load_array(path) is None]
    done = len(rows) - sum(len(pieces[n]) for n in missing)
    for place, vectors in made([pieces[n] for n in missing]) if missing else ():
        path, some = found[missing[place]], pieces[missing[place]]
        with files.writing(path):
            files.save_array(path, vectors)
        done += len(some)
        if progress:
            progress(done, len(rows))
    return found


def record_batches(
    parts: list[Path], todo: Change, contents: np.ndarray, load: Payload, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """The rows of an output, a batch for each part."""
    types = {field.name: field.type for field in schema if field.name not in ("key", "vector", *indexing.HIDDEN)}
    for start, path in zip(range(0, len(todo.rows), CHUNK), parts, strict=True):
        rows, vectors = todo.rows[start : start + CHUNK], np.load(path, mmap_mode="r")
        made = load.arrays(rows, types) | {
            "key": todo.keys.slice(start, len(rows)),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1), pa.float32()), vectors.shape[1]),
            "_content": pa.array(contents[rows]),
            "_source": pa.array([load.source] * len(rows), pa.string()),
        }
        yield pa.RecordBatch.from_arrays([made[name] for name in schema.names], schema=schema)


@checked
def report(*runs: str | Path, out: str | Path | None = None, data: Any = None, say: Say = silent) -> Path | str:
    """One HTML page of a comparison's folder, or of one or more run folders on the same data. Folders and page may be
    URLs of object stores. Returns its path.

    data: what the runs were trained on, where it was given in memory: without it the page has no examples and no map of
    them, which is said. Raises InputError for other data.
    """
    from nearfar.reporting import write_report

    for one in runs:
        check("runs", one, str | Path, "argument")
    if not runs:
        raise InputError("report needs at least one folder of a run or a comparison.")
    folders = [stores.local(r, shown_in_report) for r in runs]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"There is no folder '{folder}'.")
    page = stores.below(runs[0], "report.html") if out is None else out
    with stores.written(page, replace=True, check=check_place) as place:
        stored = folders[0] / "results.json"
        if len(folders) == 1 and stored.exists():
            results = files.read_json(stored, RESULTS, "Run the comparison again: finished cells are kept.")
            with files.reading(stored, "Run the comparison again: finished cells are kept."):
                if not results["rows"]:
                    raise files.damaged(stored, "it has no rows", "Run the comparison again: finished cells are kept.")
                write_report(place, results)
        else:
            write_report(place, {}, [run_parts(f, data, say) for f in folders])
    return page if stores.is_url(page) else Path(page)


def shown_in_report(name: str) -> bool:
    """Whether a page is made of what has this name in a run or a comparison."""
    return searched(name) and name.partition("/")[0] != "best"


RESULTS = {"rows": list, "task": dict, "data": dict}


def run_parts(folder: Path, data: Any = None, say: Say = silent) -> dict[str, Any]:
    """A run folder's parts as the report takes them."""
    path, scores, shown = folder / "config.json", folder / "scores.json", folder / "shown.json"
    if not path.exists():
        raise InputError(f"'{folder}' is neither a run nor a comparison of nearfar.")
    config = files.read_json(path, CONFIG, DAMAGED)
    with files.reading(path, DAMAGED):
        parts: dict[str, Any] = {
            "config": config | {"seed": config["settings"]["seed"]},
            "path": str(stores.named(folder)),
        }
    parts["curve"] = showing.curve(folder)
    if scores.exists():
        stored = files.read_json(scores, SCORES, DAMAGED)
        with files.reading(scores, DAMAGED):
            test = stored["scores"].get("test") or stored["scores"].get("val")
            if test:
                parts["scores"] = test | stored["cost"] | {"task": stored["summary"]}
    if not shown.exists() and (folder / "model" / "config.json").exists():
        if data is None and config.get("data_given"):
            say(
                f"note: the data of '{folder}' were given in memory ({config['data']}), so the report shows no "
                f"examples and no map of them; in Python: nearfar.report({str(folder)!r}, data=data)"
            )
        else:
            files.write_json(shown, illustrated(folder, config, data))
    if shown.exists():
        parts |= files.read_json(shown, {}, "Delete it: it is made again.")
    return parts


def illustrated(folder: Path, config: dict[str, Any], data: Any = None) -> dict[str, Any]:
    """Diagnostics, examples and map of a run's model; nothing where its data are no longer there or have changed. data:
    in place of those that the run names; others are an error."""
    from nearfar.training.building import task_of
    from nearfar.training.settings import TrainSettings

    path = folder / "config.json"
    try:
        with files.reading(path, DAMAGED):
            data_settings, settings = DataSettings(**config["data_settings"]), TrainSettings(**config["settings"])
    except InputError as error:
        raise error if str(path) in error.message else files.damaged(path, error.message, DAMAGED) from error
    try:
        opened = data_settings.open(config["data"] if data is None else data)
    except InputError:
        if data is not None:
            raise
        return {}
    if opened.hash != config["data_hash"]:
        if data is not None:
            raise InputError(f"'{folder}' was not trained on these data ({opened.name}).", "Give those that it had.")
        return {}
    task = task_of(config["method"], opened, settings)
    return showing.illustrate(folder / "model", opened, task)
