"""A saved model as an embedder of rows of data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nearfar.training.embedding import Embedder

if TYPE_CHECKING:
    from nearfar.sources.data import Data


class ModelEmbedder(Embedder):
    """embed(role, rows) with the towers of a model that was loaded from its folder."""

    def __init__(self, model: Any, data: Data, batch_size: int = 256, variant: str | None = None):
        super().__init__(
            model.roles,
            data,
            batch_size=batch_size,
            similarity=model.config.get("similarity", "cosine"),
            variant=variant,
        )
        self.model = model

    @property
    def inference(self) -> Any:
        return self.model.inference  # restored when it is first asked for
