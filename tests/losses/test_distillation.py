"""DSE's loss against loops, and what its card says of it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.testing import assert_close

from nearfar import losses
from nearfar.errors import InputError
from nearfar.heads import PairHead, pair_features

KINDS = {"binary": 1, "number": 1, "classes": 3}


def pairs(judgement, n=5, seed=0, missing=False):
    """Predictions, labels and a teacher's scores."""
    make = torch.Generator().manual_seed(seed)
    p, t = torch.randn(2, n, KINDS[judgement], dtype=torch.float64, generator=make) * 2
    y = torch.rand(n, dtype=torch.float64, generator=make) * 3
    y = {"number": y, "classes": y.floor(), "binary": (y > 1.5).double()}[judgement]
    if missing:
        y[0], t[1] = math.nan, math.nan
    return p, y, t


def naive(p, y, t, alpha, judgement):
    """Loops over pairs and outputs, from the card."""
    told, distilled = [], []
    for i in range(len(p)):
        if not math.isnan(float(y[i])):
            if judgement == "binary":
                s = 1 / (1 + math.exp(-float(p[i, 0])))
                told.append(-math.log(s if y[i] == 1 else 1 - s))
            elif judgement == "number":
                told.append((float(p[i, 0]) - float(y[i])) ** 2)
            else:
                told.append(math.log(sum(math.exp(float(x)) for x in p[i])) - float(p[i, int(y[i])]))
        if not math.isnan(float(t[i, 0])):
            distilled.append(sum((float(p[i, k]) - float(t[i, k])) ** 2 for k in range(p.shape[1])))
    return (1 - alpha) * sum(told) / max(1, len(told)) + alpha * sum(distilled) / max(1, len(distilled))


@settings(max_examples=40, deadline=None)
@given(judgement=st.sampled_from(list(KINDS)), n=st.integers(2, 6), seed=st.integers(0, 9999), missing=st.booleans(),
       alpha=st.sampled_from([0.0, 0.3, 0.5, 1.0]))  # fmt: skip
def test_the_loss_is_its_equation(judgement, n, seed, missing, alpha):
    p, y, t = pairs(judgement, n, seed, missing)
    found = losses.dse(p, y, t, alpha=alpha, judgement=judgement)
    assert found.item() == pytest.approx(naive(p, y, t, alpha, judgement), abs=1e-10)


@pytest.mark.parametrize("judgement", KINDS)
def test_it_is_linear_in_alpha(judgement):
    """Invariant 1; without a teacher labels alone."""
    p, y, t = pairs(judgement)
    zero, half, one = (losses.dse(p, y, t, alpha=a, judgement=judgement) for a in (0.0, 0.5, 1.0))
    assert_close(half, (zero + one) / 2)
    assert_close(zero, losses.pair_label_rows(p, y, judgement).mean())
    assert_close(zero, losses.dse(p, y, alpha=0.0, judgement=judgement))
    assert_close(one, losses.distillation_rows(p, t).mean())


def test_a_perfect_student_and_a_scale():
    """Invariant 2; the sum over outputs, not their mean."""
    p, _, t = pairs("classes")
    assert losses.distillation_rows(t, t).abs().max() == 0
    assert (losses.distillation_rows(p, t) >= 0).all()
    assert_close(losses.distillation_rows(3 * p, 3 * t), 9 * losses.distillation_rows(p, t))
    assert_close(losses.distillation_rows(torch.ones(1, 3), torch.zeros(1, 3)), torch.tensor([3.0]))


@pytest.mark.parametrize("judgement", KINDS)
@pytest.mark.parametrize("missing", [False, True])
def test_gradients(judgement, missing):
    p, y, t = pairs(judgement, missing=missing)
    assert gradcheck(lambda x: losses.dse(x, y, t, alpha=0.4, judgement=judgement), p.requires_grad_())
    losses.dse(p, y, t, judgement=judgement).backward()
    assert torch.isfinite(p.grad).all()


def test_two_half_batches_are_one_batch():
    """Invariant 7."""
    p, y, t = pairs("binary", 6)
    x = p.clone().requires_grad_()
    for part in (slice(0, 3), slice(3, 6)):
        (losses.dse(x[part], y[part], t[part]) / 2).backward()
    whole = p.clone().requires_grad_()
    losses.dse(whole, y, t).backward()
    assert_close(x.grad, whole.grad)


