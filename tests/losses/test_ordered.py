"""SupReMix: its mixtures, weights and loss against loops, and what its card says of them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from nearfar import losses
from nearfar.errors import InputError
from nearfar.losses import ordered
from nearfar.losses.ordered import supremix_rows
from nearfar.similarity import normalise
from nearfar.similarity.exchange import exchange
from tests.losses import reference

KINDS = ("linear", "squared", "inverse", "inverse-squared", "none")


def batch(n=6, d=4, seed=0, ties=True):
    """Two views of n rows, their numbers, and a share for each pair."""
    make = torch.Generator().manual_seed(seed)
    z = torch.randn(2 * n, d, dtype=torch.float64, generator=make)
    y = torch.randint(0, 5, (n,), generator=make).double() if ties else torch.rand(n, generator=make).double() * 10
    return z, y.repeat(2), torch.rand(2 * n, 2 * n, dtype=torch.float64, generator=make)


def rows(z, y, shares=None, window=5.0, temperature=0.3, weight="linear", identities=()):
    return supremix_rows(z, y, shares, window, temperature, weight, identities, exchange("local"))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 5), seed=st.integers(0, 9999), ties=st.booleans(), window=st.sampled_from([None, 0.5, 2.0, 50]),
       weight=st.sampled_from(KINDS), mixed=st.booleans(), temperature=st.sampled_from([0.05, 0.3, 1.0]))  # fmt: skip
def test_the_loss_is_its_equation(n, seed, ties, window, weight, mixed, temperature):
    z, y, shares = batch(n, 3, seed, ties)
    options = {"window": window, "weight": weight, "temperature": temperature, "shares": shares if mixed else None}
    assert losses.supremix(z, y, **options).item() == pytest.approx(reference.supremix(z, y, **options), abs=1e-9)


def test_without_mixtures_and_weights_it_is_sup_con():
    z, y, _ = batch()
    plain = {"window": 1e-9, "weight": "none", "temperature": 0.3}
    assert_close(losses.supremix(z, y, **plain), losses.sup_con(z, y.long(), temperature=0.3))
    z, y, _ = batch(ties=False)
    assert_close(losses.supremix(z, y, **plain), losses.nt_xent(z[:6], z[6:], temperature=0.3))


def test_a_constant_added_to_all_numbers_and_their_sign_change_nothing():
    z, y, shares = batch(ties=False)
    value = losses.supremix(z, y, shares=shares)
    assert_close(losses.supremix(z, y + 1000, shares=shares), value)
    assert_close(losses.supremix(z, -y, shares=shares), value)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    assert_close(losses.supremix(z[order], y[order], shares=shares[order][:, order]), value)


def test_the_unit_counts_with_magnifying_alone():
    z, y, shares = batch(ties=False)
    for weight, same in (("none", True), ("linear", False)):
        a = losses.supremix(z, y, shares=shares, window=3.0, weight=weight)
        b = losses.supremix(z, 7 * y, shares=shares, window=21.0, weight=weight)
        assert torch.allclose(a, b) is same
    assert torch.equal(*(torch.stack(losses.straddling(c * y, c * y, c * 3.0)[:3]) for c in (1, 8)))


@settings(max_examples=30, deadline=None)
@given(y=st.lists(st.floats(-50, 50), min_size=1, max_size=12), window=st.floats(0.01, 120))
def test_mixed_positives_straddle_their_anchor(y, window):
    y = torch.tensor(y, dtype=torch.float64)
    i, j, k, share = losses.straddling(y, y, window)
    below = ((y < y[:, None]) & (y[:, None] - y < window)).sum(1)
    above = ((y > y[:, None]) & (y - y[:, None] < window)).sum(1)
    assert torch.equal(torch.bincount(i, minlength=len(y)), below * above)
    assert len({*zip(i.tolist(), j.tolist(), k.tolist(), strict=True)}) == len(i)
    assert ((share >= 0) & (share <= 1)).all()
    assert_close(share * y[j] + (1 - share) * y[k], y[i], rtol=1e-9, atol=1e-9)


def test_mixed_positives_of_an_ordered_space_are_the_anchor():
    y = torch.tensor([0.0, 1.0, 2.5, 3.0, 4.5], dtype=torch.float64)
    u, v = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z = u + y[:, None] * v
    i, j, k, share = losses.straddling(y, y, 5.0)
    assert len(i) == 3 + 4 + 3
    assert_close(share[:, None] * z[j] + (1 - share)[:, None] * z[k], z[i])


def test_more_positives_with_a_wider_window_and_none_outside():
    y = torch.arange(8.0)
    assert [len(losses.straddling(y, y, e)[0]) for e in (1.0, 1.5, 2.0, 2.5, 100.0)] == [0, 6, 6, 20, 56]


def test_what_is_added_to_the_denominator_makes_every_row_larger():
    z, y, shares = batch(seed=5)
    plain = rows(z, y, weight="none")[0]
    assert (rows(z, y, shares, weight="none")[0] > plain).all()
    assert (rows(z, y)[0] >= plain).all()
    assert (rows(z, y, shares)[0] > rows(z, y, shares, weight="none")[0]).all()


def test_mixed_negatives_are_as_many_as_rows_of_another_number():
    """At temperature infinity every candidate adds its weight 1, so that the denominator counts them."""
    z, y, shares = batch(seed=7)
    window = 2.0
    found, _ = rows(z, y, shares, window, temperature=1e12, weight="none")
    i = losses.straddling(y, y, window)[0]
    count = (len(y) - 1) + (y[:, None] != y).sum(1) + torch.bincount(i, minlength=len(y))
    assert_close(found.exp(), count.double())


def test_weights_and_the_order_of_numbers_matter():
    z, y, shares = batch(n=8, seed=2, ties=False)
    value = losses.supremix(z, y, shares=shares)
    other = y[:8][torch.randperm(8, generator=torch.Generator().manual_seed(1))].repeat(2)
    assert not torch.allclose(losses.supremix(z, other, shares=shares), value)
    assert not torch.allclose(losses.supremix(z, y, shares=1 - shares), value)


@pytest.mark.parametrize("kind", KINDS)
def test_weights(kind):
    d = torch.tensor([0.0, 0.5, 3.0, -3.0], dtype=torch.float64)
    wanted = [reference.magnified(kind, x) for x in d.tolist()]
    assert losses.distance_weights(d, kind).tolist() == pytest.approx(wanted)
    assert losses.distance_weights(d, kind)[0] == 1


def test_shares_are_drawn_for_every_pair():
    shares = losses.mixing_shares(300, 200, seed=1)
    assert shares.shape == (300, 200)
    assert ((shares > 0) & (shares < 1)).all()
    assert shares.mean().item() == pytest.approx(0.2, abs=0.005)
    assert shares.var().item() == pytest.approx(2 * 8 / (100 * 11), abs=0.001)
    assert len(shares.unique()) > 50_000
    assert torch.equal(shares, losses.mixing_shares(300, 200, seed=1))
    assert not torch.equal(shares, losses.mixing_shares(300, 200, seed=2))
    assert losses.mixing_shares(50, 50, beta=(8.0, 2.0)).mean() > 0.7


def held_fixed(z, y, shares, constant, *, window, temperature=0.3):
    """The loss by dense autograd, with mixtures of `constant` in place of those of z."""
    u, fixed, total, anchors = normalise(z), normalise(constant), 0.0, 0
    for i in range(len(u)):
        cells, weights, positives = [], [], []
        for k in range(len(u)):
            if k == i:
                continue
            s = u[i] @ u[k] / temperature
            cells.append(s)
            weights.append(abs(y[i] - y[k]) + 1)
            if y[k] == y[i]:
                positives.append(s)
            else:
                a = shares[i, k]
                cells.append(u[i] @ (a * fixed[i] + (1 - a) * fixed[k]) / temperature)
                weights.append((1 - a) * abs(y[i] - y[k]) + 1)
        for at, j, k, a in zip(*losses.straddling(y, y, window), strict=True):
            if at == i:
                s = u[i] @ (a * fixed[j] + (1 - a) * fixed[k]) / temperature
                cells.append(s)
                weights.append(torch.ones((), dtype=s.dtype))
                positives.append(s)
        if positives:
            total, anchors = total + (torch.stack(cells) + torch.stack(weights).log()).logsumexp(0), anchors + 1
            total = total - torch.stack(positives).mean()
    return total / anchors


def test_no_gradient_flows_through_mixtures():
    z, y, shares = batch(4, 3, seed=3, ties=False)
    x, other = z.clone().requires_grad_(), z.clone().requires_grad_()
    losses.supremix(x, y, shares=shares, window=6.0).backward()
    held_fixed(other, y, shares, z, window=6.0).backward()
    assert_close(x.grad, other.grad, rtol=1e-9, atol=1e-10)
    step, numeric = 1e-6, torch.zeros_like(z)
    for place in range(z.numel()):
        moved = torch.zeros(z.numel(), dtype=z.dtype).index_fill(0, torch.tensor([place]), step).view_as(z)
        up, down = (held_fixed(z + sign * moved, y, shares, z, window=6.0) for sign in (1, -1))
        numeric.view(-1)[place] = (up - down) / (2 * step)
    assert_close(x.grad, numeric, rtol=1e-6, atol=1e-7)


def test_many_mixed_positives_are_made_again_in_the_backward_pass(monkeypatch):
    z, y, shares = batch(5, 4, seed=4, ties=False)
    found = []
    for cells in (1 << 24, 250, 1):
        monkeypatch.setattr(ordered, "CELLS", cells)
        x = z.clone().requires_grad_()
        value = losses.supremix(x, y, shares=shares)
        value.backward()
        found.append((value.detach(), x.grad))
    assert all(torch.allclose(a[0], found[0][0]) and torch.allclose(a[1], found[0][1]) for a in found[1:])


def test_a_learned_temperature_gets_its_gradient():
    z, y, shares = batch()
    assert torch.autograd.gradcheck(
        lambda t: losses.supremix(z, y, shares=shares, temperature=t),
        (torch.tensor(0.4, dtype=torch.float64, requires_grad=True),),
    )


def test_edges():
    z, y, shares = batch(1)
    x = z.clone().requires_grad_()
    value = losses.supremix(x, y, shares=shares)  # the other view alone
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert_close(x.grad, torch.zeros_like(x))
    z, _, shares = batch(5)
    equal = torch.full((10,), 3.0)
    assert_close(losses.supremix(z, equal, shares=shares), losses.sup_con(z, torch.zeros(10).long(), temperature=0.3))
    single = z[:5].clone().requires_grad_()  # one view, other numbers: some have no positive, and leave the mean
    value, kept = rows(single, torch.arange(5.0), shares[:5, :5], 1.5)
    assert kept.tolist() == [False, True, True, True, False]
    assert value[~kept].tolist() == [0, 0]
    alone = losses.supremix(single, torch.arange(5.0) * 10, shares=shares[:5, :5])
    alone.backward()
    assert alone.item() == 0
    assert_close(single.grad, torch.zeros_like(single))


def test_numbers_in_half_precision_and_large_ones():
    z, y, shares = batch(6, 8, ties=False)
    half = (z * 4).round() / 4
    exact = losses.supremix(half, y.half().double(), shares=shares)
    for dtype in (torch.float16, torch.bfloat16):
        x = half.to(dtype).requires_grad_()
        value = losses.supremix(x, y.half(), shares=shares)
        value.backward()
        assert value.dtype == torch.float32
        assert x.grad.isfinite().all()
        assert_close(value.double(), exact, rtol=1e-4, atol=1e-4)
    huge = losses.supremix(z.float(), (y * 1e30).float(), shares=shares.float(), window=1e31)
    assert huge.isfinite()


def test_equal_things_of_other_numbers_are_no_negatives():
    z, y, shares = batch(4, seed=8, ties=False)
    ids = torch.tensor([0, 1, 0, -1]).repeat(2)
    never = {(i, k) for i in range(8) for k in range(8) if ids[i] == ids[k] >= 0}
    found = losses.supremix(z, y, shares=shares, identities=[torch.full((8,), -1), ids])
    assert found.item() == pytest.approx(reference.supremix(z, y, shares=shares, never=never), abs=1e-9)
    assert not torch.allclose(found, losses.supremix(z, y, shares=shares))


@pytest.mark.parametrize(("change", "told"), [
    ({"target": torch.tensor([1.0, math.nan])}, "finite number"), ({"target": torch.ones(3)}, "targets"),
    ({"shares": torch.ones(2, 3)}, "Shares"), ({"temperature": 0.0}, "temperature"), ({"weight": "cubic"}, "weight"),
])  # fmt: skip
def test_wrong_inputs(change, told):
    with pytest.raises(InputError, match=told):
        losses.supremix(**({"z": torch.eye(2), "target": torch.ones(2)} | change))
