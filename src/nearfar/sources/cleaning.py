"""Rules that drop rows of noisy pairs before training: `--clean align`, `--clean "align --short-side 64"`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int

from nearfar import options
from nearfar.checks import NonNegativeInt, PositiveFloat, PositiveInt, check_fields
from nearfar.errors import InputError, did_you_mean

WORD = re.compile(r"\w+(?:['’-]\w+)*")


@dataclass(frozen=True)
class AlignRules:
    """The rules of ALIGN for images with alt-texts, which are all of its cleaning.

    Args:
        short_side: least pixels of the shorter side. Paper: 200.
        aspect: largest ratio of the longer to the shorter side. Paper: 3.
        texts: most different texts of one image. Paper: 1000.
        images: most different images of one text. Paper: 10.
        shortest: least words of a text. Paper: 3.
        longest: most words of a text. Paper: 20.
        vocabulary: a text with a word or a pair of neighbouring words beyond so many of the most frequent ones is
            dropped. Paper: 100 million.

    Source: Jia et al., ICML 2021, sec. 3.
    """

    short_side: NonNegativeInt = 200
    aspect: PositiveFloat = 3.0
    texts: PositiveInt = 1000
    images: PositiveInt = 10
    shortest: NonNegativeInt = 3
    longest: PositiveInt = 20
    vocabulary: PositiveInt = 100_000_000

    def __post_init__(self):
        check_fields(self)
        if self.aspect < 1 or self.shortest > self.longest:
            raise InputError(
                f"aspect must be at least 1, and shortest at most longest. Got {self.aspect:g}, {self.shortest} and "
                f"{self.longest}."
            )


RULES = {"align": AlignRules}


def rules_of(spec: str) -> AlignRules:
    """ "align --short-side 64" -> its rules. Raises InputError for an unknown name or option."""
    words = options.words_of("clean", spec)
    name = words[0] if words else ""
    if name not in RULES:
        raise InputError(f"There are no cleaning rules '{name}'.{did_you_mean(name, RULES)}",
                         f"Known: {', '.join(RULES)}.")  # fmt: skip
    cls = RULES[name]
    return options.build(cls, options.checked([cls], options.from_command_line([cls], words[1:])))


def partners(of: Int[np.ndarray, "n"], others: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """How many different `others` stand beside the value of each row."""
    codes = np.unique(of, return_inverse=True)[1]
    pairs = np.unique(np.stack([codes, np.unique(others, return_inverse=True)[1]], 1), axis=0)
    return np.bincount(pairs[:, 0], minlength=len(codes))[codes]


def rare(texts: Sequence[Sequence[str]], vocabulary: int) -> Bool[np.ndarray, "n"]:
    """Which texts hold a word or a pair of neighbours that is not among the `vocabulary` most frequent ones."""
    grams = [[*words, *pairwise(words)] for words in texts]
    counts = Counter(g for row in grams for g in row)
    if len(counts) <= vocabulary:
        return np.zeros(len(texts), bool)
    known = {gram for gram, _ in counts.most_common(vocabulary)}
    return np.array([any(g not in known for g in row) for row in grams], bool)


def dropped(
    rules: AlignRules,
    sizes: Int[np.ndarray, "n 2"],
    images: Int[np.ndarray, "n"],
    texts: Sequence[str],
) -> Mapping[str, Bool[np.ndarray, "n"]]:
    """The rows that each rule drops. sizes: width and height; images: an equal number where they are equal; texts are
    compared in lower case by their words."""
    words = [WORD.findall(text.casefold()) for text in texts]
    short, long = sizes.min(1), sizes.max(1)
    captions = np.unique(np.array([" ".join(w) for w in words], dtype=object).astype(str), return_inverse=True)[1]
    lengths = np.array([len(w) for w in words])
    return {
        f"shorter side below {rules.short_side} pixels": short < rules.short_side,
        f"sides more than {rules.aspect:g} : 1": long > rules.aspect * short,
        f"images with more than {rules.texts} texts": partners(images, captions) > rules.texts,
        f"texts with more than {rules.images} images": partners(captions, images) > rules.images,
        f"texts of fewer than {rules.shortest} words": lengths < rules.shortest,
        f"texts of more than {rules.longest} words": lengths > rules.longest,
        f"texts with words beyond the {rules.vocabulary:,} most frequent": rare(words, rules.vocabulary),
    }
