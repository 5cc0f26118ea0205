"""Rows that need no training, scored by the same task: chance, raw pixels, HOG, TF-IDF, BM25; for masks the commonest
class, and raw pixels and HOG of each place.

They answer the first question about any trained model: did training pay at all?
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nearfar.evaluation.embedding import DataEmbed, is_image
from nearfar.evaluation.neighbours import FunctionScorer, SparseScorer
from nearfar.evaluation.relevance import visible_grades
from nearfar.evaluation.retrieval import Retrieval
from nearfar.evaluation.searches import Search, side_items
from nearfar.evaluation.tasks import DenseTask, FewShotTask, GradedTask, LabelTask, PairTask, Scores, Task
from nearfar.similarity import Source

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_\u3040-\u30ff\u3400-\u9fff]+|\d+")
HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True)
class Reference:
    """slug, label and kind ("chance" or "reference") of a row of the leaderboard; evaluate(split) -> Scores."""

    slug: str
    label: str
    kind: str
    evaluate: Callable[..., Scores]


def references(data: Any, task: Task, *, size: int = 32) -> list[Reference]:
    """The references that make sense for the task, computed only when `.evaluate(split, examples=0)` is called.

    Pictures are looked at with `size` pixels a side, for masks with 64. Between pictures and texts there is only
    chance.
    """
    if isinstance(task, DenseTask):
        return dense_references(data, task)
    rows = [Reference("chance", "chance", "chance", lambda split, examples=0: chance(task, split))]
    roles = task.roles if isinstance(task, (PairTask, GradedTask)) else (getattr(task, "role", ""),)
    if all(map(is_image, roles)):
        rows += [_vectors("pixels", "raw pixels", task, lambda: pixels(data, roles[0], size=size)),
                 _vectors("hog", "HOG", task, lambda: DataEmbed(data, lambda role, items: hog(items), size=size))]
    elif not any(map(is_image, roles)) and not isinstance(task, FewShotTask):
        rows += [_scores("tfidf", "TF-IDF", task, lambda search: tfidf_scorer(data, search)),
                 _scores("bm25", "BM25", task, lambda search: bm25_scorer(data, search))]
    return rows


def _vectors(slug: str, label: str, task: Task, embed: Callable[[], Any]) -> Reference:
    return Reference(slug, label, "reference",
                     lambda split, examples=0: task.evaluate(embed(), split, examples=examples))


def _scores(slug: str, label: str, task: Task, scorer: Callable[[Search], Source]) -> Reference:
    return Reference(slug, label, "reference",
                     lambda split, examples=0: task.evaluate_scores(scorer, split, examples=examples))


def dense_references(data: Any, task: DenseTask, *, size: int = 64) -> list[Reference]:
    """The commonest class; and what each cell of 8 x 8 pixels shows by itself, through the same probe as a map."""
    def maps(slug: str, label: str, encode: Callable[[Any], np.ndarray]) -> Reference:
        return _vectors(slug, label, task, lambda: DataEmbed(data, lambda role, items: encode(items), size=size))

    def both(images: Any) -> np.ndarray:
        return np.concatenate([pixel_cells(images), hog_cells(images)], 1)

    return [Reference("chance", "majority class", "chance", lambda split, examples=0: task.majority(split)),
            maps("pixels", "raw pixels", pixel_cells), maps("hog", "HOG", hog_cells),
            maps("both", "raw pixels + HOG", both)]


def pixel_cells(images: Any, *, cell: int = 8) -> np.ndarray:
    """The pixels of each cell of uint8 pictures (n, 3, h, w) in 0..1, as a map (n, 3 cell^2, h / cell, w / cell)."""
    import torch
    from torch.nn.functional import pixel_unshuffle
    return pixel_unshuffle(torch.from_numpy(np.asarray(images)).float() / 255, cell).numpy()


def hog_cells(images: Any, *, cell: int = 8, orientations: int = 9) -> np.ndarray:
    """`hog` of the 3 x 3 cells around each cell, as a map (n, 9 orientations, h / cell, w / cell)."""
    padded = np.pad(np.asarray(images), ((0, 0), (0, 0), (cell, cell), (cell, cell)), mode="edge")
    found = hog(padded, cell=cell, orientations=orientations, block=3, flat=False)
    return found.reshape(*found.shape[:3], -1).transpose(0, 3, 1, 2)


def pixels(data: Any, role: str = "image", *, size: int = 32, max_train: int = 5000) -> DataEmbed:
    """Raw pixels (n, 3 * size * size) less the mean of the training part (at most `max_train` of its rows)."""
    train = np.asarray(data.splits["train"])
    drawn = train if len(train) <= max_train else np.random.default_rng(0).choice(train, max_train, replace=False)
    mean = data.images(role, size, np.sort(drawn)).astype(np.float32).mean(0)
    return DataEmbed(data, lambda _, items: (np.asarray(items, np.float32) - mean).reshape(len(items), -1) / 255,
                     size=size)


def hog(images: Any, *, cell: int = 8, orientations: int = 9, block: int = 2, flat: bool = True) -> np.ndarray:
    """Histograms of oriented gradients of uint8 pictures (n, 3, h, w): cells of `cell` pixels, block x block cells a
    block; (n, d), or unless `flat` (n, rows, columns, block, block, orientations).

    Source: Dalal and Triggs, CVPR 2005 (scikit-image's implementation, L2-Hys).
    """
    from skimage.feature import hog as gradients
    return np.stack([gradients(image.transpose(1, 2, 0), orientations=orientations, pixels_per_cell=(cell, cell),
                               cells_per_block=(block, block), channel_axis=-1, feature_vector=flat)
                     for image in np.asarray(images)]).astype(np.float32)


def words(text: str) -> list[str]:
    """Lower-case words; code names are cut at underscores and capitals ("parseHTML_page" -> parse html page), scripts
    without spaces (Chinese, Japanese) into characters."""
    return [word.lower() for word in WORD.findall(HUMP.sub(" ", text))]


def tfidf_scorer(data: Any, search: Search) -> Source:
    """Cosine of TF-IDF vectors; document frequencies of the gallery, sublinear counts."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    queries, documents = side_items(data, search.query), side_items(data, search.gallery)
    analyzer: Any = words
    vectorizer = TfidfVectorizer(analyzer=analyzer, sublinear_tf=True)
    try:
        gallery = vectorizer.fit_transform(documents)
    except ValueError:                                  # not one word in the whole gallery
        return _nothing(queries, documents)
    return SparseScorer(vectorizer.transform(queries), gallery)


def bm25_scorer(data: Any, search: Search) -> Source:
    """BM25 (Lucene's form, k1 = 1.5, b = 0.75) of the gallery's texts."""
    import bm25s
    queries, documents = side_items(data, search.query), side_items(data, search.gallery)
    ids: dict[str, int] = {}
    tokens = [[ids.setdefault(word, len(ids)) for word in words(text)] for text in documents]
    if not ids:
        return _nothing(queries, documents)
    index = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
    index.index((tokens, ids), show_progress=False)
    asked = [[ids[word] for word in words(text) if word in ids] for text in queries]

    def score(rows: np.ndarray) -> np.ndarray:
        return np.stack([index.get_scores_from_ids(asked[row]) if asked[row] else np.zeros(len(documents), np.float32)
                         for row in rows])

    return FunctionScorer(score, len(queries), len(documents))


def _nothing(queries: Sequence[str], documents: Sequence[str]) -> Source:
    return FunctionScorer(lambda rows: np.zeros((len(rows), len(documents))), len(queries), len(documents))


def chance(task: Task, split: str) -> Scores:
    """The expected scores of a random ranking, in closed form; for labels, always saying the commonest one."""
    if isinstance(task, (FewShotTask, GradedTask)):
        return task.chance(split)
    searches = task.searches(split)
    if isinstance(task, LabelTask):
        return _label_chance(task, searches, split)
    found = {search.name: _expected_retrieval(search, task.ks) for search in searches}
    scores = task.collect(searches, found, split, [])
    if isinstance(task, PairTask) and task.told_apart():
        scores.metrics.update(task.chance_of_pairs(split))
    return scores


def _expected_retrieval(search: Search, ks: Sequence[int]) -> Retrieval:
    """`Retrieval` of a random ranking of what each query may see."""
    queries, size = len(search.query.rows), search.size
    hidden = np.zeros(queries, np.int64) if search.hidden is None else search.hidden.counts.numpy()
    grades = [tuple(one.tolist()) for one in visible_grades(search.relevant, search.hidden)]
    answered = np.flatnonzero([len(one) for one in grades])
    asked = [(grades[query], int(size - hidden[query])) for query in answered]
    expected = {one: expected_metrics(*one, ks=ks) for one in set(asked)}
    values = [expected[one] for one in asked]
    per_query = {name: np.array([value[name] for value in values]) for name in values[0]}
    return Retrieval({name: float(value.mean()) for name, value in per_query.items() if name != "rank"}, per_query,
                     answered, len(answered), queries - len(answered), size)


def expected_metrics(grades: Sequence[float], gallery: int, *, ks: Sequence[int] = (1, 5, 10),
                     cut: int = 10) -> dict[str, float]:
    """Expectation of every metric over all orders of a gallery with relevant items of these grades (falling)."""
    relevant = len(grades)
    places = np.arange(1, gallery + 1, dtype=np.float64)
    free = gallery - relevant
    none_yet = np.cumprod(np.concatenate([[1.0], np.maximum(free - places + 1, 0) / (gallery - places + 1)]))
    first = none_yet[:-1] - none_yet[1:]
    ideal = (np.array(grades[:cut]) / np.log2(np.arange(2, min(relevant, cut) + 2))).sum()
    gain = sum(grades) / gallery * (1 / np.log2(np.arange(2, min(gallery, cut) + 2))).sum()
    others = (relevant - 1) / (gallery - 1) if gallery > 1 else 0.0
    return ({f"hit@{k}": float(1 - none_yet[min(k, gallery)]) for k in ks}
            | {f"recall@{k}": min(k, gallery) / gallery for k in ks}
            | {f"precision@{k}": min(k, gallery) * relevant / gallery / k for k in ks}
            | {"mrr": float((first / places).sum()), f"ndcg@{cut}": float(gain / ideal),
               "map": float(((1 + (places - 1) * others) / places).mean()), "rank": float((first * places).sum())})


def _label_chance(task: LabelTask, searches: list[Search], split: str) -> Scores:
    near, alike = searches
    train, test = task.labels[near.gallery.rows], task.labels[near.query.rows]
    guess = np.bincount(train).argmax()
    correct = (test == guess).astype(np.float64)
    value, balanced = float(correct.mean()), 1 / len(np.unique(test)) if guess in test else 0.0
    found = _expected_retrieval(alike, task.ks)
    metrics = {"knn": value, "knn_balanced": balanced, "probe": value, **found.metrics}
    return Scores("knn", value, metrics, {"kNN": {"knn": value, "balanced": balanced}, alike.name: found.metrics},
                  {"kNN": correct}, {"kNN": near.clusters}, {"kNN": {"queries": len(test), "skipped": 0,
                                                                     "gallery": len(train)}}, split)
