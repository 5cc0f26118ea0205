"""INS: a good instance classifier is all you need (arXiv 2307.02249). Bags with one label each, nothing of an instance.

    x --two views--> encoder --> h --classifier--> o              pseudo class c = argmax softmax(o) Y
                                 h --projector---> q, k (teacher) prototypes mu_0, mu_1 follow q by c
    soft targets: (1, 0) in negative bags; in positive ones phi target + (1 - phi) one-hot(argmax softmax(q mu^T))
    loss = cross-entropy(o, target) + 0.5 contrast of instances by c, among batch, keys and a queue + w x bag loss

First the classifier learns the bag's label of each instance; then come instances of positive bags, with MoCo; then all.
The equations are in `nearfar.losses.bags`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nearfar import heads
from nearfar.checks import NonNegativeFloat, PositiveFloat, PositiveInt, UnitInterval, Width, WidthOrNone
from nearfar.encoders import Encoder
from nearfar.errors import InputError
from nearfar.losses import bags as equations
from nearfar.methods import Batch, Facts, Loss, Method, Paper, Tower, register
from nearfar.methods.bagwise import InstanceClassifier, LabelledBags, labelled_bags
from nearfar.methods.contrast import auto_momentum, check_plan, default_views
from nearfar.momentum import Teacher
from nearfar.negatives import Items, Queue
from nearfar.samplers import Permutation, Sampler, at_most
from nearfar.similarity import normalise
from nearfar.similarity.exchange import exchange
from nearfar.views import Views

if TYPE_CHECKING:
    from nearfar.sources.data import Data


@register("ins", family="bags")
class INS(Method):
    """Learns which instances make a bag positive, from labels of bags alone (`--bag COLUMN --target COLUMN`).

    Args:
        positive: the class that makes a bag positive. auto: of two, the last by name.
        views: two views of each instance; the first is the query, the second the key.
        temperature: T of both contrasts.
        contrast: weight of the contrast of instances; 0 leaves it out.
        pseudo_labels: of instances of positive bags: prototypes (the paper's), none (they stay 1/2 each), bag (the
            label of their bag).
        phi: what is kept of a soft target at a step, from the first to the last step.
        momentum: m; of the teacher that gives the keys. auto: a rule of queue and batch. Paper: 0.999.
        prototype_momentum: m_p; what a prototype keeps when it moves to an instance.
        queue: Q_n; past keys that are contrasted as well. auto: as of --negatives queue. Paper: 8192.
        pretraining: share of the run in which the classifier alone learns the label of the bag (the paper's one epoch).
        start: share of the run after which instances of all bags are drawn and pseudo labels are used; from the end of
            the pre-training until then those of positive bags alone, with the contrast of MoCo; equal to pretraining,
            or 0, there is no such time. Paper: epoch 15 (CIFAR), 1 (CAMELYON16), 20 (features).
        bag_loss: weight of the cross-entropy of the mean probability of one bag a step; 0 leaves it out.
        bag_start: share of the run after which it is used. Paper: epoch 30 of 60.
        bag_rows: rows of a larger bag that it looks at, drawn anew.
        projector: width of the hidden layer of the projector; 0 for a single linear layer. Paper: 512.
        dim: width of queries, keys and prototypes.
    """

    paper = Paper(
        "Rethinking Multiple Instance Learning for Whole Slide Image Classification: A Good Instance Classifier is "
        "All You Need",
        "IEEE TCSVT 2024",
        "Bags follow if instances are told well: prototypes clean the unknown instances of positive bags.",
        arxiv="2307.02249",
        differs="candidate sets come from the bag's label alone (the released loaders of CAMELYON16 derive them from "
        "the patch labels); the bag loss is of the mean instance probability, of one bag beside each batch (the "
        "released scripts take a softmax over mean features, in a pass of their own), its weight 0.1 is not theirs; "
        "random rows at the queue's start are of no class instead of a random one; schedules count steps, not epochs; "
        "the key is augmented as strongly as the query; batch norm of the keys sees the batch in its order; the last "
        "step is kept, not the best by test scores",
    )
    needs = (frozenset({"any", "bag", "target"}),)
    target = "bags"
    supervised = True
    splits = False
    preset_paper = {"views": {"name": "two-crops", "crop": (0.2, 1.0), "strength": 0.5, "grey": 0.2},
                    "temperature": 0.07, "contrast": 0.5, "phi": (0.95, 0.8), "momentum": 0.999,
                    "prototype_momentum": 0.9, "queue": 8192, "pretraining": 0.0167, "start": 0.25,
                    "bag_start": 0.5, "projector": 512, "dim": 128}  # fmt: skip
    paper_training = {"optimiser": "sgd", "lr": 0.01, "weight_decay": 1e-3, "schedule": "constant", "decay_all": True}
    prototypes: Tensor
    soft: Tensor
    in_positive: Tensor
    place: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        positive: str = "auto",
        views: Views | None = None,
        temperature: PositiveFloat = 0.07,
        contrast: NonNegativeFloat = 0.5,
        pseudo_labels: Literal["prototypes", "none", "bag"] = "prototypes",
        phi: tuple[UnitInterval, UnitInterval] = (0.95, 0.8),
        momentum: UnitInterval | Literal["auto"] = "auto",
        prototype_momentum: UnitInterval = 0.9,
        queue: PositiveInt | Literal["auto"] = "auto",
        pretraining: UnitInterval = 0.05,
        start: UnitInterval = 0.2,
        bag_loss: NonNegativeFloat = 0.1,
        bag_start: UnitInterval = 0.5,
        bag_rows: PositiveInt = 1024,
        projector: WidthOrNone = 512,
        dim: Width = 128,
    ):
        super().__init__()
        if 0 < start < pretraining:
            raise InputError(f"--start {start:g} is before the end of --pretraining {pretraining:g}.",
                             "Use a later --start, the same one or 0 (no warm-up on positive bags alone).")  # fmt: skip
        self.role = encoder.role
        self.plan = check_plan(views or default_views(encoder.modality), encoder)
        if self.plan.members > 1 or self.plan.targets < 2:
            raise InputError("'ins' needs two whole views of each instance.", "Choose other --views.")
        head = heads.mlp(encoder.dim, projector or dim, dim, layers=1 + bool(projector), norm=False)
        self.tower, self.classifier = Tower(encoder, head), nn.Linear(encoder.dim, 2)
        self.teacher, self.keys = Teacher(self.tower), Queue(queue, in_batch=False, random_start=True)
        self.wanted, self.temperature, self.momentum, self.dim = positive, temperature, momentum, dim
        self.weights = {"contrast": contrast, "bag": bag_loss}
        self.phi, self.prototype_momentum, self.pseudo_labels = phi, prototype_momentum, pseudo_labels
        self.shares, self.bag_rows = {"pretraining": pretraining, "start": start, "bag": bag_start}, bag_rows
        self.register_buffer("prototypes", torch.zeros(2, dim))
        self.known: LabelledBags | None = None

    def prepare(self, data: Data, rows: np.ndarray) -> None:
        """Who lies in a positive bag; soft targets of all training rows, which are part of the state."""
        self.known = labelled_bags(data, rows, self.wanted)
        inside = torch.from_numpy(self.known.positive_rows)
        place = torch.full((len(data),), -1)
        place[torch.from_numpy(np.asarray(rows))] = torch.arange(len(rows))
        half = torch.where(inside, 0.5, 0.0)
        self.register_buffer("soft", torch.stack([1 - half, half], 1))
        self.register_buffer("in_positive", inside, persistent=False)
        self.register_buffer("place", place, persistent=False)
        self.members_of = self.known.bags.members()

    def resolve(self, facts: Facts) -> dict[str, Any]:
        assert self.known is not None
        self.keys.setup(self.dim, 1, facts.batch_size, facts.samples, facts.steps)
        found = {"positive": self.known.name, "queue": self.keys.capacity}
        if self.momentum == "auto":
            self.momentum = found["momentum"] = auto_momentum(self.keys.capacity, facts.batch_size, facts.steps)
        return found

    def first_steps(self, steps: int) -> tuple[int, int]:
        """The first step of the warm-up and of what follows it."""
        share, start = self.shares["pretraining"], self.shares["start"]
        pretraining = max(1, round(share * steps)) if share else 0
        return pretraining, max(pretraining + 1, round(start * steps)) if start > share else pretraining

    def stage_of(self, step: int) -> int:
        """0: the classifier alone; 1: warm-up on instances of positive bags; 2: all."""
        return sum(step >= first for first in self.first_steps(self.facts.steps))

    @property
    def first_stage(self) -> int:
        return 0 if self.shares["pretraining"] else 1 if self.shares["start"] else 2

    def sampler(self, stage: int) -> Sampler:
        assert self.known is not None
        inside = self.known.bags.rows[self.known.positive_rows]
        return Permutation().only(inside) if (stage or self.first_stage) == 1 else Permutation()

    def make_views(self, batch: Batch) -> dict[str, list]:
        return {self.role: self.plan(batch.inputs[self.role], batch.generator())[:2]}

    def encode(self, batch: Batch) -> dict[str, Any]:
        h = self.tower.features(batch.views[self.role][0])
        return {"logits": self.classifier(h), "queries": normalise(self.tower.project(h))}

    def before_targets(self, batch: Batch) -> None:
        assert isinstance(self.momentum, float | int)
        self.teacher.follow(self.tower, self.momentum)

    def targets(self, batch: Batch) -> dict[str, Any]:
        return {"keys": normalise(self.teacher(batch.views[self.role][1]))}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        logits, q, stage = embedded["logits"].float(), embedded["queries"].float(), self.stage_of(batch.step)
        self.monitored, place = q.detach(), self.place[batch.rows]
        inside = self.in_positive[place]
        classes = equations.masked_scores(logits.detach(), inside).argmax(1)
        scores = equations.prototype_scores(q.detach(), self.prototypes)
        near = self.contrasted(q, embedded["keys"].float(), classes, batch, stage)
        soft = self.labels_of(place, inside, scores, batch, stage)
        told = equations.soft_cross_entropy(logits, soft, negatives="global")
        whole = self.bag_term(batch, stage)
        parts = {"classifier": told, "contrast": near, "bag_loss": whole}
        terms: dict[str, Tensor | float] = {name: part.detach() for name, part in parts.items()}
        if self.logged(batch):
            terms["called_positive"] = classes[inside].float().mean() if inside.any() else torch.zeros(())
        return Loss(told + self.weights["contrast"] * near + self.weights["bag"] * whole, terms)

    def contrasted(self, q: Tensor, k: Tensor, classes: Tensor, batch: Batch, stage: int) -> Tensor:
        """The contrast of the stage; afterwards prototypes and queue take the batch of all processes."""
        if stage == 0:
            return 0 * q.sum()
        past, of_past = self.keys.keys.clone(), self.keys.item_identities[:, 0].clone()
        if stage == 1:
            found = equations.queue_contrast(q, k, past, temperature=self.temperature, negatives="global")
        else:
            found = equations.ins_contrast(
                q, k, past, classes, of_past, temperature=self.temperature, negatives="global"
            )
        net = exchange("global")
        every, known = net.gather(q.detach())[0], net.gather(classes)[0]
        self.prototypes.copy_(equations.moved_prototypes(self.prototypes, every, known, self.prototype_momentum))
        self.keys.update(k, Items(batch.rows, classes[:, None]))
        return found

    @torch.no_grad()
    def labels_of(self, place: Tensor, inside: Tensor, scores: Tensor, batch: Batch, stage: int) -> Tensor:
        """The soft target of each instance, (n, 2); those of all processes are kept."""
        if stage == 0 or self.pseudo_labels == "bag":
            return torch.stack([~inside, inside], 1).float()
        if stage == 2 and self.pseudo_labels == "prototypes":
            net = exchange("global")
            there = net.gather(place)[0]
            phi = equations.linear_between(self.phi, batch.step / max(1, batch.steps - 1))
            scores = net.gather(scores)[0]
            self.soft[there] = equations.pseudo_targets(self.soft[there], scores, self.in_positive[there], phi)
        return self.soft[place]

    def bag_term(self, batch: Batch, stage: int) -> Tensor:
        """The cross-entropy of one bag's mean probability: the same bag on all processes, all bags in turn."""
        assert self.known is not None
        if stage < 2 or not self.weights["bag"] or batch.step < self.shares["bag"] * batch.steps:
            return self.classifier.bias.new_zeros(())
        epoch, place = divmod(batch.number, len(self.members_of))
        number = int(np.random.default_rng([self.seed, epoch, 17]).permutation(len(self.members_of))[place])
        rng = np.random.default_rng([self.seed, batch.step, batch.accumulation_step, 19])
        rows = at_most(self.bag_rows, self.members_of[number], rng)
        bag = self.survey.viewed(rows, batch.number)
        p = self.classifier(self.tower.features(bag.views[self.role][0])).float().softmax(1)[:, 1]
        told = equations.bag_probabilities(p, torch.zeros_like(p, dtype=torch.long))
        return equations.bag_cross_entropy(told, told.new_tensor([self.known.positive[number]]).bool())

    def on_fit_end(self) -> None:
        if self.pseudo_labels == "prototypes" and not (self.soft[self.in_positive, 1] > 0.5).any():
            self.survey.tell(
                "note: prototypes call every instance of the positive bags negative: no soft target is "
                "above a half, and only the bag loss teaches. Try --start equal to --pretraining (no warm-up on "
                "positive bags alone), --contrast 0 or another learning rate."
            )

    def towers(self) -> dict[str, Tower]:
        return {self.role: self.tower}

    def inference(self) -> InstanceClassifier | None:
        return None if self.known is None else InstanceClassifier(self.classifier, self.known.name)

    @classmethod
    def restore_inference(cls, config: Mapping[str, Any], towers: Mapping[str, Any]) -> InstanceClassifier:
        return InstanceClassifier(nn.Linear(config["dim"], 2), config["positive"])
