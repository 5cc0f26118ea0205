"""CLIP-rocket and the terms beside it: the invariants of the card. That they equal their loops stands in `cases`."""

import itertools
import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy, normalize
from torch.testing import assert_close

from nearfar import losses
from nearfar.errors import InputError
from nearfar.similarity import ExcludedPairs


def views(n=6, d=4, count=3, seed=0, dtype=torch.float64):
    make = torch.Generator().manual_seed(seed)
    image, text = ([torch.randn(n, d, dtype=dtype, generator=make) for _ in range(count)] for _ in range(2))
    return image, text


def rocket(image, text, **options):
    return losses.clip_rocket(image[0], text[0], image[1:], text[1:], **options)


def test_without_local_views_it_is_clip_and_sum_is_twice_that():
    image, text = views(count=1)
    plain = losses.clip(image[0], text[0], temperature=0.2)
    assert_close(rocket(image, text, temperature=0.2), plain)
    assert_close(rocket(image, text, temperature=0.2, mode="sum"), 2 * plain)
    image, text = views()
    assert_close(rocket(image, text, mode="sum"), 2 * rocket(image, text))


def test_local_views_that_are_the_global_one_change_nothing():
    image, text = views(count=1)
    made = rocket(image * 3, text * 3, temperature=0.2, local_temperature=0.2, smoothing=0.0)
    assert_close(made, losses.clip(image[0], text[0], temperature=0.2))


def test_smoothing_acts_on_local_views_alone():
    image, text = views()
    terms = losses.clip_rocket_terms(image[0], text[0], image[1:], text[1:], smoothing=0.3)
    plain = losses.clip_rocket_terms(image[0], text[0], image[1:], text[1:], smoothing=0.0)
    assert_close(terms.whole, plain.whole)
    assert not torch.isclose(terms.local, plain.local)
    s, own = normalize(image[1], dim=1) @ normalize(text[2], dim=1).T / 0.1, torch.arange(6)
    wanted = sum(cross_entropy(x, own, label_smoothing=0.3) for x in (s, s.T)) / 2
    assert_close(losses.smoothed_clip(image[1], text[2], temperature=0.1, smoothing=0.3), wanted)


def test_the_order_of_local_views_does_not_matter():
    image, text = views()
    other = [image[0], image[2], image[1]], [text[0], text[2], text[1]]
    for call in (
        rocket,
        losses.barlip,
        lambda i, t: losses.swalip(i[1:], t[1:]),
        lambda i, t: losses.siamlip(i, t, [x + 1 for x in i], [x - 1 for x in t]),
    ):
        value = call(image, text)
        assert_close(call(other[0], text), value)
        assert_close(call(image, other[1]), value)
        assert_close(call(*other), value)


def test_global_views_never_meet_local_ones():
    image, text = views()
    assert losses.view_pairs(image, text) == [(0, 0), (1, 1), (1, 2), (2, 1), (2, 2)]
    image = [x.requires_grad_() for x in image]
    losses.barlip(image, [text[0], *(torch.zeros_like(x) for x in text[1:])]).backward()
    assert image[0].grad.abs().sum() > 0
    assert all(not x.grad.any() for x in image[1:])


def test_barlip_is_0_for_the_identity_alone():
    q = torch.linalg.qr(torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0] * 8**0.5
    assert losses.barlip([q], [q]).item() == pytest.approx(0, abs=1e-12)
    flip = torch.tensor([1.0, -1, 1, 1], dtype=torch.float64)
    assert losses.barlip([q * flip], [q * flip]).item() == pytest.approx(0, abs=1e-12)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    assert losses.barlip([q @ turn], [q]) > 0.01
    image, text = views(count=1)
    value = losses.barlip(image, text)
    assert_close(losses.barlip([image[0] * flip], [text[0] * flip]), value)
    assert not torch.isclose(losses.barlip([image[0] @ turn], [text[0] @ turn]), value)
    assert not torch.isclose(losses.barlip([image[0] * 2], text), value)


def test_barlip_of_batch_norms_is_barlow_twins():
    image, text = views(n=9, count=1)
    norm = torch.nn.BatchNorm1d(4, affine=False).double()
    wanted = 0.025 * losses.barlow_twins(image[0], text[0], eps=norm.eps)
    assert_close(losses.barlip([norm(image[0])], [norm(text[0])]), wanted)


def test_siam_term_lies_in_0_to_4_and_moves_no_target():
    image, text = ([x.requires_grad_() for x in side] for side in views())
    p = [[x.detach() * 2 + 1 for x in side] for side in (image, text)]
    value = losses.siamlip(*p, image, text)
    assert not value.requires_grad
    assert 0 <= value <= 4
    same = [x.detach() for x in text], [x.detach() for x in text]
    one = [same[0][:1], same[1][:1]]
    assert losses.siamlip(*one, *one).item() == pytest.approx(0, abs=1e-12)
    opposite = [[-x for x in side] for side in one]
    assert losses.siamlip(*one, *opposite).item() == pytest.approx(4)


