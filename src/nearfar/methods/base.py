"""The contract of a method."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from nearfar import modalities, processes
from nearfar.checks import Range
from nearfar.encoders.depth import rates
from nearfar.encoders.sharding import shard
from nearfar.errors import NearfarError
from nearfar.methods.batch import Batch, Facts
from nearfar.methods.distilling import Distiller
from nearfar.methods.inference import Inference
from nearfar.methods.micro_batches import Cached, parts_of
from nearfar.methods.nesting import Nesting, nested_loss
from nearfar.methods.optimisation import Optimisation
from nearfar.methods.paper import Paper
from nearfar.methods.phases import Phase, check_phases, owners, run_phases
from nearfar.methods.tower import Tower
from nearfar.options import make_part
from nearfar.samplers import Groups, Permutation, Sampler

if TYPE_CHECKING:
    from nearfar.sources.data import Data


@dataclass
class Loss:
    """The total that is minimised, and its named terms for the learning curve."""

    total: Tensor
    terms: dict[str, Tensor | float] = field(default_factory=dict)


class Method(pl.LightningModule):
    """One paper. A plain one writes `encode` and `loss`; the rest has defaults that do nothing.

    Attributes: `role`: the role of the data that it reads, its encoder's kind (methods of pairs have `columns`).
    `supervised`: whether it sees labels or targets of the training rows: `compare` says so beside its scores.
    `similarity`: how its vectors are compared, "cosine" or "dot". `length`: the most tokens that are read of a text
    (None: what the encoder takes); `from_start`: whether a longer one is read from its start in training, as it is in
    use, and not around a random place. `micro`: most items that pass the encoder at once on a device; `fit` sets it
    from --micro-batch. `sharded`: whether the blocks of its encoders are divided among the processes (--strategy
    fsdp). `nesting`: the widths of --dims; `distiller`: the teacher of --distil-from. `log_every`: steps
    between two lines of the curve. `survey`: the whole training set as the method sees it now
    (`nearfar.negatives.Survey`), or None outside of `fit`.
    Class attributes: `paper`; `needs`: alternatives, each the roles that a sample must hold ("any": a column of any
    kind of data; "pair": two columns that belong together); `target`: what it learns of the target, "classes",
    "numbers" or, of the class that a bag has as a whole, "bags" (None: nothing), and `unlabelled`: whether it learns of
    rows without one as well; `measured_by`: the task that measures what it learns, taken where the data hold it and no
    other is asked for; `preset_paper`: the literals of the paper for options whose default is fitted to the data,
    and `paper_training`: those of its optimiser
    (fields of `Optimisation`; `lr_batch`: the batch at which `lr` holds, where it grows with the batch), both for
    `--preset paper`; `of_part`: option -> the part that it is an option of; `only_with`: option ->
    others beside which alone it has an effect, each with the values that suit it, listed or as a `Range` (of a part:
    the name of a class attribute that is true), else refused where it is given; `layered`: whether it looks into the
    layers of its encoder, which an automatic choice of it heeds; `prefers`: option of an encoder -> what it is where it
    is left to "auto" and all methods of the run agree; `uses_batch`: whether the other items of
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
    only_with: ClassVar[Mapping[str, Mapping[str, Sequence[Any] | Range | str]]] = {}
    defaults: ClassVar[Mapping[str, Any]] = {}
    fixed: ClassVar[Sequence[str]] = ()
    follows: ClassVar[Mapping[str, str]] = {}
    layered: ClassVar[bool] = False
    prefers: ClassVar[Mapping[str, Any]] = {}
    uses_batch: ClassVar[bool] = True
    baseline: ClassVar[int] = 0
    trained: ClassVar[bool] = True
    splits: ClassVar[bool] = True
    distributed: ClassVar[bool] = True
    target: ClassVar[str | None] = None
    unlabelled: ClassVar[bool] = False
    measured_by: ClassVar[str | None] = None
    supervised: bool = False
    similarity: str = "cosine"
    length: int | None = None
    from_start: bool = False
    role: str

    optimisation: Optimisation = Optimisation()
    updating: Optimisation = Optimisation()
    micro: int | None = None
    sharded: bool = False
    nesting: Nesting | None = None
    distiller: Distiller | None = None
    log_every: int = 10
    survey: Any = None
    seed: int = 0
    facts: Facts

    def __init__(self):
        super().__init__()
        self.monitored: Tensor | None = None
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
    def lacks(cls, data: Data) -> str:
        """What data that hold its needs lack nevertheless, or what must be said besides, in words; "" for nothing. A
        comparison that chooses its methods itself leaves such a method out."""
        return ""

    @classmethod
    def wants(cls, roles: Set[str], by_group: bool) -> list[str]:
        """The kinds of data of the encoders that the constructor takes, for data that hold these roles (with "any" and
        "pair" as in `needs`); a kind that stands twice: two encoders, with weights of their own. by_group: whether
        pairs are made of groups where the data hold columns of pairs as well."""
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

    def reader(self, data: Data, role: str) -> Any:
        """How training reads the rows of a role, (rows, random numbers or None) -> inputs; None, the default: as its
        kind of data does."""
        return None

    def drawn_negatives(self, data: Data) -> Sequence[Any] | None:
        """Hard negatives of pairs that it makes itself, after `prepare`, in place of those that the data name: each
        with `draw(rows, random numbers)` -> places and content ids (-1: none) and `read(places, random numbers)` ->
        inputs, as `nearfar.training.loading.HardNegatives`. None, the default: those of the data."""
        return None

    def sampler(self, stage: int) -> Sampler:
        """Which rows make the batches of a stage (0 where there are no stages): `nearfar.samplers`."""
        return Groups(self.members) if self.members > 1 else Permutation()

    def resolve(self, facts: Facts) -> dict[str, Any]:
        """Sizes what depends on the data; returns what each "auto" became, for the reader."""
        return {}

    def prepare(self, data: Data, rows: Any) -> None:
        """Once, before a sampler is asked for and anything is trained (mine, cluster, generate); `rows` are the
        training rows of `data`."""

    def before_draw(self, step: int) -> None:
        """Before the batch of a step is drawn."""

    def phases(self) -> Sequence[Phase]:
        """Updates that take turns in every step, each of its own parameters by its own loss, in place of `encode` and
        `loss`; none: one update of all parameters. The same phases at every call."""
        return ()

    @property
    def in_turn(self) -> bool:
        """Whether updates take turns. Asked before `prepare`, which may make what `phases` updates: true where a class
        writes `phases`; one whose phases are none in some variants says itself."""
        return type(self).phases is not Method.phases

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

    def nested_width(self) -> int | None:
        """How many numbers the vectors have that its loss reads and the finished model gives alike; None, the default,
        where the loss reads other ones, or holds some of that width itself. Then prefixes cannot be trained."""
        return None

    def taught_width(self) -> int | None:
        """How many numbers the vectors have that it contrasts, two sides of every item, so that a teacher's may stand
        beside them (--distil-from); None, the default, where it does not."""
        return None

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
        by role (`nearfar.methods.Tower`)."""
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
        if self.micro is not None and parts_of(batch, self.micro) > 1:
            self._cached = Cached(self, batch, self.micro)
            embedded = self._cached.embedded()
        else:
            embedded = self.encode(batch)
        if batch.accumulation_step == 0:
            self.before_targets(batch)
        with torch.no_grad():
            embedded |= self.targets(batch)
        loss = self.loss(embedded, batch) if self.nesting is None else nested_loss(self, embedded, batch, self.nesting)
        if self.distiller is not None:
            loss = self.distiller.added(loss, self, embedded, batch)
        self.check_finite(loss, batch.step)
        self.terms = {name: float(x) for name, x in loss.terms.items()} | {"loss": float(loss.total.detach())}
        if batch.accumulation_step == 0:
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
        if processes.any_rank(bool(bad) or not bool(loss.total.detach().isfinite())):
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
        if (self.micro is not None or self.sharded) and self._pending[-1][1].last_accumulation_step:
            processes.average_gradients(self.parameters())

    def configure_model(self) -> None:
        """Called by Lightning once the processes are connected."""
        if self.sharded:
            mesh: Any = self.device_mesh
            shard(self, mesh["data_parallel"])

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
            made = [self.optimiser(p.optimisation(self.optimisation), p.trained) for p in owners(phases)]
            return [optimiser for optimiser, _ in made], [{"scheduler": s, "interval": "step"} for _, s in made]
        optimiser, schedule = self.optimiser(self.optimisation, self.parameters())
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimiser(self, o: Optimisation, parameters: Iterable[nn.Parameter]) -> tuple[Any, Any]:
        """An optimiser of some parameters, and the schedule of its learning rate."""
        scaled = dict(self.scaled_parameters())
        for p, share in (rates(self, o.layer_decay) if o.layer_decay < 1 else {}).items():
            scaled[p] = scaled.get(p, 1.0) * share
        made = o.make(o.groups(parameters, scaled))
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
