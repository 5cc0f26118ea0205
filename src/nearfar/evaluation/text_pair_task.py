"""Tasks that find the other text of a pair within its own domain: the code of one language, one pair of languages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from nearfar.evaluation.task import pair_of
from nearfar.evaluation.tasks.pairs import PairTask

if TYPE_CHECKING:
    from nearfar.sources.data import Data

Pool = Literal["auto", "all", "domain"]


class TextPairTask(PairTask):
    """`PairTask` of two columns of texts; only where asked for. pool: auto is domain where there are domains."""

    needs = "It needs two columns of texts, and no corpus: --text COLUMN --text-b COLUMN."

    def __init__(self, data: Data, *, pool: Pool, **options: Any):
        chosen = pool if pool != "auto" else "all" if data.domains is None else "domain"
        super().__init__(data, modalities=("text",), pool=chosen, **options)

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        known = modalities is None or "text" in modalities
        return known and pair_of(data, ("text",)) is not None and not any(data.corpus.values())

    @classmethod
    def priority(cls, data: Data) -> int | None:
        return None
