"""Partners that items get late in a run: others of their group with another label, rare ones before frequent ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nearfar.methods.batch import Batch
from nearfar.samplers import Partners, Permutation, Sampler, unlike


@dataclass(frozen=True)
class LatePartners:
    """after: share of the run, from which on there are partners; taken: in which share of the steps after it they take
    part; rare: whether a partner's label is drawn by 1 / its rows, else by its rows; beta: of the distribution of the
    share by which both are mixed. Source: the augmentation of CoT (Kim et al., ICCV 2023)."""

    after: float
    taken: float
    rare: bool = True
    beta: float = 1.0

    def start(self, steps: int) -> int:
        """The first step with partners, of a run of so many."""
        return round(self.after * steps)

    def sampler(self, rows: np.ndarray, groups: np.ndarray, labels: np.ndarray, size: int) -> Sampler:
        """Batches of `size` rows and a partner of each."""
        draw = unlike(rows, groups, labels, -1.0 if self.rare else 1.0)
        return Partners(draw, Permutation().only(rows)).sized(size)

    def drawn(self, batch: Batch) -> tuple[bool, float]:
        """Whether the partners take part in this step, and the share of each row that is not its partner's; the same on
        all processes."""
        rng = np.random.default_rng([batch.seed, batch.number, 23])
        return batch.members == 2 and rng.random() < self.taken, float(rng.beta(self.beta, self.beta))


__all__ = ["LatePartners"]
