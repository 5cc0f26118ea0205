"""R-Drop: the cross-entropy of two passes and how far they are apart."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from nearfar.errors import InputError
from nearfar.losses import r_drop, symmetric_kl


def logits(n=6, classes=4, seed=0, dtype=torch.float64):
    make = torch.Generator().manual_seed(seed)
    return [torch.randn(n, classes, generator=make, dtype=dtype) for _ in range(2)] + [
        torch.randint(classes, (n,), generator=make)]  # fmt: skip


def naive(a, b, y, weight):
    total = 0.0
    for i in range(len(a)):
        p, q = a[i].exp() / a[i].exp().sum(), b[i].exp() / b[i].exp().sum()
        total -= (p[y[i]].log() + q[y[i]].log()) / 2
        for k in range(a.shape[1]):
            total += weight * (p[k] * (p[k] / q[k]).log() + q[k] * (q[k] / p[k]).log()) / 2
    return total / len(a)


@pytest.mark.parametrize("weight", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("n", [1, 6])
def test_it_is_what_loops_give(n, weight):
    a, b, y = logits(n)
    torch.testing.assert_close(r_drop(a, b, y, weight=weight), naive(a, b, y, weight))
    both = a.requires_grad_(), b.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: r_drop(a, b, y, weight=weight), both)


def test_invariants():
    a, b, y = logits()
    torch.testing.assert_close(r_drop(a, a, y), cross_entropy(a, y))
    torch.testing.assert_close(symmetric_kl(a, b), symmetric_kl(b, a))
    assert symmetric_kl(a, a + torch.randn(6, 1).double()) == pytest.approx(0, abs=1e-12)
    order = torch.randperm(6)
    torch.testing.assert_close(r_drop(a[order], b[order], y[order]), r_drop(a, b, y))
    assert symmetric_kl(a, b) > 0


def test_extreme_logits_and_half_precision():
    a, b, y = logits(dtype=torch.float32)
    assert r_drop(a * 1e4, b * 1e4, y).isfinite()
    assert r_drop(a * 0, b * 0, y).item() == pytest.approx(torch.log(torch.tensor(4.0)).item())
    for dtype in (torch.float16, torch.bfloat16):
        half = r_drop(a.to(dtype), b.to(dtype), y)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, r_drop(a, b, y), rtol=0.05, atol=0.05)


def test_wrong_shapes():
    a, b, y = logits()
    with pytest.raises(InputError, match="must be"):
        r_drop(a, b[:, :3], y)
