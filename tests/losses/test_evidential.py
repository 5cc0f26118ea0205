"""Opinions, fusion and their loss against loops from the card and torch.distributions; invariants, hard inputs."""

import math

import numpy as np
import pytest
import torch
from scipy.special import digamma, gammaln
from torch.autograd import gradcheck
from torch.distributions import Dirichlet, kl_divergence
from torch.testing import assert_close

from nearfar.errors import InputError
from nearfar.losses import conflict, dirichlet_kl, evidence, evidential_rows, fused_evidence, opinion
from nearfar.losses.evidential import annealing


def drawn(*shape, seed=0, scale=4.0):
    g = torch.Generator().manual_seed(seed)
    return scale * torch.rand(*shape, generator=g, dtype=torch.float64)


def naive_opinion(e):
    total = sum(x + 1 for x in e)
    return [x / total for x in e], len(e) / total


def dempster(one, other):
    """The reduced rule as the card has it: beliefs and uncertainty of both, and evidence again."""
    (b, u), (d, v), n = one, other, len(one[0])
    k = sum(b[i] * d[j] for i in range(n) for j in range(n) if i != j)
    belief = [(b[c] * d[c] + b[c] * v + d[c] * u) / max(1 - k, 1e-8) for c in range(n)]
    unsure = u * v / max(1 - k, 1e-8)
    total = n / unsure
    return belief, unsure, [x * total for x in belief], k


def naive_loss(e, y, weight):
    alpha = [x + 1 for x in e]
    missed = digamma(sum(alpha)) - digamma(alpha[y])
    away = [1.0 if c == y else a for c, a in enumerate(alpha)]
    total, n = sum(away), len(away)
    kl = gammaln(total) - sum(gammaln(a) for a in away) - gammaln(n)
    kl += sum((a - 1) * (digamma(a) - digamma(total)) for a in away)
    return missed + weight * kl


def test_opinions_sum_to_one():
    e = drawn(6, 5)
    found = opinion(e)
    for row in range(6):
        belief, unsure = naive_opinion(e[row].tolist())
        assert found.belief[row].tolist() == pytest.approx(belief)
        assert found.uncertainty[row].item() == pytest.approx(unsure)
    assert_close(found.belief.sum(1) + found.uncertainty, torch.ones(6, dtype=torch.float64))
    assert_close(found.probability.sum(1), torch.ones(6, dtype=torch.float64))
    nothing = opinion(torch.zeros(2, 5))
    assert nothing.uncertainty.tolist() == [1, 1]
    assert nothing.probability.unique().tolist() == pytest.approx([0.2])
    assert_close(opinion(e[:1]).belief, found.belief[:1])


def test_fusion_is_dempsters_reduced_rule():
    a, b = drawn(7, 4), drawn(7, 4, seed=1)
    found, against = fused_evidence(a, b), conflict(a, b)
    told = opinion(found)
    for row in range(7):
        belief, unsure, whole, k = dempster(naive_opinion(a[row].tolist()), naive_opinion(b[row].tolist()))
        assert found[row].tolist() == pytest.approx(whole, rel=1e-9)
        assert told.belief[row].tolist() == pytest.approx(belief, rel=1e-9)
        assert told.uncertainty[row].item() == pytest.approx(unsure, rel=1e-9)
        assert against[row].item() == pytest.approx(k, rel=1e-9)
    assert_close(told.belief.sum(1) + told.uncertainty, torch.ones(7, dtype=torch.float64))
    assert_close(fused_evidence(b, a), found)
    assert_close(fused_evidence(a, torch.zeros_like(a)), a)
    assert (told.uncertainty <= torch.minimum(opinion(a).uncertainty, opinion(b).uncertainty)).all()
    assert_close(fused_evidence(fused_evidence(a, b), a), fused_evidence(a, fused_evidence(b, a)))
    assert_close(fused_evidence(a, b, "sum"), a + b)
    assert_close(fused_evidence(a, b, "mean"), (a + b) / 2)
    assert gradcheck(fused_evidence, (a.requires_grad_(), b.requires_grad_()))


def test_total_conflict_and_large_evidence():
    """In single precision: beliefs of 1 for different classes, with which 1 - k vanishes."""
    for size in (1e3, 1e8, 1e30):
        a, b = torch.tensor([[size, 0.0, 0.0]]), torch.tensor([[0.0, size, 0.0]])
        told = opinion(fused_evidence(a.requires_grad_(), b))
        assert told.belief[0].tolist() == pytest.approx([0.5, 0.5, 0], rel=1e-2)
        assert conflict(a, b).item() == pytest.approx(1, abs=1e-2)
        loss = evidential_rows(fused_evidence(a, b), torch.tensor([0])).sum()
        loss.backward()
        assert loss.isfinite()
        assert a.grad is not None
        assert a.grad.isfinite().all()
    half = fused_evidence(torch.full((1, 3), 6e4, dtype=torch.float16), torch.full((1, 3), 6e4, dtype=torch.float16))
    assert half.dtype == torch.float32
    assert half.isfinite().all()


