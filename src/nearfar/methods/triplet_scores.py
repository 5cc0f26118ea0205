"""How similar the sentences of triplets are to their anchor, by columns or by a language model, and which triplets are
kept for it (MultiCSR, stages 1 and 2)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from nearfar.errors import InputError, did_you_mean
from nearfar.methods.language_models import LanguageModel
from nearfar.methods.triplets import SOURCES, Triplets
from nearfar.sources.judgements import score

if TYPE_CHECKING:
    from nearfar.sources.data import Data

MOST = 4.0  # a negative is not more similar than that
SCORED = re.compile(r"[0-5](\.\d)?")
COLUMNS = "score_positive,score_negative"
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
    "curated",
    "lines_of",
    "parsed_score",
    "refined",
    "score_columns",
    "scores_in",
    "scores_of",
    "swap_by_scores",
]
