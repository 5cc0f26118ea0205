"""Defects measured in other libraries: values that nearfar must get right."""

import math
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from nearfar import losses
from nearfar.losses.rows import info_nce_rows
from nearfar.similarity import LogSumExp, Similarity, engine, listed
from tests.losses import reference


@pytest.mark.parametrize("temperature", [0.02, 0.01])
def test_float32_keeps_value_and_sign_of_the_gradient_when_logits_are_far_apart(temperature):
    """exp/sum/log in float32 loses everything from a gap of 87 on, and flips a gradient's sign."""
    a = torch.tensor([[1.0, 0.0], [-0.9, 0.2]])
    b = torch.tensor([[-1.0, 0.05], [0.95, 0.1]])
    for kind in ("dense", "streaming"):
        with engine(kind, tile=1):
            x = a.clone().requires_grad_()
            value = losses.nt_xent(x, b, temperature=temperature)
            value.backward()
            y = a.double().requires_grad_()
            exact = losses.nt_xent(y, b.double(), temperature=temperature)
            exact.backward()
        assert exact.item() == pytest.approx(reference.nt_xent(a.double(), b.double(), temperature=temperature))
        assert exact.item() > 87
        assert value.item() == pytest.approx(exact.item(), rel=1e-6)
        assert_close(x.grad.double(), y.grad, rtol=1e-4, atol=1e-4)


def test_sup_con_averages_outside_the_log():
    """8 items, 2 classes, temperature 0.1: the mean outside the log is far above the sum inside it."""
    make = torch.Generator().manual_seed(0)
    z, y = torch.randn(8, 16, generator=make).double(), torch.tensor([0, 1] * 4)
    outside, inside = losses.sup_con(z, y, temperature=0.1), losses.mil_nce(z, y, temperature=0.1)
    assert outside.item() == pytest.approx(reference.sup_con(z, y, temperature=0.1))
    assert inside.item() == pytest.approx(reference.mil_nce(z, y, temperature=0.1))
    assert outside > inside + math.log(2)


def test_debiased_and_hard_negative_losses_of_a_4_x_4_batch_use_only_negatives():
    make = torch.Generator().manual_seed(1)
    a, b = torch.randn(4, 4, generator=make).double(), torch.randn(4, 4, generator=make).double()
    for loss, naive in ((losses.debiased, reference.debiased), (losses.hcl, reference.hcl)):
        assert loss(a, b).item() == pytest.approx(naive(a, b))


def test_info_nce_is_finite_at_a_temperature_of_5_thousandths():
    make = torch.Generator().manual_seed(2)
    a, b = torch.randn(64, 8, generator=make), torch.randn(64, 8, generator=make)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x = a.to(dtype).detach().clone().requires_grad_()
        value = losses.info_nce(x, b.to(dtype), temperature=0.005)
        value.backward()
        assert value.isfinite()
        assert x.grad.isfinite().all()


def test_zero_vector_has_cosine_0_and_no_gradient():
    z = torch.zeros(3, 4, requires_grad=True)
    s = Similarity(z, torch.randn(5, 4), temperature=0.005)
    assert_close(s.dense(), torch.zeros(3, 5))
    s.reduce(LogSumExp()).sum().backward()
    assert_close(z.grad, torch.zeros(3, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tiny_vectors_in_half_precision_keep_their_direction(dtype):
    """An epsilon of 1e-12 is 0 in float16, and the squares of such vectors are too."""
    make = torch.Generator().manual_seed(3)
    a, b = (torch.randn(6, 8, generator=make).to(dtype) * 2.0**-12 for _ in range(2))
    a.requires_grad_()
    value = losses.nt_xent(a, b)
    value.backward()
    assert value.item() == pytest.approx(losses.nt_xent(a.detach().double(), b.double()).item(), rel=1e-5)
    assert a.grad.isfinite().all()
    assert a.grad.norm() > 0


def test_a_decoupled_loss_far_below_zero_is_no_defect_and_stays_finite():
    a = torch.eye(8)
    for t in (0.1, 0.02, 0.005):
        x = a.clone().requires_grad_()
        value = losses.dcl(x, a, temperature=t)
        value.backward()
        assert value.item() == pytest.approx(math.log(14) - 1 / t, rel=1e-5)
        assert x.grad.isfinite().all()


def test_more_negatives_of_a_query_change_the_loss():
    """A column of 1, 4 or 10 hard negatives that gives one and the same loss was never read."""
    make = torch.Generator().manual_seed(4)
    q, k, hard = (torch.randn(n, 8, generator=make) for n in (5, 5, 10))
    values = [losses.info_nce(q, torch.cat([k, hard[:n]])).item() for n in (0, 1, 4, 10)]
    assert all(x < y for x, y in pairwise(values))


def test_labels_matter_even_where_one_class_is_far_larger():
    make = torch.Generator().manual_seed(5)
    z = torch.randn(9, 4, generator=make)
    few, many = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4]), torch.tensor([0] * 8 + [1])
    for loss in (losses.sup_con, losses.mil_nce, losses.soft_nearest_neighbour, losses.triplet):
        assert loss(z, few).item() != pytest.approx(loss(z, many).item(), rel=1e-3)


def test_a_dominant_positive_keeps_its_small_loss():
    """log-sum-exp over all candidates minus the positive would round to 0."""
    q = torch.tensor([[1.0, 0.0]])
    k = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    s = Similarity(q, k, positive=listed(torch.tensor([0])), temperature=0.02)
    assert info_nce_rows(s).item() == pytest.approx(math.exp(-50), rel=1e-4)