def test_the_divergence_is_that_of_dirichlets():
    for scale, count in ((0.01, 3), (5.0, 7), (3e3, 4), (1e5, 150)):
        alpha = 1 + drawn(5, count, scale=scale)
        alpha[:, 0] = 1.0
        want = kl_divergence(Dirichlet(alpha), Dirichlet(torch.ones_like(alpha)))
        assert_close(dirichlet_kl(alpha), want, rtol=1e-8, atol=1e-6 * (scale > 1e4) + 1e-10)
    assert dirichlet_kl(torch.ones(2, 9)).abs().max() < 1e-12
    assert (dirichlet_kl(1 + drawn(200, 3, scale=0.1)) > 0).all()
    assert gradcheck(dirichlet_kl, (1 + drawn(3, 4)).requires_grad_())
    around = torch.tensor([[9_999.9, 2.0], [10_000.1, 2.0]], dtype=torch.float64)
    assert dirichlet_kl(around).diff().item() == pytest.approx(0.2 * 1e-4, rel=1e-2), "no step where the series begins"


def test_the_divergence_of_huge_evidence_keeps_its_value():
    """(C - 1) log a - lgamma(C) - (C - 1) of one large a, whose terms are 1e31 apart."""
    for size in (1e6, 1e12, 1e30):
        found = dirichlet_kl(torch.tensor([[size, 1.0, 1.0, 1.0]])).item()
        assert found == pytest.approx(3 * math.log(size) - math.log(6) - 3, rel=1e-4)


def test_the_loss_by_a_loop():
    e, y = drawn(6, 5), torch.tensor([0, 4, 2, 2, 1, 3])
    for weight in (0.0, 0.3, 1.0):
        want = [naive_loss(e[i].tolist(), int(y[i]), weight) for i in range(6)]
        assert evidential_rows(e, y, weight).tolist() == pytest.approx(want, rel=1e-9)
    base = evidential_rows(e, y)
    for row in range(6):
        for c in range(5):
            more = e.clone()
            more[row, c] += 0.5
            assert (evidential_rows(more, y)[row] < base[row]) == (c == int(y[row]))
    assert gradcheck(lambda x: evidential_rows(x, y, 0.7), e.requires_grad_())
    sure = torch.zeros(1, 5, dtype=torch.float64)
    sure[0, 2] = 1e9
    assert evidential_rows(sure, torch.tensor([2])).item() < 1e-8
    assert evidential_rows(torch.zeros(1, 5), torch.tensor([0])).item() == pytest.approx(1 + 1 / 2 + 1 / 3 + 1 / 4)


def test_hard_inputs():
    one = evidential_rows(torch.tensor([[3.0]]), torch.tensor([0]))
    assert one.abs().item() < 1e-6
    for kind in ("softplus", "exp"):
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            logits = torch.tensor([[6e4, -6e4, 0.0], [1e-7, 2.0, -3.0]], dtype=dtype).requires_grad_()
            loss = evidential_rows(evidence(logits, kind), torch.tensor([1, 1])).sum()
            loss.backward()
            assert loss.isfinite()
            assert loss.dtype == torch.float32
            assert logits.grad is not None
            assert logits.grad.isfinite().all()
    wide = evidence(drawn(3, 8)[:, ::2])
    assert_close(opinion(wide).uncertainty, opinion(wide.contiguous()).uncertainty)
    assert evidential_rows(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)).shape == (0,)
    assert float(evidence(torch.tensor([[30.0]]), "exp")) == pytest.approx(math.exp(10))
    with pytest.raises(InputError, match="same classes"):
        fused_evidence(torch.ones(1, 3), torch.ones(1, 4))
    with pytest.raises(InputError, match="fusion"):
        fused_evidence(torch.ones(1, 3), torch.ones(1, 3), "yager")
    with pytest.raises(InputError, match="evidence"):
        evidence(torch.ones(1, 3), "relu")


def test_the_divergence_comes_in_over_epochs():
    assert [annealing(t, 4) for t in (1, 2, 3, 4, 9)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_uncertainty_depends_on_how_many_classes_there_are():
    """The card's trap: the same evidence for one class among 150."""
    few, many = np.zeros(3), np.zeros(150)
    few[0] = many[0] = 5
    assert opinion(torch.tensor(few[None])).uncertainty.item() == pytest.approx(3 / 8)
    assert opinion(torch.tensor(many[None])).uncertainty.item() > 0.96
