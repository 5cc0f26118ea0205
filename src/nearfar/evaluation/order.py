"""Whether a model reads the order of words: choices between a caption and the same words in another order, after ARO
(Yuksekgonul et al., ICLR 2023), built from the captions of any data.

    choices(3, "a red dog left of a blue cat", tag, rng)
        relation     "a red dog left of a blue cat"  or  "a blue cat left of a red dog"
        attribution  "a red dog left of a blue cat"  or  "a blue dog left of a red cat"
        order        the caption or one of up to four shuffles of its words
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nearfar.captions import SHUFFLES, SYMMETRIC, caption_words, clean_caption, constituents, swapped
from nearfar.word_classes import Tagger

TIE = 1e-5
TESTS = ("relation", "attribution", "order")


@dataclass(frozen=True)
class Choice:
    """One question about an image. test: of `TESTS`; group: the relation, the pair of attributes, or ""; row: the
    place of its image; options: the true caption first, all different; names: of the options."""

    test: str
    group: str
    row: int
    options: Sequence[str]
    names: Sequence[str] = ("true", "exchanged")


def choices(row: int, text: str, tag: Tagger, rng: np.random.Generator) -> list[Choice]:
    """The questions that a caption gives."""
    found = [one for one in (relation_choice(row, text, tag), attribution_choice(row, text, tag)) if one is not None]
    order = order_choice(row, text, tag, rng)
    return found + ([order] if order is not None else [])


def relation_choice(row: int, text: str, tag: Tagger) -> Choice | None:
    """The first two noun phrases exchanged around the words between them; None where there are fewer, or these words
    mean the same both ways."""
    phrases = constituents(text, tag)["phrase"]
    if len(phrases) < 2:
        return None
    one, other = phrases[:2]
    words, made = " ".join(caption_words(text[one[1] : other[0]])).casefold(), swapped(text, one, other)
    if words in SYMMETRIC or made.casefold() == text.casefold():
        return None
    return Choice("relation", words, row, (text, made))


def attribution_choice(row: int, text: str, tag: Tagger) -> Choice | None:
    """The first adjectives of the first two noun phrases exchanged; None where one has none, or they are equal."""
    parts = constituents(text, tag)
    first = [[a for a in parts["adjective"] if start <= a[0] < stop][:1] for start, stop in parts["phrase"][:2]]
    if len(first) < 2 or not all(first):
        return None
    one, other = first[0][0], first[1][0]
    names = sorted(text[a:b].casefold() for a, b in (one, other))
    if names[0] == names[1]:
        return None
    return Choice("attribution", " / ".join(names), row, (text, swapped(text, one, other)))


def order_choice(row: int, text: str, tag: Tagger, rng: np.random.Generator) -> Choice | None:
    """The cleaned caption or its shuffles that differ from it and from each other; None where none does."""
    words = clean_caption(text).split()
    tags, options = tag(words), {" ".join(words): "true"}
    for name, shuffle in SHUFFLES.items():
        options.setdefault(" ".join(shuffle(words, tags, rng)), name)
    return Choice("order", "", row, tuple(options), tuple(options.values())) if len(options) > 1 else None


def fair_hits(scores: np.ndarray) -> tuple[float, bool]:
    """Whether the first of some options (m,) has the highest score, and whether it shares that with others: 1 / (number
    of options with the highest score) where it is among them, else 0. Cosines that differ by `TIE` or less are equal:
    a sum of the same words in another order is rounded otherwise."""
    best = scores >= scores.max() - TIE
    return (float(1 / best.sum()) if best[0] else 0.0), bool(best[0] and best.sum() > 1)


def macro_weights(groups: Sequence[str]) -> np.ndarray:
    """Weights (n,) with which a plain mean is the mean over groups of the means within them."""
    _, code, count = np.unique(np.array(groups), return_inverse=True, return_counts=True)
    return len(groups) / (len(count) * count[code.reshape(-1)])
