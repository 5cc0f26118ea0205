"""`nearfar search`: one query, a file of them, or line after line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfar import modalities, options, terminal
from nearfar.checks import PositiveInt
from nearfar.cli.common import Output, emit, read
from nearfar.errors import InputError, NearfarError, did_you_mean
from nearfar.queries import is_key

if TYPE_CHECKING:
    from nearfar.searching import Searcher

PROMPT = "> "
TABLES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json", ".parquet")


@dataclass
class SearchOptions:
    """What is searched.

    Args:
        k: number of hits.
        where: filter in SQL over the index's columns, such as "style = 'noto'".
        model: folder of the model; default the one that built the index.
        role: whose encoder embeds the query (image, text, text_b...); default by what the query is.
        variant: which of the vectors of the query; default that of the index.
        plus: a text, an image or key:KEY that is added to the query.
        minus: a text, an image or key:KEY that is taken from it.
        interactive: keep model and index loaded and answer line after line; Ctrl-D ends.
        queries: file of queries, in place of the one on the command line: one a line, or a csv, tsv, jsonl or parquet
            table.
        column: of the table that holds the queries; default query, or the only one.
        hybrid: fuse the ranking by vectors with that by words (BM25) among the index's columns of texts.
        dims: compare the first numbers of the vectors alone, with every item; default all that the index has.
        exact: compare with every item, also where a large index has an approximate index.
    """

    k: PositiveInt = 10
    where: str | None = None
    model: str | None = None
    role: str | None = None
    variant: str | None = None
    plus: str | None = None
    minus: str | None = None
    interactive: bool = False
    queries: str | None = None
    column: str | None = None
    hybrid: bool = False
    dims: PositiveInt | None = None
    exact: bool = False


def search(index: str, query: str | None, given: SearchOptions, as_json: bool) -> int:
    """Searches and prints. Returns 2 where one of several queries was wrong, else 0."""
    from nearfar.cli.hits import answer, show, warn
    from nearfar.searching import Searcher

    if (query is not None) + (given.queries is not None) + given.interactive != 1:
        raise InputError("Give one query, or --queries FILE, or --interactive.")
    if given.column is not None and given.queries is None:
        raise InputError("--column names a column of --queries FILE, which is not there.")
    queries = [query] if given.queries is None else queries_of(Path(given.queries), given.column)
    searcher = Searcher(index, model=given.model, role=given.role, variant=given.variant, dims=given.dims)
    options = {name: getattr(given, name) for name in ("k", "where", "plus", "minus", "exact", "hybrid")}
    if searcher.index is not None and searcher.index.approximate and not given.exact and given.where is None:
        kind, recall = searcher.index.approximate["type"], searcher.index.approximate["recall"]
        terminal.say(f"approximate search ({kind}), which finds {recall:.1%} of the ten nearest; --exact finds all")
    if given.dims is not None and not all(is_key(one) for one in queries):
        from nearfar.using import untrained_width

        cut = searcher.index is not None and searcher.index.meta.get("dims")
        if cut and given.dims not in searcher.model.dims:
            terminal.say(untrained_width(searcher.model, given.dims))
    if given.interactive:
        return answering(searcher, options, as_json)
    found = searcher.search_many(queries, **options)
    if query is not None:
        if found[0].error is not None:
            raise found[0].error
        emit(found[0].hits) if as_json else show(found[0].hits)
    elif as_json:
        emit([one.to_dict() for one in found])
    else:
        for one in found:
            answer(one)
    warn([hit for one in found for hit in one.hits])
    return 2 if any(one.error is not None for one in found) else 0


def answering(searcher: Searcher, options: Mapping[str, Any], as_json: bool) -> int:
    """Answers each line of standard input until it ends; an error is told, and the next line is read."""
    from nearfar.cli.hits import answer, show
    from nearfar.searching import Found

    searcher.search_many([], **options)  # what is wrong with the options is told before the first query
    with contextlib.suppress(InputError):  # items of the index may be asked for without the model
        _ = searcher.model
    watched, failed = sys.stdin.isatty() and sys.stdout.isatty(), False
    if watched:
        terminal.say("a query on each line; Ctrl-D ends")
    for line in typed() if watched else sys.stdin:
        query = line.strip()
        if not query:
            continue
        try:
            (found,) = searcher.search_many([query], **options)
        except InputError as error:
            found = Found(query, error=error)
        except NearfarError as error:
            found = Found(query, error=InputError(error.message, error.hint))
        failed |= found.error is not None
        if as_json:
            emit(found.to_dict(), None)
        elif watched and found.error is None:
            show(found.hits)
        elif watched:
            terminal.say(f"nearfar: {found.error}")
        else:
            answer(found)
        sys.stdout.flush()
    return 2 if failed and not watched else 0


def typed() -> Iterator[str]:
    """Lines as they are typed, with a prompt and a history."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    while True:
        try:
            yield input(PROMPT)
        except EOFError:
            sys.stdout.write("\n")
            return


def queries_of(path: Path, column: str | None) -> list[str]:
    """The queries of a file: its lines, or a column of a table. The path of an image may begin in the file's folder.

    Raises InputError for a file that cannot be read or holds no query, and for a column that is not there.
    """
    if path.suffix.casefold() in TABLES:
        found = _column(path, column)
    elif column is not None:
        raise InputError(f"--column names a column of a table, and '{path}' is none.", f"Tables: {', '.join(TABLES)}.")
    else:
        try:
            found = path.read_text(encoding="utf-8-sig").split("\n")
        except OSError as error:
            raise InputError(
                f"The queries in '{path}' cannot be read: {error.strerror}.", "Give a text file."
            ) from error
        except UnicodeDecodeError as error:
            raise InputError(f"'{path}' is no text in UTF-8 (byte {error.start}).", "Give a text file.") from error
    queries = [query.strip() for query in found if query.strip()]
    if not queries:
        raise InputError(f"'{path}' holds no query.", "Write one on each line.")
    return [_from(path.parent, query) for query in queries]


def _column(path: Path, column: str | None) -> list[str]:
    from nearfar.sources import storage, tables

    if not path.is_file():
        raise InputError(f"There is no file '{path}'.")
    raw = tables.read_table(path, storage.cache_dir(), False)
    assert raw is not None
    names = [name for name in raw.table.column_names if not name.startswith("__")]
    chosen = column or ("query" if "query" in names else names[0] if len(names) == 1 else None)
    if chosen not in names:
        near = "" if chosen is None else did_you_mean(chosen, names)
        raise InputError(
            f"Which column of '{path}' holds the queries?"
            if chosen is None
            else f"'{path}' has no column '{chosen}'.{near}",
            f"Columns: {', '.join(names)}. Name it: --column {names[0] if names else 'NAME'}",
        )
    return ["" if value is None else str(value) for value in raw.table[chosen]]


def _from(folder: Path, query: str) -> str:
    """A query; the path of an image that is written from a folder on, from here on."""
    if query.startswith("key:") or Path(query).suffix.casefold() not in modalities.get("image").endings:
        return query
    beside = folder / query
    return str(beside) if beside.is_file() and not Path(query).is_file() else query


def run_search(words: list[str]) -> int:
    targets = [SearchOptions, Output]
    places, checked = read(words, targets, (1, 2), 'nearfar search INDEX "QUERY"|IMAGE|key:KEY')
    query = places[1] if len(places) == 2 else None
    return search(places[0], query, options.build(SearchOptions, checked), checked.json)
