"""Rows as a table in a file that anyone reads: csv, tsv, jsonl, parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nearfar import files
from nearfar.errors import InputError
from nearfar.stores import written

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")


@contextmanager
def output(out: str | Path | None, kinds: Sequence[str] = TABLES, option: str = "--out") -> Iterator[Path | None]:
    """The file that is to be written while the block runs; of a URL one that is sent there when it ends well. Raises
    InputError, before any work, where it cannot be or exists."""
    if out is None:
        yield None
        return

    def check(place: Path) -> None:
        if place.suffix.lower() not in kinds:
            raise InputError(f"'{out}' is not the name of a file of a known kind.", f"Kinds: {', '.join(kinds)}.")
        check_place(place, option)

    with written(out, option=option, check=check) as place:
        yield place


def write_table(place: Path, table: Mapping[str, Sequence[Any]]) -> None:
    """Writes columns of equal length to a file, whole or not at all."""
    with files.whole(place) as fresh:
        if place.suffix.lower() == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.table({name: list(values) for name, values in table.items()}), fresh)
            return
        with fresh.open("w", encoding="utf-8", newline="") as file:
            rows = zip(*table.values(), strict=True)
            if place.suffix.lower() == ".jsonl":
                lines = (dict(zip(table, row, strict=True)) for row in rows)
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            else:
                writer = csv.writer(file, delimiter="\t" if place.suffix.lower() == ".tsv" else ",")
                writer.writerow(table)
                writer.writerows(rows)


def check_place(place: Path, option: str = "--out") -> None:
    """Raises InputError where a file cannot be written, before any work is done for it."""
    if not str(place).strip(".") or place.is_dir():
        raise InputError(f"'{place}' is a folder, not the path of a file.", f"Name a file in it: {option} FILE.")
    above = next(p for p in place.absolute().parents if p.exists())
    if not above.is_dir():
        raise InputError(f"'{place}' cannot be written: '{above}' is a file.", f"Choose another {option}.")
