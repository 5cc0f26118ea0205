"""Sentences with what follows from them and what contradicts them, and where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int

from nearfar.errors import InputError
from nearfar.methods.language_models import LanguageModel
from nearfar.sources.words import normal

if TYPE_CHECKING:
    from nearfar.sources.data import Data

SOURCES = "Name the columns of triplets (--text --text-b --negative) or of documents (--group), or give a language \
model: --generator FOLDER."
ENTAILED = """Write one sentence that must be true if the given sentence is true.

Sentence: Two boys are kicking a ball across the wet grass.
Answer: Some children are playing outdoors.

Sentence: The bakery on the corner sold its last loaf before noon.
Answer: No bread was left in the shop in the afternoon.

Sentence: {}
Answer:"""
CONTRADICTED = """Write one sentence that cannot be true if the given sentence is true.

Sentence: Two boys are kicking a ball across the wet grass.
Answer: The two boys are asleep in their beds.

Sentence: The bakery on the corner sold its last loaf before noon.
Answer: Many loaves stood in the bakery until evening.

Sentence: {}
Answer:"""


@dataclass(frozen=True)
class Triplets:
    """texts: different ones. places: where anchor, positive and negative of each row of the data stand among them, int
    (3, N), -1 for none. documents: of which document each of the three is, int (3, N), -1 unknown; None: of none."""

    texts: list[str]
    places: Int[np.ndarray, "3 n"]
    documents: Int[np.ndarray, "3 n"] | None = None

    @classmethod
    def of(cls, *sides: Sequence[str]) -> Triplets:
        """From three lists of texts; an empty one is none."""
        known: dict[str, int] = {}
        places = [[known.setdefault(text, len(known)) if text.strip() else -1 for text in side] for side in sides]
        return cls(list(known), np.array(places, np.int64).reshape(3, -1))

    @cached_property
    def whole(self) -> Bool[np.ndarray, "n"]:
        """Which rows have all three, no two of which say the same."""
        anchor, positive, negative = np.append(self.contents(), -1)[self.places]
        unlike = (anchor != positive) & (anchor != negative) & (positive != negative)
        return np.all(self.places >= 0, axis=0) & unlike

    def swapped(self, where: Bool[np.ndarray, "n"]) -> Triplets:
        """With positive and negative of some rows in each other's place."""
        others = [0, 2, 1]
        documents = None if self.documents is None else np.where(where, self.documents[others], self.documents)
        return Triplets(self.texts, np.where(where, self.places[others], self.places), documents)

    def contents(self) -> Int[np.ndarray, "texts"]:
        """An integer of each text, equal where the normal forms are."""
        known: dict[str, int] = {}
        return np.array([known.setdefault(normal(text), len(known)) for text in self.texts], np.int64)


def of_columns(data: Data) -> Triplets:
    """The columns of a table. Raises InputError where one is missing, and for several of negatives."""
    negatives, held = data.roles.get("negative") or [], data.training_roles
    if not (held.get("text_b") and negatives):
        lacking = "a column of positives" if negatives else "a column of negatives"
        raise InputError(f"{data.name} has no triplets: it lacks {lacking}.", SOURCES)
    if len(negatives) > 1:
        raise InputError(f"{data.name} has {len(negatives)} columns of negatives, and a triplet has one.",
                         f"Name it: --negative {negatives[0]}.")  # fmt: skip
    return Triplets.of(data.texts("text"), data.texts("text_b"), data.texts(negatives[0]))


