"""A memory that keeps past embeddings in balanced clusters and gives back neighbours (DyCE of BECLR).

Source: Poulakakis-Daktylidis and Jamali-Rad, BECLR, ICLR 2024, section 3.2 and algorithm 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nearfar import processes
from nearfar.clustering import k_means
from nearfar.errors import InputError
from nearfar.losses.assignment import sinkhorn
from nearfar.similarity import Similarity, normalise, same


def memory_rows(clusters: int, scale: int, step_rows: int) -> int:
    """M = (scale K // R + 1) R + 1 for R rows a step; the odd one makes the first round end with a clustering."""
    return (scale * clusters // step_rows + 1) * step_rows + 1


def balanced_labels(
    rows: Tensor, prototypes: Tensor, *, eps: float = 0.05, iterations: int = 10, farthest: bool = False
) -> Tensor:
    """The cluster of each row (n, d) among prototypes (K, d): balanced transport on the distance of unit vectors.

    Every cluster gets about n / K rows. `farthest` feeds the distance with the sign of the released code, which sends
    rows to far prototypes. LongTensor (n,).
    """
    distance = torch.cdist(normalise(rows), normalise(prototypes))
    return sinkhorn(distance if farthest else -distance, eps=eps, iterations=iterations).argmax(1)


class ClusteredMemory(nn.Module):
    """The last M embeddings, raw, each with the label of its cluster; K prototypes.

    Until the bank has been filled once it only collects; then it is clustered by k-means, and every later step assigns
    its rows by balanced transport, overwrites the oldest and moves the prototypes.

    Args:
        eps: entropy weight of the assignment. Paper: 1e-5 in the code, relaxed to 0.1 by its overflow; here 0.05.
        inertia: mu; share of the old prototype in the new one. Paper: 0.
        restarts: beginnings of k-means, of which the best is kept. Paper: 10. One costs a tenth, for a sum of squares
            within 1 % of it on banks of real runs; going on from the old prototypes was 2 to 10 % worse.
        official: reproduce the released code: rows go to far prototypes, and the ranks inside a cluster are taken for
            row numbers of the whole bank, so that neighbours are arbitrary rows.

    State (saved and resumed): bank (M, D), labels (M,), items (M,) sample ids, prototypes (K, D), pointer, ready.
    """

    bank: Tensor
    labels: Tensor
    items: Tensor
    prototypes: Tensor
    pointer: Tensor
    ready: Tensor

    def __init__(self, *, eps: float = 0.05, inertia: float = 0.0, restarts: int = 1, official: bool = False):
        super().__init__()
        if not eps > 0 or not 0 <= inertia < 1:
            raise InputError(f"eps must be in (0, inf) and inertia in [0, 1). Got {eps} and {inertia}.")
        if restarts < 1:
            raise InputError(f"restarts must be at least 1. Got {restarts}.")
        self.eps, self.inertia, self.restarts, self.official = eps, inertia, restarts, official
        for name in ("bank", "prototypes"):
            self.register_buffer(name, torch.empty(0, 0))
        for name in ("labels", "items"):
            self.register_buffer(name, torch.empty(0, dtype=torch.long))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    def setup(self, dim: int, clusters: int, size: int) -> None:
        """Sizes the state; the bank starts with random unit vectors, as in the paper.

        Raises InputError: fewer rows than clusters.
        """
        if size < clusters or clusters < 1:
            raise InputError(f"A memory of {size} rows cannot hold {clusters} clusters.", "Use fewer clusters.")
        self.bank = normalise(torch.randn(size, dim))
        self.labels = torch.full((size,), -1, dtype=torch.long)
        self.items = torch.full((size,), -1, dtype=torch.long)
        self.prototypes = torch.zeros(clusters, dim)

    @torch.no_grad()
    def cluster(self, seed: int = 0) -> None:
        """K-means on the unit vectors of the bank; a result with an empty cluster is thrown away."""
        points, count = normalise(self.bank), len(self.prototypes)
        found = k_means(points.cpu().numpy(), count, seed=seed, restarts=self.restarts)
        labels = processes.broadcast(torch.from_numpy(found))
        sizes = torch.bincount(labels, minlength=count).to(self.bank)
        if bool((sizes == 0).any()) and bool(self.ready):
            return
        self.labels = labels.to(self.bank.device)
        total = torch.zeros_like(self.prototypes).index_add_(0, self.labels, points)
        self.prototypes = total / sizes.clamp(min=1)[:, None]
        self.ready.fill_(True)

    @torch.no_grad()
    def update(self, rows: Tensor, items: Tensor | None = None, seed: int = 0) -> None:
        """Takes a step's rows (n, D), detached, and their sample ids (n,)."""
        size, at = len(self.bank), int(self.pointer)
        rows = rows.detach().to(self.bank)
        if not bool(self.ready) and at + len(rows) >= size:
            self.cluster(seed)
        labels = torch.full((len(rows),), -1, dtype=torch.long, device=rows.device)
        if bool(self.ready):
            labels = balanced_labels(
                rows, self.prototypes, eps=0.10001 if self.official else self.eps, farthest=self.official
            )
        take = min(len(rows), size - at)
        place = slice(at, at + take)
        self.bank[place], self.labels[place] = rows[:take], labels[:take]
        self.items[place] = -1 if items is None else items[:take]
        self.pointer.fill_(0 if at + len(rows) >= size else at + take)
        if bool(self.ready):
            self._move_prototypes()

    def _move_prototypes(self) -> None:
        held = self.labels >= 0
        total = torch.zeros_like(self.prototypes).index_add_(0, self.labels[held], self.bank[held])
        counts = torch.bincount(self.labels[held], minlength=len(self.prototypes))
        mean = total / counts.clamp(min=1)[:, None]
        moved = (1 - self.inertia) * mean + self.inertia * self.prototypes
        self.prototypes = torch.where(counts[:, None] > 0, moved, self.prototypes)

    @torch.no_grad()
    def neighbours(self, rows: Tensor, k: int) -> Tensor:
        """The k bank rows of highest cosine in the cluster of each row's nearest prototype: (n, k, D), raw, detached.

        Where that cluster holds at most k rows, the whole bank is searched.
        """
        rows = rows.detach().to(self.bank)
        nearest = Similarity(rows, self.prototypes).topk(1)[1][:, 0]
        if self.official:
            return self.bank[self._ranks_as_rows(rows, nearest, k)]
        s = Similarity(rows, self.bank)
        inside = s.topk(k, where=same(nearest, self.labels))[1]
        counts = torch.bincount(self.labels[self.labels >= 0], minlength=len(self.prototypes))
        rich = counts[nearest] > k
        places = inside
        if not bool(rich.all()):
            places = torch.where(rich[:, None], inside, s.topk(k)[1])
        return self.bank[places]

    def _ranks_as_rows(self, rows: Tensor, nearest: Tensor, k: int) -> Tensor:
        """The released code's row numbers: positions inside the cluster, read as positions in the bank."""
        found = []
        for row, c in zip(rows, nearest.tolist(), strict=True):
            members = self.bank[self.labels == c]
            among = members if len(members) > k else self.bank
            found.append(Similarity(row[None], among).topk(k)[1][0])
        return torch.stack(found)

    def purity(self, labels: Tensor) -> float:
        """The share of bank rows whose class (labels by sample id, (N,)) is the commonest of their cluster; nan where
        nothing is known."""
        held = (self.labels >= 0) & (self.items >= 0)
        classes, clusters = labels[self.items[held]], self.labels[held]
        if not len(classes):
            return float("nan")
        table = torch.zeros(len(self.prototypes), int(classes.max()) + 1)
        table.index_put_((clusters, classes), torch.ones(len(classes)), accumulate=True)
        return float(table.max(1).values.sum() / table.sum())
