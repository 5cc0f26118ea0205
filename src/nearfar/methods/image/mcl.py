"""MCL: multistage contrastive learning against feature suppression (Zhang et al., ECCV 2024).

    stage 0: any contrast --> f_0
    stage s: clusters c^{s-1} of f_{s-1}(x_i), i = 1..N;   p_i = (c^0_i, ..., c^{s-1}_i)
             the same contrast with negatives of equal p alone, fresh weights --> f_s
    z(x) = [f_0(x); f_1(x); ...; f_S(x)] / || . ||

One run of contrast solves its task by the easiest features and ignores the rest. Where all negatives agree with the
anchor in those features, they tell nothing apart any longer, and the next stage must learn others; the stages side by
side keep both. Works over every loss, negatives and views (`--loss dcl --negatives mixing`); `mcl-pairs` over pairs.
"""

from __future__ import annotations

from nearfar.methods import Multistage, Paper, Tower, ViewContrast, register
from nearfar.momentum import Teacher


@register("mcl", family="image")
class MCL(Multistage, ViewContrast):
    """Contrast in stages, each with negatives from the clusters of the earlier ones; the stages' vectors side by side.

    Args:
        temperature: tau; divides the cosine.
    """

    paper = Paper(
        "Learning the Unlearned: Mitigating Feature Suppression in Contrastive Learning",
        "ECCV 2024",
        "Train in stages whose negatives agree in all that earlier stages learned, and keep every stage's features.",
        arxiv="2402.11816",
        differs="the labels of all stages are joined, as the paper says (joint_labels=last: as the released script "
        "does); all processes draw from one permutation; k-means over all items with four starts, not in mini-batches",
    )
    preset_paper = {"stages": 3, "clusters": 10}
    defaults = {"temperature": 0.2}

    def staged(self) -> list[Tower]:
        return [self.tower]

    def start_over(self, number: int) -> None:
        super().start_over(number)
        if isinstance(self.teacher, Teacher):  # it follows from there
            self.teacher.module.load_state_dict(self.tower.state_dict())

    def towers(self) -> dict[str, Tower]:
        return {self.role: self.joined_tower(0)}
