"""CACR's three forms: what the weights do, which of them carry a gradient, and where the released code differs."""

import math
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from nearfar import losses
from nearfar.errors import InputError
from nearfar.losses import rows
from nearfar.losses.attraction import attraction
from nearfar.similarity import Block, ExcludedPairs, engine, one_way
from tests.losses import reference
from tests.losses.cases import batch


def three(n=6, d=5, seed=0):
    a, b, _ = batch(n, d, seed)
    return [a, b, a - 2 * b]


def squared(u, v):
    return (normalize(u, dim=1)[:, None] - normalize(v, dim=1)[None]).square().sum(2)


def others(x):
    return ~torch.eye(len(x), dtype=torch.bool)


def test_the_farther_a_positive_and_the_nearer_a_negative_the_more_it_counts():
    views, n = [normalize(v, dim=1) for v in three()], 6
    means, far = [], []
    for tau in (0.0, 0.5, 2.0, 50.0, 5000.0):
        means.append(attraction(views[0], views[1:], tau_pos=tau))
        s = one_way(views[0], views[1]).parts[0]
        far.append(rows.repulsion_rows(s, tau=tau))
    cost = torch.stack([(views[0] - v).square().sum(1) for v in views[1:]], 1)
    d = squared(views[0], views[1])[others(views[0])].reshape(n, n - 1)
    assert_close(means[0], cost.mean(1))
    assert_close(means[-1], cost.amax(1), atol=1e-3, rtol=1e-3)
    assert_close(far[0], d.mean(1))
    assert_close(far[-1], d.amin(1), atol=1e-3, rtol=1e-3)
    assert all((x <= y + 1e-12).all() for x, y in pairwise(means))
    assert all((x >= y - 1e-12).all() for x, y in pairwise(far))
    assert losses.cacr(three(), alpha=0.0) >= -d.max()


def test_two_views_attract_plainly_and_terms_are_separable():
    a, b, c = three()
    plain = (2 - 2 * torch.cosine_similarity(a, b)).mean()
    for tau in (0.0, 1.0, 9.0):
        assert_close(losses.cacr([a, b], beta=0.0, tau_pos=tau), plain)
    whole, near, far = (losses.cacr([a, b, c], alpha=x, beta=y) for x, y in ((2.0, 3.0), (1.0, 0.0), (0.0, 1.0)))
    assert_close(whole, 2 * near + 3 * far)
    assert 0 <= near <= 4
    assert -4 <= far <= 0
    assert_close(losses.cacr([c, a, b], beta=0.0), near)
    assert losses.cacr([a[:1], b[:1]], alpha=0.0) == 0
    assert losses.cacr([a[:1], b[:1]], alpha=0.0, tau_plus=0.1) == 0


def test_rbf_repulsion_with_uniform_weights_is_the_log_of_the_mean_kernel():
    a, b, _ = three()
    kernel = (-2 * squared(a, b))[others(a)].exp().mean().log()
    assert_close(losses.cacr([a, b], alpha=0.0, beta=1.5, tau_neg=0.0, repulsion="rbf"), 1.5 * kernel)


@pytest.mark.parametrize("detach", [False, True])
def test_slopes_of_a_positive_and_of_a_negative(detach):
    views = [normalize(v, dim=1) for v in three(seed=3)]
    tau, x = 1.7, views[1].clone().requires_grad_()
    attraction(views[0], [x, views[2]], alpha=2.0, tau_pos=tau, detach=detach)[0].backward()
    cost = torch.stack([(views[0][0] - v[0]).square().sum() for v in views[1:]])
    w = torch.softmax(tau * cost, 0)
    slope = 2 * w[0] * (1 if detach else 1 + tau * (cost[0] - (w * cost).sum()))
    assert_close(x.grad[0], -2 * slope * views[0][0])  # dc/dx = -2 z for unit vectors as they are written here
    x = views[1].clone().requires_grad_()
    rows.repulsion_rows(one_way(views[0], x).parts[0], tau=tau, detach=detach)[0].backward()
    d = squared(views[0], views[1])[0, 1:]
    v = torch.softmax(-tau * d, 0)
    slope = v[1] * (1 if detach else 1 - tau * (d[1] - (v * d).sum()))
    along = views[0][0] - (views[0][0] @ views[1][2]) * views[1][2]  # the part that the normalisation lets through
    assert_close(x.grad[2], -2 * slope * along)


