"""Folders: images, texts, manual pages, table shards, and `datasets` saved to disk."""

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import datasets
from datasets import Dataset, DatasetDict, concatenate_datasets, load_from_disk

from nearfar import modalities
from nearfar.errors import InputError
from nearfar.limits import MOST_UNPACKED
from nearfar.sources import manpages, masks
from nearfar.sources.layout import layout
from nearfar.sources.listing import (
    Listing,
    check_regular,
    endings,
    is_pattern,
    left_out,
    listing,
    matching,
    open_regular,
    shown,
)
from nearfar.sources.raw import Problem, Raw
from nearfar.sources.shards import TABLES, read_metadata, read_shards, table_sets
from nearfar.sources.splits import standard_name
from nearfar.sources.tables import Row, check_names, read_table, stored, string_batches

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE, FOLDER = "file", "folder"


def read_path(path: Path, cache: Path, skip: bool) -> Raw:
    """Whatever lies at `path`, or matches it where it is a pattern. Raises InputError where nothing can be read."""
    try:
        if is_pattern(path) and not path.exists():
            return _read_matching(path, cache, skip)
        return _read_folder(path, cache, skip) if path.is_dir() else _read_file(path, cache, skip)
    except PermissionError as error:
        raise InputError(
            f"{error.filename or path} cannot be read: permission denied.", "Change its permissions."
        ) from error


