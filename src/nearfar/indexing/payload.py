"""What travels with the vectors of rows: their keys, the user's plain columns, and what tells a changed row."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from datasets import ClassLabel

from nearfar import modalities
from nearfar.errors import InputError, did_you_mean
from nearfar.indexing.building import RESERVED
from nearfar.indexing.stored import HIDDEN
from nearfar.sources.raw import NO_VALUE, column_of, missing
from nearfar.stores import origin

if TYPE_CHECKING:
    from nearfar.sources.data import Data

CHUNK = 4096
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*|(?=\.))(\.[0-9]+)?([eE][+-]?[0-9]+)?")

pc: Any = pyarrow.compute


def plain_type(kind: pa.DataType) -> pa.DataType | None:
    """The type under which a column travels; None for lists, images and other things that a filter cannot ask."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_null(kind) or pa.types.is_large_string(kind) or pa.types.is_string(kind):
        return pa.string()
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_decimal(kind):
        return pa.float64()
    if pa.types.is_date(kind):
        return pa.date32()
    asked = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_timestamp)
    return kind if any(test(kind) for test in asked) else None


def type_of_words(column: pa.ChunkedArray) -> pa.DataType:
    """Numbers where all words of a column that say something are such, else texts; a zero in front (007) is none."""
    filled, whole = False, True
    for chunk in column.chunks:
        words = [word.strip() for word in pc.unique(chunk).to_pylist() if not missing(word)]
        if not all(_DECIMAL.fullmatch(word) and math.isfinite(float(word)) for word in words):
            return pa.string()
        filled, whole = filled or bool(words), whole and all(map(_WHOLE.fullmatch, words))
    return pa.string() if not filled else pa.int64() if whole else pa.float64()


def numbers(words: pa.Array, kind: pa.DataType) -> pa.Array:
    """Words as numbers, null for those that say nothing. Raises pa.ArrowException for others."""
    words = pc.utf8_trim_whitespace(words)
    nothing = pc.is_in(pc.utf8_lower(words), value_set=pa.array(sorted(NO_VALUE), words.type))
    return pc.if_else(nothing, pa.scalar(None, words.type), words).cast(kind)


