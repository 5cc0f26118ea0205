"""Rows that need no training, scored by the same task: raw pixels, HOG, TF-IDF, BM25; raw pixels and HOG of each place.
A kind of data names its own (`Modality.references`), a task takes those that make sense for it (`Task.references`).

They answer the first question about any trained model: did training pay at all?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar import modalities
from nearfar.bm25 import BM25, words
from nearfar.evaluation.embedding import DataEmbed
from nearfar.evaluation.neighbours import FunctionScorer, SparseScorer
from nearfar.evaluation.searches import Search, side_items
from nearfar.evaluation.task import Reference, Task
from nearfar.similarity import Source

if TYPE_CHECKING:
    from nearfar.evaluation.search_task import SearchTask
    from nearfar.sources.data import Data


def references(data: Data, task: Task, *, size: int = 32) -> list[Reference]:
    """The rows that need no training of a task on its data."""
    return task.references(size=size)


def by_kind(task: Task, size: int) -> list[Reference]:
    """What a kind of data offers without training, where all that the task asks for are of one kind."""
    kinds = modalities.kinds(task.roles)
    return modalities.get(kinds[0]).references(task, size) if len(kinds) == 1 else []


def by_images(task: Task, size: int) -> list[Reference]:
    """Raw pixels and HOG, for a task on images."""
    data = task.data
    return [
        vector_row("pixels", "raw pixels", task, lambda: pixels(data, task.roles[0], size=size)),
        vector_row("hog", "HOG", task, lambda: gradients(data, size=size)),
    ]


def by_words(task: SearchTask) -> list[Reference]:
    """TF-IDF and BM25, for a task of searches among texts."""
    return [
        score_row("tfidf", "TF-IDF", task, lambda search: tfidf_scorer(task.data, search)),
        score_row("bm25", "BM25", task, lambda search: bm25_scorer(task.data, search)),
    ]


def by_word_counts(task: Task, *, width: int = 256) -> list[Reference]:
    """TF-IDF of the training texts, brought to at most so many dimensions, for a task on vectors of texts."""
    return [vector_row("tfidf", "TF-IDF", task, lambda: word_vectors(task.data, task.roles[0], width))]


def by_numbers(task: Task) -> list[Reference]:
    """The numbers themselves, standardised, and their main components, for a task on vectors."""
    data, role = task.data, task.roles[0]

    def components() -> DataEmbed:
        scale = standardised(data, role, data.facts("values", role))
        project = main_components(scale(data.facts("values", role)[data.splits["train"]]))
        return DataEmbed(data, lambda _, items: project(scale(items)))

    return [
        vector_row("raw", "raw numbers", task, lambda: raw_numbers(data, role)),
        vector_row("pca", "PCA", task, components),
    ]


def raw_numbers(data: Data, role: str) -> DataEmbed:
    """The numbers themselves, standardised."""
    scale = standardised(data, role, data.facts("values", role))
    return DataEmbed(data, lambda _, items: scale(items))


def standardised(data: Data, role: str, values: np.ndarray) -> Callable[[Any], np.ndarray]:
    """Numbers (n, d) by how far they lie from their mean over the training rows, in deviations; 0 for an empty one.
    values: of all rows."""
    from nearfar.encoders.numeric import moments

    mean, std = moments(values[data.splits["train"]])
    return lambda items: np.nan_to_num((np.asarray(items, np.float32) - mean) / std)


def main_components(rows: np.ndarray, *, share: float = 0.9) -> Callable[[np.ndarray], np.ndarray]:
    """The projection onto the main components that hold a share of the variance of standardised rows."""
    from sklearn.decomposition import PCA

    found: Any = PCA(random_state=0).fit(rows)
    kept = int(np.searchsorted(np.cumsum(found.explained_variance_ratio_), share)) + 1
    axes = found.components_[: max(1, kept)].astype(np.float32)
    return lambda items: (items - found.mean_.astype(np.float32)) @ axes.T


def by_places(task: Task, size: int) -> list[Reference]:
    """Raw pixels and HOG of each cell of 8 x 8 pixels, as maps."""

    def maps(slug: str, label: str, encode: Callable[[Any], np.ndarray]) -> Reference:
        return vector_row(slug, label, task, lambda: DataEmbed(task.data, lambda role, items: encode(items), size=size))

    def both(images: Any) -> np.ndarray:
        return np.concatenate([pixel_cells(images), hog_cells(images)], 1)

    return [
        maps("pixels", "raw pixels", pixel_cells),
        maps("hog", "HOG", hog_cells),
        maps("both", "raw pixels + HOG", both),
    ]


def vector_row(slug: str, label: str, task: Task, embed: Callable[[], Any]) -> Reference:
    """A row of the leaderboard from vectors: `embed` makes an `Embed`."""
    return Reference(
        slug, label, "reference", lambda split, examples=0: task.evaluate(embed(), split, examples=examples)
    )


def score_row(slug: str, label: str, task: SearchTask, scorer: Callable[[Search], Source]) -> Reference:
    """A row from anything that ranks."""
    return Reference(
        slug, label, "reference", lambda split, examples=0: task.evaluate_scores(scorer, split, examples=examples)
    )


def pixel_cells(images: Any, *, cell: int = 8) -> np.ndarray:
    """The pixels of each cell of uint8 images (n, 3, h, w) in 0..1, as a map (n, 3 cell^2, h / cell, w / cell)."""
    import torch
    from torch.nn.functional import pixel_unshuffle

    return pixel_unshuffle(torch.from_numpy(np.asarray(images)).float() / 255, cell).numpy()


def hog_cells(images: Any, *, cell: int = 8, orientations: int = 9) -> np.ndarray:
    """`hog` of the 3 x 3 cells around each cell, as a map (n, 9 orientations, h / cell, w / cell)."""
    padded = np.pad(np.asarray(images), ((0, 0), (0, 0), (cell, cell), (cell, cell)), mode="edge")
    found = hog(padded, cell=cell, orientations=orientations, block=3, flat=False)
    return found.reshape(*found.shape[:3], -1).transpose(0, 3, 1, 2)


def pixels(data: Data, role: str = "image", *, size: int = 32, max_train: int = 5000) -> DataEmbed:
    """Raw pixels (n, 3 * size * size) less the mean of the training part (at most `max_train` of its rows)."""
    train = np.asarray(data.splits["train"])
    drawn = train if len(train) <= max_train else np.random.default_rng(0).choice(train, max_train, replace=False)
    mean = data.images(role, size, np.sort(drawn)).astype(np.float32).mean(0)
    return DataEmbed(
        data, lambda _, items: (np.asarray(items, np.float32) - mean).reshape(len(items), -1) / 255, size=size
    )


def gradients(data: Data, *, size: int = 32) -> DataEmbed:
    """HOG of images at so many pixels a side."""
    return DataEmbed(data, lambda _, items: hog(items), size=size)


def hog(images: Any, *, cell: int = 8, orientations: int = 9, block: int = 2, flat: bool = True) -> np.ndarray:
    """Histograms of oriented gradients of uint8 images (n, 3, h, w): cells of `cell` pixels, block x block cells a
    block; (n, d), or unless `flat` (n, rows, columns, block, block, orientations).

    Source: Dalal and Triggs, CVPR 2005 (scikit-image's implementation, L2-Hys).
    """
    from skimage.feature import hog as histograms

    return np.stack(
        [
            histograms(
                image.transpose(1, 2, 0),
                orientations=orientations,
                pixels_per_cell=(cell, cell),
                cells_per_block=(block, block),
                channel_axis=-1,
                feature_vector=flat,
            )
            for image in np.asarray(images)
        ]
    ).astype(np.float32)


def tfidf_scorer(data: Data, search: Search) -> Source:
    """Cosine of TF-IDF vectors; document frequencies of the gallery, sublinear counts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    queries, documents = side_items(data, search.query), side_items(data, search.gallery)
    analyzer: Any = words
    vectorizer = TfidfVectorizer(analyzer=analyzer, sublinear_tf=True)
    try:
        gallery = vectorizer.fit_transform(documents)
    except ValueError:  # not one word in the whole gallery
        return _nothing(queries, documents)
    return SparseScorer(vectorizer.transform(queries), gallery)


def bm25_scorer(data: Data, search: Search) -> Source:
    """BM25 of the gallery's texts."""
    queries, documents = side_items(data, search.query), side_items(data, search.gallery)
    index = BM25.of(documents)

    def score(rows: np.ndarray) -> np.ndarray:
        return np.stack([index.scores(queries[row]) for row in rows])

    return FunctionScorer(score, len(queries), len(documents))


def word_vectors(data: Data, role: str, width: int) -> DataEmbed:
    """TF-IDF over the training texts, projected onto its main directions where there are more than `width` words."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    analyzer: Any = words
    counts = TfidfVectorizer(analyzer=analyzer, sublinear_tf=True)
    try:
        seen = counts.fit_transform(data.texts(role, data.splits["train"]))
    except ValueError:  # not one word in the training part
        return DataEmbed(data, lambda _, items: np.zeros((len(items), 1), np.float32))
    project = TruncatedSVD(width, random_state=0).fit(seen) if seen.shape[1] > width else None

    def encode(_: str, items: Any) -> np.ndarray:
        found: Any = counts.transform(items)
        return np.asarray(found.todense() if project is None else project.transform(found), np.float32)

    return DataEmbed(data, encode)


def _nothing(queries: Sequence[str], documents: Sequence[str]) -> Source:
    return FunctionScorer(lambda rows: np.zeros((len(rows), len(documents))), len(queries), len(documents))
