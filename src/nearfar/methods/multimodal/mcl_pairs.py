"""MCL over pairs: multistage contrastive learning of two encoders, such as those of images and of their texts (Zhang
et al., ECCV 2024).

    stage 0: contrast of pairs (or a ready model) --> f_0, g_0
    stage s: clusters of f_{s-1}(x_i) alone, joined over the stages;  the same contrast with negatives of one cluster,
             from the first weights --> f_s, g_s
    z(x) = [f_0(x); ...; f_S(x)] / || . ||,   z(t) = [g_0(t); ...; g_S(t)] / || . ||

The paper's main result fine-tunes CLIP in this way, with its text tower locked.
"""

from __future__ import annotations

from typing import Any

from nearfar.encoders import Encoder
from nearfar.encoders.base import evaluating
from nearfar.errors import InputError
from nearfar.methods import Batch, Multistage, PairContrast, Paper, Tower, register


@register("mcl-pairs", family="multimodal")
class PairsInStages(Multistage, PairContrast):
    """Contrast of pairs in stages, each with negatives from the clusters of the first column in the earlier ones.

    Args:
        locked: the second column's tower, which has an encoder of its own, is trained in stage 0 alone; the paper's
            text tower.
        temperature: tau; divides the cosine.
        learn_temperature: train tau.
    """

    paper = Paper(
        "Learning the Unlearned: Mitigating Feature Suppression in Contrastive Learning",
        "ECCV 2024",
        "Images that earlier stages cannot tell apart are the only negatives of the next one.",
        arxiv="2402.11816",
        differs="all layers of the first tower are trained, not the last six groups; stage 0 is trained unless --first "
        "names a model, and each stage begins at the temperature that is asked for, which learns at five times the "
        "rate, up to 100 (the paper: from the checkpoint's, up to 1); k-means over all items with four starts, not in "
        "mini-batches; a warm-up of a twentieth of a run (the paper: 600 steps); betas and eps are those of its ViT; "
        "the labels of all stages are joined, as the paper says (joint_labels=last: as the released script does); all "
        "processes draw from one permutation",
    )
    needs = (frozenset({"pair"}),)
    preset_paper = {"stages": 3, "clusters": 10, "temperature": 0.07, "learn_temperature": True, "locked": True}
    defaults = {"temperature": 0.07}
    follows = {"locked": "first"}

    def __init__(self, encoder: Encoder, encoder_b: Encoder | None = None, *, locked: bool = False, **shared: Any):
        super().__init__(encoder, encoder_b, **shared)
        if locked and not self.two:
            raise InputError("One encoder reads both columns: it cannot be locked on one side.", "Use --locked false.")
        self.locked = locked

    def staged(self) -> list[Tower]:
        return [self.tower_a, self.tower_b] if self.two else [self.tower_a]

    def start_over(self, number: int) -> None:
        kept = self.past[number - 1][-1].state_dict()  # pyright: ignore[reportIndexIssue, reportArgumentType]
        super().start_over(number)
        if self.locked:
            self.tower_b.load_state_dict(kept)

    def encode(self, batch: Batch) -> dict[str, Any]:
        if not self.locked or int(self.stage) == 0:
            return super().encode(batch)
        with evaluating(self.tower_b):
            made = super().encode(batch)
        constant = {"b": made["b"].detach()}
        return made | constant | ({"negative": [x.detach() for x in made["negative"]]} if "negative" in made else {})

    def towers(self) -> dict[str, Tower]:
        first = self.joined_tower(0)
        return {self.roles[0]: first, self.roles[1]: self.joined_tower(1) if self.two else first}