def test_swalip_learns_from_the_other_pair():
    """Targets are balanced assignments of the pair of the other views; equal scores are uniform."""
    image, text = views()
    u = [[normalize(x, dim=1) for x in side[1:]] for side in (image, text)]
    total = []
    for mine, others in (u, u[::-1]):
        for a, b in itertools.product(range(2), repeat=2):
            q = losses.sinkhorn(mine[1 - a] @ others[1 - b].T, eps=0.05, iterations=3)
            assert_close(q.sum(1), torch.ones(6, dtype=torch.float64))
            soft = losses.sinkhorn(mine[1 - a] @ others[1 - b].T, eps=1.0, iterations=3)
            assert_close(soft.sum(0), torch.ones(6, dtype=torch.float64), atol=0.01, rtol=0)
            total.append(cross_entropy(mine[a] @ others[b].T / 0.1, q))
    assert_close(losses.swalip(image[1:], text[1:]), torch.stack(total).mean())
    equal = torch.ones(6, 4, dtype=torch.float64)
    assert_close(losses.sinkhorn(equal @ equal.T), torch.full((6, 6), 1 / 6, dtype=torch.float64))
    assert losses.swalip([equal] * 2, [equal] * 2).item() == pytest.approx(math.log(6))


def test_lengths_do_not_matter():
    image, text = views()
    longer = [[(v + 2) * x for v, x in enumerate(side)] for side in (image, text)]
    assert_close(rocket(*longer), rocket(image, text))
    assert_close(losses.swalip(longer[0][1:], longer[1][1:]), losses.swalip(image[1:], text[1:]))
    assert_close(losses.siamlip(*longer, *longer), losses.siamlip(image, text, image, text))


def test_constant_candidates_leave_the_gradient_of_anchors():
    """official: the same value; of each side the gradient as an anchor alone, and of the temperature the whole."""
    image, text = ([x.requires_grad_() for x in side] for side in views())
    tau = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    plain, constant = (rocket(image, text, temperature=tau, local_temperature=tau, official=o) for o in (False, True))
    assert_close(plain, constant)
    leaves = [*image, *text]
    whole = torch.autograd.grad(plain, [*leaves, tau])
    half = torch.autograd.grad(constant, [*leaves, tau])

    def naive(p, q, eps):
        """Each side as an anchor, the other one constant."""
        s, t = (unit(x) @ unit(y.detach()).T / tau for x, y in ((p, q), (q, p)))
        own = torch.arange(len(p))
        return (cross_entropy(s, own, label_smoothing=eps) + cross_entropy(t, own, label_smoothing=eps)) / 2

    def unit(x):
        return normalize(x, dim=1)

    local = sum(naive(a, b, 0.1) for a in image[1:] for b in text[1:]) / 4
    wanted = torch.autograd.grad((naive(image[0], text[0], 0.0) + 2 * local) / 3, [*leaves, tau])
    for found, naive_one in zip(half, wanted, strict=True):
        assert_close(found, naive_one)
    assert_close(whole[-1], half[-1])
    assert not torch.allclose(whole[0], half[0])
    loose, firm = (losses.swalip(image[1:], text[1:], official=o) for o in (False, True))
    assert_close(loose, firm)
    assert not torch.allclose(*(torch.autograd.grad(x, image[1])[0] for x in (loose, firm)))


def test_known_duplicates_are_hidden():
    """Two equal items: each other's candidate in no term."""
    image, text = views(n=4)
    for side in (image, text):
        for x in side:
            x[1] = x[0]
    ids = torch.tensor([7, 7, 1, 2])
    masked = rocket(image, text, excluded=ExcludedPairs([(ids, ids)]), smoothing=0.0)
    keep = ~torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)

    def naive(p, q, tau):
        s = (normalize(p, dim=1) @ normalize(q, dim=1).T / tau).masked_fill(~keep, -math.inf)
        return (cross_entropy(s, torch.arange(4)) + cross_entropy(s.T, torch.arange(4))) / 2

    local = sum(naive(a, b, 0.1) for a in image[1:] for b in text[1:]) / 4
    assert_close(masked, (naive(image[0], text[0], 0.07) + 2 * local) / 3)
    assert masked < rocket(image, text, smoothing=0.0)


def test_gradients_of_what_moves():
    image, text = views(n=4, d=3)
    flat = [x.requires_grad_() for x in (*image, *text)]
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda t, *x: rocket(x[:3], x[3:], temperature=t, local_temperature=t), (tau, *flat))
    assert gradcheck(lambda *x: losses.barlip(x[:3], x[3:]), flat)
    fixed = [x.detach().clone() for x in flat]
    assert gradcheck(lambda *x: losses.siamlip(x[:3], x[3:], fixed[3:], fixed[:3]), flat)


def test_widths_of_both_heads_may_differ():
    image, text = views()
    value = losses.clip_rocket(image[0][:, :2], text[0][:, :2], image[1:], text[1:])
    assert value.isfinite()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i, t: rocket(i, t[:2]), "as many views"),
        (lambda i, t: losses.swalip(i, t), "two local views"),
        (lambda i, t: losses.swalip(i[:1], t[:1]), "2 or more"),
        (lambda i, t: losses.barlip(i, t[:2]), "as many views"),
        (lambda i, t: losses.barlip([], []), "1 or more"),
        (lambda i, t: losses.siamlip(i, t, i[:1], t), "as many views"),
        (lambda i, t: rocket(i, t, mode="total"), "avg"),
        (lambda i, t: losses.barlip([x[:0] for x in i], [x[:0] for x in t]), "no items"),
    ],
)
def test_what_does_not_fit_is_told(call, message):
    with pytest.raises(InputError, match=message):
        call(*views())
