"""Captions with their words in another order: constituents exchanged (hard captions), and the perturbations of ARO.

    tag = Rules([caption_words(text) for text in texts])
    exchanged("a black dog chases a white cat", tag)     # {"noun": ["a black cat chases a white dog"], ...}

Source: Yuksekgonul et al., ICLR 2023 (When and why vision-language models behave like bags-of-words).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from nearfar.word_classes import Tagger, WordClass

KINDS = ("noun", "adjective", "adverb", "verb", "phrase")
_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
_BLANKED = str.maketrans(dict.fromkeys('.!"()*#:;~', " "))
GROUP = 3
SYMMETRIC = frozenset(
    ["", "and", "or", "with", "near", "nearby", "beside", "next to", "by", "between", "around", "along with"]
)
"""Words between two constituents that mean the same both ways."""
Spans = list[tuple[int, int]]


def clean_caption(text: str, most: int = 30) -> str:
    """A caption as ARO cleans it: lower case, . ! " ( ) * # : ; ~ as blanks, single blanks, its first `most` words."""
    return " ".join(text.lower().translate(_BLANKED).split()[:most])


def caption_words(text: str) -> list[str]:
    """The words of a text without punctuation; hyphens and apostrophes within a word stay."""
    return _WORD.findall(text)


def constituents(text: str, tag: Tagger) -> dict[str, Spans]:
    """Kind -> places (start, stop) in the text: nouns, adjectives, adverbs, runs of verbs, and noun phrases (determiner
    or number, adjectives, nouns). None of several words crosses punctuation."""
    places = [(m.start(), m.end()) for m in _WORD.finditer(text)]
    tags = tag([text[a:b] for a, b in places])
    found: dict[str, Spans] = {kind: [] for kind in KINDS}
    for place, kind in zip(places, tags, strict=True):
        if kind in ("noun", "adjective", "adverb"):
            found[kind].append(place)
    for first, last in _runs(text, places, tags):
        part = tags[first : last + 1]
        name = "verb" if part[0] == "verb" else "phrase"
        found[name].append((places[first][0], places[last][1]))
    return found


_ORDER: Mapping[WordClass, int] = {"determiner": 0, "number": 0, "adjective": 1, "noun": 2}


def _runs(text: str, places: Spans, tags: Sequence[WordClass]) -> list[tuple[int, int]]:
    """First and last word of each run of verbs and of each noun phrase."""
    runs: list[list[int]] = []
    for i, kind in enumerate(tags):
        if kind != "verb" and kind not in _ORDER:
            continue
        joined = bool(runs) and runs[-1][-1] == i - 1 and not text[places[i - 1][1] : places[i][0]].strip()
        before = tags[i - 1]
        if before in _ORDER and kind in _ORDER:
            joined = joined and _ORDER[before] <= _ORDER[kind]
        else:
            joined = joined and before == kind
        if joined:
            runs[-1].append(i)
        else:
            runs.append([i])
    return [(run[0], run[-1]) for run in runs if tags[run[-1]] in ("verb", "noun")]


def exchanged(text: str, tag: Tagger, kinds: Sequence[str] = KINDS) -> dict[str, list[str]]:
    """Kind -> the captions in which two different constituents of that kind have changed places, each once, and none
    that means the same as the text ("a cat and a dog"). The first letter of a text stays upper or lower case."""
    found, known = {}, {text.casefold()}
    parts = constituents(text, tag)
    for kind in kinds:
        found[kind] = []
        for one, other in itertools.combinations(parts[kind], 2):
            made = swapped(text, one, other)
            if made.casefold() not in known and not _same_both_ways(text, kind, one, other, tag, parts["phrase"]):
                known.add(made.casefold())
                found[kind].append(made)
    return found


