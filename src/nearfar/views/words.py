"""Views of texts by changes of their words, before these become tokens: stop words taken out, words replaced by
synonyms, exchanged, or left out.

    weak      without its stop words, with probability p
    strong    the same, then one change: a synonym, two words exchanged, or some words left out

Source: CLIP-rocket (Fini et al., TMLR 2023); the changes are those of EDA (Wei and Zou, EMNLP 2019).
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
import torch

from nearfar.checks import NonNegativeFloat, PositiveInt, Range, UnitInterval, check_fields
from nearfar.encoders.tokens import Tokens, frame, pad
from nearfar.errors import InputError
from nearfar.surface import plain, words
from nearfar.views.text import TextViews

if TYPE_CHECKING:
    from nearfar.sources.data import Data

_STOP_WORDS = """
    a about above after again against all am an and any are aren't as at be because been before being below
    between both but by can can't cannot could couldn't did didn't do does doesn't doing don't down during
    each few for from further had hadn't has hasn't have haven't having he he's her here here's hers herself
    him himself his how i i'd i'll i'm i've if in into is isn't it it's its itself just let's me more most
    mustn't my myself no nor not now of off on once only or other our ours ourselves out over own same shan't
    she she's should shouldn't so some such than that that's the their theirs them themselves then there
    there's these they they're this those through to too under until up very was wasn't we we're were weren't
    what what's when where which while who who's whom why will with won't would wouldn't you you're your yours
    yourself yourselves
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""English words that mean little alone."""
_EDGES = re.compile(r"^(\W*)(.*?)(\W*)$", re.DOTALL)
_IDEOGRAPH = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]$")


class Texts(NamedTuple):
    """n items as texts, each by one that tells it or by several (captions of an image)."""

    told: tuple[tuple[str, ...], ...]

    def to(self, device: torch.device | str) -> Texts:
        return self


def without_stop_words(listed: Sequence[str], stop: frozenset[str] = STOP_WORDS) -> list[str]:
    """The words that are no stop words; all of them where nothing else is there."""
    return [word for word in listed if plain(word) not in stop] or list(listed)


def with_synonyms(
    listed: Sequence[str],
    synonyms: Mapping[str, Sequence[str]],
    rng: np.random.Generator,
    count: int = 1,
    stop: frozenset[str] = STOP_WORDS,
) -> list[str]:
    """`count` different words (fewer where fewer have synonyms) replaced wherever they stand, each by one of its
    synonyms at random; punctuation around them stays. synonyms: word in its plain form -> others."""
    known = sorted({plain(word) for word in listed} & synonyms.keys() - stop)
    chosen = {known[i]: synonyms[known[i]] for i in rng.permutation(len(known))[:count].tolist()}
    other = {word: others[int(rng.integers(len(others)))] for word, others in chosen.items()}
    return [_EDGES.sub(lambda m, w=word: m[1] + other[plain(w)] + m[3], word) if plain(word) in other else word
            for word in listed]  # fmt: skip


def with_words_exchanged(listed: Sequence[str], rng: np.random.Generator, count: int = 1) -> list[str]:
    """Two places drawn at random change their words, `count` times; a single word stays."""
    made = list(listed)
    for _ in range(count if len(made) > 1 else 0):
        a, b = rng.choice(len(made), 2, replace=False).tolist()
        made[a], made[b] = made[b], made[a]
    return made


def with_words_left_out(listed: Sequence[str], rng: np.random.Generator, p: float = 0.1) -> list[str]:
    """Each word is left out with probability p; where all would go, one at random stays."""
    if not listed:
        return []
    kept = [word for word, u in zip(listed, rng.random(len(listed)), strict=True) if u >= p]
    return kept or [listed[int(rng.integers(len(listed)))]]


def joined(listed: Sequence[str]) -> str:
    """Words as one text: blanks between them, none between Chinese and Japanese characters."""
    made = ""
    for word in listed:
        near = not made or (_IDEOGRAPH.search(made) and _IDEOGRAPH.match(word))
        made += word if near else f" {word}"
    return made


def cleaned(text: str) -> str:
    """Lower case, characters in place of their HTML names, single blanks."""
    return " ".join(html.unescape(html.unescape(text)).split()).lower()


def read_synonyms(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Word -> those that may stand for it, of a file with one list a line: words that mean the same, commas between
    them; a word of several lines takes those of all. Raises InputError for a file that cannot be read, an empty one,
    and a line with a single word."""
    found: dict[str, dict[str, None]] = {}
    for number, line in enumerate(_lines(path, "synonyms"), 1):
        listed = [word.strip() for word in line.split(",") if word.strip()]
        if len(listed) == 1:
            raise InputError(f"{path}, line {number}: '{listed[0][:80]}' stands alone.",
                             "A line holds words that mean the same, with commas between them.")  # fmt: skip
        for word in listed:
            own = found.setdefault(plain(word), {})
            own.update(dict.fromkeys(other for other in listed if plain(other) != plain(word)))
    if not found:
        raise InputError(f"{path} holds no synonyms.", "Write words that mean the same on a line, commas between them.")
    return {word: tuple(others) for word, others in found.items() if others}


def read_stop_words(path: str | Path) -> frozenset[str]:
    """The words of a file, parted by blanks or lines. Raises InputError for a file that cannot be read or is empty."""
    found = frozenset(plain(word) for line in _lines(path, "stop words") for word in line.split())
    if not found:
        raise InputError(f"{path} holds no stop words.", "Write one on each line, or use --text-views.stop-words 0.")
    return found


