"""Sentences with what follows from them and what contradicts them: where they come from, and which of them are kept."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from nearfar.errors import InputError, did_you_mean
from nearfar.methods.language_models import LanguageModel
from nearfar.sources.judgements import score
from nearfar.sources.words import normal

if TYPE_CHECKING:
    from nearfar.sources.data import Data

MOST = 4.0  # a negative is not more similar than that
SCORED = re.compile(r"[0-5](\.\d)?")
COLUMNS = "score_positive,score_negative"
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
SIMILAR = """Say how similar two sentences are in meaning, as a number from 0.0 (nothing in common) to 5.0 (the same).

Sentence 1: A woman is tuning a violin.
Sentence 2: A lady gets her violin ready.
Score: 4.2

Sentence 1: A woman is tuning a violin.
Sentence 2: The train to the coast was late.
Score: 0.0

Sentence 1: {}
Sentence 2: {}
Score:"""


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


# -- stage 1: what follows, what contradicts, and how similar they are


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


def parsed_score(answer: str) -> float:
    """A similarity in [0, 5] from what a model says: "d.d" or "d", the first digit 0 to 5; NaN for all else."""
    return min(5.0, float(answer.strip())) if SCORED.fullmatch(answer.strip()) else math.nan


def scores_of(triplets: Triplets, rows: np.ndarray, model: LanguageModel) -> Float[np.ndarray, "n 2"]:
    """What a language model says of how similar positive and negative of the given rows are to their anchor; NaN in
    other rows and for answers that are no score."""
    made = np.full((triplets.places.shape[1], 2), np.nan)
    for k, what in enumerate(("scores of positives", "scores of negatives")):
        pairs = [(triplets.texts[a], triplets.texts[b]) for a, b in triplets.places[[0, k + 1]][:, rows].T]
        said = model.answers([SIMILAR.format(*pair) for pair in pairs], most=8, what=what)
        made[rows, k] = [parsed_score(one) for one in said]
    return made


def scores_in(data: Data, columns: Sequence[str], rows: np.ndarray) -> Float[np.ndarray, "n 2"]:
    """The columns of two scores, NaN for empty cells. Raises InputError for a cell that is no number in [0, 5], and
    where none of the given rows has both."""
    made = np.full((len(data), 2), np.nan)
    for k, column in enumerate(columns):
        for row, cell in enumerate(data.values(column)):
            value = score(cell)
            empty = str(cell if cell is not None else "").strip().casefold() in ("", "nan", "none")
            if not empty and (value is None or not 0 <= value <= 5):
                raise InputError(f"{data.name}, row {data.keys[row]}: the score '{str(cell)[:40]}' in '{column}' is no "
                                 "number from 0 to 5.", "Mend the cell, or leave it empty.")  # fmt: skip
            made[row, k] = np.nan if value is None else value
    if not np.isfinite(made[rows]).all(1).any():
        raise InputError(f"'{columns[0]}' and '{columns[1]}' of {data.name} are nowhere both filled in the "
                         f"{len(rows):,} training rows of triplets.", "Fill them, or use --scorer none.")  # fmt: skip
    return made


def score_columns(data: Data, wanted: str) -> list[str]:
    """The two columns of scores that an option names; of "auto": score_positive and score_negative, none where they are
    not there; none of a folder. Raises InputError for neither."""
    known = data.table.column_names
    names = [name.strip() for name in (COLUMNS if wanted == "auto" else wanted).split(",")]
    if all(name in known for name in names):
        if len(names) != 2:
            raise InputError(f"The scorer names {len(names)} columns of {data.name}, and a triplet has two scores.",
                             "Name those of the positive and of the negative: --scorer A,B.")  # fmt: skip
        return names
    if wanted == "auto" or Path(wanted).is_dir():
        return []
    other = next(name for name in names if name not in known)
    raise InputError(f"The scorer '{wanted}' is no folder, and '{other}' no column of {data.name}."
                     f"{did_you_mean(other, list(known))}",
                     "Give two columns (--scorer A,B), the folder of a language model, or none.")  # fmt: skip


def swap_by_scores(
    entailed: Float[np.ndarray, "n"], contradicted: Float[np.ndarray, "n"], most: float = MOST
) -> tuple[Bool[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """Which triplets stay as they are and which are swapped, from the similarities of both to the anchor, in [0, 5].

    s_c <= most and s_e >= s_c: kept; else s_e <= most and s_e <= s_c: swapped; all others, and those without both
    scores, are dropped. Equal scores keep their order. Source: MultiCSR, stage 1 (released code)."""
    kept = (contradicted <= most) & (entailed >= contradicted)
    return kept, ~kept & (entailed <= most) & (entailed <= contradicted)


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


# -- stage 2: which are good enough


class Lines(NamedTuple):
    """Of stage 2: the least score of a positive, the highest of a negative, and whether both must differ."""

    positive: float
    negative: float
    gap: bool


def lines_of(curation: str | None) -> Lines | None:
    """ "3/3+gap" (the released default), "4/2": positive line / negative line, in [0, 5]; None of None. The released
    code knows 3/3, 4/4 and 2/2 with the gap and 4/3, 4/2, 5/3, 5/2, 4/1, 4/0, 5/1, 5/0, 3/0, 3/1, 3/2, 5/4, 2/0, 2/1
    without. Raises InputError for other words."""
    if curation is None:
        return None
    found = re.fullmatch(r"(\d(?:\.\d+)?)/(\d(?:\.\d+)?)(\+gap)?", curation)
    if found is None or not all(0 <= float(x) <= 5 for x in found.groups()[:2]):
        raise InputError(f"The option 'curation' is two lines from 0 to 5. Got '{curation}'.",
                         "Write the positive one, then the negative one: --curation 3/3+gap, or none.")  # fmt: skip
    return Lines(float(found[1]), float(found[2]), found[3] is not None)


def curated(positive: Float[np.ndarray, "n"], negative: Float[np.ndarray, "n"], lines: Lines) -> Bool[np.ndarray, "n"]:
    """p >= positive line, n <= negative line and, with the gap, p != n; NaN never. Source: MultiCSR, stage 2."""
    return (positive >= lines.positive) & (negative <= lines.negative) & (~np.bool_(lines.gap) | (positive != negative))


@dataclass(frozen=True)
class Refined:
    """triplets: swapped where they were; rows: those that are kept; told: what became of them, by name."""

    triplets: Triplets
    rows: Int[np.ndarray, "k"]
    told: dict[str, Any]


def refined(
    triplets: Triplets, rows: np.ndarray, scores: Float[np.ndarray, "n 2"] | None, swap: bool, lines: Lines | None
) -> Refined:
    """Stages 1b and 2 on the given rows; without scores both are left out. Raises InputError where nothing is left."""
    whole = rows[triplets.whole[rows]]
    told: dict[str, Any] = {"incomplete": len(rows) - len(whole)}
    if not len(whole):
        raise InputError(f"None of the {len(rows):,} training rows has a positive and a negative.", SOURCES)
    if scores is None or not (swap or lines):
        return Refined(triplets, whole, {k: v for k, v in (told | {"kept": len(whole)}).items() if v})
    p, n = scores[whole].T
    known = ~(np.isnan(p) | np.isnan(n))
    if not known.any():
        raise InputError(f"None of the {len(whole):,} triplets has two scores.", "See what the scorer says: a number "
                         "from 0 to 5 with at most one digit behind the point, or use --scorer none.")  # fmt: skip
    kept, moved = swap_by_scores(p, n) if swap else (known, np.zeros_like(known))
    told |= {"unscored": int((~known).sum()), "swapped": int(moved.sum()),
             "both_similar": int((known & ~kept & ~moved).sum())}  # fmt: skip
    if not (kept | moved).any():
        raise InputError(f"Stage 1 drops all {known.sum():,} triplets: positive and negative are both scored above "
                         f"{MOST:g}.",
                         "Look at the scores, or keep all without --scorer: --swap false --curation none.")  # fmt: skip
    flat = np.zeros(triplets.places.shape[1], bool)
    flat[whole[moved]] = True
    p, n = np.where(moved, n, p), np.where(moved, p, n)
    left = kept | moved
    good = left if lines is None else left & curated(p, n, lines)
    told |= {"curated_away": int((left & ~good).sum()), "kept": int(good.sum())}
    if lines is not None and not good.any():
        _nothing_left(p[left], n[left], lines)
    return Refined(triplets.swapped(flat), whole[good], told)


def _nothing_left(p: np.ndarray, n: np.ndarray, lines: Lines) -> None:
    """Raises InputError that says which lines to move."""
    inside = (p >= lines.positive) & (n <= lines.negative)
    found = f"the positives are scored {p.min():g} to {p.max():g}, the negatives {n.min():g} to {n.max():g}"
    if inside.any():
        mend = f"Leave out the gap rule: --curation {lines.positive:g}/{lines.negative:g}."
        found = f"{inside.sum():,} are within the lines, with equal scores each"
    else:
        mend = "Move the lines: --curation " + "/".join(
            f"{x:g}" for x in (math.floor(10 * np.median(p)) / 10, math.ceil(10 * np.median(n)) / 10)
        )
        mend += " keeps about half of either, --curation none all."
    raise InputError(f"Stage 2 drops all {len(p):,} triplets (positive line {lines.positive:g}, negative line "
                     f"{lines.negative:g}): {found}.", mend)  # fmt: skip


__all__ = [
    "Lines",
    "Refined",
    "Triplets",
    "check_some",
    "curated",
    "document_partners",
    "lines_of",
    "of_columns",
    "of_documents",
    "parsed_score",
    "refined",
    "score_columns",
    "scores_in",
    "scores_of",
    "swap_by_scores",
    "written",
]