def _same_both_ways(
    text: str, kind: str, one: tuple[int, int], other: tuple[int, int], tag: Tagger, phrases: Spans
) -> bool:
    """Whether symmetric words stand between two constituents, and, of nouns, none leaves an adjective or a number."""
    words = caption_words(text[one[1] : other[0]])
    between = " ".join(w for w, tagged in zip(words, tag(words), strict=True) if tagged != "determiner")
    if between.casefold() not in SYMMETRIC:
        return False
    if kind != "noun":
        return True
    left = [
        text[a:start] + text[stop:b] for start, stop in (one, other) for a, b in phrases if a <= start and stop <= b
    ]
    return {tagged for part in left for tagged in tag(caption_words(part))} <= {"determiner"}


def swapped(text: str, one: tuple[int, int], other: tuple[int, int]) -> str:
    """The text with two of its places exchanged; `one` lies before `other`."""
    (a, b), (c, d) = one, other
    early, late = text[a:b], text[c:d]
    if not text[:a].strip() and early[:1].isupper() and not late[:1].isupper():
        early, late = early[:1].lower() + early[1:], late[:1].upper() + late[1:]
    return text[:a] + late + text[b:c] + early + text[d:]


def exchanged_words(text: str, rng: np.random.Generator) -> list[str]:
    """The text with two different words exchanged at random, alone in a list; empty where all words are equal."""
    places = [(m.start(), m.end()) for m in _WORD.finditer(text)]
    pairs = [(one, other) for one, other in itertools.combinations(places, 2)
             if text[slice(*one)].casefold() != text[slice(*other)].casefold()]  # fmt: skip
    return [swapped(text, *pairs[rng.integers(len(pairs))])] if pairs else []


def hard_captions(
    text: str, tag: Tagger, rng: np.random.Generator, *, most: int = 5, kinds: Sequence[str] = KINDS
) -> list[str]:
    """At most so many captions of `exchanged`, drawn so that every kind that gives one is among them where there is
    room; empty where no two constituents can be exchanged."""
    lists = [list(rng.permutation(np.array(found, object))) for found in exchanged(text, tag, kinds).values() if found]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*lists))
    return [str(made) for made in itertools.islice((x for x in turns if x is not None), most)]


# -- the perturbations of ARO: words and their classes -> the words in another order


def _permuted(words: Sequence[str], places: Sequence[int], rng: np.random.Generator) -> list[str]:
    made = list(words)
    for place, source in zip(places, rng.permutation(len(places)), strict=True):
        made[place] = words[places[int(source)]]
    return made


def shuffle_nouns_and_adjectives(
    words: Sequence[str], tags: Sequence[WordClass], rng: np.random.Generator
) -> list[str]:
    """Nouns among the places of nouns, and adjectives among those of adjectives."""
    made: Sequence[str] = list(words)
    for kind in ("noun", "adjective"):
        made = _permuted(made, [i for i, tag in enumerate(tags) if tag == kind], rng)
    return list(made)


def shuffle_other_words(words: Sequence[str], tags: Sequence[WordClass], rng: np.random.Generator) -> list[str]:
    """All words that are neither noun nor adjective, among their places."""
    return _permuted(words, [i for i, tag in enumerate(tags) if tag not in ("noun", "adjective")], rng)


def shuffle_within_trigrams(words: Sequence[str], tags: Sequence[WordClass], rng: np.random.Generator) -> list[str]:
    """The words within each group of three that follow each other; the last group may be shorter."""
    made = list(words)
    for start in range(0, len(words), GROUP):
        made = _permuted(made, range(start, min(start + GROUP, len(words))), rng)
    return made


def shuffle_trigrams(words: Sequence[str], tags: Sequence[WordClass], rng: np.random.Generator) -> list[str]:
    """The order of the groups of three words that follow each other, each kept as it is."""
    groups: list[Sequence[str]] = [words[start : start + GROUP] for start in range(0, len(words), GROUP)]
    return [word for group in rng.permutation(len(groups)) for word in groups[group]]


Shuffle = Callable[[Sequence[str], Sequence[WordClass], np.random.Generator], list[str]]
SHUFFLES: Mapping[str, Shuffle] = {
    "nouns and adjectives": shuffle_nouns_and_adjectives,
    "other words": shuffle_other_words,
    "within trigrams": shuffle_within_trigrams,
    "trigrams": shuffle_trigrams,
}
"""In the order of the paper."""
