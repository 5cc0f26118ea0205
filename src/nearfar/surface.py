"""Texts as lists of words, whatever they mean: how many words tell two of them apart, which ones share rare words, and
small changes of a list. On arrays of numbers of words.

    lists = WordLists(["a dog runs", "the dog sleeps"])
    surface_similarity(lists.padded(np.array([0])), lists.padded(np.array([1])))       # [0.333]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(f"[{_IDEOGRAPHS}]|[^\\s{_IDEOGRAPHS}]+")
_EDGES = re.compile(r"^\W+|\W+$")
NONE = -1


def words(text: str) -> list[str]:
    """The words of a text as they are written: parted by white space; Chinese and Japanese characters alone."""
    return _WORD.findall(text)


def plain(word: str) -> str:
    """A word as it is compared: case folded, without punctuation around it (unless it is nothing else)."""
    folded = word.casefold()
    return _EDGES.sub("", folded) or folded


class WordLists:
    """Texts as lists of numbers of words, equal where the words are (`plain`), in one flat array.

    most: words of a text that are looked at, from its start; None: all.
    """

    def __init__(self, texts: Sequence[str], most: int | None = None):
        known: dict[str, int] = {}
        lists = [[known.setdefault(plain(word), len(known)) for word in words(text)[:most]] for text in texts]
        self.flat = np.fromiter((number for row in lists for number in row), np.int32)
        self.starts = np.concatenate([[0], np.cumsum([len(row) for row in lists], dtype=np.int64)])
        self.size = len(known)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.flat[self.starts[row] : self.starts[row + 1]]

    def padded(self, rows: np.ndarray) -> np.ndarray:
        """int32 (n, L), -1 behind the words of each text; a row of -1 is an empty text."""
        return padded([self[row] if row >= 0 else self.flat[:0] for row in rows.tolist()])


def padded(lists: Sequence[np.ndarray]) -> np.ndarray:
    """int32 (n, L) of lists of numbers, -1 behind each."""
    lengths = np.array([len(row) for row in lists], np.int64)
    made = np.full((len(lists), int(lengths.max(initial=0))), NONE, np.int32)
    made[np.arange(made.shape[1]) < lengths[:, None]] = np.concatenate([*lists, np.zeros(0, np.int32)])
    return made


def lengths_of(lists: np.ndarray) -> np.ndarray:
    """How many words stand in each row of `padded`, int64 (n,)."""
    return (lists != NONE).sum(1)


def edit_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The fewest words that must be put in, taken out or exchanged to make b_i of a_i, int64 (n,) (Levenshtein).

    a (n, L), b (n, M): numbers of words, -1 behind the last. Exact; L steps over (n, M) numbers. Range
    [|len a - len b|, max(len a, len b)]."""
    long_a, long_b = lengths_of(a), lengths_of(b)
    place = np.arange(b.shape[1] + 1, dtype=np.int32)
    row = np.broadcast_to(place, (len(a), len(place)))
    found = long_b.copy()
    for i in range(a.shape[1]):
        fresh = np.empty_like(row)
        fresh[:, 0] = i + 1
        np.minimum(row[:, 1:] + 1, row[:, :-1] + (a[:, i : i + 1] != b), out=fresh[:, 1:])
        row = np.minimum.accumulate(fresh - place, 1) + place  # words put in, from the left to the right
        ends = np.flatnonzero(long_a == i + 1)
        found[ends] = row[ends, long_b[ends]]
    return found


