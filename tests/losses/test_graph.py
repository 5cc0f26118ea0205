"""PamC: its loss against dense loops, its invariants, and that it costs what its edges cost."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

from nearfar import losses
from nearfar.errors import InputError
from nearfar.similarity import engine
from tests.similarity.naive import cosine

EDGES = torch.tensor([[0, 1, 2, 3, 4, 0, 5, 1], [1, 2, 3, 4, 5, 3, 0, 1]])


def graph(order=2, cumulative=True, n=7, seed=0):
    z = torch.randn(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return z, losses.influence_matrix(EDGES, n, order=order, cumulative=cumulative)


def naive(z, clusters, influence, tau):
    """Loops over all pairs and clusters, straight from the equation."""
    n, s, weight = len(z), cosine(z, z).tolist(), influence.to_dense().tolist()
    near = [math.log(sum(weight[i][j] * math.exp(tau * s[i][j] * (i != j)) for j in range(n))) for i in range(n)]
    sums = torch.stack([sum(z[i] for i in members) for members in clusters if members])
    t, k = cosine(sums, sums).tolist(), len(sums)
    far = [math.log(sum(math.exp(tau * (t[a][b] if a != b else 0)) for b in range(k))) for a in range(k)]
    return sum(far) / k - sum(near) / n


@pytest.mark.parametrize("tau", [0.25, 1.5, 40.0])
@pytest.mark.parametrize("order", [1, 3])
def test_pamc_equals_its_loops(tau, order):
    z, influence = graph(order)
    y = torch.tensor([0, 0, 1, 3, 3, 1, 0])  # cluster 2 is empty, and so is a last one
    clusters = [[0, 1, 6], [2, 5], [], [3, 4]]
    found = losses.pamc(z, y, influence, inverse_temperature=tau)
    assert found.item() == pytest.approx(naive(z, clusters, influence, tau), rel=1e-9)
    shares = torch.nn.functional.one_hot(y, 4)[:, [0, 1, 3]]
    assert_close(losses.pamc(z, shares, influence, inverse_temperature=tau), found)


def test_gradients_also_through_soft_shares():
    z, influence = graph()
    z.requires_grad_()
    shares = torch.softmax(torch.randn(7, 3, dtype=torch.float64), 1).requires_grad_()
    assert gradcheck(lambda z, q: losses.pamc(z, q, influence, inverse_temperature=1.5), (z, shares))
    y = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    assert gradcheck(lambda z: losses.pamc(z, y, influence), (z,))
    assert gradcheck(lambda z: losses.graph_mlp(z, influence), (z,))
    centres = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    target = losses.sharpened(losses.soft_assignment(z, centres))
    assert not target.requires_grad
    assert gradcheck(lambda z, c: losses.cluster_divergence(losses.soft_assignment(z, c), target), (z, centres))
    far = torch.autograd.grad(losses.pamc(z, y, influence.detach() * 0 + influence), z)[0]
    assert (far.norm(dim=1) > 0).all()


def test_negatives_depend_on_the_sums_alone():
    z, influence = graph()
    y = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    edge = losses.influence_matrix(torch.empty(2, 0, dtype=torch.long), 7)  # positives: each node itself, a constant
    value = losses.pamc(z, y, edge)
    moved = z.clone()
    moved[0], moved[1] = z[0] + z[2], z[1] - z[2]
    assert_close(losses.pamc(moved, y, edge), value)
    scaled = z.clone()
    scaled[:3] *= 7
    assert_close(losses.pamc(scaled, y, edge), value)
    order = torch.randperm(7)
    inverse = order.argsort()
    renamed = losses.influence_matrix(inverse[EDGES], 7, order=2)
    assert_close(losses.pamc(z[order], y[order], renamed), losses.pamc(z, y, influence))
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    assert_close(losses.pamc(z @ turn, y, influence), losses.pamc(z, y, influence))


@pytest.mark.parametrize(("kind", "tile"), [("dense", None), ("streaming", 3)])
def test_one_node_a_cluster_is_the_exact_loss(kind, tile):
    z, influence = graph()
    with engine(kind, tile=tile):
        exact = losses.graph_mlp(z, influence, inverse_temperature=1.5)
    assert_close(losses.pamc(z, torch.arange(7), influence, inverse_temperature=1.5), exact)


def test_influence_matrix_and_flat_temperature():
    for order in (1, 2, 4):
        for cumulative in (True, False):
            z, influence = graph(order, cumulative)
            r = order if cumulative else 1
            assert_close(influence.to_dense().sum(1), torch.full((7,), float(r), dtype=torch.float64))
            z.requires_grad_()
            flat = losses.pamc(z, torch.tensor([0, 0, 1, 1, 2, 2, 2]), influence, inverse_temperature=0.0)
            assert flat.item() == pytest.approx(math.log(3) - math.log(r))
            flat.backward()
            assert_close(z.grad, torch.zeros_like(z))
    a = losses.influence_matrix(EDGES, 7)
    step = torch.zeros(7, 7, dtype=torch.float64)
    step[EDGES[0], EDGES[1]] = step[EDGES[1], EDGES[0]] = 1
    step += torch.eye(7) - torch.diag(step.diagonal())
    step /= step.sum(1, keepdim=True)
    assert_close(a.to_dense(), step)
    assert_close(losses.influence_matrix(EDGES, 7, order=3).to_dense(), step + step @ step + step @ step @ step)


def test_range_edges_and_collapse():
    z, influence = graph()
    same, tau, k = torch.ones_like(z), 1.5, 3
    y = torch.tensor([0, 0, 1, 1, 2, 2, 2])
    own = influence.to_dense().diagonal()
    want = math.log(1 + (k - 1) * math.exp(tau)) - (own + (2 - own) * math.exp(tau)).log().mean()
    assert_close(losses.pamc(same, y, influence, inverse_temperature=tau), want)
    low = math.log(1 + (k - 1) * math.exp(-tau)) - math.log(2) - tau
    high = math.log(1 + (k - 1) * math.exp(tau)) - math.log(2) + tau
    for seed in range(4):
        assert low <= losses.pamc(graph(seed=seed)[0], y, influence, inverse_temperature=tau) <= high
    only = losses.pamc(z, torch.zeros(7, dtype=torch.long), influence)  # one cluster: no repulsion
    assert_close(only, losses.pamc(z, torch.ones(7, 1), influence))
    zero = z.clone()
    zero[2:4] = 0
    zero.requires_grad_()
    losses.pamc(zero, y, influence).backward()
    assert zero.grad.isfinite().all()
    half = losses.pamc(z.half(), y, influence)
    assert half.dtype == torch.float32
    assert_close(half.double(), losses.pamc(z.half().double(), y, influence), rtol=1e-5, atol=1e-5)


def test_cluster_targets():
    z, _ = graph()
    q = losses.soft_assignment(z, z[:3])
    p = losses.sharpened(q)
    assert_close(q.sum(1), torch.ones(7, dtype=torch.float64))
    assert_close(p.sum(1), torch.ones(7, dtype=torch.float64))
    d = [[sum((a - b) ** 2 for a, b in zip(x, c, strict=True)) for c in z[:3].tolist()] for x in z.tolist()]
    loop = [[1 / (1 + x) for x in row] for row in d]
    assert_close(q, torch.tensor([[x / sum(row) for x in row] for row in loop], dtype=torch.float64))
    assert losses.cluster_divergence(q) > 0
    assert_close(losses.cluster_divergence(q, q).item(), 0.0)
    assert_close(losses.cluster_divergence(q), (p * (p / q).log()).sum() / 7)


def test_nothing_of_the_size_of_all_pairs_is_made():
    """Nodes by nodes would be 4 GB here; edges and clusters are a few megabytes."""
    n = 32_000
    ring = torch.stack([torch.arange(n), (torch.arange(n) + 1) % n])
    influence = losses.influence_matrix(ring, n, order=2)
    z = torch.randn(n, 8, requires_grad=True)
    largest = []

    def kept(x):
        largest.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(kept, lambda x: x):
        losses.pamc(z, torch.arange(n) % 10, influence).backward()
    assert influence.values().numel() == 5 * n
    assert max(largest) <= 5 * n * 8
    assert z.grad.isfinite().all()


@pytest.mark.parametrize(
    "call",
    [
        lambda z, i: losses.pamc(z, torch.zeros(7, dtype=torch.long), i.to_dense()),
        lambda z, i: losses.pamc(z[:5], torch.zeros(5, dtype=torch.long), i),
        lambda z, i: losses.influence_matrix(EDGES, 3),
        lambda z, i: losses.influence_matrix(EDGES - 1, 7),
        lambda z, i: losses.influence_matrix(EDGES, 7, order=0),
    ],
)
def test_wrong_inputs_are_told(call):
    with pytest.raises(InputError, match="Needs"):
        call(*graph())


@pytest.mark.parametrize("form", ["logistic", "hinge"])
def test_neighbour_prediction_equals_its_loops(form):
    make = torch.Generator().manual_seed(2)
    logits = torch.randn(5, 7, dtype=torch.float64, generator=make).mul(2).requires_grad_()
    targets = (torch.rand(5, 7, generator=make) < 0.3).double()
    valid = torch.rand(5, 7, generator=make) < 0.7
    valid[3] = False  # leaves the mean
    rows = []
    for i in (0, 1, 2, 4):
        y = [2 * float(targets[i, j]) - 1 for j in range(7)]
        terms = [math.log1p(math.exp(-y[j] * logits[i, j].item())) if form == "logistic"
                 else max(0.0, 1 - y[j] * logits[i, j].item()) ** 2 for j in range(7) if valid[i, j]]  # fmt: skip
        rows.append(sum(terms) / len(terms))
    found = losses.neighbour_prediction(logits, targets, valid, form=form)
    assert found.item() == pytest.approx(sum(rows) / 4, rel=1e-12)
    assert gradcheck(lambda a: losses.neighbour_prediction(a, targets, valid, form=form), (logits,))
    back = logits.detach().T.contiguous().T
    assert_close(losses.neighbour_prediction(back, targets, valid, form=form), found.detach())
    collapsed = losses.neighbour_prediction(torch.zeros(5, 7), targets, form=form)
    assert collapsed.item() == pytest.approx(math.log(2) if form == "logistic" else 1)
    sure = losses.neighbour_prediction((2 * targets - 1) * 1e3, targets, form=form)
    assert sure.item() == pytest.approx(0, abs=1e-9)
    half = losses.neighbour_prediction(logits.detach().half() * 100, targets, valid, form=form)
    assert half.dtype == torch.float32
    assert torch.isfinite(half)
    assert losses.neighbour_prediction(logits, targets, valid & False, form=form) == 0
    with pytest.raises(InputError, match="form"):
        losses.neighbour_prediction(logits, targets, form="huber")
