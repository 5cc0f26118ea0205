"""Graph Barlow Twins (Bielak et al., Knowledge-Based Systems 2022).

    graph --drop edges, empty features, twice--> G_a, G_b --GCN--> h_a, h_b;   columns standardised, C = h_a^T h_b / n
    loss = sum_i (1 - C_ii)^2 + (1/d) sum_{i != j} C_ij^2

One network for both copies, without teacher, predictor or negatives.
"""

from typing import Any

from nearfar.encoders import Encoder
from nearfar.methods import Paper, register
from nearfar.methods.contrast.networks import Decorrelation, GraphTwins


@register("graph-barlow-twins", family="graph")
class GraphBarlowTwins(GraphTwins):
    """Each column of the vectors is the same in both copies of the graph, and correlated with no other."""

    paper = Paper(
        "Graph Barlow Twins: A self-supervised representation learning framework for graphs",
        "Knowledge-Based Systems, 2022",
        "Columns of the vectors in two copies of a graph agree with themselves and with no other column.",
        arxiv="2106.02466",
        differs="batch norm and PReLU follow the last convolution too; 1e-12 is added to the variance (released code: "
        "1e-15 to the deviation); --preset paper holds no values of its authors: learning rate of GAugLLM's "
        "code (KDD 2024) with it as a host, decay and schedule those of its BGRL, drop rates those of the BGRL that it "
        "compares itself with",
    )
    preset_paper = {"views": {"name": "drop", "edges": 0.2, "edges_b": 0.3, "features": 0.3, "features_b": 0.2}}
    paper_training = {"optimiser": "adamw", "lr": 1e-3, "weight_decay": 1e-5, "schedule": "cosine"}

    def __init__(self, encoder: Encoder, **shared: Any):
        super().__init__(encoder, **shared)
        self.host = Decorrelation()
