"""Tables and texts from files into memory-mapped Arrow: csv, tsv, jsonl, json, parquet, txt."""

import codecs
import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from nearfar.errors import InputError
from nearfar.sources.pictures import ENDINGS
from nearfar.sources.raw import Problem, Raw
from nearfar.sources.storage import whole

LINE = "__line__"  # columns with two underscores in front are nearfar's own
BATCH = 4096
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
          (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
Row = tuple[int, dict[str, Any]]


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except PermissionError as error:
        raise InputError(f"{path} cannot be read: permission denied.", "Change its permissions or copy it.") from error


@contextmanager
def text_file(path: Path) -> Iterator[TextIO]:
    """A text file in UTF-8, or as its byte order mark says. Raises InputError that names the line which is not."""
    with open(path, "rb") as file:
        head = file.read(4)
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in head:
        raise InputError(f"{path}, line 1: the text looks like UTF-16 without its mark.", _mend(path, "UTF-16LE"))
    try:
        with open(path, encoding=encoding, newline="") as file:
            yield file
    except UnicodeError as error:
        line = _bad_line(path) if encoding.startswith("utf-8") else None
        where = f"{path}, line {line}" if line else str(path)
        raise InputError(f"{where}: the text is not valid {encoding.upper()}.", _mend(path, "WINDOWS-1252")) from error


def _mend(path: Path, source: str) -> str:
    return f"Save it as UTF-8, for example: iconv -f {source} -t UTF-8 {path.name} > new{path.suffix}"


def _bad_line(path: Path) -> int | None:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return None


def stored(cache: Path, key: str, batches: Iterable[pa.RecordBatch]) -> Dataset:
    """The batches as one memory-mapped table, written to the cache once."""
    path = cache / "tables" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.arrow"
    if not path.exists():
        with whole(path) as temporary:
            _write(temporary, batches)
    return Dataset.from_file(str(path))


def _write(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    writer = None
    with pa.OSFile(str(path), "wb") as sink:
        for batch in batches:
            writer = writer or pa.ipc.new_stream(sink, batch.schema)
            writer.write_batch(batch)
        if writer is None:
            writer = pa.ipc.new_stream(sink, pa.schema([]))
        writer.close()


def string_batches(rows: Iterable[Row], columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Rows (line, values) as batches of string columns and a column of line numbers."""
    schema = pa.schema([(name, pa.large_string()) for name in columns] + [(LINE, pa.int64())])
    block: list[Row] = []
    for row in rows:
        block.append(row)
        if len(block) == BATCH:
            yield _batch(block, columns, schema)
            block = []
    yield _batch(block, columns, schema)


def _batch(block: list[Row], columns: list[str], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [pa.array([values.get(name) for _, values in block], pa.large_string()) for name in columns]
    return pa.RecordBatch.from_arrays([*arrays, pa.array([line for line, _ in block], pa.int64())], schema=schema)


def raw_table(path: Path, kind: str, table: Dataset, fingerprint: str, problems: list[Problem] | None = None) -> Raw:
    line = LINE if LINE in table.column_names else None
    return Raw(path.name, path, kind, table, fingerprint, base=path.parent, row_column=line, problems=problems or [])


class _Faults:
    """Bad rows of one file: the first one is an error, or all are kept as problems."""

    def __init__(self, path: Path, skip: bool, hint: str):
        self.path, self.skip, self.hint, self.problems = path, skip, hint, []

    def add(self, line: int, message: str) -> None:
        if not self.skip:
            raise InputError(f"{self.path}, line {line}: {message}.", self.hint)
        self.problems.append(Problem(str(self.path), line, message, "line"))


def read_csv(path: Path, cache: Path, skip: bool) -> Raw:
    """Comma, semicolon or tab separated, quoted as spreadsheets do; the first line names the columns; all values are
    strings."""
    digest = file_digest(path)
    faults = _Faults(path, skip, "Quote fields that hold the separator or a line break, or use --unreadable skip.")
    with text_file(path) as file:
        mark = "\t" if path.suffix.casefold() in (".tsv", ".tab") else _separator(file.readline())
        header, rows = _csv_body(path, file, mark)
        if skip:  # a table that is stored already cannot tell what was skipped
            for _ in _even(rows, header, faults):
                pass
            header, rows = _csv_body(path, file, mark)
        silent = _Faults(path, skip, faults.hint)
        table = stored(cache, f"csv:{skip}:{digest}", string_batches(_even(rows, header, silent), header))
    return raw_table(path, "tsv table" if mark == "\t" else "csv table", table, digest, faults.problems)


def _csv_body(path: Path, file: TextIO, separator: str) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    file.seek(0)
    rows = _csv_rows(path, file, separator)
    return _header(path, next(rows, None)), rows


def _separator(line: str) -> str:
    return max((",", ";", "\t", "|"), key=line.count) if line else ","


def _csv_rows(path: Path, file: TextIO, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Line (where the row begins) and fields of every row that is not blank."""
    csv.field_size_limit(1 << 30)
    reader = csv.reader(file, delimiter=separator, strict=True)
    line = 1
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        hint = "Look for a quotation mark that is not closed or not doubled."
        raise InputError(f"{path}, line {line}: the row cannot be read ({error}).", hint) from error


def _header(path: Path, first: tuple[int, list[str]] | None) -> list[str]:
    if first is None:
        raise InputError(f"{path} is empty.", "The first line names the columns, each further line is a row.")
    names = [name.strip() or f"column_{i + 1}" for i, name in enumerate(first[1])]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InputError(f"{path}, line {first[0]}: the column '{twice}' occurs more than once.", "Rename one of them.")
    if any("." + name.rsplit(".", 1)[-1].casefold() in ENDINGS for name in names if "." in name):
        raise InputError(
            f"{path}, line {first[0]} holds a picture's path, no column names.", "Add a line like image,text."
        )
    return names


def _even(rows: Iterable[tuple[int, list[str]]], header: list[str], faults: _Faults) -> Iterator[Row]:
    for line, fields in rows:
        if len(fields) == len(header):
            yield line, dict(zip(header, fields, strict=True))
        else:
            faults.add(line, f"the row has {len(fields)} field{'s' * (len(fields) != 1)}, the header {len(header)}")


def read_json(path: Path, cache: Path, skip: bool) -> Raw:
    """One JSON object a line (or one array of objects). Numbers become strings; a list of strings becomes columns
    NAME.0, NAME.1..."""
    digest = file_digest(path)
    faults = _Faults(path, skip, 'Each line is one JSON object such as {"text": "..."}; or use --unreadable skip.')
    columns: dict[str, None] = {}
    for _, values in _json_rows(path, faults):
        columns.update(dict.fromkeys(values))
    if not columns:
        raise InputError(f"{path} holds no JSON objects.", faults.hint)
    again = _Faults(path, True, "")
    table = stored(cache, f"json:{digest}", string_batches(_json_rows(path, again), list(columns)))
    return raw_table(path, "jsonl table", table, digest, faults.problems)


def _json_rows(path: Path, faults: _Faults) -> Iterator[Row]:
    for line, item in _json_items(path, faults):
        if isinstance(item, dict):
            yield line, _flat(item)
        else:
            faults.add(line, f"there is a {type(item).__name__} where an object should be")


def _json_items(path: Path, faults: _Faults) -> Iterator[tuple[int, Any]]:
    with text_file(path) as file:
        if path.suffix.casefold() == ".json":
            content = file.read()
            if content.lstrip().startswith("["):
                yield from enumerate(_parsed(path, content), 1)
                return
            file.seek(0)
        for line, text in enumerate(file, 1):
            if text.strip():
                try:
                    yield line, json.loads(text)
                except json.JSONDecodeError as error:
                    faults.add(line, f"this is not JSON ({error.msg} at column {error.colno})")


def _parsed(path: Path, content: str) -> list[Any]:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: this is not JSON ({error.msg}).", "Mend it there.") from error


def _flat(item: dict[str, Any]) -> dict[str, str | None]:
    flat: dict[str, str | None] = {}
    for name, value in item.items():
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            flat.update({f"{name}.{i}": v for i, v in enumerate(value)})
        elif value is None or isinstance(value, str):
            flat[name] = value
        else:
            flat[name] = json.dumps(value, ensure_ascii=False)
    return flat


def read_parquet(paths: list[Path], path: Path, cache: Path) -> Raw:
    """One file, or the shards of a folder in the order of their names."""
    digest = hashlib.sha256("".join(file_digest(p) for p in paths).encode()).hexdigest()
    table = stored(cache, f"parquet:{digest}", _parquet_batches(paths))
    raw = raw_table(path, "parquet table", table, digest)
    raw.base = path if path.is_dir() else path.parent
    return raw


def _parquet_batches(paths: list[Path]) -> Iterator[pa.RecordBatch]:
    schema = pa.schema([])
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                own = _plain(file.schema_arrow)
                schema = own if path == paths[0] else schema
                if own.names != schema.names:
                    hint = "Give each kind its own folder."
                    raise InputError(f"{path}: its columns differ from those of {paths[0]}.", hint)
                for batch in file.iter_batches(1024):
                    arrays = [array.cast(field.type) for array, field in zip(batch.columns, schema, strict=True)]
                    yield pa.RecordBatch.from_arrays(arrays, schema=schema)
        except pa.ArrowInvalid as error:
            raise InputError(f"{path} is no Parquet file or is cut off ({error}).", "Write it again.") from error


def _plain(schema: pa.Schema) -> pa.Schema:
    """The same without dictionary encoding, whose dictionaries may differ from batch to batch."""
    kinds = [f.type.value_type if pa.types.is_dictionary(f.type) else f.type for f in schema]
    return pa.schema([pa.field(f.name, kind) for f, kind in zip(schema, kinds, strict=True)], metadata=schema.metadata)


def read_lines(path: Path, cache: Path) -> Raw:
    """A text file with one passage a line; blank lines only separate."""
    digest = file_digest(path)
    with text_file(path) as file:
        rows = ((number, {"text": line.strip()}) for number, line in enumerate(file, 1) if line.strip())
        table = stored(cache, f"txt:{digest}", string_batches(rows, ["text"]))
    raw = raw_table(path, "text file, one passage a line", table, digest)
    raw.roles, raw.reasons = {"text": "text"}, {"text": "each line is a passage"}
    return raw
