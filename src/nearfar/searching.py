"""Search: an index and the model that made it are opened once and asked as often as one likes.

hits = nearfar.search("runs/photos/index", "holiday.jpg", k=5)
searcher = nearfar.Searcher("runs/photos/index")
found = searcher.search_many(["a red apple", "key:apple/00.png"])      # embedded and multiplied together
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar import files, indexing, modalities, stores
from nearfar.checks import PositiveInt, checked, checked_init
from nearfar.errors import InputError
from nearfar.queries import Item, composed, embedded, is_key, item_of, signed, stored_vector

if TYPE_CHECKING:
    from nearfar.models import Model

TRAINED = "trained_on"  # the column that marks rows which the model was trained on

Hits = list[dict[str, Any]]


@dataclass(frozen=True)
class Found:
    """What a query came to: its hits, or the error that it met."""

    query: Any
    hits: Hits = field(default_factory=list)
    error: InputError | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: the query with its hits, or with the error in words."""
        return {"query": self.query} | ({"hits": self.hits} if self.error is None else {"error": str(self.error)})


@checked
def search(
    where_from: str | Path,
    query: Any,
    *,
    k: PositiveInt = 10,
    where: str | None = None,
    model: Any = None,
    role: str | None = None,
    variant: str | None = None,
    plus: str | None = None,
    minus: str | None = None,
    dims: PositiveInt | None = None,
    exact: bool = False,
    hybrid: bool = False,
) -> Hits:
    """The nearest items of an index to a text, an image or one of its own items.

    Args:
        where_from: an index (`nearfar embed MODEL DATA --out INDEX`), or a model folder that holds one as index/; also
            the URL of one (s3://...). A model of interactions knows its items and needs none.
        query: a text, the path of an image, numbers separated by commas, an item as `Model.embed` takes it, or
            "key:KEY" for an item of the index, which does not find itself; "user:42" or "items:50,181" for the next
            items of a user or a history.
        k: number of hits; where: filter in SQL over the index's columns.
        model: the model to embed the query with; default the one that built the index, found by its path.
        variant: which of the vectors of the query, where the model gives several; default that of the index.
        plus, minus: a text, an image or key:KEY whose unit vector is added to the query's, or taken from it ("like
            this image, but at night"; ALIGN, ICML 2021, sec. 5).
        dims: compare the first numbers of the vectors alone, of length 1 by themselves, with every item; for a model
            whose vectors may be cut short (`fit --dims`).
        exact: compare with every item, also where a large index has an approximate index.
        hybrid: fuse the ranking by vectors with that of the query's words among the text columns (BM25), by
            reciprocal ranks.

    Returns dicts with key, the columns and score: a cosine, or the inner product of a model that is compared by it;
    with `hybrid` the sum of reciprocal ranks, beside vector_rank and text_rank. `trained_on` is true for items that the
    model was trained on. Raises InputError for a stale or missing index, a model that cannot embed such a query, a
    filter that does not work, a hybrid search without texts.
    """
    searcher = Searcher(where_from, model=model, role=role, variant=variant, dims=dims)
    (found,) = searcher.search_many([query], k=k, where=where, plus=plus, minus=minus, exact=exact, hybrid=hybrid)
    if found.error is not None:
        raise found.error
    return found.hits


TRAINING = ("checkpoints", "cells", "rounds", "logs")  # what a run or a comparison holds of its training alone


def searched(name: str) -> bool:
    """Whether what has this name below a URL is needed to search there: a run holds more."""
    return name.partition("/")[0] not in TRAINING


