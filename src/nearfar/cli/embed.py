"""`nearfar embed`: vectors of all rows."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from nearfar import options, terminal
from nearfar.checks import PositiveInt, Range
from nearfar.cli import tables
from nearfar.cli.common import Output, emit, read, speaker
from nearfar.errors import InputError
from nearfar.training.settings import DataSettings


@dataclass
class EmbedOptions:
    """Where vectors go.

    Args:
        out: FILE.parquet, FILE.npy, or a folder (a searchable index); FILE.parquet and a folder also as a URL
            (s3://...).
        role: what is embedded, by the role of its column (image, text, text_b...; `nearfar data` tells them); default
            the first that the model can.
        append: add the rows that are not there yet, and replace those that have changed.
        columns: which go with the vectors: auto (all plain ones), none, or names divided by commas.
        batch_size: rows a batch.
        variant: which of the vectors of one input, where the model gives several.
        dims: of every vector its first numbers alone, of length 1 by themselves; `search` follows the index.
        on: where it is computed: ray (the cluster of RAY_ADDRESS or of `ray start`, else processes of this machine) or
            ray://HOST:PORT; default this process.
    """

    out: str | None = None
    role: str | None = None
    variant: str | None = None
    dims: PositiveInt | None = None
    append: bool = False
    columns: str = "auto"
    batch_size: Annotated[int, Range(1, 1_000_000)] = 256
    on: str | None = None


def run_embed(words: list[str]) -> None:
    targets = [EmbedOptions, Output, DataSettings]
    places, checked = read(words, targets, (2,), "nearfar embed MODEL DATA --out X")
    from nearfar import using

    if checked.out is None:
        raise InputError("Where to? The option '--out' is missing.", "Write FILE.parquet, FILE.npy or a folder.")
    with tables.bar("embedding") as progress:
        found = using.embed(
            places[0],
            places[1],
            out=checked.out,
            role=checked.role,
            variant=checked.variant,
            dims=checked.dims,
            append=checked.append,
            columns=checked.columns,
            batch_size=checked.batch_size,
            on=checked.on,
            progress=progress,
            say=speaker(True),
            data_settings=options.build(DataSettings, checked),
        )
    if checked.json:
        emit(dataclasses.asdict(found))
        return
    path = found.path
    counts = f"{found.added} rows added, {found.replaced} replaced, {found.left} left as they were"
    terminal.say(f"{path}: {counts}", sys.stdout)
    if not Path(path).suffix:
        terminal.say(f"search it:  nearfar search {path} QUERY", sys.stdout)
