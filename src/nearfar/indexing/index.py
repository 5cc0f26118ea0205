"""Open and search an index. Below `approximate.LARGE` bytes of vectors, and where it is asked for, search is exact."""

import copy
import hashlib
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nearfar import files
from nearfar.bm25 import BM25
from nearfar.checks import PositiveInt, check
from nearfar.errors import InputError
from nearfar.indexing import approximate, hybrid, stored
from nearfar.indexing.exact import Ranked, nearest
from nearfar.indexing.filters import wrong_filter
from nearfar.indexing.stored import ID, ROWS, VECTORS, WORDS, Rows
from nearfar.vectors import as_vectors, normalise

FORMAT, META, TABLE = 1, "index.json", "items"
FIELDS = {"format": int, "model_hash": str, "dim": int}
DAMAGED = "Build it anew: nearfar embed MODEL DATA --out INDEX."


class Index:
    """An open index. `columns`: payload columns; `model_hash`, `dim` and `meta`: as stored. Its parts are read, and
    compared with their checksums, when they are first needed."""

    def __init__(self, path: Path, meta: dict[str, Any]):
        self.path, self.meta = path, meta
        self.model_hash, self.dim = str(meta["model_hash"]), int(meta["dim"])

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def columns(self) -> list[str]:
        return self._rows.columns

    @property
    def schema(self) -> pa.Schema:
        """Of the table, hidden columns among them."""
        return self.table.schema

    @property
    def similarity(self) -> str:
        """What its scores are: "cosine", or "dot" for a model whose vectors are compared by their inner product."""
        return self.meta.get("similarity", "cosine")

    @property
    def approximate(self) -> dict[str, Any] | None:
        """Of a large index: the type of its approximate index, and its `recall` of the ten nearest, from 0 to 1."""
        return self.meta.get("approximate")

    @cached_property
    def table(self) -> Any:
        """The LanceDB table."""
        import lancedb

        self._check(f"{TABLE}.lance/")
        try:
            return lancedb.connect(str(self.path)).open_table(TABLE)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the engine panics with what is no Exception
            raise InputError(f"The index {self.path} is damaged: its table cannot be opened.", DAMAGED) from error

    @cached_property
    def _rows(self) -> Rows:
        if ROWS not in self._files:
            return self._loaded[0]
        self._check(ROWS)
        with files.reading(self.path / ROWS, DAMAGED):
            return Rows.read(self.path / ROWS)

    @cached_property
    def _vectors(self) -> np.ndarray:
        if VECTORS not in self._files:
            return self._loaded[1]
        self._check(VECTORS)
        with files.reading(self.path / VECTORS, DAMAGED):
            return np.asarray(np.load(self.path / VECTORS, mmap_mode="r", allow_pickle=False))

    @cached_property
    def _loaded(self) -> tuple[Rows, np.ndarray]:
        return stored.in_memory(self.table)

    @cached_property
    def _words(self) -> BM25:
        if not self._rows.texts:
            raise InputError(
                f"The index {self.path} has no column of texts, so --hybrid has no words to look for.",
                "Embed data with a column of texts, or leave out --columns none.",
            )
        if ROWS not in self._files:
            raise InputError(f"The index {self.path} was built before there was --hybrid.", DAMAGED)
        self._check(f"{WORDS}/")
        with files.reading(self.path / WORDS, DAMAGED):
            return BM25.load(self.path / WORDS, len(self))

    @cached_property
    def _longest(self) -> float:
        """No vector is longer."""
        if self.similarity == "cosine" or not len(self):
            return 1.0
        return float(np.sqrt(np.einsum("nd,nd->n", self._vectors, self._vectors).max())) + 1e-6

    @property
    def _files(self) -> dict[str, str]:
        return self.meta.get("files", {})

    def _check(self, part: str) -> None:
        """Raises InputError for a file of a part that is not what was written."""
        for name, digest in self._files.items():
            if name == part or (part.endswith("/") and name.startswith(part)):
                with files.reading(self.path / name, DAMAGED):
                    if files.digest(self.path / name) != digest:
                        raise files.damaged(self.path / name, "its content is not what was written", DAMAGED)

    def truncated(self, dims: int) -> "Index":
        """The index of the first `dims` numbers of every vector, of length 1 by themselves where it is of cosines; its
        searches compare with every item. The index itself where it has no more; InputError for more than there are."""
        check("dims", dims, PositiveInt, "argument")
        if dims > self.dim:
            raise InputError(f"The vectors of the index {self.path} have {self.dim} numbers. Got dims {dims}.",
                             f"Use {self.dim} or less.")  # fmt: skip
        if dims == self.dim:
            return self
        made, cut = copy.copy(self), self._vectors[:, :dims]
        made.dim = dims
        made.meta = {k: v for k, v in self.meta.items() if k != "approximate"} | {"dim": dims, "dims": dims}
        made._vectors = normalise(cut).astype(np.float32) if self.similarity == "cosine" else cut.copy()
        return made

    def open(self) -> "Index":
        """Reads what a search needs, so that damage is told before the first query."""
        if self.approximate is None:
            len(self._vectors)
        else:
            len(self.table.schema)
        len(self._rows)
        return self

    def keys(self) -> list[str]:
        """The keys of all items, in the order of storage."""
        return self._rows.keys()

    def rows(self, columns: Sequence[str]) -> pa.Table:
        """Some columns of all items, in the order of storage."""
        return self.table.search().select(list(columns)).limit(max(1, len(self))).to_arrow().select(list(columns))

    def check_model(self, model_hash: str) -> None:
        """Raises InputError where another model built the index: its vectors would not be comparable."""
        if self.model_hash != model_hash:
            raise InputError(
                f"The index {self.path} was built by another model ({self.model_hash[:12]}, not "
                f"{model_hash[:12]}), so its vectors cannot be compared.",
                "Build it anew with this model, or search with the model that built it.",
            )

    def vector(self, key: str) -> np.ndarray | None:
        """The stored vector (d,) of an item, or None where there is no such key."""
        place = self._rows.row_of(key)
        return None if place is None else np.array(self._vectors[place])

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The stored vectors float32 (n, d) of some rows, by their number in the order of storage."""
        return np.asarray(self._vectors[rows])

    @property
    def vectors_hash(self) -> str:
        """Hex digest of all vectors in their order."""
        return self._files.get(VECTORS) or hashlib.sha256(np.ascontiguousarray(self._vectors).tobytes()).hexdigest()

    def search(
        self, vector: Any, k: int = 10, where: str | None = None, *, exact: bool = False, without: Collection[str] = ()
    ) -> list[dict[str, Any]]:
        """The k nearest items of a vector (d,): dicts of key, payload columns and score, a cosine from -1 to 1 (or an
        inner product, `similarity`). Equal scores in the order of storage.

        where: a filter in SQL over the payload columns ("style = 'noto' and year > 2000"), applied before ranking.
        exact: also where there is an approximate index; a search with a filter or for more than 2,000 hits is so in any
            case.
        without: keys that are not found (that of the item itself).
        Raises InputError for a vector of another size, k < 1, or a filter that LanceDB does not understand.
        """
        return self.search_many(np.reshape(vector, (1, -1)), k, where, exact=exact, without=[without])[0]

    def search_many(
        self,
        vectors: Any,
        k: int = 10,
        where: str | None = None,
        *,
        exact: bool = False,
        without: Sequence[Collection[str]] | None = None,
        texts: Sequence[str] | None = None,
    ) -> list[list[dict[str, Any]]]:
        """The k nearest items of each of some vectors (q, d), as `search` gives them.

        without: of each query. texts: of each query; its ranking by BM25 over the text columns and that by the vector
        are fused (`hybrid.fused`, of the first 1000 ranks of each, or k). score is then the fused one, and vector_rank
        and text_rank say where the hit stands in the two, from 1 on, None beyond. InputError for an index without
        texts.
        """
        queries, found = self._queries(vectors, k), []
        away = [self._places(keys) for keys in without or [()] * len(queries)]
        most, among = max(map(len, away), default=0), None if where is None else self._where(where)
        words = None if texts is None else self._words
        depth = k if words is None else max(k, hybrid.DEPTH)
        for n, (places, scores) in enumerate(self._ranked(queries, depth + most, among, exact)):
            left = ~np.isin(places, away[n])
            places, scores = places[left][:depth], scores[left][:depth]
            if words is None or texts is None:
                found.append(self._hits(places, scores))
            else:
                by_words = hybrid.by_words(words.scores(texts[n]), depth, among, away[n])
                found.append(self._fused(places, by_words, k))
        return found

    def _places(self, keys: Collection[str]) -> list[int]:
        """Where the items of some keys stand, as far as there are such."""
        return [place for key in keys if (place := self._rows.row_of(key)) is not None]

    def _queries(self, vectors: Any, k: int) -> np.ndarray:
        queries = as_vectors(vectors, "query vector").astype(np.float64)
        if queries.shape[1] != self.dim:
            raise InputError(
                f"The query vector has {queries.shape[1]} dimensions, the index {self.path} has {self.dim}.",
                "Embed the query with the model that built the index.",
            )
        check("k", k, PositiveInt, "argument")
        return normalise(queries) if self.similarity == "cosine" else queries

    def _where(self, where: str) -> np.ndarray:
        """Where the items stand that pass a filter, rising."""
        shown = [self.schema.field(name) for name in ("key", *self.columns)]
        if not where.strip():
            raise wrong_filter(where, shown)
        request = self.table.search().where(where).select(["key"]).with_row_id(True).limit(max(1, len(self)))
        try:
            ids = request.to_arrow()[ID].to_numpy()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # the engine panics with what is no Exception
            raise wrong_filter(where, shown) from None
        return np.sort(self._rows.rows_of(ids))

    def _ranked(self, queries: np.ndarray, k: int, among: np.ndarray | None, exact: bool) -> list[Ranked]:
        if self.approximate is not None and among is None and not exact and k <= approximate.MOST:
            return [approximate.ask(self.table, self._rows, query, k, self.approximate) for query in queries]
        return nearest(queries, self._vectors, k, among, self._longest)

    def _fused(self, by_vector: np.ndarray, by_words: np.ndarray, k: int) -> list[dict[str, Any]]:
        rankings = [by_vector.tolist(), by_words.tolist()]
        ranks = [{place: rank for rank, place in enumerate(ranking, 1)} for ranking in rankings]
        best = hybrid.fused(rankings)[:k]
        rows = self._rows.take(place for place, _ in best)
        return [row | {"score": score, "vector_rank": ranks[0].get(place), "text_rank": ranks[1].get(place)}
                for row, (place, score) in zip(rows, best, strict=True)]  # fmt: skip

    def _hits(self, places: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
        if self.similarity == "cosine":
            scores = np.clip(scores, -1, 1)
        rows = self._rows.take(places.tolist())
        return [row | {"score": score} for row, score in zip(rows, scores.tolist(), strict=True)]


def is_index(path: str | Path) -> bool:
    """Whether a complete index stands at the path."""
    return (Path(path) / META).is_file()


def open_index(path: str | Path, model_hash: str | None = None) -> Index:
    """Opens a complete index. Raises InputError where there is none, or where it was built by another model than the
    one of `model_hash`: its vectors would not be comparable."""
    path = Path(path)
    files.tidy(path)  # an earlier index that was being replaced comes back
    if not is_index(path):
        raise InputError(f"There is no nearfar index at {path}.", "`nearfar embed MODEL DATA` builds one.")
    meta = files.read_json(path / META, FIELDS, DAMAGED, FORMAT)
    files.check_fields({"files": {}} | meta, {"files": [str]}, path / META, DAMAGED)
    if "approximate" in meta:
        files.check_fields(meta["approximate"], approximate.FIELDS, path / META, DAMAGED)
    index = Index(path, meta)
    if model_hash is not None:
        index.check_model(model_hash)
    return index.open()
