"""The contract of a method, and what travels with every batch."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from nearfar import modalities, processes
from nearfar.encoders.base import Features
from nearfar.errors import InputError, NearfarError, did_you_mean
from nearfar.methods.inference import Inference
from nearfar.methods.optimisation import Optimisation
from nearfar.methods.paper import Paper
from nearfar.methods.phases import Phase, check_phases, run_phases
from nearfar.options import make_part
from nearfar.samplers import Groups, Permutation, Sampler
from nearfar.similarity import ExcludedPairs, Known


@dataclass(frozen=True)
class Facts:
    """What the defaults called "auto" may depend on. `samples`: training rows; `items`: things to contrast (groups
    where several members are drawn); `steps`: optimiser steps of the whole run;
    `kinds`: columns of `Batch.item_identities`;
    `classes`: names of the different classes of the target, as `Batch.targets` counts them."""

    samples: int
    items: int
    batch_size: int
    steps: int
    has_groups: bool = False
    kinds: int = 0
    classes: Sequence[str] = ()

    @property
    def epoch(self) -> int:
        """Steps in which every item is seen once."""
        return max(1, self.items // self.batch_size)


FACTS = ("groups", "domains", "bags", "targets", "values", "negative_groups", "scores")


@dataclass
class Batch:
    """n items; with `members` > 1 the rows of each field are member-major: all first members, then all second...

    rows: sample ids (members n,); inputs: role -> what views take (uint8 images, Tokens...) or `Features`;
    content: role -> content ids;
    crossed: pairs of roles whose contents are compared with each other as well; negatives: content ids of each hard
    negative, (n,) each, -1 where an item has none; scores: of the pairs, (n,), or None; known: what belongs together by
    further rows of the data, as the two directions see it, or None.
    groups: (members n,) or None; labels: column -> (members n,), -1 = missing; domains: (members n,) or None.
    bags: (members n,), which bag a row belongs to, or None. targets: (members n,), the class that is to be told, of
    `Facts.classes`, -1 = missing; values: (members n,), the number that is, NaN = missing; None without such a target.
    views: role -> list of views.
    negative_groups: (n,) or None; an item's negatives come from its own pool alone.
    step, steps: the optimiser step that it belongs to, and their number; turn, turns: which batch of that step it is,
    of how many (more than one where gradients are accumulated). rank: of the process that holds it; everywhere: rows
    of this batch over all processes.
    """

    rows: Tensor
    inputs: dict[str, Any]
    content: dict[str, Tensor] = field(default_factory=dict)
    groups: Tensor | None = None
    labels: dict[str, Tensor] = field(default_factory=dict)
    members: int = 1
    step: int = 0
    steps: int = 1
    turn: int = 0
    turns: int = 1
    rank: int = 0
    everywhere: int = 0
    seed: int = 0
    views: dict[str, list] = field(default_factory=dict)
    domains: Tensor | None = None
    bags: Tensor | None = None
    targets: Tensor | None = None
    values: Tensor | None = None
    negative_groups: Tensor | None = None
    crossed: Sequence[tuple[str, str]] = ()
    negatives: Sequence[Tensor] = ()
    scores: Tensor | None = None
    known: tuple[Known, Known] | None = None

    def __len__(self) -> int:
        return self.rows.shape[0] // self.members

    def to(self, device: torch.device | str) -> Batch:
        return dataclasses.replace(
            self,
            rows=self.rows.to(device),
            inputs=_to(self.inputs, device),
            content=_to(self.content, device),
            labels=_to(self.labels, device),
            **{name: None if x is None else x.to(device) for name, x in self._facts().items()},
            negatives=[ids.to(device) for ids in self.negatives],
            known=None if self.known is None else (self.known[0].to(device), self.known[1].to(device)),
        )

    def _facts(self) -> dict[str, Tensor | None]:
        """What is known of each row (negative groups: of each item), by the name of the field."""
        return {name: getattr(self, name) for name in FACTS}

    def part(self, rows: slice) -> Batch:
        """Some items with their views and all that is known of their rows, for encoding in micro-batches. Inputs that
        views were made from, and lists of what belongs to other items, stay behind."""
        items = torch.arange(len(self), device=self.rows.device)[rows]
        index = torch.cat([items + m * len(self) for m in range(self.members)])
        facts = {name: None if x is None else x[items if len(x) == len(self) else index]
                 for name, x in self._facts().items()}  # fmt: skip
        return dataclasses.replace(
            self,
            rows=self.rows[index],
            inputs={},
            content={role: ids[index] for role, ids in self.content.items()},
            labels={column: values[index] for column, values in self.labels.items()},
            views={role: [_rows(x, rows) for x in views] for role, views in self.views.items()},
            negatives=[ids[items] for ids in self.negatives],
            known=None,
            **facts,
        )

    def generator(self) -> torch.Generator:
        """Random numbers of this step alone, so that a resumed run draws the same."""
        generator = torch.Generator(device=self.rows.device)
        generator.manual_seed(self.random_seed)
        return generator

    @property
    def random_seed(self) -> int:
        """Another one for every batch of every process."""
        return (self.seed * 1_000_003 + self.step * self.turns + self.turn + (self.rank << 40)) % (1 << 63)

    @property
    def last_turn(self) -> bool:
        """Whether the optimiser steps after this batch."""
        return self.turn == self.turns - 1

    @staticmethod
    def joined(parts: Sequence[Batch]) -> Batch:
        """The batches of one optimiser step as one, without their inputs and views."""
        first = parts[0]
        if len(parts) == 1:
            return first

        def join(values: Sequence[Tensor]) -> Tensor:
            members = first.members if len(values[0]) == len(first.rows) else 1
            return torch.cat([v.view(members, -1) for v in values], 1).reshape(-1)

        return dataclasses.replace(
            parts[-1],
            rows=join([p.rows for p in parts]),
            inputs={},
            content={k: join([p.content[k] for p in parts]) for k in first.content},
            **{k: None if x is None else join([getattr(p, k) for p in parts]) for k, x in first._facts().items()},
            labels={k: join([p.labels[k] for p in parts]) for k in first.labels},
            views={},
            negatives=(),
            known=None,
        )

    def identities(self, further: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """What makes two items no negatives of each other, where it is equal: one group, or any equal content. Of each
        kind the value of an item as an anchor and as a candidate, (n,) each, -1 where unknown.

        further: content ids of candidates of the last role that follow the items, (m,).
        """
        n, partner = len(self), next(reversed(self.content), "")

        def candidates(values: Tensor, role: str) -> Tensor:
            if further is None:
                return values
            return torch.cat([values, further if role == partner else torch.full_like(further, -1)])

        kinds = [] if self.groups is None else [(self.groups[:n], candidates(self.groups[:n], ""))]
        for a, b in [*((role, role) for role in self.content), *self.crossed]:
            kinds += [(x, candidates(y, b)) for x in self.content[a].split(n) for y in self.content[b].split(n)]
        return kinds

    @property
    def partner_kind(self) -> int:
        """Which of the `identities` holds the content of the candidates' role."""
        return int(self.groups is not None) + len(self.content) - 1

    def item_identities(self) -> Tensor:
        """(n, kinds): the `identities` of the items as anchors."""
        return self._stacked([row for row, _ in self.identities()])

    def key_identities(self) -> Tensor:
        """(n, kinds): the `identities` of the items as candidates."""
        return self._stacked([column for _, column in self.identities()])

    def _stacked(self, kinds: list[Tensor]) -> Tensor:
        return torch.stack(kinds, 1) if kinds else self.rows.new_full((len(self), 0), -1)

    def excluded(self) -> ExcludedPairs:
        """Items of the batch that are no negatives of each other: equal in one of the `identities`, or known to belong
        together by other rows."""
        return ExcludedPairs(self.identities(), self.known)

    def excluded_with_negatives(self) -> ExcludedPairs:
        """`excluded` where the hard negatives follow the items as candidates, each known by its content alone."""
        further, known = torch.cat(list(self.negatives)), self.known
        if known is not None:
            known = Known(known[0].flat, known[0].starts, torch.cat([known[0].columns, further])), known[1]
        return ExcludedPairs(self.identities(further), known)

    def missing_negatives(self) -> tuple[Tensor, Tensor]:
        """A kind of identity that hides from every anchor the places of hard negatives that are not there."""
        anchors = self.rows.new_zeros(len(self))
        return anchors, torch.cat([anchors - 1, torch.where(torch.cat(list(self.negatives)) < 0, 0, -1)])

    def extra_positives(self, kind: str) -> Tensor | None:
        """(n,) integers, equal for items that are positives of each other, -1 where unknown; None: no such pair.

        kind: "group", the name of a column of labels, or "auto": the first column of labels, else the groups.
        """
        n = len(self)
        if kind == "auto":
            kind = next(iter(self.labels), "group")
        elif kind != "group" and kind not in self.labels:
            raise InputError(
                f"There is no column of labels '{kind}'.{did_you_mean(kind, list(self.labels))}",
                f"Known: {', '.join(['group', *self.labels])}. Name columns of labels with --label.",
            )
        values = self.groups if kind == "group" else self.labels[kind]
        return None if values is None else values[:n]

    def masked_share(self) -> float:
        """The share of pairs of different items that are hidden from each other."""
        n = min(len(self), 2048)
        if n < 2:
            return 0.0
        same = torch.zeros(n, n, dtype=torch.bool, device=self.rows.device)
        for a, b in self.identities():
            same |= (a[:n, None] == b[None, :n]) & (a[:n, None] >= 0)
        if self.known is not None:
            row, column = self.known[0].among(self.known[0].columns, torch.arange(len(self))).pairs(slice(0, n))
            same[row[column < n], column[column < n]] = True
        same.fill_diagonal_(False)
        return float(same.sum()) / (n * (n - 1))


