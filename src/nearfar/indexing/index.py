"""Build, open and search an index. An index is a folder: a LanceDB table and `index.json`, which is written last.

Search is exact: no approximate index is built, and below some 100,000 vectors none would be faster.
"""

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from nearfar import files
from nearfar.errors import InputError, NearfarError
from nearfar.evaluation.neighbours import as_vectors, normalise
from nearfar.indexing.filters import wrong_filter

FORMAT, META, TABLE, BATCH = 1, "index.json", "items", 16_384
HIDDEN = ("_content", "_source")  # what tells rows apart when more are appended; not shown
RESERVED = ("key", "vector", "score", "_distance", *HIDDEN)
FIELDS = {"format": int, "model_hash": str, "dim": int}
DAMAGED = "Build it anew: nearfar embed MODEL DATA --out INDEX."


class Index:
    """An open index. `columns`: payload columns; `model_hash`, `dim` and `meta`: as stored."""

    def __init__(self, path: Path, meta: dict[str, Any], table: Any):
        self.path, self.meta, self._table = path, meta, table
        self.model_hash, self.dim = str(meta["model_hash"]), int(meta["dim"])
        self.schema: pa.Schema = table.schema
        self.columns = [name for name in table.schema.names if name not in ("key", "vector", *HIDDEN)]

    def __len__(self) -> int:
        return self._table.count_rows()

    def keys(self) -> list[str]:
        """The keys of all items, in the order of storage."""
        return self.rows(["key"])["key"].to_pylist()

    def rows(self, columns: Sequence[str]) -> pa.Table:
        """Some columns of all items, in the order of storage."""
        return self._table.search().select(list(columns)).limit(max(1, len(self))).to_arrow().select(list(columns))

    def check_model(self, model_hash: str) -> None:
        """Raises InputError where another model built the index: its vectors would not be comparable."""
        if self.model_hash != model_hash:
            raise InputError(
                f"The index {self.path} was built by another model ({self.model_hash[:12]}, not "
                f"{model_hash[:12]}), so its vectors cannot be compared.",
                "Build it anew with this model, or search with the model that built it.",
            )

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
            raise InputError(
                f"The query vector has {len(query)} dimensions, the index {self.path} has {self.dim}.",
                "Embed the query with the model that built the index.",
            )
        if k < 1:
            raise InputError(f"k must be at least 1. Got {k} instead.")
        shown = [self.schema.field(name) for name in ("key", *self.columns)]
        if where is not None and not where.strip():
            raise wrong_filter(where, shown)
        request = self._table.search(query, vector_column_name="vector").distance_type("dot").bypass_vector_index()
        if where is not None:
            request = request.where(where, prefilter=True)
        try:
            found = request.select(["key", *self.columns, "_distance"]).limit(k).to_list()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the engine panics with what is no Exception
            if where is None:
                raise InputError(f"The index {self.path} cannot be searched: it is damaged.", DAMAGED) from error
            raise wrong_filter(where, shown) from None
        return [
            {name: value for name, value in row.items() if name != "_distance"}
            | {"score": min(1.0, max(-1.0, 1 - row["_distance"]))}
            for row in found
        ]


def is_index(path: str | Path) -> bool:
    """Whether a complete index stands at the path."""
    return (Path(path) / META).is_file()


def build_index(
    path: str | Path,
    vectors: Any,
    keys: Sequence[str],
    payload: Mapping[str, Sequence[Any]] | None = None,
    *,
    model_hash: str,
    append: bool = False,
    duplicates: Literal["replace", "skip", "error"] = "replace",
    meta: Mapping[str, Any] | None = None,
) -> Index:
    """Stores vectors (n, d) under unique keys with payload columns (lists of n strings, numbers, truth values or None).

    A new index is built beside its place and moved there when complete, so that an interrupted build leaves an
    earlier index as it was. append=True adds to an index of the same model in one transaction; keys that it already
    has are replaced, skipped or an error. `meta`: further facts to store (JSON).
    Raises InputError for keys given twice, columns of another length, a folder that is not an index, or (append) an
    index of another model, size or columns; NearfarError where nothing can be written.
    """
    path, vectors = Path(path), as_vectors(vectors, "vectors")
    columns = _checked(vectors, keys, payload or {})
    with files.writing(path), files.lock_of(path):
        if append and is_index(path):
            return _append(open_index(path, model_hash), vectors, list(keys), columns, duplicates)
        schema = index_schema(vectors.shape[1], {name: column.type for name, column in columns.items()})
        return write_index(path, schema, _batches(vectors, keys, columns, schema), model_hash=model_hash, meta=meta)


def index_schema(dim: int, columns: Mapping[str, pa.DataType]) -> pa.Schema:
    """Keys, vectors of a length, and payload columns."""
    return pa.schema([("key", pa.string()), ("vector", pa.list_(pa.float32(), dim)), *columns.items()])