class Payload:
    """The columns of data that go beside vectors.

    Args:
        data: an opened Data; role: the column that is embedded; size: side of the images that the model
            sees, or None.
        wanted: names of columns, or None for all plain ones.

    Raises InputError for a column that is not there or not plain.
    """

    def __init__(self, data: Data, role: str, size: int | None, wanted: Sequence[str] | None = None):
        self.data, self.role, self.size = data, role, size
        self.arrow = data.table.features.arrow_schema
        self.id = data.roles.get("id") or data._raw.row_column
        ours = [name for name in self.arrow.names if name.startswith("__")]
        found = [n for n in self.arrow.names if n not in ours and plain_type(self.arrow.field(n).type) is not None]
        for name in wanted or ():
            if name not in found:
                kind = f"holds {self.arrow.field(name).type}" if name in self.arrow.names else "is not there"
                raise InputError(
                    f"The column '{name}' of {data.name} cannot travel with the vectors: it {kind}."
                    f"{did_you_mean(name, found)}",
                    f"Plain columns: {', '.join(found) or 'none'}.",
                )
        self.columns: dict[str, str] = {}
        self.marks: dict[str, Callable[[np.ndarray], list[bool]]] = {}
        for name in found if wanted is None else dict.fromkeys(wanted):
            if not (name == "key" and name == self.id):
                self.columns[self._free(name)] = name

    def mark(self, name: str, function: Callable[[np.ndarray], list[bool]]) -> None:
        """A further column of true and false, computed from row numbers; none where the data have one of that name."""
        if name not in self.columns:
            self.marks[name] = function

    def _free(self, name: str) -> str:
        """The name under which a column is stored: some are taken, and an index takes no dots."""
        free = name.replace(".", "_").replace("`", "_") or "column"
        while free in RESERVED or free in self.columns:
            free += "_"
        return free

    @property
    def types(self) -> dict[str, pa.DataType]:
        """Name -> type of each column as it is stored."""
        stored = {name: self._types[column] for name, column in self.columns.items()}
        return stored | dict.fromkeys(self.marks, pa.bool_())

    @cached_property
    def _types(self) -> dict[str, pa.DataType]:
        """Column -> the type under which it travels."""
        texts = [self.data.roles.get(role) for role in modalities.get("text").roles]
        found = {}
        for column in self.columns.values():
            kind = plain_type(self.arrow.field(column).type)
            assert kind is not None
            if isinstance(self.data.table.features[column], ClassLabel):
                kind = pa.string()
            elif self._untyped and column not in texts:
                kind = type_of_words(column_of(self.data.table, column, slice(0, len(self.data))))
            found[column] = kind
        return found

    @property
    def _untyped(self) -> bool:
        """Whether the file knows words alone (csv, JSON lines)."""
        return all(pa.types.is_large_string(one.type) for one in self.arrow if not one.name.startswith("__"))

    def keep(self, names: Sequence[str]) -> list[str]:
        """Only columns of these names travel; returns those that are left out."""
        left = [name for name in self.columns if name not in names]
        self.columns = {name: column for name, column in self.columns.items() if name in names}
        self.marks = {name: function for name, function in self.marks.items() if name in names}
        return left

    def arrays(self, rows: np.ndarray, types: dict[str, pa.DataType]) -> dict[str, pa.Array]:
        """Columns of some rows under the stored types; nothing (null) where the data have no such column.

        Raises InputError where a value does not fit.
        """
        columns = list(self.columns.values())
        block: Any = self.data.table.select_columns(columns).with_format("arrow")[rows] if columns else None
        made = {}
        for name, kind in types.items():
            if name in self.marks:
                made[name] = pa.array(self.marks[name](rows), kind)
                continue
            if name not in self.columns:
                made[name] = pa.nulls(len(rows), kind)
                continue
            made[name] = self._array(self.columns[name], block.column(self.columns[name]), kind)
        return made

    def _array(self, column: str, values: Any, kind: pa.DataType) -> pa.Array:
        feature = self.data.table.features[column]
        if isinstance(feature, ClassLabel):
            names = feature.names
            return pa.array([None if v is None or v < 0 else names[v] for v in values.to_pylist()], kind)
        values = values.combine_chunks()
        try:
            if pa.types.is_large_string(values.type) and not pa.types.is_string(kind):
                return numbers(values, kind)
            return values.cast(kind)
        except pa.ArrowException as error:
            raise InputError(
                f"The column '{column}' of {self.data.name} does not fit the output, which holds {kind}: "
                f"{str(error).splitlines()[0][:150]}.",
                "Choose the columns with --columns, or another --out.",
            ) from error

    def keys(self, rows: np.ndarray) -> list[str]:
        """The key of each row: its id, the path of its file, or its number."""
        return [str(v) for v in (rows.tolist() if self.id is None else self.data.values(str(self.id), rows))]

    @property
    def named(self) -> str:
        """What the keys are: "id" (of the user's, or of the format), "file" (paths), or "line" (numbers)."""
        if self.data.roles.get("id") is None:
            return "line"
        return "file" if self.data.roles["id"] == self.data._raw.file_column else "id"

    @property
    def source(self) -> str:
        """Where the rows come from; other data in memory are another place, whatever they are called."""
        if self.data.given is not None:
            return f"{self.data.name} ({self.data.given['fingerprint'][:8]})"
        return origin(Path(self.data.path)) if self.data.path else str(self.data.name)

    def stamped(self, schema: pa.Schema, marks: set[str]) -> np.ndarray | None:
        """`contents` of all rows as an output with this schema has stored them; None where it stores none, or where the
        size of its images is not known. marks: names of columns that are no content, as far as the data have none."""
        if "_content" not in schema.names or (self.size is None and modalities.of(self.role).name == "image"):
            return None
        others = {"key", "vector", *HIDDEN, *marks.difference(self.columns)}
        types = {one.name: one.type for one in schema if one.name not in others}
        every, size = np.arange(len(self.data)), CHUNK
        return np.concatenate([self.contents(every[at : at + size], types) for at in range(0, len(every), size)])

    def contents(self, rows: np.ndarray, types: dict[str, pa.DataType]) -> np.ndarray:
        """int64 (n,): changes with the embedded item and with any column that travels. Key and path are no
        content, so that a row is known again elsewhere."""
        items = modalities.of(self.role).stamp(self.data, self.role, rows, self.size)
        types = {name: kind for name, kind in types.items() if name not in self.marks}
        names = [n for n in sorted(types) if self.columns.get(n) not in (self.id, self.data._raw.file_column) or
                 n not in self.columns]  # fmt: skip
        arrays = self.arrays(rows, types)
        columns = [arrays[name].to_pylist() for name in names]
        found = np.empty(len(rows), np.int64)
        for i, item in enumerate(items):
            state = hashlib.blake2b(item, digest_size=8)
            state.update(repr([column[i] for column in columns]).encode("utf-8", "surrogatepass"))
            found[i] = int.from_bytes(state.digest(), "little", signed=True)
        return found
