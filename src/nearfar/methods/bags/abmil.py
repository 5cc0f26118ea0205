"""ABMIL: attention-based deep multiple instance learning (Ilse, Tomczak and Welling, ICML 2018, arXiv 1802.04712).

    instances of a bag --encoder--> h_k   a_k = softmax_k w^T tanh(V h_k)   z = sum_k a_k h_k --linear--> bag's logit
    gated: w^T ( tanh(V h_k) * sigmoid(U h_k) )       loss = binary cross-entropy of bags

The attention says which instances made the bag positive; it is no probability. The pooling is
`nearfar.losses.bags.attention_pooling`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.checks import PositiveInt, Width
from nearfar.encoders import Encoder
from nearfar.errors import InputError
from nearfar.losses.bags import attention_pooling, bag_logit_loss
from nearfar.methods import Batch, Facts, Loss, Method, Paper, Tower, check_plan, default_views, register
from nearfar.methods.bagwise import BagInference, LabelledBags, labelled_bags
from nearfar.samplers import Sampler, WholeBags
from nearfar.views import Views

if TYPE_CHECKING:
    from nearfar.sources.data import Data


class Attention(nn.Module):
    """w^T tanh(V h), or with a gate w^T (tanh(V h) sigmoid(U h)): (n, d) -> (n,)."""

    def __init__(self, dim: int, hidden: int, gated: bool):
        super().__init__()
        self.main, self.score = nn.Linear(dim, hidden), nn.Linear(hidden, 1, bias=False)
        self.gate = nn.Linear(dim, hidden) if gated else None

    def forward(self, h: Tensor) -> Tensor:
        a = self.main(h).tanh()
        return self.score(a if self.gate is None else a * self.gate(h).sigmoid())[:, 0]


class AttentionPooling(BagInference):
    """A bag has the probability of its pooled vector; an instance its attention, as a multiple of the mean one."""

    def __init__(self, attention: Attention, classifier: nn.Linear, positive: str):
        super().__init__(positive)
        self.attention, self.classifier = attention, classifier

    def config(self) -> dict[str, Any]:
        return {"dim": self.classifier.in_features, "hidden": self.attention.main.out_features,
                "gated": self.attention.gate is not None, "positive": self.positive}  # fmt: skip

    def of_bags(self, vectors: Tensor, bags: Tensor) -> tuple[Tensor, Tensor]:
        h = vectors.to(self.classifier.weight.device)
        bags = bags.to(h.device)
        pooled, weight = attention_pooling(h, self.attention(h), bags)
        return weight * torch.bincount(bags)[bags], self.classifier(pooled)[:, 0].sigmoid()


@register("abmil", family="bags")
class ABMIL(Method):
    """Labels of bags by attention over their instances (`--bag COLUMN --target COLUMN`).

    Args:
        positive: the class that makes a bag positive. auto: of two, the last by name.
        views: the first view of each instance is used. Default: as of contrast.
        attention: width of the attention's hidden layer. Paper: 128.
        gated: attention with a gate.
        bag_rows: rows of a larger bag that are looked at, drawn anew.
    """

    paper = Paper(
        "Attention-based Deep Multiple Instance Learning",
        "ICML 2018",
        "A bag is the mean of its instances, weighted by a learned attention that shows which of them count.",
        arxiv="1802.04712",
        differs="several bags a step where they are small (the paper: one), of large ones --bag-rows "
        "instances, instances are augmented, no early stopping; rate and decay are those of its bags of digits",
    )
    needs = (frozenset({"any", "bag", "target"}),)
    target = "bags"
    supervised = True
    uses_batch = False
    splits = False
    distributed = False
    preset_paper = {"attention": 128, "gated": False}
    paper_training = {"optimiser": "adam", "lr": 5e-4, "weight_decay": 1e-4, "schedule": "constant"}
    in_positive: Tensor

    def __init__(self, encoder: Encoder, *, positive: str = "auto", views: Views | None = None, attention: Width = 128,
                 gated: bool = False, bag_rows: PositiveInt = 1024):  # fmt: skip
        super().__init__()
        self.role = encoder.role
        self.plan = check_plan(views or default_views(encoder.modality), encoder)
        if self.plan.members > 1:
            raise InputError("'abmil' looks at each instance alone, and these views show rows of a group together.",
                             "Choose other --views.")  # fmt: skip
        self.tower, self.wanted, self.bag_rows = Tower(encoder), positive, bag_rows
        self.attention, self.classifier = Attention(encoder.dim, attention, gated), nn.Linear(encoder.dim, 1)
        self.known: LabelledBags | None = None

    def prepare(self, data: Data, rows: np.ndarray) -> None:
        self.known = labelled_bags(data, rows, self.wanted)
        inside = torch.zeros(len(data), dtype=torch.bool)
        inside[torch.from_numpy(np.asarray(rows))] = torch.from_numpy(self.known.positive_rows)
        self.register_buffer("in_positive", inside, persistent=False)

    def resolve(self, facts: Facts) -> dict[str, Any]:
        assert self.known is not None
        return {"positive": self.known.name}

    def sampler(self, stage: int) -> Sampler:
        return WholeBags(self.bag_rows)

    def make_views(self, batch: Batch) -> dict[str, list]:
        return {self.role: self.plan(batch.inputs[self.role], batch.generator())[:1]}

    def encode(self, batch: Batch) -> dict[str, Any]:
        h = self.tower.features(batch.views[self.role][0])
        return {"features": h, "attention": self.attention(h)}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        h, scores = embedded["features"], embedded["attention"]
        self.monitored = h.detach()
        assert batch.bags is not None
        names, of = batch.bags.unique(return_inverse=True)
        pooled, weight = attention_pooling(h, scores, of)
        labels = self.in_positive.new_zeros(len(names)).index_put((of,), self.in_positive[batch.rows])
        most = weight.new_zeros(len(names)).scatter_reduce(0, of, weight.detach(), "amax")
        return Loss(bag_logit_loss(self.classifier(pooled)[:, 0], labels), {"highest_attention": most.mean()})

    def towers(self) -> dict[str, Tower]:
        return {self.role: self.tower}

    def inference(self) -> AttentionPooling | None:
        return None if self.known is None else AttentionPooling(self.attention, self.classifier, self.known.name)

    @classmethod
    def restore_inference(cls, config: Mapping[str, Any], towers: Mapping[str, Any]) -> AttentionPooling:
        attention = Attention(config["dim"], config["hidden"], config["gated"])
        return AttentionPooling(attention, nn.Linear(config["dim"], 1), config["positive"])
