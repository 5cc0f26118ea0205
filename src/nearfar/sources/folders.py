"""Folders: pictures, texts, manual pages, table shards, and `datasets` saved to disk."""

import gzip
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import datasets
from datasets import Dataset, DatasetDict, concatenate_datasets, load_from_disk

from nearfar.errors import InputError
from nearfar.sources import manpages, masks
from nearfar.sources.pictures import ENDINGS
from nearfar.sources.raw import Problem, Raw
from nearfar.sources.splits import standard_name
from nearfar.sources.tables import Row, read_csv, read_json, read_lines, read_parquet, stored, string_batches

TEXTS = {".txt", ".md", ".rst", ".text", ".markdown", ".adoc", ".org", ".tex", ".html"}
TABLES = {".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json", ".parquet"}
FILE = "file"


def read_path(path: Path, cache: Path, skip: bool) -> Raw:
    """Whatever lies at `path`. Raises InputError where nothing there can be read."""
    try:
        return _read_folder(path, cache, skip) if path.is_dir() else _read_file(path, cache, skip)
    except PermissionError as error:
        raise InputError(
            f"{error.filename or path} cannot be read: permission denied.", "Change its permissions."
        ) from error


def _read_file(path: Path, cache: Path, skip: bool) -> Raw:
    ending = path.suffix.casefold()
    if ending in (".csv", ".tsv", ".tab"):
        return read_csv(path, cache, skip)
    if ending in (".jsonl", ".ndjson", ".json"):
        return read_json(path, cache, skip)
    if ending == ".parquet":
        return read_parquet([path], path, cache)
    if ending in (".txt", ".text"):
        return read_lines(path, cache)
    hint = (
        f"Give its folder: {path.parent}."
        if ending in ENDINGS | TEXTS
        else "Known: csv, tsv, jsonl, json, parquet, txt, folders."
    )
    raise InputError(f"{path} is a single file of a kind that holds no rows ('{ending or 'no ending'}').", hint)


def _read_folder(path: Path, cache: Path, skip: bool) -> Raw:
    if (path / "corpus.jsonl").exists() and (path / "queries.jsonl").exists():
        from nearfar.sources.beir import read_beir

        return read_beir(path, cache)
    if (path / "dataset_dict.json").exists() or (
        (path / "state.json").exists() and (path / "dataset_info.json").exists()
    ):
        return _saved(path)
    files = _files(path)
    if not files:
        raise InputError(f"The folder {path} is empty.", "Put pictures, texts or a table into it.")
    for name in ("metadata.csv", "metadata.jsonl", "metadata.parquet"):
        if name in files:
            return _read_file(path / name, cache, skip)
    pages = [f for f in files if manpages.section(Path(f).name)]
    pictures = [f for f in files if Path(f).suffix.casefold() in ENDINGS]
    texts = [f for f in files if Path(f).suffix.casefold() in TEXTS]
    if len(pages) > max(len(pictures), len(texts)):
        return _man_pages(path, pages, files, cache, skip)
    if pictures and len(pictures) >= len(texts):
        return _pictures(path, pictures, files, cache)
    if texts:
        return _texts(path, texts, files, cache, skip)
    return _one_table(path, files, cache, skip)


def _files(path: Path) -> list[str]:
    """All files below, relative, sorted, hidden ones left out."""

    def stop(error: OSError) -> None:
        raise error

    found = []
    for folder, folders, names in os.walk(path, onerror=stop):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        found += [os.path.relpath(os.path.join(folder, name), path) for name in names if not name.startswith(".")]
    return sorted(found)


def _one_table(path: Path, files: list[str], cache: Path, skip: bool) -> Raw:
    shards = [path / f for f in files if f.casefold().endswith(".parquet")]
    if shards:
        return read_parquet(shards, path, cache)
    tables = [f for f in files if Path(f).suffix.casefold() in TABLES]
    if len(tables) == 1:
        return _read_file(path / tables[0], cache, skip)
    if tables:
        raise InputError(f"{path} holds {len(tables)} tables: {', '.join(tables[:5])}.", "Name one of them.")
    kinds = ", ".join(f"{n} {k or 'without ending'}" for k, n in Counter(Path(f).suffix for f in files).most_common(5))
    raise InputError(
        f"{path} holds nothing that nearfar reads (files: {kinds}).", "Known: pictures, texts, man pages, tables."
    )


