"""AutoTCL's equations: naive loops in float64, the card's invariants, gradients and edges."""

import math

import pytest
import torch

from nearfar.errors import InputError
from nearfar.losses import (
    feature_mmd,
    kept_excess,
    relaxed_mask,
    segment_contrast,
    segment_roles,
    step_consistency,
)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("bias", "stretch"), [(0.05, 0.05), (0.0, 0.499), (0.5, 0.0)])
def test_the_mask_is_that_of_the_card(bias, stretch):
    logit, u = drawn(2, 5, 3), torch.rand(2, 5, 3, dtype=torch.float64).clamp(0.01, 0.99)
    found = relaxed_mask(logit, u, bias=bias, stretch=stretch)
    for place in range(logit.numel()):
        e = (2 * bias - 1) * float(u.flatten()[place]) + (1 - bias)
        s = 1 / (1 + math.exp(-(math.log(e) - math.log(1 - e) + float(logit.flatten()[place]))))
        assert float(found.flatten()[place]) == pytest.approx(min(1, max(0, s * (1 + stretch) - stretch)), abs=1e-9)
    if bias == 0.5:
        assert torch.allclose(found, relaxed_mask(logit, None, stretch=0.0))


def test_a_hard_mask_is_0_or_1_with_the_gradient_of_the_soft_one():
    logit, u = drawn(2, 6, 2).requires_grad_(), torch.rand(2, 6, 2, dtype=torch.float64)
    weight = drawn(2, 6, 2, seed=1)
    soft, hard = relaxed_mask(logit, u), relaxed_mask(logit, u, hard=True)
    assert set(hard.detach().round(decimals=12).unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(hard > 0.5, soft > 0.5)
    a, b = (torch.autograd.grad((m * weight).sum(), logit)[0] for m in (soft, hard))
    assert torch.equal(a, b)
    for extreme in (0.0, 1.0):
        assert torch.isfinite(relaxed_mask(logit, torch.full_like(u, extreme), bias=0.0)).all()


def naive_segments(z, start, k, series):
    length, terms = z.shape[1] // k, []
    for i in series:
        unit = [z[i, t] / z[i, t].norm() for t in range(z.shape[1])]
        q = [torch.stack(unit[start + s * length : start + (s + 1) * length]).amax(0) for s in range(k)]
        for s in range(k):
            positive = s + 1 if s < k - 1 else s - 1
            away = {s, s - 1, s + 1} | ({2} if s == 0 else set()) | ({k - 3} if s == k - 1 else set())
            negatives = [q[s] @ q[j] for j in range(k) if j not in away]
            assert len(negatives) == k - 3
            scores = torch.stack([q[s] @ q[positive], *negatives])
            terms.append(torch.logsumexp(scores, 0) - scores[0])
    return torch.stack(terms).mean()


@pytest.mark.parametrize(("steps", "k", "start"), [(35, 16, 2), (9, 4, 1), (16, 16, 0)])
def test_runs_find_their_neighbour(steps, k, start):
    z = drawn(3, steps, 4)
    assert torch.allclose(segment_contrast(z, start, segments=k), naive_segments(z, start, k, range(3)))
    assert torch.allclose(segment_contrast(z, start, segments=k, first_only=True), naive_segments(z, start, k, [0]))


def test_the_roles_of_sixteen_runs():
    positive, hidden = segment_roles(16)
    assert positive.tolist() == [*range(1, 16), 14]
    assert hidden[0].nonzero().ravel().tolist() == [0, 2]
    assert hidden[15].nonzero().ravel().tolist() == [13, 15]
    assert hidden[7].nonzero().ravel().tolist() == [6, 7]


def test_edges_of_runs():
    assert float(segment_contrast(drawn(2, 15, 4))) == 0
    assert torch.isfinite(segment_contrast(torch.zeros(2, 20, 4)))
    assert torch.isfinite(segment_contrast(drawn(2, 20, 4).half()))
    z = drawn(2, 20, 4).requires_grad_()
    torch.autograd.gradcheck(lambda x: segment_contrast(x, 2, segments=6), z)
    with pytest.raises(InputError, match="do not fit"):
        segment_contrast(drawn(2, 20, 4), 5)


def naive_mmd(x, v):
    rows = [*x, *v]
    between = [[((a - b) ** 2).sum() for b in rows] for a in rows]
    m = len(rows)
    width = sum(float(between[i][j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1)) / 4
    k = [[sum(torch.exp(-between[i][j] / (width * 2**s)) for s in range(5)) for j in range(m)] for i in range(m)]
    n = len(x)
    return sum(k[i][j] + k[n + i][n + j] - k[i][n + j] - k[n + i][j] for i in range(n) for j in range(n)) / n**2


def test_the_discrepancy_of_vectors():
    x, v = drawn(5, 3), drawn(5, 3, seed=1) + 0.5
    found = feature_mmd(x, v)
    assert torch.allclose(found, naive_mmd(x, v))
    assert float(found) > 0
    assert float(feature_mmd(x, x)) == pytest.approx(0, abs=1e-12)
    assert torch.allclose(found, feature_mmd(v, x))
    assert torch.allclose(found, feature_mmd(x + 7, v + 7))
    assert torch.allclose(found, feature_mmd(3 * x, 3 * v))
    assert torch.isfinite(feature_mmd(torch.zeros(3, 2), torch.zeros(3, 2)))
    assert torch.isfinite(feature_mmd(x[:1], v[:1]))
    assert torch.isfinite(feature_mmd(x.half(), v.half()))
    with pytest.raises(InputError, match="of one shape"):
        feature_mmd(x, v[:3])


def test_the_width_of_the_discrepancy_is_a_constant():
    x, v = drawn(4, 3), drawn(4, 3, seed=1).requires_grad_()
    found = torch.autograd.grad(feature_mmd(x, v), v)[0]
    both = torch.cat([x, v.detach()])
    width = (both[:, None] - both[None]).square().sum(2).sum() / (8 * 7) / 4

    def fixed(v):
        rows = torch.cat([x, v])
        d = (rows[:, None] - rows[None]).square().sum(2)
        k = sum(torch.exp(-d / (width * 2**s)) for s in range(5))
        return (k[:4, :4] + k[4:, 4:] - k[:4, 4:] - k[4:, :4]).mean()

    assert torch.allclose(found, torch.autograd.grad(fixed(v), v)[0])


def test_what_is_kept_beyond_the_threshold():
    w = torch.full((2, 3, 2), 0.1, dtype=torch.float64, requires_grad=True)
    low = kept_excess(w)
    assert float(low) == 0
    assert (torch.autograd.grad(low, w)[0] == 0).all()
    assert float(kept_excess(w + 0.4)) == pytest.approx(0.6)


@pytest.mark.parametrize("released", [False, True])
def test_consistency_in_time(released):
    w, first, second = torch.rand(3, 9, 2, dtype=torch.float64), torch.tensor([1, 5, 7, 4]), torch.tensor([4, 6, 2, 4])
    terms = []
    for series in w:
        for s0, s1 in zip(first.tolist(), second.tolist(), strict=True):
            far = s1 - s0 > 1 if released else abs(s1 - s0) > 1
            d = (series[s0] - series[s1]).abs()
            alike = far if released else not far
            smooth = (series[s0] - series[s0 - 1]).abs() + (series[s0] - series[s0 + 1]).abs()
            terms.append((smooth + (d if alike else 1 - d)).mean())
    assert torch.allclose(step_consistency(w, first, second, released=released), torch.stack(terms).mean())
