"""Communities of a graph, how strongly each holds together, and what is kept of edges and features because of it.

Source: CSGCL, IJCAI 2023 (arXiv 2305.04658), as its card's letters A, B and C; functions of plain tensors.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.checks import one_of
from nearfar.errors import InputError
from nearfar.graphs import Graph, pairs_of


def communities(graph: Graph, *, seed: int = 0) -> Int[Tensor, " n"]:
    """The community of each node, 0..K-1, by modularity (Louvain; networkx). A node without edges is alone.

    Raises InputError for a graph without edges."""
    import networkx

    pairs = pairs_of(graph)
    if not pairs.shape[1]:
        raise InputError("A graph without edges has no communities.", "Train grace, or give data with edges.")
    drawn = networkx.Graph()
    drawn.add_nodes_from(range(len(graph)))
    drawn.add_edges_from(pairs.T.tolist())
    found = torch.zeros(len(graph), dtype=torch.int64)
    for number, members in enumerate(networkx.community.louvain_communities(drawn, seed=seed)):
        found[torch.tensor(sorted(members))] = number
    return found


def community_strength(edges: Int[Tensor, "2 m"], community: Int[Tensor, " n"]) -> Float[Tensor, " k"]:
    """S_c = e_c / M - (D_c / 2M)^2, float64 (K,): e_c edges inside c, D_c the degrees of its nodes, M edges in all.

    edges: each in both directions; a loop, which stands once, has its full weight in e_c and 2 in the degree. Their sum
    is the modularity, so in [-1/2, 1]; a weak community may be below 0. Source: card A.

    Raises InputError without edges.
    """
    if not edges.shape[1]:
        raise InputError("Strengths of communities need edges.", "Give edges int64 (2, m), m > 0.")
    source, target = edges
    weight = torch.where(source == target, 2.0, 1.0).double()
    count, whole = int(community.max()) + 1, weight.sum()
    inner = weight * (community[source] == community[target])
    e = torch.zeros(count, dtype=torch.float64, device=edges.device).index_add(0, community[source], inner) / whole
    d = torch.zeros_like(e).index_add(0, community[source], weight) / whole
    return e - d.square()


def edge_scores(
    edges: Int[Tensor, "2 m"], community: Int[Tensor, " n"], strength: Float[Tensor, " k"]
) -> Float[Tensor, " m"]:
    """r_uv = S_c where both ends are in c, else -(S_c(u) + S_c(v)). Source: card B."""
    a, b = community[edges[0]], community[edges[1]]
    return torch.where(a == b, strength[a], -(strength[a] + strength[b]))


def edge_keep(scores: Float[Tensor, " m"], drop: float, *, threshold: float = 1.0) -> Float[Tensor, " m"]:
    """Probability that each edge is kept: clip(w / mean(w) (1 - p_e), 1 - theta_e, 1), w = r scaled to 0..1.

    Equal scores are dropped evenly (w = 1). In [1 - threshold, 1]; its mean is 1 - drop before clipping. Card B.
    """
    low, high = scores.min(), scores.max()
    w = torch.ones_like(scores) if high <= low else (scores - low) / (high - low)
    return (w / w.mean() * (1 - drop)).clamp(1 - threshold, 1)


def feature_votes(features: Float[Tensor, "n d"], strength: Float[Tensor, " n"]) -> Float[Tensor, " d"]:
    """v_f = sum_i |X_if| s_i, s_i the strength of a node's community; an empty number (NaN) has none. Card C."""
    return features.nan_to_num(nan=0.0).abs().to(strength.dtype).T @ strength


def feature_drop(
    votes: Float[Tensor, " d"], drop: float, *, threshold: float = 1.0, form: str = "sparse"
) -> Float[Tensor, " d"]:
    """Probability that each number is emptied: min(g / mean(g) p_x, theta_x), g = (max l - l) / (max l - min l) with
    l = log v.

    form: "sparse" takes a number that nobody has for the most voted one (so it stays), "dense" does not. Votes that are
    not positive, which strengths below 0 can make, count as the smallest positive one; equal votes are dropped evenly.
    In [0, threshold]. Source: card C.
    """
    one_of("form", form, ("sparse", "dense"))
    if form == "sparse":
        votes = torch.where(votes == 0, votes.max(), votes)
    positive = votes[votes > 0]
    if not len(positive):
        return torch.full_like(votes, min(drop, threshold))
    logs = votes.clamp(min=float(positive.min())).log()
    span = logs.max() - logs.min()
    g = torch.ones_like(logs) if span <= 0 else (logs.max() - logs) / span
    return (g / g.mean() * drop).clamp(0, threshold)


def team_up_weight(epoch: int, *, start: int, rise: float, most: float) -> float:
    """gamma_t = clip((t - t0) / rise, 0, gamma_max), epochs t counted from 1. Source: card E (rise 100)."""
    return max(0.0, min((epoch - start) / rise, most))
