"""BGRL: bootstrapped graph latents (Thakoor et al., ICLR 2022).

    graph --drop edges, empty features, twice--> G_a, G_b;   h = GCN(G),  p = predictor(h),  t = teacher's GCN(G)
    loss = 2 - mean cos(p_a, t_b) - mean cos(p_b, t_a);   teacher <- m teacher + (1 - m) GCN, m to 1 by cosine

No negatives, so that time grows with the edges alone; the predictor and the slow teacher keep it from collapse.
"""

from typing import Any, Literal

from nearfar.checks import UnitInterval, Width
from nearfar.encoders import Encoder
from nearfar.methods import Paper, register
from nearfar.methods.contrast.networks import Bootstrap, GraphTwins


@register("bgrl", family="graph")
class BGRL(GraphTwins):
    """A node in one copy of the graph predicts what a slow teacher sees of it in the other.

    Args:
        momentum: m; of the teacher at the start, rising to 1 by cosine.
        predictor: width of the predictor's hidden layer.
        teacher: start of the teacher: fresh, from weights of its own, as in the released code; copy, of the encoder.
    """

    paper = Paper(
        "Large-Scale Representation Learning on Graphs via Bootstrapping",
        "ICLR 2022",
        "A node in one copy of a graph predicts what a slow teacher sees of it in the other; there are no negatives.",
        arxiv="2102.06514",
        differs="one slope of PReLU for all layers; batch norm with running statistics of momentum 0.1; drop "
        "rates and learning rate of --preset paper are those of the BGRL that the code of GAugLLM (KDD 2024) compares "
        "itself with, not those of BGRL's own authors",
    )
    uses_batch = False
    preset_paper = {
        "views": {"name": "drop", "edges": 0.2, "edges_b": 0.3, "features": 0.3, "features_b": 0.2},
        "momentum": 0.99,
        "predictor": 512,
        "teacher": "fresh",
    }
    paper_training = {"optimiser": "adamw", "lr": 1e-5, "weight_decay": 1e-5, "schedule": "cosine"}

    def __init__(
        self,
        encoder: Encoder,
        *,
        momentum: UnitInterval = 0.99,
        predictor: Width = 512,
        teacher: Literal["fresh", "copy"] = "fresh",
        **shared: Any,
    ):
        super().__init__(encoder, **shared)
        self.host = Bootstrap(self.tower, predictor, momentum, teacher == "fresh")