def _read_file(path: Path, cache: Path, skip: bool) -> Raw:
    check_regular(path)
    ending = path.suffix.casefold()
    kinds = modalities.everyone()
    for kind in kinds:
        found = kind.read_file(path, cache, skip) if ending in kind.tables else None
        if found is not None:
            return found
    found = read_table(path, cache, skip)
    if found is not None:
        return found
    further = "".join(f", {one.lstrip('.')}" for one in sorted({one for kind in kinds for one in kind.tables}))
    hint = (
        f"Give its folder: {path.parent}."
        if any(ending in kind.endings for kind in kinds)
        else f"Known: csv, tsv, jsonl, json, parquet, txt, tar{further}, folders."
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
    there = listing(path)
    if not there.files:
        found = "; ".join(there.notes())
        raise InputError(
            f"The folder {path} {f'holds nothing to read: {found}' if found else 'is empty'}.",
            "Put images, texts or a table into it.",
        )
    raw = _read_files(path, there, cache, skip)
    raw.notes += there.notes()
    return raw


def _read_matching(pattern: Path, cache: Path, skip: bool) -> Raw:
    """The files that match a pattern, as a folder of them alone would be read."""
    top, there = matching(pattern)
    if not there.files:
        found = "; ".join(there.notes())
        raise InputError(f"No file matches {pattern}{f': {found}' if found else ''}.",
                         "A * stands for any part of a name, ** for any folders: photos/**/*.jpg.")  # fmt: skip
    raw = _read_files(top, there, cache, skip)
    raw.path, raw.name = pattern, top.resolve().name or pattern.anchor
    raw.notes += there.notes()
    return raw


def _read_files(path: Path, there: Listing, cache: Path, skip: bool) -> Raw:
    files = there.files
    whole = next((kind for kind in modalities.everyone() if kind.holds(path, files)), None)
    if whole is not None:
        return whole.read_files(path, files, files, cache, skip)
    described = [f for f in files if Path(f).name in METADATA]
    raw = read_metadata(path, described, files, cache, skip) if described else None
    if raw is not None:
        return raw
    pages = [f for f in files if manpages.section(Path(f).name)]
    found = [(kind, [f for f in files if Path(f).suffix.casefold() in kind.endings]) for kind in modalities.everyone()]
    kind, most = max(found, key=lambda pair: len(pair[1]))
    if len(pages) > len(most):
        return _man_pages(path, pages, files, cache, skip)
    tables = [f for f in files if Path(f).suffix.casefold() in TABLES]
    if most and not (tables and all(Path(f).stem.casefold() in _ABOUT for f in most)):
        return kind.read_files(path, most, files, cache, skip)
    return _tables(path, files, tables, cache, skip)


_ABOUT = {"readme", "license", "licence", "changelog", "citation", "notice"}


def _tables(path: Path, files: list[str], tables: list[str], cache: Path, skip: bool) -> Raw:
    if len(tables) == 1:
        raw = _read_file(path / tables[0], cache, skip)
        raw.base = path if path == (path / tables[0]).parent else raw.base
    elif tables:
        chosen = table_sets(path, tables)
        raw = read_shards(path, chosen, cache, skip)
        tables = chosen
    else:
        raise InputError(
            f"{path} holds nothing that nearfar reads (files: {endings(files)}).",
            "Known: images, texts, man pages, tables.",
        )
    raw.notes += _left_out(tables, files, "tables")
    return raw


def _left_out(used: list[str], files: list[str], what: str) -> list[str]:
    rest = set(files) - set(used)
    return [f"{len(rest)} files that are not {what} left out ({endings(rest)})"] if rest else []


def _listing(
    path: Path, kind: str, columns: dict[str, list[str | None]], files: list[str], rows: Iterator[Row], cache: Path,
    key: str,
) -> Raw:  # fmt: skip
    """files: of the rows. Where some lie in folders, a column says in which: for --bag, --unit and the like."""
    names = [FILE, *columns] if kind == "image folder" else [FILE, "text", *columns]
    folders = [str(parent) if (parent := Path(file).parent).name else None for file in files]
    if any(folders):
        names = [*names, FOLDER]
        rows = ((i, {**row, FOLDER: folders[i]}) for i, row in rows)
    table = stored(cache, f"{kind}, {', '.join(names)}:{key}", string_batches(rows, names))
    raw = Raw(path.name, path, kind, table, key, base=path, file_column=FILE)
    reasons = {
        "split": "the folders train, val, test say so",
        "label": "each folder is a class",
        "mask": "images and masks of one name lie side by side",
    }
    raw.roles = {role: [role] if role == "label" else role for role in columns}
    raw.reasons = {role: reasons[role] for role in columns}
    return raw


def _named(path: Path, files: list[str], skip: bool) -> tuple[list[str], list[Problem]]:
    """The files whose names are text, and a problem for each other one."""
    good, problems = [], []
    for file in files:
        if shown(file) == file:
            good.append(file)
            continue
        message = "its name is not valid UTF-8"
        if not skip:
            raise InputError(
                f"{shown(path / file)}: {message}.", "Rename it (convmv -f latin1 -t utf8), or use --unreadable skip."
            )
        problems.append(Problem(shown(path / file), None, message))
    if not good:
        raise InputError(f"No file of {shown(path)} has a name that is valid UTF-8.", "Rename them: convmv -t utf8.")
    return good, problems


def read_images(path: Path, files: list[str], others: list[str], cache: Path, skip: bool) -> Raw:
    """A folder of images, with its layout as labels, splits or masks."""
    given = files
    files, problems = _named(path, files, skip)
    found = masks.pairs(files)
    places, masked, used = files, None, files
    strange = set(given).difference(files)
    if found is not None:
        files, places, masked, used = _masked(path, found)
    found = layout(places)
    columns = {name: list(values) for name, values in found.columns.items()}
    if masked is not None:
        columns = {"mask": [masked[i] for i in found.kept], **columns}
    kept = [files[i] for i in found.kept]
    rows = ((i, {FILE: f, **{name: values[i] for name, values in columns.items()}}) for i, f in enumerate(kept))
    parts = [*kept, *(f"{name}={value}" for name, values in columns.items() for value in values)]
    key = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape"))
    raw = _listing(path, "image folder", columns, kept, rows, cache, key.hexdigest())
    raw.roles |= {"image": FILE, "id": FILE}
    raw.reasons |= {"image": "a folder of images", "id": "its path"}
    bare = sum(mask is None for mask in columns.get("mask", []))
    if bare:
        raw.notes.append(f"{bare} images have no folder of masks beside theirs: they are trained on and not measured")
    raw.notes += [*found.notes, *_left_out([*used, *strange], others, "images")]
    raw.problems = problems
    return raw


def _masked(path: Path, found: dict[str, masks.Pair]) -> tuple[list[str], list[str], list[str | None], list[str]]:
    """Images with masks beside them: the images, their places without the folder of images, their masks, and all
    files that are used."""
    twice = next((pair for pair in found.values() if len(pair.masks) > 1), None)
    if twice:
        raise InputError(
            f"{path}: there are two masks of one image: {' and '.join(twice.masks[:2])}.", "Take one of them away."
        )
    masked = [pair.mask for pair in found.values()]
    used = [*found, *(mask for mask in masked if mask), masks.NAMES]
    return list(found), [pair.place for pair in found.values()], masked, used


def _content(path: Path, file: str) -> str:
    with open_regular(path / file) as stream:
        raw = stream.read()
    if file.endswith(".gz"):
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as unpacked:
            raw = unpacked.read(MOST_UNPACKED + 1)
        if len(raw) > MOST_UNPACKED:
            raise _TooLarge(f"it unpacks to more than {MOST_UNPACKED >> 20} MiB")
    try:
        return raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        if manpages.section(Path(file).name):
            return raw.decode("latin-1")  # what old pages are written in
        raise


class _TooLarge(Exception):
    """A text that is not read because of its size."""


def _loaded(path: Path, files: list[str], skip: bool) -> tuple[list[tuple[str, str]], list[Problem]]:
    """(file, content) of all that can be read."""
    good, problems = [], []
    for file in files:
        try:
            good.append((file, _content(path, file)))
        except (UnicodeError, OSError, EOFError, zlib.error, _TooLarge) as error:
            if isinstance(error, PermissionError):
                raise
            what, hint = _wrong(error)
            if not skip:
                raise InputError(f"{path / file}: {what}.", hint) from error
            problems.append(Problem(str(path / file), None, what))
    return good, problems


def _wrong(error: Exception) -> tuple[str, str]:
    """What is wrong with a text file, and the mend."""
    if isinstance(error, UnicodeError):
        hint = "Save it as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8), remove it, or use --unreadable skip."
        return "the text is not valid UTF-8", hint
    if isinstance(error, _TooLarge):
        return str(error), "Remove it, or use --unreadable skip."
    if isinstance(error, FileNotFoundError):
        return "there is no such file", "Remove the link, or use --unreadable skip."
    return f"it cannot be unpacked ({error})", "Remove it, or use --unreadable skip."


def _digest(contents: list[tuple[str, str]]) -> str:
    state = hashlib.sha256()
    for file, text in contents:
        state.update(f"{file}\0{len(text)}\0{text}".encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def read_texts(path: Path, files: list[str], others: list[str], cache: Path, skip: bool) -> Raw:
    """A folder of texts, with its layout as labels or splits."""
    named, strange = _named(path, files, skip)
    contents, problems = _loaded(path, named, skip)
    found = layout([file for file, _ in contents])
    kept = [contents[i] for i in found.kept]
    rows = (
        (i, {FILE: file, "text": text, **{name: values[i] for name, values in found.columns.items()}})
        for i, (file, text) in enumerate(kept)
    )
    key = _digest([*kept, *((name, str(values)) for name, values in found.columns.items())])
    raw = _listing(path, "folder of texts", found.columns, [file for file, _ in kept], rows, cache, key)
    raw.roles |= {"text": "text", "id": FILE}
    raw.reasons |= {"text": "a folder of texts", "id": "its path"}
    raw.notes, raw.problems = [*found.notes, *_left_out(files, others, "texts")], strange + problems
    return raw


def _man_pages(path: Path, files: list[str], others: list[str], cache: Path, skip: bool) -> Raw:
    files = [f for f in files if not (path / f).is_symlink()]
    named, strange = _named(path, files, skip) if files else ([], [])
    contents, problems = _loaded(path, named, skip)
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
    raw = Raw(path.name, path, "manual pages", table, key, base=path, file_column=FILE, problems=strange + problems)
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
    notes: list[str] = []
    roles: dict = {}
    try:
        found = load_from_disk(str(path))
        table = joined(path, found, roles, notes) if isinstance(found, DatasetDict) else found
    except InputError:
        raise
    except Exception as error:  # whatever damaged files lead the reader to
        raise InputError(
            f"{path} is not a whole `datasets` folder ({error}).", "Save it again with save_to_disk."
        ) from error
    check_names(table.column_names, path)
    state = hashlib.sha256()
    for file in sorted(path.rglob("*.arrow")):
        with open_regular(file) as stream:
            state.update(hashlib.file_digest(stream, "sha256").digest())
    raw = Raw(path.name, path, "datasets folder", table, state.hexdigest(), base=path, roles=roles, notes=notes)
    raw.reasons = {"split": "the parts of the saved dict"}
    return raw


def joined(where: Path | str, found: DatasetDict, roles: dict, notes: list[str]) -> Dataset:
    """The parts of a dict one after the other; where they are called as splits are, they are the role of the split."""
    names, divides = chosen_parts([str(name) for name in found], notes)
    parts = [found[name] for name in names]
    given = [part.remove_columns("split") if "split" in part.column_names else part for part in parts] if divides else (
        parts)  # fmt: skip
    try:
        table: Dataset = concatenate_datasets(given)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{where}: the parts {', '.join(names)} hold columns of unlike types ({error}).", "Give them one type."
        ) from error
    if divides:
        roles["split"] = "split"
        column = [name for name, part in zip(names, parts, strict=True) for _ in range(len(part))]
        table = concatenate_datasets([table, Dataset.from_dict({"split": column})], axis=1)
    return table


def chosen_parts(names: list[str], notes: list[str]) -> tuple[list[str], bool]:
    """The parts of a dict that are read, and whether they are splits by their names: then the others are left out."""
    if len({standard_name(name) for name in names} - {None}) <= 1:
        return names, False
    away = [name for name in names if standard_name(name) is None]
    if away:
        notes.append(left_out(away, "parts that are not called train, val or test"))
    return [name for name in names if name not in away], True


datasets.disable_progress_bars()
