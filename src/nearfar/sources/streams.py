"""Streams of `datasets` (load_dataset(..., streaming=True), from_generator...): read into the cache, block by block.

CACHE/streams/CONTENT.arrow     the rows       ORIGIN.json     which content a stream came to, where what it is made of
says for certain that it gives the same again (`nearfar.sources.origins`); other streams are read at each opening.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, IterableDataset, IterableDatasetDict
from datasets.table import embed_table_storage

from nearfar.errors import InputError, NearfarError
from nearfar.limits import MOST_STREAMED
from nearfar.progress import track
from nearfar.sources.blocks import kept, place_of
from nearfar.sources.folders import chosen_parts
from nearfar.sources.origins import endless, origin_of
from nearfar.sources.raw import Raw
from nearfar.sources.storage import cache_bound, entry, entry_bytes, new_entry
from nearfar.sources.tables import check_names
from nearfar.sources.values import block_of

KIND = "streams"  # of the cache
AT_ONCE = 256  # rows that are asked for together
SPLIT = "split"
_LIMIT = "Say how many rows are wanted: limit=100_000."


def read_stream(value: Any, cache: Path, limit: int | None) -> Raw:
    """The rows of a stream, or of the parts of a dict of streams; of `limit` rows no more are asked for.

    Raises InputError for a stream without an end and without a limit, and NearfarError where it breaks off: then
    nothing of it is kept.
    """
    from nearfar.sources.objects import empty, given_raw

    kind, notes = type(value).__name__, []
    given: dict[Any, Any] = dict(value) if isinstance(value, IterableDatasetDict) else {"": value}
    parts = {str(name): stream for name, stream in given.items()}
    names, divides = chosen_parts(list(parts), notes)
    parts = {name: parts[name] for name in names}
    if limit is None and any(map(endless, parts.values())):
        raise InputError(f"The {kind} is repeated without end.", _LIMIT)
    origin = origin_of(parts, limit)
    found = _remembered(cache, origin)
    if found is None:
        found = kept(cache, KIND, _blocks(parts, divides, limit, kind), kind)
        if origin is not None and origin == origin_of(parts, limit):  # its files are what they were
            _remember(cache, origin, found[1])
    table, digest = found
    if not len(table):
        raise empty(kind)
    if limit is not None and len(table) == limit:
        notes.append(f"the first {limit:,} rows of the stream (limit)")
    raw = given_raw(kind, table, digest, "stream", notes=notes)
    if divides:
        raw.roles, raw.reasons = {SPLIT: SPLIT}, {SPLIT: f"the parts of the {kind}"}
    return raw


def _remembered(cache: Path, origin: str | None) -> tuple[Dataset, str] | None:
    """The rows that a stream of this origin came to, where the cache has them still."""
    path = cache / KIND / f"{origin}.json"
    if origin is None or not entry(path):
        return None
    digest = json.loads(entry_bytes(path))["content"]
    table = place_of(cache, KIND, digest)
    return (Dataset.from_file(str(table)), digest) if entry(table) else None


def _remember(cache: Path, origin: str, digest: str) -> None:
    with new_entry(cache / KIND / f"{origin}.json") as fresh:
        fresh.write_text(json.dumps({"content": digest}))


def _blocks(parts: Mapping[str, Any], divides: bool, limit: int | None, kind: str) -> Iterator[pa.Table]:
    """The rows of all parts, each with its name as the split. A limit is shared by the parts; what one lacks of its
    share goes to the next ones."""
    left = limit
    total = limit or _expected_rows(parts)
    with track(f"reading the {kind}", total) as advance:
        rows = size = 0
        for number, (name, stream) in enumerate(parts.items()):
            share = None if left is None else math.ceil(left / (len(parts) - number))
            for block in _unbroken(stream, share, name or kind):
                if divides:
                    block = _with_split(block, name)
                check_names(block.column_names, kind)
                rows, size = rows + len(block), size + block.nbytes
                left = None if left is None else left - len(block)
                advance(len(block))
                yield block
                if limit is None:
                    _check_bound(rows, size, kind)


def _check_bound(rows: int, size: int, kind: str) -> None:
    """Raises InputError for a stream without a limit that gives more than the cache may hold, or than is believed to
    be meant."""
    if rows > MOST_STREAMED:
        raise InputError(f"The {kind} has given {rows:,} rows and no end.",
                         f"{_LIMIT} As many as that are read of files alone.")  # fmt: skip
    if size > cache_bound():
        raise InputError(f"The {kind} has given {size / 1e6:,.0f} MB ({rows:,} rows), more than the cache may hold.",
                         f"{_LIMIT} Or set NEARFAR_CACHE_SIZE to what it needs.")  # fmt: skip


def _expected_rows(parts: Mapping[str, Any]) -> int | None:
    """How many rows `datasets` says that there are."""
    counts = [(one.info.splits or {}).get(str(one.split)) for one in parts.values()]
    return sum(one.num_examples for one in counts if one) or None if all(counts) else None


def _unbroken(stream: IterableDataset, share: int | None, name: str) -> Iterator[pa.Table]:
    """The blocks of a stream, at most `share` rows; whatever its source raises is told as its breaking off."""
    rows = 0
    try:
        for block in _read(stream if share is None else stream.take(share), name):
            rows += len(block)
            yield block
    except (NearfarError, GeneratorExit):
        raise
    except Exception as error:  # whatever the user's functions, the network and the files come to
        said = " ".join(str(error).split())[:200]
        raise NearfarError(
            f"The stream '{name}' broke off after {rows:,} rows: {type(error).__name__}{f': {said}' if said else ''}.",
            "Nothing of it was kept: once its source answers, the same call reads it anew.",
        ) from error


def _read(stream: IterableDataset, name: str) -> Iterator[pa.Table]:
    """Blocks of Arrow. Images and sounds that a stream names by a path or an address are fetched, so that the cache
    holds all of it."""
    if stream.features is None:
        start = 0
        for block in stream.with_format(None).iter(AT_ONCE):
            made = block_of(block, name, start)
            start += len(made)
            yield made
        return
    schema = stream.features.arrow_schema
    for block in stream.with_format("arrow").iter(AT_ONCE):
        found: Any = block
        yield embed_table_storage(pa.table(found.columns, schema=schema))


def _with_split(block: pa.Table, name: str) -> pa.Table:
    """The block with a column of the name of its part."""
    features = Features.from_arrow_schema(block.schema)
    if SPLIT in block.column_names:
        block = block.drop_columns([SPLIT])
        del features[SPLIT]
    block = block.append_column(SPLIT, pa.array([name] * len(block), pa.string()))
    return block.cast(Features({**features, SPLIT: Features.from_arrow_schema(block.schema)[SPLIT]}).arrow_schema)
