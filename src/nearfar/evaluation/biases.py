"""Whether similarities of sentences follow what has nothing to do with their meaning: how long they are, which words
they share. Source: DebCSE (CIKM 2023; a reconstruction), which asks it of pairs that do not belong together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nearfar.evaluation.pairwise import spearman
from nearfar.surface import WordLists, lengths_of, surface_similarity

LOWEST = 0.2
CHUNK = 4096


def unrelated(grades: Any) -> np.ndarray:
    """bool (n,): the pairs whose grade lies in the lowest fifth of the range of grades."""
    grades = np.asarray(grades, np.float64)
    return grades <= grades.min(initial=np.inf) + LOWEST * np.ptp(grades) if len(grades) else np.zeros(0, bool)


def length_bias(lengths_a: Any, lengths_b: Any, similarities: Any) -> float:
    """Spearman's correlation of the difference in length with the similarity of unrelated pairs, (n,) each, in [-1, 1].
    0: length says nothing; below 0: texts of one length are taken for alike."""
    return spearman(np.abs(np.asarray(lengths_a) - np.asarray(lengths_b)), similarities)


def surface_bias(surface: Any, similarities: Any) -> float:
    """Spearman's correlation of the surface similarity (`nearfar.surface.surface_similarity`) with the similarity of
    unrelated pairs, (n,) each, in [-1, 1]. 0: words say nothing; above 0: shared words are taken for shared meaning."""
    return spearman(surface, similarities)


def chance_bias(grades: Any) -> float:
    """What vectors that know nothing get of either bias, sqrt(2 / (pi (n - 1))) of n unrelated pairs."""
    return float(np.sqrt(2 / (np.pi * max(1, unrelated(grades).sum() - 1))))


def biases(a: Sequence[str], b: Sequence[str], similarities: Any, grades: Any) -> dict[str, float]:
    """How large "length bias" and "surface bias" are, without their sign, over the unrelated ones of n pairs of texts;
    lengths are in words. Empty where fewer than two pairs are unrelated, or all grades are equal."""
    if not np.ptp(np.asarray(grades, np.float64)) > 0:
        return {}
    rows = np.flatnonzero(unrelated(grades))
    if len(rows) < 2:
        return {}
    lists = WordLists([side[row] for side in (a, b) for row in rows.tolist()])
    first, second = np.arange(len(rows)), len(rows) + np.arange(len(rows))
    parts = [slice(k, k + CHUNK) for k in range(0, len(rows), CHUNK)]
    sides = [(lists.padded(first[part]), lists.padded(second[part])) for part in parts]
    long_a, long_b = (np.concatenate([lengths_of(pair[side]) for pair in sides]) for side in (0, 1))
    told = np.asarray(similarities, np.float64)[rows]
    surface = np.concatenate([surface_similarity(x, y) for x, y in sides])
    found = {"length bias": length_bias(long_a, long_b, told), "surface bias": surface_bias(surface, told)}
    return {name: abs(value) for name, value in found.items()}
