"""From rows on disk to batches. Each batch is a function of (seed, step) alone, so a resumed run sees the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar import processes
from nearfar.encoders import Frozen, TextEncoder, Tokens
from nearfar.encoders.tokens import pad
from nearfar.errors import InputError
from nearfar.methods.base import Batch, Facts

Inputs = Callable[[np.ndarray, np.random.Generator | None], Any]


class TokenStore:
    """Token ids of many texts in one flat array. A long text is read as a window of `length` tokens around a random
    place (training) or from its start."""

    def __init__(self, lists: Sequence[Sequence[int]], length: int):
        self.length = length
        self.flat = np.fromiter((t for ids in lists for t in ids), dtype=np.int32)
        self.starts = np.concatenate([[0], np.cumsum([len(ids) for ids in lists])])

    def __len__(self) -> int:
        return len(self.starts) - 1

    def read(self, rows: np.ndarray, rng: np.random.Generator | None = None) -> Tokens:
        """Right-padded content tokens (no special ones), (n, <= length)."""
        begin, end = self.starts[rows], self.starts[rows + 1]
        spare = np.maximum(end - begin - self.length, 0)
        if rng is not None:
            begin = begin + (rng.random(len(rows)) * (spare + 1)).astype(np.int64)
        end = np.minimum(end, begin + self.length)
        return pad([self.flat[a:b].tolist() for a, b in zip(begin, end, strict=True)])


class TokenStream:
    """All texts as one stream per corpus, cut into chunks of `length`; the grid shifts from epoch to epoch."""

    def __init__(self, store: TokenStore, corpora: np.ndarray, length: int, alpha: float):
        from nearfar.methods.text.contriever import corpus_shares

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

    @property
    def items(self) -> int:
        return len(self.lists) if self.members > 1 else len(self.rows)

    @property
    def epoch_steps(self) -> int:
        return max(1, self.items // self.batch_size)

    def at(self, step: int) -> np.ndarray:
        """Rows of a step's batch, member-major."""
        epoch, place = divmod(step, self.epoch_steps)
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.items)
            self._epoch = epoch
        chosen = self._order[place * self.batch_size : (place + 1) * self.batch_size]
        if self.members == 1:
            return self.rows[chosen]
        rng = np.random.default_rng([self.seed, epoch, place])
        drawn = [rng.choice(self.lists[i], self.members, replace=False) for i in chosen]
        return np.stack(drawn, 1).reshape(-1)


class Loader:
    """Batches from `start` to the last step, `turns` of them a step. Iterating again begins at `start` again. Of each
    batch, every one of the connected processes gets its own share of the items."""

    turns = 1

    def __init__(
        self,
        sampler: Sampler,
        inputs: dict[str, Inputs | list[Inputs]],
        data: Any,
        roles: Sequence[str],
        steps: int,
        seed: int,
    ):
        self.sampler, self.inputs, self.steps, self.seed, self.start = sampler, inputs, steps, seed, 0
        self.content = {r: torch.from_numpy(np.ascontiguousarray(data.content(r))) for r in roles}
        self.groups = None if data.groups is None else torch.from_numpy(np.ascontiguousarray(data.groups))
        self.labels = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in data.labels.items()}

    def __iter__(self) -> Iterator[Batch]:
        rank, world = processes.place()
        for draw in range(self.start * self.turns, self.steps * self.turns):
            yield self.at(draw, rank, world)

    def at(self, draw: int, rank: int = 0, world: int = 1) -> Batch:
        """The batch number `draw`, or the share of it that the process `rank` of `world` takes."""
        all_rows = self.sampler.at(draw)
        rows = shared(all_rows, self.sampler.members, rank, world)
        rng = np.random.default_rng([self.seed, draw, 7, *([rank] if rank else [])])
        made = {
            role: [one(rows, rng) for one in load] if isinstance(load, list) else load(rows, rng)
            for role, load in self.inputs.items()
        }
        index = torch.from_numpy(rows)
        return Batch(
            index,
            made,
            {r: c[index] for r, c in self.content.items()},
            None if self.groups is None else self.groups[index],
            {k: v[index] for k, v in self.labels.items()},
            self.sampler.members,
            **self.place(draw, rank, len(all_rows)),
        )

    def place(self, draw: int, rank: int, everywhere: int) -> dict[str, int]:
        """Where in the run a batch stands."""
        step, turn = divmod(draw, self.turns)
        return {"step": step, "steps": self.steps, "turn": turn, "turns": self.turns, "rank": rank,
                "everywhere": everywhere, "seed": self.seed}  # fmt: skip

    def facts(self, samples: int) -> Facts:
        kinds = int(self.groups is not None) + self.sampler.members * len(self.content)
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


def image_inputs(data: Any, role: str, size: int) -> Inputs:
    """uint8 pictures of a role, read from the memory-mapped cache."""
    pictures = data.image_memmap(role, size)

    def read(rows: np.ndarray, rng: np.random.Generator | None) -> Tensor:
        return torch.from_numpy(pictures[rows])

    return read


def text_inputs(
    encoder: TextEncoder | Frozen, texts: Sequence[str], length: int | None = None
) -> tuple[TokenStore, Inputs]:
    """Content tokens of texts, tokenised once."""
    special = encoder.special
    store = TokenStore(encoder.encode_ids(list(texts)), length or special.length - special.frame)
    return store, store.read


def cached_inputs(features: np.ndarray) -> Inputs:
    """Features of a frozen encoder, computed once."""

    def read(rows: np.ndarray, rng: np.random.Generator | None) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(features[rows]))

    return read
