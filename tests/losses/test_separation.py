"""SepCLR: its terms against loops written from their card, and the card's invariants."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.testing import assert_close

from nearfar.errors import InputError
from nearfar.losses import attribute_terms, joint_entropy, kernel_uniformity, sepclr, sepclr_terms, uniformity
from nearfar.losses.separation import SepCLRTerms, alignment, masked, null_distance
from nearfar.similarity import engine, normalise


def batch(n=7, d=4, k=3, seed=0):
    """Two views of common and of salient codes, and which rows are of the target."""
    make = torch.Generator().manual_seed(seed)
    c, s = ([torch.randn(n, w, dtype=torch.float64, generator=make) for _ in range(2)] for w in (d, k))
    return c, s, torch.rand(n, generator=make) < 0.6


def squared(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def naive_uniformity(z, tau):
    z = z.tolist()
    pairs = [math.exp(-squared(z[i], z[j]) / (2 * tau)) for i in range(len(z)) for j in range(i + 1, len(z))]
    return math.log(mean(pairs))


def naive_joint(c, s, tau):
    c, s, rows = c.tolist(), s.tolist(), []
    for i in range(len(c)):
        rows.append(math.log(mean(math.exp(-squared(c[i], x) / (2 * tau)) * math.exp(-squared(s[i], y) / (2 * tau))
                                  for x, y in zip(c, s, strict=True))))  # fmt: skip
    return mean(rows)


def naive_terms(c, s, target, tau=0.5, u=2.0, null_vector=True):
    """Common, salient, null and entropy, line by line."""
    n = [[[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in view.tolist()] for view in c]
    t = [[row if on or not null_vector else [0.0] * len(row) for row, on in zip(v.tolist(), target, strict=True)]
         for v in s]  # fmt: skip
    n, t = [torch.tensor(x, dtype=torch.float64) for x in n], [torch.tensor(x, dtype=torch.float64) for x in t]
    common = mean(squared(*pair) / (2 * tau) for pair in zip(n[0].tolist(), n[1].tolist(), strict=True))
    salient = mean(squared(*pair) / (2 * tau)
                   for *pair, on in zip(s[0].tolist(), s[1].tolist(), target.tolist(), strict=True) if on)  # fmt: skip
    null = [mean(sum(x * x for x in row) for row, on in zip(v.tolist(), target, strict=True) if not on) for v in s]
    spread = [mean(naive_uniformity(x, tau) for x in views) for views in (n, t)]
    return (common + u * spread[0], salient + u * spread[1], mean(null),
            mean(naive_joint(a, b, tau) for a, b in zip(n, t, strict=True)))  # fmt: skip


@pytest.mark.parametrize("kind", ["dense", "streaming"])
@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 8), seed=st.integers(0, 9999), tau=st.sampled_from([0.1, 0.5, 3.0]),
       u=st.sampled_from([0.0, 1.0, 2.0]), null_vector=st.booleans())  # fmt: skip
def test_the_terms_are_their_equations(kind, n, seed, tau, u, null_vector):
    c, s, target = batch(n, seed=seed)
    with engine(kind, tile=3 if kind == "streaming" else None):
        found = sepclr_terms(c, s, target, temperature=tau, uniformity=u, null_vector=null_vector)
        whole = sepclr(c, s, target, temperature=tau, uniformity=u, null_vector=null_vector, salient_weight=3.0,
                       null_weight=5.0, entropy_weight=7.0)  # fmt: skip
    wanted = naive_terms(c, s, target, tau, u, null_vector)
    assert [x.item() for x in found] == pytest.approx(list(wanted), abs=1e-9)
    assert whole.item() == pytest.approx(wanted[0] + 3 * wanted[1] + 5 * wanted[2] + 7 * wanted[3], abs=1e-8)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 8), seed=st.integers(0, 9999), kinds=st.lists(st.booleans(), min_size=1, max_size=3),
       missing=st.booleans())  # fmt: skip
def test_known_attributes_are_their_equation(n, seed, kinds, missing):
    make = torch.Generator().manual_seed(seed)
    s, y = torch.randn(n, len(kinds), dtype=torch.float64, generator=make), torch.rand(n, len(kinds), generator=make)
    y[:, kinds] = (3 * y[:, kinds]).floor()
    target = torch.rand(n, generator=make) < 0.6
    if missing:
        y[0] = math.nan
    parts = []
    for a, classes in enumerate(kinds):
        code, number, t = s[:, a].tolist(), y[:, a].tolist(), masked(s[:, a : a + 1], target)
        rows = [i for i in range(n) if target[i] and not math.isnan(number[i])]
        near = []
        for p, i in enumerate(rows):
            for j in rows[p + 1 :]:
                kernel = math.exp(-((number[i] - number[j]) ** 2) / (1e-5 if classes else 2 * 0.025))
                near.append(kernel * (code[i] - code[j]) ** 2)
        null = mean(code[i] ** 2 / (2 * (0.5 if classes else 0.025)) for i in range(n) if not target[i])
        parts.append(naive_uniformity(t, 0.5) + (mean(near) + null) / 2)
    assert attribute_terms(s, y, target, kinds).item() == pytest.approx(mean(parts), rel=1e-6, abs=1e-9)


def test_gradients():
    c, s, target = batch(6, 3, 2, seed=3)
    leaves = [x.clone().requires_grad_() for x in (*c, *s)]
    for kind, tile in (("dense", None), ("streaming", 2)):
        with engine(kind, tile=tile):
            value = sepclr(leaves[:2], leaves[2:], target)
            grads = torch.autograd.grad(value, leaves)
            if kind == "dense":
                wanted = grads
                assert gradcheck(lambda *x: sepclr(x[:2], x[2:], target), leaves)
            for a, b in zip(grads, wanted, strict=True):
                assert_close(a, b, rtol=1e-9, atol=1e-10)
    y = torch.rand(6, 2, generator=torch.Generator().manual_seed(1))
    assert gradcheck(lambda x: attribute_terms(x, y, target, [False, False]), [leaves[2]])


def test_the_salient_code_of_the_background_enters_the_null_term_alone():
    c, s, target = batch()
    assert (masked(s[0], target)[~target] == 0).all()
    moved = [x + 3 * (~target)[:, None] for x in s]
    a, b = sepclr_terms(c, s, target), sepclr_terms(c, moved, target)
    assert [torch.equal(x, y) for x, y in zip(a, b, strict=True)] == [True, True, False, True]
    x = s[0].clone().requires_grad_()
    sepclr_terms(c, [x, s[1]], target)._replace(null=torch.zeros(())).weighted().backward()
    assert (x.grad[~target] == 0).all()
    assert (x.grad[target] != 0).any()
    raw = sepclr_terms(c, moved, target, null_vector=False)
    assert not torch.allclose(raw.salient, sepclr_terms(c, s, target, null_vector=False).salient)


def test_ranges_and_bounds():
    c, s, _ = batch(9, seed=5)
    u, zero = normalise(c[0]), torch.zeros(9, 3, dtype=torch.float64)
    assert kernel_uniformity(s[0]) < 0
    assert kernel_uniformity(torch.ones(5, 2)).item() == pytest.approx(0, abs=1e-6)
    assert_close(kernel_uniformity(u, temperature=0.25), uniformity(c[0], t=2.0))
    both = joint_entropy(u, s[0])
    assert -math.log(9) < both < 0
    assert both <= min(joint_entropy(u, zero), joint_entropy(0 * u, s[0])) + 1e-12
    far = 100 * torch.eye(9, dtype=torch.float64)
    assert joint_entropy(far, far).item() == pytest.approx(-math.log(9))
    assert joint_entropy(torch.ones(4, 2), torch.ones(4, 1)).item() == pytest.approx(0, abs=1e-6)
    assert joint_entropy(u[:1], s[0][:1]).item() == pytest.approx(0, abs=1e-12)
    shuffled = s[0][torch.tensor([3, 0, 5, 1, 4, 2, 8, 6, 7])]
    assert not torch.allclose(joint_entropy(u, shuffled), both)


def turned(d, seed=1):
    return torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))[0]


def test_turned_scaled_moved_swapped_and_permuted():
    c, s, target = batch(8, seed=6)
    value, q, p = sepclr_terms(c, s, target), turned(4), turned(3)
    scale = torch.rand(8, 1, dtype=torch.float64) + 0.1
    for other in (sepclr_terms([x @ q * scale for x in c], [x @ p for x in s], target),
                  sepclr_terms(c[::-1], s[::-1], target)):  # fmt: skip
        assert all(torch.allclose(a, b) for a, b in zip(value, other, strict=True))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    other = sepclr_terms([x[order] for x in c], [x[order] for x in s], target[order])
    assert all(torch.allclose(a, b) for a, b in zip(value, other, strict=True))
    for changed in ([2 * x for x in s], [x + 1 for x in s]):
        other = sepclr_terms(c, changed, target)
        assert [torch.allclose(a, b) for a, b in zip(value, other, strict=True)] == [True, False, False, False]


def test_without_the_entropy_the_codes_do_not_meet():
    c, s, target = batch(seed=7)
    x, y = [v.clone().requires_grad_() for v in c], [v.clone().requires_grad_() for v in s]

    def grads(flags, common):
        value = sepclr(common, y, flags, entropy_weight=0.0)
        return torch.autograd.grad(value, [*x, *y], allow_unused=True)

    one, other = grads(target, x), grads(~target, x)
    assert all(torch.equal(a, b) for a, b in zip(one[:2], other[:2], strict=True))
    moved = grads(target, [v + 1 for v in x])
    assert all(torch.allclose(a, b) for a, b in zip(one[2:], moved[2:], strict=True))
    assert not torch.allclose(torch.autograd.grad(sepclr(x, y, target), x)[0], one[0])


def test_all_target_all_background_and_few_rows():
    c, s, _ = batch(5, seed=8)
    yes = torch.ones(5, dtype=torch.bool)
    whole = sepclr_terms(c, s, yes)
    plain = (s[0] - s[1]).square().sum(1).mean() + kernel_uniformity(s[0]) + kernel_uniformity(s[1])
    assert_close(whole.salient, plain)
    assert whole.null == 0
    x = s[0].clone().requires_grad_()
    none = sepclr_terms(c, [x, s[1]], ~yes)
    none.weighted().backward()
    assert none.salient.item() == pytest.approx(0, abs=1e-12)
    assert x.grad.isfinite().all()
    with pytest.raises(InputError, match="at least two"):
        sepclr_terms([v[:1] for v in c], [v[:1] for v in s], yes[:1])
    zero = [torch.zeros(4, 3, requires_grad=True) for _ in range(4)]
    sepclr(zero[:2], zero[2:], torch.tensor([True, False, True, False])).backward()
    assert all(v.grad.isfinite().all() for v in zero)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_rows_that_lie_strangely(dtype):
    c, s, target = batch(6, 4, 4, seed=9)
    c, s = ([x.mul(4).round().div(4) for x in v] for v in (c, s))
    x = c[0].to(dtype).requires_grad_()
    value = sepclr([x, c[1].to(dtype)], [v.to(dtype) for v in s], target)
    value.backward()
    assert value.dtype == torch.float32
    assert x.grad.isfinite().all()
    assert_close(value.double(), sepclr(c, s, target), rtol=1e-4, atol=1e-4)
    strange = [v.T.contiguous().T for v in s]
    assert_close(sepclr(c, strange, target), sepclr(c, s, target))
    assert_close(sepclr(c, s, target, temperature=1e-3).isfinite(), torch.tensor(True))


@pytest.mark.parametrize(("change", "told"), [
    ({"target": torch.ones(3)}, "boolean target"), ({"target": torch.ones(2, dtype=torch.bool)}, "boolean target"),
    ({"common": [torch.ones(3, 2)]}, "two views"), ({"salient": [torch.ones(3, 2), torch.ones(3, 1)]}, "other lengths"),
    ({"temperature": 0.0}, "temperature"), ({"negatives": "globl"}, "Did you mean"),
])  # fmt: skip
def test_wrong_inputs(change, told):
    right = {"common": [torch.ones(3, 2)] * 2, "salient": [torch.ones(3, 2)] * 2, "target": torch.ones(3) > 0}
    with pytest.raises(InputError, match=told):
        sepclr_terms(**(right | change))
    with pytest.raises(InputError, match="one number of the salient code"):
        attribute_terms(torch.ones(3, 2), torch.ones(3, 1), torch.ones(3) > 0, [True])


def test_parts_and_their_weights():
    terms = SepCLRTerms(*(torch.tensor(x) for x in (1.0, 10.0, 100.0, 1000.0)))
    assert terms.weighted(2.0, 3.0, 4.0).item() == 1 + 20 + 300 + 4000
    a, rows = torch.tensor([[1.0, 0], [3, 4]]), torch.tensor([False, True])
    assert alignment(a, torch.zeros(2, 2), rows, temperature=0.5).item() == 25
    assert null_distance(a, rows).item() == 1
