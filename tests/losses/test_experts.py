"""MNR+, the router's loss and the balance against loops, and what the card of MoE Embeddings says of them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.testing import assert_close

from nearfar import losses
from nearfar.errors import InputError


def sides(n=5, d=3, seed=0):
    make = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, d, dtype=torch.float64, generator=make).unbind()


def unit(x):
    return [row / max(float(row.norm()), 1e-12) for row in x]


def naive(a, b, tau, normalised, plus):
    """Loops over rows and columns, from the card."""
    a, b = (unit(x) if normalised else list(x) for x in (a, b))
    n = len(a)
    s = [[float(a[i] @ b[j]) / tau for j in range(n)] for i in range(n)]
    rows = columns = list(range(n))
    if plus:
        mean = [[float(a[i] @ a[j] + b[i] @ b[j]) / 2 * tau for j in range(n)] for i in range(n)]
        m = [[math.exp(x - max(row)) / sum(math.exp(y - max(row)) for y in row) for x in row] for row in mean]
        rows = [max(range(n), key=lambda j, r=row: r[j]) for row in m]
        columns = [max(range(n), key=lambda i, j=j: m[i][j]) for j in range(n)]
    forth = sum(math.log(sum(map(math.exp, s[i]))) - s[i][rows[i]] for i in range(n)) / n
    back = sum(math.log(sum(math.exp(s[i][j]) for i in range(n))) - s[columns[j]][j] for j in range(n)) / n
    return (forth + back) / 2 if plus else forth


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 6), seed=st.integers(0, 9999), tau=st.sampled_from([0.05, 0.7, 1.0]), normalised=st.booleans())
def test_both_losses_are_their_equations(n, seed, tau, normalised):
    a, b = sides(n, 3, seed)
    given = {"temperature": tau, "normalised": normalised}
    assert losses.mnr(a, b, **given).item() == pytest.approx(naive(a, b, tau, normalised, False), abs=1e-9)
    assert losses.mnr_plus(a, b, **given).item() == pytest.approx(naive(a, b, tau, normalised, True), abs=1e-9)


def test_normalised_they_are_info_nce():
    """Invariant 4: every row then finds its own partner."""
    a, b = sides()
    given = {"temperature": 0.05, "normalised": True}
    assert_close(losses.mnr_plus(a, b, **given), losses.info_nce(a, b, temperature=0.05, symmetric=True))
    assert_close(losses.mnr(a, b, **given), losses.info_nce(a, b, temperature=0.05))
    assert losses.mnr(a[:1], b[:1]) == losses.mnr_plus(a[:1], b[:1]) == 0
    same = a[:1].expand(5, 3)
    assert losses.mnr(same, same).item() == pytest.approx(math.log(5))


def test_a_row_of_a_large_norm_wins_as_released():
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    rows, columns = losses.mnr_plus_targets(a, a)
    assert rows.tolist() == [2, 2, 2]
    assert columns.tolist() == [0, 1, 2], "the softmax is over rows, so columns aim elsewhere"
    unit_rows = torch.nn.functional.normalize(a, dim=1)
    assert losses.mnr_plus_targets(unit_rows, unit_rows)[0].tolist() == [0, 1, 2]
    zeros = torch.zeros(3, 2)
    assert losses.mnr_plus_targets(zeros, zeros)[0].tolist() == [0, 0, 0], "of equal ones the first"


@pytest.mark.parametrize("form", [losses.mnr, losses.mnr_plus])
@pytest.mark.parametrize("normalised", [False, True])
def test_gradients(form, normalised):
    a, b = (x.requires_grad_() for x in sides(4))
    assert gradcheck(lambda x, y: form(x, y, temperature=0.3, normalised=normalised), (a, b))
    tau = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda t: form(a.detach(), b.detach(), temperature=t, normalised=normalised), (tau,))
    zero = torch.zeros(3, 2, requires_grad=True)
    form(zero, zero, normalised=normalised).backward()
    assert torch.isfinite(zero.grad).all()


def test_the_router_learns_the_domain():
    """Invariant 5; the mean over both texts comes before that over layers, and both before the cross-entropy."""
    make = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 2, 4, 3, dtype=torch.float64, generator=make).unbind()
    y, total = torch.tensor([0, 2, 1, 2]), 0.0
    for i in range(4):
        s = [sum(float(a[layer, i, e] + b[layer, i, e]) / 2 for layer in range(2)) / 2 for e in range(3)]
        total += math.log(sum(map(math.exp, s))) - s[int(y[i])]
    assert losses.router_loss(a, b, y).item() == pytest.approx(total / 4)
    sure = 80 * torch.nn.functional.one_hot(y, 3).double().expand(2, 4, 3)
    assert losses.router_loss(sure, sure, y) < 1e-12
    assert losses.router_loss(a * 0, b * 0, y).item() == pytest.approx(math.log(3))
    assert gradcheck(lambda x: losses.router_loss(x, b, y), a.requires_grad_())


def test_the_balance_is_one_where_all_is_even():
    even = torch.eye(3, dtype=torch.float64).expand(2, 3, 3) * 1e-9
    assert losses.balance_loss(even).item() == pytest.approx(1)
    alone = torch.tensor([[50.0, 0, 0]] * 4)
    assert losses.balance_loss(alone).item() == pytest.approx(3)
    make = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 5, 3, dtype=torch.float64, generator=make)
    rows = [row for layer in logits for row in layer]
    p = [sum(float(torch.softmax(r, 0)[e]) for r in rows) / 10 for e in range(3)]
    f = [sum(int(r.argmax()) == e for r in rows) / 10 for e in range(3)]
    assert losses.balance_loss(logits).item() == pytest.approx(3 * sum(x * y for x, y in zip(p, f, strict=True)))


def test_shapes_and_temperatures_are_checked():
    a, b = sides()
    for form in (losses.mnr, losses.mnr_plus):
        with pytest.raises(InputError, match="alike"):
            form(a, b[:3])
        with pytest.raises(InputError, match="temperature"):
            form(a, b, temperature=0.0)


def test_half_precision_is_computed_in_single():
    """Inner products of 300 and more overflow half precision, and autocast's bfloat16 would choose other targets."""
    make = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 8, 64, generator=make).mul(40).half().unbind()
    for form in (losses.mnr, losses.mnr_plus):
        assert_close(
            form(a, b, temperature=50.0).double(), form(a.double(), b.double(), temperature=50.0), rtol=1e-5, atol=1e-5
        )
    a, b = torch.randn(2, 64, 32, generator=make).add(3).unbind()
    plain = losses.mnr_plus_targets(a, b), losses.mnr(a, b), losses.mnr_plus(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        cast = losses.mnr_plus_targets(a, b), losses.mnr(a, b), losses.mnr_plus(a, b)
    assert_close(cast, plain, rtol=0, atol=0)
    logits = torch.full((2, 4, 3), 60000.0).half()
    assert losses.router_loss(logits, logits, torch.tensor([0, 1, 2, 0])).item() == pytest.approx(math.log(3))
    many = torch.randn(2, 3000, 3, generator=make)
    assert_close(losses.balance_loss(many.half()).float(), losses.balance_loss(many.half().float()))


def test_columns_aim_right_where_their_shares_are_tiny():
    """In single precision the softmax over rows is 0 in all rows of a column; its logarithms are not alike."""
    a = torch.tensor([[30.0, 0.0], [0.0, 30.0], [12.0, 0.0], [0.0, 10.0]])
    assert [x.tolist() for x in losses.mnr_plus_targets(a, a)] == [[0, 1, 0, 1], [0, 1, 2, 3]]
    assert (a @ a.T).softmax(1).argmax(0).tolist() != [0, 1, 2, 3], "else this says nothing"


def test_of_unit_length_a_column_may_aim_at_another_row():
    """M is a softmax over rows, so a column can find a row of few others larger than its own."""
    make = torch.Generator().manual_seed(0)
    crowd = torch.nn.functional.normalize(
        torch.tensor([1.0, 0.0, 0.0]) + 0.05 * torch.randn(6, 3, generator=make), dim=1
    )
    near = torch.nn.functional.normalize(torch.tensor([[1.0, 0.6, 0.0]]), dim=1)
    a = torch.cat([crowd, near]).double()
    rows, columns = losses.mnr_plus_targets(a, a)
    assert rows.tolist() == list(range(7))
    assert columns.tolist() != list(range(7))
