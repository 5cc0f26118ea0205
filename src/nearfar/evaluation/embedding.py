"""How a task asks for vectors: by rows, by the corpus, or for items that are in no table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nearfar import modalities
from nearfar.errors import InputError
from nearfar.vectors import as_vectors, normalise

if TYPE_CHECKING:
    from nearfar.sources.data import Data


class Embed(Protocol):
    """The vectors of one model. `role` is a role of the data that holds items ("image", "text_b", "vector"...)."""

    def __call__(self, role: str, rows: np.ndarray) -> np.ndarray:
        """float (n, d) of the given rows of the table."""
        ...

    def raw(self, role: str, rows: np.ndarray) -> np.ndarray:
        """As calling it, without bringing the vectors to length 1."""
        ...

    def of_variant(self, name: str) -> "Embed":
        """The same model, giving its vectors of that name; itself where it gives one vector of each input."""
        ...

    def blocks(self, role: str) -> tuple[int, ...]:
        """The widths of the vectors that stand side by side in one; empty where there is one alone."""
        ...

    def maps(self, role: str, rows: np.ndarray, layer: int | None = None) -> Iterator[np.ndarray]:
        """float (n, c, h, w) of the images of the rows, batch after batch; after a layer, or the last one."""
        ...

    def corpus(self, role: str) -> np.ndarray:
        """float (c, d) of the documents of `data.corpus[role]`."""
        ...

    def items(self, role: str, items: Any) -> np.ndarray:
        """float (n, d) of items as `Modality.items` gives them: images uint8 (n, 3, s, s), texts as a list..."""
        ...

    def check_whole(self, role: str, items: Any) -> None:
        """Raises InputError for an item of which the model would read a part alone."""
        ...


class DataEmbed:
    """An `Embed` from one function `encode(role, items) -> (n, d)`; items as in `Embed.items`, images at `size`."""

    def __init__(self, data: Data, encode: Callable[[str, Any], Any], *, size: int = 32, batch_size: int = 512):
        self.data, self.encode, self.size, self.batch_size = data, encode, size, batch_size

    def __call__(self, role: str, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows)
        parts = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        return np.concatenate([as_vectors(self.encode(role, take(self.data, role, part, self.size))) for part in parts])

    def raw(self, role: str, rows: np.ndarray) -> np.ndarray:
        return self(role, rows)

    def of_variant(self, name: str) -> "DataEmbed":
        return self

    def blocks(self, role: str) -> tuple[int, ...]:
        return ()

    def maps(self, role: str, rows: np.ndarray, layer: int | None = None) -> Iterator[np.ndarray]:
        """For an `encode` that gives maps (n, c, h, w); it has no layers."""
        rows = np.asarray(rows)
        for start in range(0, len(rows), self.batch_size):
            items = take(self.data, role, rows[start : start + self.batch_size], self.size)
            yield np.asarray(self.encode(role, items), np.float32)

    def corpus(self, role: str) -> np.ndarray:
        return self.items(role, self.data.corpus[role])

    def items(self, role: str, items: Any) -> np.ndarray:
        parts = [items[start : start + self.batch_size] for start in range(0, len(items), self.batch_size)]
        return np.concatenate([as_vectors(self.encode(role, part)) for part in parts])

    def check_whole(self, role: str, items: Any) -> None:
        """Its function takes items of any length."""


class Whitened:
    """The vectors of another `Embed`, whitened: centred, decorrelated and scaled to variance 1 (ZCA), then brought to
    length 1. Directions without variance are left out.

    roles: those that are asked for; rows: whose vectors say mean and covariance, of each kind of data those of its
    first role; of many rows an even choice of `most`. Raises InputError for fewer than two rows.
    """

    def __init__(self, embed: Embed, roles: Sequence[str], rows: np.ndarray, *, most: int = 10_000):
        if len(rows) < 2:
            raise InputError("Vectors cannot be whitened by fewer than two training rows.", "Leave out --whiten.")
        rows = np.asarray(rows)[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))]
        self.embed, kinds = embed, [modalities.of(role).name for role in roles]
        first = {kind: roles[kinds.index(kind)] for kind in kinds}
        known = {kind: whitening_of(embed.raw(role, rows)) for kind, role in first.items()}
        self.known = {role: known[kind] for role, kind in zip(roles, kinds, strict=True)}

    def __call__(self, role: str, rows: np.ndarray) -> np.ndarray:
        mean, matrix = self.known[role]
        return normalise((np.asarray(self.embed.raw(role, rows), np.float64) - mean) @ matrix)


def whitening_of(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) and C^-1/2 (d, d) of vectors (n, d), C their biased covariance, its root that of its range."""
    z = np.asarray(z, np.float64)
    values, u = np.linalg.eigh(np.cov(z.T, bias=True).reshape(z.shape[1], -1))
    kept = values > 1e-7 * max(values[-1], np.finfo(np.float64).tiny)
    return z.mean(0), (u[:, kept] / np.sqrt(values[kept])) @ u[:, kept].T


def take(data: Data, role: str, rows: np.ndarray, size: int) -> Any:
    """The items of the rows; images are uint8 (n, 3, size, size)."""
    return modalities.of(role).items(data, role, rows, size)
