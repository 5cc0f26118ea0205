"""Build an index and add to it. An index is a folder, written beside its place and moved there as a whole: a LanceDB
table, what a search reads (`nearfar.indexing.stored`), and `index.json` with the checksum of every file."""

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
from nearfar.indexing import approximate, stored
from nearfar.indexing.index import FORMAT, META, TABLE, Index, is_index, open_index
from nearfar.indexing.stored import EXPLORED, HIDDEN, ROWS, VECTORS, WORDS, Rows
from nearfar.vectors import as_vectors, normalise

BATCH = 16_384
RESERVED = ("key", "vector", "score", "vector_rank", "text_rank", "_distance", stored.ID, *HIDDEN)


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
        reader = pa.RecordBatchReader.from_batches(schema, batches)
        _seal(fresh, lancedb.connect(str(fresh)).create_table(TABLE, data=reader), facts)
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
        derived = shutil.ignore_patterns(META, VECTORS, ROWS, WORDS, EXPLORED)
        shutil.copytree(index.path, fresh, copy_function=_shared, ignore=derived)
        table = lancedb.connect(str(fresh)).open_table(TABLE)
        request = table.merge_insert("key").when_not_matched_insert_all()
        if duplicates == "replace":
            request = request.when_matched_update_all()
        request.execute(pa.RecordBatchReader.from_batches(index.schema, batches))
        _seal(fresh, table, index.meta | dict(meta or {}))
    return open_index(index.path)


def _shared(source: str, target: str) -> None:
    """A second name for a file of the table, which the engine never changes; a copy where that is not possible."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _seal(folder: Path, table: Any, facts: Mapping[str, Any]) -> None:
    """Writes what a search reads beside a table, an approximate index into a large one, and index.json, with the
    checksum of every file."""
    facts = {name: value for name, value in facts.items() if name != "approximate"}
    large = 4 * facts["dim"] * table.count_rows() >= approximate.LARGE
    if large:
        approximate.build(table)
    stored.write(folder, table)
    if large:
        vectors = np.asarray(np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False))
        facts["approximate"] = approximate.measured(table, Rows.read(folder / ROWS), vectors)
    held = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != META)
    listed = {path.relative_to(folder).as_posix(): files.digest(path) for path in held}
    files.write_json(folder / META, facts | {"files": listed}, checksum=True)


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
