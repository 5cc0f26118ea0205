"""Contrast of series at all scales: naive loops, closed forms, and edges."""

import math

import pytest
import torch

from nearfar.errors import InputError
from nearfar.losses import hierarchical_contrast, instance_contrast, temporal_contrast


def two(n=3, t=5, d=4, seed=0):
    return torch.randn(2, n, t, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_instance(a, b):
    total, (n, steps, _) = 0.0, a.shape
    for t in range(steps):
        for x, y in ((a, b), (b, a)):
            for i in range(n):
                own = x[i, t] @ y[i, t]
                others = [x[i, t] @ y[j, t] for j in range(n)] + [x[i, t] @ x[j, t] for j in range(n) if j != i]
                total += torch.logsumexp(torch.stack(others), 0) - own
    return total / (2 * n * steps)


def naive_temporal(a, b):
    return naive_instance(a.transpose(0, 1), b.transpose(0, 1))


def naive_hierarchy(a, b, alpha, first):
    parts, scale = [], 0
    while a.shape[1] > 1:
        part = alpha * naive_instance(a, b)
        parts.append(part + ((1 - alpha) * naive_temporal(a, b) if scale >= first else 0))
        half = a.shape[1] // 2
        a, b = (torch.stack([z[:, 2 * k : 2 * k + 2].amax(1) for k in range(half)], 1) for z in (a, b))
        scale += 1
    return sum([*parts, alpha * naive_instance(a, b)]) / (scale + 1)


def test_both_terms_are_those_of_loops():
    a, b = two()
    assert torch.allclose(instance_contrast(a, b), naive_instance(a, b))
    assert torch.allclose(temporal_contrast(a, b), naive_temporal(a, b))


@pytest.mark.parametrize(("alpha", "first", "steps"), [(0.5, 0, 7), (0.3, 1, 8), (1.0, 0, 5), (0.0, 0, 6), (0.5, 0, 1)])
def test_the_hierarchy_is_that_of_loops(alpha, first, steps):
    a, b = two(t=steps)
    found = hierarchical_contrast(a, b, alpha=alpha, temporal_from=first)
    assert torch.allclose(found, torch.as_tensor(naive_hierarchy(a, b, alpha, first), dtype=torch.float64))


def test_gradients_and_views_not_contiguous():
    a, b = two(2, 4, 3).requires_grad_()
    torch.autograd.gradcheck(lambda x, y: hierarchical_contrast(x, y), (a, b))
    c, d = two(2, 3, 4).transpose(2, 3)
    assert torch.equal(hierarchical_contrast(c, d), hierarchical_contrast(c.contiguous(), d.contiguous()))


def test_closed_forms_and_edges():
    a = torch.ones(3, 4, 2)
    assert float(instance_contrast(a, a)) == pytest.approx(math.log(5))
    assert float(temporal_contrast(a, a)) == pytest.approx(math.log(7))
    assert float(instance_contrast(a[:1], a[:1])) == 0
    assert float(temporal_contrast(a[:, :1], a[:, :1])) == 0
    half = two().half()
    assert torch.isfinite(hierarchical_contrast(half[0], half[1]))
    zero = torch.zeros(2, 4, 3, requires_grad=True)
    hierarchical_contrast(zero, zero).backward()
    assert torch.isfinite(zero.grad).all()
    far = torch.full((2, 4, 3), 1e4)
    assert torch.isfinite(hierarchical_contrast(far, far))
    with pytest.raises(InputError, match="of one shape"):
        hierarchical_contrast(a, a[:, :3])
