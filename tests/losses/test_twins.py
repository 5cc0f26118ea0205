"""Graph losses without negatives against loops, with their ends and what they do not see."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

from nearfar import losses
from nearfar.errors import InputError


def views(n=7, d=3, count=2, seed=0):
    make = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, dtype=torch.float64, generator=make) for _ in range(count)]


def correlations(a, b):
    """C_ij by loops: columns over their unbiased deviation, the mean over n."""
    n, d = a.shape
    columns = []
    for z in (a, b):
        own = []
        for column in z.T.tolist():
            m = sum(column) / n
            s = math.sqrt(sum((x - m) ** 2 for x in column) / (n - 1)) + 1e-15
            own.append([(x - m) / s for x in column])
        columns.append(own)
    return [[sum(x * y for x, y in zip(columns[0][i], columns[1][j], strict=True)) / n for j in range(d)]
            for i in range(d)]  # fmt: skip


def test_graph_barlow_twins_equals_its_loops():
    a, b = views()
    c = correlations(a, b)
    want = sum((1 - c[i][j]) ** 2 if i == j else c[i][j] ** 2 / 3 for i in range(3) for j in range(3))
    assert losses.graph_barlow_twins(a, b).item() == pytest.approx(want, rel=1e-9)
    assert losses.graph_barlow_twins(a.T.contiguous().T, b).item() == pytest.approx(want, rel=1e-9)


def test_graph_barlow_twins_does_not_see_where_a_column_lies_and_how_wide_it_is():
    a, b = views()
    value = losses.graph_barlow_twins(a, b)
    scale, shift = torch.tensor([0.2, 3.0, 50.0]).double(), torch.tensor([9.0, 0.0, -4.0]).double()
    assert_close(losses.graph_barlow_twins(a * scale + shift, b), value, rtol=1e-9, atol=1e-9)
    assert_close(losses.graph_barlow_twins(a, b * scale + shift), value, rtol=1e-9, atol=1e-9)
    assert abs(losses.graph_barlow_twins(-a, b) - value) > 0.1


def test_the_least_of_graph_barlow_twins_is_d_over_n_squared():
    z = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]]).double()  # equal copies, columns at right angles
    assert losses.graph_barlow_twins(z, z).item() == pytest.approx(2 / 16, rel=1e-9)
    for seed in range(20):
        a, b = views(4, 2, seed=seed)
        assert losses.graph_barlow_twins(a, b) > 2 / 16
    assert losses.graph_barlow_twins(z * 0 + 1, z * 0 + 1).item() == pytest.approx(2)  # collapsed: C = 0


def test_bgrl_equals_its_loops_and_reaches_its_ends():
    p, q, s, t = views(count=4)
    cosine = torch.nn.functional.cosine_similarity
    want = 2 - sum(float(cosine(p[i : i + 1], q[i : i + 1])) for i in range(7)) / 7
    want -= sum(float(cosine(s[i : i + 1], t[i : i + 1])) for i in range(7)) / 7
    assert losses.bgrl(p, q, s, t).item() == pytest.approx(want, rel=1e-9)
    lengths = torch.arange(1, 8).double()[:, None]
    assert losses.bgrl(lengths * q, q, 3 * t, t).item() == pytest.approx(0, abs=1e-12)
    assert losses.bgrl(-lengths * q, q, -t, t).item() == pytest.approx(4)
    one = losses.bgrl(p[:1], q[:1], s[:1], t[:1])
    assert 0 <= one <= 4


def test_no_gradient_reaches_the_targets_of_bgrl():
    p, q, s, t = (x.requires_grad_() for x in views(count=4))
    losses.bgrl(p, q, s, t).backward()
    assert q.grad is None
    assert t.grad is None
    assert p.grad.abs().sum() > 0
    assert s.grad.abs().sum() > 0
    assert gradcheck(lambda p, s: losses.bgrl(p, q.detach(), s, t.detach()), (p, s))


def test_gradients_of_graph_barlow_twins():
    a, b = (x.requires_grad_() for x in views())
    assert gradcheck(losses.graph_barlow_twins, (a, b))


def test_edges_of_the_losses():
    a, b = views()
    with pytest.raises(InputError, match="at least two"):
        losses.graph_barlow_twins(a[:1], b[:1])
    for kind in (torch.float16, torch.bfloat16):
        exact = losses.graph_barlow_twins(a.to(kind).double(), b.to(kind).double())
        assert_close(losses.graph_barlow_twins(a.to(kind), b.to(kind)).double(), exact, rtol=1e-5, atol=1e-5)
        half = losses.bgrl(*(x.to(kind) for x in (a, b, a, b)))
        assert_close(half.double(), losses.bgrl(*(x.to(kind).double() for x in (a, b, a, b))), rtol=1e-2, atol=1e-2)
    dead = torch.cat([a[:, :2], torch.full((7, 1), 0.1, dtype=torch.float64)], 1).requires_grad_()
    losses.graph_barlow_twins(dead, b).backward()
    assert dead.grad.isfinite().all()
    zero = torch.zeros(7, 3, dtype=torch.float64, requires_grad=True)
    losses.bgrl(zero, b, zero, b).backward()
    assert zero.grad.isfinite().all()
