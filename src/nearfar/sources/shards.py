"""Several tables of a folder read as one: shards, tables named by their split, and descriptions beside images."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, concatenate_datasets

from nearfar.errors import InputError
from nearfar.modalities.image import ENDINGS
from nearfar.sources.listing import left_out
from nearfar.sources.raw import Problem, Raw
from nearfar.sources.splits import standard_name
from nearfar.sources.tables import LINE, SHARD, file_digest, open_parquet, read_table, stored

FAMILIES = ((".tar",), (".parquet",), (".csv", ".tsv", ".tab"), (".jsonl", ".ndjson", ".json"))
TABLES = {ending for family in FAMILIES for ending in family}
_NUMBERED = re.compile(r"(.*?)[-_.]?\d+(?:[-_]of[-_]\d+)?(?:[-_.][0-9a-f-]{6,})?")


@dataclass
class Part:
    """One of several tables: its path below the folder, its columns and rows, and what reading it told."""

    file: str
    digest: str
    schema: pa.Schema
    batches: Callable[[], Iterator[pa.RecordBatch]]
    kind: str
    lines: bool
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def split_of(file: str) -> str | None:
    """The split that a table's name says (train-00000-of-00002.parquet), or one of its folders, the nearest first."""
    path = Path(file)
    return next((s for name in (path.stem, *path.parts[-2::-1]) if (s := standard_name(name))), None)


def has_splits(files: Sequence[str]) -> bool:
    """Whether the names divide the tables into training and other rows."""
    found = {split_of(file) for file in files}
    return None not in found and "train" in found and len(found) > 1


def table_sets(path: Path, tables: list[str]) -> list[str]:
    """Those of several tables that belong together: of one kind, named by splits or numbered. Raises InputError where
    nothing says that they do."""
    kinds = [[f for f in tables if Path(f).suffix.casefold() in family] for family in FAMILIES]
    kinds = next(([kind] for kind in kinds[:2] if kind), [kind for kind in kinds if kind])
    if len(kinds) == 1:
        named = [f for f in kinds[0] if split_of(f)]
        if has_splits(named):
            return named
        if kinds[0][0].casefold().endswith((".tar", ".parquet")) or _numbered(kinds[0]):
            return kinds[0]
    raise InputError(f"{path} holds {len(tables)} tables: {', '.join(tables[:5])}.", "Name one of them.")


def _numbered(files: Sequence[str]) -> bool:
    found = [_NUMBERED.fullmatch(Path(f).stem) for f in files]
    return all(found) and len({(Path(f).parent, m.group(1)) for f, m in zip(files, found, strict=True) if m}) == 1


def read_shards(path: Path, files: Sequence[str], cache: Path, skip: bool) -> Raw:
    """The tables one after the other, in the order of their names, with the split that the names say."""
    return _joined(path, [_part(path, file, cache, skip) for file in files], cache)


def _part(path: Path, file: str, cache: Path, skip: bool) -> Part:
    if file.casefold().endswith(".parquet"):
        opened = open_parquet(path / file)
        digest = file_digest(path / file)
        return Part(file, digest, opened.schema, opened.batches, "parquet table", False, opened.notes)
    raw = read_table(path / file, cache, skip)
    assert raw is not None
    table: pa.Table = raw.table.data.table
    batches: Callable[[], Iterator[pa.RecordBatch]] = lambda: iter(table.to_batches(4096))  # noqa: E731
    return Part(file, raw.fingerprint, table.schema, batches, raw.kind, raw.row_column is not None, raw.notes,
                raw.problems)  # fmt: skip


def _joined(path: Path, parts: Sequence[Part], cache: Path) -> Raw:
    schema, notes = _unified(path, parts)
    files = [part.file for part in parts]
    split = has_splits(files) and "split" not in schema.names
    extra = [SHARD] * parts[0].lines + ["split"] * split
    whole = pa.schema([*schema, *(pa.field(name, pa.large_string()) for name in extra)], metadata=schema.metadata)
    facts = [f"{part.digest}:{part.file}" for part in parts]
    digest = hashlib.sha256(repr([facts, str(whole)]).encode()).hexdigest()
    table = stored(cache, f"shards:{digest}", _rows(path, parts, whole))
    kinds = {part.kind for part in parts}
    kind = f"{kinds.pop() if len(kinds) == 1 else 'table'} of {len(parts)} files"
    raw = Raw(path.name, path, kind, table, digest, base=path)
    if parts[0].lines:
        raw.row_column, raw.shard_column = LINE, SHARD
    if split:
        raw.roles, raw.reasons = {"split": "split"}, {"split": "the names of the files"}
    raw.notes = [*notes, *(note for part in parts for note in part.notes)]
    raw.problems = [problem for part in parts for problem in part.problems]
    return raw


