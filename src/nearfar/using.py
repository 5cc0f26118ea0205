"""After training: evaluate, diagnose, embed, search, report. Each is a command and a Python call of the same name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nearfar import evaluation, indexing, models, trained
from nearfar.errors import InputError
from nearfar.training import showing
from nearfar.training.engine import Say, silent, versions, write_json
from nearfar.training.modelled import ModelEmbedder
from nearfar.training.settings import DataSettings

Progress = Callable[[int, int], None]
CHUNK = 4096
TRAINED = "trained_on"  # the column that marks rows which the model was trained on


def open_model(model: Any) -> Any:
    """A loaded model as it is; a model folder, or a run folder that holds one, loaded."""
    if isinstance(model, models.Model):
        return model
    path = Path(model)
    inner = next((path / n for n in ("model", "best") if (path / n / "config.json").exists()), None)
    return models.load(inner or path)


def evaluate(
    model: Any,
    data: Any,
    *,
    task: str | None = None,
    on: str = "test",
    baseline: bool = True,
    few_shot: Mapping[str, Any] | None = None,
    layer: int | None = None,
    data_settings: DataSettings | None = None,
    say: Say = silent,
    progress: Progress | None = None,
    **roles: Any,
) -> dict[str, Any]:
    """Scores of a model on data: masks, retrieval (both directions for two columns), kNN and linear probe.

    Args:
        model: a model or its folder; data: path, name or Data.
        task: dense, pairs, groups, labels, few-shot or proxy; default the first that the data hold.
        on: the split that is scored.
        layer: of a picture encoder, from 1 on, whose map the dense task reads; default the last.
        few_shot: ways (5, or fewer where fewer classes are held out), shots (1, 5), queries (15) and count (600) of the
            episodes of the few-shot task.
        progress: called with (done, all) while rows pass the model.
        baseline: also score what needs no training (chance, raw pixels, HOG, TF-IDF, BM25).
    """
    opened = (data_settings or DataSettings(**roles)).open(data)
    loaded, measure = open_model(model), evaluation.task_for(opened, task, few_shot=few_shot, layer=layer)
    embed = ModelEmbedder(loaded, opened)
    embed.progress = progress or embed.progress
    for role in measure.roles:
        if not embed.has(role):
            raise InputError(
                f"This model embeds {', '.join(loaded.roles)}, but the task asks for {role}.",
                "Choose another --task, or a model with that tower.",
            )
    told = measured_twice(loaded, opened, measure.rows(on), on)
    if told["rows"]:
        name = model if isinstance(model, (str, Path)) else "the model"
        say(trained.warning(name, told["rows"], told["of"], f"{on} rows"))
    for one in opened.shared():
        say(f"warning: {one}")
    rows = [{"slug": "model", "label": str(model), **measure.evaluate(embed, on).to_dict()}]
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
        "trained_on": told,
        "shared": [str(one) for one in opened.shared()],
        "precision": "32",
        "batch_size": embed.batch_size,
        "seed": None,
        "versions": versions(),
        "rows": rows,
    }


def measured_twice(model: Any, data: Any, rows: np.ndarray, what: str) -> dict[str, Any]:
    """How many of the rows the model was trained on, of how many; rows None where its folder does not say."""
    known = model.training_rows
    roles = [role for role in data.content_roles if role in model.roles or role.split("_")[0] in model.modalities]
    count = None if known is None else int(trained.seen(known, data, rows, roles).sum())
    return {"rows": count, "of": len(rows), "split": what}


def diagnose(
    model: Any,
    data: Any,
    *,
    task: str | None = None,
    on: str = "test",
    progress: Progress | None = None,
    data_settings: DataSettings | None = None,
    **roles: Any,
) -> list[dict[str, Any]]:
    """Alignment, uniformity, effective rank, collapse, ... of a model's embedding of a split, each with advice.

    For a model of several stages also which labels each can tell; `progress` is called with (done, all) of them.
    """
    opened = (data_settings or DataSettings(**roles)).open(data)
    measure = evaluation.task_for(opened, task)
    embed = ModelEmbedder(open_model(model), opened)
    if not embed.has(measure.roles[0]):
        measure = evaluation.task_for(opened, "proxy")
    return [d.to_dict() for d in showing.diagnostics(embed, opened, measure, measure.rows(on), progress)]


def embed(
    model: Any,
    data: Any,
    *,
    out: str | Path,
    role: str | None = None,
    append: bool = False,
    batch_size: int = 256,
    progress: Progress | None = None,
    data_settings: DataSettings | None = None,
    **roles: Any,
) -> Path:
    """Embeds every row and writes vectors with their keys.

    Args:
        out: FILE.parquet (key, vector and the columns), FILE.npy (vectors; keys in FILE.keys.json), or a folder: an
            index for `search`.
        role: the column to embed; default the first that the model has a tower for.
        append: add rows whose keys are not there yet (new files of a folder, say).

    Done chunks are kept beside `out` until the end, so an interrupted call goes on where it stopped.
    Raises InputError: a model without a tower for the data, an output that exists (without append) or cannot be
    written, an index of another model.
    """
    out = Path(out)
    opened, loaded = (data_settings or DataSettings(**roles)).open(data), open_model(model)
    vectors_of = ModelEmbedder(loaded, opened, batch_size)
    role = role or next(
        (r for r in ("image", "text", "image_b", "text_b") if r in opened.roles and vectors_of.has(r)), None
    )
    if role is None or role not in opened.roles:
        raise InputError(
            f"This model embeds {', '.join(loaded.roles)}; {opened.name} has {', '.join(opened.roles)}.",
            "Name the column: --text COLUMN or --image COLUMN.",
        )
    known = existing_keys(out, append, loaded.hash)
    rows = np.array([i for i, k in enumerate(opened.keys) if k not in known], dtype=np.int64)
    vectors = chunked(vectors_of, role, rows, parts_folder(out, loaded.hash, opened.hash, role), progress)
    keys = [opened.keys[i] for i in rows]
    facts = {
        "model_hash": loaded.hash,
        "model": str(Path(loaded.path).resolve()) if loaded.path else "",
        "role": role,
        "data": opened.name,
        "versions": versions(),
    }
    write_vectors(out, vectors, keys, payload(opened, rows) | trained_column(loaded, opened, role, rows), facts, append)
    shutil.rmtree(parts_folder(out, loaded.hash, opened.hash, role), ignore_errors=True)
    return out


def parts_folder(out: Path, model_hash: str, data_hash: str, role: str) -> Path:
    """Where finished chunks wait: another model, other data or another role never meet them."""
    key = hashlib.sha256(f"{model_hash}-{data_hash}-{role}".encode()).hexdigest()[:12]
    return out.parent / f".{out.name}.{key}.parts"


def chunked(vectors_of: Any, role: str, rows: np.ndarray, folder: Path, progress: Progress | None) -> np.ndarray:
    """Vectors of the rows, chunk by chunk; a finished chunk is read instead of computed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write to '{folder.parent}': {error.strerror}.", "Choose another --out.") from None
    parts = []
    for start in range(0, len(rows), CHUNK):
        some = rows[start : start + CHUNK]
        path = folder / f"{start}-{hashlib.sha256(some.tobytes()).hexdigest()[:8]}.npy"
        if path.exists():
            parts.append(np.load(path, allow_pickle=False))
        else:
            parts.append(vectors_of(role, some))
            with open(path.with_suffix(".tmp"), "wb") as file:
                np.save(file, parts[-1])
            os.replace(path.with_suffix(".tmp"), path)
        if progress:
            progress(min(start + CHUNK, len(rows)), len(rows))
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def payload(data: Any, rows: np.ndarray) -> dict[str, list[Any]]:
    """Columns that travel with the vectors: texts, labels, groups, domains and paths of pictures."""
    found: dict[str, list[Any]] = {}
    for role, columns in data.roles.items():
        for column in columns if isinstance(columns, list) else [columns]:
            if role in ("negative", "id") or column in ("key", "vector", "score"):
                continue
            values = [data.values(column, rows[i : i + CHUNK]) for i in range(0, len(rows), CHUNK)]
            flat = [v for part in values for v in part]
            if all(v is None or isinstance(v, (str, int, float, bool)) for v in flat):
                found[column] = flat
    return found


