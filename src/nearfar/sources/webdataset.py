"""Shards of WebDataset: tar files whose members of one name are one sample (000.jpg, 000.txt, 000.json).

member "0001.jpg"       ->  key "0001", column image          .txt, .caption -> text      .cls -> label
member "0001.json"      ->  its fields as columns             "0001.left.png" -> column left
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from nearfar.errors import InputError
from nearfar.limits import MOST_NESTED
from nearfar.modalities.image import ENDINGS
from nearfar.sources.listing import shown
from nearfar.sources.raw import Raw
from nearfar.sources.tables import check_names, file_digest, raw_table, stored

KEY, IMAGE = "key", "image"
TEXTS = {"txt": "text", "text": "text", "caption": "text", "cls": "label"}
AT_ONCE = 256
Sample = dict[str, Any]
DAMAGED = "Copy the shard again, or leave it out."


def read_tar(path: Path, cache: Path) -> Raw:
    """The samples of a shard, in their order. Raises InputError for a file that is damaged, holds no sample, or whose
    samples hold nothing that nearfar reads."""
    columns, other = columns_of(path)
    if not columns:
        ends = f" (endings: {', '.join(sorted(other)[:8])})" if other else ""
        raise InputError(f"{path} holds no sample that nearfar reads{ends}.",
                         "Known members: images, .txt, .cls, .json.")  # fmt: skip
    check_names(list(columns), path)
    digest = file_digest(path)
    raw = raw_table(path, "WebDataset", stored(cache, f"tar:{digest}", batches(path, columns)), digest)
    if other:
        raw.notes.append(f"members of other kinds are left out: {', '.join(sorted(other)[:8])}")
    return raw


def samples(path: Path) -> Iterator[tuple[str, dict[str, tuple[tarfile.TarFile, tarfile.TarInfo]]]]:
    """Key -> its members by their endings, in the order of the file. A key whose members do not follow each other
    begins anew."""
    try:
        with tarfile.open(path, "r:") as tar:
            key, found = None, {}
            for member in tar:
                name = PurePosixPath(shown(member.name))
                if not member.isreg() or name.name.startswith("."):
                    continue
                stem, _, ending = name.name.partition(".")
                mine = str(name.parent / stem) if name.parent.parts else stem
                if key is not None and mine != key:
                    yield key, found
                    found = {}
                key = mine
                found[ending.casefold()] = (tar, member)
            if key is not None:
                yield key, found
    except tarfile.TarError as error:
        raise InputError(f"{path} cannot be read as a tar file: {error}.", DAMAGED) from error


def column_for(ending: str) -> str | None:
    """The column of a member by its ending: an image, a text, a class; None for other members."""
    first, _, last = ending.rpartition(".")
    if f".{last}" in ENDINGS:
        return first or IMAGE
    return None if first else TEXTS.get(last)


def columns_of(path: Path) -> tuple[dict[str, pa.DataType], set[str]]:
    """Columns with their types, of all samples, and endings that nothing is made of."""
    found: dict[str, pa.DataType] = {}
    other: set[str] = set()
    for _, members in samples(path):
        for ending in members:
            column = column_for(ending)
            if column is not None:
                found[column] = pa.large_string() if ending in TEXTS else pa.large_binary()
            elif ending != "json":
                other.add(ending)
        for name, value in fields_of(path, members).items():
            lists = pa.list_(pa.large_string())
            kind = lists if isinstance(value, list) else pa.large_string()
            found[name] = kind if found.get(name, kind) == kind else pa.large_string()
    return ({KEY: pa.large_string(), **found} if found else {}), other


def fields_of(path: Path, members: dict[str, Any]) -> Sample:
    """The fields of a sample's JSON that no member of its own names: numbers and texts as texts, lists of texts as
    lists, what is nested as JSON."""
    if "json" not in members:
        return {}
    tar, member = members["json"]
    content = read(tar, member)
    try:
        said = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}, {shown(member.name)}: it is not JSON ({error}).", DAMAGED) from error
    if not isinstance(said, dict) or len(said) > MOST_NESTED:
        raise InputError(f"{path}, {shown(member.name)}: it is not a JSON object of at most {MOST_NESTED} fields.")
    taken = {column_for(ending) for ending in members} | {KEY}
    taken |= {"caption"} if "text" in taken else set()
    return {str(name): plain(value) for name, value in said.items() if name not in taken}


def plain(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return value
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, bool) else str(value).lower()


def read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    content = file.read()
    if len(content) != member.size:
        raise tarfile.ReadError(f"{shown(member.name)} ends early")
    return content


def batches(path: Path, columns: dict[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    """The samples as batches of a table, of which a few are in memory at once."""
    schema, block = pa.schema(list(columns.items())), []
    for key, members in samples(path):
        row: Sample = {KEY: key}
        for ending, (tar, member) in members.items():
            if (column := column_for(ending)) is not None:
                content = read(tar, member)
                row[column] = text_of(path, member, content) if ending in TEXTS else content
        for name, value in fields_of(path, members).items():
            lists = pa.types.is_list(columns[name])
            row[name] = value if lists == isinstance(value, list) or value is None else json.dumps(value)
        block.append(row)
        if len(block) == AT_ONCE:
            yield pa.RecordBatch.from_pylist(block, schema=schema)
            block = []
    yield pa.RecordBatch.from_pylist(block, schema=schema)


def text_of(path: Path, member: tarfile.TarInfo, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, {shown(member.name)}: it is not text in UTF-8 ({error}).") from error
