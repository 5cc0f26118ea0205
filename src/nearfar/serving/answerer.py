"""A model that answers many requests at once: their items are embedded together, and each fails alone."""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nearfar import indexing, modalities
from nearfar.answering import predict
from nearfar.encoders.texts import TextEncoder
from nearfar.errors import InputError, NearfarError
from nearfar.heads.prefix import first_numbers
from nearfar.models import Model, open_model
from nearfar.queries import composed, signed, stored_vector
from nearfar.serving.items import Item, Limits, item_of, listed, pieces
from nearfar.sources import open_data
from nearfar.vectors import normalise

Job = Mapping[str, Any]
"""{"kind": embed, search or predict, ...the body of the request}"""
MOST = {"text": 65_536, "image": 64 * 224 * 224}  # characters, pixels of a batch; images are counted as encoded
USUAL = 1_000_000
EACH = {"text": 500}  # characters that cost as much as a batch by itself
REFUSED, FAILED = 400, 500


@dataclass(frozen=True)
class Answer:
    """What a job came to: `value`, or an `error` with its HTTP status."""

    value: Any = None
    error: str | None = None
    status: int = 200


class Embeddings(NamedTuple):
    """Vectors (n, d) of length 1, and how many tokens were read for them."""

    vectors: np.ndarray
    tokens: int


