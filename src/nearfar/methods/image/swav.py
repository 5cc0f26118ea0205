"""SwAV: swapped prediction of online cluster codes (Caron et al., NeurIPS 2020).

    x --V crops--> encoder, projector --> z_v --prototypes--> scores o_v
    codes q_c of the big crops by Sinkhorn-Knopp;  every other crop v predicts them: -sum_k q_c log softmax(o_v / tau)

The equal share of codes among the prototypes prevents collapse; no negatives are needed. The equations are
`nearfar.losses.sinkhorn` and `nearfar.losses.swapped_prediction`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from nearfar import heads, processes
from nearfar.checks import NonNegativeInt, PositiveFloat, PositiveInt, UnitInterval, Width, WidthOrNone
from nearfar.encoders import Encoder
from nearfar.errors import InputError
from nearfar.losses import sinkhorn, swapped_prediction
from nearfar.methods import Batch, Facts, Loss, Method, Paper, Tower, check_plan, forward_views, register
from nearfar.similarity import normalise
from nearfar.similarity.exchange import exchange
from nearfar.views import Views


def auto_prototypes(facts: Facts) -> int:
    """A quarter of the items, within 30 and the paper's 3000; below 2000 steps no more than the batch holds items, and
    that much more for each further 1000: a short run does not fill more (docs/reproducibility.md)."""
    return max(30, min(3000, facts.items // 4, facts.batch_size * max(1, facts.steps // 1000)))


def auto_eps(prototypes: int) -> float:
    """The paper's 0.05 at its 3000 prototypes; codes over few prototypes must be sharper."""
    return 0.05 if prototypes >= 3000 else 0.03 if prototypes >= 1000 else 0.02


