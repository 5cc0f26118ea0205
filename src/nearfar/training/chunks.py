"""Vectors of many rows, chunk by chunk: made by this process, or by the workers of a cluster."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar import workers
from nearfar.training.embedding import Embedder, give_back_memory
from nearfar.training.modelled import ModelEmbedder

if TYPE_CHECKING:
    from nearfar.progress import Say

Chunks = Callable[[Sequence[np.ndarray]], Iterator[tuple[int, np.ndarray]]]
"""Row numbers in pieces -> place of a piece and its vectors float32 (n, d): each piece once, in any order."""


def vectors_here(vectors_of: Embedder, role: str) -> Chunks:
    """Chunks that this process makes, in their order."""

    def made(pieces: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        for place, rows in enumerate(pieces):
            yield place, one_chunk(vectors_of, role, rows)

    return made


def vectors_on(on: str, vectors_of: ModelEmbedder, role: str, data: workers.SameData, say: Say) -> Chunks:
    """Chunks that the workers of a cluster make (`nearfar.workers`), in the order in which they come. The model goes to
    each worker once and stays there."""
    facts = vectors_of.model, vectors_of.batch_size, vectors_of.variant, role

    def made(pieces: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        with workers.connected(on) as cluster:
            say(cluster.words(len(pieces)))
            for place, vectors in workers.spread(cluster, functools.partial(chunk_maker, data, *facts), pieces):
                if isinstance(vectors, Exception):
                    raise vectors
                yield place, vectors

    return made


def chunk_maker(
    data: workers.SameData, model: Any, batch_size: int, variant: str | None, role: str
) -> Callable[[np.ndarray], np.ndarray]:
    """What a worker keeps: row numbers -> their vectors."""
    return functools.partial(one_chunk, ModelEmbedder(model, data.open(), batch_size, variant), role)


def one_chunk(vectors_of: Embedder, role: str, rows: np.ndarray) -> np.ndarray:
    found = vectors_of.rows(role, rows)
    give_back_memory()
    return found
