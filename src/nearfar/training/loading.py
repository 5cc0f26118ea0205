"""From rows on disk to batches. Each batch is a function of (seed, step) alone, so a resumed run sees the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nearfar import processes
from nearfar.methods.base import Method
from nearfar.methods.batch import Batch, Facts
from nearfar.samplers import Rows, Sampler
from nearfar.similarity import Known
from nearfar.sources import judgements

if TYPE_CHECKING:
    from nearfar.sources.data import Data

Inputs = Callable[[np.ndarray, np.random.Generator | None], Any]


class HardNegatives:
    """One hard negative for each row that has some.

    read: the inputs of rows; content: what each row gives, ids (N,), -1 for nothing. Without `apart` a row has its own.
    Else `apart` are the rows that do not belong to their first side, and a row draws one of those whose first side
    (`anchors`, ids (N,)) equals its own.
    """

    def __init__(
        self, read: Inputs, content: np.ndarray, anchors: np.ndarray | None = None, apart: np.ndarray | None = None
    ):
        self.read, self.content, self.anchors = read, content, anchors
        if anchors is not None and apart is not None:
            self.apart = apart[np.argsort(anchors[apart], kind="stable")]
            self.sorted = anchors[self.apart]

    def draw(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The row from which each row's negative is read, and its content id (-1 where there is none)."""
        if self.anchors is None:
            return rows, self.content[rows]
        first = np.searchsorted(self.sorted, self.anchors[rows])
        count = np.searchsorted(self.sorted, self.anchors[rows], side="right") - first
        place = first + (rng.random(len(rows)) * count).astype(np.int64)
        chosen = np.where(count > 0, self.apart[np.minimum(place, len(self.apart) - 1)], rows)
        return chosen, np.where(count > 0, self.content[chosen], -1)


class Partners:
    """Which contents belong together by the training rows: of each content of one role those of the other."""

    def __init__(self, mine: np.ndarray, others: np.ndarray):
        pairs = np.unique(np.stack([mine, others], 1), axis=0)
        self.mine, self.others = pairs[:, 0], pairs[:, 1]

    def lists(self, items: np.ndarray, columns: np.ndarray) -> Known:
        """The lists of some contents, beside the contents of the candidates."""
        first, last = np.searchsorted(self.mine, items), np.searchsorted(self.mine, items, side="right")
        count = last - first
        starts = np.concatenate([[0], np.cumsum(count)])
        flat = self.others[np.repeat(first - starts[:-1], count) + np.arange(starts[-1])]
        return Known(torch.from_numpy(flat), torch.from_numpy(starts), torch.from_numpy(columns))

    @property
    def crossed(self) -> bool:
        """Whether any pair has sides that both belong to further ones: then some false negatives are equal to no
        content of the anchor's own row."""
        often, seldom = (np.unique(side, return_inverse=True, return_counts=True) for side in (self.mine, self.others))
        return bool(((often[2][often[1]] > 1) & (seldom[2][seldom[1]] > 1)).any())