def dense_form_a(views, tau_pos, tau_neg, detach, kind):
    hold = (lambda x: x.detach()) if detach else (lambda x: x)
    z, total = [normalize(v, dim=1) for v in views], 0
    for a in range(3):
        cost = torch.stack([(z[a] - z[b]).square().sum(1) for b in range(3) if b != a], 1)
        total = total + (torch.softmax(hold(tau_pos * cost), 1) * cost).sum(1).mean() / 3
    for a, b in ((0, 1), (0, 2), (1, 2)):
        d = (z[a][:, None] - z[b][None]).square().sum(2)[others(z[a])].reshape(len(z[a]), -1)
        v = torch.softmax(-hold(tau_neg * d), 1)
        push = -(v * d).sum(1).mean() if kind == "euclidean" else (v * (-2 * d).exp()).sum(1).mean().log()
        total = total + push / 3
    return total


@pytest.mark.parametrize("kind", ["euclidean", "rbf"])
def test_detached_weights_keep_the_value_and_change_the_gradient(kind):
    for tau in (1.3, 0.0):
        grads = []
        for detach in (False, True):
            views = [v.requires_grad_() for v in three(seed=4)]
            want = dense_form_a(views, tau, tau, detach, kind)
            wanted = torch.autograd.grad(want, views)
            for name, tile in (("dense", None), ("streaming", 2)):
                with engine(name, tile=tile):
                    found = losses.cacr(views, tau_pos=tau, tau_neg=tau, repulsion=kind, detach=detach)
                    assert_close(found, want)
                    for p, q in zip(torch.autograd.grad(found, views), wanted, strict=True):
                        assert_close(p, q)
            grads.append(wanted[1])
        assert torch.allclose(*grads) == (tau == 0)


def test_debiasing_subtracts_the_positive_and_the_released_code_adds_it():
    views = three(seed=5)
    ours, theirs = (losses.cacr(views, tau_plus=0.1, official=o) for o in (False, True))
    assert_close(ours.item(), reference.cacr(views, tau_plus=0.1))
    assert_close(theirs.item(), reference.cacr(views, tau_plus=0.1, official=True))
    pairs = torch.stack([squared(views[a], views[b]).diagonal().mean() for a, b in ((0, 1), (0, 2), (1, 2))])
    assert_close(ours - theirs, 2 * 0.1 / 0.9 * pairs.mean())


def dense_form_b(queries, keys, queue, tau, in_batch):
    q, k = [normalize(v, dim=1) for v in queries], [normalize(v.detach(), dim=1) for v in keys]
    past, total = normalize(queue, dim=1), 0
    for a in range(3):
        cost = torch.stack([(q[a] - k[b]).square().sum(1) for b in range(3) if b != a], 1)
        near = (torch.softmax(cost.detach(), 1) * cost).sum(1)
        old = (q[a][:, None] - past[None]).square().sum(2)
        new = (q[a][:, None] - q[a][None]).square().sum(2)[others(q[a])].reshape(len(q[a]), -1)
        logits = torch.cat([-tau * old.detach(), -tau * new], 1) if in_batch else -tau * old.detach()
        far = torch.cat([old, new], 1) if in_batch else old
        total = total + (near - (torch.softmax(logits, 1) * far).sum(1)).mean() / 3
    return total


@pytest.mark.parametrize("in_batch", [True, False])
def test_queue_form_gradients(in_batch):
    queue = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    views, keys = [v.requires_grad_() for v in three(seed=6)], three(seed=7)
    want = dense_form_b(views, keys, queue, 2.0, in_batch)
    wanted = torch.autograd.grad(want, views)
    for name, tile in (("dense", None), ("streaming", 3)):
        with engine(name, tile=tile):
            found = losses.cacr_queue(views, keys, queue, in_batch=in_batch)
            assert_close(found, want)
            for p, q in zip(torch.autograd.grad(found, views), wanted, strict=True):
                assert_close(p, q)