@checked_init
class Searcher:
    """An index with its model, or a model that finds without one; see `search`. The model is loaded when a query first
    needs it."""

    def __init__(
        self,
        where_from: str | Path,
        *,
        model: Any = None,
        role: str | None = None,
        variant: str | None = None,
        dims: PositiveInt | None = None,
    ):
        if not str(where_from).strip():
            raise InputError("No index was named: the path is empty.")
        self.path, self.named, self.role, self._given = stores.local(where_from, searched), where_from, role, model
        for one in (self.path, self.path / "index"):
            files.tidy(one)
        place = self.path if indexing.is_index(self.path) else self.path / "index"
        self.index = indexing.open_index(place) if indexing.is_index(place) else None
        if self.index is None and not any((self.path / n / "config.json").exists() for n in (".", "model", "best")):
            raise self._no_index()
        if dims is not None:
            if self.index is None:
                raise self._without("dims")
            self.index = self.index.truncated(dims)
        self.variant = variant or (None if self.index is None else self.index.meta.get("variant")) or None

    @cached_property
    def model(self) -> Model:
        """The model that embeds queries. Raises InputError where there is none, or the index is of another."""
        from nearfar.models import open_model

        if self.index is None:
            return open_model(self._given or self.path)
        loaded = open_model(self._given or self.index.meta.get("model") or self.path)
        self.index.check_model(loaded.hash)
        dims = self.index.meta.get("dims")
        return loaded.truncated(dims) if dims else loaded

    @checked
    def search_many(
        self,
        queries: Sequence[Any],
        *,
        k: PositiveInt = 10,
        where: str | None = None,
        plus: str | None = None,
        minus: str | None = None,
        exact: bool = False,
        hybrid: bool = False,
    ) -> list[Found]:
        """What each query finds, in their order; one that is wrong has its error, and the others are answered.

        Raises InputError for what concerns all: a filter that does not work, a model that is not the index's.
        """
        if isinstance(queries, str | Path):
            raise InputError("search_many takes a list of queries, not one.", "Write search_many([query]).")
        if self.index is None:
            refused = {"where": where, "plus": plus, "minus": minus, "hybrid": hybrid or None}
            return [self._by_itself(query, k, refused) for query in queries]
        asked = [signed(query, plus, minus) for query in queries]
        if any(not is_key(part) for parts in asked for part, _ in parts):
            _ = self.model  # what is wrong with it concerns all
        made = [self._understood(parts, hybrid) for parts in asked]
        items = [one for parts in made if isinstance(parts, list) for one in parts if isinstance(one, Item)]
        vectors = iter(embedded(self.model, items, self.variant) if items else [])
        whole = [self._vector(parts, asked[n], vectors) for n, parts in enumerate(made)]
        good = [n for n, one in enumerate(whole) if not isinstance(one, InputError)]
        hits = self.index.search_many(
            np.stack([whole[n] for n in good]) if good else np.zeros((0, self.index.dim)),
            k,
            where,
            exact=exact,
            without=[[part[4:] for part, _ in asked[n] if is_key(part)] for n in good],
            texts=[queries[n] for n in good] if hybrid else None,
        )
        answers = dict(zip(good, hits, strict=True))
        return [Found(query, answers[n]) if n in answers else Found(query, error=whole[n])
                for n, query in enumerate(queries)]  # fmt: skip

    def search(self, query: Any, **options: Any) -> Hits:
        """The hits of one query; see `search_many` for the options. Raises InputError where it is wrong."""
        (found,) = self.search_many([query], **options)
        if found.error is not None:
            raise found.error
        return found.hits

    def _understood(self, parts: Sequence[tuple[Any, float]], hybrid: bool) -> list[Item | np.ndarray] | InputError:
        """The items and stored vectors that a query is made of, or what is wrong with it."""
        try:
            roles = [self.role, *[None] * len(parts)]  # whose tower embeds the query
            made = [
                stored_vector(self.index, part[4:]) if is_key(part) else item_of(self.model, part, role)
                for (part, _), role in zip(parts, roles)
            ]
        except InputError as error:
            return error
        if hybrid and getattr(made[0], "kind", "") != "text":
            return InputError(f"'{parts[0][0]!s:.80}' is no text, so it has no words for --hybrid.", "Ask with a text.")
        return made

    def _vector(self, parts: Any, asked: Sequence[tuple[Any, float]], vectors: Any) -> Any:
        """The vector of a query, or its error; takes those of its items from `vectors`."""
        if isinstance(parts, InputError):
            return parts
        found = [next(vectors) if isinstance(one, Item) else one for one in parts]
        wrong = next((one for one in found if isinstance(one, InputError)), None)
        try:
            return composed(found, [sign for _, sign in asked]) if wrong is None else wrong
        except InputError as error:
            return error

    def _by_itself(self, query: Any, k: int, refused: Mapping[str, Any]) -> Found:
        """What a model finds without an index, where its kind of data knows how."""
        loaded = self.model
        try:
            tried = (modalities.get(name).search(loaded, query, k) for name in loaded.modalities)
            hits = next((one for one in tried if one is not None), None)
        except InputError as error:
            return Found(query, error=error)
        if hits is None:
            raise self._no_index()
        for name, value in refused.items():
            if value is not None:
                raise self._without(name)
        return Found(query, hits)

    def _without(self, name: str) -> InputError:
        return InputError(f"--{name} needs an index.", self._making)

    @property
    def _making(self) -> str:
        return f"Make one: nearfar embed {self.named} DATA --out {self.named}/index"

    def _no_index(self) -> InputError:
        general = "`nearfar embed MODEL DATA --out INDEX` makes one."
        hint = self._making if (self.path / "config.json").exists() else general
        return InputError(f"There is no index at '{self.named}'.", hint)