def _lines(path: str | Path, what: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The file of {what} '{path}' cannot be read: {error}.",
                         "Give a text file in UTF-8.") from None  # fmt: skip


@dataclass
class Words(TextViews):
    """One weak view of a text by its words, then several strong ones; of an image with several captions each view
    draws its own.

    Args:
        strong: how many strong views follow the first.
        first: how the first view is changed: weak, stop words alone; strong, as the others; plain, not at all.
        stop_words: probability that a view loses its stop words; a text of nothing else stays.
        stop_list: file of stop words; default English ones.
        synonyms: file of synonyms, words that mean the same on a line with commas between them. Without one no word is
            replaced: swaps and deletions alone.
        synonym, swap, deletion, unchanged: weights by which a strong view is changed in one of these ways.
        times: how many words are replaced, or pairs of them exchanged.
        delete: probability that a deletion leaves a word out.
        clean: lower case, no HTML names of characters, single blanks.

    It reads texts, not tokens; one that is too long for the encoder is cut at its end.
    Raises InputError: no weight above 0, or a synonym's alone without a file; a file that cannot be read.
    """

    strong: Annotated[int, Range(0, 16)] = 2
    first: Literal["weak", "strong", "plain"] = "weak"
    stop_words: UnitInterval = 0.8
    stop_list: str | None = None
    synonyms: str | None = None
    synonym: NonNegativeFloat = 0.4
    swap: NonNegativeFloat = 0.4
    deletion: NonNegativeFloat = 0.2
    unchanged: NonNegativeFloat = 0.0
    times: PositiveInt = 1
    delete: UnitInterval = 0.1
    clean: bool = False
    members: int = field(default=1, init=False)
    targets: int = field(default=3, init=False)

    def __post_init__(self):
        check_fields(self)
        self.targets = 1 + self.strong
        self._known = {} if self.synonyms is None else read_synonyms(self.synonyms)
        self._stop = STOP_WORDS if self.stop_list is None else read_stop_words(self.stop_list)
        weights = np.array([self.synonym if self._known else 0.0, self.swap, self.deletion, self.unchanged])
        if not weights.sum() > 0:
            raise InputError(
                "The views 'words' have no way to change a text: all weights are 0"
                + (", but that of synonyms, of which there is no file." if self.synonym and not self._known else "."),
                "Set one of swap, deletion and unchanged above 0, or name a file of synonyms.",
            )
        self._shares = weights / weights.sum()

    def bind(self, encoder: Any) -> Words:
        self._encode = encoder.encode_ids
        super().bind(encoder)
        return self

    def reader(self, data: Data, role: str) -> Any:
        """Each row with the captions of its item, of the training rows."""
        alternatives = data.alternatives
        if alternatives is None:
            return lambda rows, rng: Texts(tuple((text,) for text in data.texts(role, rows)))
        train = np.asarray(data.splits["train"])
        train = train[np.argsort(alternatives[train], kind="stable")]
        own = alternatives[train]

        def read(rows: np.ndarray, rng: Any = None) -> Texts:
            first, last = (np.searchsorted(own, alternatives[rows], side) for side in ("left", "right"))
            lists = [train[a:b] if b > a else row[None] for a, b, row in zip(first, last, rows, strict=True)]
            texts = iter(data.texts(role, np.concatenate(lists)))
            return Texts(tuple(tuple(next(texts) for _ in listed) for listed in lists))

        return read

    def weak(self, text: str, rng: np.random.Generator) -> str:
        """The text, its stop words taken out with the probability of that."""
        listed = words(text)
        dropped = rng.random() < self.stop_words
        shorter = without_stop_words(listed, self._stop) if dropped else listed
        return text if len(shorter) == len(listed) else joined(shorter)

    def changed(self, text: str, rng: np.random.Generator) -> str:
        """A strong view: the weak one with one change."""
        text = self.weak(text, rng)
        listed = words(text)
        way = int(rng.choice(4, p=self._shares))
        if way == 0:
            made = with_synonyms(listed, self._known, rng, self.times, self._stop)
        elif way == 1:
            made = with_words_exchanged(listed, rng, self.times)
        else:
            made = with_words_left_out(listed, rng, self.delete) if way == 2 else listed
        return text if made == listed else joined(made)

    def texts(self, inputs: Texts, generator: torch.Generator) -> list[list[str]]:
        """The texts of each view."""
        made: list[list[str]] = []
        for view in range(self.targets):
            seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
            rng = np.random.default_rng(int(seed))
            drawn = [told[int(rng.integers(len(told)))] for told in inputs.told]
            drawn = [cleaned(text) for text in drawn] if self.clean else drawn
            how = "strong" if view else self.first
            if how != "plain":
                drawn = [(self.changed if how == "strong" else self.weak)(text, rng) for text in drawn]
            made.append(drawn)
        return made

    def __call__(self, inputs: Any, generator: torch.Generator) -> list[Tokens]:
        if not isinstance(inputs, Texts):
            raise InputError("The views 'words' change texts, and this method reads their tokens.",
                             "Choose other views: delete, mask, crops.")  # fmt: skip
        special = self._special()
        made = [pad(self._encode(texts)).to(generator.device) for texts in self.texts(inputs, generator)]
        return [frame(tokens, special) for tokens in made]


__all__ = [
    "STOP_WORDS",
    "Texts",
    "Words",
    "cleaned",
    "joined",
    "read_stop_words",
    "read_synonyms",
    "with_synonyms",
    "with_words_exchanged",
    "with_words_left_out",
    "without_stop_words",
]
