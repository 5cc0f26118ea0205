"""Methods of several modalities of one row: their vectors, and the classifiers on each and on all together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nearfar import heads, modalities
from nearfar.encoders import Encoder
from nearfar.encoders.base import evaluating
from nearfar.encoders.numeric import GroupedVectors
from nearfar.errors import InputError, did_you_mean
from nearfar.methods.base import Method
from nearfar.methods.batch import Batch
from nearfar.methods.inference import Inference, Request
from nearfar.methods.row_modalities import (
    FUSION,
    check_there,
    column_groups,
    group_contents,
    grouped,
    roles_of_modalities,
)
from nearfar.methods.text_classes import classifier, training_classes
from nearfar.methods.tower import Tower
from nearfar.similarity.exchange import exchange

if TYPE_CHECKING:
    from nearfar.sources.data import Data


class Fused(nn.Module):
    """A classifier on the vectors of all modalities together (`FUSION`), and one on each alone unless `alone` is false.

    dims: modality -> length of its vector. Weights by Xavier's normal rule, biases 0."""

    def __init__(self, dims: Mapping[str, int], classes: int, hidden: int, layers: int, alone: bool = True):
        super().__init__()
        self.dims, self.classes, self.hidden, self.layers = dict(dims), classes, hidden, layers
        widths = {FUSION: sum(dims.values())} | (self.dims if alone else {})
        self.places = {name: str(place) for place, name in enumerate(widths)}
        made = {self.places[name]: classifier(width, classes, hidden, layers - 1) for name, width in widths.items()}
        self.heads = nn.ModuleDict(made)
        for part in self.heads.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_normal_(part.weight)
                nn.init.zeros_(part.bias)

    def logits(self, vectors: Sequence[Tensor], head: str = FUSION) -> Tensor:
        """Vectors (n, d_m) of all modalities -> (n, classes)."""
        x = torch.cat(list(vectors), 1) if head == FUSION else vectors[list(self.dims).index(head)]
        return self.heads[self.places[head]](x)

    def forward(self, vectors: Sequence[Tensor]) -> dict[str, Tensor]:
        return {name: self.logits(vectors, name) for name in self.places}

    def config(self) -> dict[str, Any]:
        return {"dims": self.dims, "classes": self.classes, "hidden": self.hidden, "layers": self.layers,
                "alone": len(self.places) > 1}  # fmt: skip


@dataclass
class HeadOptions:
    """Which classifier tells the class.

    Args:
        by: fusion (of all modalities together), or the name of a modality, whose own one is asked.
    """

    by: str = FUSION


class FusedClasses(Inference):
    """The class of a row by its modalities together. towers: role -> tower, in the order of the modalities."""

    options = HeadOptions
    classifies = True

    def __init__(self, fused: Fused, names: list[str], towers: Mapping[str, Tower]):
        super().__init__()
        self.fused, self.names, self._towers = fused, names, (dict(towers),)

    @classmethod
    def restored(cls, config: Mapping[str, Any], towers: Mapping[str, Tower]) -> FusedClasses:
        """As `config` says, with fresh weights."""
        own = {role: towers[role] for role in config["roles"]}
        return cls(Fused(**config["fused"]), config["names"], own)

    def config(self) -> dict[str, Any]:
        return {"fused": self.fused.config(), "names": self.names, "roles": list(self._towers[0])}

    def vectors_of(self, data: Data, rows: np.ndarray, embed: Any) -> list[Tensor]:
        """The vector of each modality, (n, d_m), as the classifiers take them."""
        device, found = next(self.fused.parameters()).device, []
        for role, tower in self._towers[0].items():
            check_there(data, role, rows, tower.encoder)
            if isinstance(tower.encoder, GroupedVectors):
                ready = modalities.of(role).reader(data, role, tower.encoder).ready
                with evaluating(tower):
                    found += tower.encoder.each(ready(np.asarray(rows)).to(device))
            else:
                found.append(torch.from_numpy(np.array(embed.raw(role, rows))).to(device))
        return found

    def logits(self, data: Data, rows: np.ndarray, embed: Any, by: str = FUSION) -> Tensor:
        if by not in self.fused.places:
            raise InputError(f"This model has no classifier '{by}'.{did_you_mean(by, list(self.fused.places))}",
                             f"Classifiers: {', '.join(self.fused.places)}.")  # fmt: skip
        with evaluating(self.fused):
            return self.fused.logits(self.vectors_of(data, rows, embed), by)

    def of_classes(self, data: Data, rows: np.ndarray, embed: Any) -> list[str]:
        return [self.names[k] for k in self.logits(data, rows, embed).argmax(1).tolist()]

    def predict(self, request: Request, options: HeadOptions) -> dict[str, Any]:
        """prediction: name of the class; share: its probability."""
        share = self.logits(request.data, request.rows, request.embed, options.by).softmax(1)
        return {"prediction": [self.names[k] for k in share.argmax(1)], "share": share.amax(1)}


