"""Where vectors stand on a plane, and what is nearest to each: computed once and kept in the folder of the index.

A file is named by what it was made of, the checksum of the vectors among it, so an index that has grown is projected
anew. One that is damaged is made anew as well.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nearfar import files, processes
from nearfar.errors import InputError, install
from nearfar.evaluation.neighbours import Neighbours

Projection = Literal["umap", "pca"]
NEAR = 15  # neighbours whose distances UMAP keeps
SEED = 0


def kept(
    folder: Path, name: str, made_of: str, make: Callable[[], np.ndarray], say: Callable[[str], None]
) -> np.ndarray:
    """The array of that name which was made of the same before, or `make()`, which is kept if it can be."""
    path = folder / f"{name}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.npy"
    found = files.load_array(path)
    if found is None:
        found = make()
        try:
            files.save_array(path, found)
        except OSError as error:
            say(f"note: {path} cannot be written ({error.strerror or error}), so it is computed again the next time")
    return np.asarray(found)


def project(z: np.ndarray, near: Neighbours, kind: Projection) -> np.ndarray:
    """Places float32 (n, 2) of vectors (n, d) of length 1: UMAP from their exact neighbours (fewer than 30 vectors: as
    "pca"), or the two main components. Seeded.

    Sources: McInnes, Healy and Melville, 2018 (umap-learn).
    """
    if kind == "umap" and len(z) >= 2 * NEAR:
        return spread(_umap(z, near))
    if min(z.shape) < 2 or np.ptp(z, axis=0).max() < 1e-9:
        return np.zeros((len(z), 2), np.float32)
    from sklearn.decomposition import PCA

    return spread(PCA(2, random_state=SEED).fit_transform(z))


def spread(places: np.ndarray) -> np.ndarray:
    """About the middle, the farthest coordinate at 1."""
    places = places - places.mean(0)
    return (places / max(float(np.abs(places).max()), 1e-9)).astype(np.float32)


def _umap(z: np.ndarray, near: Neighbours) -> np.ndarray:
    try:
        import umap
    except ModuleNotFoundError as error:
        hint = f"{install('explore')} Or take --projection pca."
        raise InputError(f"UMAP needs the package '{error.name}', which is not installed.", hint) from error
    known: Any = None
    if near.indices.shape[1] >= NEAR - 1 and (near.indices[:, : NEAR - 1] >= 0).all():
        others, distances = near.indices[:, : NEAR - 1], 1 - near.scores[:, : NEAR - 1]
        own = np.arange(len(z))[:, None]
        known = np.hstack([own, others]), np.hstack([np.zeros_like(own), np.maximum(distances, 0)]).astype(np.float32)
    with warnings.catch_warnings(), processes.same_threads():
        warnings.simplefilter("ignore")  # of seeds that forbid threads, and of an index for further points
        given = {} if known is None else {"precomputed_knn": known, "force_approximation_algorithm": True}
        make = umap.UMAP(n_neighbors=NEAR, metric="cosine", random_state=SEED, **given)
        return np.asarray(make.fit_transform(z))
