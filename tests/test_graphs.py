"""Graphs as tensors: parts of them give the vectors of the whole, edges are held out, neighbourhoods drawn."""

import networkx
import numpy as np
import pytest
import torch

from nearfar import graphs
from nearfar.encoders.network import GraphEncoder, symmetric_weights
from nearfar.encoders.paths import PathEncoder


def drawn(n=40, seed=0, types=1, relations=1):
    rng = np.random.default_rng(seed)
    given = [rng.integers(n, size=(2, 2 * n)) for _ in range(relations)]
    kinds = np.arange(n) % types
    features = [rng.normal(size=((kinds == k).sum(), 3 + k)) for k in range(types)]
    return graphs.connected(n, given, features, kinds)


def test_edges_stand_in_both_directions_once():
    graph = graphs.connected(4, [np.array([[0, 1, 1, 2], [1, 0, 2, 2]])], [np.ones((4, 1))])
    assert graph.edges.T.tolist() == [[0, 1], [1, 0], [1, 2], [2, 1]]
    assert graph.degree.tolist() == [1, 2, 1, 0]
    two = graphs.connected(3, [np.array([[0], [1]]), np.array([[1], [2]])], [np.ones((3, 1))])
    assert sorted(zip(*two.edges.tolist(), two.relations.tolist(), strict=True)) == [
        (0, 1, 0), (1, 0, 1), (1, 2, 2), (2, 1, 3)]  # fmt: skip


def test_weights_are_those_of_kipf_and_welling():
    graph = drawn()
    edges, weights = symmetric_weights(graph)
    dense = torch.zeros(40, 40).index_put((edges[1], edges[0]), weights, accumulate=True)
    a = torch.zeros(40, 40).index_put((graph.edges[1], graph.edges[0]), torch.ones(graph.edges.shape[1])) + torch.eye(
        40
    )
    root = a.sum(1).rsqrt()
    torch.testing.assert_close(dense, root[:, None] * a * root[None])


@pytest.mark.parametrize("convolution", ["gcn", "sage", "gat", "rgcn"])
@pytest.mark.parametrize("types", [1, 2])
def test_a_node_with_its_neighbourhood_has_the_vector_it_has_in_the_whole(convolution, types):
    graph = drawn(types=types, relations=2)
    torch.manual_seed(0)
    widths = [x.shape[1] for x in graph.features]
    encoder = GraphEncoder(widths, ["a", "b"][:types], ["r", "s"], convolution, 8, 2).eval().standardise(graph)
    whole = encoder.all_nodes(graph)
    alone = encoder(encoder.prepare([graphs.around(graph, k, 2) for k in range(40)]))
    torch.testing.assert_close(alone, whole, rtol=1e-4, atol=1e-5)
    again = GraphEncoder.restored(encoder.config()).eval()
    again.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(again.all_nodes(graph), whole)


def test_a_gcn_is_a_product_of_matrices():
    graph = drawn()
    torch.manual_seed(0)
    encoder = GraphEncoder([3], dim=4, layers=2, activation="relu").eval()
    edges, weights = symmetric_weights(graph)
    a = torch.zeros(40, 40).index_put((edges[1], edges[0]), weights)
    h = graph.features[0]
    for conv in encoder.convs:
        h = torch.relu(a @ (h @ conv.lin.weight.T) + conv.bias)
    torch.testing.assert_close(encoder.all_nodes(graph), h, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("convolution", ["gcn", "rgcn", "paths"])
def test_what_embedding_made_of_a_graph_serves_training(convolution):
    """Matrices, degrees and places stay with a graph; made in inference mode, no gradient would pass them."""
    graph = drawn(types=2, relations=2)
    widths, names = [x.shape[1] for x in graph.features], (["a", "b"], ["r", "s"])
    kind = PathEncoder if convolution == "paths" else GraphEncoder
    encoder = kind(widths, *names, convolution, 8, 2, **({"paths": ["a-r:b-r:a"]} if convolution == "paths" else {}))
    with torch.inference_mode():
        embedded = encoder.eval().all_nodes(graph)
    made = encoder.all_nodes(graph)
    made.square().sum().backward()
    torch.testing.assert_close(made, embedded.clone())
    assert all(p.grad is not None for p in encoder.convs.parameters())


def test_drawn_neighbourhoods_hold_no_more_than_asked_for():
    graph = drawn(60)
    found = graphs.sampled(graph, np.array([5, 7, 5]), [3, 2], np.random.default_rng(0))
    assert len(found) == 3
    assert found.numbers[0] == found.numbers[2]
    assert torch.bincount(found.graph.edges[1]).max() <= 3
    assert torch.equal(found.graph.features[0][found.numbers[0]], graph.features[0][5])
    everything = graphs.sampled(graph, np.array([5]), [1000, 1000], np.random.default_rng(0))
    near = networkx.ego_graph(networkx.Graph(graph.edges.T.tolist()), 5, radius=2)
    assert len(everything.graph) == near.number_of_nodes()


def test_held_out_edges_are_away_and_leave_no_node_alone():
    graph = drawn(60)
    val, test = graphs.held_out(graph, 0.2, seed=3)
    pairs = graphs.pairs_of(graph)
    assert val.shape[1] + test.shape[1] == round(0.2 * pairs.shape[1])
    left = graphs.without(graph, np.concatenate([val, test], 1))
    kept = {tuple(p) for p in graphs.pairs_of(left).T.tolist()}
    away = {tuple(p) for p in np.concatenate([val, test], 1).T.tolist()}
    assert not kept & away
    assert kept | away == {tuple(p) for p in pairs.T.tolist()}
    assert (left.degree[graph.degree > 0] > 0).all()
    again = graphs.held_out(graph, 0.2, seed=3)
    assert np.array_equal(val, again[0])
    assert not np.array_equal(val, graphs.held_out(graph, 0.2, seed=4)[0])
