"""Proxy: another look of an item finds the item, where nothing is known about who belongs together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nearfar import modalities as kinds
from nearfar.evaluation.relevance import same
from nearfar.evaluation.search_task import SearchTask
from nearfar.evaluation.searches import Search, Side
from nearfar.evaluation.task import first_roles, register

if TYPE_CHECKING:
    from nearfar.sources.data import Data


@register
class ProxyTask(SearchTask):
    """Nothing is known about who belongs together: find an item by another look of itself. Names no winner."""

    proxy = True

    def __init__(self, data: Data, *, modalities: Sequence[str] | None = None):
        super().__init__(data)
        self.role = str(looked_at(data, modalities))
        self.roles = (self.role,)

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        return looked_at(data, modalities) is not None

    @classmethod
    def priority(cls, data: Data) -> int:
        return 0

    def searches(self, split: str) -> list[Search]:
        rows = self.rows(split)
        contents = np.asarray(self.data.content(self.role))
        rows = np.sort(rows[np.unique(contents[rows], return_index=True)[1]])
        asked = self.draw(rows)
        return [
            Search(
                "another look → itself",
                Side(self.role, asked, kinds.of(self.role).other_look),
                Side(self.role, rows),
                len(rows),
                same(asked, rows),
                None,
                asked,
            )
        ]

    def describe(self) -> str:
        return (
            f"PROXY: the data hold no labels, groups or pairs, so each {self.role} is searched by a transformed "
            "look of itself (hit@1). It shows what an encoder ignores, not what it understands; no winner "
            "is named."
        )


def looked_at(data: Data, modalities: Sequence[str] | None) -> str | None:
    """The first column of items of a kind that has another look."""
    return next((role for role in first_roles(data, modalities) if kinds.of(role).has_other_look), None)