def test_nothing_known_is_zero_with_a_gradient_of_zero():
    p = torch.randn(3, 1, requires_grad=True)
    nothing = torch.full((3,), math.nan)
    value = losses.dse(p, nothing, nothing[:, None])
    value.backward()
    assert value == 0
    assert p.grad.abs().max() == 0
    assert losses.dse(p[:1], torch.ones(1), torch.ones(1, 1)).isfinite()


def test_a_prediction_that_is_no_number_is_no_missing_label():
    p, y, t = pairs("binary")
    p[2] = math.nan
    assert losses.dse(p, y, t).isnan()
    assert losses.mean_of_known(torch.tensor([1.0, math.nan]), torch.tensor([True, False])) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_full(dtype):
    """2500 squared is more than float16 holds, and bfloat16 has no 0.2989."""
    p, y = torch.tensor([[2500.0]], dtype=dtype), torch.tensor([0.2989])
    full = p.float()
    assert_close(losses.dse(p, y, full * 0, judgement="number"), losses.dse(full, y, full * 0, judgement="number"))
    assert_close(losses.pair_label_rows(p * 0, y, "number"), y.square())
    assert losses.dse(torch.full((60, 1), 2500, dtype=dtype), y.expand(60), alpha=0.0, judgement="number").isfinite()


def test_half_precision_and_other_strides():
    p, y, t = (x.float() for x in pairs("binary", 6))
    value = losses.dse(p, y, t)
    assert losses.dse(p.bfloat16(), y, t.bfloat16()).float() == pytest.approx(float(value), rel=0.03)
    wide = torch.stack([p[:, 0], p[:, 0]], 1)
    assert_close(losses.dse(wide[:, 1:], y, t), value)


def test_a_margin_is_the_difference_of_two_logits():
    assert losses.margin(torch.tensor([[1.0, 4.0], [2.0, -1.0]])).tolist() == [[3.0], [-3.0]]
    with pytest.raises(InputError, match="two logits"):
        losses.margin(torch.zeros(2, 3))


def test_shapes_that_would_broadcast_are_refused():
    p, y, t = pairs("number")
    with pytest.raises(InputError, match="one shape"):
        losses.distillation_rows(p, t[:, 0])
    with pytest.raises(InputError, match="labels \\(n,\\)"):
        losses.pair_label_rows(p, y[:, None], "number")
    with pytest.raises(InputError, match="one output"):
        losses.pair_label_rows(torch.zeros(5, 2), y, "binary")
    with pytest.raises(InputError, match="needs the teacher's scores"):
        losses.dse(p, y, judgement="number")
    for judgement, wrong in (("binary", 0.5), ("binary", 2), ("classes", 3), ("classes", -1), ("classes", 0.5)):
        p, y, _ = pairs(judgement)
        y[1] = wrong
        with pytest.raises(InputError, match=rf"whole numbers from 0 to {max(1, KINDS[judgement] - 1)}.*Got {wrong}\."):
            losses.pair_label_rows(p, y, judgement)
    for alpha in (2, -0.1, math.nan):
        with pytest.raises(InputError, match=r"alpha must lie in \[0, 1\]"):
            losses.dse(*pairs("binary"), alpha=alpha)
    p, y, _ = pairs("number")
    with pytest.raises(InputError, match="'judgement' must be"):
        losses.pair_label_rows(p, y, "words")


def test_the_head_of_two_sides():
    """Invariants 4 and 6: which blocks a swap changes; the inner product is symmetric."""
    torch.manual_seed(0)
    u, v = torch.randn(2, 3, 4)
    phi, back = pair_features(u, v), pair_features(v, u)
    assert_close(phi, torch.cat([u, v, u * v, (u - v).abs()], 1))
    assert_close(back[:, :8], torch.cat([phi[:, 4:8], phi[:, :4]], 1))
    assert_close(back[:, 8:], phi[:, 8:])
    assert pair_features(u, u)[:, 12:].abs().max() == 0
    head = PairHead(4, 2, hidden=8)
    assert head.layers[0].in_features == 16
    assert_close(head(u, v), head.layers[2](torch.relu(head.layers[0](phi))))
    assert (head(u, v) - head(v, u)).abs().max() > 1e-4
    assert_close(PairHead(4, kind="dot")(u, v), (u * v).sum(1, keepdim=True))
    layers = PairHead(4, 2, kind="dot-layers", hidden=8)
    assert_close(layers(u, v), layers(v, u))
    assert layers(u, v).shape == (3, 2)
    with pytest.raises(InputError, match="'dot' gives one number"):
        PairHead(4, 3, kind="dot")
    with pytest.raises(InputError, match="alike"):
        pair_features(u, v[:2])
