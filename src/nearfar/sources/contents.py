"""The digest of what columns hold, however they are stored: blocks, slices, dictionaries and the width of offsets do
not count, so the same rows come to the same digest from a memory-mapped file, a frame or a stream."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from datasets import ClassLabel

pc: Any = pyarrow.compute
BLOCK = 16_384  # rows that are looked at together
Path = tuple[str, ...]


def content_digest(batches: Iterable[pa.RecordBatch], features: Mapping[str, Any]) -> str:
    """Hex digest of rows in batches of any sizes. features: of `datasets`, whose names of classes give numbers their
    meaning."""
    seen = _Seen()
    for batch in batches:
        for start in range(0, len(batch), BLOCK):
            for name, column in zip(batch.schema.names, batch.slice(start, BLOCK).columns, strict=True):
                seen.add((name,), column)
    whole = hashlib.sha256()
    for path, part in seen.parts.items():
        whole.update(repr((path, part.kind, part.count)).encode("utf-8", "surrogatepass"))
        for state in (part.nulls, part.lengths, part.values):
            whole.update(state.digest())
    classes = [(name, one.names) for name, one in features.items() if isinstance(one, ClassLabel)]
    whole.update(repr(classes).encode("utf-8", "surrogatepass"))
    return whole.hexdigest()


@dataclass
class _Part:
    """One column, or what is inside one: each of its three streams of bytes is fed by itself, so that it does not
    matter where a block ends."""

    kind: str = "null"
    count: int = 0
    nulls: Any = field(default_factory=hashlib.sha256)
    lengths: Any = field(default_factory=hashlib.sha256)
    values: Any = field(default_factory=hashlib.sha256)


class _Seen:
    def __init__(self):
        self.parts: dict[Path, _Part] = {}

    def add(self, path: Path, array: pa.Array) -> None:
        text = _is_text(array.type)
        array = _plain(array)
        part = self.parts.setdefault(path, _Part())
        if array.null_count:
            places = part.count + np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))
            part.nulls.update(places.astype(np.int64).tobytes())
            there = array.drop_null()
        else:
            there = array
        part.count += len(array)
        if pa.types.is_null(array.type):
            return
        kind = array.type
        if pa.types.is_large_binary(kind):
            part.kind = "text" if text else "bytes"
            self._words(part, there)
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            part.kind = "list"
            part.lengths.update(pc.list_value_length(there).to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
            self.add((*path, "[]"), there.flatten())
        elif pa.types.is_struct(kind):
            part.kind = "struct"
            for inner, column in sorted(zip((one.name for one in kind), there.flatten(), strict=True)):
                self.add((*path, inner), column)
        else:
            part.kind = str(kind)
            part.values.update(np.ascontiguousarray(there.to_numpy(zero_copy_only=False)).tobytes())

    def _words(self, part: _Part, array: pa.Array) -> None:
        _, offsets, data = array.buffers()
        ends = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
        part.lengths.update(np.diff(ends).tobytes())
        if data is not None and len(ends):
            part.values.update(memoryview(data)[ends[0] : ends[-1]])


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _plain(array: pa.Array) -> pa.Array:
    """The same as large bytes, lists, structs or fixed numbers."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind, types = array.type, pa.types
    if types.is_string_view(kind):
        array = array.cast(pa.large_string())
    elif types.is_binary_view(kind) or types.is_fixed_size_binary(kind):
        array = array.cast(pa.large_binary())
    elif types.is_boolean(kind):
        array = array.cast(pa.uint8())
    elif types.is_date32(kind) or types.is_time32(kind):
        array = array.view(pa.int32())
    elif types.is_temporal(kind) and not types.is_interval(kind):
        array = array.view(pa.int64())
    elif types.is_decimal(kind):
        array = array.cast(pa.large_string())
    return array.cast(pa.large_binary()) if _is_text(array.type) or types.is_binary(array.type) else array
