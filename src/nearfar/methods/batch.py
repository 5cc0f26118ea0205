"""What travels with every batch, and the facts of a run that "auto" may depend on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nearfar.errors import InputError, did_you_mean
from nearfar.similarity import ExcludedPairs, Known


@dataclass(frozen=True)
class Facts:
    """What the defaults called "auto" may depend on. `samples`: training rows; `items`: things to contrast (groups
    where several members are drawn); `steps`: optimiser steps of the whole run;
    `identity_kinds`: columns of `Batch.item_identities`;
    `classes`: names of the different classes of the target, as `Batch.targets` counts them; `domains`: of the domains,
    as `Batch.domains` counts them; `accumulate`: batches of a step."""

    samples: int
    items: int
    batch_size: int
    steps: int
    has_groups: bool = False
    identity_kinds: int = 0
    classes: Sequence[str] = ()
    domains: Sequence[str] = ()
    accumulate: int = 1

    @property
    def epoch(self) -> int:
        """Steps in which every item is seen once."""
        return max(1, self.items // (self.batch_size * self.accumulate))


FACTS = ("groups", "domains", "bags", "targets", "values", "negative_groups", "scores")


@dataclass
class Batch:
    """n items; with `members` > 1 the rows of each field are member-major: all first members, then all second...

    rows: sample ids (members n,); inputs: role -> what views take (uint8 images, Tokens...) or `Features`;
    content: role -> content ids;
    crossed: pairs of roles whose contents are compared with each other as well; negatives: content ids of each hard
    negative, (n,) each, -1 where an item has none; scores: of the pairs, (n,), or None; known: what belongs together by
    further rows of the data, as the two directions see it, or None.
    groups: (members n,) or None; labels: column -> (members n,), -1 = missing; domains: (members n,) or None.
    bags: (members n,), which bag a row belongs to, or None. targets: (members n,), the class that is to be told, of
    `Facts.classes`, -1 = missing; values: (members n,), the number that is, NaN = missing; None without such a target.
    views: role -> list of views.
    negative_groups: (n,) or None; an item's negatives come from its own group alone.
    step, steps: the optimiser step that it belongs to, and their number; accumulation_step, accumulation_steps: which
    batch of that step it is, of how many (more than one where gradients are accumulated). rank: of the process that
    holds it; everywhere: rows of this batch over all processes.
    """

    rows: Tensor
    inputs: dict[str, Any]
    content: dict[str, Tensor] = field(default_factory=dict)
    groups: Tensor | None = None
    labels: dict[str, Tensor] = field(default_factory=dict)
    members: int = 1
    step: int = 0
    steps: int = 1
    accumulation_step: int = 0
    accumulation_steps: int = 1
    rank: int = 0
    everywhere: int = 0
    seed: int = 0
    views: dict[str, list] = field(default_factory=dict)
    domains: Tensor | None = None
    bags: Tensor | None = None
    targets: Tensor | None = None
    values: Tensor | None = None
    negative_groups: Tensor | None = None
    crossed: Sequence[tuple[str, str]] = ()
    negatives: Sequence[Tensor] = ()
    scores: Tensor | None = None
    known: tuple[Known, Known] | None = None

    def __len__(self) -> int:
        return self.rows.shape[0] // self.members

    def to(self, device: torch.device | str) -> Batch:
        return dataclasses.replace(
            self,
            rows=self.rows.to(device),
            inputs=_to(self.inputs, device),
            content=_to(self.content, device),
            labels=_to(self.labels, device),
            **{name: None if x is None else x.to(device) for name, x in self._facts().items()},
            negatives=[ids.to(device) for ids in self.negatives],
            known=None if self.known is None else (self.known[0].to(device), self.known[1].to(device)),
        )

    def _facts(self) -> dict[str, Tensor | None]:
        """What is known of each row (negative groups: of each item), by the name of the field."""
        return {name: getattr(self, name) for name in FACTS}

    def part(self, rows: slice) -> Batch:
        """Some items with their views and all that is known of their rows, for encoding in micro-batches. Inputs that
        views were made from, and lists of what belongs to other items, stay behind."""
        items = torch.arange(len(self), device=self.rows.device)[rows]
        index = torch.cat([items + m * len(self) for m in range(self.members)])
        facts = {name: None if x is None else x[items if len(x) == len(self) else index]
                 for name, x in self._facts().items()}  # fmt: skip
        return dataclasses.replace(
            self,
            rows=self.rows[index],
            inputs={},
            content={role: ids[index] for role, ids in self.content.items()},
            labels={column: values[index] for column, values in self.labels.items()},
            views={role: [rows_of(x, rows) for x in views] for role, views in self.views.items()},
            negatives=[ids[items] for ids in self.negatives],
            known=None,
            **facts,
        )

    def generator(self) -> torch.Generator:
        """Random numbers of this step alone, so that a resumed run draws the same."""
        generator = torch.Generator(device=self.rows.device)
        generator.manual_seed(self.random_seed)
        return generator

    def common_generator(self, purpose: int = 0) -> torch.Generator:
        """Random numbers of this step that are the same on all processes, and are not those of the views; others for
        another purpose."""
        generator = torch.Generator(device=self.rows.device)
        generator.manual_seed((self.seed * 1_000_003 + self.number + ((1 << 10) + purpose << 40)) % (1 << 63))
        return generator

    @property
    def number(self) -> int:
        """Which batch of the run it is, from 0."""
        return self.step * self.accumulation_steps + self.accumulation_step

    @property
    def random_seed(self) -> int:
        """Another one for every batch of every process."""
        return (self.seed * 1_000_003 + self.number + (self.rank << 40)) % (1 << 63)

    @property
    def last_accumulation_step(self) -> bool:
        """Whether the optimiser steps after this batch."""
        return self.accumulation_step == self.accumulation_steps - 1

    @staticmethod
    def joined(parts: Sequence[Batch]) -> Batch:
        """The batches of one optimiser step as one, without their inputs and views."""
        first = parts[0]
        if len(parts) == 1:
            return first

        def join(values: Sequence[Tensor]) -> Tensor:
            members = first.members if len(values[0]) == len(first.rows) else 1
            return torch.cat([v.view(members, -1) for v in values], 1).reshape(-1)

        return dataclasses.replace(
            parts[-1],
            rows=join([p.rows for p in parts]),
            inputs={},
            content={k: join([p.content[k] for p in parts]) for k in first.content},
            **{k: None if x is None else join([getattr(p, k) for p in parts]) for k, x in first._facts().items()},
            labels={k: join([p.labels[k] for p in parts]) for k in first.labels},
            views={},
            negatives=(),
            known=None,
        )

    def identities(self, further: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """What makes two items no negatives of each other, where it is equal: one group, or any equal content. Of each
        kind the value of an item as an anchor and as a candidate, (n,) each, -1 where unknown.

        further: content ids of candidates of the last role that follow the items, (m,).
        """
        n, partner = len(self), next(reversed(self.content), "")

        def candidates(values: Tensor, role: str) -> Tensor:
            if further is None:
                return values
            return torch.cat([values, further if role == partner else torch.full_like(further, -1)])

        kinds = [] if self.groups is None else [(self.groups[:n], candidates(self.groups[:n], ""))]
        for a, b in [*((role, role) for role in self.content), *self.crossed]:
            kinds += [(x, candidates(y, b)) for x in self.content[a].split(n) for y in self.content[b].split(n)]
        return kinds

    @property
    def partner_kind(self) -> int:
        """Which of the `identities` holds the content of the candidates' role."""
        return int(self.groups is not None) + len(self.content) - 1

    def item_identities(self) -> Tensor:
        """(n, kinds): the `identities` of the items as anchors."""
        return self._stacked([row for row, _ in self.identities()])

    def key_identities(self) -> Tensor:
        """(n, kinds): the `identities` of the items as candidates."""
        return self._stacked([column for _, column in self.identities()])

    def _stacked(self, kinds: list[Tensor]) -> Tensor:
        return torch.stack(kinds, 1) if kinds else self.rows.new_full((len(self), 0), -1)

    def excluded(self) -> ExcludedPairs:
        """Items of the batch that are no negatives of each other: equal in one of the `identities`, or known to belong
        together by other rows."""
        return ExcludedPairs(self.identities(), self.known)

    def excluded_with_negatives(self) -> ExcludedPairs:
        """`excluded` where the hard negatives follow the items as candidates, each known by its content alone."""
        further, known = torch.cat(list(self.negatives)), self.known
        if known is not None:
            known = Known(known[0].flat, known[0].starts, torch.cat([known[0].columns, further])), known[1]
        return ExcludedPairs(self.identities(further), known)

    def missing_negatives(self) -> tuple[Tensor, Tensor]:
        """A kind of identity that hides from every anchor the places of hard negatives that are not there."""
        anchors = self.rows.new_zeros(len(self))
        return anchors, torch.cat([anchors - 1, torch.where(torch.cat(list(self.negatives)) < 0, 0, -1)])

    def extra_positives(self, kind: str) -> Tensor | None:
        """(n,) integers, equal for items that are positives of each other, -1 where unknown; None: no such pair.

        kind: "group", the name of a column of labels, or "auto": the first column of labels, else the groups.
        """
        n = len(self)
        if kind == "auto":
            kind = next(iter(self.labels), "group")
        elif kind != "group" and kind not in self.labels:
            raise InputError(
                f"There is no column of labels '{kind}'.{did_you_mean(kind, list(self.labels))}",
                f"Known: {', '.join(['group', *self.labels])}. Name columns of labels with --label.",
            )
        values = self.groups if kind == "group" else self.labels[kind]
        return None if values is None else values[:n]

    def masked_share(self, further: Sequence[tuple[Tensor, Tensor]] = ()) -> float:
        """The share of pairs of different items that are hidden from each other. further: kinds beside the
        `identities`."""
        n = min(len(self), 2048)
        if n < 2:
            return 0.0
        same = torch.zeros(n, n, dtype=torch.bool, device=self.rows.device)
        for a, b in [*self.identities(), *further]:
            same |= (a[:n, None] == b[None, :n]) & (a[:n, None] >= 0)
        if self.known is not None:
            row, column = self.known[0].among(self.known[0].columns, torch.arange(len(self))).pairs(slice(0, n))
            same[row[column < n], column[column < n]] = True
        same.fill_diagonal_(False)
        return float(same.sum()) / (n * (n - 1))


def _to(values: Mapping[str, Any], device: torch.device | str) -> dict[str, Any]:
    return {k: [x.to(device) for x in v] if isinstance(v, list) else v.to(device) for k, v in values.items()}


def rows_of(x: Any, rows: slice) -> Any:
    """Some rows of an input: of a tensor, or of each field of a tuple of them that is there."""
    if not isinstance(x, tuple):
        return x[rows]
    made: Any = type(x)
    return made(*(None if field is None else field[rows] for field in x))


def by_member(x: Any, members: int) -> list[Any]:
    """Member-major rows -> one batch a member."""
    if members == 1:
        return [x]
    n = len(x if isinstance(x, Tensor) else x[0]) // members
    return [rows_of(x, slice(k * n, (k + 1) * n)) for k in range(members)]
