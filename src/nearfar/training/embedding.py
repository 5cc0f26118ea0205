"""Embeds rows of data with the towers of a method or a saved model, in evaluation mode and in batches."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nearfar import modalities
from nearfar.encoders import unfrozen
from nearfar.encoders.base import evaluating
from nearfar.errors import InputError
from nearfar.methods.tower import Tower
from nearfar.modality import Reader
from nearfar.models import check_variant, variants_of

if TYPE_CHECKING:
    from nearfar.sources.data import Data

Progress = Callable[[int, int], None]


def give_back_memory() -> None:
    """Hands what was freed back to the system: many small texts leave holes that the C library would keep."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim is not None:
        trim(0)


class Embedder:
    """embed(role, rows) -> float32 (n, d), unit length (unless similarity is "dot"). `progress` is told (done, all)
    after each batch.

    A role that has no tower of its own (`text_b` of one shared text encoder) takes the tower of its kind. variant:
    which of the vectors of one input it gives, where the model has several; a role that has none of that name gives its
    only one. inference: what the model answers beside vectors, or None.
    """

    def __init__(
        self,
        towers: Mapping[str, Tower],
        data: Data,
        *,
        batch_size: int = 256,
        similarity: str = "cosine",
        device: torch.device | str = "cpu",
        variant: str | None = None,
        inference: Any = None,
    ):
        if variant is not None:
            check_variant(variant, towers)
        self.variant, self._inference = variant, inference
        self.towers, self.data, self.batch_size = towers, data, batch_size
        self.similarity, self.device = similarity, torch.device(device)
        self.readers: dict[str, Reader] = {}
        self.progress: Progress = lambda done, all_: None

    @property
    def inference(self) -> Any:
        return self._inference

    @property
    def size(self) -> int | None:
        """The side of the images that an encoder takes, or None."""
        return next((size for t in self.towers.values() if (size := getattr(t.encoder, "size", None))), None)

    def tower(self, role: str) -> Tower:
        if self.variant is not None and f"{role}/{self.variant}" in self.towers:
            return self.towers[f"{role}/{self.variant}"]
        if role in self.towers:
            return self.towers[role]
        kind = modalities.of(role)
        alike = [r for r in self.towers if modalities.of(r) is kind]
        mine = [r for r in alike if r.partition("/")[2] == (self.variant or "")]
        found = next((self.towers[r] for r in [*mine, *alike]), None)
        if found is None:
            raise InputError(f"The model has no encoder for '{role}': it embeds {', '.join(self.towers)}.",
                             "Take data of that kind, or another model.")  # fmt: skip
        return found

    def has(self, role: str) -> bool:
        return modalities.of(role).name in modalities.kinds(self.towers)

    def __call__(self, role: str, rows: np.ndarray) -> np.ndarray:
        tower = self.tower(role)
        if role not in self.readers:
            self.readers[role] = modalities.of(role).reader(self.data, role, tower.encoder)
        return self._read(tower, self.readers[role], np.asarray(rows))

    def raw(self, role: str, rows: np.ndarray) -> np.ndarray:
        """As calling it, without bringing the vectors to length 1."""
        plain = copy.copy(self)
        plain.similarity = "dot"
        return plain(role, rows)

    def of_variant(self, name: str) -> Embedder:
        """The same model, giving its vectors of that name; itself where it gives none of it."""
        if name not in variants_of(self.towers):
            return self
        other = copy.copy(self)
        other.variant, other.readers = name, {}
        return other

    def blocks(self, role: str) -> tuple[int, ...]:
        """The widths of the vectors that stand side by side in one; empty where there is one alone."""
        return self.tower(role).blocks

    def rows(self, role: str, rows: np.ndarray) -> np.ndarray:
        """As calling it, for a few rows of many: of the other rows nothing is prepared."""
        kind, tower = modalities.of(role), self.tower(role)
        if kind.by_rows:
            return self(role, rows)
        return self._read(tower, kind.reader_at(self.data, role, rows, tower.encoder), np.arange(len(rows)))

    def maps(self, role: str, rows: np.ndarray, layer: int | None = None) -> Iterator[np.ndarray]:
        """Feature maps float32 (n, C, h, w) of the rows, batch after batch; see `ImageEncoder.feature_map`.

        Raises InputError for an encoder that has none.
        """
        for found in self._mapped(role, rows, lambda encoder, x: encoder.feature_map(x, layer)):
            yield found.float().cpu().numpy()

    def with_maps(self, role: str, rows: np.ndarray, layers: Sequence[int]) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Vectors (n, d), as the encoder gives them, and maps (n, C, h, w) after some layers, batch after batch, on the
        model's device; see `ImageEncoder.with_maps`. Raises InputError for an encoder that has none."""
        yield from self._mapped(role, rows, lambda encoder, x: encoder.with_maps(x, layers))

    def _mapped(self, role: str, rows: np.ndarray, look: Callable[[Any, Any], Any]) -> Iterator[Any]:
        tower, rows = self.tower(role), np.asarray(rows)
        encoder: Any = unfrozen(tower.encoder)
        if not hasattr(encoder, "feature_map"):
            raise InputError("This encoder gives vectors only, no feature map.", "Choose another --task.")
        ready = modalities.of(role).reader(self.data, role, encoder).ready
        for i in range(0, len(rows), self.batch_size):
            part = rows[i : i + self.batch_size]
            with evaluating(tower), torch.inference_mode():
                found = look(encoder, ready(part).to(self.device))
            self.progress(i + len(part), len(rows))
            yield found

    def corpus(self, role: str) -> np.ndarray:
        """The documents of a corpus, (m, d)."""
        return self.items(role, self.data.corpus[role])

    def items(self, role: str, items: Any) -> np.ndarray:
        """Vectors of items that are in no table, as `Modality.items` gives them, (n, d)."""
        tower = self.tower(role)
        return self._read(tower, modalities.of(role).reader_of(items, tower.encoder), np.arange(len(items)))

    def check_whole(self, role: str, items: Any) -> None:
        """Raises InputError for an item of which the encoder would read a part alone."""
        modalities.of(role).check_whole(items, self.tower(role).encoder)

    def _read(self, tower: Tower, reader: Reader, rows: np.ndarray) -> np.ndarray:
        """Items of some rows, those of like lengths together."""
        if reader.lengths is None:
            return self._batches(tower, len(rows), lambda s: reader.ready(rows[s]), reader.together)
        order = np.argsort(reader.lengths[rows], kind="stable")
        z = self._batches(tower, len(rows), lambda s: reader.ready(rows[order[s]]))
        out = np.empty_like(z)
        out[order] = z
        return out

    def _batches(self, tower: Tower, n: int, load: Callable[[slice], Any], together: int | None = None) -> np.ndarray:
        parts, size = [], together or self.batch_size
        with evaluating(tower), torch.inference_mode():
            for i in range(0, n, size):
                x = load(slice(i, min(i + size, n)))
                z = tower.embed(x.to(self.device)).float()
                if self.similarity == "cosine":
                    z = torch.nn.functional.normalize(z, dim=1)
                parts.append(z.cpu().numpy())
                self.progress(i + len(parts[-1]), n)
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