def _left_out(used: list[str], files: list[str], what: str) -> list[str]:
    rest = Counter(Path(f).suffix or "no ending" for f in set(files) - set(used))
    shown = ", ".join(f"{n} {kind}" for kind, n in rest.most_common(5))
    return [f"{sum(rest.values())} files that are no {what} left out ({shown})"] if rest else []


def _places(files: list[str]) -> tuple[dict[str, list[str | None]], list[str]]:
    """Columns `split` and `label` as the folders say, and notes.

    Folders train, val, test above all files become the split; the folder below them (or the first one) the class.
    """
    parts = [Path(f).parts[:-1] for f in files]
    columns: dict[str, list[str | None]] = {}
    if all(p and standard_name(p[0]) for p in parts) and len({standard_name(p[0]) for p in parts}) > 1:
        columns["split"] = [p[0] for p in parts]
        parts = [p[1:] for p in parts]
    if not all(parts):
        return columns, []
    if len({p[0] for p in parts}) < 2:
        return columns, [f"all files lie in one folder ('{parts[0][0]}'): one class only, so there are no labels"]
    columns["label"] = [p[0] for p in parts]
    return columns, []


def _listing(
    path: Path, kind: str, columns: dict[str, list[str | None]], rows: Iterator[Row], cache: Path, key: str
) -> Raw:
    names = [FILE, *columns] if kind == "image folder" else [FILE, "text", *columns]
    table = stored(cache, f"{kind}:{key}", string_batches(rows, names))
    raw = Raw(path.name, path, kind, table, key, base=path, file_column=FILE)
    reasons = {
        "split": "the folders train, val, test say so",
        "label": "each folder is a class",
        "mask": "pictures and masks of one name lie side by side",
    }
    raw.roles = {role: [role] if role == "label" else role for role in columns}
    raw.reasons = {role: reasons[role] for role in columns}
    return raw


def _pictures(path: Path, files: list[str], others: list[str], cache: Path) -> Raw:
    found = masks.pairs(files)
    if found is None:
        columns, notes = _places(files)
        used = files
    else:
        columns, notes, used = _masked(path, found)
        files = list(found)
    rows = ((i, {FILE: f, **{name: values[i] for name, values in columns.items()}}) for i, f in enumerate(files))
    key = hashlib.sha256("\0".join([*files, *map(str, columns.get("mask", []))]).encode("utf-8", "surrogateescape"))
    raw = _listing(path, "image folder", columns, rows, cache, key.hexdigest())
    raw.roles |= {"image": FILE, "id": FILE}
    raw.reasons |= {"image": "a folder of pictures", "id": "its path"}
    raw.notes = [*notes, *_left_out(used, others, "pictures")]
    return raw


def _masked(path: Path, found: dict[str, masks.Pair]) -> tuple[dict[str, list[str | None]], list[str], list[str]]:
    """Columns `mask`, `split` and `label` of pictures with masks beside them, notes, and all files that are used."""
    twice = next((pair for pair in found.values() if len(pair.masks) > 1), None)
    if twice:
        raise InputError(
            f"{path}: there are two masks of one picture: {' and '.join(twice.masks[:2])}.", "Take one of them away."
        )
    columns, notes = _places([pair.place for pair in found.values()])
    columns = {"mask": [pair.mask for pair in found.values()], **columns}
    bare = sum(pair.mask is None for pair in found.values())
    if bare:
        notes.append(f"{bare} pictures have no folder of masks beside theirs: they are trained on and not measured")
    return columns, notes, [*found, *(mask for mask in columns["mask"] if mask), masks.NAMES]


def _content(path: Path, file: str) -> str:
    raw = (path / file).read_bytes()
    raw = gzip.decompress(raw) if file.endswith(".gz") else raw
    try:
        return raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        if manpages.section(Path(file).name):
            return raw.decode("latin-1")  # what old pages are written in
        raise


