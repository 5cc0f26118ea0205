"""What a part that supplies or restricts negatives promises."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.checks import checked_init
from nearfar.similarity import Anchors, ExtraCandidates, Known, Relation, Similarity, nobody, same

parts: dict[str, type[Negatives]] = {}


@dataclass(frozen=True, eq=False)
class Items:
    """The n items of one step's batch on this process.

    rows: sample ids (n,), -1 unknown. item_identities (n, identity_kinds): of the items as anchors, key_identities
    (None: the same) as keys; an anchor hides from a key with an equal identity of one kind, -1 unknown. known: lists
    of identities that belong to each anchor as well, and the kind that they hold. negative_groups (n,): an item's
    negatives come from its own group alone; None: from everywhere.
    """

    rows: Tensor
    item_identities: Tensor
    negative_groups: Tensor | None = None
    step: int = 0
    steps: int = 1
    seed: int = 0
    key_identities: Tensor | None = None
    known: tuple[Known, int] | None = None

    @property
    def stored(self) -> Tensor:
        """The identities that a memory keeps with the keys of these items."""
        return self.item_identities if self.key_identities is None else self.key_identities

    def to(self, device: torch.device) -> Items:
        return replace(
            self,
            rows=self.rows.to(device),
            item_identities=self.item_identities.to(device),
            negative_groups=None if self.negative_groups is None else self.negative_groups.to(device),
            key_identities=None if self.key_identities is None else self.key_identities.to(device),
            known=None if self.known is None else (self.known[0].to(device), self.known[1]),
        )

    def generator(self) -> torch.Generator:
        """Random numbers of this step for negatives alone: views draw from others."""
        made = torch.Generator(device=self.rows.device)
        made.manual_seed((self.seed * 1_000_003 + self.step * 7 + 3) % (1 << 63))
        return made


class Survey(Protocol):
    """The whole training set as the method sees it now. `fit` makes one.

    rows: sample ids (N,) of the training rows. labels: (N,) for reports alone, or None.
    """

    rows: np.ndarray
    labels: np.ndarray | None

    def items(self, rows: np.ndarray) -> Items:
        """Some of the training rows as items of a batch."""
        ...

    def features(self) -> Tensor:
        """What the model gives at inference for each row, unit vectors (N, d)."""
        ...

    def sides(self) -> tuple[Tensor, Tensor]:
        """The vectors that are contrasted: each row as an anchor and as a key (one fresh view each), (N, D) twice."""
        ...

    def note(self, name: str, value: Any) -> None:
        """Writes a JSON file into the run's folder, where there is one."""
        ...

    def key(self, row: int) -> str:
        """The readable name of a row."""
        ...

    def tell(self, text: str) -> None:
        """A remark for the user."""
        ...


class Negatives(nn.Module):
    """Further candidates beside (or instead of) the other items of the batch, and pairs of it that are no negatives.

    in_batch: whether the other keys of the batch are negatives as well.
    own_keys: whether the vectors that enter with `update` are the student's own, also where a teacher gives the keys.
    needs_rows: whether it looks at all training rows (so that a stream without rows is refused).
    A subclass is known by its `name` on the command line; its constructor's arguments are its options.
    """

    in_batch: bool = True
    own_keys: bool = False
    needs_rows: bool = False

    def __init_subclass__(cls, name: str = "", **kwargs):
        super().__init_subclass__(**kwargs)
        checked_init(cls)
        parts.setdefault(name or cls.__name__.lower(), cls)  # one's own does not displace a built-in namesake

    @property
    def capacity(self) -> int:
        """How many keys it keeps."""
        return 0

    @property
    def resolved(self) -> dict[str, Any]:
        """What each "auto" became in `setup`, beside the capacity."""
        return {}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Checkpoints of earlier versions name some of the state otherwise."""
        for old, new in (("marks", "item_identities"), ("pools", "negative_groups")):
            if prefix + old in state_dict:
                state_dict[prefix + new] = state_dict.pop(prefix + old)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def setup(self, dim: int, identity_kinds: int, batch_size: int, samples: int, steps: int | None = None) -> None:
        """Sizes what depends on the data. Called once, before the first step or before a state is loaded. steps: of the
        run (or of a stage), where its length counts."""

    def before(self, step: int, steps: int, survey: Survey | None) -> None:
        """Before a step's batch is drawn: what needs the whole training set is computed here, where it is due."""

    def extra_candidates(self, anchors: Anchors, items: Items) -> ExtraCandidates:
        """What it adds to one similarity of the batch. Collective: called on all processes alike."""
        return ExtraCandidates()

    def terms(self, s: Similarity) -> dict[str, Tensor | float]:
        """Named numbers for the learning curve, from a similarity of this step that `extra_candidates` added to. The
        names are the same on all processes, which average the numbers."""
        return {}

    def update(self, keys: Tensor, items: Items) -> None:
        """After the optimiser step: the step's keys (n, D), detached."""

    def reset(self) -> None:
        """Forgets everything: the encoder begins anew."""


def columns_of(rows: Tensor, known: Tensor) -> Tensor:
    """The place of each sample id in a sorted list of ids, -1 where it is not there."""
    if not len(known):
        return torch.full_like(rows, -1)
    place = torch.searchsorted(known, rows).clamp(max=len(known) - 1)
    return torch.where(known[place] == rows, place, -1)


def known_pairs(anchors: Tensor, items: Items, stored: Tensor) -> Relation:
    """Pairs of an anchor and a stored key that hide from each other: equal in an identity, or known to belong together.

    anchors: the item of each anchor (N,); items: of the batch; stored: identities of the keys (K, identity_kinds).
    """
    relation: Relation = nobody
    for kind in range(items.item_identities.shape[1]):
        relation = relation | same(items.item_identities[anchors, kind], stored[:, kind])
    if items.known is not None:
        lists, kind = items.known
        relation = relation | lists.among(stored[:, kind], anchors)
    return relation
