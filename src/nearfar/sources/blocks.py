"""Blocks of rows as one Arrow file of the cache, named by what they hold: a few blocks are in memory at once, the types
may grow on the way, and what breaks off leaves nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features
from datasets.features.features import _ArrayXD

from nearfar.errors import InputError
from nearfar.sources.contents import content_digest
from nearfar.sources.storage import entry, new_entry, temporary

ROWS, BYTES = 4096, 16 << 20  # of a batch as it is written


def kept(cache: Path, kind: str, blocks: Iterable[pa.Table], where: str) -> tuple[Dataset, str]:
    """The blocks as one memory-mapped table, and the digest of their content, by which equal rows are kept once.

    kind: of `storage.KINDS`. Raises InputError that names the column where the types of two blocks do not go together.
    """
    (cache / kind).mkdir(mode=0o700, exist_ok=True)
    with temporary(cache / kind / "rows") as folder:
        folder.mkdir()
        file = written(folder, blocks, where)
        table = Dataset.from_file(str(file))
        digest = content_digest(batches_of(table), table.features)
        path = place_of(cache, kind, digest)
        if not entry(path):
            with new_entry(path) as fresh:
                os.replace(file, fresh)
    return Dataset.from_file(str(path)), digest


def place_of(cache: Path, kind: str, digest: str) -> Path:
    """Where rows of this content lie."""
    return cache / kind / f"{digest[:32]}.arrow"


def batches_of(table: Dataset) -> Iterator[pa.RecordBatch]:
    """All rows as they are stored, in their order; nothing is decoded, and a file that is mapped stays so."""
    if table._indices is None:
        yield from table.data.table.to_batches(ROWS)
    else:
        for block in table.with_format("arrow").iter(ROWS):
            found: Any = block
            yield from found.to_batches()


def written(folder: Path, blocks: Iterable[pa.Table], where: str) -> Path:
    """One file of all blocks. Where the types grow, a file of the wider ones is begun; all are joined at the end."""
    parts: list[_Part] = []
    features, rows, before = Features(), 0, None
    try:
        for block in map(flattened, blocks):
            if before is None or not block.schema.equals(before, check_metadata=True):
                before = block.schema
                grown = merged(features, Features.from_arrow_schema(before), where, rows)
                if not parts or grown != features:
                    parts.append(_Part(folder / f"{len(parts)}.arrow", grown.arrow_schema))
                    features = grown
            parts[-1].add(cast(block, parts[-1].schema, where))
            rows += len(block)
        if not parts:
            parts.append(_Part(folder / "0.arrow", pa.schema([])))
    finally:
        for part in parts:
            part.close()
    if len(parts) == 1:
        return parts[0].path
    whole = _Part(folder / "whole.arrow", features.arrow_schema)
    try:
        for part in parts:
            for batch in Dataset.from_file(str(part.path)).data.table.to_batches():
                whole.add(cast(pa.table(batch), features.arrow_schema, where))
    finally:
        whole.close()
    return whole.path


class _Part:
    """An Arrow file that is being written, small blocks together."""

    def __init__(self, path: Path, schema: pa.Schema):
        self.path, self.schema = path, schema
        self.waiting: list[pa.Table] = []
        self.sink: Any = pa.OSFile(str(path), "wb")
        self.writer: Any = pa.ipc.new_stream(self.sink, schema)

    def add(self, block: pa.Table) -> None:
        self.waiting.append(block)
        if sum(map(len, self.waiting)) >= ROWS or sum(one.nbytes for one in self.waiting) >= BYTES:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            for batch in pa.concat_tables(self.waiting).combine_chunks().to_batches(ROWS):
                self.writer.write_batch(batch)
        self.waiting = []

    def close(self) -> None:
        if self.writer is not None:
            self.flush()
            self.writer.close()
            self.sink.close()
        self.writer = None


def merged(known: Features, more: Features, where: str, rows: int) -> Features:
    """What columns hold, given a further block behind so many rows: an empty column takes any type, numbers the wider
    one; a column that a block lacks is empty there."""
    found = dict(known)
    for name, feature in more.items():
        before = known.get(name)
        if before is None or before == feature or _type(before) == pa.null():
            found[name] = feature
            continue
        if isinstance(before, ClassLabel) or isinstance(feature, ClassLabel):
            raise InputError(f"{where}: the classes of the column '{name}' change after {rows:,} rows.",
                             "Give all rows the same classes: cast_column(NAME, ClassLabel(names=...)).")  # fmt: skip
        if _type(feature) == pa.null() or _type(feature) == _type(before):
            continue
        try:
            both = [pa.schema([(name, _type(one))]) for one in (before, feature)]
            found[name] = Features.from_arrow_schema(pa.unify_schemas(both, promote_options="permissive"))[name]
        except pa.ArrowException as error:
            raise InputError(
                f"{where}: the column '{name}' holds {_type(before)} in the first {rows:,} rows and {_type(feature)} "
                "behind them.",
                "Give every row values of one type.",
            ) from error
    return Features(found)


def _type(feature: Any) -> pa.DataType:
    return Features({"": feature}).arrow_schema.field(0).type


def cast(block: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """The block with these columns."""
    columns = []
    for one in schema:
        place = block.schema.get_field_index(one.name)
        try:
            columns.append(block.column(place).cast(one.type) if place >= 0 else pa.nulls(len(block), one.type))
        except pa.ArrowException as error:
            raise InputError(f"{where}: the column '{one.name}' does not become {one.type} ({error}).") from error
    return pa.table(columns, schema=schema)


def flattened(block: pa.Table) -> pa.Table:
    """Arrays of numbers in cells (Array2D...) as one list of numbers a row."""
    if not any(isinstance(one.type, pa.ExtensionType) for one in block.schema):
        return block
    for place, (name, feature) in enumerate(Features.from_arrow_schema(block.schema).items()):
        if isinstance(feature, _ArrayXD) and None not in feature.shape:
            lists = pa.chunked_array([_lists(chunk, math.prod(feature.shape)) for chunk in block.column(place).chunks],
                                     pa.list_(_inner(block.schema.field(place).type.storage_type)))  # fmt: skip
            schema = block.schema.remove_metadata().set(place, pa.field(name, lists.type))
            others = Features.from_arrow_schema(block.schema)
            others[name] = Features.from_arrow_schema(pa.schema([schema.field(place)]))[name]
            block = pa.table([*block.columns[:place], lists, *block.columns[place + 1 :]], schema=others.arrow_schema)
    return block


def arrays_in(features: Features) -> list[str]:
    """The columns that `flattened` changes."""
    return [name for name, one in features.items() if isinstance(one, _ArrayXD) and None not in one.shape]


def _inner(kind: pa.DataType) -> pa.DataType:
    return _inner(kind.value_type) if pa.types.is_nested(kind) else kind


def _lists(array: Any, width: int) -> pa.Array:
    values = array.storage
    there = values.is_valid().to_numpy(zero_copy_only=False)
    while pa.types.is_nested(values.type):
        values = values.flatten()
    ends = np.concatenate([[0], np.cumsum(there * width)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), values, mask=pa.array(~there))
