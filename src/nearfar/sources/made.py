"""Rows of built-in sets that are made on the user's machine, once, and kept in the cache."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset

from nearfar.errors import InputError
from nearfar.sources.storage import entry, new_entry


def stored_rows(path: Path, make: Callable[[], Sequence[Any]], row: type, nothing: InputError) -> Dataset:
    """The rows (instances of the dataclass `row`, all texts or None) that `make()` gives, kept at `path` and
    memory-mapped. Raises `nothing` where there are none."""
    if not entry(path):
        rows = make()
        if not rows:
            raise nothing
        columns = {f.name: pa.array([getattr(one, f.name) for one in rows], pa.large_string()) for f in fields(row)}
        table = pa.table(columns)
        with (
            new_entry(path) as temporary,
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table, 4096)
    return Dataset.from_file(str(path))
