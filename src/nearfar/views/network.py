"""Views of the nodes of a graph: copies that lack some edges and some features."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from nearfar.checks import UnitInterval, check_fields
from nearfar.communities import communities, community_strength, edge_keep, edge_scores, feature_drop, feature_votes
from nearfar.encoders.base import Features
from nearfar.errors import InputError
from nearfar.graphs import Graph, Nodes, kept, pairs_of
from nearfar.views.plan import Views


def drop_edges(graph: Graph, keep: Tensor | float, generator: torch.Generator) -> Graph:
    """Keeps each column of `edges` with its probability, (m,) or one for all. Both directions of an edge are drawn
    apart, so that a view is a directed graph (GRACE; Zhu et al., GCA, WWW 2021)."""
    drawn = torch.rand(graph.edges.shape[1], generator=generator, device=generator.device).to(graph.edges.device)
    return graph.with_edges(drawn < keep)


def mask_features(graph: Graph, drop: list[Tensor] | float, generator: torch.Generator) -> Graph:
    """Empties each number of the features, for all nodes of a type at once, with its probability (d_t,), or one for
    all. Emptied numbers are NaN, which the encoder takes for their mean; of rows that sum to 1, for 0."""
    found = []
    for kind, x in enumerate(graph.features):
        drawn = torch.rand(x.shape[1], generator=generator, device=generator.device).to(x.device)
        chance = drop if isinstance(drop, float | int) else drop[kind]
        found.append(x.masked_fill((drawn < chance)[None], float("nan")))
    masked = dataclasses.replace(graph, features=tuple(found))
    masked.__dict__.update({k: v for k, v in graph.__dict__.items() if k in ("degree", "places", "neighbours")})
    return masked


def other_look(graph: Graph) -> Graph:
    """The graph without three tenths of its edges and with three tenths of its numbers empty, always alike."""
    generator = torch.Generator().manual_seed(20_241)
    return mask_features(drop_edges(graph, 0.7, generator), 0.3, generator)


class GraphViews(Views):
    """A plan over nodes: two copies of the graph around them."""

    modality = "node"

    def view(self, graph: Graph, number: int, generator: torch.Generator) -> Graph:
        """One changed copy, the first or the second."""
        raise NotImplementedError

    def __call__(self, inputs: Nodes, generator: torch.Generator) -> list[Nodes]:
        if not isinstance(inputs, Nodes):
            got = "what --freeze computed once" if isinstance(inputs, Features) else type(inputs).__name__
            raise InputError(f"Views of graphs need nodes. Got {got}.",
                             "Leave out --freeze: views change what the encoder sees.")  # fmt: skip
        return [Nodes(self.view(inputs.graph, number, generator), inputs.numbers) for number in range(2)]


@dataclass
class Drop(GraphViews):
    """Two copies of the graph; each lacks edges and features that are drawn evenly (Zhu et al., GRACE, 2020).

    Args:
        edges: p_e1 of the first copy; probability that a direction of an edge is dropped.
        edges_b: p_e2; of the second copy.
        features: p_f1; probability that a number is emptied for all nodes.
        features_b: p_f2; in the second copy.
    """

    edges: UnitInterval = 0.2
    edges_b: UnitInterval = 0.4
    features: UnitInterval = 0.3
    features_b: UnitInterval = 0.4
    members: int = field(default=1, init=False)
    targets: int = field(default=2, init=False)

    def __post_init__(self):
        check_fields(self)

    def view(self, graph: Graph, number: int, generator: torch.Generator) -> Graph:
        edges, features = ((self.edges, self.features), (self.edges_b, self.features_b))[number]
        return mask_features(drop_edges(graph, 1 - edges, generator), features, generator)


def communities_of(graph: Graph) -> tuple[Tensor, Tensor]:
    """The community of each node (n,) and the strength of each community float64 (K,), found once for a graph. Nodes
    that edges of several relations join are joined once in both."""

    def strong() -> Tensor:
        pairs = torch.from_numpy(pairs_of(graph)).to(graph.edges.device)
        return community_strength(torch.cat([pairs, pairs.flip(0)], 1), found)

    found = kept(graph, "communities", lambda: communities(graph).to(graph.edges.device))
    return found, kept(graph, "strengths", strong)


def strengths(graph: Graph) -> tuple[Tensor, Tensor]:
    """The community of each node (n,) and its strength float64 (n,)."""
    found, strong = communities_of(graph)
    return found, strong[found]


@dataclass
class Communal(GraphViews):
    """Two copies of the graph that lack what matters little to its communities: edges between strong ones, features
    that strong ones hardly have (CSGCL, IJCAI 2023: communal edge dropping and communal attribute voting).

    Args:
        edges: p_e1 of the first copy; mean probability that a direction of an edge is dropped.
        edges_b: p_e2; of the second copy.
        features: p_x1; mean probability that a number is emptied for all nodes.
        features_b: p_x2; in the second copy.
        edge_threshold: theta_e; highest probability that an edge is dropped.
        feature_threshold: theta_x; highest probability that a number is emptied.
        form: sparse: a number that no node has is never emptied; dense: it is.
    """

    edges: UnitInterval = 0.2
    edges_b: UnitInterval = 0.7
    features: UnitInterval = 0.1
    features_b: UnitInterval = 0.2
    edge_threshold: UnitInterval = 1.0
    feature_threshold: UnitInterval = 1.0
    form: Literal["sparse", "dense"] = "sparse"
    members: int = field(default=1, init=False)
    targets: int = field(default=2, init=False)

    def __post_init__(self):
        check_fields(self)

    def view(self, graph: Graph, number: int, generator: torch.Generator) -> Graph:
        if graph.degrees is not None:
            raise InputError("Communities are those of the whole graph, not of a drawn part.",
                             "Use --graph-neighbours all, or --views drop.")  # fmt: skip
        edges, features = ((self.edges, self.features), (self.edges_b, self.features_b))[number]
        keep = kept(graph, f"keep {edges} {self.edge_threshold}", lambda: self.keep(graph, edges))
        drop = kept(graph, f"drop {features} {self.feature_threshold} {self.form}", lambda: self.drop(graph, features))
        return mask_features(drop_edges(graph, keep, generator), drop, generator)

    def keep(self, graph: Graph, rate: float) -> Tensor:
        """Probability that each edge is kept, float (m,)."""
        community, strong = communities_of(graph)
        return edge_keep(edge_scores(graph.edges, community, strong), rate, threshold=self.edge_threshold).float()

    def drop(self, graph: Graph, rate: float) -> list[Tensor]:
        """Probability that each number of each type is emptied, float (d_t,) each."""
        _, strength = strengths(graph)
        votes = [feature_votes(x, strength[graph.types == kind]) for kind, x in enumerate(graph.features)]
        return [feature_drop(v, rate, threshold=self.feature_threshold, form=self.form).float() for v in votes]
