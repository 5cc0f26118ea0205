"""What the papers say about their losses: identities and limits of DCL, ALIGN, Contriever, HCL, the hard loss, SwAV."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.testing import assert_close

from nearfar import losses
from nearfar.errors import InputError
from nearfar.losses import rows
from nearfar.methods.image.dcl import coupling
from nearfar.similarity import Block, LogSumExp, Similarity, all_views, dense, listed, one_way
from tests.losses.cases import batch


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def pair(n=6, d=5, seed=0):
    return batch(n, d, seed)[:2]


def test_dcl_is_info_nce_plus_log_q():
    a, b = pair()
    s = all_views([a, b], temperature=0.1).parts[0]
    q = coupling(s)
    assert_close(rows.dcl_rows(s), rows.info_nce_rows(s) + q.log(), rtol=1e-9, atol=1e-9)
    assert (rows.dcl_rows(s) < rows.info_nce_rows(s)).all()


def test_dcl_gradient_is_that_of_info_nce_over_q():
    a, b = pair(seed=1)
    for i in (0, 7):
        grads = []
        for f in (rows.info_nce_rows, rows.dcl_rows):
            x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
            s = all_views([x, y], temperature=0.3).parts[0]
            f(s)[i].backward()
            grads.append(torch.cat([x.grad, y.grad]))
        assert_close(grads[0], coupling(s)[i] * grads[1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_dcl_slope_of_the_positive_does_not_depend_on_the_batch(sigma):
    s = all_views(list(pair(seed=2)), temperature=0.2).parts[0]
    p = s.paired().detach().requires_grad_()
    s.paired = lambda: p
    rows.dcl_rows(s, sigma=sigma).sum().backward()
    close = (p.detach() * 0.2 / sigma).exp() if sigma else torch.ones(12, dtype=torch.float64)
    w = 2 - close / close.mean()
    assert_close(p.grad, -w)
    assert w.mean().item() == pytest.approx(1)
    assert ((w > 2 - 12) & (w < 2)).all()


def test_dcl_weights_vanish_for_wide_sigma_and_views_may_swap():
    a, b = pair(seed=3)
    assert_close(losses.dcl(a, b, sigma=1e9), losses.dcl(a, b))
    for sigma in (None, 0.5):
        assert_close(losses.dcl(a, b, sigma=sigma), losses.dcl(b, a, sigma=sigma))


def test_dcl_of_orthogonal_negatives_and_its_range():
    a = torch.eye(6, dtype=torch.float64)
    assert losses.dcl(a, a, temperature=0.1).item() == pytest.approx(-10 + math.log(10))
    assert losses.dcl(a, -a, temperature=0.1).item() == pytest.approx(10 + math.log(10))
    with pytest.raises(InputError, match="one item"):
        losses.dcl(a[:1], a[:1])


def test_dcl_and_info_nce_agree_when_negatives_are_many():
    a, b = pair(400, 3, seed=4)
    grads = []
    for loss in (losses.dcl, losses.nt_xent):
        x = a.clone().requires_grad_()
        loss(x, b, temperature=5.0).backward()
        grads.append(x.grad)
    assert_close(grads[0], grads[1], rtol=0.02, atol=2e-6)


def test_align_is_linear_in_the_smoothing_and_twice_clip_without():
    a, b = pair(seed=5)
    plain, uniform = (losses.align(a, b, temperature=0.3, smoothing=e) for e in (0.0, 1.0))
    assert_close(plain, 2 * losses.clip(a, b, temperature=0.3))
    assert_close(losses.align(a, b, temperature=0.3, smoothing=0.1), 0.9 * plain + 0.1 * uniform)
    assert_close(losses.align(a, b), losses.align(b, a))
    entropy = -(0.9 + 0.1 / 6) * math.log(0.9 + 0.1 / 6) - 5 * (0.1 / 6) * math.log(0.1 / 6)
    assert losses.align(a, b, temperature=0.05) >= 2 * entropy


def test_align_collapsed_or_at_infinite_temperature():
    a, b = pair(seed=6)
    ones = torch.ones(6, 3, dtype=torch.float64)
    for eps in (0.0, 0.1, 0.7):
        assert losses.align(ones, ones, smoothing=eps).item() == pytest.approx(2 * math.log(6))
        assert losses.align(a, b, temperature=1e9, smoothing=eps).item() == pytest.approx(2 * math.log(6))
    x = a[:1].clone().requires_grad_()
    losses.align(x, b[:1]).backward()
    assert_close(x.grad, torch.zeros_like(x))


def queue_loss(q, k, queue, temperature=0.05, similarity="cosine"):
    return one_way(
        q,
        k,
        temperature=temperature,
        similarity=similarity,
        in_batch=False,
        extra_candidates=[Block(queue, gradient=False)],
    ).loss(rows.info_nce_rows)


def test_contriever_queue_loss():
    q, k = pair(4, 16, seed=7)
    queue = torch.randn(9, 16, dtype=torch.float64)
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / 3
    expected = torch.nn.functional.cross_entropy(logits, torch.zeros(4, dtype=torch.long))
    assert_close(queue_loss(q, k, queue, 3.0, "dot"), expected)
    assert_close(queue_loss(q, k, queue.flip(0)), queue_loss(q, k, queue))
    assert_close(queue_loss(q.flip(0), k.flip(0), queue), queue_loss(q, k, queue))
    assert_close(queue_loss(3 * q, 5 * k, queue), queue_loss(q, k, queue))
    assert queue_loss(q, k, queue, 1e9).item() == pytest.approx(math.log(10))
    eye = torch.eye(16, dtype=torch.float64)
    assert queue_loss(eye[:1], eye[1:2], eye[2:11], similarity="dot").item() == pytest.approx(math.log(10))
    assert losses.info_nce(q, k).item() < losses.info_nce(q, torch.cat([k, queue])).item()


def test_hcl_limits():
    a, b = pair(seed=8)
    assert_close(losses.hcl(a, b, tau_plus=0.0, beta=0.0), losses.nt_xent(a, b, temperature=0.5))
    assert_close(losses.debiased(a, b, tau_plus=0.0), losses.nt_xent(a, b, temperature=0.5))
    assert losses.hcl(a, b, tau_plus=0.0, beta=2.0) > losses.hcl(a, b, tau_plus=0.0, beta=1.0)


def test_hard_loss_limits_and_zero_gradient_of_dropped_negatives():
    a, b = pair(8, 4, seed=9)
    full = losses.clip(a, b, temperature=0.3)
    values = [losses.hard_contrastive(a, b, alpha=m / 7) for m in range(1, 8)]
    assert_close(values[-1], full)
    assert all(x <= y + 1e-12 for x, y in pairwise(values))
    x = b.clone().requires_grad_()
    s = one_way(a[:1], x, temperature=0.3).parts[0]
    rows.hard_rows(s, alpha=2 / 7).sum().backward()
    kept = torch.cat([torch.tensor([0]), 1 + s.dense()[0, 1:].topk(2).indices])
    assert set(x.grad.abs().sum(1).nonzero().flatten().tolist()) == set(kept.tolist())


def test_relative_penalty_and_limits_of_the_temperature():
    a, b = pair(8, 4, seed=10)
    entropies = []
    for t in (0.05, 0.1, 0.3, 1.0, 3.0):
        s = one_way(a, b, temperature=t).parts[0]
        negatives = s.reduce(LogSumExp(where=s.negative))
        share = torch.where(s.mask(s.negative), (s.dense() - negatives[:, None]).exp(), 0)
        assert_close(share.sum(1), torch.ones(8, dtype=torch.float64))
        entropies.append(-(share * share.clamp(min=1e-300).log()).sum(1))
    for low, high in pairwise(entropies):
        assert (high > low).all()
    assert (entropies[-1] <= math.log(7)).all()
    s = one_way(a, b, temperature=1e-3).parts[0]
    gap = (s.dense().masked_fill(torch.eye(8, dtype=torch.bool), -math.inf).amax(1) - s.paired()).clamp(min=0)
    assert ((rows.info_nce_rows(s) - gap).abs() <= math.log(8)).all()
    assert losses.info_nce(a, b, temperature=1e9).item() == pytest.approx(math.log(8))


def test_similarity_gradients_of_info_nce_sum_to_zero():
    a, b = pair(6, 4, seed=11)
    shift = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    s = Similarity(
        torch.cat([a, shift[:, None]], 1),
        torch.cat([b, torch.ones(6, 1, dtype=torch.float64)], 1),
        similarity="dot",
        positive=listed(torch.arange(6)),
    )
    rows.info_nce_rows(s).sum().backward()  # a constant added to all similarities of a row
    assert_close(shift.grad, torch.zeros_like(shift), rtol=0, atol=1e-12)


def test_sinkhorn_codes():
    scores = torch.randn(12, 4, dtype=torch.float64).tanh()
    for iterations in (1, 3):
        codes = losses.sinkhorn(scores, iterations=iterations)
        assert_close(codes.sum(1), torch.ones(12, dtype=torch.float64))
        assert (codes >= 0).all()
        assert_close(losses.sinkhorn(scores + 7, iterations=iterations), codes)
        assert_close(losses.sinkhorn(scores + torch.randn(4, dtype=torch.float64), iterations=iterations), codes)
    balanced = losses.sinkhorn(scores, eps=0.2, iterations=1000)
    assert_close(balanced.sum(0), torch.full((4,), 3.0, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert_close(
        losses.sinkhorn(scores + torch.randn(12, 1, dtype=torch.float64), eps=0.2, iterations=1000),
        balanced,
        rtol=1e-5,
        atol=1e-6,
    )
    assert losses.sinkhorn(scores, iterations=0).sum().item() == pytest.approx(12)
    assert_close(losses.sinkhorn(scores, eps=1e9), torch.full((12, 4), 0.25, dtype=torch.float64))
    hard = losses.sinkhorn(scores, eps=0.002, iterations=3000)
    assert_close(hard.sum(0), torch.full((4,), 3.0, dtype=torch.float64), rtol=0.05, atol=0.05)
    assert losses.sinkhorn(scores.half(), eps=0.005).isfinite().all()
    assert not losses.sinkhorn(scores.requires_grad_()).requires_grad


def test_sinkhorn_equals_the_loop():
    q = [[math.exp(x / 0.05) for x in row] for row in torch.tensor([[0.1, 0.5], [0.3, 0.2], [-0.4, 0.1]]).tolist()]
    total = sum(map(sum, q))
    q = [[x / total for x in row] for row in q]
    for _ in range(3):
        columns = [sum(row[k] for row in q) for k in range(2)]
        q = [[row[k] / columns[k] / 2 for k in range(2)] for row in q]
        q = [[x / sum(row) / 3 for x in row] for row in q]
    expected = torch.tensor([[3 * x for x in row] for row in q], dtype=torch.float64)
    found = losses.sinkhorn(torch.tensor([[0.1, 0.5], [0.3, 0.2], [-0.4, 0.1]], dtype=torch.float64))
    assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_swapped_prediction():
    a, b = (torch.randn(5, 3, dtype=torch.float64) for _ in range(2))
    codes = [losses.sinkhorn(x) for x in (a, b)]
    value = losses.swapped_prediction([a, b], codes)
    assert_close(losses.swapped_prediction([b, a], codes[::-1]), value)
    order = torch.tensor([2, 0, 1])
    assert_close(losses.swapped_prediction([a[:, order], b[:, order]], [c[:, order] for c in codes]), value)
    entropy = torch.stack([-(c * c.clamp(min=1e-300).log()).sum(1).mean() for c in codes]).mean()
    assert value >= entropy
    same = torch.zeros(5, 3, dtype=torch.float64)
    assert losses.swapped_prediction([same] * 2, [losses.sinkhorn(same)] * 2).item() == pytest.approx(math.log(3))
    with pytest.raises(InputError, match="two views"):
        losses.swapped_prediction([a], codes[:1])


def test_uniformity_range():
    assert losses.uniformity(torch.ones(5, 3)).item() == pytest.approx(0, abs=1e-5)
    assert -8 <= losses.uniformity(torch.tensor([[1.0, 0], [-1, 0]])).item() <= 0


def test_cwcl_weights():
    p, q = pair(seed=12)
    x = q.clone().requires_grad_()
    losses.cwcl(p.requires_grad_(), x).backward()
    assert x.grad is None
    same = torch.ones(6, 5, dtype=torch.float64)
    plain = losses.info_nce(same, p.detach(), temperature=0.07)
    assert_close(losses.cwcl(p.detach(), same), math.log(6) + plain)
    two = torch.tensor([[1.0, 0], [-1, 0]], dtype=torch.float64)  # antipodal: only the pair itself has a weight
    z = torch.randn(2, 2, dtype=torch.float64)
    assert_close(losses.cwcl(z, two), 2 * losses.clip(z, two))
    order = torch.tensor([3, 1, 0, 2, 5, 4])
    assert not torch.isclose(losses.cwcl(p.detach(), q, reference=q[order]), losses.cwcl(p.detach(), q))


def test_cwcl_without_weights_is_the_sum_of_both_plain_directions():
    p, q = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    s = nn.functional.normalize(p) @ nn.functional.normalize(q).T / 0.2
    naive = sum(-(x.diagonal() - x.logsumexp(1)).mean() for x in (s, s.T))
    assert_close(losses.cwcl(p, q, temperature=0.2, weighted="none"), naive)


def test_cwcl_is_at_least_the_entropy_of_its_weights():
    p, q = pair(5, 5, seed=15)
    u = torch.nn.functional.normalize(q, dim=1)
    w = u @ u.T / 2 + 0.5
    assert ((w >= 0) & (w <= 1 + 1e-12)).all()
    assert_close(w.diagonal(), torch.ones(5, dtype=torch.float64))
    share = w / w.sum(1, keepdim=True)
    entropy = -torch.special.xlogy(share, share).sum(1).mean()
    for who, anchors, candidates in (("trained", p, q), ("frozen", q, p)):
        plain = losses.info_nce(*((q, p) if who == "trained" else (p, q)), temperature=0.3)
        soft = losses.cwcl(p, q, temperature=0.3, weighted=who) - plain
        assert soft > entropy
        s = one_way(anchors, candidates, temperature=0.3).parts[0].dense()
        assert_close(soft, -(share * torch.log_softmax(s, 1)).sum(1).mean())  # in both the rows of w are the anchors'
    itself = listed(torch.arange(5))
    best = Similarity(share.log(), torch.eye(5, dtype=torch.float64), similarity="dot", positive=itself)
    assert_close(best.mean(rows.weighted_rows(best, dense(share))), entropy)


def test_team_up_ignores_the_anchors_own_strength():
    """The strength of the row cancels: only the candidates' count."""
    a, b = pair(seed=16)
    s = torch.rand(6, dtype=torch.float64)
    z = torch.nn.functional.normalize(torch.cat([a, b]), dim=1)
    for lift in (torch.zeros(12, dtype=torch.float64), torch.randn(12, dtype=torch.float64)):
        logits = (z @ z.T + 0.5 * torch.cat([s, s])) / 0.4 + lift[:, None]
        logits.fill_diagonal_(-math.inf)
        naive = torch.nn.functional.cross_entropy(logits, torch.arange(12).roll(6))
        assert_close(losses.team_up(a, b, s, gamma=0.5), naive)


