"""Where vectors go: a parquet file, a .npy file with its keys beside it, or a folder that is an index. Each is written
as its rows come, whole or not at all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nearfar import files
from nearfar.errors import InputError
from nearfar.indexing.building import index_schema, merge_index, write_index
from nearfar.indexing.index import Index, is_index, open_index
from nearfar.indexing.stored import HIDDEN
from nearfar.terminal import visible

DAMAGED = "Delete it and embed anew."
IDENTITY = ["key", *HIDDEN]
Batches = Iterable[pa.RecordBatch]
Gone = frozenset[str]


class Output:
    """One kind of output. `facts`: what was stored beside the vectors; `known`: key, _content and _source of its rows.
    `types`: its columns."""

    columned = True  # whether columns go beside the vectors
    facts: dict[str, Any]
    known: pa.Table
    types: dict[str, pa.DataType]

    def __init__(self, path: Path):
        self.path = path

    def exists(self) -> bool:
        return self.path.exists()

    def read(self) -> None:
        """Fills facts, known and types. Raises InputError where it is damaged."""
        raise NotImplementedError

    def array(self) -> np.ndarray:
        """Its vectors, float32 (n, d), in the order of `known`."""
        raise NotImplementedError

    def write(self, schema: pa.Schema, batches: Batches, facts: dict[str, Any], count: int, gone: Gone) -> None:
        """The rows that it has, but for those whose keys are `gone`, and `count` new ones."""
        raise NotImplementedError

    def recover(self) -> None:
        """Finishes or undoes what a killed process left. The caller holds the lock."""
        files.tidy(self.path)


def output(path: Path) -> Output:
    """The output of a path, by its ending. Raises InputError for an unknown one, and for a name that a database or a
    terminal would stumble over."""
    if visible(path) != str(path):
        raise InputError(f"The name of the output, '{path}', holds control characters.", "Choose another --out.")
    if path.suffix == ".parquet":
        return Parquet(path)
    if path.suffix == ".npy":
        return Npy(path)
    if path.suffix:
        raise InputError(f"Unknown kind of output '{path.suffix}'.", "Use .parquet, .npy or a folder (an index).")
    return Folder(path)


def _checked(table: pa.Table, path: Path) -> pa.Table:
    if not set(IDENTITY) <= set(table.schema.names):
        raise InputError(f"'{path}' does not say what its rows were made of, so none can be added.",
                         "Embed all rows anew to another --out.")  # fmt: skip
    return table.select(IDENTITY)


class Parquet(Output):
    """Key, columns and vector of each row; facts in the metadata of the schema; pages have checksums."""

    def read(self) -> None:
        import pyarrow.parquet as pq

        with files.reading(self.path, DAMAGED):
            schema = pq.read_schema(self.path)
            facts = json.loads((schema.metadata or {})[b"nearfar"])
            files.check_fields(facts, {"model_hash": str}, self.path, DAMAGED)
            held = [name for name in IDENTITY if name in schema.names]
            self.known = _checked(pq.read_table(self.path, columns=held, page_checksum_verification=True), self.path)
        self.facts, hidden = facts, {*IDENTITY, "vector"}
        self.types = {field.name: field.type for field in schema if field.name not in hidden}

    def write(self, schema: pa.Schema, batches: Batches, facts: dict[str, Any], count: int, gone: Gone) -> None:
        import pyarrow.parquet as pq

        meta = {"model_hash": facts["model_hash"], "nearfar": json.dumps(facts)}
        with files.writing(self.path), files.whole(self.path) as fresh, \
                pq.ParquetWriter(fresh, schema.with_metadata(meta), write_page_checksum=True) as writer:  # fmt: skip
            for batch in self._kept(schema, gone) if self.exists() else ():
                writer.write_batch(batch)
            for batch in batches:
                writer.write_batch(batch.replace_schema_metadata(meta))

    def array(self) -> np.ndarray:
        import pyarrow.parquet as pq

        with files.reading(self.path, DAMAGED):
            held = pq.read_table(self.path, columns=["vector"])["vector"].combine_chunks()
        return held.flatten().to_numpy().reshape(len(held), -1)

    def _kept(self, schema: pa.Schema, gone: Gone) -> Iterator[pa.RecordBatch]:
        import pyarrow.compute
        import pyarrow.parquet as pq

        pc: Any = pyarrow.compute
        away = pa.array(sorted(gone), pa.string())
        read = files.reading(self.path, DAMAGED)
        with read, pq.ParquetFile(self.path, page_checksum_verification=True) as before:
            for batch in before.iter_batches(4096):
                kept = batch.filter(pc.invert(pc.is_in(batch["key"], value_set=away)))
                yield pa.RecordBatch.from_arrays([kept[name] for name in schema.names], names=schema.names)


class Npy(Output):
    """Vectors float32 (n, d); their keys, contents, sources (`source` counts in `sources`) and the facts stand in
    NAME.keys.json, with the checksum of the vectors. New vectors wait as .NAME.pending until the keys are written:
    whichever of the two moves a process dies between, the next start finishes."""

    columned = False
    FIELDS = {"model_hash": str, "keys": list}

    def __init__(self, path: Path):
        super().__init__(path)
        self.keys_path, self.pending = path.with_suffix(".keys.json"), path.with_name(f".{path.name}.pending")

    def recover(self) -> None:
        super().recover()
        files.tidy(self.pending)
        files.tidy(self.keys_path)
        if not self.pending.exists():
            return
        with contextlib.suppress(InputError):
            stored = files.read_json(self.keys_path, self.FIELDS, DAMAGED)
            if stored.get("sha256") == files.digest(self.pending):
                self.pending.replace(self.path)
        files.remove(self.pending)

    def read(self) -> None:
        facts = files.read_json(self.keys_path, self.FIELDS, DAMAGED)
        with files.reading(self.path, DAMAGED):
            self.vectors = np.load(self.path, mmap_mode="r", allow_pickle=False)
            if self.vectors.ndim != 2 or len(self.vectors) != len(facts["keys"]):
                raise files.damaged(self.path, f"it holds an array of shape {self.vectors.shape}, and {self.keys_path} "
                                    f"{len(facts['keys'])} keys", DAMAGED)  # fmt: skip
            if facts.get("sha256", "") not in ("", files.digest(self.path)):
                raise files.damaged(self.path, f"it is not the file that {self.keys_path} belongs to", DAMAGED)
        with files.reading(self.keys_path, DAMAGED):
            rows = {"key": pa.array(facts.pop("keys"), pa.string())}
            if "contents" in facts:
                codes, names = pa.array(facts.pop("source"), pa.int64()), pa.array(facts.pop("sources"), pa.string())
                rows |= {"_content": pa.array(facts.pop("contents"), pa.int64()), "_source": names.take(codes)}
            self.known = _checked(pa.table(rows), self.path)
        self.facts, self.types = facts, {}

    def array(self) -> np.ndarray:
        return self.vectors

    def write(self, schema: pa.Schema, batches: Batches, facts: dict[str, Any], count: int, gone: Gone) -> None:
        kept = np.zeros(0, np.int64)
        before = None
        if self.exists():
            before = self.known
            kept = np.flatnonzero([key not in gone for key in before["key"].to_pylist()])
        tables = [] if before is None else [before.take(kept)]
        width = schema.field("vector").type.list_size
        with files.writing(self.path), files.whole(self.pending) as fresh:
            with fresh.open("wb") as file:
                header = {"descr": "<f4", "fortran_order": False, "shape": (len(kept) + count, width)}
                np.lib.format.write_array_header_1_0(file, header)
                for start in range(0, len(kept), 4096):
                    file.write(np.ascontiguousarray(self.vectors[kept[start : start + 4096]], "<f4").tobytes())
                for batch in batches:
                    file.write(np.ascontiguousarray(batch["vector"].flatten().to_numpy(), "<f4").tobytes())
                    tables.append(pa.table({name: batch[name] for name in IDENTITY}))
            found = files.digest(fresh)
        rows = pa.concat_tables(tables).combine_chunks()
        sources = rows["_source"].combine_chunks().dictionary_encode()
        listed = {"keys": rows["key"].to_pylist(), "contents": rows["_content"].to_pylist(),
                  "source": sources.indices.to_pylist(), "sources": sources.dictionary.to_pylist()}  # fmt: skip
        with files.writing(self.path):
            files.write_json(self.keys_path, facts | {"sha256": found} | listed, checksum=True, indent=None)
            self.pending.replace(self.path)


class Folder(Output):
    """An index, as `search` takes it."""

    index: Index

    def exists(self) -> bool:
        return self.path.exists() and (is_index(self.path) or self.path.is_file() or any(self.path.iterdir()))

    def read(self) -> None:
        self.index = open_index(self.path)
        held = [name for name in IDENTITY if name in self.index.schema.names]
        self.known = _checked(self.index.rows(held), self.path)
        self.types = {name: self.index.schema.field(name).type for name in self.index.columns}
        self.facts = self.index.meta

    def write(self, schema: pa.Schema, batches: Batches, facts: dict[str, Any], count: int, gone: Gone) -> None:
        if self.exists():
            merge_index(self.index, batches, meta=facts)
        else:
            write_index(self.path, schema, batches, model_hash=facts["model_hash"], meta=facts)


def schema_of(dim: int, types: dict[str, pa.DataType]) -> pa.Schema:
    """Key, vector, columns, and what tells rows apart when more are appended."""
    return index_schema(dim, types | {"_content": pa.int64(), "_source": pa.string()})
