"""GroCo: learning by sorting, with group ordering constraints (Shvetsova et al., ICCV 2023).

    x --A views--> z^1 .. z^A;   anchor z^a_i: the K nearest z^a_j of its OWN view, and its m other views z^b_i
    --soft odd-even sorting network--> P;   u_r = share of input r among the K smallest
    loss = cross-entropy of u with "r is a negative", the mean over items, then views

Only the order around an anchor matters, and only between its positives and its nearest negatives; far ones have no say.
The equations are `nearfar.losses.groco` and those of `nearfar.losses.sorting`; `--loss nearest` is the control, NT-Xent
over the same negatives without sorting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nearfar.checks import PositiveFloat, PositiveInt
from nearfar.encoders import Encoder
from nearfar.errors import InputError
from nearfar.losses.rows import in_order
from nearfar.methods import Batch, Facts, Loss, Paper, ViewContrast, register
from nearfar.similarity import Layout, own_view


@register("groco", family="image")
class GroCo(ViewContrast):
    """Positives come before the nearest negatives, by a differentiable sorting network; the curve shows `ordered`, the
    share of anchors for which they do.

    Args:
        top_k: K; the most similar negatives that are kept. A batch of B items has B - 1.
        steepness: beta; how hard the swaps of the sorting network are.
        detach: positives and negatives are constants in the gradient, which reaches the encoder by the anchors.
        own_view: negatives are the other items in the anchor's own view; false: in all views, one positive at a time
            and with gradient, as in SimCLR.
        draws: how often the views are drawn; 2: four views of two crops.
        temperature: tau; of another loss. Paper: 0.5 for its control, `--loss nearest`.
        loss: another row loss in place of the ordering; nearest: InfoNCE over the same negatives.
        projector_layers: linear layers of the projection head.
        last_norm: batch norm without scale and shift after the projection head.
    """

    paper = Paper(
        "Learning by Sorting: Self-supervised Learning with Group Ordering Constraints",
        "ICCV 2023",
        "Sort an anchor's positives before its nearest negatives, and let far negatives alone.",
        arxiv="2301.02009",
        differs="AdamW instead of SGD unless asked for; the preset's rate is of 100 epochs (a quarter for 800) and "
        "grows with the batch for four views too (in the released code with its root; equal at 1024); a warm-up of a "
        "twentieth of the run instead of one epoch (ten for 800 epochs and for small crops); small crops blur as their "
        "plan says (--views multi-crop --views.blur 1.0,0.1,0.5); duplicates are no negatives; a batch with fewer than "
        "K + 1 items keeps the negatives it has; the bias before the last batch norm, without effect, is left out",
    )
    preset_paper = {
        "views": {"name": "two-crops", "crop": (0.14, 1.0), "strength": 0.5, "saturation": 0.2, "grey": 0.2,
                  "blur": (1.0, 0.1), "solarise": (0.0, 0.2)},
        "top_k": 10, "steepness": 1.0, "detach": True, "own_view": True,
        "projector": 2048, "projector_layers": 3, "dim": 2048,
    }  # fmt: skip
    paper_training = {"optimiser": "sgd", "lr": 24.0, "lr_batch": 1024, "weight_decay": 1e-6, "decay_all": True}
    defaults = {"temperature": 0.5}
    fixed = ("negatives", "momentum")
    follows = {"projector_layers": "projector", "last_norm": "dim"}
    of_part = {"top_k": "loss", "steepness": "loss"}

    def __init__(
        self,
        encoder: Encoder,
        *,
        top_k: PositiveInt = 10,
        steepness: PositiveFloat = 1.0,
        detach: bool = True,
        own_view: bool = True,
        draws: PositiveInt = 1,
        projector_layers: PositiveInt = 3,
        last_norm: bool = True,
        **shared: Any,
    ):
        loss = shared.pop("loss") or self.default_part("loss", top_k=top_k, steepness=steepness)
        super().__init__(encoder, loss=loss, projector_layers=projector_layers, last_norm=last_norm, **shared)
        if loss.positives is not None:
            raise InputError("'groco' takes the other views of an item as its positives, and no labels.",
                             "Use simclr with this loss, or --loss groco.")  # fmt: skip
        self.top_k, self.detach, self.own_view, self.draws = top_k, detach, own_view, draws
        if self.draws * self.plan.targets < 2:
            raise InputError("'groco' needs two views that may be positives.", "Use --draws 2, or two big crops.")

    @classmethod
    def parts(cls, chosen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        return {"loss": {"name": "groco", "top_k": chosen["top_k"], "steepness": chosen["steepness"]}}

    def resolve(self, facts: Facts) -> dict[str, Any]:
        there = {"top_k": facts.batch_size - 1} if self.own_view and self.top_k >= facts.batch_size else {}
        return super().resolve(facts) | there

    def make_views(self, batch: Batch) -> dict[str, list]:
        """Of every drawing first those that may be positives."""
        generator, targets = batch.generator(), self.plan.targets
        made = [self.plan(batch.inputs[self.role], generator) for _ in range(self.draws)]
        return {self.role: [v for one in made for v in one[:targets]] + [v for one in made for v in one[targets:]]}

    def loss(self, embedded: dict[str, Any], batch: Batch) -> Loss:
        if not self.own_view:
            return super().loss(embedded, batch)
        options = self.layout_options(batch)
        layout = own_view(
            embedded["views"],
            targets=self.draws * self.plan.targets,
            gradient=not self.detach,
            together=self.row_loss.several,
            **{name: options[name] for name in ("temperature", "excluded", "negatives")},
        )
        return self.report(layout, embedded["views"][0], batch)

    def report(self, layout: Layout, z: Tensor, batch: Batch) -> Loss:
        loss = super().report(layout, z, batch)
        if self.logged(batch):
            with torch.no_grad():
                loss.terms["ordered"] = layout.parts[0].mean(in_order(layout.parts[0]).to(z.dtype))
        return loss
