"""GRACE: deep graph contrastive representation learning (Zhu et al., 2020).

    graph --drop edges, empty features, twice--> G_a, G_b --GCN--> h_a, h_b --head--> z_a, z_b --> NT-Xent over 2n nodes

The plain baseline of contrast on one graph: negatives are all other nodes in both copies.
"""

from collections.abc import Mapping
from typing import Any

from nearfar import modalities
from nearfar.methods import Paper, register
from nearfar.methods.contrast.networks import GraphContrast


@register("grace", family="graph")
class Grace(GraphContrast):
    """A node in one copy of the graph finds itself in another, among all nodes of both.

    Args:
        temperature: tau; divides the cosine.
        views: copies of the graph: drop (evenly), communal.
    """

    paper = Paper(
        "Deep Graph Contrastive Representation Learning",
        "ICML workshop on graph representation learning, 2020",
        "Two copies of a graph lack other edges and features; a node finds itself among all nodes of both.",
        arxiv="2006.04131",
        differs="values of --preset paper are those of Cora, without its encoder (--graph-width 128 "
        "--graph-activation relu); a warm-up of a twentieth of the run (official: none); a batch of at most 8,192 "
        "nodes is contrasted (of more 1,024 a step; --batch-size N), while the whole graph passes the encoder",
    )
    defaults = {"temperature": 0.4}
    preset_paper = {
        "temperature": 0.4,
        "projector": 128,
        "views": {"name": "drop", "edges": 0.2, "edges_b": 0.4, "features": 0.3, "features_b": 0.4},
    }
    paper_training = {"optimiser": "adam", "lr": 5e-4, "weight_decay": 1e-5, "schedule": "constant"}
    baseline = 3

    @classmethod
    def suits(cls, roles: Mapping[str, Any]) -> tuple[int, str] | None:
        return (30, modalities.get("node").why) if "node" in roles else None