def trained_column(model: Any, data: Any, role: str, rows: np.ndarray) -> dict[str, list[Any]]:
    """A column that marks the rows that the model was trained on; none where its folder does not say, or where the
    data have a column of that name."""
    known = model.training_rows
    if known is None or TRAINED in data.table.column_names:
        return {}
    return {TRAINED: trained.seen(known, data, rows, [role]).tolist()}


def existing_keys(out: Path, append: bool, model_hash: str) -> set[str]:
    """Keys that `out` holds already. Raises where it exists and nothing is to be appended."""
    if not out.exists():
        return set()
    if not append:
        raise InputError(f"'{out}' exists already.", "Add new rows with --append, or choose another --out.")
    if out.suffix == ".parquet":
        import pyarrow.parquet as pq

        check_hash(out, (pq.read_schema(out).metadata or {}).get(b"model_hash", b"").decode(), model_hash)
        return set(pq.read_table(out, columns=["key"])["key"].to_pylist())
    if out.suffix == ".npy":
        facts = json.loads(keys_path(out).read_text())
        check_hash(out, facts["model_hash"], model_hash)
        return set(facts["keys"])
    return set(indexing.open_index(out, model_hash).keys())


def check_hash(out: Path, stored: str, mine: str) -> None:
    if stored != mine:
        raise InputError(
            f"'{out}' was made by another model, so its vectors cannot be compared with new ones.",
            "Choose another --out.",
        )


