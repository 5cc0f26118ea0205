"""What a search reads of an index beside its table, mapped into memory as it is: no engine is started for it.

vectors.npy      float32 (n, d), in the order of storage
rows.arrow       key and columns of each item, and its row id in the table
bm25/            words of the text columns, where there are some
explore/         places on a map and neighbours, where somebody looked (`nearfar.exploring`); no part of the index
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nearfar.bm25 import BM25

VECTORS, ROWS, WORDS = "vectors.npy", "rows.arrow", "bm25"
EXPLORED = "explore"
ID = "_rowid"
HIDDEN = ("_content", "_source")  # what tells rows apart when more are appended; not shown
INNER = ("key", "vector", ID, *HIDDEN)


class Rows:
    """The items of an index in the order of storage: keys, columns, row ids in the table."""

    def __init__(self, table: pa.Table):
        self.batches = table.to_batches()
        self.schema: pa.Schema = table.schema
        self.columns = [name for name in table.schema.names if name not in INNER]
        self.texts = [name for name in self.columns if pa.types.is_string(table.schema.field(name).type)]
        self.starts = np.cumsum([0, *(len(batch) for batch in self.batches)]).tolist()

    @classmethod
    def read(cls, path: Path) -> Rows:
        return cls(pa.ipc.open_file(pa.memory_map(str(path))).read_all())

    def __len__(self) -> int:
        return self.starts[-1]

    def take(self, places: Iterable[int]) -> list[dict[str, Any]]:
        """Key and columns of some items."""
        names, found = ["key", *self.columns], []
        for place in places:
            batch = bisect_right(self.starts, place) - 1
            row = self.batches[batch].slice(place - self.starts[batch], 1)
            found.append({name: row.column(name)[0].as_py() for name in names})
        return found

    def keys(self) -> list[str]:
        return [key for batch in self.batches for key in batch.column("key").to_pylist()]

    def row_of(self, key: str) -> int | None:
        """Where the item of a key stands, or None."""
        return self._by_key.get(key)

    @cached_property
    def _by_key(self) -> dict[str, int]:
        return {key: place for place, key in enumerate(self.keys())}

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Where the items of some row ids stand."""
        order, known = self._by_id
        return order[np.searchsorted(known, ids)]

    @cached_property
    def _by_id(self) -> tuple[np.ndarray, np.ndarray]:
        ids = np.concatenate([batch.column(ID).to_numpy() for batch in self.batches] or [np.zeros(0, np.uint64)])
        order = np.argsort(ids, kind="stable")
        return order, ids[order]

    def documents(self) -> Iterator[str]:
        """The texts of each item, one behind the other."""
        for batch in self.batches:
            for texts in zip(*(batch.column(name).to_pylist() for name in self.texts), strict=True):
                yield " ".join(text for text in texts if text)


def scanned(table: Any) -> Iterator[pa.RecordBatch]:
    """Keys, vectors, columns and row ids of a table, in the order of storage."""
    names = [name for name in table.schema.names if name not in HIDDEN]
    return iter(table.search().select(names).with_row_id(True).to_batches())


def write(folder: Path, table: Any) -> None:
    """Writes what a search reads beside the table."""
    names = [name for name in table.schema.names if name not in ("vector", *HIDDEN)]
    schema = pa.schema([*(table.schema.field(name) for name in names), (ID, pa.uint64())])
    shape = (table.count_rows(), table.schema.field("vector").type.list_size)
    with (folder / VECTORS).open("wb") as file, pa.ipc.new_file(folder / ROWS, schema) as rows:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for batch in scanned(table):
            file.write(np.ascontiguousarray(flat(batch), "<f4").tobytes())
            rows.write_batch(pa.RecordBatch.from_arrays([batch[name] for name in schema.names], schema=schema))
    found = Rows.read(folder / ROWS)
    if found.texts:
        BM25.of(found.documents()).save(folder / WORDS)


def in_memory(table: Any) -> tuple[Rows, np.ndarray]:
    """The same of an index that was written without."""
    batches = list(scanned(table))
    width = table.schema.field("vector").type.list_size
    vectors = np.concatenate([flat(batch) for batch in batches] or [np.zeros(0, np.float32)]).reshape(-1, width)
    return Rows(pa.Table.from_batches([batch.drop_columns(["vector"]) for batch in batches])), vectors


def flat(batch: pa.RecordBatch) -> np.ndarray:
    """The numbers of the vectors of a batch, one vector behind the other."""
    vectors: Any = batch.column("vector")
    return vectors.flatten().to_numpy()
