"""SwAV: swapped prediction of online cluster codes (Caron et al., NeurIPS 2020).

    x --V crops--> encoder, projector --> z_v --prototypes--> scores o_v
    codes q_c of the big crops by Sinkhorn-Knopp;  every other crop v predicts them: -sum_k q_c log softmax(o_v / tau)

The equal share of codes among the prototypes prevents collapse; no negatives are needed. The equations are
`nearfar.losses.sinkhorn` and `nearfar.losses.swapped_prediction`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from nearfar import heads
from nearfar.encoders import Encoder
from nearfar.errors import InputError
from nearfar.losses import sinkhorn, swapped_prediction
from nearfar.methods.base import Batch, Facts, Loss, Method, Paper, Tower
from nearfar.methods.contrast import check_plan, forward_views
from nearfar.methods.registry import register
from nearfar.similarity import normalise
from nearfar.similarity.exchange import exchange
from nearfar.views import Views, build


@register("swav", family="image")
class SwAV(Method):
    """Every crop predicts the balanced cluster code of the others.

    Args:
        views: the crops; big ones give codes, small ones only predict.
        prototypes: K; number of cluster centres. auto: a quarter of the items, within [30, 3000].
        temperature: tau; of the prediction.
        eps: entropy of the codes. auto: 0.05 at the paper's 3000 prototypes, smaller with fewer (0.02 at 60).
        iterations: R; Sinkhorn rounds.
        queue: embeddings kept, for each big crop, to compute the codes with; 0 for none. auto: 3840 where the batch
            is smaller than the number of prototypes (at most the items of the data), else 0.
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
    uses_batch = False

    def __init__(
        self,
        encoder: Encoder,
        *,
        views: Views | None = None,
        prototypes: int | Literal["auto"] = "auto",
        temperature: float = 0.1,
        eps: float | Literal["auto"] = "auto",
        iterations: int = 3,
        queue: int | Literal["auto"] = "auto",
        queue_start: float = 0.0375,
        freeze_prototypes: int | Literal["auto"] = "auto",
        projector: int = 512,
        dim: int = 128,
    ):
        super().__init__()
        self.plan = check_plan(views or build("multi-crop", big=2, small=2), encoder)
        if self.plan.targets < 1 or self.plan.count < 2:
            raise InputError("SwAV needs at least two views, one of them a target.")
        self.role = encoder.modality
        self.tower = Tower(encoder, heads.mlp(encoder.dim, projector, dim))
        self.temperature, self.iterations, self.queue_start, self.dim = temperature, iterations, queue_start, dim
        self.eps, self.prototypes = eps, prototypes
        self.queue_size, self.freeze = queue, freeze_prototypes
        self.centres = torch.nn.Module()
        self.register_buffer("queue", torch.empty(0), persistent=True)
        self.register_buffer("queued", torch.zeros((), dtype=torch.long))

    @property
    def members(self) -> int:
        return self.plan.members

    def resolve(self, facts: Facts) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.prototypes == "auto":
            self.prototypes = found["prototypes"] = max(30, min(3000, facts.items // 4))
        if self.eps == "auto":
            self.eps = found["eps"] = 0.05 if self.prototypes >= 3000 else 0.03 if self.prototypes >= 1000 else 0.02
        if self.queue_size == "auto":
            few = facts.batch_size < self.prototypes
            size = min(3840, facts.items) // facts.batch_size * facts.batch_size if few else 0
            self.queue_size = found["queue"] = size
        if self.freeze == "auto":
            self.freeze = found["freeze_prototypes"] = min(facts.epoch, facts.steps // 10)
        self.centres = heads.Prototypes(int(self.prototypes), self.dim)
        self.queue = torch.zeros(self.plan.targets, int(self.queue_size), self.dim)
        return found

    def make_views(self, batch: Batch) -> dict[str, list]:
        return {self.role: self.plan(batch.inputs[self.role], batch.generator())}

    def encode(self, batch: Batch) -> dict[str, Any]:
        return {"views": [normalise(z) for z in forward_views(self.tower, batch.views[self.role])]}

    def before_targets(self, batch: Batch) -> None:
        self.centres.normalise()

    def codes(self, z: Tensor, crop: int, step: int, steps: int) -> Tensor:
        """The codes of one big crop's batch, computed together with its queue once that is full and due."""
        net = exchange("global")
        scores = self.centres(z.detach())
        full = self.queue.shape[1] > 0 and int(self.queued) >= self.queue.shape[1]
        if full and step >= self.queue_start * steps:
            scores = torch.cat([self.centres(self.queue[crop]).detach(), scores])
        return sinkhorn(scores, eps=float(self.eps), iterations=self.iterations, group=net.group)[-z.shape[0] :]

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        z = embedded["views"]
        self.watched = z[0].detach()
        with torch.no_grad():
            codes = [self.codes(z[c], c, batch.step, batch.steps) for c in range(self.plan.targets)]
        total = swapped_prediction([self.centres(x) for x in z], codes, temperature=self.temperature)
        used = torch.cat(codes).argmax(1).unique().numel()
        return Loss(total, {"prototypes_used": float(used)})

    def before_step(self) -> None:
        if self.global_step < int(self.freeze):
            for p in self.centres.parameters():
                p.grad = None

    @torch.no_grad()
    def after_step(self, embedded: dict[str, Any], batch: Batch) -> None:
        size = self.queue.shape[1]
        if size:
            for c in range(self.plan.targets):
                self.queue[c] = torch.cat([embedded["views"][c].to(self.queue.dtype), self.queue[c]])[:size]
            self.queued += embedded["views"][0].shape[0]

    def towers(self) -> dict[str, Tower]:
        return {self.role: self.tower}
