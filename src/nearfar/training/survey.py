"""The whole training set as a method sees it at one step: for mining, clustering and stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nearfar import modalities, processes
from nearfar.encoders.base import evaluating
from nearfar.methods.tower import Tower
from nearfar.negatives import Items
from nearfar.training.embedding import Embedder

if TYPE_CHECKING:
    from nearfar.sources.data import Data
    from nearfar.training.building import Setup


class WholeSet:
    """What `nearfar.negatives.Survey` promises, for a method under training.

    rows: sample ids (N,) of the training rows; labels: (N,) of the first label column, for reports alone, or None.
    folder: the run's folder, where notes go; None: nowhere. Embeds in evaluation mode, without gradient, and draws
    from no global random numbers.
    """

    def __init__(self, method: Any, data: Data, loader: Any, rows: np.ndarray, build: Callable[[str, int], Any]):
        self.method, self.data, self.loader, self.rows = method, data, loader, rows
        self.build = build
        first = next(iter(data.labels.values()), None)
        self.labels: np.ndarray | None = None if first is None else np.asarray(first)[rows]
        self.folder: Path | None = None
        self.say: Callable[[str], None] = lambda _: None

    def items(self, rows: np.ndarray) -> Items:
        """Training rows as items of a batch: what hides them from each other."""
        return self.method.items(self.loader.bare(self.loader.sampler.completed(rows)))

    def features(self, tower: Tower | None = None) -> Tensor:
        """Unit vectors (N, d) of the method's model, or of one tower, for the first role."""
        towers = self.method.towers()
        role = next(iter(towers))
        embed = Embedder(towers if tower is None else {role: tower}, self.data, device=self.method.device)
        return processes.broadcast(torch.from_numpy(embed(role, self.rows)))

    def viewed(self, rows: np.ndarray, number: int) -> Any:
        """A batch of these training rows with fresh views, on the method's device; the same number gives the same."""
        batch = self.loader.batch(self.loader.sampler.completed(rows), number).to(self.method.device)
        batch.views = self.method.make_views(batch)
        return batch

    @torch.no_grad()
    def sides(self) -> tuple[Tensor, Tensor]:
        """Each row as an anchor and as a key, (N, D) twice, as they are contrasted: one fresh view each."""
        method = self.method
        parts, size = [], self.loader.sampler.batch_size
        with evaluating(method):
            for number, start in enumerate(range(0, len(self.rows), size)):
                batch = self.viewed(self.rows[start : start + size], 1_000_000_000 + number)
                embedded = method.encode(batch)
                parts.append(method.sides(embedded | method.targets(batch)))
        anchors, keys = zip(*parts, strict=True)
        return processes.broadcast(torch.cat(anchors).float()), processes.broadcast(torch.cat(keys).float())

    def fresh(self, seed: int, role: str | None = None) -> Any:
        """A new encoder of a role (None: the first) as the settings describe it: the pretrained one, or other random
        weights."""
        return self.build(modalities.of(role or next(iter(self.method.towers()))).name, seed)

    def tell(self, text: str) -> None:
        self.say(text)

    def note(self, name: str, value: Any) -> None:
        """Writes FOLDER/NAME.json."""
        if self.folder is not None and processes.leader():
            from nearfar.files import write_json

            write_json(self.folder / f"{name}.json", value)

    def key(self, row: int) -> str:
        """The readable name of a row, with the words of its item where it has some."""
        name, place = str(self.data.keys[row]), np.array([row])
        kinds = [(modalities.of(role), role) for role in self.data.content_roles]
        found = (kind.caption(kind.items(self.data, role, place)[0]) for kind, role in kinds if kind.has_caption)
        caption = next((text for text in found if text), "")
        return f"{name}: {caption}" if caption else name


def survey_of(setup: Setup, data: Data) -> WholeSet:
    """The survey of a prepared run."""
    from nearfar.training import building

    def build(kind: str, seed: int) -> Any:
        return building.build_encoder(kind, data, dataclasses.replace(setup.settings, seed=seed))

    return WholeSet(setup.method, data, setup.loader, setup.rows, build)
