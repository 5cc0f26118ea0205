"""GroCo: the sorting network against loops and hard sorting, and what the card says of its loss."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.testing import assert_close

from nearfar import losses
from nearfar.errors import InputError
from nearfar.losses import rows
from nearfar.similarity import ExcludedPairs, LogSumExp, all_views, one_way, own_view
from tests.losses import reference
from tests.losses.cases import batch


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def three(n=6, d=4, seed=0):
    a, b, _ = batch(n, d, seed)
    return [a, b, a + 2 * b]


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 9), seed=st.integers(0, 9999), steepness=st.sampled_from([0.3, 1.0, 10.0, 1e4]))
def test_the_network_is_its_loops(n, seed, steepness):
    x = numbers(3, n, seed=seed)
    values, matrix = losses.soft_sort(x, steepness)
    for row, sorted_row, p in zip(x.tolist(), values, matrix, strict=True):
        want_values, want = reference.soft_permutation(row, steepness)
        assert_close(sorted_row, torch.tensor(want_values, dtype=torch.float64))
        assert_close(p, torch.tensor(want, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    assert_close(matrix.sum(-1), torch.ones_like(x))
    assert_close(matrix.sum(-2), torch.ones_like(x))
    assert ((matrix >= 0) & (matrix <= 1)).all()
    for k in range(n + 1):
        mass = losses.group_mass(x, k, steepness)
        assert_close(mass, matrix[..., :k].sum(-1), rtol=1e-9, atol=1e-12)
        assert_close(mass.sum(-1), torch.full((3,), float(k), dtype=torch.float64))


def test_steep_swaps_give_the_true_permutation():
    x = torch.stack([torch.randperm(8, generator=torch.Generator().manual_seed(k)).double() for k in range(20)])
    values, matrix = losses.soft_sort(x, 1e9)
    assert_close(values, x.sort(1).values, rtol=1e-6, atol=1e-6)
    assert_close(matrix, torch.nn.functional.one_hot(x.argsort(1).argsort(1), 8).double(), rtol=0, atol=1e-6)
    far, good = x[:, :5], x[:, 5:]
    loss = losses.group_ordering(far, good, 1e9)
    ordered = good.amin(1) > far.amax(1)
    assert not ordered.all()
    assert (loss[~ordered] > 1).all()
    assert losses.group_ordering(far - 100, good, 1e9).max() < 1e-6


def test_only_differences_enter():
    x = numbers(4, 7)
    assert_close(losses.soft_sort(x + 5.5)[1], losses.soft_sort(x)[1])
    assert not torch.allclose(losses.soft_sort(2 * x)[1], losses.soft_sort(x)[1])
    assert_close(losses.soft_sort(2 * x, 0.5)[1], losses.soft_sort(x)[1])


def test_rows_of_the_permutation_are_inputs():
    """Summed along the other axis it would be another number where P is not symmetric."""
    x = numbers(1, 5, seed=3)
    matrix = losses.soft_sort(x)[1]
    assert not torch.allclose(matrix[..., :3].sum(-1), matrix[:, :3].sum(-2))
    hard = losses.soft_sort(torch.tensor([[3.0, 1.0, 2.0]]), 1e9)[1][0]
    assert hard.round().tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]


def test_one_of_each_in_closed_form():
    far, good = numbers(9, 1, seed=1), numbers(9, 1, seed=2)
    for beta in (0.5, 1.0, 8.0):
        share = torch.atan(beta * (good - far)[:, 0]) / math.pi + 0.5
        loss = losses.group_ordering(far, good, beta)
        assert_close(loss, -share.log())
        assert_close(losses.group_ordering(good, far, beta), -(1 - (-loss).exp()).log())
        assert_close(losses.swap_share(far, good, beta)[:, 0], share)


def test_values_that_the_card_gives():
    tied, best = torch.full((1, 10), 0.3), torch.full((1, 10), -1.0)
    assert losses.group_ordering(tied, tied[:, :1]).item() == pytest.approx(0.202, abs=5e-4)
    assert losses.group_ordering(best, torch.ones(1, 1)).item() == pytest.approx(0.147, abs=5e-4)
    for _ in range(20):
        far, good = torch.rand(5, 10) * 2 - 1, torch.rand(5, 1) * 2 - 1
        assert (losses.group_ordering(far, good) >= 0.1469).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999), k=st.integers(1, 6), m=st.integers(1, 3))
def test_a_nearer_positive_never_costs_more(seed, k, m):
    """Of a single positive; the order within either group is of no matter."""
    x = numbers(1, k + m, seed=seed)
    far, good = x[:, :k], x[:, k:]
    value = losses.group_ordering(far, good)
    assert_close(losses.group_ordering(far.flip(1), good.flip(1)), value)
    assert value.item() == pytest.approx(reference.group_ordering(far[0].tolist(), good[0].tolist()))
    steps = torch.linspace(-3, 3, 60, dtype=torch.float64)[:, None]
    line = losses.group_ordering(far.expand(60, -1), steps)
    assert (line.diff() <= 1e-9).all()


def test_gradients_of_the_network():
    far, good = numbers(3, 4, seed=5).requires_grad_(), numbers(3, 2, seed=6).requires_grad_()
    assert gradcheck(lambda a, b: losses.group_ordering(a, b, 2.0), (far, good))
    assert gradcheck(lambda x: losses.soft_sort(x, 2.0), (far,))
    assert gradcheck(lambda x: losses.group_mass(x, 2, 2.0), (far,))


def test_what_an_anchor_does_not_have():
    x = numbers(3, 6, seed=7)
    far, good = x[:, :4].clone(), x[:, 4:].clone()
    far[0, 1] = far[1, :] = good[2, 0] = -math.inf
    far.requires_grad_()
    found = losses.group_ordering(far, good)
    found.sum().backward()
    assert found[0].item() == pytest.approx(reference.group_ordering(far[0, [0, 2, 3]].tolist(), good[0].tolist()))
    assert found[1] == 0
    assert found[2].item() == pytest.approx(reference.group_ordering(far[2].tolist(), good[2, 1:].tolist()))
    assert far.grad.isfinite().all()
    assert far.grad[0, 1] == 0
    assert losses.group_ordering(far[:, :0], good).tolist() == [0, 0, 0]
    for call in (lambda: losses.group_ordering(x[0], x), lambda: losses.group_ordering(x, x[:2])):
        with pytest.raises(InputError, match=r"\(n, k\) of negatives"):
            call()
    with pytest.raises(InputError, match="steepness"):
        losses.soft_sort(x, 0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_the_floor_of_the_log(dtype):
    far, good = (numbers(5, 6) * 4).round().div(4).to(dtype), (numbers(5, 2, seed=1) * 4).round().div(4).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses.group_ordering(far, good)
    assert found.dtype == torch.float32
    assert_close(found.double(), losses.group_ordering(far.double(), good.double()), rtol=1e-5, atol=1e-5)
    wrong = torch.tensor([[5.0]], requires_grad=True)
    worst = losses.group_ordering(wrong, torch.tensor([[-5.0]]), 1e30)
    worst.backward()
    assert 15 < worst.item() <= 100
    assert wrong.grad.isfinite().all()


def test_negatives_are_of_the_anchors_own_view_and_the_nearest():
    views = three(7)
    value = losses.groco(views, top_k=2)
    assert value.item() == pytest.approx(reference.groco(views, top_k=2))
    assert not torch.allclose(losses.groco(views, top_k=3), value)
    assert losses.groco(views, top_k=99).item() == pytest.approx(reference.groco(views, top_k=6))
    one = own_view(views, together=True).parts[0]
    far = rows.nearest(one, 2, one.negative)
    worst = far.amin(1)
    own = torch.nn.functional.normalize(views[0], dim=1)
    s = own @ own.T
    kept = (s >= worst[:, None] - 1e-12) & ~torch.eye(7, dtype=torch.bool)
    assert kept.sum(1).tolist() == [2] * 7
    assert_close(far.sort(1).values, s[kept].view(7, 2).sort(1).values)


def test_a_far_negative_has_no_say():
    """Items 0 to 2 are each other's nearest; item 3 stays outside their two, wherever it goes."""
    a = torch.tensor([[1.0, 0.1, 0.0], [1.0, 0.0, 0.2], [1.0, -0.1, 0.1], [-0.5, 1.0, 0.0]], dtype=torch.float64)
    b, moved = numbers(4, 3), a.clone()
    moved[3] = torch.tensor([-1.0, -2.0, 0.3])
    before, after = (rows.groco_rows(own_view([x, b], together=True).parts[0], top_k=2) for x in (a, moved))
    assert_close(after[:3], before[:3], rtol=0, atol=0)
    assert after[3] != before[3]
    x = a.clone().requires_grad_()
    rows.groco_rows(own_view([x, b], together=True, gradient=True).parts[0], top_k=2)[:3].sum().backward()
    assert (x.grad.norm(dim=1) > 0).tolist() == [True, True, True, False]


