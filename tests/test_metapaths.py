"""Meta-paths against dense loops, and an encoder of them that gives a node one vector everywhere."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from nearfar import graphs, metapaths
from nearfar.encoders.network import NodeEncoder
from nearfar.encoders.paths import PathEncoder, attention_score, whole_moments, whole_norm
from nearfar.errors import InputError

TYPES, RELATIONS = ["author", "paper", "place"], ["writes", "in", "cites"]


def drawn(papers=9, authors=5, places=3, seed=0):
    """Papers (the first has no author) with authors, places and papers that they cite."""
    rng = np.random.default_rng(seed)
    kinds = np.repeat([1, 0, 2], [papers, authors, places])
    writes = np.stack([rng.integers(papers, papers + authors, 2 * papers), rng.integers(1, papers, 2 * papers)])
    held = np.stack([np.arange(papers), rng.integers(papers + authors, len(kinds), papers)])
    cites = rng.integers(0, papers, (2, papers))
    features = [rng.normal(size=((kinds == k).sum(), 2 + k)) for k in range(3)]
    return graphs.connected(len(kinds), [writes, held, cites], features, kinds)


def dense_step(graph, a, b, relation=None):
    rows, columns = [(graph.types == k).nonzero()[:, 0].tolist() for k in (a, b)]
    found = torch.zeros(len(rows), len(columns))
    for (s, t), r in zip(graph.edges.T.tolist(), graph.relations.tolist(), strict=True):
        if s in rows and t in columns and relation in (None, r // 2):
            found[rows.index(s), columns.index(t)] = 1
    return found


def read(words, graph, target="paper"):
    joined = metapaths.joined_types(graph)
    return metapaths.read_paths(words, TYPES, RELATIONS, joined, TYPES.index(target))


def test_paths_are_read_and_written():
    graph = drawn()
    usual = read("auto", graph)
    assert [p.words(TYPES, RELATIONS) for p in usual] == ["paper-author-paper", "paper-place-paper", "paper-paper"]
    words = "paper-writes:author-writes:paper, paper-author-paper-author-paper"
    assert [p.words(TYPES, RELATIONS) for p in read(words, graph)] == words.split(", ")
    assert [p.words(TYPES, RELATIONS) for p in read("auto", graph, "place")] == ["place-paper-place"]
    odd = ["a-b", "a-b", "b"]
    path = metapaths.read_path("a-b-b-a-b", odd, ["r"], {(0, 0, 2), (0, 2, 0)}, 0)
    assert path.types == (0, 2, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("paper-autor-paper", "from 'autor-paper' on"),
        ("author-paper-author", "must lead from 'paper' to 'paper'"),
        ("paper-author-paper-place-paper", "read alike"),
        ("paper-place-author-place-paper", "No edge joins 'place' and 'author'"),
        ("paper-in:author-in:paper", "No edge joins 'paper' and 'author'"),
        ("paper", "must lead"),
    ],
)
def test_wrong_paths(words, message):
    with pytest.raises(InputError, match=message):
        read(words, drawn())


def test_a_type_without_edges_has_no_path():
    graph = graphs.connected(4, [np.array([[0], [1]])], [np.ones((2, 1)), np.ones((2, 1))], np.array([0, 0, 1, 1]))
    with pytest.raises(InputError, match="--graph-target"):
        metapaths.read_paths("auto", ["a", "b"], ["edges"], metapaths.joined_types(graph), 1)


def naive(counts, most):
    """Filter, normalisation: loops."""
    n = len(counts)
    kept = torch.zeros(n, n)
    for i in range(n):
        near = {j: 2 * counts[i, j] / (counts[i, i] + counts[j, j]) for j in range(n) if counts[i, j] > 0}
        for j in sorted(near, key=lambda j: (-(near[j] + (i == j)), j))[:most]:
            kept[i, j] = counts[i, j]
    return kept, normal(kept)


def normal(kept):
    d, n = kept.sum(1), len(kept)
    out = torch.zeros(n, n)
    for i in range(n):
        for j in range(n):
            if d[i] > 0 and d[j] > 0:
                out[i, j] = kept[j, i] / (d[i] * d[j]).sqrt()
    return out


@pytest.mark.parametrize("most", [1, 3, None])
@pytest.mark.parametrize("words", ["paper-author-paper", "paper-paper", "paper-author-paper-author-paper"])
def test_matrices_equal_their_loops(words, most):
    graph = drawn()
    path = read(words, graph)[0]
    steps = metapaths.steps_of(graph, path)
    dense = [dense_step(graph, a, b) for a, b in zip(path.types, path.types[1:], strict=False)]
    for one, expected in zip(steps, dense, strict=True):
        assert_close(one.to_dense(), expected)
    counts = torch.linalg.multi_dot(dense) if len(dense) > 1 else dense[0] + torch.eye(9)
    found = metapaths.path_counts(steps)
    assert_close(found.to_dense(), counts)
    kept, adjacent = naive(counts, most or 99)
    assert_close(metapaths.strongest(found, most).to_dense(), kept)
    assert_close(metapaths.normalised(metapaths.strongest(found, most)).to_dense(), adjacent)
    so_far = torch.eye(9)
    for one, between in zip(dense[:-1], metapaths.reached(steps), strict=True):
        so_far = ((so_far @ one) > 0).float()
        assert_close(between.to_dense(), so_far / so_far.sum(1, keepdim=True).clamp(min=1))
    assert len(metapaths.reached(steps)) == len(dense) - 1


def test_one_relation_alone():
    graph = drawn()
    path = read("paper-cites:paper", graph)[0]
    assert_close(metapaths.steps_of(graph, path)[0].to_dense(), dense_step(graph, 1, 1, 2))


def test_masks_are_drawn_once():
    graph = drawn()
    counts = metapaths.path_counts(metapaths.steps_of(graph, read("paper-place-paper", graph)[0]))
    made = [metapaths.masked(counts, 0.5, torch.Generator().manual_seed(s)).to_dense() for s in (1, 1, 2)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert_close(metapaths.masked(counts, 1.0, torch.Generator()).to_dense(), torch.eye(9))
    whole = (counts.to_dense() > 0).float()
    assert_close(metapaths.masked(counts, 0.0, torch.Generator()).to_dense(), normal(whole))
    off = int(whole.sum()) - 9
    assert int((made[0] > 0).sum()) == 9 + off - round(0.5 * off)
    x = torch.tensor([[1.0, 0, 2], [0, 3, 4], [5, 6, 0]])
    gone = metapaths.mask_entries(x, 0.5, torch.Generator().manual_seed(0))
    assert int((gone != 0).sum()) == 3
    assert torch.equal(gone[gone != 0], x[gone != 0])
    assert_close(metapaths.mask_entries(torch.zeros(0, 3), 0.5, torch.Generator()), torch.zeros(0, 3))


def test_mean_graph():
    graph = drawn()
    made = [metapaths.normalised(metapaths.path_counts(metapaths.steps_of(graph, p))) for p in read("auto", graph)]
    assert_close(metapaths.mean_graph(made).to_dense(), sum(m.to_dense() for m in made) / 3)


def encoder(graph, **options):
    torch.manual_seed(0)
    widths = [x.shape[1] for x in graph.features]
    paths = [p.words(TYPES, RELATIONS) for p in read("auto", graph)]
    made = PathEncoder(widths, TYPES, RELATIONS, dim=6, target="paper", **{"paths": paths, "dropout": 0.0} | options)
    return made.standardise(graph)


def test_a_norm_of_a_whole_matrix():
    z = torch.randn(5, 3, dtype=torch.float64) * 4 + 2
    out = whole_norm(z, *whole_moments(z), eps=0.0)
    assert_close(out, torch.nn.functional.layer_norm(z, z.shape, eps=0.0))
    w, b, a = torch.randn(3, 3).double(), torch.randn(3).double(), torch.randn(3).double()
    loop = sum(sum(a[k] * torch.tanh(z[i] @ w[k] + b[k]) for k in range(3)) for i in range(5)) / 5
    assert_close(attention_score(z, w, b, a), loop)
    assert torch.autograd.gradcheck(lambda z, w, b, a: attention_score(whole_norm(z, *whole_moments(z)), w, b, a),
                                    [x.requires_grad_() for x in (z, w, b, a)])  # fmt: skip


def naive_fine(made, graph):
    """z^f of the papers in training, and the scores of the paths, by dense matrices."""
    x = [(f - f.mean(0)) / f.std(0, correction=0) for f in graph.features]
    elu = torch.nn.functional.elu
    h = [elu(x[k] @ made.entry[k].weight.T + made.entry[k].bias) for k in range(3)]
    views, scores = [], []
    for place, middle in enumerate((0, 2, None)):
        step = dense_step(graph, 1, 1 if middle is None else middle)
        counts = step + torch.eye(9) if middle is None else step @ step.T
        adjacent, f = normal(counts), h[1]
        if middle is not None:
            mean = step / step.sum(1, keepdim=True).clamp(min=1)
            f = elu(h[1] + mean @ h[middle] @ made.between[place][0].weight.T)
        z = adjacent @ made.activation(adjacent @ f @ made.convs[0].weight.T) @ made.convs[1].weight.T
        z = torch.nn.functional.layer_norm(z, z.shape)
        views.append(z / z.norm(dim=1, keepdim=True).clamp(min=1e-12))
        scores.append(attention_score(views[-1], made.attention.weight, made.attention.bias, made.worth))
    beta = torch.stack(scores).softmax(0)
    return sum(b * z for b, z in zip(beta, views, strict=True)), scores, h


def test_the_encoder_is_a_product_of_matrices():
    graph = drawn()
    made = encoder(graph).train()
    expected, scores, h = naive_fine(made, graph)
    found = made.all_nodes(graph)
    papers = graph.types == 1
    assert_close(found[papers], expected, rtol=1e-4, atol=1e-5)
    assert_close(found[graph.types == 0], h[0])
    assert (found[papers].norm(dim=1) <= 1 + 1e-5).all()
    assert_close(made.scores, torch.stack(scores).detach(), rtol=1e-4, atol=1e-5)
    assert_close(
        made.eval().all_nodes(graph), found, rtol=1e-4, atol=1e-4
    )  # after one step what is kept is what it was


@pytest.mark.parametrize("nearest", [[0], [2, 3, 2]])
def test_a_node_alone_has_the_vector_it_has_in_the_whole(nearest):
    graph = drawn(60, 30, 40, seed=3)
    made = encoder(graph, nearest=nearest).train()
    made.all_nodes(graph)
    made.eval()
    whole = made.all_nodes(graph)
    alone = made(made.prepare([graphs.around(graph, k, made.reach) for k in range(60)]))
    assert_close(alone, whole[:60], rtol=1e-4, atol=1e-5)
    again = PathEncoder.restored(made.config()).eval()
    assert isinstance(again, NodeEncoder)
    again.load_state_dict(made.state_dict())
    assert_close(again.all_nodes(graph), whole)


def test_both_views_see_what_they_should():
    graph = drawn()
    made = encoder(graph).train()
    generator = torch.Generator().manual_seed(0)
    masked = [metapaths.masked(one, 0.5, generator) for one in made.graphs_of(graph).counts]
    x = made.scaled(graph)[1]
    coarse, fine = made.two_views(graph, x, masked)
    assert coarse.shape == fine.shape == (9, 6)
    for name, p in made.named_parameters():
        gradient = torch.autograd.grad(coarse.square().sum(), p, retain_graph=True, allow_unused=True)[0]
        assert (gradient is None) == (not name.startswith(("entry.1", "convs", "activation"))), name
    other, _ = made.two_views(graph, 2 * x, masked)
    assert_close(other, coarse)
    without = encoder(graph, context=False)
    assert not without.entry[0].weight.requires_grad
    assert not list(without.between.parameters())


def test_wrong_settings():
    graph = drawn()
    with pytest.raises(InputError, match="2 numbers for 3 paths"):
        encoder(graph, nearest=[1, 2])
    with pytest.raises(InputError, match="--graph-neighbours all"):
        encoder(graph).draw_neighbours([3, 2])