class Answerer:
    """A model with its index (None: it does not search) within limits."""

    def __init__(self, model: Model, index: Any = None, limits: Limits | None = None):
        self.model, self.index, self.limits = model, index, limits or Limits()
        if index is not None:
            index.check_model(model.hash)

    @classmethod
    def opened(cls, model: str, index: str | None, limits: Limits | None = None, device: str = "cpu") -> Answerer:
        """Of their folders. Raises InputError where one is none, or the index is of another model."""
        loaded = open_model(model).to(device)
        return cls(loaded, None if index is None else indexing.open_index(Path(index)), limits)

    def verified(self) -> float | None:
        """The largest difference from the stored vectors of the model's own examples; None for a folder of another
        library, which has none. Raises NearfarError above 1e-4."""
        from nearfar import encoders

        path = self.model.path
        return None if path is None or encoders.is_foreign(path) else self.model.verify()

    def answer(self, jobs: Sequence[Job]) -> list[Answer]:
        """One answer for each job, in their order."""
        asked = [self.asked(job) for job in jobs]
        items = [item for one in asked if not isinstance(one, Answer) for item in one]
        vectors = iter(self.embedded(items))
        return [
            one if isinstance(one, Answer) else self.finished(job, one, [next(vectors) for _ in one])
            for job, one in zip(jobs, asked, strict=True)
        ]

    def asked(self, job: Job) -> list[Item] | Answer:
        """The items that a job needs embedded, or its answer where it is wrong."""
        try:
            if job["kind"] == "embed":
                given = listed(job["input"])
                if not 1 <= len(given) <= self.limits.items:
                    raise InputError(f"1 to {self.limits.items} inputs are taken at once. Got {len(given)}.")
                return [self.item(one, job.get("role"), f"input {k}: " if len(given) > 1 else "")
                        for k, one in enumerate(given)]  # fmt: skip
            if job["kind"] == "search":
                for part, _ in parts(job):
                    if is_key(part) and not isinstance(part["key"], str):
                        raise InputError(f"The key of an item is a string. Got {part['key']!r:.60}.")
                return [self.item(part, job.get("role") if n == 0 else None)
                        for n, (part, _) in enumerate(parts(job)) if not is_key(part)]  # fmt: skip
            return []
        except InputError as error:
            return Answer(error=str(error), status=REFUSED)
        except Exception as error:  # what nobody foresaw must not fail the others
            return Answer(error=f"The server failed: {error}", status=FAILED)

    def item(self, given: Any, role: str | None, where: str = "") -> Item:
        try:
            return item_of(given, self.model, role, self.limits)
        except InputError as error:
            raise InputError(where + error.message, error.hint) if where else error from None

    def embedded(self, items: Sequence[Item]) -> list[np.ndarray | Answer]:
        """The vector of each item, those of one role together in batches of like sizes; an Answer where it failed."""
        found: list[Any] = [None] * len(items)
        for role in dict.fromkeys(one.role for one in items):
            mine = [k for k, one in enumerate(items) if one.role == role]
            encoder = self.model.roles[role].encoder
            size = getattr(encoder, "size", None) if encoder.modality == "image" else None
            costs = [size * size if isinstance(size, int) else items[k].cost for k in mine]
            for batch in pieces(costs, MOST.get(encoder.modality, USUAL), EACH.get(encoder.modality, 1)):
                places = [mine[k] for k in batch]
                for place, made in zip(places, self.vectors([items[k].value for k in places], role), strict=True):
                    found[place] = made
        return found

    def vectors(self, values: list[Any], role: str) -> list[np.ndarray | Answer]:
        """Of a batch; where it fails as a whole, of each alone."""
        try:
            made = self.model.embed(values, role, batch_size=len(values))
            if len(values) == 1 or np.isfinite(made).all():
                return list(made)
        except InputError as error:
            if len(values) == 1:
                return [Answer(error=str(error), status=REFUSED)]
        except Exception as error:  # an item that an encoder cannot take must not fail the others
            if len(values) == 1:
                return [Answer(error=f"The model failed: {error}", status=FAILED)]
        return [self.vectors([value], role)[0] for value in values]

    def finished(self, job: Job, items: Sequence[Item], vectors: list[Any]) -> Answer:
        failed = next((one for one in vectors if isinstance(one, Answer)), None)
        if failed is not None:
            return failed
        try:
            if job["kind"] == "embed":
                made, asked = np.stack(vectors), job.get("dimensions")
                return Answer(Embeddings(made if asked is None else self.cut(made, asked), self.tokens(items)))
            return Answer(self.hits(job, vectors) if job["kind"] == "search" else self.predicted(job))
        except NearfarError as error:
            return Answer(error=str(error), status=REFUSED)
        except Exception as error:
            return Answer(error=f"The model failed: {error}", status=FAILED)

    def tokens(self, items: Sequence[Item]) -> int:
        """How many tokens of the texts were read, those that stand around each included."""
        count = 0
        for role in {one.role for one in items}:
            encoder = self.model.roles[role].encoder
            if isinstance(encoder, TextEncoder):
                ids = encoder.encode_ids([one.value for one in items if one.role == role])
                count += sum(min(len(row) + encoder.special.frame, encoder.special.length) for row in ids)
        return count

    def hits(self, job: Job, vectors: list[np.ndarray]) -> list[dict[str, Any]]:
        k = int(job.get("k", 10))
        if not 1 <= k <= self.limits.hits:
            raise InputError(f"1 to {self.limits.hits} hits are given. Got k = {k}.")
        if self.index is None:
            found = self.by_itself(job, k)
            if found is None:
                raise InputError("This server has no index.", "Start it with --index INDEX.")
            return found
        if job.get("hybrid") and not isinstance(job["query"], str):
            raise InputError("A hybrid search needs a text as its query.")
        made, every, own = iter([self.shortened(v) for v in vectors]), [], []
        for part, _ in parts(job):
            every.append(stored_vector(self.index, part["key"]) if is_key(part) else next(made))
            own += [part["key"]] if is_key(part) else []
        whole, texts = composed(every, [sign for _, sign in parts(job)]), [job["query"]] if job.get("hybrid") else None
        (found,) = self.index.search_many(whole[None], k, job.get("where"), exact=bool(job.get("exact")),
                                          without=[own], texts=texts)  # fmt: skip
        return found

    def shortened(self, vector: np.ndarray) -> np.ndarray:
        """A vector for an index that keeps its first numbers; others as they are."""
        assert self.index is not None
        return vector if len(vector) <= self.index.dim else self.cut(vector[None], self.index.dim)[0]

    def cut(self, vectors: np.ndarray, dimensions: int) -> np.ndarray:
        """Vectors (n, d) as `Model.truncated` gives them: their first numbers, of length 1 for cosine models. Raises
        InputError for more numbers than there are."""
        if not 1 <= dimensions <= vectors.shape[1]:
            raise InputError(f"This model's vectors have {vectors.shape[1]} numbers, not {dimensions}.",
                             "dimensions asks for the first ones of them.")  # fmt: skip
        made = first_numbers(vectors, dimensions)
        whole = self.model.similarity == "dot" or dimensions == vectors.shape[1]
        return made if whole else normalise(made).astype(vectors.dtype)

    def by_itself(self, job: Job, k: int) -> list[dict[str, Any]] | None:
        """What a model knows without an index: the next items of a history."""
        query = job["query"]
        asked = query["items"] if isinstance(query, Mapping) and "items" in query else query
        found = (modalities.get(name).search(self.model, asked, k) for name in self.model.modalities)
        return next((one for one in found if one is not None), None)

    def predicted(self, job: Job) -> list[dict[str, Any]]:
        """What the model says of rows: columns as in a table of the user's."""
        rows, options = job["rows"], dict(job.get("options") or {})
        if (
            not isinstance(rows, list)
            or not 1 <= len(rows) <= self.limits.items
            or not all(isinstance(row, Mapping) for row in rows)
        ):
            raise InputError(f"rows is a list of 1 to {self.limits.items} objects, column to value.")
        for name, value in options.items():
            if isinstance(value, str) and os.path.exists(value):
                raise InputError(f"'{name}' names a file of the server.", "Send the names themselves.")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.jsonl"
            path.write_text("".join(json.dumps(self.row(row, Path(folder))) + "\n" for row in rows), encoding="utf-8")
            known = {name for row in rows for name in row if name in self.model.roles}
            data = open_data(path, {name: name for name in sorted(known)}, cache=Path(folder) / "cache")
            found = predict(self.model, data, **options)
        return [{name: value for name, value in row.items() if name != "key"} for row in found.rows()]

    def row(self, row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """A row as a table holds it, its images as files of the folder; no string may name an image."""
        found = {}
        for name, value in row.items():
            if isinstance(value, Mapping):
                item = self.item(value, None, f"'{name}': ")
                if not hasattr(item.value, "save"):
                    raise InputError(f"'{name}': write the value itself, in place of an object.")
                place = folder / f"{uuid.uuid4().hex}.png"
                item.value.save(place)
                value = place.name
            elif isinstance(value, str) and "image" in self.model.modalities and _names_image(value):
                raise InputError(f"'{name}' is the path of an image.", 'Send the image: {"image": BASE64}.')
            found[name] = value
        return found


def _names_image(value: str) -> bool:
    return Path(value).suffix.lower() in modalities.get("image").endings


def parts(job: Job) -> list[tuple[Any, float]]:
    return signed(job["query"], job.get("plus"), job.get("minus"))


def is_key(part: Any) -> bool:
    return isinstance(part, Mapping) and set(part) == {"key"}
