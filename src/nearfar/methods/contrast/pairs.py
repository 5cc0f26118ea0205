"""What methods of pairs share: two columns (or two members of a group), each through its encoder."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from nearfar import heads, modalities
from nearfar.checks import Width
from nearfar.encoders import Encoder, Features
from nearfar.errors import InputError
from nearfar.methods.base import Loss
from nearfar.methods.batch import Batch, Facts, by_member
from nearfar.methods.contrast.shared import Contrast, part_name
from nearfar.methods.contrast.views import check_plan
from nearfar.methods.tower import Tower
from nearfar.similarity import ExcludedPairs, all_views, both_ways, one_way
from nearfar.views import Views, build

if TYPE_CHECKING:
    from nearfar.sources.data import Data


def columns() -> list[tuple[str, str]]:
    """Pairs of roles, in the order in which they are taken: the later kinds of data say more of what belongs
    together."""
    order = {kind.name: number for number, kind in enumerate(modalities.everyone())}
    return sorted(modalities.pairs(), key=lambda pair: -sum(order[modalities.of(role).name] for role in pair))


class PairContrast(Contrast):
    """Two columns (or two members of a group), each through its encoder.

    Args:
        symmetric: both directions (their mean) or only the first column as anchors.
        head: on top of the encoders, kept at inference: none, linear, mlp, or own: those of the model that both came
            with (--model). auto: own where there are such, linear where the encoders differ in width or are frozen,
            else none.
        dim: width of the common space; needed with a head.
        views: how an image (or text) is changed before it is encoded; auto is mild for images, nothing for texts.
    """

    needs = (frozenset({"pair"}), frozenset({"any", "group"}))
    join = "mean"
    follows = {"symmetric": "learn_temperature", "head": "negatives"}

    def __init__(
        self,
        encoder: Encoder,
        encoder_b: Encoder | None = None,
        *,
        symmetric: bool = True,
        head: Literal["auto", "none", "linear", "mlp", "own"] = "auto",
        dim: Width = 256,
        views: Views | None = None,
        **shared: Any,
    ):
        super().__init__(**shared)
        self.symmetric = symmetric
        self.two = encoder_b is not None
        other = encoder_b or encoder
        head = self.chosen_head(encoder, other) if head == "auto" else head
        if head == "own":
            dim = joint_space(encoder, other)
        if head == "none" and encoder.dim != other.dim:
            raise InputError(f"The two encoders give {encoder.dim} and {other.dim} numbers.", "Use head=linear.")
        self.dim = encoder.dim if head == "none" else dim
        self.tower_a = Tower(encoder, _head(head, encoder, dim), kept=True)
        self.tower_b = Tower(other, _head(head, other, dim), kept=True) if self.two else self.tower_a
        self.plans = {e.modality: pair_views(views, e) for e in (encoder, other)}
        self.roles: tuple[str, str] = ("", "")
        self.by_group = False

    usual_head: Literal["none", "linear", "mlp"] = "none"
    """The head of encoders of one width that are trained, where none is named."""

    @classmethod
    def chosen_head(cls, encoder: Encoder, other: Encoder) -> Literal["none", "linear", "mlp", "own"]:
        """What `auto` stands for."""
        trained = [p for e in (encoder, other) for p in e.parameters() if p.requires_grad]
        if encoder.joint is not None and other.joint is not None and (trained or encoder.joint.head is not None):
            return "own"
        return "linear" if not trained or encoder.dim != other.dim else cls.usual_head

    @property
    def graded(self) -> bool:
        return self.row_loss.graded

    @classmethod
    def parts(cls, chosen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        return {"views": {"name": "members", "k": 1}}

    @classmethod
    def wants(cls, roles: Set[str], by_group: bool) -> list[str]:
        if "group" not in roles or not by_group or not any("group" in n for n in cls.needs):
            for pair in columns():
                if set(pair) <= roles and ({*pair} in cls.needs or {modalities.PAIR} in cls.needs):
                    return modalities.kinds(pair)
        return [str(modalities.first(roles))]

    def columns(self, roles: Set[str]) -> None:
        """Fixes what is paired, from the roles that the data hold."""
        kinds = {self.tower_a.encoder.modality, self.tower_b.encoder.modality}
        for pair in columns():
            if set(pair) <= roles and set(modalities.kinds(pair)) == kinds:
                self.roles = pair
                self._check_single()
                if self.row_loss.graded and "score" not in roles:
                    raise InputError(
                        f"The loss '{part_name(self.row_loss)}' needs the score of each pair.",
                        "Name its column: --score COLUMN.",
                    )
                return
        if self.row_loss.graded:
            raise InputError(
                f"The loss '{part_name(self.row_loss)}' needs two columns and the score of each pair.",
                "Name them: --text COLUMN --text-b COLUMN --score COLUMN.",
            )
        role = self.tower_a.encoder.role
        if "group" in roles and not self.two:
            self.roles, self.by_group = (str(role), str(role)), True
            return
        raise InputError(
            f"'{self.slug}' needs two columns of pairs or groups; these data have {sorted(roles)}.",
            "Name them, for example --text QUESTION --text-b ANSWER, or --group COLUMN.",
        )

    def _check_single(self) -> None:
        """Columns pair single items: views that draw several members of a group have nothing to draw from."""
        for plan in self.plans.values():
            if plan is not None and plan.members > 1:
                raise InputError(
                    f"The views '{type(plan).__name__.lower()}' draw {plan.members} members of a group, but the pairs "
                    "are made of columns here.",
                    "Add --by group where there are groups, set --views.k 1, or choose other views.",
                )

    @property
    def reads(self) -> tuple[str, ...]:
        return self.roles

    @property
    def paired(self) -> bool:
        return not self.by_group

    @property
    def members(self) -> int:
        if not self.by_group:
            return 1
        plan = self.plans[self.tower_a.encoder.modality]
        return max(2, plan.members) if plan is not None else 2

    def reader(self, data: Data, role: str) -> Any:
        plan = self.plans.get(modalities.of(role).name)
        return None if plan is None else plan.reader(data, role)

    def resolve(self, facts: Facts) -> dict[str, Any]:
        return self.setup_negatives(self.dim, facts)

    def make_views(self, batch: Batch) -> dict[str, list]:
        made: dict[str, list] = {}
        generator = batch.generator()
        for role, tower in zip(self.roles, (self.tower_a, self.tower_b), strict=True):
            if role not in made:
                made[role] = self._views(batch.inputs[role], batch.members, tower.encoder, generator)
        if "negative" in batch.inputs:
            made["negative"] = [self._view(x, self.tower_b.encoder, generator) for x in batch.inputs["negative"]]
        return made

    def _views(self, x: Any, members: int, encoder: Any, generator: torch.Generator) -> list[Any]:
        """One view of each member; a plan over several members gets them together."""
        plan = self.plans[encoder.modality]
        if plan is not None and plan.members == members and members > 1:
            return plan(x, generator)
        return [self._view(part, encoder, generator) for part in by_member(x, members)]

    def _view(self, x: Any, encoder: Any, generator: torch.Generator) -> Any:
        if isinstance(x, Features):
            return x
        plan = self.plans[encoder.modality]
        return plan(x, generator)[0] if plan is not None else modalities.get(encoder.modality).ready(x, encoder)

    def encode(self, batch: Batch) -> dict[str, Any]:
        if self.by_group:
            return {"members": [self.tower_a(x) for x in batch.views[self.roles[0]]]}
        a, b = (batch.views[r][0] for r in self.roles)
        out: dict[str, Any] = {"a": self.tower_a(a), "b": self.tower_b(b)}
        if "negative" in batch.views:
            out["negative"] = [self.tower_b(x) for x in batch.views["negative"]]
        return out

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        if self.row_loss.graded:
            return self.graded_loss(embedded["a"], embedded["b"], batch)
        options = self.layout_options(batch)
        if self.by_group:
            z = embedded["members"]
            return self.report(all_views(z, **options), z[0], batch)
        a, b = embedded["a"], embedded["b"]
        keys = torch.cat([b, *embedded.get("negative", [])])
        if not self.symmetric:
            layout = one_way(a, keys, **self.with_hard_negatives(options, batch))
        else:
            back = self.extra_candidates(batch, blocks=False)
            layout = both_ways(
                a, keys, join=self.join, extra_candidates_back=back, **self.with_hard_negatives(options, batch)
            )
        return self.report(layout, a, batch)

    def graded_loss(self, a: Tensor, b: Tensor, batch: Batch) -> Loss:
        """The loss of pairs with a score: the other rows of the batch are no negatives."""
        assert batch.scores is not None
        self.monitored = a.detach()
        terms: dict[str, Tensor | float] = {}
        if self.row_loss.tempered:
            terms["temperature"] = self.temperature().detach()
        return Loss(self.row_loss.of_pairs(a, b, batch.scores, self.temperature()), terms)

    def with_hard_negatives(self, options: dict[str, Any], batch: Batch) -> dict[str, Any]:
        """Hard negatives beyond the batch hide from an anchor that they belong to, like its duplicates; the places of
        those that an item lacks hide from all."""
        if not batch.negatives:
            return options
        found = batch.excluded_with_negatives() if self.mask_duplicates else ExcludedPairs([])
        return options | {"excluded": ExcludedPairs([*found.kinds, batch.missing_negatives()], found.known)}

    def keys_of(self, embedded: dict[str, Any], own: bool = False) -> Tensor:
        return embedded["members"][-1] if self.by_group else embedded["b"]

    def sides(self, embedded: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return (embedded["members"][0] if self.by_group else embedded["a"]), self.keys_of(embedded)

    def side_rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        rows = by_member(batch.rows, batch.members)
        return rows[0], rows[-1]

    def nested_width(self) -> int | None:
        own = type(self).loss is not PairContrast.loss or self.negatives is not None
        return None if own else self.taught_width()

    def taught_width(self) -> int | None:
        cls = type(self)
        return self.dim if cls.encode is PairContrast.encode and cls.sides is PairContrast.sides else None

    def towers(self) -> dict[str, Tower]:
        if self.by_group:
            return {self.roles[0]: self.tower_a}
        return {self.roles[0]: self.tower_a, self.roles[1]: self.tower_b}


def joint_space(encoder: Encoder, other: Encoder) -> int:
    """The width of the space that both encoders came with. Raises InputError where there is none."""
    a, b = encoder.joint, other.joint
    if a is None or b is None or a.space != b.space:
        raise InputError("head=own takes the heads of the model that both encoders came with.",
                         "Name it: --model FOLDER; or use head=linear.")  # fmt: skip
    return a.dim


def _head(kind: str, encoder: Encoder, dim: int) -> nn.Module | None:
    if kind == "none":
        return None
    if kind == "own":
        return encoder.joint.head if encoder.joint else None
    width = encoder.dim
    return heads.linear(width, dim) if kind == "linear" else heads.mlp(width, width, dim)


def pair_views(plan: Views | None, encoder: Encoder) -> Views | None:
    """The views of one side: those named, where they are for its kind, else the kind's mild ones, if it has any."""
    if plan is not None and plan.modality == encoder.modality:
        return check_plan(plan, encoder)
    mild = modalities.get(encoder.modality).pair_plan
    return None if mild is None else check_plan(build(mild[0], **mild[1]), encoder)
