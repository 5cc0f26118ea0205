"""BEIR folders (corpus.jsonl, queries.jsonl, qrels/*.tsv): read as pairs with a corpus, and written from any pairs of
texts."""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nearfar.errors import InputError
from nearfar.sources.data import Data
from nearfar.sources.raw import Raw
from nearfar.sources.splits import standard_name
from nearfar.sources.storage import whole
from nearfar.sources.tables import Row, file_digest, stored, string_batches, text_file


def read_beir(path: Path, cache: Path) -> Raw:
    """One row a relevant pair: text = query, text_b = document (title, then text). All documents form the corpus, the
    scores of the pairs are their grades."""
    qrels = sorted((path / "qrels").glob("*.tsv"))
    if not qrels:
        raise InputError(
            f"{path} has a corpus and queries but no qrels/*.tsv.", "Add relevance: query-id, corpus-id, score."
        )
    files = [path / "corpus.jsonl", path / "queries.jsonl", *qrels]
    digest = hashlib.sha256("".join(file_digest(f) for f in files).encode()).hexdigest()
    documents, queries = _documents(files[0]), _documents(files[1])
    judged = [pair for file in qrels for pair in _pairs(file, documents, queries)]
    pairs = [pair for pair in judged if pair[2] > 0]
    columns = ["pair", "query_id", "doc_id", "query", "document", "relevance", "split"]
    rows: Iterator[Row] = (
        (i, dict(zip(columns, (f"{q} {d}", q, d, queries[q], documents[d], f"{grade:g}", split), strict=True)))
        for i, (q, d, grade, split) in enumerate(pairs)
    )
    raw = Raw(path.name, path, "BEIR folder", stored(cache, f"beir:{digest}", string_batches(rows, columns)), digest)
    raw.roles = {"text": "query", "text_b": "document", "id": "pair"}
    raw.reasons = {"text": "the queries", "text_b": "their relevant documents", "id": "query and document"}
    if "train" in {split for *_, split in pairs}:
        raw.roles["split"], raw.reasons["split"] = "split", "the names of the qrels files"
    else:
        raw.notes.append("the qrels name no training pairs: all are split anew by query and content")
    raw.query_column, raw.grade_column = "query_id", "relevance"
    raw.corpus, raw.corpus_keys = {"text_b": list(documents.values())}, {"text_b": list(documents)}
    if len(judged) > len(pairs):
        raw.notes.append(f"{len(judged) - len(pairs)} pairs judged 0 or less left out")
    asked = {q for q, *_ in pairs}
    if len(asked) < len(queries):
        raw.notes.append(f"{len(queries) - len(asked)} queries without a relevant document left out")
    return raw


def _documents(path: Path) -> dict[str, str]:
    """Id -> text, with the title in front where there is one."""
    found: dict[str, str] = {}
    with text_file(path) as file:
        for line, content in enumerate(file, 1):
            if not content.strip():
                continue
            try:
                item = json.loads(content)
                key, text = str(item["_id"]), _text(item)
                f"{key}{text}{item.get('title')}".encode()  # half a character cannot be stored
            except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
                hint = 'Each line is {"_id": "...", "text": "..."}, with "title" in a corpus.'
                raise InputError(f"{path}, line {line}: no such object ({str(error)[:200]}).", hint) from error
            if key in found:
                raise InputError(
                    f"{path}, line {line}: the id '{key}' occurs a second time.", "Ids are unique in a file."
                )
            title = str(item.get("title") or "").strip()
            found[key] = f"{title}\n{text}" if title and text else title or text
    return found


def _text(item: dict) -> str:
    """The text of a document; it may have a title alone."""
    text = item.get("text") if item.get("title") else item["text"]
    return "" if text is None else str(text)


def _pairs(path: Path, documents: dict[str, str], queries: dict[str, str]) -> Iterator[tuple[str, str, float, str]]:
    """(query id, document id, score, split) of every judged pair."""
    split = standard_name(path.stem) or "test"
    with text_file(path) as file:
        for line, text in enumerate(file, 1):
            fields = text.rstrip("\r\n").split("\t")
            if fields == [""] or (line == 1 and fields[0].casefold().startswith("query")):
                continue
            try:
                query, document, score = fields[0], fields[1], float(fields[2])
            except (IndexError, ValueError) as error:
                hint = "Each line is query-id, corpus-id and a number, separated by tabs."
                raise InputError(f"{path}, line {line}: no relevance ({error}).", hint) from error
            for key, known, what in ((query, queries, "queries.jsonl"), (document, documents, "corpus.jsonl")):
                if key not in known:
                    raise InputError(
                        f"{path}, line {line}: the id '{key}' is not in {what}.", "Add it there or remove the line."
                    )
            if not math.isfinite(score):
                raise InputError(f"{path}, line {line}: the score is {fields[2]}.", "A score is a finite number.")
            yield query, document, score, split


def export_beir(data: Data, folder: str | Path) -> Path:
    """Writes the texts and text_b of `data` as corpus.jsonl, queries.jsonl and qrels/{train,val,test}.tsv; equal
    texts stand once.

    Where `data` holds a corpus (BEIR), corpus, query ids and scores are kept. The folder appears whole or not at all.
    Raises InputError where it exists, or where the data are no pairs of texts.
    """
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"{folder} exists.", "Name a new folder.")
    if any(role not in data.roles for role in ("text", "text_b")):
        raise InputError(
            f"{data.name} holds no pairs of texts (roles: {', '.join(data.roles)}).", "BEIR needs text and text_b."
        )
    queries, documents = data.texts("text"), data.texts("text_b")
    query_id = data.query_keys or _numbered(queries, data.keys, "q")
    document_id, corpus = _corpus(data, documents)
    grades = np.ones(len(data)) if data.grades is None else data.grades
    with whole(folder) as temporary:
        (temporary / "qrels").mkdir(parents=True)
        _write_texts(temporary / "corpus.jsonl", corpus, {"title": ""})
        _write_texts(temporary / "queries.jsonl", dict(zip(query_id, queries, strict=True)), {})
        for part, rows in data.splits.items():
            pairs = {(query_id[row], document_id[row]): f"{grades[row]:g}" for row in _together(data, rows)}
            lines = [f"{query}\t{document}\t{grade}\n" for (query, document), grade in pairs.items()]
            (temporary / "qrels" / f"{part}.tsv").write_text(
                "query-id\tcorpus-id\tscore\n" + "".join(lines), encoding="utf-8"
            )
    return folder


def _together(data: Data, rows: np.ndarray) -> np.ndarray:
    """Rows whose two sides belong together."""
    return rows if data.positives is None else rows[data.positives[rows]]


def _corpus(data: Data, documents: list[str]) -> tuple[list[str], dict[str, str]]:
    """The document id of each row, and all documents by id."""
    if not data.corpus:
        ids = _numbered(documents, data.keys, "d")
        return ids, dict(zip(ids, documents, strict=True))
    ids = [str(value) for value in data.values("doc_id")]
    return ids, dict(zip(data.corpus_keys["text_b"], data.corpus["text_b"], strict=True))


def _write_texts(path: Path, texts: dict[str, str], more: dict[str, str]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for key, text in texts.items():
            file.write(json.dumps({"_id": key, **more, "text": text}, ensure_ascii=False) + "\n")


def _numbered(texts: list[str], keys: list[str], letter: str) -> list[str]:
    """An id of each text; equal texts share that of the first."""
    known: dict[str, str] = {}
    for text, key in zip(texts, keys, strict=True):
        known.setdefault(text, f"{letter}:{key}".replace("\t", " "))
    return [known[text] for text in texts]
