"""NNCLR: nearest-neighbour contrastive learning (Dwibedi et al., ICCV 2021).

x --two views--> z_1, z_2 --predictor--> p_1, p_2;   n_v = the nearest to z_v in Q, a queue of the last z_1
loss = mean of InfoNCE(n_1, p_2) and InfoNCE(n_2, p_1), each with the anchors on both sides
"""

from itertools import permutations
from typing import Any, Literal

from torch import Tensor

from nearfar import heads
from nearfar.checks import PositiveInt, Width
from nearfar.encoders import Encoder
from nearfar.methods import Batch, Facts, Loss, Paper, ViewContrast, register
from nearfar.negatives import Queue
from nearfar.similarity import Layout, Similarity, both_ways


def neighbours(z: Tensor, support: Tensor) -> Tensor:
    """The row of `support` (k, d) with the highest cosine to each row of z (n, d); a constant (n, d)."""
    return support[Similarity(z, support).topk(1)[1][:, 0]].to(z.dtype)


@register("nnclr", family="image")
class NNCLR(ViewContrast):
    """The past embedding nearest to a view finds the other view; it differs in more than augmentation can change.

    Args: queue: |Q|; past embeddings that are searched. auto: at most a quarter of the samples and 65536.
        predictor: width of the predictor's hidden layer."""

    paper = Paper("With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of Visual Representations",
                  "ICCV 2021", "The positive of a view is its nearest neighbour among past embeddings.", "2104.14548",
                  "a view is its own neighbour until the queue is full; no last norm in the projector")  # fmt: skip
    preset_paper = {"temperature": 0.1, "queue": 98_304, "predictor": 4096, "projector": 2048, "dim": 256}
    paper_training = {"optimiser": "lars", "lr": 0.3, "lr_batch": 256, "weight_decay": 1e-6}
    fixed = ("negatives", "momentum")

    def __init__(self, encoder: Encoder, *, queue: PositiveInt | Literal["auto"] = "auto", predictor: Width = 512,
                 **shared: Any):  # fmt: skip
        super().__init__(encoder, **shared)
        self.predictor, self.support = heads.predictor(self.dim, predictor), Queue(queue)

    def resolve(self, facts: Facts) -> dict[str, Any]:
        self.support.setup(self.dim, self.stored_kinds(facts), facts.batch_size, facts.samples)
        return super().resolve(facts) | {"queue": self.support.capacity}

    def encode(self, batch: Batch) -> dict[str, Any]:
        return (made := super().encode(batch)) | {"predicted": [self.predictor(z) for z in made["views"]]}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        z, p, options = embedded["views"], embedded["predicted"], self.layout_options(batch)
        options["extra_candidates_back"] = options["extra_candidates"]
        n = [neighbours(v, self.support.keys) if self.support.filled.all() else v.detach() for v in z]
        pairs = [both_ways(n[v], p[w], **options) for v, w in permutations(range(len(z)), 2)]
        return self.report(Layout([part for pair in pairs for part in pair.parts]), z[0], batch)

    def after_step(self, embedded: dict[str, Any], batch: Batch) -> None:
        super().after_step(embedded, batch)
        self.support.update(embedded["views"][0], self.items(batch))
