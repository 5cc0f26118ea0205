"""Mixtures of one side against another, and soft targets: against loops written from the card, and their invariants."""

import math

import pytest
import torch
from torch.testing import assert_close

from nearfar import losses
from nearfar.errors import InputError
from nearfar.similarity import ExcludedPairs

PARTNER, SHARES = torch.tensor([3, 1, 4, 0, 2]), torch.tensor([0.3, 0.6, 1.0, 0.0, 0.9], dtype=torch.float64)


def sides(n=5, d=4, seed=1):
    make = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, dtype=torch.float64, generator=make) for _ in range(2)]


def cosines(a, b, temperature):
    found = torch.zeros(len(a), len(b), dtype=a.dtype)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            found[i, j] = (x @ y) / (x.norm() * y.norm()) / temperature
    return found


def naive_targets(partner, shares, added=True):
    p = torch.zeros(len(partner), len(partner), dtype=torch.float64)
    for i, j in enumerate(partner.tolist()):
        p[i, i] = shares[i]
        p[i, j] = p[i, j] + 1 - shares[i] if added else 1 - shares[i]
    return p


def naive_mixtures(mixed, clean, partner, shares, temperature=0.1, added=True):
    s, p, n, total = cosines(mixed, clean, temperature), naive_targets(partner, shares, added), len(mixed), 0.0
    for i in range(n):
        for j in range(n):
            total += p[i, j] * (torch.logsumexp(s[i], 0) - s[i, j]) / n
            total += p[i, j] * (torch.logsumexp(s[:, j], 0) - s[i, j]) / n
    return total / 2


def naive_soft(a, b, temperature=0.125):
    s, t, n, total = cosines(a, b, temperature), cosines(b, b, temperature), len(a), 0.0
    for i in range(n):
        target = [math.e ** (t[i, j] - torch.logsumexp(t[i], 0)) for j in range(n)]
        total += sum(target[j] * (torch.logsumexp(s[i], 0) - s[i, j]) for j in range(n)) / n
        total += sum(target[j] * (torch.logsumexp(s[:, i], 0) - s[j, i]) for j in range(n)) / n
    return total / 2


@pytest.mark.parametrize("added", [True, False])
def test_mixtures_are_their_loops(added):
    a, b = sides()
    mixed = torch.stack([SHARES[i] * a[i] + (1 - SHARES[i]) * a[j] for i, j in enumerate(PARTNER.tolist())])
    assert_close(losses.mix_rows(a, PARTNER, SHARES), mixed)
    found = losses.m3co(mixed, b, PARTNER, SHARES, temperature=0.3, added=added)
    assert_close(found, naive_mixtures(mixed, b, PARTNER, SHARES, 0.3, added))


@pytest.mark.parametrize("added", [True, False])
def test_a_mixture_does_not_see_what_equals_one_of_its_rows(added):
    """But for these two rows themselves, which are its targets; a row does not see such mixtures either."""
    a, b = sides(7)
    a, b = a.requires_grad_(), b.requires_grad_()
    partner, ids = torch.tensor([1, 2, 0, 3, 5, 6, 4]), torch.tensor([5, 8, 5, 8, 9, -1, 5])
    shares = torch.tensor([0.3, 0.6, 1.0, 0.0, 0.9, 0.5, 0.2], dtype=torch.float64)
    mixed, seen = losses.mix_rows(a, partner, shares), torch.ones(7, 7, dtype=torch.bool)
    for i, k in enumerate(partner.tolist()):
        for j in range(7):
            parts = [at for at, share in ((i, shares[i]), (k, 1 - shares[i])) if share > 0]
            seen[i, j] = j in (i, *parts) or ids[j] < 0 or not any(ids[j] == ids[at] for at in parts)
    assert 0 < int((~seen).sum()) < 30
    s, p = cosines(mixed, b, 0.3), naive_targets(partner, shares, added)
    hidden = s.masked_fill(~seen, -math.inf)
    wanted = (p * (hidden.logsumexp(1, keepdim=True) + hidden.logsumexp(0, keepdim=True) - 2 * s)).sum() / 14
    found = losses.m3co(mixed, b, partner, shares, temperature=0.3, added=added, excluded=ExcludedPairs([(ids, ids)]))
    assert_close(found, wanted)
    gradients = torch.autograd.grad(found, (a, b), retain_graph=True)
    for x, y in zip(gradients, torch.autograd.grad(wanted, (a, b)), strict=True):
        assert_close(x, y)


def test_soft_targets_are_their_loops():
    a, b = sides()
    assert_close(losses.soft_contrast(a, b), naive_soft(a, b))
    assert_close(losses.soft_contrast(a, b, temperature=0.7), naive_soft(a, b, 0.7))


def test_gradients():
    a, b = (x.requires_grad_() for x in sides(4, 3))
    partner, shares = torch.tensor([1, 0, 2, 3]), torch.tensor([0.2, 0.7, 0.5, 1.0], dtype=torch.float64)

    def mixed(a, b):
        return losses.m3co(losses.mix_rows(a, partner, shares), b, partner, shares, temperature=0.4)

    assert torch.autograd.gradcheck(mixed, (a, b))
    assert torch.autograd.gradcheck(losses.soft_contrast, (a, b))
    naive = torch.autograd.grad(naive_soft(a, b), (a, b))
    for x, y in zip(torch.autograd.grad(losses.soft_contrast(a, b), (a, b)), naive, strict=True):
        assert_close(x, y)  # through the targets too


