"""Shuffled group whitening against loops written from the card of WhitenedCSE, and what must hold for it."""

import numpy as np
import pytest
import torch

from nearfar.errors import InputError
from nearfar.heads import group_whitening, pooler, whitened_views, whitening_matrix


def drawn(n=17, d=12, seed=0):
    make = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, dtype=torch.float64, generator=make) @ torch.randn(d, d, dtype=torch.float64, generator=make)
    return x + 3, torch.randperm(d, generator=make)


def naive(x, groups, permutation, eps=0.0):
    """Number by number, the eigenvectors by numpy."""
    x, p = x.numpy(), permutation.tolist()
    n, d = x.shape
    s, out = d // groups, np.zeros((n, d))
    for g in range(groups):
        own = [p[g * s + k] for k in range(s)]
        y = np.array([[x[i, c] - sum(x[j, c] for j in range(n)) / n for c in own] for i in range(n)])
        covariance = np.array([[sum(y[i, a] * y[i, b] for i in range(n)) / n for b in range(s)] for a in range(s)])
        values, u = np.linalg.eigh(covariance)
        w = sum(np.outer(u[:, k], u[:, k]) / np.sqrt(values[k] + eps) for k in range(s))
        for k, c in enumerate(own):
            out[:, c] = y @ w[:, k]
    return torch.from_numpy(out)


@pytest.mark.parametrize("groups", [1, 2, 4, 12])
@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_it_is_the_loop(groups, eps):
    x, p = drawn()
    for differentiate in (False, True):
        found = group_whitening(x, groups, p, eps=eps, differentiate=differentiate)
        torch.testing.assert_close(found, naive(x, groups, p, eps), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("groups", [1, 3, 6])
def test_each_group_has_mean_0_and_the_identity_as_covariance(groups):
    x, p = drawn()
    z = group_whitening(x, groups, p)[:, p].view(len(x), groups, -1)
    for g in range(groups):
        assert z[:, g].mean(0).abs().max() < 1e-8
        assert (z[:, g].T @ z[:, g] / len(x) - torch.eye(12 // groups)).abs().max() < 1e-8
    if groups > 1:
        across = z[:, 0].T @ z[:, 1] / len(x)
        assert across.abs().max() > 0.1, "channels of different groups stay correlated"


def test_what_changes_nothing():
    """A constant row added to all, a positive factor; rotations inside a group and orders of rows go through."""
    x, p = drawn()
    z = group_whitening(x, 3, p)
    torch.testing.assert_close(group_whitening(7 * x - torch.arange(12), 3, p), z)
    rows = torch.randperm(17, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(group_whitening(x[rows], 3, p), z[rows])
    turn = torch.zeros(12, 12, dtype=torch.float64)
    for own in p.view(3, 4):
        q = torch.linalg.qr(
            torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(int(own[0])))
        )
        turn[own[:, None], own] = q[0]
    torch.testing.assert_close(group_whitening(x @ turn, 3, p), z @ turn)
    torch.testing.assert_close(group_whitening(x, 1, p), group_whitening(x, 1))
    assert not torch.allclose(group_whitening(x, 3, p), group_whitening(x, 3))
    standard = (x - x.mean(0)) / x.std(0, unbiased=False)
    for order in (p, None):
        torch.testing.assert_close(group_whitening(x, 12, order), standard)
    torch.testing.assert_close(group_whitening(x.T.contiguous().T, 3, p), z)


def test_gradients_with_the_matrix_held_and_followed():
    x, p = drawn(n=9, d=6)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: group_whitening(x, 2, p, differentiate=True), (x,))
    assert torch.autograd.gradcheck(lambda x: group_whitening(x, 2, p, differentiate=True, eps=0.2), (x,))
    y = (x[:, p] - x[:, p].mean(0)).detach()
    w = whitening_matrix(y.view(9, 2, 3).transpose(0, 1))
    upstream = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    held, followed = (torch.autograd.grad(group_whitening(x, 2, p, differentiate=d), x, upstream)[0]
                      for d in (False, True))  # fmt: skip
    inner = torch.cat([upstream[:, p[:3]] @ w[0], upstream[:, p[3:]] @ w[1]], 1)
    wanted = torch.zeros_like(inner)
    wanted[:, p] = inner - inner.mean(0)
    torch.testing.assert_close(held, wanted)
    assert not torch.allclose(held, followed)


def test_equal_eigenvalues_have_a_gradient():
    """White rows: the eigenvectors are arbitrary, the matrix and its derivative are not."""
    x, _ = drawn(n=9, d=4)
    white = group_whitening(x, 1).requires_grad_()
    torch.testing.assert_close(whitening_matrix(white[None])[0], torch.eye(4, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda z: group_whitening(z, 1, differentiate=True), (white,))


def test_views_of_their_own_and_blocks_of_the_released_code():
    views = [drawn(n=15, d=6, seed=s)[0] for s in range(3)]
    orders = torch.stack([torch.randperm(6, generator=torch.Generator().manual_seed(s)) for s in range(3)])
    for found, x, p in zip(whitened_views(views, orders, 2), views, orders, strict=True):
        torch.testing.assert_close(found, naive(x, 2, p))
    rows = [views[v][i] for i in range(15) for v in range(3)]  # sentence by sentence
    parts = [naive(torch.stack(rows[15 * b : 15 * (b + 1)]), 2, orders[b]) for b in range(3)]
    flat = torch.cat(parts)
    for v, found in enumerate(whitened_views(views, orders, 2, blocks=True)):
        torch.testing.assert_close(found, flat[v::3])


def test_what_cannot_be_whitened_is_told():
    x, p = drawn(n=8, d=12)
    with pytest.raises(InputError, match=r"5 groups do not divide 12 channels .* Use one of 1, 2, 3, 4, 6, 12"):
        group_whitening(x, 5, p)
    constant = torch.cat([x[:, :1] * 0 + 4, x[:, 1:]], 1)
    for bad, why in ((x[:6], "a covariance is singular"), (x[:1], "12 channels are constant"),
                     (x * 0, "12 channels are constant"), (constant, "1 channel is constant")):  # fmt: skip
        with pytest.raises(InputError, match=f"rows cannot whiten groups of 6 channels: {why}.*--eps 1e-3"):
            group_whitening(bad, 2)
        assert torch.isfinite(group_whitening(bad, 2, eps=1e-3)).all()
    for rows in (torch.full((12, 12), torch.nan), torch.zeros(0, 12)):
        with pytest.raises(InputError, match="Only rows of finite numbers"):
            group_whitening(rows, 2)
    with pytest.raises(InputError, match="singular"):
        group_whitening(x[:6].float(), 2)


def test_half_precision_comes_back_as_it_was():
    x, p = drawn(n=64)
    for kind in (torch.float16, torch.bfloat16):
        found = group_whitening(x.to(kind), 3, p)
        assert found.dtype == kind
        torch.testing.assert_close(found.double(), group_whitening(x.to(kind).double(), 3, p), rtol=0.02, atol=0.02)
    plain = group_whitening(x.float(), 3, p, differentiate=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(group_whitening(x.float(), 3, p, differentiate=True), plain), "never in half precision"


def test_the_pooler_is_a_linear_layer_and_tanh():
    head, x = pooler(5, "tanh"), torch.randn(3, 5)
    torch.testing.assert_close(head(x), torch.tanh(x @ head[0].weight.T + head[0].bias))
