"""Build, open and search an index. An index is a folder: a LanceDB table and `index.json`, which is written last.

Search is exact: no approximate index is built, and below some 100,000 vectors none would be faster.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from nearfar.errors import InputError, NearfarError, did_you_mean
from nearfar.evaluation.neighbours import as_vectors, normalise

FORMAT, META, TABLE, BATCH = 1, "index.json", "items", 16_384
RESERVED = ("key", "vector", "score", "_distance")


class Index:
    """An open index. `columns`: payload columns; `model_hash`, `dim` and `meta`: as stored."""

    def __init__(self, path: Path, meta: dict[str, Any], table: Any):
        self.path, self.meta, self._table = path, meta, table
        self.model_hash, self.dim = str(meta["model_hash"]), int(meta["dim"])
        self.columns = [name for name in table.schema.names if name not in ("key", "vector")]

    def __len__(self) -> int:
        return self._table.count_rows()

    def keys(self) -> list[str]:
        """The keys of all items, in the order of storage."""
        return self._table.search().select(["key"]).limit(max(1, len(self))).to_arrow()["key"].to_pylist()

    def vector(self, key: str) -> np.ndarray | None:
        """The stored vector (d,) of an item, or None where there is no such key."""
        quoted = key.replace("'", "''")
        found = self._table.search().where(f"key = '{quoted}'").select(["vector"]).limit(1).to_list()
        return np.asarray(found[0]["vector"], np.float32) if found else None

    def search(self, vector: Any, k: int = 10, where: str | None = None) -> list[dict[str, Any]]:
        """The k nearest items of a vector (d,) by cosine, exactly: dicts of key, payload columns and score (-1..1).

        where: a filter in SQL over the payload columns ("style = 'noto' and year > 2000"), applied before ranking.
        Raises InputError for a vector of another size, k < 1, or a filter that LanceDB does not understand.
        """
        query = normalise(np.asarray(vector, np.float32).reshape(1, -1), "query vector")[0].astype(np.float32)
        if len(query) != self.dim:
            raise InputError(f"The query vector has {len(query)} dimensions, the index {self.path} has {self.dim}.",
                             "Embed the query with the model that built the index.")
        if k < 1:
            raise InputError(f"k must be at least 1. Got {k} instead.")
        request = self._table.search(query, vector_column_name="vector").distance_type("dot").bypass_vector_index()
        if where:
            request = request.where(where, prefilter=True)
        try:
            found = request.select(["key", *self.columns, "_distance"]).limit(k).to_list()
        except Exception as error:
            if where is None:
                raise NearfarError(f"The index {self.path} cannot be searched: {_first_line(error)}") from error
            raise InputError(f"The filter \"{where}\" does not work: {_first_line(error)}.",
                             self._filter_hint(where)) from error
        return [{name: value for name, value in row.items() if name != "_distance"}
                | {"score": 1 - row["_distance"]} for row in found]

    def _filter_hint(self, where: str) -> str:
        names = ["key", *self.columns]
        unknown = [word for word in re.findall(r"(?<!['\w])[A-Za-z_]\w*", re.sub(r"'[^']*'", "", where))
                   if word not in names and word.lower() not in ("and", "or", "not", "in", "is", "null", "like")]
        return f"Columns: {', '.join(names)}.{did_you_mean(unknown[0], names) if unknown else ''}"


def is_index(path: str | Path) -> bool:
    """Whether a complete index stands at the path."""
    return (Path(path) / META).is_file()


def build_index(path: str | Path, vectors: Any, keys: Sequence[str], payload: Mapping[str, Sequence[Any]] | None = None,
                *, model_hash: str, append: bool = False, duplicates: Literal["replace", "skip", "error"] = "replace",
                meta: Mapping[str, Any] | None = None) -> Index:
    """Stores vectors (n, d) under unique keys with payload columns (lists of n strings, numbers, truth values or None).

    A new index is built beside its place and moved there when complete, so that an interrupted build leaves an
    earlier index as it was. append=True adds to an index of the same model in one transaction; keys that it already
    has are replaced, skipped or an error. `meta`: further facts to store (JSON).
    Raises InputError for keys given twice, columns of another length, a folder that is not an index, or (append) an
    index of another model, size or columns; NearfarError where nothing can be written.
    """
    path, vectors = Path(path), as_vectors(vectors, "vectors")
    columns = _checked(vectors, keys, payload or {})
    if append and is_index(path):
        return _append(open_index(path, model_hash), vectors, list(keys), columns, duplicates)
    if path.exists() and not is_index(path) and (path.is_file() or any(path.iterdir())):
        raise InputError(f"{path} exists and is not a nearfar index.", "Give another path, or remove it first.")
    facts = {"format": FORMAT, "model_hash": model_hash, "dim": vectors.shape[1], **(meta or {})}
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            _create(fresh, vectors, keys, columns)
            (fresh / META).write_text(json.dumps(facts, indent=1))
            _put_in_place(fresh, path)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return open_index(path, model_hash)


def open_index(path: str | Path, model_hash: str | None = None) -> Index:
    """Opens a complete index. Raises InputError where there is none, or where it was built by another model than the
    one of `model_hash`: its vectors would not be comparable."""
    import lancedb
    path = Path(path)
    if not is_index(path):
        raise InputError(f"There is no nearfar index at {path}.", "`nearfar embed MODEL DATA` builds one.")
    meta = json.loads((path / META).read_text())
    if meta.get("format") != FORMAT:
        raise InputError(f"The index {path} has the format {meta.get('format')}; this version reads {FORMAT}.",
                         "Build it anew.")
    if model_hash is not None and meta["model_hash"] != model_hash:
        raise InputError(f"The index {path} was built by another model ({meta['model_hash'][:12]}, not "
                         f"{model_hash[:12]}), so its vectors cannot be compared.",
                         "Build it anew with this model, or search with the model that built it.")
    try:
        table = lancedb.connect(str(path)).open_table(TABLE)
    except Exception as error:
        raise NearfarError(f"The index {path} cannot be read: {_first_line(error)}", "Build it anew.") from error
    return Index(path, meta, table)


def _checked(vectors: np.ndarray, keys: Sequence[str], payload: Mapping[str, Sequence[Any]]) -> dict[str, pa.Array]:
    if len(keys) != len(vectors):
        raise InputError(f"There are {len(vectors)} vectors and {len(keys)} keys.")
    if not len(keys):
        raise InputError("There is nothing to index: no vectors were given.")
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise InputError(f"The key '{key}' is given twice.", "Keys must be unique, as paths are.")
        seen.add(key)
    columns = {}
    for name, values in payload.items():
        if name in RESERVED:
            raise InputError(f"A payload column may not be called '{name}'.", f"Reserved: {', '.join(RESERVED)}.")
        if len(values) != len(keys):
            raise InputError(f"The column '{name}' has {len(values)} values for {len(keys)} items.")
        columns[name] = pa.array(values.tolist() if isinstance(values, np.ndarray) else list(values))
        if pa.types.is_null(columns[name].type):
            columns[name] = columns[name].cast(pa.string())
    return columns


def _batches(vectors: np.ndarray, keys: Sequence[str], columns: dict[str, pa.Array],
             schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(keys), BATCH):
        part = slice(start, min(start + BATCH, len(keys)))
        flat = pa.array(normalise(vectors[part]).astype(np.float32).ravel())
        yield pa.RecordBatch.from_arrays(
            [pa.array(list(keys[part]), pa.string()), pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
             *(column[part].cast(schema.field(name).type) for name, column in columns.items())], schema=schema)


def _create(folder: Path, vectors: np.ndarray, keys: Sequence[str], columns: dict[str, pa.Array]) -> None:
    import lancedb
    schema = pa.schema([("key", pa.string()), ("vector", pa.list_(pa.float32(), vectors.shape[1])),
                        *((name, column.type) for name, column in columns.items())])
    lancedb.connect(str(folder)).create_table(TABLE, data=_batches(vectors, keys, columns, schema), schema=schema)


def _append(index: Index, vectors: np.ndarray, keys: list[str], columns: dict[str, pa.Array],
            duplicates: str) -> Index:
    if vectors.shape[1] != index.dim:
        raise InputError(f"The vectors have {vectors.shape[1]} dimensions, the index {index.path} has {index.dim}.")
    if sorted(columns) != sorted(index.columns):
        raise InputError(f"The columns are {sorted(columns)}, those of the index {index.path} {sorted(index.columns)}.",
                         "Append with the same payload.")
    known = set(index.keys()).intersection(keys)
    if known and duplicates == "error":
        raise InputError(f"{len(known)} of the keys are in the index already (first: '{min(known)}').")
    columns = {name: columns[name] for name in index.columns}
    request = index._table.merge_insert("key").when_not_matched_insert_all()
    if duplicates == "replace":
        request = request.when_matched_update_all()
    try:
        schema = pa.schema([index._table.schema.field(name) for name in ("key", "vector", *index.columns)])
        rows = pa.Table.from_batches(_batches(vectors, keys, columns, schema), schema=schema)
    except pa.ArrowException as error:
        raise InputError(f"A column does not fit the index {index.path}: {_first_line(error)}.") from error
    with _writing(index.path):
        request.execute(rows)
    return open_index(index.path)


def _put_in_place(fresh: Path, path: Path) -> None:
    if not path.exists():
        os.replace(fresh, path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    os.replace(path, old / "index")
    try:
        os.replace(fresh, path)
    except OSError:
        os.replace(old / "index", path)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NearfarError(f"The index {path} cannot be written: {error.strerror or error}.",
                           "Check the permissions and the free space; an earlier index is as it was.") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")[:300]