def _to(values: Mapping[str, Any], device: torch.device | str) -> dict[str, Any]:
    return {k: [x.to(device) for x in v] if isinstance(v, list) else v.to(device) for k, v in values.items()}


def _rows(x: Any, rows: slice) -> Any:
    return x[rows] if isinstance(x, Tensor) else type(x)(*(field[rows] for field in x))


@dataclass
class Loss:
    """The total that is minimised, and its named terms for the learning curve."""

    total: Tensor
    terms: dict[str, Tensor | float] = field(default_factory=dict)


class Tower(nn.Module):
    """Encoder and head of one role. `kept`: the head belongs to the embedding, not to training alone."""

    def __init__(self, encoder: nn.Module, head: nn.Module | None = None, kept: bool = False):
        super().__init__()
        self.encoder, self.head, self.kept = encoder, head, kept

    def features(self, x: Any) -> Tensor:
        """(n, encoder.dim). `Features` of a frozen encoder pass through."""
        return x.values if isinstance(x, Features) else self.encoder(x)

    def project(self, h: Tensor) -> Tensor:
        """Features (n, encoder.dim) through the head."""
        return h if self.head is None else self.head(h)

    def forward(self, x: Any) -> Tensor:
        return self.project(self.features(x))

    def embed(self, x: Any) -> Tensor:
        """What the model gives at inference."""
        return self(x) if self.kept else self.features(x)