def _rows(path: Path, parts: Sequence[Part], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of all parts, each column in its common type; a column that a part lacks is empty there."""
    for part in parts:
        fixed = {SHARD: part.file, "split": split_of(part.file)}
        for batch in part.batches():
            yield pa.RecordBatch.from_arrays(
                [_column(path / part.file, batch, one, fixed) for one in schema], schema=schema
            )


def _column(file: Path, batch: pa.RecordBatch, wanted: pa.Field, fixed: dict[str, str | None]) -> pa.Array:
    place = batch.schema.get_field_index(wanted.name)
    if place < 0:
        value = fixed.get(wanted.name)
        return pa.array([value] * len(batch), wanted.type) if value is not None else pa.nulls(len(batch), wanted.type)
    try:
        return batch.column(place).cast(wanted.type)
    except pa.ArrowException as error:
        raise InputError(
            f"{file}: the column '{wanted.name}' does not become {wanted.type} ({error}).", "Write all files alike."
        ) from error


def _unified(path: Path, parts: Sequence[Part]) -> tuple[pa.Schema, list[str]]:
    """The common columns and types, and notes. Raises InputError where two files have little in common."""
    first, notes = parts[0], []
    names = list(dict.fromkeys(name for part in parts for name in part.schema.names))
    for part in parts[1:]:
        mine, theirs = set(first.schema.names), set(part.schema.names)
        if not (mine <= theirs or theirs <= mine):
            raise InputError(
                f"{path / part.file}: its columns differ from those of {path / first.file} "
                f"({', '.join(sorted(mine ^ theirs)[:5])}).",
                "Give each kind its own folder.",
            )
    lacking = [name for name in names if any(name not in part.schema.names for part in parts)]
    if lacking:
        notes.append(f"columns that some of the files lack are empty there: {', '.join(lacking[:5])}")
    fields = [pa.field(name, _type(path, name, parts, notes)) for name in names]
    return pa.schema(fields, metadata=_metadata(path, parts)), notes


def _type(path: Path, name: str, parts: Sequence[Part], notes: list[str]) -> pa.DataType:
    found = {part.schema.field(name).type: part.file for part in parts if name in part.schema.names}
    if len(found) == 1:
        return next(iter(found))
    try:
        schemas = [pa.schema([pa.field(name, kind)]) for kind in found]
        return pa.unify_schemas(schemas, promote_options="permissive").field(name).type
    except pa.ArrowException:
        pass
    if any(pa.types.is_nested(kind) or pa.types.is_binary(kind) for kind in found):
        kinds = " and ".join(f"{kind} in {path / file}" for kind, file in list(found.items())[:2])
        raise InputError(f"The column '{name}' is {kinds}.", "Write all files with one type a column.")
    notes.append(f"the column '{name}' has unlike types ({', '.join(map(str, found))}): it is read as texts")
    return pa.large_string()


def _metadata(path: Path, parts: Sequence[Part]) -> dict[bytes, bytes] | None:
    """The description of the columns, where all parts have the same one. Classes of other names are an error: their
    numbers would mean something else."""
    found = {(part.schema.metadata or {}).get(b"huggingface"): part.file for part in parts}
    if len(found) == 1:
        return parts[0].schema.metadata
    if any(b'"ClassLabel"' in (one or b"") for one in found):
        files = " and ".join(str(path / file) for file in list(found.values())[:2])
        raise InputError(f"The classes stored in {files} differ.", "Write all files with the same classes.")
    return None


def read_metadata(path: Path, described: Sequence[str], files: Sequence[str], cache: Path, skip: bool) -> Raw | None:
    """The table metadata.csv, .jsonl or .parquet of a folder of images, or one beside the images of each split.
    None where none of them names files."""
    above = [file for file in described if "/" not in file]
    parts = [_part(path, file, cache, skip) for file in above[:1] or described]
    parts = [_placed(part) for part in parts if above or _file_columns(part)]
    if not parts:
        return None
    raw = _joined(path, parts, cache) if len(parts) > 1 or not above else read_table(path / above[0], cache, skip)
    assert raw is not None
    raw.base = path
    _split_by_path(raw)
    _count_left(raw, [part.file for part in parts], files)
    return raw


def _file_columns(part: Part) -> list[str]:
    """Columns of paths beside the table: file_name and NAME_file_name."""
    return [name for name in part.schema.names if name == "file_name" or name.endswith("_file_name")]


def _placed(part: Part) -> Part:
    """The same with paths below the folder of all parts."""
    folder, names, batches = Path(part.file).parent, _file_columns(part), part.batches

    def moved() -> Iterator[pa.RecordBatch]:
        for batch in batches():
            for name in names:
                values = [None if v is None else str(folder / str(v)) for v in batch.column(name).to_pylist()]
                place = batch.schema.get_field_index(name)
                batch = batch.set_column(place, name, pa.array(values, pa.large_string()))
            yield batch

    fields = [pa.field(f.name, pa.large_string()) if f.name in names else f for f in part.schema]
    part.schema, part.batches = pa.schema(fields, metadata=part.schema.metadata), moved
    return part


def _split_by_path(raw: Raw) -> None:
    """Where no column says the split, the folders of the images may: train/1.png, test/2.png."""
    if "split" in raw.table.column_names or "file_name" not in raw.table.column_names:
        return
    values = [str(v) for v in raw.table.data.column("file_name").to_pylist()]
    found = [standard_name(Path(v).parts[0]) if len(Path(v).parts) > 1 else None for v in values]
    if None not in found and "train" in found and len(set(found)) > 1:
        raw.table = concatenate_datasets([raw.table, Dataset.from_dict({"split": found})], axis=1)
        raw.roles["split"], raw.reasons["split"] = "split", "the folders train, val, test say so"


def _count_left(raw: Raw, tables: Sequence[str], files: Sequence[str]) -> None:
    """A note on images that the table does not name."""
    named = set()
    for name in raw.table.column_names:
        if name == "file_name" or name.endswith("_file_name") or name in ("image", "path", "file"):
            named |= {str(Path(v)) for v in raw.table.data.column(name).to_pylist() if isinstance(v, str)}
    away = [f for f in files if Path(f).suffix.casefold() in ENDINGS and f not in named]
    if away:
        raw.notes.append(left_out(away, f"images that {Path(tables[0]).name} does not name"))