def auto_queue(facts: Facts, prototypes: int) -> int:
    """Where a batch cannot fill the prototypes the paper's 3840, at most the items and what enters in 1/300 of the run,
    else none: in a short run older embeddings are of another network."""
    few = facts.batch_size < prototypes
    return min(min(3840, facts.items) // facts.batch_size, facts.steps // 300) * facts.batch_size if few else 0


def auto_freeze(facts: Facts) -> int:
    """One epoch, at most a tenth of the run."""
    return min(facts.epoch, facts.steps // 10)


@register("swav", family="image")
class SwAV(Method):
    """Every crop predicts the balanced cluster code of the others.

    Args:
        views: the crops; big ones give codes, small ones only predict. Default: 2 big and 2 small (paper: 2 and 6).
        prototypes: K; number of cluster centres. auto: a quarter of the items, within [30, 3000], and at most the batch
            (twice it from 2000 steps on, and so on).
        temperature: tau; of the prediction.
        eps: entropy of the codes. auto: 0.05 at the paper's 3000 prototypes, smaller with fewer (0.02 at 60).
        iterations: R; Sinkhorn rounds.
        queue: embeddings kept, for each big crop, to compute the codes with; 0 for none. auto: 3840 where the batch
            is smaller than the number of prototypes (at most the items of the data and what enters in 1/300 of the
            run), else 0.
        queue_start: share of the run after which the queue is used.
        freeze_prototypes: steps at the start in which the prototypes stay as they are. auto: one epoch, at most a
            tenth of the run.
        projector: width of the hidden layer of the projection head.
        dim: width of the embedding that is compared with the prototypes.
    """

    paper = Paper(
        "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
        "NeurIPS 2020",
        "Predict the balanced cluster code of one crop from another: no pairwise negatives.",
        arxiv="2006.09882",
        differs="AdamW instead of LARC unless asked for; Sinkhorn in log space",
    )
    needs = (frozenset({"image"}),)
    preset_paper = {
        "views": {"name": "multi-crop", "big": 2, "small": 6, "strength": 1.0, "grey": 0.2, "blur": 0.5},
        "prototypes": 3000,
        "temperature": 0.1,
        "eps": 0.05,
        "iterations": 3,
        "queue": 3840,
        "queue_start": 0.0375,
        "freeze_prototypes": 5005,
        "projector": 2048,
        "dim": 128,
    }
    paper_training = {
        "optimiser": "lars",
        "lr": 0.6,
        "lr_batch": 256,
        "weight_decay": 1e-6,
        "final": 1e-3,
        "decay_all": True,
        "adapt_all": True,
    }
    uses_batch = False
    queue: Tensor
    queued: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        views: Views | None = None,
        prototypes: Width | Literal["auto"] = "auto",
        temperature: PositiveFloat = 0.1,
        eps: PositiveFloat | Literal["auto"] = "auto",
        iterations: PositiveInt = 3,
        queue: NonNegativeInt | Literal["auto"] = "auto",
        queue_start: UnitInterval = 0.0375,
        freeze_prototypes: NonNegativeInt | Literal["auto"] = "auto",
        projector: WidthOrNone = 512,
        dim: Width = 128,
    ):
        super().__init__()
        self.plan = check_plan(views or self.default_part("views"), encoder)
        if self.plan.targets < 1 or self.plan.count < 2:
            raise InputError("SwAV needs at least two views, one of them a target.")
        self.role = encoder.role
        self.tower = Tower(encoder, heads.mlp(encoder.dim, projector, dim))
        self.temperature, self.iterations, self.queue_start, self.dim = temperature, iterations, queue_start, dim
        self.wanted = {"prototypes": prototypes, "eps": eps, "queue": queue, "freeze_prototypes": freeze_prototypes}
        self.eps, self.frozen_steps = 0.05, 0
        self.centres: heads.Prototypes | None = None
        self.register_buffer("queue", torch.empty(0), persistent=True)
        self.register_buffer("queued", torch.zeros((), dtype=torch.long))

    @classmethod
    def parts(cls, chosen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        return {"views": {"name": "multi-crop", "big": 2, "small": 2}}

    @property
    def members(self) -> int:
        return self.plan.members

    def resolve(self, facts: Facts) -> dict[str, Any]:
        values = {
            name: auto(facts) if self.wanted[name] == "auto" else self.wanted[name]
            for name, auto in (("prototypes", auto_prototypes), ("freeze_prototypes", auto_freeze))
        }
        count = int(values["prototypes"])
        values["eps"] = auto_eps(count) if self.wanted["eps"] == "auto" else self.wanted["eps"]
        values["queue"] = auto_queue(facts, count) if self.wanted["queue"] == "auto" else self.wanted["queue"]
        self.eps, self.frozen_steps = float(values["eps"]), int(values["freeze_prototypes"])
        self.centres = heads.Prototypes(count, self.dim)
        self.queue = torch.zeros(self.plan.targets, int(values["queue"]), self.dim)
        return {name: value for name, value in values.items() if self.wanted[name] == "auto"}

    def scores(self, z: Tensor) -> Tensor:
        """Similarity of unit vectors (n, d) to the prototypes, (n, K)."""
        assert self.centres is not None
        return self.centres(z)

    def make_views(self, batch: Batch) -> dict[str, list]:
        return {self.role: self.plan(batch.inputs[self.role], batch.generator())}

    def encode(self, batch: Batch) -> dict[str, Any]:
        # The head sees all crops at once, so that its batch norm mixes their sizes, as in the paper's code.
        h = forward_views(self.tower.features, batch.views[self.role])
        z = normalise(self.tower.project(torch.cat(h)))
        return {"views": list(z.split([len(part) for part in h]))}

    def before_targets(self, batch: Batch) -> None:
        assert self.centres is not None
        self.centres.normalise()

    def codes(self, z: Tensor, crop: int, step: int, steps: int) -> Tensor:
        """The codes of one big crop's batch, computed together with its queue once that is full and due."""
        net = exchange("global")
        scores = self.scores(z.detach())
        full = self.queue.shape[1] > 0 and int(self.queued) >= self.queue.shape[1]
        if full and step >= self.queue_start * steps:
            mine = processes.share(self.queue.shape[1], *processes.rank_and_world())
            scores = torch.cat([self.scores(self.queue[crop, mine]).detach(), scores])
        return sinkhorn(scores, eps=self.eps, iterations=self.iterations, group=net.group)[-z.shape[0] :]

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        z = embedded["views"]
        self.monitored = z[0].detach()
        with torch.no_grad():
            codes = [self.codes(z[c], c, batch.step, batch.steps) for c in range(self.plan.targets)]
        total = swapped_prediction([self.scores(x) for x in z], codes, temperature=self.temperature)
        used = torch.cat(codes).argmax(1).unique().numel()
        return Loss(total, {"prototypes_used": float(used)})

    def before_step(self) -> None:
        if self.global_step < self.frozen_steps:
            assert self.centres is not None
            self.centres.weight.grad = None

    @torch.no_grad()
    def after_step(self, embedded: dict[str, Any], batch: Batch) -> None:
        size, net = self.queue.shape[1], exchange("global")
        if size:
            new = [net.gather(z.to(self.queue.dtype))[0] for z in embedded["views"][: self.plan.targets]]
            for c, z in enumerate(new):
                self.queue[c] = torch.cat([z, self.queue[c]])[:size]
            self.queued += new[0].shape[0]

    def towers(self) -> dict[str, Tower]:
        return {self.role: self.tower}