def _loaded(path: Path, files: list[str], skip: bool) -> tuple[list[tuple[str, str]], list[Problem]]:
    """(file, content) of all that can be read."""
    good, problems = [], []
    for file in files:
        try:
            good.append((file, _content(path, file)))
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
            what = (
                "the text is not valid UTF-8"
                if isinstance(error, UnicodeDecodeError)
                else f"it cannot be unpacked ({error})"
            )
            if not skip:
                hint = "Save it as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8), remove it, or use --unreadable skip."
                raise InputError(f"{path / file}: {what}.", hint) from error
            problems.append(Problem(str(path / file), None, what))
    return good, problems


def _digest(contents: list[tuple[str, str]]) -> str:
    state = hashlib.sha256()
    for file, text in contents:
        state.update(f"{file}\0{len(text)}\0{text}".encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def _texts(path: Path, files: list[str], others: list[str], cache: Path, skip: bool) -> Raw:
    contents, problems = _loaded(path, files, skip)
    columns, notes = _places([file for file, _ in contents])
    rows = (
        (i, {FILE: file, "text": text, **{name: values[i] for name, values in columns.items()}})
        for i, (file, text) in enumerate(contents)
    )
    raw = _listing(path, "folder of texts", columns, rows, cache, _digest(contents))
    raw.roles |= {"text": "text", "id": FILE}
    raw.reasons |= {"text": "a folder of texts", "id": "its path"}
    raw.notes, raw.problems = [*notes, *_left_out(files, others, "texts")], problems
    return raw


def _man_pages(path: Path, files: list[str], others: list[str], cache: Path, skip: bool) -> Raw:
    files = [f for f in files if not (path / f).is_symlink()]
    contents, problems = _loaded(path, files, skip)
    pages = [(file, manpages.name_and_body(manpages.plain_text(text)), text) for file, text in contents]
    kept = [(file, pair) for file, pair, _ in pages if pair]
    if not kept:
        raise InputError(f"No page of {path} has a NAME line.", "Give a folder of manual pages such as man1.")
    columns: dict[str, list[str | None]] = {"label": [manpages.section(Path(file).name) for file, _ in kept]}
    rows = (
        (i, {FILE: file, "text": name, "body": body, "label": columns["label"][i]})
        for i, (file, (name, body)) in enumerate(kept)
    )
    key = _digest([(file, f"{name}\0{body}") for file, (name, body) in kept])
    table = stored(cache, f"man:{key}", string_batches(rows, [FILE, "text", "body", "label"]))
    raw = Raw(path.name, path, "manual pages", table, key, base=path, file_column=FILE, problems=problems)
    raw.roles = {"text": "text", "text_b": "body", "id": FILE}
    if len(set(columns["label"])) > 1:
        raw.roles["label"] = ["label"]
    raw.reasons = {"text": "the NAME line", "text_b": "the rest of the page", "label": "the section", "id": "its path"}
    links = sum(text.lstrip().startswith(".so ") for _, pair, text in pages if not pair)
    without = len(pages) - len(kept) - links
    raw.notes = _left_out(files, [f for f in others if not (path / f).is_symlink()], "manual pages")
    raw.notes += (
        [f"{without} pages without a NAME line and {links} that only point to another left out"]
        if without + links
        else []
    )
    return raw


def _saved(path: Path) -> Raw:
    """A `Dataset` or `DatasetDict` of save_to_disk; the parts of a dict become the split."""
    try:
        found = load_from_disk(str(path))
    except (FileNotFoundError, ValueError, OSError) as error:
        raise InputError(
            f"{path} is no whole `datasets` folder ({error}).", "Save it again with save_to_disk."
        ) from error
    roles: dict = {}
    if isinstance(found, DatasetDict):
        parts = [part.remove_columns("split") if "split" in part.column_names else part for part in found.values()]
        names = [name for name, part in found.items() for _ in range(len(part))]
        table: Dataset = concatenate_datasets(parts)
        if len(found) > 1 and all(standard_name(str(n)) for n in found):
            table = concatenate_datasets([table, Dataset.from_dict({"split": names})], axis=1)
            roles = {"split": "split"}
    else:
        table = found
    state = hashlib.sha256()
    for file in sorted(path.rglob("*.arrow")):
        with open(file, "rb") as stream:
            state.update(hashlib.file_digest(stream, "sha256").digest())
    raw = Raw(path.name, path, "datasets folder", table, state.hexdigest(), base=path, roles=roles)
    raw.reasons = {"split": "the parts of the saved dict"}
    return raw


datasets.disable_progress_bars()