def surface_similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 - (edit distance) / max(len a, len b, 1), float64 (n,), in [0, 1]: 1 for equal lists alone (two empty ones
    too), at most the shorter length over the longer. a (n, L), b (n, M) as in `edit_distance`. Source: DebCSE (a
    reconstruction)."""
    longer = np.maximum(np.maximum(lengths_of(a), lengths_of(b)), 1)
    return 1 - edit_distance(a, b) / longer


def rare_neighbours(lists: WordLists, count: int, *, apart: Sequence[np.ndarray] = (), most: int = 256,
                    rows: int = 2048) -> np.ndarray:  # fmt: skip
    """The texts that share most rare words with each, int64 (N, count), the nearest first, -1 where there are fewer.

    The cosine of the sets of words that stand in 2 to `most` texts, each weighed by log(N / texts that hold it); what
    shares none is no neighbour. apart: integers (N,) each; texts that are equal in one are no neighbours. Sparse: time
    and memory grow with the pairs that share such a word, `rows` texts at a time.
    """
    from scipy import sparse

    size = len(lists)
    held = np.repeat(np.arange(size), np.diff(lists.starts))
    pairs = np.unique(held * max(1, lists.size) + lists.flat)
    held, word = pairs // max(1, lists.size), pairs % max(1, lists.size)
    often = np.bincount(word, minlength=lists.size)
    keep = (often[word] >= 2) & (often[word] <= most)
    held, word = held[keep], word[keep]
    weight = np.log(size / often[word])
    norm = np.sqrt(np.bincount(held, weight**2, minlength=size))
    share = weight / np.where(norm[held] > 0, norm[held], 1)
    x = sparse.csr_matrix((share, (held, word)), shape=(size, lists.size))
    across, found = x.T.tocsr(), np.full((size, count), NONE, np.int64)
    for begin in range(0, size, rows):
        near = (x[begin : begin + rows] @ across).tocoo()
        row, column, value = near.row + begin, near.col, near.data
        other = (row != column) & (value > 0)
        for own in apart:
            other &= own[row] != own[column]
        row, column, value = row[other], column[other], value[other]
        order = np.lexsort((column, -value, row))
        row, column = row[order], column[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        found[row[rank < count], rank[rank < count]] = column[rank < count]
    return found


def random_others(size: int, count: int, rng: np.random.Generator, *, apart: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Other texts drawn at random, int64 (N, count); -1 where ten draws in a row gave one that is equal in one of
    `apart` (integers (N,) each), or the text itself."""
    own = np.arange(size)[:, None]
    found = np.full((size, count), NONE, np.int64)
    for _ in range(10):
        open_ = found < 0
        if not open_.any() or size < 2:
            break
        drawn = rng.integers(size, size=found.shape)
        fits = open_ & (drawn != own)
        for codes in apart:
            fits &= codes[drawn] != codes[:, None]
        found[fits] = drawn[fits]
    return found


def document_neighbours(documents: np.ndarray, count: int) -> np.ndarray:
    """The texts before and behind each in its document, int64 (N, count): one before, one behind, two before...; -1
    where the document ends. documents: integers (N,) of texts in their order."""
    order = np.argsort(documents, kind="stable")
    found = np.full((len(documents), count), NONE, np.int64)
    for k in range(count):
        step = (k // 2 + 1) * (-1 if k % 2 == 0 else 1)
        place = np.arange(len(order)) + step
        inside = (place >= 0) & (place < len(order))
        place = place.clip(0, max(0, len(order) - 1))
        same = inside & (documents[order[place]] == documents[order])
        found[order[same], k] = order[place[same]]
    return found


# -- small changes of a list of n words: the places of the words that are left, int64 (m,)


def shorter(n: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """A share of the words taken out, at least one of them; one stays."""
    out = rng.permutation(n)[: min(n - 1, max(1, round(rate * n)))]
    return np.setdiff1d(np.arange(n), out)


def repeated(n: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """A share of the words, at least one of them, twice in a row."""
    twice = rng.permutation(n)[: max(1, round(rate * n))]
    return np.sort(np.concatenate([np.arange(n), twice]))


def cropped(n: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """A span without a share of the words, drawn between half and double `rate`; one word stays."""
    size = max(1, min(n - 1, round(n * (1 - rate * rng.uniform(0.5, 2)))))
    begin = rng.integers(n - size + 1)
    return np.arange(begin, begin + size)


def swapped(n: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """A share of the words, at least one of them, each exchanged with one at most three places further on."""
    places = np.arange(n)
    for place in np.sort(rng.permutation(n - 1)[: max(1, round(rate * n / 2))]).tolist() if n > 1 else ():
        other = min(n - 1, place + int(rng.integers(1, 4)))
        places[[place, other]] = places[[other, place]]
    return places


CHANGES: dict[str, Callable[[int, float, np.random.Generator], np.ndarray]] = {
    "shorter": shorter,
    "repeated": repeated,
    "cropped": cropped,
    "swapped": swapped,
}
