"""MCLRec: meta-optimised contrastive learning for sequential recommendation (Qin et al., SIGIR 2023).

    history --two views--> h1, h2 (encoder theta) --two augmenters phi--> z1 = w1(h1), z2 = w2(h2), unit length
    1  theta: next item + lambda InfoNCE(h1, h2) + beta (L_cl2 + 0.1 R)       phi frozen, the gradient passes through it
    2  phi:   L_cl2 + 0.1 R, with the new theta
    3  theta: as 1, with the new phi

L_cl2 contrasts z1 with z2, h1 with z2 and h2 with z1; R (`losses.contrast_regulariser`) keeps what the augmenters make
from being too easy. The updates alternate: no gradient goes through an update. The augmenters serve training alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nearfar.checks import NonNegativeFloat, Width
from nearfar.encoders import Encoder
from nearfar.heads.augmenter import Augmenter
from nearfar.losses import augmented_contrast, augmented_regulariser
from nearfar.methods import Batch, Loss, Paper, Phase, register
from nearfar.methods.recommending import ContrastedNextItem


@register("mclrec", family="recommendation")
class MCLRec(ContrastedNextItem):
    """Two small networks learn to make further, harder views of a history, in turn with the encoder.

    Args:
        weight: lambda; of the contrast of the two views themselves.
        beta: of what contrasts with the augmenters' views.
        regularise: share of the regulariser beside that contrast (the paper's gamma / beta).
        regulariser: whose min and max it takes: with rows those of each row, over three pairs (the code), with whole
            those of the batch, of the two augmenters' views alone (the paper).
        updates: of a step: encoder and augmenters (2, the paper), or the encoder once more (3, the code).
        joint: one update of both by the encoder's loss (MCLRec-J).
        one_augmenter: both views pass the same augmenter.
        augmenter: widths of the two layers between. auto: a half and a quarter of the vector's.
    """

    paper = Paper(
        "Meta-optimized Contrastive Learning for Sequential Recommendation",
        "SIGIR 2023",
        "Augmenters that are trained against the updated encoder give every batch more and harder pairs.",
        arxiv="2304.07763",
        differs="a hidden item has a vector of its own, where the code writes the padding (views.hidden padding; "
        "--preset paper takes it); a place that sees no item sees itself; padding is no class of the softmax; lambda "
        "and beta are those of its Yelp, since each data set has its own; users and items with few interactions stay, "
        "and no early stop looks at MRR@10; a warm-up of a twentieth of the run (none in the code: --warmup 0); batch "
        "256, 100 epochs and the dropout 0.1 of its MovieLens are --batch-size 256 --steps N --history-dropout 0.1",
    )
    needs = (frozenset({"user", "item"}),)
    preset_paper = {
        "views": {"name": "crop-mask-reorder", "hidden": "padding"},
        "weight": 0.03,
        "beta": 0.1,
        "regularise": 0.1,
        "temperature": 1.0,
        "augmenter": (32, 16),
    }
    paper_training = {"optimiser": "adam", "lr": 1e-3, "weight_decay": 0.0, "schedule": "constant"}
    only_with = {"updates": {"joint": (False,)}}
    defaults = {"weight": 0.03}
    follows = {"beta": "weight", "regularise": "beta", "regulariser": "regularise"}

    def __init__(
        self,
        encoder: Encoder,
        *,
        beta: NonNegativeFloat = 0.1,
        regularise: NonNegativeFloat = 0.1,
        regulariser: Literal["rows", "whole"] = "rows",
        updates: Literal[2, 3] = 3,
        joint: bool = False,
        one_augmenter: bool = False,
        augmenter: tuple[Width, Width] | Literal["auto"] = "auto",
        **shared: Any,
    ):
        super().__init__(encoder, **shared)
        self.beta, self.regularise, self.updates, self.joint = beta, regularise, updates, joint
        self.form: Literal["rows", "whole"] = regulariser
        d = encoder.dim
        widths = (max(1, d // 2), max(1, d // 4)) if augmenter == "auto" else augmenter
        first = Augmenter(d, widths)
        self.augmenters = nn.ModuleList([first, first if one_augmenter else Augmenter(d, widths)])

    def phases(self) -> Sequence[Phase]:
        if self.joint:
            return ()
        again = [Phase("again", [self.tower], self.encoder_loss, shares="encoder")] if self.updates == 3 else []
        return [
            Phase("encoder", [self.tower], self.encoder_loss),
            Phase("augmenters", [self.augmenters], self.augmenter_loss),
            *again,
        ]

    def encoder_loss(self, batch: Batch) -> Loss:
        """L_0, of theta."""
        return self.loss(self.encode(batch), batch)

    def augmenter_loss(self, batch: Batch) -> Loss:
        """L_1, of phi: what the encoder gives is constant."""
        with torch.no_grad():
            h = self.encode_views(batch)
        total, terms = self.augmented(h)
        return Loss(total, terms)

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        found = super().loss(embedded, batch)
        total, terms = self.augmented(embedded["views"])
        return Loss(found.total + self.beta * total, found.terms | terms)

    def augmented(self, h: list[Tensor]) -> tuple[Tensor, dict[str, Tensor | float]]:
        """L_cl2 + gamma' R of the states of two views, and its terms; `agreement` is the mean cosine of z1 and z2."""
        z = [w(x) for w, x in zip(self.augmenters, h, strict=True)]
        apart = augmented_contrast(h, z, similarity=self.product, negatives="global")
        easy = augmented_regulariser(h, z, temperature=self.temperature, form=self.form, similarity=self.product,
                                     negatives="global")  # fmt: skip
        terms = {"augmented": apart.detach(), "regulariser": easy.detach(), "agreement": (z[0] * z[1]).sum(1).mean()}
        return apart + self.regularise * easy, {name: value.detach() for name, value in terms.items()}
