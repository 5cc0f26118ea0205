"""MultiCSR's masked loss against loops in float64, both of its forms, and what must hold of them."""

import math
from itertools import pairwise

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import cosine_similarity as cosine

from nearfar.errors import InputError
from nearfar.losses import info_nce, multicsr, similarity_mask


def scene(n=5, d=6, seed=0, near=0.7):
    """Vectors of the three texts, and frozen ones of which some candidates lie near other anchors."""
    make = torch.Generator().manual_seed(seed)
    z = [torch.randn(n, d, generator=make, dtype=torch.float64) for _ in range(3)]
    m = [torch.randn(n, 4, generator=make, dtype=torch.float64) for _ in range(3)]
    m[1] = near * m[0].roll(1, 0) + (1 - near) * m[1]
    m[2][0] = m[0][0]
    return z, m


def naive(z, m, phi=0.95, t=0.05, official=False):
    n, total = len(z[0]), 0.0
    for i in range(n):
        s, keep = [], []
        for side in (1, 2):
            for j in range(n):
                s.append(cosine(z[0][i], z[side][j], dim=0) / t)
                own = side == 1 and j == i
                keep.append(own or m is None or float(cosine(m[0][i], m[side][j], dim=0)) <= phi)
        if official:
            logits = [x if k else torch.zeros((), dtype=x.dtype) for x, k in zip(s, keep, strict=True)]
            below = sum(x.exp() for x in logits)
            for j, x in enumerate(logits):
                p = x.exp() / below
                total = total - (p.log() if j == i else (1 - p).log()) / (2 * n)
        else:
            total = total - (s[i].exp() / sum(x.exp() for x, k in zip(s, keep, strict=True) if k)).log()
    return total / n


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize(("phi", "t"), [(0.95, 0.05), (0.6, 0.05), (0.2, 0.5), (1.0, 0.2)])
def test_both_forms(phi, t, official):
    z, m = scene()
    found = multicsr(*z, m, phi=phi, temperature=t, official=official)
    torch.testing.assert_close(found, naive(z, m, phi, t, official))
    torch.testing.assert_close(multicsr(*z, temperature=t, official=official), naive(z, None, phi, t, official))


@pytest.mark.parametrize("official", [False, True])
def test_gradients(official):
    z, m = scene(4)
    leaves = [x.requires_grad_() for x in z]
    assert gradcheck(lambda a, b, c: multicsr(a, b, c, m, phi=0.6, temperature=0.3, official=official), leaves)
    m = [x.requires_grad_() for x in m]
    multicsr(*z, m, phi=0.6, official=official).backward()
    assert all(x.grad is None for x in m), "the frozen encoder learned"


def test_the_mask():
    m = scene()[1]
    found = similarity_mask(*m, phi=0.6)
    wanted = torch.tensor([[(side == 1 and i == j) or float(cosine(m[0][i], m[side][j], dim=0)) <= 0.6
                            for side in (1, 2) for j in range(5)] for i in range(5)])  # fmt: skip
    assert torch.equal(found, wanted)
    assert found[:, :5].diagonal().all(), "the own positive is never hidden"
    assert not found[0, 5], "the own hard negative may be"
    assert not wanted.all()
    assert similarity_mask(*m, phi=1.0).all()
    same = [torch.ones(3, 4)] * 3
    assert torch.equal(similarity_mask(*same, phi=0.95), torch.cat([torch.eye(3), torch.zeros(3, 3)], 1).bool())
    assert similarity_mask(*same, phi=1.0).all(), "rounding hides nothing"


def test_a_lower_limit_hides_more_and_costs_less():
    z, m = scene(8)
    masks = [similarity_mask(*m, phi=phi) for phi in (0.9, 0.5, 0.1, -0.5)]
    losses = [multicsr(*z, m, phi=phi).item() for phi in (0.9, 0.5, 0.1, -0.5)]
    for more, less in pairwise(masks):
        assert bool((less <= more).all())
        assert less.sum() < more.sum()
    assert losses == sorted(losses, reverse=True)


def test_without_a_mask_it_is_simcse_with_hard_negatives():
    z, m = scene()
    wanted = info_nce(z[0], torch.cat(z[1:]), temperature=0.05)
    torch.testing.assert_close(multicsr(*z, m, phi=1.0), wanted)
    torch.testing.assert_close(multicsr(*z), wanted)