class Cached:
    """A large batch through the encoder on the memory of a small one, with exact gradients (gradient caching, Gao et
    al. 2021): embeddings of all parts without a graph; the loss and its gradient to the embeddings; then each part
    once more with a graph, under the same random numbers (dropout), and backward.

    Batch norm sees the parts, not the whole batch: there the gradients are those of the parts' own statistics.
    """

    def __init__(self, method: Method, batch: Batch, size: int):
        self.method = method
        count = -(-len(batch) // size)
        edges = [round(k * len(batch) / count) for k in range(count + 1)]
        self.parts = [batch.part(slice(a, b)) for a, b in itertools.pairwise(edges)]
        self.states: list[Any] = []
        self.leaves: dict[str, Any] = {}

    def embedded(self) -> dict[str, Any]:
        """Embeddings of the whole batch, as leaves that collect the gradient of the loss."""
        made = []
        with torch.no_grad():
            for part in self.parts:
                self.states.append(random_state())
                made.append(self.method.encode(part))
        self.leaves = {name: _joined([m[name] for m in made]) for name in made[0]}
        return dict(self.leaves)

    def backward(self) -> None:
        """Carries the gradients of the embeddings through the encoder, part by part."""
        after, place = random_state(), 0
        for part, state in zip(self.parts, self.states, strict=True):
            set_random_state(state)
            outputs = self.method.encode(part)
            pairs = [
                (z, leaf.grad[place : place + len(part)])
                for name in outputs
                for z, leaf in zip(_listed(outputs[name]), _listed(self.leaves[name]), strict=True)
                if leaf.grad is not None and z.requires_grad
            ]
            if pairs:
                torch.autograd.backward([z for z, _ in pairs], [g for _, g in pairs])
            place += len(part)
        set_random_state(after)


def random_state() -> tuple[Tensor, list[Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def set_random_state(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])


def _listed(value: Any) -> list[Tensor]:
    return value if isinstance(value, list) else [value]


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], list):
        return [_joined([p[k] for p in parts]) for k in range(len(parts[0]))]
    return torch.cat(parts).requires_grad_()


