"""Embeds rows of data with the towers of a method or a saved model, in evaluation mode and in batches."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nearfar.encoders import Frozen, frame
from nearfar.errors import InputError
from nearfar.methods.base import Tower
from nearfar.models import check_variant
from nearfar.training.loading import TokenStore

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
        data: Any,
        *,
        size: int,
        batch_size: int = 256,
        similarity: str = "cosine",
        device: torch.device | str = "cpu",
        variant: str | None = None,
        inference: Any = None,
    ):
        if variant is not None:
            check_variant(variant, sorted({role.partition("/")[2] for role in towers} - {""}))
        self.variant, self._inference = variant, inference
        self.towers, self.data, self.size, self.batch_size = towers, data, size, batch_size
        self.similarity, self.device = similarity, torch.device(device)
        self.stores: dict[str, TokenStore] = {}
        self.progress: Progress = lambda done, all_: None

    @property
    def inference(self) -> Any:
        return self._inference

    def tower(self, role: str) -> Tower:
        if self.variant is not None and f"{role}/{self.variant}" in self.towers:
            return self.towers[f"{role}/{self.variant}"]
        if role in self.towers:
            return self.towers[role]
        kind = role.split("_")[0]
        alike = [r for r in self.towers if r.partition("/")[0].split("_")[0] == kind]
        mine = [r for r in alike if r.partition("/")[2] == (self.variant or "")]
        found = next((self.towers[r] for r in [*mine, *alike]), None)
        if found is None:
            raise InputError(f"The model has no encoder for '{role}': it embeds {', '.join(self.towers)}.",
                             "Take data of that kind, or another model.")
        return found

    def has(self, role: str) -> bool:
        kinds = {r.partition("/")[0].split("_")[0] for r in self.towers}
        return role in self.towers or role.split("_")[0] in kinds

    def __call__(self, role: str, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows)
        tower = self.tower(role)
        if role.startswith("image"):
            pictures = self.data.image_memmap(role, self.size)
            return self._batches(tower, len(rows), lambda s: torch.from_numpy(pictures[rows[s]]).float() / 255)
        if role not in self.stores:
            self.stores[role] = self._store(tower, self.data.texts(role))
        return self._texts(tower, self.stores[role], rows)

    def raw(self, role: str, rows: np.ndarray) -> np.ndarray:
        """As calling it, without bringing the vectors to length 1."""
        plain = copy.copy(self)
        plain.similarity = "dot"
        return plain(role, rows)

    def rows(self, role: str, rows: np.ndarray) -> np.ndarray:
        """As calling it, for a few rows of many: of the other rows nothing is read."""
        return self(role, rows) if role.startswith("image") else self.items(role, self.data.texts(role, rows))

    def maps(self, role: str, rows: np.ndarray, layer: int | None = None) -> Iterator[np.ndarray]:
        """Feature maps float32 (n, C, h, w) of the rows, batch after batch; see `ImageEncoder.feature_map`.

        Raises InputError for an encoder that has none.
        """
        tower, pictures, rows = self.tower(role), self.data.image_memmap(role, self.size), np.asarray(rows)
        encoder: Any = tower.encoder.encoder if isinstance(tower.encoder, Frozen) else tower.encoder
        if not hasattr(encoder, "feature_map"):
            raise InputError("This encoder gives vectors only, no feature map.", "Choose another --task.")
        mode = tower.training
        for i in range(0, len(rows), self.batch_size):
            tower.eval()
            x = torch.from_numpy(pictures[rows[i : i + self.batch_size]]).float() / 255
            with torch.inference_mode():
                found = encoder.feature_map(x.to(self.device), layer).float().cpu().numpy()
            tower.train(mode)
            self.progress(i + len(found), len(rows))
            yield found

    def corpus(self, role: str) -> np.ndarray:
        """The documents of a corpus, (m, d)."""
        texts = self.data.corpus[role]
        return self._texts(self.tower(role), self._store(self.tower(role), texts), np.arange(len(texts)))

    def items(self, role: str, items: Any) -> np.ndarray:
        """Vectors of uint8 pictures (n, 3, h, w) or of texts that are in no table, (n, d)."""
        tower = self.tower(role)
        if role.startswith("image"):
            encoder: Any = tower.encoder
            return self._batches(tower, len(items), lambda s: encoder.prepare(items[s]))
        return self._texts(tower, self._store(tower, items), np.arange(len(items)))

    def _store(self, tower: Tower, texts: Sequence[str]) -> TokenStore:
        encoder: Any = tower.encoder
        return TokenStore(encoder.encode_ids(list(texts)), encoder.special.length - encoder.special.frame)

    def _texts(self, tower: Tower, store: TokenStore, rows: np.ndarray) -> np.ndarray:
        order = np.argsort((store.starts[rows + 1] - store.starts[rows]), kind="stable")
        encoder: Any = tower.encoder
        z = self._batches(tower, len(rows), lambda s: frame(store.read(rows[order[s]]), encoder.special))
        out = np.empty_like(z)
        out[order] = z
        return out

    def _batches(self, tower: Tower, n: int, load: Callable[[slice], Any]) -> np.ndarray:
        mode = tower.training
        tower.eval()
        parts = []
        try:
            with torch.inference_mode():
                for i in range(0, n, self.batch_size):
                    x = load(slice(i, min(i + self.batch_size, n)))
                    z = tower.embed(x.to(self.device)).float()
                    if self.similarity == "cosine":
                        z = torch.nn.functional.normalize(z, dim=1)
                    parts.append(z.cpu().numpy())
                    self.progress(i + len(parts[-1]), n)
        finally:
            tower.train(mode)
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
