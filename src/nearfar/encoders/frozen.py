"""A pretrained encoder that is not trained: its features are made once and kept."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar import files
from nearfar.encoders.base import Encoder


class Frozen(Encoder):
    """An encoder in evaluation mode without gradients; `features` computes each item's vector once.

    A head trained on those features learns in minutes what training the encoder would take hours for.
    """

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.modality, self.dim = encoder.modality, encoder.dim  # pyright: ignore[reportAttributeAccessIssue]
        self.pretrained, self.joint = encoder.pretrained, encoder.joint

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        self.encoder.eval()
        return self

    @torch.no_grad()
    def forward(self, x: Any) -> Tensor:
        return self.encoder(x)

    def prepare(self, items: Any) -> Any:
        return self.encoder.prepare(items)

    def config(self) -> dict[str, Any]:
        return self.encoder.config() | {"frozen": True}

    def save_files(self, folder: Path) -> None:
        self.encoder.save_files(folder)

    @property
    def special(self) -> Any:
        """The special ids of a text encoder."""
        return self.encoder.special

    @property
    def size(self) -> Any:
        """The side of an image encoder's images."""
        return self.encoder.size

    def encode_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Content ids of each text (text encoders)."""
        return self.encoder.encode_ids(texts)  # pyright: ignore[reportCallIssue]

    def build(self, rows: Sequence[Sequence[int]]) -> Any:
        """Lists of content ids -> Tokens (text encoders)."""
        return self.encoder.build(rows)  # pyright: ignore[reportCallIssue]

    def hash(self) -> str:
        """Hex digest of all that makes a vector: weights, preprocessing, pooling, length, prompt, tokenizer."""
        described = {name: value for name, value in self.encoder.config().items() if name != "source"}
        digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
        tensors = dict(self.encoder.named_parameters()) | dict(self.encoder.named_buffers())
        for name, value in sorted(tensors.items()):
            digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        with tempfile.TemporaryDirectory() as folder:
            self.encoder.save_files(Path(folder))
            for file in sorted(Path(folder).rglob("*")):
                if file.is_file():
                    digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()[:32]

    def features(
        self,
        items: Sequence[Any] | np.ndarray,
        cache: str | Path | None = None,
        key: str = "",
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """float32 (n, dim) of all items, in their order.

        cache: a folder; the features are stored there under the encoder's hash and `key` and read back the next time.
        key: names the items (a hash of the data and the role); without it nothing is stored.
        progress: called with (done, all) after each batch.
        """
        if cache is None or not key:
            return self._compute(items, batch_size, progress)
        path = Path(cache) / f"features-{self.hash()}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
        stored = files.load_array(path)  # None where it is not whole: then it is made again
        if stored is not None and stored.shape == (len(items), self.dim):
            return np.asarray(stored)
        made = self._compute(items, batch_size, progress)
        with files.writing(path):
            files.save_array(path, made)
        return made

    @torch.no_grad()
    def _compute(
        self, items: Sequence[Any] | np.ndarray, batch_size: int, progress: Callable[[int, int], None] | None
    ) -> np.ndarray:
        from nearfar.encoders.batches import vectors

        return vectors(self, items, batch_size, progress)


def unfrozen(encoder: Any) -> Any:
    """The encoder within a frozen one, or the encoder itself."""
    return encoder.encoder if isinstance(encoder, Frozen) else encoder
