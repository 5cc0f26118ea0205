"""A tower as a function of plain tensors: prepared input in, final vector out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.encoders import SmallText, Tokens, unfrozen
from nearfar.encoders.texts import mean_pool
from nearfar.errors import InputError
from nearfar.methods.tower import Tower

OUTPUT = "vectors"
NAMES = {"image": "pixels", "vector": "numbers"}
INSTEAD = "--to safetensors writes its weights as they are."


class Graph(nn.Module):
    """Input -> encoder -> pooling -> kept head -> length 1 where the model compares by cosine.

    names: of the inputs. axes: of each input, which are free. `feed` makes arrays of items, `draw` random ones.
    """

    names: tuple[str, ...]
    axes: dict[str, dict[int, str]]

    def __init__(self, tower: Tower, normalised: bool):
        super().__init__()
        self.tower, self.normalised = tower, normalised
        self.eval()

    def finished(self, vectors: Tensor) -> Tensor:
        if not self.normalised:
            return vectors
        return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-12)

    def feed(self, items: Sequence[Any]) -> dict[str, np.ndarray]:
        """Items as the arrays that the graph takes."""
        raise NotImplementedError

    def draw(self, rng: np.random.Generator) -> Iterator[dict[str, np.ndarray]]:
        """Random inputs of several shapes; the first one is what the graph is traced with."""
        raise NotImplementedError

    @torch.no_grad()
    def run(self, feed: dict[str, np.ndarray]) -> np.ndarray:
        """What torch gives for such arrays."""
        return self(*(torch.from_numpy(feed[name]) for name in self.names)).numpy()


class TextGraph(Graph):
    """Token ids int64 (n, L) and their mask int64 (n, L) -> (n, dim). L is free, up to the encoder's length."""

    names = ("input_ids", "attention_mask")

    def __init__(self, tower: Tower, normalised: bool):
        super().__init__(tower, normalised)
        self.special = tower.encoder.special
        free = {0: "batch"} if self.special.fill else {0: "batch", 1: "length"}
        self.axes = dict.fromkeys(self.names, free)
        encoder = unfrozen(tower.encoder)
        self.table = _table(encoder) if isinstance(encoder, SmallText) else None

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        if self.table is None:
            return self.finished(self.tower.embed(Tokens(ids, mask.bool())))
        pooled = mean_pool(self.table(ids), mask.bool())
        return self.finished(self.tower.project(pooled) if self.tower.kept else pooled)

    def feed(self, items: Sequence[Any]) -> dict[str, np.ndarray]:
        x = self.tower.encoder.prepare(list(items))
        return {"input_ids": x.ids.numpy(), "attention_mask": x.mask.long().numpy()}

    def draw(self, rng: np.random.Generator) -> Iterator[dict[str, np.ndarray]]:
        most = self.special.length
        for n, length in ((3, 9), (1, 3), (7, 24), (2, min(most, 512))):
            width = most if self.special.fill else max(self.special.frame + 1, min(length, most))
            ends = rng.integers(self.special.frame + 1, width + 1, (n, 1))
            ends[0] = width
            ends[-1] = width if n == 1 else max(1, width - 2)  # some padding, so that a trace meets the mask
            mask = np.ones((n, width), bool) if self.special.fill else np.arange(width) < ends
            ids = np.where(mask, rng.integers(0, self.special.size, (n, width)), self.special.pad)
            if self.special.bos is not None:
                ids[:, 0] = self.special.bos
            if self.special.eos is not None:
                np.put_along_axis(ids, mask.sum(1, keepdims=True) - 1, self.special.eos, 1)
            yield {"input_ids": ids.astype(np.int64), "attention_mask": mask.astype(np.int64)}


class PlainGraph(Graph):
    """Images float (n, 3, size, size) in [0, 1], or rows of numbers float (n, d), NaN where one is empty."""

    def __init__(self, tower: Tower, normalised: bool):
        super().__init__(tower, normalised)
        encoder = tower.encoder
        self.names = (NAMES[encoder.modality],)
        self.axes = {self.names[0]: {0: "batch"}}
        self.shape = (3, encoder.size, encoder.size) if encoder.modality == "image" else (encoder.inputs,)

    def forward(self, x: Tensor) -> Tensor:
        return self.finished(self.tower.embed(x))

    def feed(self, items: Sequence[Any]) -> dict[str, np.ndarray]:
        return {self.names[0]: self.tower.encoder.prepare(list(items)).numpy()}

    def draw(self, rng: np.random.Generator) -> Iterator[dict[str, np.ndarray]]:
        for n in (2, 1, 5):
            x = rng.random((n, *self.shape), np.float32)
            if self.names[0] == "numbers":
                x = np.where(rng.random(x.shape) < 0.1, np.nan, self._spread(x)).astype(np.float32)
            yield {self.names[0]: x}

    def _spread(self, x: np.ndarray) -> np.ndarray:
        """Numbers like those of the training rows, from numbers in [0, 1]."""
        encoder: Any = self.tower.encoder
        inner = unfrozen(encoder)
        mean, std = (getattr(inner, name, None) for name in ("mean", "std"))
        return x if mean is None or std is None else (4 * x - 2) * std.numpy() + mean.numpy()


def graph_of(role: str, tower: Tower, similarity: str) -> Graph:
    """The tower of a role as a graph. Raises InputError, which names the part, for an input that is no array of fixed
    meaning: a graph's nodes, a user's history, a dialogue."""
    encoder = tower.encoder
    inner = unfrozen(encoder)
    part = f"The tower '{role}' ({type(inner).__name__}) cannot be exported as a graph of tensors"
    if encoder.modality == "text":
        if not hasattr(inner, "tokenizer"):
            raise InputError(f"{part}: it has no tokenizer of its own that could stand beside it.", INSTEAD)
        return TextGraph(tower, similarity == "cosine")
    if encoder.modality in NAMES:
        return PlainGraph(tower, similarity == "cosine")
    reason = {
        "node": "the vector of a node is made of its neighbours, which lie in the data",
        "interactions": "its input is a history of items, whose numbers lie in the data",
    }.get(encoder.modality, f"inputs of the kind '{encoder.modality}' have no form in preprocessing.json")
    raise InputError(f"{part}: {reason}.", INSTEAD)


@torch.no_grad()
def _table(encoder: SmallText) -> nn.Embedding:
    """A text is the mean of one vector a token: these, once the MLP has been applied."""
    ids = torch.arange(encoder.special.size, device=encoder.device)
    return nn.Embedding.from_pretrained(encoder.vocabulary(ids))
