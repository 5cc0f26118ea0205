"""Triplets of docstring sentences, some in the wrong order, with scores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from made.writing import write_csv
from nearfar.sources import open_data

WRONG, TRIPLETS = 0.35, 5000  # share of the triplets in the wrong order; how many are trained on


TRIPLET_HEAD = ["sentence", "positive", "negative", "score_positive", "score_negative", "words_positive",
                "words_negative", "grade", "split"]  # fmt: skip


def triplets_of(data: Any, count: int, most: int, wrong: float, seed: int = 0) -> list[list[Any]]:
    """Triplets of training sentences: another sentence of the docstring, and one of another docstring of the module
    where there is one. Drawn from the longest docstrings first where `most`, the docstrings taken, is not 0. In `wrong`
    of them positive and negative are in each other's place.

    Scores: of one that knows the docstrings, imperfectly (normal around 3.8 within one and 2.2 else, deviation 1, in
    [0, 5]), and of shared words (their share by inverse frequency, as a rank in [0, 5])."""
    from nearfar.methods.triplets import document_partners

    rng, rows = np.random.default_rng(seed), np.asarray(data.splits["train"])
    texts, known = data.texts("text"), {}
    documents, modules = (np.array([known.setdefault((k, x), len(known)) for x in data.values(k)])[rows]
                          for k in ("document", "module"))  # fmt: skip
    if most:
        kinds, size = np.unique(documents, return_counts=True)
        rows_kept = np.isin(documents, kinds[np.argsort(-size, kind="stable")][:most])
        rows, documents, modules = rows[rows_kept], documents[rows_kept], modules[rows_kept]
    made: list[list[Any]] = []
    while len(made) < count:
        found = document_partners(documents, modules, rng)
        whole = np.flatnonzero((found[0] >= 0) & (found[1] >= 0))
        made += [[texts[rows[k]], *(texts[rows[side[k]]] for side in found)] for k in rng.permutation(whole)]
    made = made[:count]
    scores = [np.clip(rng.normal(mean, 1, len(made)), 0, 5).round(1) for mean in (3.8, 2.2)]
    shared = shared_words(made)
    swapped = rng.random(len(made)) < wrong
    return [[a, *([n, p, *reversed(s), *reversed(w)] if other else [p, n, *s, *w]), 2, "train"]
            for (a, p, n), s, w, other in zip(made, zip(*scores), shared.tolist(), swapped, strict=True)]  # fmt: skip


def shared_words(rows: Sequence[Sequence[str]]) -> np.ndarray:
    """(n, 2): which share of its words, by inverse frequency, the first text has in common with each of the others, as
    a rank in [0, 5]."""
    words = [[set(re.findall(r"\w+", text.casefold())) for text in row] for row in rows]
    count: dict[str, int] = {}
    for row in words:
        for word in row[0]:
            count[word] = count.get(word, 0) + 1

    def weight(found: set[str]) -> float:
        return sum(np.log(len(rows) / count.get(word, 1)) for word in found)

    share = np.array([[weight(a & b) / max(weight(a | b), 1e-9) for b in others] for a, *others in words])
    ranks = np.searchsorted(np.sort(share.reshape(-1)), share, side="right")
    return (5 * ranks / share.size).round(1)


def triplets(name: str, count: int, most: int, wrong: float, limit: int | None, out: Path) -> Path:
    """The triplets as a csv, with the graded pairs of `sentences` for validation and test; written once."""
    path = out / "data" / f"triplets-{name}.csv"
    if not path.exists():
        data = open_data("sentences", limit=limit)
        rows = triplets_of(data, count, most, wrong)
        texts = [data.values(data.roles[role]) for role in ("text", "text_b", "score")]
        pairs = [[texts[0][k], texts[1][k], "", "", "", "", "", texts[2][k], split]
                 for split in ("val", "test") for k in data.splits[split]]  # fmt: skip
        write_csv(path, TRIPLET_HEAD, [*rows, *pairs])
    return path