def test_gradient_comes_through_the_anchors_alone():
    a, b, _ = batch(6, 4)
    found = []
    for detach in (True, False):
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        value = losses.groco([x, y], top_k=3, detach=detach)
        value.backward()
        found.append((value.detach(), x.grad, y.grad))
    assert_close(found[0][0], found[1][0])
    assert not torch.allclose(found[0][1], found[1][1])
    x = a.clone().requires_grad_()
    alone = rows.groco_rows(own_view([x, b], together=True).parts[0], top_k=3).mean() / 2
    assert_close(torch.autograd.grad(alone, x)[0], found[0][1])


def test_small_crops_are_anchors_and_no_positives():
    views = [*three(6), numbers(6, 4, seed=9)]
    assert losses.groco(views, targets=2, top_k=3).item() == pytest.approx(reference.groco(views, targets=2, top_k=3))
    assert [len(s.blocks[1].keys[0]) for s in own_view(views, targets=2, together=True).parts] == [1, 1, 2, 2]
    apart = own_view(views, targets=2)
    assert len(apart.parts) == 6
    assert apart.weights == [1, 1, 0.5, 0.5, 0.5, 0.5]
    for wrong, told in (([views[0]], "two or more"), ([views[0], views[1][:3]], "of one shape")):
        with pytest.raises(InputError, match=told):
            losses.groco(wrong)
    with pytest.raises(InputError, match="1 target view"):
        losses.groco(views, targets=1)


