"""What may be drawn as the positive and the negatives of a sentence: changed words, neighbours, other sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nearfar import encoders
from nearfar.encoders import Encoder
from nearfar.losses.propensity import gumbel_top_k, positive_probabilities, semantic_similarity
from nearfar.similarity import Similarity, equal, normalise
from nearfar.surface import (
    CHANGES,
    NONE,
    WordLists,
    document_neighbours,
    padded,
    random_others,
    rare_neighbours,
    surface_similarity,
    words,
)

CHANGED = -2  # in place of the number of a sentence: a changed copy of the anchor


@dataclass
class Candidates:
    """Of n anchors: rows (n, m) are the numbers of sentences, CHANGED for a changed copy, -1 for none; surface (n, m)
    their similarity to the anchor as lists of words; changed: the changed copies, by (anchor, place); texts: of all
    sentences."""

    rows: np.ndarray
    surface: np.ndarray
    changed: dict[tuple[int, int], str]
    texts: Sequence[str]

    def written(self, chosen: Tensor) -> list[list[str]]:
        """The texts of chosen places (n, k), a list for each of the k; "" for -1."""
        return [[self.text(i, k) for i, k in enumerate(places)] for places in chosen.T.tolist()]

    def text(self, anchor: int, place: int) -> str:
        row = int(self.rows[anchor, place]) if place >= 0 else NONE
        return self.changed[anchor, place] if row == CHANGED else self.texts[row] if row >= 0 else ""


class Sampled(NamedTuple):
    """What was taken of candidates: texts, k lists of n; rows (n, k) as in `Candidates`; pi (n, k), vectors (n, k, d)
    of the teacher; told (n, 3): mean surface and semantic similarity under pi, and 1 where no candidate passes."""

    texts: list[list[str]]
    rows: Tensor
    pi: Tensor
    vectors: Tensor
    told: Tensor


class Meanings:
    """The vectors that a teacher, an encoder of texts, gives sentences (N, d) and changed copies, of unit length;
    centre: the mean of those sentences is taken from all."""

    def __init__(self, teacher: Encoder, vectors: Tensor, centre: bool = False):
        self.teacher, self.mean = teacher, vectors.mean(0) if centre else torch.zeros(vectors.shape[1])
        self.vectors = vectors - self.mean

    def of(self, found: Candidates) -> Tensor:
        """Those of candidates, (n, m, d); 0 where there is none."""
        made = self.vectors[torch.from_numpy(found.rows.clip(0))]
        made[torch.from_numpy(found.rows < 0)] = 0
        if found.changed:
            i, k = torch.tensor(list(found.changed)).T
            seen = encoders.vectors(self.teacher, list(found.changed.values()), batch_size=256)
            made[i, k] = normalise(torch.from_numpy(seen)) - self.mean
        return made


def sampled(
    own: Tensor,
    found: Candidates,
    vectors: Tensor,
    probabilities: Callable[..., Tensor],
    options: Mapping[str, Any],
    count: int,
    generator: torch.Generator | None,
) -> Sampled:
    """`count` candidates of each anchor, drawn by their probabilities (positive or negative ones, with their options);
    without a generator all of them. own (n, d), vectors (n, m, d): of the teacher."""
    there, a = torch.from_numpy(found.rows != NONE), torch.from_numpy(found.surface)
    s = semantic_similarity(own.double(), vectors.double())
    pi = probabilities(a, s, where=there, **options)
    chosen = torch.arange(pi.shape[1]).expand(pi.shape)
    if generator is not None:
        u = torch.rand(pi.shape, generator=generator, dtype=torch.float64, device=generator.device)
        chosen = gumbel_top_k(pi, count, u.cpu())
    lacking = (pi * s).sum(1) < options["threshold"] if probabilities is positive_probabilities else pi.sum(1) == 0
    told = torch.stack([(pi * a).sum(1), (pi * s).sum(1), lacking.double()], 1)
    rows = taken(torch.from_numpy(found.rows), chosen, NONE)
    return Sampled(found.written(chosen), rows, taken(pi, chosen), taken(vectors, chosen), told)


def taken(values: Tensor, chosen: Tensor, fill: float = 0) -> Tensor:
    """The values (n, m, ...) at chosen places (n, k), `fill` where they are -1: (n, k, ...)."""
    rows = torch.arange(len(chosen))[:, None]
    found = values[rows, chosen.clamp(min=0)]
    return torch.where(
        (chosen < 0).view(*chosen.shape, *[1] * (found.dim() - 2)), torch.as_tensor(fill).to(found), found
    )


class SentenceCandidates:
    """Candidates of each of N sentences.

    Positives: `changes` copies by each of four changes of words (taken out, repeated, a span cropped, exchanged), then
    `neighbours` of its document, then `nearest` ones by a teacher (`find_nearest`). Negatives: half drawn at random,
    half those that share most rare words. Never the sentence itself, nor one that is equal in `apart` (integers (N,)
    each: contents, groups) among the negatives or in the first of them among the positives; no candidate stands twice,
    and a positive one is no negative. Everything follows from the seed and the number of the sentence.
    """

    def __init__(
        self,
        texts: Sequence[str],
        apart: Sequence[np.ndarray],
        documents: np.ndarray | None = None,
        *,
        changes: int = 1,
        neighbours: int = 2,
        nearest: int = 2,
        negatives: int = 16,
        rate: float = 0.2,
        most: int | None = None,
        seed: int = 0,
    ):
        self.texts, self.apart, self.most, self.seed, self.rate = list(texts), list(apart), most, seed, rate
        self.lists = WordLists(self.texts, most)
        self.changes = [change for change in CHANGES.values() for _ in range(changes)]
        size, rng = len(self.texts), np.random.default_rng([seed, len(self.texts)])
        near = np.full((size, 0), NONE)
        if documents is not None and neighbours:
            near = self._distinct(document_neighbours(documents, neighbours), self.apart[:1])
        self.neighbours, self.nearest = near, np.full((size, nearest), NONE)
        alike = rare_neighbours(self.lists, negatives // 2, apart=self.apart)
        others = random_others(size, negatives - negatives // 2, rng, apart=self.apart)
        self.negatives = self._distinct(np.concatenate([alike, others], 1), self.apart, near)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def positives(self) -> int:
        """M; how many positive candidates each sentence has place for."""
        return len(self.changes) + self.neighbours.shape[1] + self.nearest.shape[1]

    def _distinct(self, rows: np.ndarray, apart: Sequence[np.ndarray], taken: np.ndarray | None = None) -> np.ndarray:
        """The rows (N, m) without the sentence itself, those that are equal to it, and what says the same as one before
        it or in `taken`."""
        kept, content = rows.copy(), self.apart[0]
        for codes in apart:
            kept[codes[kept] == codes[:, None]] = NONE
        for k in range(kept.shape[1]):
            earlier = kept[:, :k] if taken is None else np.concatenate([taken, kept[:, :k]], 1)
            same = (content[earlier] == content[kept[:, k : k + 1]]) & (earlier >= 0)
            kept[same.any(1) & (kept[:, k] >= 0), k] = NONE
        return kept

    def find_nearest(self, vectors: Tensor) -> None:
        """Takes the nearest sentences by the cosine of vectors (N, d)."""
        wanted = self.nearest.shape[1]
        if not wanted:
            return
        count = min(len(self), wanted + self.neighbours.shape[1] + 1)
        itself = torch.from_numpy(np.unique(self.apart[0], return_inverse=True)[1].reshape(-1)).to(vectors.device)
        found = Similarity(vectors, vectors).topk(count, where=~equal(itself, itself))[1].cpu().numpy()
        found = self._distinct(found, self.apart[:1], self.neighbours)
        order = np.argsort(found < 0, axis=1, kind="stable")[:, :wanted]
        self.set_nearest(np.take_along_axis(found, order, 1))

    def set_nearest(self, rows: np.ndarray) -> None:
        """Takes these sentences (N, nearest) as the nearest; they are no negatives."""
        self.nearest[:, : rows.shape[1]] = rows
        self.negatives = self._distinct(self.negatives, (), self.nearest)

    def of_positives(self, places: np.ndarray) -> Candidates:
        """Positive candidates (n, M) of the sentences with these numbers; one that has none is its own."""
        changed = np.full((len(places), len(self.changes)), CHANGED)
        rows = np.concatenate([changed, self.neighbours[places], self.nearest[places]], 1)
        lists, texts = [], {}
        for i, place in enumerate(places.tolist()):
            own, written = self.lists[place], words(self.texts[place])[: self.most]
            rng = np.random.default_rng([self.seed, place])
            for k, change in enumerate(self.changes):
                left = change(len(own), self.rate, rng) if len(own) else np.zeros(0, np.int64)
                lists.append(own[left])
                texts[i, k] = " ".join(written[j] for j in left.tolist())
                if any(np.array_equal(own[left], other) for other in (own, *lists[-1 - k : -1])):
                    rows[i, k] = NONE
            if rows.shape[1] and (rows[i] == NONE).all():
                rows[i, -1] = place
        other = [self.lists[row] if row >= 0 else self.lists.flat[:0] for row in rows[:, len(self.changes) :].ravel()]
        surface = np.empty(rows.shape)
        surface[:, : len(self.changes)] = self._surface(places, lists, len(self.changes))
        surface[:, len(self.changes) :] = self._surface(places, other, rows.shape[1] - len(self.changes))
        return Candidates(rows, surface, texts, self.texts)

    def of_negatives(self, places: np.ndarray) -> Candidates:
        """Negative candidates (n, K) of the sentences with these numbers."""
        rows = self.negatives[places]
        lists = [self.lists[row] if row >= 0 else self.lists.flat[:0] for row in rows.ravel().tolist()]
        return Candidates(rows, self._surface(places, lists, rows.shape[1]), {}, self.texts)

    def kinds(
        self, places: Tensor, rows: Sequence[Tensor], identities: Sequence[tuple[Tensor, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        """What makes an anchor and a column no negatives of each other, where it is equal: identities of the column's
        anchor (of positives alone), and of the sentence that was taken, in each of `apart`.

        places: numbers of the anchors (n,); rows: of their positives (n, m) and negatives (n, k), as in `Sampled`,
        whose columns follow each other; identities: `Batch.identities`."""
        m, column_rows = rows[0].shape[1], torch.cat([x.flatten() for x in rows])
        rest = column_rows.new_full((rows[1].numel(),), NONE)
        found = [(own, torch.cat([column.repeat_interleave(m), rest])) for own, column in identities]
        for codes in (torch.from_numpy(x).to(places.device) for x in self.apart):
            found.append((codes[places], torch.where(column_rows >= 0, codes[column_rows.clamp(min=0)], NONE)))
        return found

    def _surface(self, places: np.ndarray, lists: Sequence[np.ndarray], count: int) -> np.ndarray:
        anchors = self.lists.padded(np.repeat(places, count))
        return surface_similarity(anchors, padded(lists)).reshape(len(places), count)


__all__ = ["CHANGED", "Candidates", "Meanings", "Sampled", "SentenceCandidates", "sampled", "taken"]