def test_scale_and_order_do_not_matter():
    z, m = scene()
    order = torch.tensor([3, 0, 4, 1, 2])
    for official in (False, True):
        wanted = multicsr(*z, m, phi=0.6, official=official)
        scaled = [x * torch.rand(5, 1, dtype=torch.float64).add(0.1) for x in m]
        torch.testing.assert_close(multicsr(*z, scaled, phi=0.6, official=official), wanted)
        moved = multicsr(*(x[order] for x in z), [x[order] for x in m], phi=0.6, official=official)
        torch.testing.assert_close(moved, wanted)
    both = torch.cat([order, order + 5])
    moved = similarity_mask(*(x[order] for x in m), phi=0.6)
    assert torch.equal(moved, similarity_mask(*m, phi=0.6)[order][:, both])


def test_edges():
    z, m = scene()
    every = [torch.ones_like(x) for x in m]
    assert multicsr(*z, every).item() == 0, "all negatives are hidden"
    assert multicsr(*z, every, official=True).item() > 0, "ones stay in the denominator"
    one = [x[:1] for x in z]
    wanted = torch.nn.functional.softplus((cosine(one[0], one[2]) - cosine(one[0], one[1])) / 0.05)[0]
    torch.testing.assert_close(multicsr(*one), wanted)
    equal = [torch.ones(6, 3, dtype=torch.float64)] * 3
    torch.testing.assert_close(multicsr(*equal).item(), math.log(12))
    wanted = (math.log(12) - 11 * math.log(1 - 1 / 12)) / 12
    torch.testing.assert_close(multicsr(*equal, official=True).item(), wanted)
    for official in (False, True):
        leaves = [torch.zeros(3, 4, requires_grad=True), *(torch.randn(3, 4) for _ in range(2))]
        loss = multicsr(*leaves, m_of(3), official=official)
        loss.backward()
        assert loss.isfinite()
        assert leaves[0].grad.isfinite().all()


def m_of(n):
    return [torch.randn(n, 4) for _ in range(3)]


@pytest.mark.parametrize("official", [False, True])
def test_one_candidate_with_all_weight_stays_finite(official):
    """A sharp softmax whose weight lies on a wrong candidate: log 0 is clamped."""
    z = [torch.eye(3), torch.eye(3).roll(1, 0), -torch.eye(3)]
    leaves = [x.clone().requires_grad_() for x in z]
    loss = multicsr(*leaves, temperature=1e-3, official=official)
    loss.backward()
    assert loss.isfinite()
    assert all(x.grad.isfinite().all() for x in leaves)
    right = [torch.eye(3), torch.eye(3), -torch.eye(3)]
    assert multicsr(*right, temperature=1e-3, official=official).item() < 1e-6


@pytest.mark.parametrize("official", [False, True])
def test_half_precision_and_strides(official):
    z, m = scene(16, 8)
    wanted = multicsr(*z, m, phi=0.6, temperature=0.1, official=official)
    for kind, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.1), (torch.float16, 0.02)):
        found = multicsr(*(x.to(kind) for x in z), [x.float() for x in m], phi=0.6, temperature=0.1, official=official)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)
    strided = [torch.stack([x, x], 2)[..., 0] for x in z]
    assert not strided[0].is_contiguous()
    torch.testing.assert_close(multicsr(*strided, m, phi=0.6, temperature=0.1, official=official), wanted)


def test_wrong_shapes():
    z, _ = scene()
    with pytest.raises(InputError):
        multicsr(*z, temperature=0.0)
    alike = "must be three of \\(5, d\\) alike"
    for wrong in ((z[0], z[1][:, :3], z[2][:, :3]), (z[0], z[1][:4], z[2]), (z[0], z[1][:4], torch.cat([z[2]] * 2)),
                  (z[0], z[1][:, None], z[2])):  # fmt: skip
        with pytest.raises(InputError, match=f"The vectors of .* {alike}"):
            multicsr(*wrong)
    for m in (z[:2], [x[:4] for x in z], [z[0], z[1][:, :3], z[2][:, :3]], [z[0], z[1][:4], torch.cat([z[2]] * 2)[:6]]):
        with pytest.raises(InputError, match=f"The frozen vectors of .* {alike}"):
            multicsr(*z, m)
    for phi in (math.nan, math.inf):
        with pytest.raises(InputError, match="phi is a cosine"):
            multicsr(*z, z, phi=phi)


def test_autocast_does_not_round_the_mask():
    """In bfloat16 cosines of 0.949 and 0.951 are one number."""
    angles = torch.linspace(0.9495, 0.9505, 16).acos()
    near = torch.stack([angles.cos(), angles.sin()], 1)
    m = [torch.eye(2)[:1].expand(16, 2), near, near]
    wanted = similarity_mask(*m, phi=0.95)
    assert wanted[0, 16:].any()
    assert not wanted[0, 16:].all()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(similarity_mask(*m, phi=0.95), wanted)
