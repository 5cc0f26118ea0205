"""Groups: find another member, where rows have a domain in another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nearfar.errors import InputError
from nearfar.evaluation.relevance import same, union
from nearfar.evaluation.search_task import SearchTask
from nearfar.evaluation.searches import Search, Side
from nearfar.evaluation.task import first_role, register

if TYPE_CHECKING:
    from nearfar.sources.data import Data


@register
class GroupTask(SearchTask):
    """Find another member of the group; where groups span domains, in another domain: every ordered pair of them, or
    those that `data.meta["directions"][split]` lists."""

    def __init__(self, data: Data, *, modalities: Sequence[str] | None = None):
        super().__init__(data)
        self.role = str(first_role(data, modalities))
        self.roles = (self.role,)

    @classmethod
    def possible(cls, data: Data, modalities: Sequence[str] | None = None) -> bool:
        role = first_role(data, modalities)
        return role is not None and data.groups is not None and differ_within(data.groups, data.content(role))

    @classmethod
    def priority(cls, data: Data) -> int:
        """Before pairs where groups span domains: the question is then who finds the same thing elsewhere."""
        return 45 if spanning(data) else 30

    def searches(self, split: str) -> list[Search]:
        rows = self.one_group_a_unit(self.rows(split))
        if not spanning(self.data):
            return [self._within(rows)]
        domains = np.asarray(self.data.domains)[rows]
        present = [int(domain) for domain in np.unique(domains) if domain >= 0]
        if len(present) < 2:
            return [self._within(rows)]
        names = self.data.domain_names
        outlines = [set(pair) for pair in self.data.meta.get("shared_outline", [])]
        wanted = (self.data.meta.get("directions") or {}).get(split)
        found = [
            self._across(
                rows[domains == a], rows[domains == b], f"{names[a]} → {names[b]}", {names[a], names[b]} in outlines
            )
            for a in present
            for b in present
            if a != b and (wanted is None or [names[a], names[b]] in wanted)
        ]
        found = [search for search in found if search.relevant.counts.any()]
        if not found:
            raise InputError(
                f"No group of the {split} split has members in two domains.", "Check the group and domain columns."
            )
        return found

    def describe(self) -> str:
        if not spanning(self.data):
            return (
                f"Retrieval of another {self.role} of the same group: hit@1 (is the nearest other item of the "
                "group?). Copies of the query are hidden."
            )
        pairs = "chosen pairs" if self.data.meta.get("directions") else "every ordered pair"
        return (
            f"Retrieval of the same thing in another domain, for things never trained on: hit@1 by {self.role}, "
            f"mean over {pairs} of {', '.join(self.data.domain_names)}. Of the groups that form one unit (variants "
            "of one another), the first stands for all."
        )

    def one_group_a_unit(self, rows: np.ndarray) -> np.ndarray:
        """Rows of the first group (by row order) of each unit: near-copies of one unit would make misses unfair."""
        groups, units = np.asarray(self.data.groups)[rows], self.units(rows)
        rows, units, groups = rows[groups >= 0], units[groups >= 0], groups[groups >= 0]
        first = np.unique(units, return_index=True)[1]
        return rows[np.isin(groups, groups[first])]

    def _within(self, rows: np.ndarray) -> Search:
        groups, contents = np.asarray(self.data.groups), np.asarray(self.data.content(self.role))
        asked = self.draw(rows)
        return Search(
            f"{self.role} → {self.role}",
            Side(self.role, asked),
            Side(self.role, rows),
            len(rows),
            same(groups[asked], groups[rows]),
            same(contents[asked], contents[rows]),
            groups[asked],
        )

    def _across(self, query: np.ndarray, gallery: np.ndarray, name: str, shared: bool) -> Search:
        groups, query = np.asarray(self.data.groups), self.draw(query)
        contents = np.asarray(self.data.content(self.role))
        return Search(
            name,
            Side(self.role, query),
            Side(self.role, gallery),
            len(gallery),
            same(groups[query], groups[gallery]),
            union([same(contents[query], contents[gallery])]),
            self.units(query),
            shared,
        )


def spanning(data: Data) -> bool:
    """Whether any group has members in two domains: documents in one language each have not."""
    return data.groups is not None and data.domains is not None and differ_within(data.groups, data.domains)


def differ_within(groups: np.ndarray, contents: np.ndarray) -> bool:
    """Whether any group has two different contents: copies of one text find each other without any learning."""
    groups, contents = np.asarray(groups), np.asarray(contents)
    return len(np.unique(np.stack([groups, contents], 1), axis=0)) > len(np.unique(groups))