def keys_path(out: Path) -> Path:
    return out.with_suffix(".keys.json")


def write_vectors(
    out: Path,
    vectors: np.ndarray,
    keys: Sequence[str],
    columns: dict[str, list[Any]],
    facts: dict[str, Any],
    append: bool,
) -> None:
    if out.suffix == ".parquet":
        write_parquet(out, vectors, keys, columns, facts, append)
    elif out.suffix == ".npy":
        if append and out.exists():
            vectors = np.concatenate([np.load(out, allow_pickle=False), vectors]) if len(vectors) else np.load(out)
            keys = json.loads(keys_path(out).read_text())["keys"] + list(keys)
        part = out.with_suffix(".npy.tmp")
        with part.open("wb") as file:
            np.save(file, vectors)
        write_json(keys_path(out), facts | {"keys": list(keys)})
        os.replace(part, out)
    elif out.suffix:
        raise InputError(f"Unknown kind of output '{out.suffix}'.", "Use .parquet, .npy or a folder (an index).")
    elif len(vectors):
        indexing.build_index(out, vectors, keys, columns, model_hash=facts["model_hash"], append=append, meta=facts)


def write_parquet(
    out: Path,
    vectors: np.ndarray,
    keys: Sequence[str],
    columns: dict[str, list[Any]],
    facts: dict[str, Any],
    append: bool,
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    width = vectors.shape[1] if vectors.size else 0
    table = pa.table({"key": list(keys), **columns})
    if vectors.size:
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1), pa.float32()), width)
        table = table.append_column("vector", flat)
    meta = {"model_hash": facts["model_hash"], "nearfar": json.dumps(facts)}
    if append and out.exists():
        before = pq.read_table(out)
        table = pa.concat_tables([before, table], promote_options="default") if len(keys) else before
    part = out.with_suffix(".parquet.tmp")
    pq.write_table(table.replace_schema_metadata(meta), part)
    os.replace(part, out)