def test_duplicates_are_no_negatives():
    views, ids = three(6), torch.tensor([3, 1, 3, 0, -1, -1])
    found = losses.groco(views, top_k=4, excluded=ExcludedPairs([(ids, ids)]))
    assert found.item() == pytest.approx(reference.groco(views, top_k=4, never={(0, 2), (2, 0)}))
    same = torch.zeros(6, dtype=torch.long)
    none = losses.groco([v.requires_grad_() for v in views], excluded=ExcludedPairs([(same, same)]))
    none.backward()
    assert none.item() == 0


def test_the_control_is_nt_xent_over_the_nearest_negatives():
    a, b, _ = batch(8, 5)
    s = own_view([a, b], temperature=0.5).parts[0]
    u, v = (torch.nn.functional.normalize(x, dim=1) for x in (a, b))
    for k in (1, 3, 7, 20):
        found = rows.nearest_rows(s, top_k=k)
        for i in range(8):
            far = sorted((float(u[i] @ u[j]) / 0.5 for j in range(8) if j != i), reverse=True)[:k]
            positive = float(u[i] @ v[i]) / 0.5
            want = math.log(sum(map(math.exp, [*far, positive]))) - positive
            assert found[i].item() == pytest.approx(want)
    assert_close(rows.nearest_rows(s, top_k=7), rows.info_nce_rows(s))
    plain = all_views([a, b], temperature=0.2).parts[0]
    assert (rows.nearest_rows(plain, top_k=4) < rows.info_nce_rows(plain)).all()
    assert_close(rows.nearest(plain, 14, plain.negative).logsumexp(1), plain.reduce(LogSumExp(where=plain.negative)))


def test_which_anchors_are_in_order():
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    b = torch.tensor([[1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    assert rows.in_order(own_view([a, b], together=True).parts[0]).tolist() == [True, True, False]
    loose = rows.groco_rows(one_way(a, b).parts[0], top_k=2, steepness=1e6)
    assert (loose < 0.1).tolist() == [True, True, False]
