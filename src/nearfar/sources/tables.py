"""Tables and texts from files into memory-mapped Arrow: csv, tsv, jsonl, json, parquet, txt, tar."""

import codecs
import csv
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features

from nearfar.errors import InputError
from nearfar.limits import MOST_COLUMNS, MOST_LISTED, MOST_NESTED
from nearfar.modalities.image import ENDINGS
from nearfar.sources.listing import open_regular
from nearfar.sources.raw import Problem, Raw, missing
from nearfar.sources.storage import entry, new_entry

LINE, SHARD = "__line__", "__file__"  # columns with two underscores in front are not the user's
RESERVED = (LINE, SHARD)
BATCH = 4096
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
          (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
Row = tuple[int, dict[str, Any]]


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except PermissionError as error:
        raise InputError(f"{path} cannot be read: permission denied.", "Change its permissions or copy it.") from error


@contextmanager
def text_file(path: Path) -> Iterator[TextIO]:
    """A text file in UTF-8, or as its byte order mark says. Raises InputError that names the line which is not."""
    with open_regular(path) as file:
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
    if not entry(path):
        with new_entry(path) as temporary:
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


def read_table(path: Path, cache: Path, skip: bool) -> Raw | None:
    """The table of a file, by its ending; None for an ending that no table has."""
    ending = path.suffix.casefold()
    if ending in (".csv", ".tsv", ".tab"):
        return read_csv(path, cache, skip)
    if ending in (".jsonl", ".ndjson", ".json"):
        from nearfar.sources.dialogues import read_dialogues

        return read_dialogues(path, cache, skip) or read_json(path, cache, skip)
    if ending == ".parquet":
        return read_parquet(path, cache)
    if ending == ".tar":
        from nearfar.sources.webdataset import read_tar

        return read_tar(path, cache)
    if ending in (".txt", ".text"):
        return read_lines(path, cache)
    return None


def check_names(names: Sequence[str], where: Path | str) -> None:
    """Raises InputError for columns that are too many, stand twice, or bear a name of nearfar's own."""
    if len(names) > MOST_COLUMNS:
        raise InputError(
            f"{where} has {len(names)} columns; at most {MOST_COLUMNS} are read.", "Leave out those without a role."
        )
    seen: set[str] = set()
    for name in names:
        if name in RESERVED:
            raise InputError(f"{where}: the column name '{name}' is taken by nearfar.", "Rename the column.")
        if name in seen:
            raise InputError(f"{where}: the column '{name}' occurs more than once.", "Rename one of them.")
        if "\0" in name:
            raise InputError(f"{where}: a column name holds a zero byte.", "Is it a table of texts? Rename the column.")
        seen.add(name)


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
        first = file.readline()
        separator_line = _SEPARATOR_LINE.fullmatch(first.rstrip("\r\n"))
        mark = "\t" if path.suffix.casefold() in (".tsv", ".tab") else _separator(first)
        mark = separator_line.group(1) if separator_line else mark
        header, rows = _csv_body(path, file, mark, separator_line is not None)
        if skip:  # a table that is stored already cannot tell what was skipped
            for _ in _even(rows, header, faults):
                pass
            header, rows = _csv_body(path, file, mark, separator_line is not None)
        silent = _Faults(path, skip, faults.hint)
        table = stored(cache, f"csv:{skip}:{digest}", string_batches(_even(rows, header, silent), header))
    return raw_table(path, "tsv table" if mark == "\t" else "csv table", table, digest, faults.problems)


_SEPARATOR_LINE = re.compile(r'"?sep=([^\w"\r\n])"?[\s,;]*', re.IGNORECASE)  # what spreadsheets put first


def _csv_body(
    path: Path, file: TextIO, separator: str, separator_line: bool
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Column names and rows; `separator_line`: the first line only names the separator."""
    file.seek(0)
    if separator_line:
        file.readline()
    rows = _csv_rows(path, file, separator, 2 if separator_line else 1)
    return _header(path, next(rows, None)), rows


def _separator(line: str) -> str:
    return max((",", ";", "\t", "|"), key=line.count) if line else ","


def _csv_rows(path: Path, file: TextIO, separator: str, start: int) -> Iterator[tuple[int, list[str]]]:
    """Line (where the row begins, counted from `start`) and fields of every row that is not blank."""
    csv.field_size_limit(1 << 30)
    reader = csv.reader(file, delimiter=separator, strict=True)
    line = start
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield line, fields
            line = reader.line_num + start
    except csv.Error as error:
        hint = "Look for a quotation mark that is not closed or not doubled."
        raise InputError(f"{path}, line {line}: the row cannot be read ({error}).", hint) from error


def _header(path: Path, first: tuple[int, list[str]] | None) -> list[str]:
    if first is None:
        raise InputError(f"{path} is empty.", "The first line names the columns, each further line is a row.")
    names = [name.strip() or f"column_{i + 1}" for i, name in enumerate(first[1])]
    check_names(names, f"{path}, line {first[0]}")
    if any("." + name.rsplit(".", 1)[-1].casefold() in ENDINGS for name in names if "." in name):
        raise InputError(
            f"{path}, line {first[0]} holds an image's path, no column names.", "Add a line like image,text."
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
    NAME.0, NAME.1...; where one of a name is longer than 32 (tokens), all of that name become texts, with blanks."""
    digest = file_digest(path)
    faults = _Faults(path, skip, 'Each line is one JSON object such as {"text": "..."}; or use --unreadable skip.')
    columns: dict[str, None] = {}
    joined: set[str] = set()
    for _, values in _json_rows(path, faults, joined):
        columns.update(dict.fromkeys(values))
        if len(columns) > MOST_COLUMNS:
            break
    columns = dict.fromkeys(name for name in columns if not _place_in(name, joined))
    check_names(list(columns), path)
    if not columns:
        raise InputError(f"{path} holds no JSON objects.", faults.hint)
    again = _Faults(path, True, "")
    table = stored(cache, f"json:{digest}", string_batches(_json_rows(path, again, joined), list(columns)))
    return raw_table(path, "jsonl table", table, digest, faults.problems)


def _place_in(column: str, joined: set[str]) -> bool:
    """Whether a column is a place of a list that became a text later in the file."""
    name, dot, place = column.rpartition(".")
    return bool(dot) and place.isdigit() and name in joined


def _json_rows(path: Path, faults: _Faults, joined: set[str]) -> Iterator[Row]:
    """Line and flat values of each object; `joined`: names of lists that are texts, to which longer ones are added."""
    for line, item in _json_items(path, faults):
        if not isinstance(item, dict):
            faults.add(line, f"there is a {type(item).__name__} where an object should be")
            continue
        flat = _flat(item, joined)
        wrong = _wrong(flat)
        if wrong:
            faults.add(line, wrong)
        else:
            yield line, flat


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
                    item = json.loads(text)
                except json.JSONDecodeError as error:
                    faults.add(line, f"this is not JSON ({error.msg} at column {error.colno})")
                except (ValueError, RecursionError) as error:
                    faults.add(line, f"this JSON is not read: {_excess(error)}")
                else:
                    yield line, item


def _parsed(path: Path, content: str) -> list[Any]:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: this is not JSON ({error.msg}).", "Mend it there.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: this JSON is not read: {_excess(error)}.", "Mend it.") from error


def _excess(error: Exception) -> str:
    """What of a piece of JSON has no bound."""
    deep = isinstance(error, RecursionError)
    return "its lists or objects are nested too deep" if deep else "a number has thousands of digits"


def _wrong(values: dict[str, str | None]) -> str | None:
    """What is wrong with a flat object, or None."""
    if len(values) > MOST_NESTED:
        return f"it has {len(values)} values; at most {MOST_NESTED} are read"
    for name, value in values.items():
        if not (_encodable(name) and (value is None or _encodable(value))):
            shown = name.encode("utf-8", "backslashreplace").decode()
            return f"'{shown}' holds half of a character (a lone surrogate, \\ud800 to \\udfff)"
    return None


def _encodable(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _flat(item: dict[str, Any], joined: set[str]) -> dict[str, str | None]:
    flat: dict[str, str | None] = {}
    for name, value in item.items():
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            if len(value) > MOST_LISTED:
                joined.add(name)
            listed = {f"{name}.{i}": v for i, v in enumerate(value)}
            flat.update(listed if name not in joined else {name: " ".join(value) or None})
        elif isinstance(value, str):
            flat[name] = value
        elif missing(value):
            flat[name] = None
        else:
            flat[name] = json.dumps(value, ensure_ascii=False)
    return flat


def read_parquet(path: Path, cache: Path) -> Raw:
    """One file. Columns of a kind that is not read are left out with a note."""
    digest, part = file_digest(path), open_parquet(path)
    raw = raw_table(path, "parquet table", stored(cache, f"parquet:{digest}", part.batches()), digest)
    raw.notes += part.notes
    return raw


@dataclass
class ParquetPart:
    """A Parquet file: which of its columns are read, their schema, and what to say of the others."""

    path: Path
    chosen: list[int]
    schema: pa.Schema
    notes: list[str] = field(default_factory=list)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, in the order of the file. Raises InputError where it is damaged."""
        with _parquet(self.path) as file:
            for batch in file.iter_batches(1024):
                columns = [batch.column(i) for i in self.chosen]
                arrays = [column.cast(field.type) for column, field in zip(columns, self.schema, strict=True)]
                yield pa.RecordBatch.from_arrays(arrays, schema=self.schema)


@contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with open_regular(path) as stream, pq.ParquetFile(stream) as file:
            yield file
    except (InputError, PermissionError, GeneratorExit):
        raise
    except Exception as error:  # whatever damaged bytes lead the reader to
        raise InputError(
            f"{path} is not a Parquet file or is cut off ({_one_line(error)}).", "Write it again."
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:300]


def open_parquet(path: Path) -> ParquetPart:
    """Looks at the columns of a Parquet file. Raises InputError where it has none that can be read."""
    with _parquet(path) as file:
        given = file.schema_arrow
    chosen, schema, notes = readable_columns(given, path)
    return ParquetPart(path, chosen, schema, [f"{path.name}: {note}" for note in notes])


def readable_columns(given: pa.Schema, where: Path | str) -> tuple[list[int], pa.Schema, list[str]]:
    """Which columns of an Arrow schema are read, as what, and what to say of the others. Raises InputError where there
    are none, and for names that do not serve."""
    check_names(given.names, where)
    plain, notes = [_plain(f) for f in given], []
    whole = _readable(pa.schema(plain))  # the usual case, and much faster than to ask each column
    chosen = [i for i, f in enumerate(plain) if whole or _readable(pa.schema([f]))]
    away = [f"{f.name} ({f.type})" for i, f in enumerate(plain) if i not in chosen]
    if not chosen:
        raise InputError(
            f"{where} has no column of a kind that is read: {', '.join(away[:5])}.", "Write texts instead."
        )
    if away:
        notes.append(f"columns of kinds that are not read left out: {', '.join(away[:5])}")
    schema = pa.schema([plain[i] for i in chosen])
    described = _described(schema, given.metadata)
    if described is None and b"huggingface" in (given.metadata or {}):
        notes.append("the description of the columns that is stored with it is wrong and not used")
    return chosen, described or schema, notes


def _plain(field: pa.Field) -> pa.Field:
    """The same without dictionary encoding, whose dictionaries may differ from batch to batch, and without views."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    kind = pa.large_string() if pa.types.is_string_view(kind) else kind
    return pa.field(field.name, pa.large_binary() if pa.types.is_binary_view(kind) else kind)


def _readable(schema: pa.Schema) -> bool:
    try:
        Dataset(schema.empty_table())
        schema.empty_table().to_pylist()
        return True
    except Exception:  # `datasets` has no feature for it, in many words
        return False


def _described(schema: pa.Schema, metadata: dict[bytes, bytes] | None) -> pa.Schema | None:
    """The schema with the names of classes and the like that `datasets` stored; None where they do not fit."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        kept = {name: features[name] for name in schema.names}
        Features.from_dict(kept)
    except Exception:  # it is missing, or it is whatever somebody wrote there
        return None
    found = schema.with_metadata({b"huggingface": json.dumps({"info": {"features": kept}}).encode()})
    return found if _readable(found) else None


def read_lines(path: Path, cache: Path) -> Raw:
    """A text file with one passage a line; blank lines only separate."""
    digest = file_digest(path)
    with text_file(path) as file:
        rows = ((number, {"text": line.strip()}) for number, line in enumerate(file, 1) if line.strip())
        table = stored(cache, f"txt:{digest}", string_batches(rows, ["text"]))
    raw = raw_table(path, "text file, one passage a line", table, digest)
    raw.roles, raw.reasons = {"text": "text"}, {"text": "each line is a passage"}
    return raw