def write_index(
    path: Path,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    *,
    model_hash: str,
    meta: Mapping[str, Any] | None = None,
) -> Index:
    """Stores record batches of `index_schema` as they come; see `build_index`. The caller holds the path's lock."""
    import lancedb

    if path.exists() and not is_index(path) and (path.is_file() or any(path.iterdir())):
        raise InputError(f"{path} exists and is not a nearfar index.", "Give another path, or remove it first.")
    dim = schema.field("vector").type.list_size
    facts = dict(meta or {}) | {"format": FORMAT, "model_hash": model_hash, "dim": dim}
    with _writing(path), files.whole(path) as fresh:
        fresh.mkdir()
        lancedb.connect(str(fresh)).create_table(TABLE, data=pa.RecordBatchReader.from_batches(schema, batches))
        _seal(fresh, facts)
    return open_index(path, model_hash)


def merge_index(
    index: Index,
    batches: Iterable[pa.RecordBatch],
    *,
    duplicates: Literal["replace", "skip"] = "replace",
    meta: Mapping[str, Any] | None = None,
) -> Index:
    """Adds record batches of the index's schema; items whose keys it has are replaced or skipped. The index changes at
    once, when all of it is written. The caller holds the path's lock."""
    import lancedb

    with _writing(index.path), files.whole(index.path) as fresh:
        shutil.copytree(index.path, fresh, copy_function=_shared)
        request = lancedb.connect(str(fresh)).open_table(TABLE).merge_insert("key").when_not_matched_insert_all()
        if duplicates == "replace":
            request = request.when_matched_update_all()
        request.execute(pa.RecordBatchReader.from_batches(index.schema, batches))
        _seal(fresh, index.meta | dict(meta or {}))
    return open_index(index.path)


def _shared(source: str, target: str) -> None:
    """A second name for a file of the table, which the engine never changes; a copy where that is not possible."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes index.json, with the checksum of every file of the table."""
    held = sorted(path for path in (folder / f"{TABLE}.lance").rglob("*") if path.is_file())
    listed = {path.relative_to(folder).as_posix(): files.digest(path) for path in held}
    files.write_json(folder / META, dict(facts) | {"files": listed}, checksum=True)


def open_index(path: str | Path, model_hash: str | None = None) -> Index:
    """Opens a complete index. Raises InputError where there is none, or where it was built by another model than the
    one of `model_hash`: its vectors would not be comparable."""
    import lancedb

    path = Path(path)
    files.tidy(path)  # an earlier index that was being replaced comes back
    if not is_index(path):
        raise InputError(f"There is no nearfar index at {path}.", "`nearfar embed MODEL DATA` builds one.")
    meta = files.read_json(path / META, FIELDS, DAMAGED, FORMAT)
    files.check_fields({"files": {}} | meta, {"files": [str]}, path / META, DAMAGED)
    with files.reading(path / META, DAMAGED):
        for name, digest in meta.get("files", {}).items():
            if files.digest(path / name) != digest:
                raise files.damaged(path / name, "its content is not what was written", DAMAGED)
    try:
        table = lancedb.connect(str(path)).open_table(TABLE)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise InputError(f"The index {path} is damaged: its table cannot be opened.", DAMAGED) from error
    index = Index(path, meta, table)
    if model_hash is not None:
        index.check_model(model_hash)
    return index


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


def _batches(
    vectors: np.ndarray, keys: Sequence[str], columns: dict[str, pa.Array], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(keys), BATCH):
        part = slice(start, min(start + BATCH, len(keys)))
        flat = pa.array(normalise(vectors[part]).astype(np.float32).ravel())
        yield pa.RecordBatch.from_arrays(
            [
                pa.array(list(keys[part]), pa.string()),
                pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
                *(column[part].cast(schema.field(name).type) for name, column in columns.items()),
            ],
            schema=schema,
        )


def _append(index: Index, vectors: np.ndarray, keys: list[str], columns: dict[str, pa.Array], duplicates: str) -> Index:
    if vectors.shape[1] != index.dim:
        raise InputError(f"The vectors have {vectors.shape[1]} dimensions, the index {index.path} has {index.dim}.")
    if sorted(columns) != sorted(index.columns):
        raise InputError(
            f"The columns are {sorted(columns)}, those of the index {index.path} {sorted(index.columns)}.",
            "Append with the same payload.",
        )
    known = set(index.keys()).intersection(keys)
    if known and duplicates == "error":
        raise InputError(f"{len(known)} of the keys are in the index already (first: '{min(known)}').")
    columns = {name: columns[name] for name in index.columns}
    try:
        rows = list(_batches(vectors, keys, columns, index.schema))
    except pa.ArrowException as error:
        raise InputError(f"A column does not fit the index {index.path}: {_first_line(error)}.") from error
    return merge_index(index, rows, duplicates="skip" if duplicates == "skip" else "replace")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """The engine's own errors, of a full disk for instance, are told like those of the system."""
    try:
        with files.writing(path, "An earlier index is as it was."):
            yield
    except RuntimeError as error:
        said = "the disk is full" if re.search("no space|disk quota", str(error), re.IGNORECASE) else _first_line(error)
        raise NearfarError(f"The index {path} cannot be written: {said}.", "An earlier index is as it was.") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")[:300]