class Loader:
    """Batches from `start` to the last step, `accumulate` of them a step. Iterating again begins at `start` again. Of
    each batch, every one of the connected processes gets its own share of the items.

    The method is told before each step's batches are drawn (`before_draw`), and says at each stage which sampler draws.
    read: role -> how its inputs are read by sample ids; asked for once a role. draw: stage -> sampler, in place of the
    method's own.
    """

    negatives: Sequence[HardNegatives] = ()
    crossed: Sequence[tuple[str, str]] = ()
    partners: tuple[Partners, Partners] | None = None
    scores: Tensor | None = None
    sampler: Sampler

    def __init__(
        self,
        method: Method,
        data: Data,
        table: Rows,
        read: Callable[[str], Inputs],
        *,
        steps: int,
        batch_size: int,
        seed: int,
        accumulate: int = 1,
        draw: Callable[[int], Sampler] | None = None,
    ):
        self.method, self.table, self.read = method, table, cache(read)
        self.draw = draw or method.sampler
        self.steps, self.batch_size, self.seed, self.accumulate, self.start = steps, batch_size, seed, accumulate, 0
        self.roles = list(dict.fromkeys(method.reads))
        self.content = {r: _tensor(data.content(r)) for r in self.roles}
        self.groups, self.domains, self.bags = (_tensor(x) for x in (data.groups, data.domains, data.bags))
        self.labels = {k: _tensor(v) for k, v in data.labels.items()}
        self.targets, self.values = _tensor(data.targets), _tensor(data.target_values)
        self.negative_groups: Tensor | None = None
        self.stage = -1
        self.begin(0)

    def pair(self, data: Data, a: str, b: str, graded: bool = False) -> None:
        """Says that each row pairs the contents of two roles: which of them belong together, and how far."""
        rows = self.table.rows
        mine, others = (np.asarray(data.content(role)) for role in (a, b))
        if np.isin(mine[rows], others[rows]).any():
            self.crossed = ((a, b),)
        if graded:
            assert data.scores is not None
            self.scores = torch.from_numpy(judgements.scaled(data.scores))
            return
        forth = Partners(mine[rows], others[rows])
        if forth.crossed:
            self.partners = forth, Partners(others[rows], mine[rows])

    def __len__(self) -> int:
        """All batches of the run. With a length Lightning fetches none ahead of its step."""
        return self.steps * self.accumulate

    def __iter__(self) -> Iterator[Batch]:
        rank, world = processes.rank_and_world()
        for batch_index in range(self.start * self.accumulate, self.steps * self.accumulate):
            step, inside = divmod(batch_index, self.accumulate)
            if inside == 0:
                self.method.before_draw(step)
                self.begin(self.method.stage_of(step), (step - self.method.within(step)[0]) * self.accumulate)
            yield self.at(batch_index, rank, world)

    def begin(self, stage: int, since: int = 0) -> None:
        """Binds the sampler of a stage, whose first batch has the number `since`."""
        if stage == self.stage:
            return
        drawn = self.draw(stage).over(self.table, self.batch_size, self.seed, since)
        self.sampler, self.stage = drawn, stage
        self._inputs: dict[str, Inputs] | None = None
        self.negative_groups = None
        if drawn.negative_groups is not None:
            self.negative_groups = torch.full((int(self.table.rows.max()) + 1,), -1)
            self.negative_groups[torch.from_numpy(self.table.rows)] = torch.from_numpy(drawn.negative_groups)

    @property
    def inputs(self) -> dict[str, Inputs]:
        """Role -> how what the sampler gives is read."""
        if self._inputs is None:
            self._inputs = {role: self.sampler.reading(role, self.read) for role in self.roles}
        return self._inputs

    def at(self, batch_index: int, rank: int = 0, world: int = 1) -> Batch:
        """The batch of that number, or the share of it that the process `rank` of `world` takes."""
        rows = self.sampler.rows(batch_index)
        return self.batch(shared(rows, self.sampler.members, rank, world), batch_index, rank, len(rows))

    def batch(self, rows: np.ndarray, batch_index: int, rank: int = 0, everywhere: int = 0) -> Batch:
        """The batch of some rows (member-major), with the random numbers of that number."""
        own = [rank] if rank else []
        rng = np.random.default_rng([self.seed, batch_index, 7, *own])
        made: dict[str, Any] = {role: load(rows, rng) for role, load in self.inputs.items()}
        batch = dataclasses.replace(self.bare(rows, batch_index, rank, everywhere), inputs=made)
        if self.negatives:
            chance = np.random.default_rng([self.seed, batch_index, 11, *own])
            chosen = [one.draw(rows, chance) for one in self.negatives]
            made["negative"] = [one.read(drawn, rng) for one, (drawn, _) in zip(self.negatives, chosen, strict=True)]
            batch.negatives = [torch.from_numpy(ids) for _, ids in chosen]
        return batch

    def bare(self, rows: np.ndarray, batch_index: int = 0, rank: int = 0, everywhere: int = 0) -> Batch:
        """The batch of some rows without its inputs: content, groups, labels. Of items that are no rows, nothing."""
        index, members = torch.from_numpy(rows), self.sampler.members
        place = self.position(batch_index, rank, everywhere)
        place["everywhere"] = everywhere or len(rows)
        if not self.sampler.identified:
            return Batch(torch.full_like(index, -1), {}, members=members, **place)

        def of(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[index]

        return Batch(
            index,
            {},
            {r: c[index] for r, c in self.content.items()},
            of(self.groups),
            {k: v[index] for k, v in self.labels.items()},
            members,
            **place,
            domains=of(self.domains),
            bags=of(self.bags),
            targets=of(self.targets),
            values=of(self.values),
            negative_groups=None
            if self.negative_groups is None
            else self.negative_groups[index[: len(rows) // members]],
            crossed=self.crossed,
            scores=of(self.scores),
            known=self.known(index),
        )

    def known(self, index: Tensor) -> tuple[Known, Known] | None:
        """What belongs to the rows' contents by other rows, as either side is the anchor."""
        if self.partners is None:
            return None
        a, b = (ids[index].numpy() for ids in self.content.values())
        return self.partners[0].lists(a, b), self.partners[1].lists(b, a)

    def position(self, batch_index: int, rank: int, everywhere: int) -> dict[str, Any]:
        """Where in the run a batch stands."""
        step, inside = divmod(batch_index, self.accumulate)
        return {"step": step, "steps": self.steps, "accumulation_step": inside, "accumulation_steps": self.accumulate,
                "rank": rank, "everywhere": everywhere, "seed": self.seed}  # fmt: skip

    def facts(self, samples: int, classes: Sequence[str] = (), domains: Sequence[str] = ()) -> Facts:
        first = np.repeat(self.table.rows[:1], self.sampler.members)
        kinds, has_groups = 0, False
        if self.sampler.identified:
            kinds, has_groups = len(self.bare(first).identities()), self.groups is not None
        size = self.sampler.items, self.sampler.batch_size, self.steps
        return Facts(samples, *size, has_groups, kinds, classes, domains, self.accumulate)


def _tensor(values: Any) -> Any:
    return None if values is None else torch.from_numpy(np.ascontiguousarray(values))


def shared(rows: np.ndarray, members: int, rank: int, world: int) -> np.ndarray:
    """The share of a member-major batch that one process takes: whole items, in order."""
    by_member = rows.reshape(members, -1)
    return by_member[:, processes.share(by_member.shape[1], rank, world)].reshape(-1)
