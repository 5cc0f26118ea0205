"""The weights of the papers as functions of plain tensors: loops, sums, limits, and what the losses do with them."""

import math

import pytest
import torch
from torch.testing import assert_close

from nearfar import losses
from nearfar.losses.attraction import attraction
from nearfar.methods.image.pixpro import propagated, propagation_weights


def unit(n, d=5, seed=0):
    made = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(made, dim=1)


def test_dcl_weights_are_their_softmax():
    a, b = unit(7, seed=1), unit(7, seed=2)
    w = losses.dcl_weights(a, b, sigma=0.5)
    share = torch.softmax(torch.tensor([float(x @ y) / 0.5 for x, y in zip(a, b, strict=True)]).double(), 0)
    assert_close(w, 2 - 7 * share)
    assert_close(w.mean(), torch.tensor(1.0).double())
    assert w.argmax() == (a * b).sum(1).argmin(), "the farthest pair weighs most"


@pytest.mark.parametrize("detach", [True, False])
def test_the_weighted_loss_is_made_of_them(detach):
    a, b = unit(6, seed=3).requires_grad_(), unit(6, seed=4).requires_grad_()
    loss = losses.dcl(a, b, temperature=0.3, sigma=0.5, detach=detach)
    w = losses.dcl_weights(a, b, sigma=0.5)
    w = w.detach() if detach else w
    plain = losses.dcl(a, b, temperature=0.3)
    cosine = torch.cosine_similarity(a, b)
    expected = plain + ((1 - w) * cosine / 0.3).mean()
    assert_close(loss, expected)
    assert_close(*(torch.autograd.grad(x, a, retain_graph=True)[0] for x in (loss, expected)))


def test_dcl_with_differentiated_weights_has_a_right_gradient():
    a, b = unit(4, seed=5).requires_grad_(), unit(4, seed=6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: losses.dcl(x, y, sigma=0.5, detach=False), (a, b))


@pytest.mark.parametrize("tau", [0.0, 0.9, 2.0])
def test_cacr_weights(tau):
    a, b, c = unit(6, seed=1), unit(6, seed=2), unit(6, seed=3)
    cost = torch.stack([(a - b).square().sum(1), (a - c).square().sum(1)], 1)
    w, v = losses.attraction_weights(cost, tau), losses.repulsion_weights(a, b, tau)
    for i in range(6):
        rise = [math.exp(tau * float(x)) for x in cost[i]]
        assert_close(w[i], torch.tensor(rise).double() / sum(rise))
        fall = [0.0 if j == i else math.exp(-tau * float((a[i] - b[j]).square().sum())) for j in range(6)]
        assert_close(v[i], torch.tensor(fall).double() / sum(fall), atol=1e-5, rtol=1e-5)
    assert_close(attraction(a, [b, c], tau_pos=tau), (w * cost).sum(1))
    distance = torch.cdist(a, b).square()
    repelled = losses.cacr([a, b], tau_neg=tau) - losses.cacr([a, b], tau_neg=tau, beta=0.0)
    assert_close(repelled, -(v * distance).sum(1).mean(), atol=1e-5, rtol=1e-5)


def test_target_weights_are_constants_of_sum_one():
    queries, key = [unit(5, seed=k).requires_grad_() for k in range(3)], unit(5, seed=9)
    p = losses.target_weights(queries, key, 0.5)
    assert not p.requires_grad
    for i in range(5):
        rise = [math.exp(float((q[i] - key[i]).square().sum()) / 0.5) for q in queries]
        assert_close(p[:, i], torch.tensor(rise).double() / sum(rise))


def test_cwcl_weights():
    q = unit(6, seed=1)
    w = losses.cwcl_weights(3 * q)
    raw = torch.tensor([[float(q[i] @ q[j]) / 2 + 0.5 for j in range(6)] for i in range(6)]).double()
    assert_close(w, raw / raw.sum(1, keepdim=True))
    p = unit(6, seed=2)
    weighted = losses.cwcl(p, q, temperature=0.2) - losses.info_nce(q, p, temperature=0.2)
    assert_close(weighted, -(w * torch.log_softmax(p @ q.T / 0.2, 1)).sum(1).mean())


def test_meta_nodes_are_sums_of_members():
    z, labels = unit(6, seed=1), torch.tensor([0, 2, 2, 0, 3, 3])
    assert_close(losses.meta_nodes(z, labels), torch.stack([z[labels == k].sum(0) for k in (0, 2, 3)]))
    q = torch.softmax(torch.randn(6, 4).double(), 1)
    assert_close(losses.meta_nodes(z, q), q.T @ z)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 8.0])
def test_propagation_weights(gamma):
    x, g = torch.randn(2, 4, 3).double(), torch.randn(2, 4, 3).double()
    w = propagation_weights(x, gamma)
    for n in range(2):
        for i in range(4):
            for j in range(4):
                cosine = float(torch.cosine_similarity(x[n, i], x[n, j], dim=0))
                expected = (max(cosine, 0) + (1e-6 if gamma < 1 else 0)) ** gamma
                assert float(w[n, i, j]) == pytest.approx(expected, abs=1e-9)
    assert_close(propagated(x, g, gamma=gamma), w @ g)
