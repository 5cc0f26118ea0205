"""A model as MTEB asks for one: texts in, vectors out, the first tower for queries and the second for documents.

Source: the encoder protocol of the package `mteb` (2.x), the Massive Text Embedding Benchmark (Muennighoff et al., EACL
    2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from nearfar.errors import InputError, install

if TYPE_CHECKING:
    from nearfar.models import Model


class MtebEncoder:
    """What `mteb.evaluate` takes, around a model with a tower of texts.

    name: "owner/name" under which MTEB stores results.
    """

    def __init__(self, model: Model, name: str):
        parts = name.split("/")
        if len(parts) != 2 or not all(part.strip() for part in parts):
            raise InputError(f"MTEB names a model by its owner and its name. Got {name!r}.", "Write owner/name.")
        self.model, self.name, self.first = model, name, model.role_of("text")

    def role(self, prompt_type: Any = None) -> str:
        """The tower of a text: that of documents where the model has a second one for texts."""
        second = "text_b"
        is_document = str(getattr(prompt_type, "value", prompt_type)) == "document"
        return second if is_document and second in self.model.roles else self.first

    def encode(
        self, inputs: Iterable[Mapping[str, Any]], *, prompt_type: Any = None, batch_size: int = 64, **others: Any
    ) -> np.ndarray:
        """float32 (n, d) of batches that hold lists of texts under "text". others: what MTEB says besides (the task,
        its split...), which changes nothing."""
        texts = [text for batch in inputs for text in self._texts(batch)]
        if not texts:
            return np.zeros((0, self.model.dim), np.float32)
        return self.model.embed(texts, self.role(prompt_type), batch_size)

    def _texts(self, batch: Mapping[str, Any]) -> list[str]:
        if "text" not in batch:
            raise InputError(
                f"This model embeds texts; the task gives {', '.join(map(str, batch))}.", "Choose tasks of texts."
            )
        return list(batch["text"])

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """(n, m): cosines, or inner products where the model compares by them; one vector counts as (1, d)."""
        a, b = self._vectors(embeddings1), self._vectors(embeddings2)
        return a @ b.T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """(n,) of equal places."""
        return (self._vectors(embeddings1) * self._vectors(embeddings2)).sum(1)

    def _vectors(self, embeddings: Any) -> Tensor:
        found = torch.atleast_2d(torch.as_tensor(embeddings).float())
        return normalize(found, dim=1) if self.model.similarity == "cosine" else found

    @property
    def mteb_model_meta(self) -> Any:
        """MTEB's description of the model: name, hash as the revision, width."""
        try:
            from mteb.models.model_meta import ModelMeta  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise InputError("MTEB is not installed.", install("mteb")) from error
        return ModelMeta.create_empty(
            {
                "name": self.name,
                "revision": self.model.hash or "unsaved",
                "embed_dim": self.model.dim or None,
                "similarity_fn_name": "cosine" if self.model.similarity == "cosine" else "dot",
                "framework": ["PyTorch"],
            }
        )