def test_gradients_of_what_has_no_negatives():
    a, b = pair(4, 3, seed=17)
    a.requires_grad_()
    assert gradcheck(losses.uniformity, (a,))
    codes = [losses.sinkhorn(x) for x in (a, b)]
    assert gradcheck(lambda x: losses.swapped_prediction([x, b], codes), (a,))


@pytest.mark.parametrize("detach", [False, True])
def test_cacr_weights_in_the_gradient(detach):
    a, b = pair(seed=13)
    views = [a, b, a - 2 * b]
    value = losses.cacr(views, detach=detach)
    assert_close(value, losses.cacr(views))
    flat = [losses.cacr([v.requires_grad_() for v in views], tau_pos=0, tau_neg=0, detach=d) for d in (False, True)]
    grads = [torch.autograd.grad(x, views[1])[0] for x in flat]
    assert_close(*grads)
    free, held = (torch.autograd.grad(losses.cacr(views, detach=d), views[1])[0] for d in (False, True))
    assert not torch.allclose(free, held)
    assert_close(losses.cacr(views[:2], beta=0.0), (2 - 2 * torch.cosine_similarity(a, b)).mean())
    assert_close(losses.cacr([a[:1], b[:1]], alpha=0.0).item(), 0.0)
    with pytest.raises(InputError, match="two views"):
        losses.cacr([a])


def test_team_up_strengths():
    a, b = pair(seed=14)
    s = torch.rand(6, dtype=torch.float64)
    assert_close(losses.team_up(a, b, s, gamma=0.0), losses.nt_xent(a, b, temperature=0.4))
    assert_close(losses.team_up(a, b, s + 3), losses.team_up(a, b, s))
    assert not torch.isclose(losses.team_up(a, b, s.flip(0)), losses.team_up(a, b, s))
    assert losses.team_up(a, b, s) >= 0