def search(
    where_from: str | Path,
    query: Any,
    *,
    k: int = 10,
    where: str | None = None,
    model: Any = None,
    role: str | None = None,
) -> list[dict[str, Any]]:
    """The nearest items of an index to a text, a picture or one of its own items.

    Args:
        where_from: an index (`nearfar embed MODEL DATA --out INDEX`), or a model folder that holds one as index/.
        query: a text, the path of a picture, a PIL picture, or "key:KEY" for an item of the index.
        k: number of hits; where: filter in SQL over the index's columns.
        model: the model to embed the query with; default the one that built the index, found by its path.

    Returns dicts with key, score (cosine) and the columns; `trained_on` is true for items that the model was trained
    on. Raises InputError for a stale or missing index, a model
    that cannot embed such a query, a filter that does not work.
    """
    path = Path(where_from)
    place = path if indexing.is_index(path) else path / "index"
    if not indexing.is_index(place):
        hint = (
            f"Make one: nearfar embed {path} DATA --out {path / 'index'}"
            if (path / "config.json").exists()
            else "`nearfar embed MODEL DATA --out INDEX` makes one."
        )
        raise InputError(f"There is no index at '{path}'.", hint)
    index = indexing.open_index(place)
    if isinstance(query, str) and query.startswith("key:"):
        return index.search(stored_vector(index, query[4:]), k, where)
    loaded = open_model(model or index.meta.get("model") or path)
    indexing.open_index(place, loaded.hash)
    return index.search(query_vector(loaded, query, role), k, where)


def stored_vector(index: Any, key: str) -> np.ndarray:
    from nearfar.errors import did_you_mean

    vector = index.vector(key)
    if vector is None:
        raise InputError(f"The index has no item '{key}'.{did_you_mean(key, index.keys()[:20000])}")
    return vector


def query_vector(model: Any, query: Any, role: str | None) -> np.ndarray:
    """Vector of a text, or of a picture (PIL, or the path of a file)."""
    if not isinstance(query, str):
        return model.embed([query], role)[0]
    looks_like_file = Path(query).suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
    if looks_like_file:
        if not Path(query).is_file():
            raise InputError(f"There is no picture '{query}'.")
        if "image" not in model.modalities:
            raise InputError("This model embeds texts only.", "Give a text as the query.")
        return model.embed_images([Path(query)], role)[0]
    if "text" not in model.modalities:
        raise InputError(
            "This model embeds pictures only, so it cannot search by a text.",
            "Give the path of a picture, or key:KEY for an item of the index.",
        )
    if not query.strip():
        raise InputError("The query is empty.")
    return model.embed_texts([query], role)[0]


def report(*runs: str | Path, out: str | Path | None = None) -> Path:
    """One HTML page of a comparison's folder, or of one or more run folders on the same data. Returns its path."""
    from nearfar.reporting import write_report

    if not runs:
        raise InputError("report needs at least one folder of a run or a comparison.")
    folders = [Path(r) for r in runs]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"There is no folder '{folder}'.")
    if len(folders) == 1 and (folders[0] / "results.json").exists():
        return write_report(out or folders[0] / "report.html", json.loads((folders[0] / "results.json").read_text()))
    return write_report(out or folders[0] / "report.html", {}, [run_parts(f) for f in folders])


def run_parts(folder: Path) -> dict[str, Any]:
    """A run folder's parts as the report takes them."""
    if not (folder / "config.json").exists():
        raise InputError(f"'{folder}' is neither a run nor a comparison of nearfar.")
    config = json.loads((folder / "config.json").read_text())
    parts: dict[str, Any] = {
        "config": config | {"seed": config["settings"]["seed"]},
        "path": str(folder),
        "curve": showing.curve(folder),
    }
    if (folder / "scores.json").exists():
        told = json.loads((folder / "scores.json").read_text())
        test = told["scores"].get("test") or told["scores"].get("val")
        if test:
            parts["scores"] = test | told["cost"] | {"task": told["summary"]}
    shown = folder / "shown.json"
    if not shown.exists() and (folder / "model" / "config.json").exists():
        write_json(shown, illustrated(folder, config))
    if shown.exists():
        parts |= json.loads(shown.read_text())
    return parts


def illustrated(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Diagnostics, examples and map of a run's model; nothing where its data are no longer there or have changed."""
    from nearfar.training.building import task_of
    from nearfar.training.settings import TrainSettings

    try:
        opened = DataSettings(**config["data_settings"]).open(config["data"])
    except InputError:
        return {}
    if opened.hash != config["data_hash"]:
        return {}
    task = task_of(config["method"], opened, TrainSettings(**config["settings"]))
    return showing.illustrate(folder / "model", opened, task)
