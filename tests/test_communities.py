"""Strengths of communities and what is dropped because of them, against networkx and loops over the equations."""

import math

import networkx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar import communities as c
from nearfar.errors import InputError
from nearfar.graphs import connected
from nearfar.views.network import communities_of


def graph_of(drawn, seed=0):
    names = {node: k for k, node in enumerate(drawn.nodes)}
    pairs = np.array([(names[a], names[b]) for a, b in drawn.edges]).T
    return connected(len(names), [pairs], [np.random.default_rng(seed).random((len(names), 6))])


KARATE = graph_of(networkx.karate_club_graph())


def test_strengths_sum_to_the_modularity():
    found = c.communities(KARATE)
    drawn = networkx.Graph(KARATE.edges.T.tolist())
    parts = [set(np.flatnonzero(found.numpy() == k).tolist()) for k in range(int(found.max()) + 1)]
    wanted = networkx.community.modularity(drawn, parts, weight=None)
    strength = c.community_strength(KARATE.edges, found)
    assert float(strength.sum()) == pytest.approx(wanted, abs=1e-9)
    for k, members in enumerate(parts):
        inner, degree = drawn.subgraph(members).number_of_edges(), sum(dict(drawn.degree(members)).values())
        edges = drawn.number_of_edges()
        assert float(strength[k]) == pytest.approx(inner / edges - (degree / (2 * edges)) ** 2, abs=1e-12)


def test_strengths_of_several_relations_are_those_of_the_graph_whose_communities_they_are():
    """Each two nodes are joined once, whichever relations and directions say so."""
    pairs = np.array(list(networkx.karate_club_graph().edges)).T
    both = connected(34, [pairs, np.concatenate([pairs[::-1, :30], pairs[:, :9]], 1)], [np.ones((34, 2))])
    found, strong = communities_of(both)
    assert found.tolist() == c.communities(KARATE).tolist()
    assert strong.tolist() == pytest.approx(c.community_strength(KARATE.edges, found).tolist(), abs=1e-12)


def test_a_loop_counts_whole():
    edges = torch.tensor([[0, 1, 0], [1, 0, 0]])  # an edge both ways, and a loop
    strength = c.community_strength(edges, torch.tensor([0, 1]))
    assert strength.tolist() == pytest.approx([1 / 2 - (3 / 4) ** 2, -((1 / 4) ** 2)])
    with pytest.raises(InputError, match="need edges"):
        c.community_strength(edges[:, :0], torch.tensor([0, 1]))


def test_edges_between_strong_communities_go_first():
    found = c.communities(KARATE)
    strength = c.community_strength(KARATE.edges, found)
    scores = c.edge_scores(KARATE.edges, found, strength)
    keep = c.edge_keep(scores, 0.3)
    for (u, v), r in zip(KARATE.edges.T.tolist(), scores.tolist(), strict=True):
        a, b = int(found[u]), int(found[v])
        assert r == pytest.approx(float(strength[a]) if a == b else -float(strength[a] + strength[b]))
    w = (scores - scores.min()) / (scores.max() - scores.min())
    assert float((w / w.mean() * 0.7).mean()) == pytest.approx(0.7)
    torch.testing.assert_close(keep, (w / w.mean() * 0.7).clamp(0, 1))
    assert float(keep[scores.argmin()]) == 0
    order = scores.argsort()
    assert (keep[order].diff() >= -1e-12).all()
    inside = found[KARATE.edges[0]] == found[KARATE.edges[1]]
    assert keep[inside].min() > keep[~inside].max()
    assert (c.edge_keep(scores, 0.3, threshold=0.5) >= 0.5).all()


def test_equal_scores_are_dropped_evenly():
    assert c.edge_keep(torch.full((4,), 0.2), 0.3).tolist() == pytest.approx([0.7] * 4)
    assert c.feature_drop(torch.full((3,), 0.2), 0.3).tolist() == pytest.approx([0.3] * 3)
    assert c.feature_drop(-torch.ones(3), 0.3).tolist() == pytest.approx([0.3] * 3)


def test_votes_of_features():
    x, s = KARATE.features[0], torch.linspace(0.1, 0.3, 34, dtype=torch.float64)
    votes = c.feature_votes(x, s)
    for f in range(6):
        assert float(votes[f]) == pytest.approx(sum(abs(float(x[i, f])) * float(s[i]) for i in range(34)))
    drop = c.feature_drop(votes, 0.2)
    logs = [math.log(v) for v in votes.tolist()]
    g = [(max(logs) - one) / (max(logs) - min(logs)) for one in logs]
    assert drop.tolist() == pytest.approx([min(one / (sum(g) / 6) * 0.2, 1) for one in g])
    assert float(drop[votes.argmax()]) == 0
    torch.testing.assert_close(c.feature_drop(5 * votes, 0.2), drop)
    empty = c.feature_votes(torch.tensor([[1.0, 0.0, float("nan")], [2.0, 0.0, 1.0]]), torch.tensor([0.5, 0.1]))
    assert empty.tolist() == pytest.approx([0.7, 0.0, 0.1])
    assert float(c.feature_drop(empty, 0.4)[1]) == 0
    assert float(c.feature_drop(empty, 0.4, form="dense")[1]) > 0


@given(st.lists(st.floats(-0.3, 0.5), min_size=1, max_size=8), st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_probabilities_stay_probabilities(values, rate):
    votes = torch.tensor(values, dtype=torch.float64)
    for form in ("sparse", "dense"):
        found = c.feature_drop(votes, rate, form=form)
        assert ((found >= 0) & (found <= 1)).all()
    assert ((c.edge_keep(votes, rate) >= 0) & (c.edge_keep(votes, rate) <= 1)).all()


def test_the_weight_begins_late_and_ends_at_its_most():
    found = [c.team_up_weight(t, start=1000, rise=100, most=5) for t in (1, 1000, 1001, 1250, 1500, 2000)]
    assert found == pytest.approx([0, 0, 0.01, 2.5, 5, 5])


def test_a_graph_without_edges_has_none():
    with pytest.raises(InputError, match="without edges"):
        c.communities(connected(3, [np.zeros((2, 0), int)], [np.ones((3, 1))]))
