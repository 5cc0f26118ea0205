"""Negatives from the own cluster alone (the mask form of MCL, Zhang et al., ECCV 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar import processes
from nearfar.checks import PositiveInt, UnitInterval
from nearfar.clustering import k_means
from nearfar.errors import InputError
from nearfar.negatives.base import Items, Negatives, Survey, columns_of
from nearfar.similarity import Anchors, ExtraCandidates, same


class Cluster(Negatives):
    """Only items of one pseudo-label are negatives of each other: what tells the clusters apart no longer tells the
    negatives apart, so other features must. The labels come from k-means over the features of all training rows.

    Args:
        clusters: K.
        start: share of the run before the first clustering; all items are negatives until then.
        refresh: steps after which the clusters are made again; none: once.

    A batch should hold several items of a cluster: batch size >> K. Curve: `same_cluster`, the share of the pairs of
    a batch that are left as negatives. State: the label of each training row (N,).
    Raises InputError: counts below 1, a start outside [0, 1], more clusters than half of the items.
    """

    needs_rows = True
    labels: Tensor

    def __init__(self, clusters: PositiveInt = 10, start: UnitInterval = 0.2, refresh: PositiveInt | None = None):
        super().__init__()
        self.clusters, self.start, self.refresh = clusters, start, refresh
        self.rows = torch.empty(0, dtype=torch.long)
        self.share = 1.0
        self.register_buffer("labels", torch.empty(0, dtype=torch.long))

    def setup(self, dim: int, identity_kinds: int, batch_size: int, samples: int, steps: int | None = None) -> None:
        if 2 * self.clusters > samples:
            raise InputError(
                f"{self.clusters} clusters of {samples} items leave hardly a negative in any of them.",
                f"Use --negatives.clusters {max(1, samples // 20)} or less.",
            )
        self.labels = torch.full((samples,), -1, dtype=torch.long, device=self.labels.device)

    def reset(self) -> None:
        self.labels.fill_(-1)

    def due(self, step: int, steps: int) -> bool:
        """Whether the clusters are made before this step."""
        first = min(int(self.start * steps), steps - 1)
        return step == first or (self.refresh is not None and step > first and (step - first) % self.refresh == 0)

    def before(self, step: int, steps: int, survey: Survey | None) -> None:
        if survey is None:
            return
        order = survey.rows.argsort()
        if not len(self.rows):
            self.rows = torch.from_numpy(survey.rows[order]).to(self.labels.device)
        if self.due(step, steps):
            found = k_means(survey.features().cpu().numpy()[order], min(self.clusters, len(order)), seed=step)
            self.labels.copy_(processes.broadcast(torch.from_numpy(found)))

    def extra_candidates(self, anchors: Anchors, items: Items) -> ExtraCandidates:
        place = columns_of(items.rows, self.rows) if len(self.rows) else torch.full_like(items.rows, -1)
        mine = torch.where(place >= 0, self.labels[place.clamp(min=0)], -1) if len(self.labels) else place
        columns = anchors.columns(mine)
        if bool((columns < 0).all()):
            return ExtraCandidates()
        self.share = float((mine[:, None] == columns).float().mean())
        return ExtraCandidates(excluded=~same(mine[anchors.items], columns))

    def terms(self, s) -> dict[str, Tensor | float]:
        return {"same_cluster": self.share}
