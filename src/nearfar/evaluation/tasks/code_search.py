"""Code search: find the code that a description asks for, among the code of its own language."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from nearfar.checks import PositiveInt
from nearfar.evaluation.task import register
from nearfar.evaluation.text_pair_task import Pool, TextPairTask

if TYPE_CHECKING:
    from nearfar.sources.data import Data


@register
class CodeSearchTask(TextPairTask):
    """Retrieval of the second column of texts by the first: mean reciprocal rank among a fixed pool of candidates, by
    language where rows name one (CodeSearchNet, Husain et al. 2019, sec. 4: 1,000 candidates).

    Args:
        pool: what a query is ranked among: all items of the split, or those of its own domain; auto: the latter where
            there are domains.
        candidates: at most so many rows of each pool, the same ones each time; or all.
    """

    beside = "hit@1"

    def __init__(
        self,
        data: Data,
        *,
        modalities: Sequence[str] | None = None,
        pool: Pool = "auto",
        candidates: PositiveInt | Literal["all"] = 1000,
    ):
        super().__init__(data, pool=pool, candidates=None if candidates == "all" else candidates)
        self.primary = "mrr"
