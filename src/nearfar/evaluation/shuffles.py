"""Items with their parts in another order, to see what a score owes to the order: words of texts, strips and patches of
images, as ARO does (Yuksekgonul et al., ICLR 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from nearfar import captions, modalities
from nearfar.captions import SHUFFLES, caption_words
from nearfar.errors import InputError
from nearfar.word_classes import Rules, WordClass

OfTexts = Literal["words", "nouns-and-adjectives", "other-words", "within-trigrams", "trigrams"]
OfImages = Literal["rows", "columns", "patches"]
STRIPS, PATCHES = 4, 3
_GRIDS = {"rows": (STRIPS, 1), "columns": (1, STRIPS), "patches": (PATCHES, PATCHES)}


@dataclass(frozen=True)
class Shuffle:
    """Puts the parts of each item in another order, each row in its own and always the same one.

    how: of texts, all words or one of `captions.SHUFFLES`; of images, four strips (rows, columns) or 3 x 3 patches.
    """

    how: str
    tag: Rules

    def __call__(self, items: Any, rows: np.ndarray) -> Any:
        """items: texts, or images uint8 (n, 3, s, s); rows: their numbers (n,)."""
        rngs = [np.random.default_rng([int(row), 1]) for row in rows]
        if self.how in _GRIDS:
            return np.stack([shuffled_cells(x, *_GRIDS[self.how], rng) for x, rng in zip(items, rngs, strict=True)])
        return [self.text(item, rng) for item, rng in zip(items, rngs, strict=True)]

    def text(self, text: str, rng: np.random.Generator) -> str:
        words = text.split()
        return " ".join(_WORDS[self.how](words, self.tag([(caption_words(w) or [w])[0] for w in words]), rng))


def shuffled_cells(image: np.ndarray, down: int, across: int, rng: np.random.Generator) -> np.ndarray:
    """An image (c, h, w) cut into down x across cells of equal size, in another order; what is left of the height and
    width is 0. An image with fewer pixels than cells stays as it is."""
    c, h, w = image.shape
    a, b = h // down, w // across
    if not a or not b:
        return image
    cells = image[:, : a * down, : b * across].reshape(c, down, a, across, b).transpose(1, 3, 0, 2, 4)
    cells = cells.reshape(down * across, c, a, b)[rng.permutation(down * across)]
    made = np.zeros_like(image)
    whole = cells.reshape(down, across, c, a, b).transpose(2, 0, 3, 1, 4)
    made[:, : a * down, : b * across] = whole.reshape(c, a * down, b * across)
    return made


def role_of(how: str, roles: Sequence[str], data: str) -> str:
    """The first role of the kind that can be put in such an order. Raises InputError where none is."""
    kind = "image" if how in get_args(OfImages) else "text"
    found = next((role for role in roles if modalities.of(role).name == kind), None)
    if found is None:
        raise InputError(f"{data} has no {kind} in its pairs whose {how} could change places.",
                         f"Ways for other data: {', '.join(_known(roles)) or 'none'}.")  # fmt: skip
    return found


def _known(roles: Sequence[str]) -> list[str]:
    kinds = {modalities.of(role).name for role in roles}
    return [how for kind, ways in (("text", OfTexts), ("image", OfImages)) if kind in kinds for how in get_args(ways)]


def _all_words(words: Sequence[str], tags: Sequence[WordClass], rng: np.random.Generator) -> list[str]:
    return [words[int(i)] for i in rng.permutation(len(words))]


_WORDS: Mapping[str, captions.Shuffle] = {"words": _all_words} | {k.replace(" ", "-"): v for k, v in SHUFFLES.items()}
