"""WhitenedCSE: whitening-based contrastive learning of sentence embeddings (ACL 2023, arXiv 2305.17746).

    sentence --three times through the encoder, other dropout--> h_1, h_2, h_3
    h_v --channels in groups, drawn anew for each copy, each whitened over the batch--> u_v --linear, tanh--> z_v
    loss = sum over v = 2, 3 of the mean over i of  log sum_j e^(cos(z_1i, z_vj) / T) - cos(z_1i, z_vi) / T

Whitening spreads the batch out, and other groups for each copy make its positives more unlike. Whitening and linear
layer serve training alone: what is kept is the encoder. The whitening is `nearfar.heads.group_whitening`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from nearfar import heads
from nearfar.checks import NonNegativeFloat, PositiveInt
from nearfar.encoders import Encoder
from nearfar.errors import InputError
from nearfar.methods import Batch, CopyContrast, Facts, Loss, Paper, forward_views, register
from nearfar.similarity.exchange import exchange

SIZE = 6  # channels of a group: 768 in 128 groups


def auto_groups(dim: int) -> int:
    """The fewest groups with at most 6 channels each: 128 of BERT's 768."""
    return next(dim // size for size in range(SIZE, 0, -1) if not dim % size)


@register("whitenedcse", family="text")
class WhitenedCSE(CopyContrast):
    """As SimCSE with three copies of a sentence, whose vectors are whitened in groups of channels, shuffled for each.

    Args:
        groups: G; groups of channels that are whitened apart; 1: all together. auto: of six channels, or of fewer.
        eps: is added to the eigenvalues of a covariance, for batches that are small beside the groups.
        differentiate: whether gradients flow through the whitening matrix; else it is a constant, as in the released
            code.
        official: whiten as the released code does: thirds of the batch sorted by sentence in place of the copies.
    """

    paper = Paper(
        "WhitenedCSE: Whitening-based Contrastive Learning of Sentence Embeddings",
        "ACL 2023",
        "Copies of a sentence are whitened in other groups of channels each: the batch is spread, and positives vary.",
        arxiv="2305.17746",
        differs="each copy is whitened over the batch with groups of its own, as the paper says; the released code "
        "whitens thirds of the batch, whose copies share their groups (--official); the whitening matrix is a "
        "constant, as it is there by accident (--differentiate: the paper's literal reading); several processes whiten "
        "their batches together; no masked-LM term, which is off in the released script; duplicates in a batch are no "
        "negatives; a warm-up of a twentieth of the run (none in the paper); [CLS] and 32 tokens are options of the "
        "encoder (--text-pooling cls --text-length 32); validation does not choose the checkpoint that is kept",
    )
    preset_paper = {"views": {"name": "twice", "copies": 3}, "temperature": 0.05, "eps": 0.0}
    paper_training = {"optimiser": "adamw", "lr": 1e-5, "weight_decay": 0.0, "schedule": "linear", "clip_norm": 1.0}
    fixed = ("negatives",)

    def __init__(
        self,
        encoder: Encoder,
        *,
        groups: PositiveInt | Literal["auto"] = "auto",
        eps: NonNegativeFloat = 0.0,
        differentiate: bool = False,
        official: bool = False,
        **shared: Any,
    ):
        super().__init__(encoder, **shared)
        self.groups = auto_groups(self.dim) if groups == "auto" else groups
        if self.dim % self.groups:
            raise InputError(f"--groups {self.groups} do not divide the {self.dim} channels of the encoder.",
                             f"Use --groups {auto_groups(self.dim)}, or another divisor.")  # fmt: skip
        self.whitening = {"eps": eps, "differentiate": differentiate, "blocks": official}

    @classmethod
    def parts(cls, chosen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        return {"views": {"name": "twice", "copies": 3}}

    def resolve(self, facts: Facts) -> dict[str, Any]:
        size = self.dim // self.groups
        if facts.batch_size <= size and not self.whitening["eps"]:
            raise InputError(f"A batch of {facts.batch_size} sentences cannot whiten groups of {size} channels.",
                             f"Use --batch-size {size + 1} or more, more --groups, or --eps 1e-3.")  # fmt: skip
        return super().resolve(facts) | {"groups": self.groups}

    def encode(self, batch: Batch) -> dict[str, Any]:
        return {"views": forward_views(self.tower.features, batch.views[self.role])}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        return self.contrasted([self.tower.project(u) for u in self.whitened(embedded["views"], batch)], batch)

    def whitened(self, h: list[Tensor], batch: Batch) -> list[Tensor]:
        """The own rows of each copy, whitened over the batch of all processes."""
        gathered = [exchange("global").gather(x) for x in h]
        generator, first = batch.common_generator(1), gathered[0][1]
        drawn = [torch.randperm(self.dim, generator=generator, device=h[0].device) for _ in h]
        made = heads.whitened_views([x for x, _ in gathered], torch.stack(drawn), self.groups, **self.whitening)
        return [u[first : first + len(batch)] for u in made]
