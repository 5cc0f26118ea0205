"""The losses of next items and of MCLRec against loops in float64, their invariants and their edges."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

from nearfar import losses
from nearfar.errors import InputError
from tests.losses import reference


def pair(n=5, d=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]


PAIRS = {
    "contrast": (losses.pair_contrast, reference.pair_contrast, {}),
    "contrast tempered": (losses.pair_contrast, reference.pair_contrast, {"temperature": 0.3}),
    "contrast cos": (losses.pair_contrast, reference.pair_contrast, {"temperature": 0.5, "similarity": "cos"}),
    "rows": (losses.contrast_regulariser, reference.contrast_regulariser, {"temperature": 0.7}),
    "whole": (losses.contrast_regulariser, reference.contrast_regulariser, {"whole": True}),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(("n", "d"), [(2, 3), (5, 4), (9, 2)])
def test_they_equal_their_equations(name, n, d):
    found, wanted, options = PAIRS[name]
    a, b = pair(n, d, seed=n)
    assert_close(found(a, b, **options), wanted(a, b, **options), rtol=1e-10, atol=1e-10)
    assert_close(found(b, a, **options), found(a, b, **options), rtol=1e-10, atol=1e-10)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    assert_close(found(a[order], b[order], **options), found(a, b, **options), rtol=1e-10, atol=1e-10)
    assert found(a, b, **options) >= 0
    thin = [x.T.contiguous().T for x in (a, b)]
    assert_close(found(*thin, **options), found(a, b, **options))


@pytest.mark.parametrize("name", PAIRS)
def test_gradients(name):
    found, _, options = PAIRS[name]
    a, b = (x.requires_grad_() for x in pair(4, 3, seed=2))
    assert gradcheck(lambda p, q: found(p, q, **options), (a, b), atol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_and_zero_vectors(name, dtype):
    found, _, options = PAIRS[name]
    a, b = (x.mul(4).round().div(4).to(dtype) for x in pair(6, 4, seed=3))
    a[0] = 0
    x = a.clone().requires_grad_()
    value = found(x, b, **options)
    value.backward()
    assert value.dtype == torch.float32
    assert_close(value.double(), found(a.double(), b.double(), **options), rtol=1e-5, atol=1e-5)
    assert x.grad.isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(found(a, b, **options), value.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_one_pair_has_no_negatives(name):
    found, _, options = PAIRS[name]
    a, b = (x.requires_grad_() for x in pair(1, 4))
    value = found(a, b, **options)
    value.backward()
    assert value == 0
    assert not a.grad.any()


def test_limits_of_the_contrast():
    a, b = pair(6)
    assert_close(losses.pair_contrast(a, b, temperature=1e9), torch.tensor(math.log(11), dtype=torch.float64))
    for t in (0.05, 0.5):
        found = losses.pair_contrast(a, b, temperature=t, similarity="cos")
        assert_close(found, losses.nt_xent(a, b, temperature=t), rtol=1e-9, atol=1e-9)
    assert losses.pair_contrast(a.float(), b.float(), temperature=1e-4).isfinite()


def test_the_regulariser_is_zero_exactly_where_nothing_is_told_apart():
    equal = torch.ones(4, 3, dtype=torch.float64)
    assert losses.contrast_regulariser(equal, equal) == 0
    a, b = pair(4)
    assert losses.contrast_regulariser(a, b) > 0
    apart = torch.eye(4, dtype=torch.float64)  # every positive wins by 1, all negatives are equal
    assert_close(losses.contrast_regulariser(apart, apart), torch.tensor(2.0, dtype=torch.float64))


@pytest.mark.parametrize("form", ["rows", "whole"])
def test_sums_over_pairs(form):
    (h1, h2), (z1, z2) = pair(4), pair(4, seed=1)
    wanted = sum(reference.pair_contrast(*one) for one in ((z1, z2), (h1, z2), (h2, z1)))
    assert_close(losses.augmented_contrast((h1, h2), (z1, z2)), wanted)
    pairs = ((z1, z2),) if form == "whole" else ((h1, z2), (h2, z1), (z1, z2))
    wanted = sum(reference.contrast_regulariser(a, b, 0.5, form == "whole") for a, b in pairs)
    assert_close(losses.augmented_regulariser((h1, h2), (z1, z2), temperature=0.5, form=form), wanted)


def test_next_item_is_the_cross_entropy_over_all_items():
    (states, _), table = pair(3), torch.randn(7, 4, dtype=torch.float64)
    items = torch.tensor([6, 0, 2])
    scores = states @ table.T
    wanted = sum(torch.logsumexp(scores[i], 0) - scores[i, k] for i, k in enumerate(items.tolist())) / 3
    assert_close(losses.next_item(states, table, items), wanted)
    assert_close(losses.next_item(0 * states, table, items), torch.tensor(math.log(7), dtype=torch.float64))
    assert losses.next_item(states[:0], table, items[:0]) == 0
    x, y = states.clone().requires_grad_(), table.clone().requires_grad_()
    assert gradcheck(lambda p, q: losses.next_item(p, q, items), (x, y))
    assert losses.next_item(states.half(), table.half(), items).dtype == torch.float32


def test_wrong_shapes_are_refused():
    a, b = pair(3)
    with pytest.raises(InputError, match=r"one shape \(n, d\)"):
        losses.pair_contrast(a, b[:2])
    with pytest.raises(InputError, match=r"Needs states \(n, d\), a table"):
        losses.next_item(a, b, torch.tensor([0]))