def document_partners(
    documents: Int[np.ndarray, "n"], domains: Int[np.ndarray, "n"] | None, rng: np.random.Generator
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Of each sentence another one of its document, and one of another document: of the same domain where there is one,
    else of any. Each drawn uniformly; -1 where there is none. documents, domains: integers, -1 unknown: such sentences
    have no partner of their document (domain)."""
    positive = _another(documents, np.arange(len(documents)), documents >= 0, rng)
    negative = _another(np.zeros_like(documents), documents, documents >= 0, rng)
    if domains is not None:
        own = _another(domains, documents, (domains >= 0) & (documents >= 0), rng)
        negative = np.where(own >= 0, own, negative)
    return positive, negative


def _another(
    within: np.ndarray, unlike: np.ndarray, where: np.ndarray, rng: np.random.Generator
) -> Int[np.ndarray, "n"]:
    """A place with the same value of `within` and another one of `unlike`; of and for places `where`."""
    found = np.full(len(within), -1, np.int64)
    rows = np.flatnonzero(where)
    rows = rows[np.lexsort((unlike[rows], within[rows]))]
    if not len(rows):
        return found
    a, b = within[rows], unlike[rows]
    change = a[1:] != a[:-1]
    block = np.concatenate([[0], np.cumsum(change)])
    part = np.concatenate([[0], np.cumsum(change | (b[1:] != b[:-1]))])
    size, first = np.bincount(block)[block], np.searchsorted(block, block)
    own, start = np.bincount(part)[part], np.searchsorted(part, part) - first
    drawn = (rng.random(len(rows)) * (size - own)).astype(np.int64)
    place = first + np.where(drawn < start, drawn, drawn + own)
    found[rows] = np.where(size > own, rows[np.minimum(place, len(rows) - 1)], -1)
    return found


def of_documents(data: Data, rows: np.ndarray, seed: int) -> Triplets:
    """Sentences of the documents (`--group`) among the given rows. Raises InputError where the data name no
    documents."""
    if data.groups is None:
        raise InputError(f"{data.name} says of no sentence from which document it is.", SOURCES)
    domains, groups = None if data.domains is None else np.asarray(data.domains)[rows], np.asarray(data.groups)
    found = document_partners(groups[rows], domains, np.random.default_rng([seed, 17]))
    texts, sides, documents = data.texts("text"), [[""] * len(data) for _ in found], np.full((3, len(data)), -1)
    documents[0] = groups
    for side, of, partners in zip(sides, documents[1:], found, strict=True):
        own, others = rows[partners >= 0], rows[partners[partners >= 0]]
        of[own] = groups[others]
        for row, partner in zip(own, others, strict=True):
            side[row] = texts[partner]
    return replace(Triplets.of(texts, *sides), documents=documents)


def written(data: Data, rows: np.ndarray, model: LanguageModel, contrast: float = 0.0, most: int = 256) -> Triplets:
    """Entailment and contradiction of the given rows' sentences, as a language model writes them (two examples in the
    prompt, greedy; at most `most` tokens). contrast: each is decoded against the other instruction
    (`language_models.contrastive_scores`)."""
    texts, sides = data.texts("text"), []
    for prompt, other, what in ((ENTAILED, CONTRADICTED, "entailments"), (CONTRADICTED, ENTAILED, "contradictions")):
        prompts, noisy = ([form.format(texts[row]) for row in rows] for form in (prompt, other))
        side = [""] * len(data)
        answers = model.answers(prompts, most=most, against=noisy, contrast=contrast, what=what)
        for row, said in zip(rows, answers, strict=True):
            side[row] = said
        sides.append(side)
    return Triplets.of(texts, *sides)


def check_some(data: Data, triplets: Triplets, rows: np.ndarray, source: str) -> None:
    """Raises InputError that says what "columns", "documents" or "model" lack where none of the rows has a triplet."""
    if triplets.whole[rows].any():
        return
    said, n = (triplets.places[1:, rows] >= 0).sum(1), f"{len(rows):,} training rows"
    what = f"of the {n} {said[0]:,} have a positive and {said[1]:,} a negative, none has two unlike its sentence"
    mend = {"columns": "Fill the columns of positives and negatives.", "documents": "Look at the sentences.",
            "model": "See what the language model says, or take another one."}[source]  # fmt: skip
    if not len(rows):
        what = "no training row is a pair of which the label says that it belongs together"
    elif source == "columns" and not said.all():
        column = data.column("text_b") if not said[0] else data.roles["negative"][0]
        what, mend = f"'{column}' is empty in all {n}", "Fill it, or name another column."
    elif source == "documents":
        sizes = np.unique(np.asarray(data.groups)[rows], return_counts=True)[1]
        if len(sizes) == 1:
            what, mend = f"all {n} are of one document, and a negative is of another one", "Add other documents."
        elif sizes.max() == 1:
            what = f"each of the {n} is a document of its own, and a positive is another sentence of the document"
            mend = "Name the column of documents: --group COLUMN."
    raise InputError(f"{data.name} has no triplets: {what}.", mend)


__all__ = ["SOURCES", "Triplets", "check_some", "document_partners", "of_columns", "of_documents", "written"]
