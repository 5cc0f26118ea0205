"""From rows on disk to batches. Each batch is a function of (seed, step) alone, so a resumed run sees the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar import processes
from nearfar.encoders import Tokens
from nearfar.encoders.tokens import TokenStore, pad
from nearfar.errors import InputError, NearfarError
from nearfar.methods.base import Batch, Facts
from nearfar.mixture import corpus_shares
from nearfar.similarity import Known
from nearfar.sources import judgements

Inputs = Callable[[np.ndarray, np.random.Generator | None], Any]


class TokenStream:
    """All texts as one stream per corpus, cut into chunks of `length`; the grid shifts from epoch to epoch."""

    def __init__(self, store: TokenStore, corpora: np.ndarray, length: int, alpha: float):
        lengths = np.diff(store.starts)
        self.streams = [
            np.concatenate([store.flat[store.starts[r] : store.starts[r + 1]] for r in np.flatnonzero(corpora == c)])
            for c in np.unique(corpora)
        ]
        if max(len(s) for s in self.streams) < length:
            raise InputError(
                f"The texts hold {int(lengths.sum())} tokens in all, fewer than one chunk of {length}.",
                "Use a smaller --length, or --stream false.",
            )
        self.streams = [s for s in self.streams if len(s) >= length]
        self.length, self.shares = length, corpus_shares(np.array([len(s) for s in self.streams]), alpha)

    def __len__(self) -> int:
        return sum(len(s) // self.length for s in self.streams)

    def draw(self, n: int, rng: np.random.Generator, offset: int) -> Tokens:
        rows = []
        for c in rng.choice(len(self.streams), n, p=self.shares):
            stream = self.streams[c]
            room = (len(stream) - offset % self.length) // self.length
            start = (offset % self.length if room else 0) + int(rng.integers(max(room, 1))) * self.length
            rows.append(stream[start : start + self.length].tolist())
        return pad(rows)


class Sampler:
    """Which rows make the batch of a step. Items are rows, or (members > 1) groups with that many rows at least.

    Each epoch is a seeded permutation of the items; what does not fill a batch is left out of that epoch.
    """

    def __init__(self, rows: np.ndarray, groups: np.ndarray | None, members: int, batch_size: int, seed: int):
        self.members, self.batch_size, self.seed = members, batch_size, seed
        self.rows = np.asarray(rows)
        self.lists: list[np.ndarray] = []
        if members > 1:
            if groups is None:
                raise InputError(
                    f"This method draws {members} members of each group, but the data have no groups.",
                    "Name the column with --group COLUMN.",
                )
            order = self.rows[np.argsort(groups[self.rows], kind="stable")]
            cuts = np.flatnonzero(np.diff(groups[order])) + 1
            self.lists = [g for g in np.split(order, cuts) if len(g) >= members and groups[g[0]] >= 0]
            if not self.lists:
                raise InputError(
                    f"No group of the training rows has {members} members.", "Check the column of --group."
                )
        self._epoch, self._order = -1, np.empty(0, np.int64)
        self.pools: np.ndarray | None = None
        self.since = 0

    def restrict(self, pools: np.ndarray | None, since: int = 0) -> None:
        """From the step `since` on each batch holds items of one pool alone. pools: a label of each row, (N,)."""
        if pools is not None and self.members > 1:
            place = {int(row): label for row, label in zip(self.rows, pools, strict=True)}
            pools = np.array([place[int(rows[0])] for rows in self.lists])
        if since == self.since and (self.pools is pools or np.array_equal(self.pools, pools)):  # pyright: ignore
            return
        self.pools, self.since, self._epoch = pools, since, -1
        if pools is not None:
            self._pooled_batches(0)

    @property
    def dropped(self) -> float:
        """The share of the items that no batch of an epoch holds."""
        held = self.items // self.batch_size if self.pools is None else len(self._pooled_batches(0))
        return 1 - held * self.batch_size / self.items

    def _pooled_batches(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch of the restricted order."""
        assert self.pools is not None
        made = single_pool_batches(self.pools, self.batch_size, np.random.default_rng([self.seed, self.since, epoch]))
        if not made:
            raise NearfarError(
                f"None of the {len(np.unique(self.pools))} groups of the {self.items} items fills a batch of "
                f"{self.batch_size}.",
                "Use a smaller --batch-size, fewer clusters or fewer stages.",
            )
        return made

    @property
    def items(self) -> int:
        return len(self.lists) if self.members > 1 else len(self.rows)

    @property
    def epoch_steps(self) -> int:
        return max(1, self.items // self.batch_size)

    def at(self, step: int) -> np.ndarray:
        """Rows of a step's batch, member-major."""
        epoch, place, chosen = self._chosen(step)
        if self.members == 1:
            return self.rows[chosen]
        rng = np.random.default_rng([self.seed, epoch, place])
        drawn = [rng.choice(self.lists[i], self.members, replace=False) for i in chosen]
        return np.stack(drawn, 1).reshape(-1)

    def _chosen(self, step: int) -> tuple[int, int, np.ndarray]:
        """Epoch, place in it, and the items of a step's batch."""
        if self.pools is not None:
            epoch, place = divmod(step - self.since, len(self._pooled_batches(0)))
            if epoch != self._epoch:
                self._order, self._epoch = np.concatenate(self._pooled_batches(epoch)), epoch
        else:
            epoch, place = divmod(step, self.epoch_steps)
            if epoch != self._epoch:
                self._order = np.random.default_rng([self.seed, epoch]).permutation(self.items)
                self._epoch = epoch
        return epoch, place, self._order[place * self.batch_size : (place + 1) * self.batch_size]

    def with_partners(self, rows: np.ndarray) -> np.ndarray:
        """The rows as items, member-major: further members come from their group, or are the row itself."""
        if self.members == 1:
            return rows
        lists = {int(row): group for group in self.lists for row in group}
        partners = []
        for row in rows:
            group = lists.get(int(row), np.array([row]))
            place = int(np.flatnonzero(group == row)[0])
            partners.append(group[(place + np.arange(self.members)) % len(group)])
        return np.stack(partners, 1).reshape(-1)


def single_pool_batches(pools: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The batches of one epoch in which every batch holds items of one pool: sum_g floor(n_g / B) of them.

    Each pool is permuted and cut to whole batches; the pools take turns (0, 1, 2, ...), each giving a batch from the
    end of its list, until all are used up. pools: the label of each item, (N,); returns item numbers, (B,) each.
    """
    lists = []
    for label in np.unique(pools):
        order = rng.permutation(np.flatnonzero(pools == label))
        lists.append([order[i : i + batch_size] for i in range(0, len(order) - batch_size + 1, batch_size)])
    batches: list[np.ndarray] = []
    while any(lists):
        batches += [own.pop() for own in lists if own]
    return batches


class HardNegatives:
    """One hard negative for each row that has some.

    read: the inputs of rows; content: what each row gives, ids (N,), -1 for nothing. Without `apart` a row has its own.
    Else `apart` are the rows that do not belong to their first side, and a row draws one of those whose first side
    (`anchors`, ids (N,)) equals its own.
    """

    def __init__(self, read: Inputs, content: np.ndarray, anchors: np.ndarray | None = None,
                 apart: np.ndarray | None = None):
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
    """Batches from `start` to the last step, `turns` of them a step. Iterating again begins at `start` again. Of each
    batch, every one of the connected processes gets its own share of the items.

    `method`: is told before each step's batches are drawn (`before_draw`), and may restrict what is drawn (`pools`).
    """

    turns = 1
    negatives: Sequence[HardNegatives] = ()
    crossed: Sequence[tuple[str, str]] = ()
    partners: tuple[Partners, Partners] | None = None
    scores: Tensor | None = None
    method: Any = None
    sampler: Any = None
    pools: Tensor | None = None

    def __init__(
        self,
        sampler: Sampler,
        inputs: Mapping[str, Inputs],
        data: Any,
        roles: Sequence[str],
        steps: int,
        seed: int,
    ):
        self.sampler, self.inputs, self.steps, self.seed, self.start = sampler, inputs, steps, seed, 0
        self.content = {r: torch.from_numpy(np.ascontiguousarray(data.content(r))) for r in roles}
        self.groups = None if data.groups is None else torch.from_numpy(np.ascontiguousarray(data.groups))
        self.labels = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in data.labels.items()}

    def pair(self, data: Any, a: str, b: str, graded: bool = False) -> None:
        """Says that each row pairs the contents of two roles: which of them belong together, and how far."""
        rows = self.sampler.rows
        mine, others = (np.asarray(data.content(role)) for role in (a, b))
        if np.isin(mine[rows], others[rows]).any():
            self.crossed = ((a, b),)
        if graded:
            self.scores = torch.from_numpy(judgements.scaled(data.scores))
            return
        forth = Partners(mine[rows], others[rows])
        if forth.crossed:
            self.partners = forth, Partners(others[rows], mine[rows])

    def __len__(self) -> int:
        """All batches of the run. With a length Lightning fetches none ahead of its step."""
        return self.steps * self.turns

    def __iter__(self) -> Iterator[Batch]:
        rank, world = processes.place()
        for draw in range(self.start * self.turns, self.steps * self.turns):
            step, turn = divmod(draw, self.turns)
            if self.method is not None and turn == 0:
                self.method.before_draw(step)
                self.restrict(self.method.pools(), (step - self.method.within(step)[0]) * self.turns)
            yield self.at(draw, rank, world)

    def restrict(self, pools: np.ndarray | None, since: int) -> None:
        """Gives the batches their pools; draws each from a single one where the method wants it."""
        if self.sampler is None or (pools is None and self.pools is None):
            return
        self.pools = None
        if pools is not None:
            self.pools = torch.full((int(self.sampler.rows.max()) + 1,), -1)
            self.pools[torch.from_numpy(self.sampler.rows)] = torch.from_numpy(pools)
        self.sampler.restrict(pools if self.method.single_pool_batches else None, since)

    def at(self, draw: int, rank: int = 0, world: int = 1) -> Batch:
        """The batch number `draw`, or the share of it that the process `rank` of `world` takes."""
        rows = self.sampler.at(draw)
        return self.batch(shared(rows, self.sampler.members, rank, world), draw, rank, len(rows))

    def batch(self, rows: np.ndarray, draw: int, rank: int = 0, everywhere: int = 0) -> Batch:
        """The batch of some rows (member-major), with the random numbers of a draw."""
        own = [rank] if rank else []
        rng = np.random.default_rng([self.seed, draw, 7, *own])
        made: dict[str, Any] = {role: load(rows, rng) for role, load in self.inputs.items()}
        batch = dataclasses.replace(self.bare(rows, draw, rank, everywhere), inputs=made)
        if self.negatives:
            chance = np.random.default_rng([self.seed, draw, 11, *own])
            chosen = [one.draw(rows, chance) for one in self.negatives]
            made["negative"] = [one.read(drawn, rng) for one, (drawn, _) in zip(self.negatives, chosen, strict=True)]
            batch.negatives = [torch.from_numpy(ids) for _, ids in chosen]
        return batch

    def bare(self, rows: np.ndarray, draw: int = 0, rank: int = 0, everywhere: int = 0) -> Batch:
        """The batch of some rows without its inputs: content, groups, labels."""
        index = torch.from_numpy(rows)
        return Batch(
            index,
            {},
            {r: c[index] for r, c in self.content.items()},
            None if self.groups is None else self.groups[index],
            {k: v[index] for k, v in self.labels.items()},
            self.sampler.members,
            **self.place(draw, rank, everywhere or len(rows)),
            pools=None if self.pools is None else self.pools[index[: len(rows) // self.sampler.members]],
            crossed=self.crossed,
            scores=None if self.scores is None else self.scores[index],
            known=self.known(index),
        )

    def known(self, index: Tensor) -> tuple[Known, Known] | None:
        """What belongs to the rows' contents by other rows, as either side is the anchor."""
        if self.partners is None:
            return None
        a, b = (ids[index].numpy() for ids in self.content.values())
        return self.partners[0].lists(a, b), self.partners[1].lists(b, a)

    def place(self, draw: int, rank: int, everywhere: int) -> dict[str, Any]:
        """Where in the run a batch stands."""
        step, turn = divmod(draw, self.turns)
        return {"step": step, "steps": self.steps, "turn": turn, "turns": self.turns, "rank": rank,
                "everywhere": everywhere, "seed": self.seed}  # fmt: skip

    def facts(self, samples: int) -> Facts:
        first = np.repeat(self.sampler.rows[:1], self.sampler.members)
        kinds = len(self.bare(first).identities())
        return Facts(samples, self.sampler.items, self.sampler.batch_size, self.steps, self.groups is not None, kinds)


def shared(rows: np.ndarray, members: int, rank: int, world: int) -> np.ndarray:
    """The share of a member-major batch that one process takes: whole items, in order."""
    by_member = rows.reshape(members, -1)
    return by_member[:, processes.share(by_member.shape[1], rank, world)].reshape(-1)


class StreamLoader(Loader):
    """Chunks of one long stream: they belong to no row, so nothing is known of their identity."""

    def __init__(self, stream: TokenStream, role: str, batch_size: int, steps: int, seed: int):
        self.stream, self.role, self.steps, self.seed, self.start = stream, role, steps, seed, 0
        self.batch_size, self.groups = batch_size, None

    def at(self, draw: int, rank: int = 0, world: int = 1) -> Batch:
        rng = np.random.default_rng([self.seed, draw, *([rank] if rank else [])])
        epoch = draw * self.batch_size // max(len(self.stream), 1)
        offset = int(np.random.default_rng([self.seed, epoch, 3]).integers(self.stream.length))
        part = processes.share(self.batch_size, rank, world)
        tokens = self.stream.draw(part.stop - part.start, rng, offset)
        unknown = torch.full((part.stop - part.start,), -1)
        return Batch(unknown, {self.role: tokens}, **self.place(draw, rank, self.batch_size))

    def facts(self, samples: int) -> Facts:
        return Facts(samples, len(self.stream), self.batch_size, self.steps)