def test_targets_sum_to_one_and_tell_the_shares_apart():
    """Invariant 2, and the released code's row that is its own partner."""
    own, other = losses.mixture_targets(PARTNER, SHARES)
    assert_close(own + other, torch.ones(5, dtype=torch.float64))
    a, b = sides()
    mixed = losses.mix_rows(a, PARTNER, SHARES)
    value = losses.m3co(mixed, b, PARTNER, SHARES)
    assert not torch.isclose(losses.m3co(mixed, b, PARTNER, 1 - SHARES), value)
    half = torch.full((5,), 0.5, dtype=torch.float64)
    assert_close(losses.m3co(mixed, b, PARTNER, half), losses.m3co(mixed, b, PARTNER, 1 - half))
    own, other = losses.mixture_targets(torch.tensor([0, 1]), torch.tensor([1.0, 0.3]), added=False)
    assert_close(own + other, torch.tensor([0.0, 0.7]))


def test_without_mixing_it_is_clip():
    """Invariant 1, and 3: all of the partner is the contrast of other pairs."""
    a, b = sides()
    ones, nothing = torch.ones(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    assert_close(losses.mix_rows(a, PARTNER, ones), a)
    assert_close(losses.m3co(a, b, PARTNER, ones), losses.clip(a, b, temperature=0.1))
    moved = losses.mix_rows(a, PARTNER, nothing)
    assert torch.equal(moved, a[PARTNER])
    assert_close(losses.m3co(moved, b, PARTNER, nothing), losses.clip(a[PARTNER], b[PARTNER], temperature=0.1))


def test_order_and_length():
    """Invariant 4."""
    a, b = sides()

    def value(a, b, partner=PARTNER, shares=SHARES):
        return losses.m3co(losses.mix_rows(a, partner, shares), b, partner, shares)

    order = torch.tensor([2, 0, 4, 1, 3])
    conjugated = order.argsort()[PARTNER[order]]
    assert_close(value(a[order], b[order], conjugated, SHARES[order]), value(a, b))
    scale = torch.linspace(0.5, 3, 5, dtype=torch.float64)[:, None]
    assert_close(value(a, scale * b), value(a, b))
    assert not torch.isclose(value(scale * a, b), value(a, b))


def test_limits():
    """Invariants 5 and 6; all rows in one place."""
    a, b = sides()
    one = losses.draw_mixture(1)
    assert_close(losses.m3co(a[:1], b[:1], *one), torch.zeros((), dtype=torch.float64))
    assert_close(losses.soft_contrast(a[:1], b[:1]), torch.zeros((), dtype=torch.float64))
    t = cosines(a, a, 0.125).softmax(1)
    assert_close(losses.soft_contrast(a, a), -(t * t.log()).sum(1).mean())
    assert_close(losses.soft_contrast(a, b, temperature=1e-3), losses.clip(a, b, temperature=1e-3))
    same = torch.ones(5, 4, dtype=torch.float64)
    assert losses.m3co(same, same, PARTNER, SHARES).item() == pytest.approx(math.log(5))
    assert losses.soft_contrast(same, same).item() == pytest.approx(math.log(5))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_hard_inputs(kind):
    a, b = (x.to(kind) for x in sides(6, 8))
    partner, shares = losses.draw_mixture(6, rate=1.0, seed=4)
    for x, y in ((a, b), (torch.zeros_like(a), b), (a, a), (a.T.contiguous().T, b.T.contiguous().T), (300 * a, b)):
        x = x.clone().requires_grad_()
        for temperature in (0.1, 1e-4):
            mixed = losses.mix_rows(x, partner, shares)
            value = losses.m3co(mixed, y, partner, shares, temperature=temperature)
            value = value + losses.soft_contrast(x, y, temperature=temperature)
            assert value.dtype == torch.float32
            value.backward()
            assert value.isfinite()
            assert x.grad.isfinite().all()


def test_draws():
    partner, shares = losses.draw_mixture(4000, seed=3)
    assert sorted(partner.tolist()) == list(range(4000))
    assert float((shares < 1).float().mean()) == pytest.approx(0.5, abs=0.05)  # some draws round to 1
    drawn = losses.draw_mixture(4000, rate=1.0, seed=3)[1]
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(((drawn < 0.1) | (drawn > 0.9)).float().mean()) > 0.6  # near 0 or 1: the density has the shape of a U
    assert bool((losses.draw_mixture(50, rate=0.0)[1] == 1).all())
    assert torch.equal(losses.draw_mixture(9, seed=(1, 2))[0], losses.draw_mixture(9, seed=(1, 2))[0])
    assert not torch.equal(losses.draw_mixture(9, seed=(1, 2))[0], losses.draw_mixture(9, seed=(1, 3))[0])


@pytest.mark.parametrize(
    ("partner", "shares", "words"),
    [
        ([0, 0, 1, 2, 3], SHARES, "permutation of 0 to 4"),
        ([0.0, 1, 2, 3, 4], SHARES, "permutation"),
        ([0, 1, 2], SHARES, "5 partners"),
        (PARTNER, SHARES + 0.5, r"\[0, 1\]"),
    ],
)
def test_what_is_no_mixture_is_refused(partner, shares, words):
    a, b = sides()
    with pytest.raises(InputError, match=words):
        losses.m3co(a, b, torch.as_tensor(partner), shares)


def test_shapes_are_told():
    a, b = sides()
    with pytest.raises(InputError, match=r"one shape. Got \(5, 4\) and \(4, 4\)"):
        losses.soft_contrast(a, b[:4])
    with pytest.raises(InputError, match="'temperature'"):
        losses.soft_contrast(a, b, temperature=0.0)
    with pytest.raises(InputError, match="'rate'"):
        losses.draw_mixture(4, rate=1.5)