class OfModalities(Method):
    """Each modality of a row through its encoder to a vector, all of one width; `Fused` tells the class by them. What
    a derived class calls in its constructor: `take_encoders`, then `take_classifiers`.

    `roles`: of the modalities; `names`: of the classes; `fused`: the classifiers; `contents`: of each modality that is
    a group of numbers an integer of each row of the data, equal where its numbers are, else None.
    """

    fused: Fused
    contents: list[Tensor | None]

    def take_encoders(self, encoders: Sequence[Encoder], groups: str | None, head: str, dim: int) -> None:
        """head: none, linear, or auto: linear where the encoders differ in width or none is trained; dim: width of
        vectors with it. Raises InputError: groups without numbers, several widths without a layer."""
        widths = {one.each_dim if isinstance(one, GroupedVectors) else one.dim for one in encoders}
        still = not any(p.requires_grad for one in encoders for p in one.parameters())
        linear = head == "linear" or (head == "auto" and (len(widths) > 1 or still))
        if len(widths) > 1 and not linear:
            raise InputError(f"The encoders give {' and '.join(map(str, sorted(widths)))} numbers.", "Use head=linear.")
        made = [grouped(one, groups, len(encoders) == 1, dim if linear else None) for one in encoders]
        if groups is not None and not any(isinstance(one, GroupedVectors) for one in made):
            raise InputError("--groups divides columns of numbers, and there are none.", "Name them: --vector COLUMNS.")
        self.dim = dim if linear else widths.pop()
        plain = [linear and not isinstance(one, GroupedVectors) for one in made]
        self.encoders = nn.ModuleList(
            Tower(one, heads.linear(one.dim, dim) if layer else None, kept=True)
            for one, layer in zip(made, plain, strict=True)
        )
        self.roles: list[str] = []
        self.names: list[str] = []

    def take_classifiers(self, hidden: int | Literal["auto"], layers: int | Literal["auto"], alone: bool) -> None:
        """hidden: their width; auto: 256, or that of the vectors where all are numbers; layers: of each; auto: 3, or 2
        where all are numbers; alone: whether each modality has one."""
        towers: Any = self.encoders
        numbers = all(tower.encoder.modality == "vector" for tower in towers)
        self.hidden = (self.dim if numbers else 256) if hidden == "auto" else hidden
        self.layers = (2 if numbers else 3) if layers == "auto" else layers
        self.unimodal = alone

    @classmethod
    def wants(cls, roles: Set[str], by_group: bool) -> list[str]:
        return [modalities.of(role).name for role in roles_of_modalities(roles)]

    @classmethod
    def lacks(cls, data: Data) -> str:
        found = roles_of_modalities(set(data.training_roles))
        listed = data.training_roles.get(found[0]) if len(found) == 1 else None
        if listed is None:
            return ""
        try:
            column_groups(modalities.get("vector").names(data, found[0]))  # pyright: ignore
        except InputError:
            return f'must be told groups of columns: "{cls.slug} --groups {listed[0]};{listed[-1]}"'
        return ""

    def columns(self, roles: Set[str]) -> None:
        self.roles = roles_of_modalities(roles)
        if len(self.roles) != len(self.encoders):
            raise InputError(f"'{self.slug}' needs each modality in a column of its own.", "Leave out --by group.")
        if "vector_b" in roles:
            raise InputError(f"'{self.slug}' reads all numbers as --vector, and tells modalities apart by their "
                             "columns.", 'Name both in --vector, and --groups "COLUMNS; COLUMNS".')  # fmt: skip

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(self.roles)

    def prepare(self, data: Data, rows: Any) -> None:
        """Raises InputError where the training rows are of one class, or one lacks a modality."""
        self.names, self.contents = training_classes(data, rows), []
        for role, _, encoder in self.sides():
            check_there(data, role, rows, encoder)
            if isinstance(encoder, GroupedVectors):
                self.contents += torch.from_numpy(group_contents(data, role, encoder)).unbind()
            else:
                self.contents.append(None)
        self.fused = Fused(dict.fromkeys(self.named, self.dim), len(self.names), self.hidden, self.layers,
                           self.unimodal)  # fmt: skip

    def sides(self) -> list[tuple[str, Tower, Any]]:
        """Each role with its tower and that one's encoder."""
        towers: Any = self.encoders
        return [(role, tower, tower.encoder) for role, tower in zip(self.roles, towers, strict=True)]

    @staticmethod
    def many(encoder: Any) -> int:
        """How many modalities an encoder reads."""
        return len(encoder.groups) if isinstance(encoder, GroupedVectors) else 1

    @property
    def named(self) -> list[str]:
        """The name of each modality: its role, or its group of numbers."""
        parts = ([*e.groups] if isinstance(e, GroupedVectors) else [role] for role, _, e in self.sides())
        return [name for part in parts for name in part]

    def equal_groups(self, batch: Batch, places: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Kinds of identity: of those among these modalities that are groups of numbers, which rows are equal."""
        kinds = [self.contents[place] for place in places]
        found = [ids[batch.rows.cpu()].to(batch.rows.device) for ids in kinds if ids is not None]
        return [(ids, ids) for ids in found]

    def class_losses(self, vectors: Sequence[Tensor], batch: Batch) -> list[Tensor]:
        """The cross-entropy of each classifier, that on all modalities first."""
        assert batch.targets is not None
        net = exchange("global")
        return [net.mean(cross_entropy(logits.float(), batch.targets, reduction="none"))
                for logits in self.fused(vectors).values()]  # fmt: skip

    def towers(self) -> dict[str, Tower]:
        return {role: tower for role, tower, _ in self.sides()}

    def inference(self) -> FusedClasses:
        return FusedClasses(self.fused, self.names, self.towers())

    @classmethod
    def restore_inference(cls, config: Mapping[str, Any], towers: Mapping[str, Tower]) -> FusedClasses:
        return FusedClasses.restored(config, towers)


__all__ = ["Fused", "FusedClasses", "HeadOptions", "OfModalities"]