class Method(pl.LightningModule):
    """One paper. A plain one writes `encode` and `loss`; the rest has defaults that do nothing.

    Attributes: `role`: the role of the data that it reads, its encoder's kind (methods of pairs have `columns`).
    `supervised`: whether it sees labels or targets of the training rows: `compare` says so beside its scores.
    `similarity`: how its vectors are compared, "cosine" or "dot". `length`: the most tokens that are read of a text
    (None: what the encoder takes). `micro`: most items that pass the encoder at once on a device; `fit` sets it from
    --micro-batch. `log_every`: steps between two lines of the curve. `survey`: the whole training set as the method
    sees it now (`nearfar.negatives.Survey`), or None outside of `fit`.
    Class attributes: `paper`; `needs`: alternatives, each the roles that a sample must hold ("any": a column of any
    kind of data; "pair": two columns that belong together); `target`: what it learns of the target, "classes",
    "numbers" or, of the class that a bag has as a whole, "bags" (None: nothing), and `unlabelled`: whether it learns of
    rows without one as well; `preset_paper`: the literals of the paper for options whose default is fitted to the data,
    and `paper_training`: those of its optimiser
    (fields of `Optimisation`; `lr_batch`: the batch at which `lr` holds, where it grows with the batch), both for
    `--preset paper`; `of_part`: option -> the part that it is an option of; `uses_batch`: whether the other items of
    the batch act as negatives (then gradient accumulation does not replace a larger batch); `baseline`: the highest
    of those that are compared is what the others are paired with; `trained`: False where nothing is trained, `prepare`
    and the towers are all; `splits`: False where its loss cannot be computed in micro-batches; `distributed`: False
    where it needs every batch whole on one process. `defaults`, `fixed`, `follows`: what a class changes in the
    options of its base (`nearfar.options.read`).
    """

    slug: ClassVar[str] = ""
    family: ClassVar[str] = ""
    paper: ClassVar[Paper]
    needs: ClassVar[Sequence[frozenset[str]]] = ()
    preset_paper: ClassVar[Mapping[str, Any]] = {}
    paper_training: ClassVar[Mapping[str, Any]] = {}
    of_part: ClassVar[Mapping[str, str]] = {}
    defaults: ClassVar[Mapping[str, Any]] = {}
    fixed: ClassVar[Sequence[str]] = ()
    follows: ClassVar[Mapping[str, str]] = {}
    uses_batch: ClassVar[bool] = True
    baseline: ClassVar[int] = 0
    trained: ClassVar[bool] = True
    splits: ClassVar[bool] = True
    distributed: ClassVar[bool] = True
    target: ClassVar[str | None] = None
    unlabelled: ClassVar[bool] = False
    supervised: bool = False
    similarity: str = "cosine"
    length: int | None = None
    role: str

    optimisation: Optimisation = Optimisation()
    updating: Optimisation = Optimisation()
    micro: int | None = None
    log_every: int = 10
    survey: Any = None
    seed: int = 0
    facts: Facts

    def __init__(self):
        super().__init__()
        self.watched: Tensor | None = None
        self.terms: dict[str, float] = {}
        self._cached: Cached | None = None
        self._pending: list[tuple[dict[str, Any], Batch]] = []

    # -- what a method writes ------------------------------------------------------------------------------------

    @classmethod
    def parts(cls, chosen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The method's own settings of the parts that it is given: "negatives" -> {"name": "queue", "in_batch": False}.
        `name` is the default part, if there is one; the settings hold for every part that has such an option, unless
        the user names them. chosen: the other options of the method."""
        return {}

    @classmethod
    def paper_preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """`preset_paper`, of the variant that the options given by the user choose."""
        return cls.preset_paper

    @classmethod
    def training_preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """`paper_training`, of the variant that the options given by the user choose."""
        return cls.paper_training

    @classmethod
    def default_part(cls, option: str, **chosen: Any) -> Any:
        """A fresh default part of that option, with the method's own settings; None where it has none."""
        settings = cls.parts(chosen).get(option, {})
        return make_part(option, settings) if "name" in settings else None

    @classmethod
    def suits(cls, roles: Mapping[str, Any]) -> tuple[int, str] | None:
        """How well it suits data with these roles (role -> column) where no method is named, and why; the highest is
        taken. None, the default: only where it is named."""
        return None

    @classmethod
    def wants(cls, roles: Set[str], by_group: bool) -> list[str]:
        """The kinds of data of the encoders that the constructor takes, for data that hold these roles (with "any" and
        "pair" as in `needs`). by_group: whether pairs are made of groups where the data hold columns of pairs
        as well."""
        need = next(n for n in cls.needs if n <= roles)
        return [str(modalities.first(roles if modalities.ANY in need else need))]

    def columns(self, roles: Set[str]) -> None:
        """Fixes which roles it reads, where the data (with these roles) leave a choice; called once, first."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The roles that the loader reads for it."""
        return (self.role,)

    @property
    def paired(self) -> bool:
        """Whether each row of the data is a pair to it."""
        return False

    @property
    def members(self) -> int:
        """Rows that one item needs from the sampler."""
        return 1

    @property
    def graded(self) -> bool:
        """Whether its loss reads how far the two sides of a row belong together (`Batch.scores`)."""
        return False

    @property
    def needs_rows(self) -> bool:
        """Whether it looks at all training rows: then a stream, whose items are no rows, is refused."""
        return False

    def sampler(self, stage: int) -> Sampler:
        """Which rows make the batches of a stage (0 where there are no stages): `nearfar.samplers`."""
        return Groups(self.members) if self.members > 1 else Permutation()

    def resolve(self, facts: Facts) -> dict[str, Any]:
        """Sizes what depends on the data; returns what each "auto" became, for the reader."""
        return {}

    def prepare(self, data: Any, rows: Any) -> None:
        """Once, before a sampler is asked for and anything is trained (mine, cluster, generate); `rows` are the
        training rows of `data`."""

    def before_draw(self, step: int) -> None:
        """Before the batch of a step is drawn."""

    def phases(self) -> Sequence[Phase]:
        """Updates that take turns in every step, each of its own parameters by its own loss, in place of `encode` and
        `loss`; none: one update of all parameters. The same phases at every call."""
        return ()

    def make_views(self, batch: Batch) -> dict[str, list]:
        """Batch inputs -> views, without gradient, from `batch.generator()` alone."""
        return {}

    def encode(self, batch: Batch) -> dict[str, Any]:
        """Views -> embeddings. Pure: it may run in micro-batches."""
        raise TypeError(f"{type(self).__name__} does not encode")

    def before_targets(self, batch: Batch) -> None:
        """Before targets are computed, once an optimiser step: the teacher's update."""

    def targets(self, batch: Batch) -> dict[str, Any]:
        """Further embeddings without gradient (a teacher's)."""
        return {}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        raise TypeError(f"{type(self).__name__} has no loss")

    def before_step(self) -> None:
        """After the backward pass, before the optimiser (frozen prototypes)."""

    def after_step(self, embedded: dict[str, Any], batch: Batch) -> None:
        """Once an optimiser step, after it: memories, projections. `embedded` is detached."""

    def towers(self) -> dict[str, Tower]:
        """The towers of the finished model by role, and by role and variant where it gives several vectors of one
        input: {"image": ..., "image/salient": ...}."""
        raise TypeError(f"{type(self).__name__} has no towers")

    def inference(self) -> Inference | None:
        """What the finished model answers beside vectors; saved with it, for `nearfar predict` and `generate`."""
        return None

    @classmethod
    def restore_inference(cls, config: Mapping[str, Any], towers: Mapping[str, Any]) -> Inference:
        """The module of `inference`, from its `config()`, before its tensors are loaded. towers: of the loaded model,
        by role (`nearfar.models.Tower`)."""
        raise TypeError(f"{cls.__name__} restores no inference")

    def scaled_parameters(self) -> dict[nn.Parameter, float]:
        """Parameters that learn at a multiple of the learning rate."""
        return {}

    # -- wiring ----------------------------------------------------------------------------------------------------

    def stage_of(self, step: int) -> int:
        """The stage that a step belongs to; see `Staged`."""
        return 0

    def within(self, step: int) -> tuple[int, int]:
        """The step as one of its stage, and the steps of that stage."""
        return step, self.facts.steps

    def steps_of_stages(self) -> list[tuple[int, int]]:
        """First and last step (not included) of each stage."""
        return [(0, self.facts.steps)]

    def finish_stage(self, stage: int) -> dict[str, Any]:
        """After the last step of a stage; what is to be told of it."""
        return {}

    def logged(self, batch: Batch) -> bool:
        """Whether this step gets a line of the learning curve, so that numbers for the reader are worth their time."""
        done = batch.step + 1
        return done % self.log_every == 0 or done in (1, batch.steps)

    def attach(self, facts: Facts) -> dict[str, Any]:
        """Called once before training: keeps the facts and resolves what is "auto"."""
        self.facts = facts
        found = self.resolve(facts)
        check_phases(self.phases())
        self.automatic_optimization = not self.phases()
        return found

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        torch.manual_seed(batch.random_seed)
        batch.views = self.make_views(batch)
        if not self.automatic_optimization:
            return self._in_phases(batch)
        self._cached = None
        if self.micro is not None and self.micro < len(batch):
            self._cached = Cached(self, batch, self.micro)
            embedded = self._cached.embedded()
        else:
            embedded = self.encode(batch)
        if batch.turn == 0:
            self.before_targets(batch)
        with torch.no_grad():
            embedded |= self.targets(batch)
        loss = self.loss(embedded, batch)
        self.check_finite(loss, batch.step)
        self.terms = {name: float(x) for name, x in loss.terms.items()} | {"loss": float(loss.total.detach())}
        if batch.turn == 0:
            self._pending = []
        self._pending.append(({k: _detached(v) for k, v in embedded.items()}, batch))
        return loss.total

    def _in_phases(self, batch: Batch) -> None:
        """One step of updates in turn, with what frames it."""
        self._reduce_by_hand()
        self.before_targets(batch)
        self.terms = run_phases(self, self.phases(), batch)
        self.after_step({}, batch)

    def check_finite(self, loss: Loss, step: int) -> None:
        """Raises NearfarError, on all processes alike, where a loss or one of its terms is not finite."""
        bad = [name for name, x in loss.terms.items() if not math.isfinite(float(x))]
        if processes.anywhere(bool(bad) or not bool(loss.total.detach().isfinite())):
            name = bad[0] if bad else "loss"
            raise NearfarError(
                f"The term '{name}' of {self.slug or type(self).__name__} is not finite at step {step}.",
                "Try a lower learning rate, a higher temperature, or --precision 32; the last checkpoint is kept.",
            )

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        super().backward(loss, *args, **kwargs)
        if self._cached is not None:
            self._cached.backward()
            self._cached = None
        if self.micro is not None and self._pending[-1][1].last_turn:
            processes.average_gradients(self.parameters())

    def on_train_start(self) -> None:
        if self.micro is not None:
            self._reduce_by_hand()  # DDP would reduce at the first part; `backward` does it once

    def _reduce_by_hand(self) -> None:
        wrapped: Any = self.trainer.strategy.model
        if isinstance(wrapped, nn.parallel.DistributedDataParallel):
            wrapped.require_backward_grad_sync = False

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.before_step()
        if not self.automatic_optimization:
            self.updating.clip(p for group in optimizer.param_groups for p in group["params"])

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self._pending:
            made, batches = zip(*self._pending, strict=True)
            self._pending = []
            self.after_step({k: _together([m[k] for m in made]) for k in made[0]}, Batch.joined(batches))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch if device.type == "cpu" else batch.to(device)

    def configure_optimizers(self) -> Any:
        phases = self.phases()
        if phases:
            made = [self.optimiser(p.optimisation(self.optimisation), p.trained) for p in phases]
            return [optimiser for optimiser, _ in made], [{"scheduler": s, "interval": "step"} for _, s in made]
        optimiser, schedule = self.optimiser(self.optimisation, self.parameters())
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimiser(self, o: Optimisation, parameters: Iterable[nn.Parameter]) -> tuple[Any, Any]:
        """An optimiser of some parameters, and the schedule of its learning rate."""
        made = o.make(o.groups(parameters, self.scaled_parameters()))
        return made, torch.optim.lr_scheduler.LambdaLR(made, self.rate)

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        self.optimisation.clip(p for group in optimizer.param_groups for p in group["params"])

    def rate(self, step: int) -> float:
        """The learning rate at a step as a share of the peak; each stage has a schedule and its share of warm-up."""
        o, (inside, length) = self.optimisation, self.within(step)
        warmup = round(o.warmup * length / self.facts.steps)
        return dataclasses.replace(o, warmup=warmup).factor(inside, length)


def _together(values: list[Any]) -> Any:
    """One embedding (or list of embeddings) of several batches, along the items."""
    if len(values) == 1:
        return values[0]
    if isinstance(values[0], list):
        return [_together([v[k] for v in values]) for k in range(len(values[0]))]
    return torch.cat(values) if isinstance(values[0], Tensor) else values[-1]


def _detached(value: Any) -> Any:
    if isinstance(value, list):
        return [_detached(v) for v in value]
    return value.detach() if isinstance(value, Tensor) else value