def test_queue_form_edges():
    queue, views = torch.randn(7, 5, dtype=torch.float64), three(seed=8)
    official = losses.cacr_queue(views, views, queue, official=True)
    assert_close(official.item(), reference.cacr_queue(views, views, queue, official=True))
    assert not torch.isclose(official, losses.cacr_queue(views, views, queue))
    near = losses.cacr_queue(views, views, [], beta=0.0)
    assert_close(losses.cacr_queue(views, views, [], in_batch=False), near)  # nothing to be pushed from
    blocks = [Block(queue[:3], gradient=False), Block(queue[3:], gradient=False)]
    assert_close(losses.cacr_queue(views, views, blocks), losses.cacr_queue(views, views, queue))
    with pytest.raises(InputError, match="key views"):
        losses.cacr_queue(views, views[:2], queue)


def dense_form_c(queries, targets, t, cost):
    q, k, total = [normalize(v, dim=1) for v in queries], [normalize(v.detach(), dim=1) for v in targets], 0
    for at, key in enumerate(k):
        views = [v for a, v in enumerate(q) if a != at]
        p = torch.softmax(torch.stack([(v - key).square().sum(1) for v in views]).detach() / t, 0)
        for share, v in zip(p, views, strict=True):
            s = v @ key.T
            if cost == "rbf":
                value = 2 * t * torch.nn.functional.cross_entropy(s / t, torch.arange(len(s)), reduction="none")
            else:
                c = 1 - s
                off = c[others(c)].reshape(len(c), -1)
                value = c.diagonal() - (torch.softmax(-off.detach() / t, 1) * off).sum(1)
            total = total + (share * value).mean() / len(k)
    return total


@pytest.mark.parametrize("cost", ["rbf", "euclidean"])
def test_target_form_gradients(cost):
    views, targets = [v.requires_grad_() for v in three(seed=9)], three(seed=10)[:2]
    want = dense_form_c(views, targets, 0.7, cost)
    wanted = torch.autograd.grad(want, views)
    for name, tile in (("dense", None), ("streaming", 3)):
        with engine(name, tile=tile):
            found = losses.cacr_targets(views, targets, temperature=0.7, cost=cost)
            assert_close(found, want)
            for p, q in zip(torch.autograd.grad(found, views), wanted, strict=True):
                assert_close(p, q)


def test_two_views_make_the_target_form_mocos_loss():
    a, b, _ = three(seed=11)
    value = losses.cacr_targets([a, b], [a, b], temperature=0.5)
    assert_close(value, 2 * 0.5 * losses.clip(a, b, temperature=0.5))
    summed = losses.cacr_targets([a, b], [a, b], cost="euclidean", official=True)
    assert_close(summed, 6 * losses.cacr_targets([a, b], [a, b], cost="euclidean"))


def test_hidden_items_are_no_negatives_in_any_form():
    views, item_identities = three(seed=12), torch.tensor([0, 1, 0, 2, 3, 4])
    excluded = ExcludedPairs([(item_identities, item_identities)])
    twins = [torch.cat([v[:2], v[:1], v[3:]]) for v in views]  # item 2 is item 0 once more
    sharp = {"alpha": 0.0, "tau_neg": 500.0}
    assert losses.cacr(twins, **sharp) > losses.cacr(twins, **sharp, excluded=excluded)
    assert losses.cacr_targets(twins, twins, temperature=0.1) > losses.cacr_targets(
        twins, twins, temperature=0.1, excluded=excluded
    )
    queue = torch.randn(2, 5, dtype=torch.float64)
    assert not torch.isclose(
        losses.cacr_queue(twins, twins, queue), losses.cacr_queue(twins, twins, queue, excluded=excluded)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: losses.cacr(v[:1]), "two views"),
        (lambda v: losses.cacr(v, repulsion="gauss"), "repulsion"),
        (lambda v: losses.cacr(v, tau_plus=1.0), "tau_plus"),
        (lambda v: losses.cacr(v, tau_plus=0.1, repulsion="rbf"), "euclidean repulsion only"),
        (lambda v: losses.cacr_targets(v[:1], v[:1]), "two query views"),
        (lambda v: losses.cacr_targets(v, v, cost="dot"), "cost"),
    ],
)
def test_wrong_inputs_are_told(call, message):
    with pytest.raises(InputError, match=message):
        call(three())


def test_large_taus_and_zero_vectors_stay_finite():
    views = [v.float() for v in three(seed=13)]
    views[0][0] = 0
    for v in views:
        v.requires_grad_()
    value = losses.cacr(views, tau_pos=1e4, tau_neg=1e4) + losses.cacr_targets(views, views, temperature=0.005)
    value.backward()
    assert math.isfinite(value.item())
    assert all(v.grad.isfinite().all() for v in views)
