"""Losses of episodes (SuSana): against loops written from their card, and its invariants."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.testing import assert_close

from nearfar.errors import InputError
from nearfar.losses import icnn, icnn_score, proto_cross_entropy, proto_triplet


def episode(ways=4, shots=3, queries=2, d=5, seed=0, spread=1.0):
    """Queries, their classes, prototypes; all rows and their classes."""
    make = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(ways, 1, d, dtype=torch.float64, generator=make)
    z = centres + spread * torch.randn(ways, shots + queries, d, dtype=torch.float64, generator=make)
    classes = torch.arange(ways)
    every = z.flatten(0, 1), classes.repeat_interleave(shots + queries)
    return z[:, shots:].flatten(0, 1), classes.repeat_interleave(queries), z[:, :shots].mean(1), every


def far(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) + 1e-6)


def naive_triplet(z, labels, prototypes, margin):
    rows = []
    for q, y in zip(z.tolist(), labels.tolist(), strict=True):
        wrong = [far(q, p) for c, p in enumerate(prototypes.tolist()) if c != y]
        rows.append(max(far(q, prototypes[y].tolist()) - min(wrong, default=math.inf) + margin, 0))
    return sum(rows) / len(rows)


def naive_cross(z, labels, prototypes, temperature):
    rows = []
    for q, y in zip(z.tolist(), labels.tolist(), strict=True):
        logits = [-(far(q, p) ** 2 - 1e-6) / temperature for p in prototypes.tolist()]
        top = max(logits)
        rows.append(top + math.log(sum(math.exp(x - top) for x in logits)) - logits[y])
    return sum(rows) / len(rows)


def naive_score(origin, labels, target=None, known=None, *, k=4, retrieved=None, drop=False):
    """The card, line by line; a point alone among its own is known by its place."""
    alone = target is None
    target, known = (origin, labels) if alone else (target, known)
    m, e, few = len(target), 1e-7, k + 2 >= len(target)
    k = m - 2 if few else k
    count = min(k + 1 if retrieved is None else retrieved, m - 1 if alone or drop else m)
    k = min(k, count)
    if k < 1:
        return 1.0
    same_parts, other_parts, hits, rows = [], [], 0, []
    for i, point in enumerate(origin.tolist()):
        near = sorted((far(point, t), j) for j, t in enumerate(target.tolist()) if not (alone and i == j))
        near = near[int(drop and not alone) :][:count]
        rows.append([(d, bool(known[j] == labels[i])) for d, j in near])
    wrong = [d for row in rows for d, match in row[:k] if not match]
    for row in rows:
        u = min((d for d, match in row if not match), default=math.inf)
        h = [0.0 if u == math.inf else d / (u + e) for d, _ in row[:k]]
        h = [x / max(1.0, *h) for x in h]
        c = sum(match for _, match in row[:k])
        hits += c / k
        if c:
            same_parts.append(sum(x for x, (_, match) in zip(h, row, strict=False) if match) / (c + e))
        if k - c:
            other_parts.append(sum(d / (max(wrong) + e) for d, match in row[:k] if not match) / (k - c + e))
    same = 1 - sum(same_parts) / (len(same_parts) + e)
    other = sum(other_parts) / (len(other_parts) + e) if wrong else 1.0
    return ((same + other) / 2 + (1.0 if few else hits / len(rows))) / 2


@settings(max_examples=40, deadline=None)
@given(ways=st.integers(1, 5), queries=st.integers(1, 4), seed=st.integers(0, 9999),
       margin=st.sampled_from([0.0, 0.5, 9.0]), temperature=st.sampled_from([1e-3, 1.0, 30.0]))  # fmt: skip
def test_prototype_losses_are_their_equations(ways, queries, seed, margin, temperature):
    z, labels, prototypes, _ = episode(ways, 2, queries, seed=seed)
    found = proto_triplet(z, labels, prototypes, margin=margin).item()
    assert found == pytest.approx(naive_triplet(z, labels, prototypes, margin), abs=1e-9)
    found = proto_cross_entropy(z, labels, prototypes, temperature=temperature).item()
    assert found == pytest.approx(naive_cross(z, labels, prototypes, temperature), rel=1e-9, abs=1e-9)


@settings(max_examples=80, deadline=None)
@given(n=st.integers(1, 9), m=st.integers(0, 9), classes=st.integers(1, 4), seed=st.integers(0, 9999),
       k=st.integers(1, 5), retrieved=st.sampled_from([None, 1, 3, 7]), drop=st.booleans())  # fmt: skip
def test_the_score_is_its_equation(n, m, classes, seed, k, retrieved, drop):
    make = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(size, 3, dtype=torch.float64, generator=make) for size in (n, m))
    y, known = (torch.randint(classes, (size,), generator=make) for size in (n, m))
    options = {"retrieved": retrieved}
    alone = icnn_score(a, y, neighbours=k, **options).item()
    assert alone == pytest.approx(naive_score(a, y, k=k, **options), abs=1e-9)
    assert -1e-9 <= alone <= 1 + 1e-9
    if m:
        found = icnn_score(a, y, b, known, neighbours=k, drop_nearest=drop, **options)
        assert found.item() == pytest.approx(naive_score(a, y, b, known, k=k, drop=drop, **options), abs=1e-9)
        loss = icnn(a, y, b, known, neighbours=k, drop_nearest=drop, **options)
        assert_close(loss, -found.clamp(min=1e-300).log())


def test_gradients():
    z, labels, prototypes, (every, classes) = episode(3, 3, 2, 4, seed=3)
    leaves = [x.clone().requires_grad_() for x in (z, prototypes)]
    for loss in (lambda a, p: proto_triplet(a, labels, p, margin=3.0), lambda a, p: proto_cross_entropy(a, labels, p)):
        assert gradcheck(loss, leaves)
    own = torch.arange(3)
    assert gradcheck(lambda x: icnn(x, classes, retrieved=5), [every.clone().requires_grad_()])
    assert gradcheck(lambda a, p: icnn(a, labels, p, own, neighbours=1), leaves)
    temperature = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda t: proto_cross_entropy(z, labels, prototypes, temperature=t), [temperature])


def test_the_margin_and_the_nearest_wrong_prototype_decide():
    p = torch.tensor([[0.0, 0], [10, 0], [0, 30]], dtype=torch.float64)
    z, labels = torch.tensor([[1.0, 0], [9, 0], [0, 29]], dtype=torch.float64), torch.arange(3)
    assert proto_triplet(z, labels, p, margin=0).item() == 0
    assert proto_triplet(z, labels, p, margin=7.9).item() == 0
    assert proto_triplet(z, labels, p, margin=8.1).item() > 0
    hinges = proto_triplet(z, labels, p, margin=50.0)
    assert_close(proto_triplet(z, labels, p, margin=53.0), hinges + 3)
    near = p.clone()
    near[1, 0] = 6  # of the first query the nearest wrong one, of the second its own
    assert proto_triplet(z[:1], labels[:1], near, margin=50.0) > proto_triplet(z[:1], labels[:1], p, margin=50.0)
    away = p.clone()
    away[2, 1] = 1000  # neither
    assert_close(proto_triplet(z[:1], labels[:1], away, margin=50.0), proto_triplet(z[:1], labels[:1], p, margin=50.0))


def turned(d, seed=1):
    make = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=make))[0]


def test_turned_moved_and_renamed_nothing_changes():
    z, labels, prototypes, (every, classes) = episode(seed=5, spread=2.0)
    q, shift = turned(5), torch.randn(5, dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    for loss in (lambda *x: proto_triplet(*x, margin=4.0), proto_cross_entropy):
        value = loss(z, labels, prototypes)
        assert_close(loss(z @ q + shift, labels, prototypes @ q + shift), value)
        assert_close(loss(z, order.argsort()[labels], prototypes[order]), value)
    value = icnn_score(every, classes)
    assert_close(icnn_score(every @ q + shift, classes), value)
    mixed = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
    assert_close(icnn_score(every[mixed], order[classes][mixed]), value)
    assert_close(icnn_score(1000 * every, classes), value, atol=1e-5, rtol=0)


def test_the_score_tells_tight_classes_from_mixed_ones():
    tight = episode(4, 4, 3, seed=2, spread=1e-9)[3]
    assert icnn_score(*tight).item() == pytest.approx(1, abs=1e-3)
    assert icnn(*tight).item() == pytest.approx(0, abs=1e-3)
    scores = [icnn_score(*episode(4, 4, 3, seed=2, spread=s)[3]).item() for s in (0.1, 1.0, 3.0)]
    assert scores == sorted(scores, reverse=True)
    z, classes = episode(4, 4, 3, seed=2, spread=3.0)[3]
    assert icnn_score(z, classes) < icnn_score(*tight) - 0.2


def test_no_point_is_its_own_neighbour():
    """All of different classes: no neighbour is of the own class, whatever lies where."""
    z = episode(4, 2, 1, seed=3)[3][0]
    x = z.clone().requires_grad_()
    loss = icnn(x, torch.arange(12))
    loss.backward()
    assert x.grad.isfinite().all()
    other = 2 * (2 * loss.neg().exp()) - 1  # same = 1, share = 0
    assert 0 < other.item() <= 1
    twice = torch.cat([z, z])  # each has a copy of its class: one of four neighbours
    share = icnn_score(twice, torch.arange(12).repeat(2)) * 2 - icnn_score(z, torch.arange(12)) * 2
    assert share.item() == pytest.approx(0.25, abs=0.15)


def test_wrong_rows_that_move_away_never_lower_a_rows_same_part():
    """One point: its neighbours in a row, the wrong ones farther and farther."""
    point, label = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([0])
    known = torch.tensor([0, 1, 0, 1, 1, 1])
    values = []
    for push in (0.0, 0.3, 0.6, 0.9):
        places = torch.tensor([1.0, 2.0 + push, 3.0, 4.0 + push, 9.0, 9.5], dtype=torch.float64)[:, None]
        values.append(icnn_score(point, label, places, known, neighbours=2, retrieved=3))
    same = [4 * v.item() - 2 * (1 / 2) - 1 for v in values]  # the wrong row of the two is its own measure: 1
    assert all(b >= a - 1e-6 for a, b in pairwise(same))
    assert same[-1] > same[0] + 0.1


def test_full_without_queries_is_the_support_version():
    z, labels = episode(3, 4, 0, seed=6)[3]
    assert_close(icnn(torch.cat([z, z[:0]]), labels, retrieved=4), icnn(z, labels, retrieved=4))


def test_the_released_code_leaves_out_the_nearest_target():
    z, labels, prototypes, _ = episode(7, 3, 2, seed=8, spread=2.0)
    own = torch.arange(7)
    kept, dropped = (icnn_score(z, labels, prototypes, own, drop_nearest=d) for d in (False, True))
    assert kept.item() != pytest.approx(dropped.item(), abs=1e-3)
    moved = prototypes.clone()
    nearest = (z[:1, None] - prototypes[None]).square().sum(-1).argmin()
    moved[nearest] += 0.5 * (z[0] - prototypes[nearest])
    a, b = (icnn_score(z[:1], labels[:1], p, own, neighbours=2, drop_nearest=True) for p in (prototypes, moved))
    assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rows_that_lie_strangely_and_large_ones(dtype):
    z, labels, prototypes, (every, classes) = episode(3, 4, 2, seed=9)
    z, prototypes, every = (x.mul(4).round().div(4) for x in (z, prototypes, every))
    for loss in (lambda a, y, p: proto_triplet(a, y, p), lambda a, y, p: proto_cross_entropy(a, y, p),
                 lambda a, y, p: icnn(a, y, p, torch.arange(3))):  # fmt: skip
        x = z.to(dtype).requires_grad_()
        value = loss(x, labels, prototypes.to(dtype))
        value.backward()
        assert value.dtype == torch.float32
        assert x.grad.isfinite().all()
        assert_close(value.double(), loss(z, labels, prototypes), rtol=1e-4, atol=1e-4)
    strange = every.T.contiguous().T
    assert_close(icnn(strange, classes), icnn(every, classes))
    assert icnn(1e15 * every.float(), classes).isfinite()


def test_collapsed_alone_and_empty():
    zero = torch.zeros(8, 3, requires_grad=True)
    labels, p = torch.arange(4).repeat(2), torch.zeros(4, 3)
    values = [proto_triplet(zero, labels, p), proto_cross_entropy(zero, labels, p), icnn(zero, labels)]
    sum(values).backward()
    assert zero.grad.isfinite().all()
    assert values[0].item() == pytest.approx(0.5)
    assert values[1].item() == pytest.approx(math.log(4))
    one = torch.randn(3, 3, requires_grad=True)
    same = torch.zeros(3).long()
    values = [proto_triplet(one, same, p[:1]), proto_cross_entropy(one, same, p[:1]), icnn(one[:1], same[:1]),
              icnn(one[:0], same[:0])]  # fmt: skip
    sum(values).backward()
    assert [v.item() for v in values] == [0, 0, 0, 0]
    assert_close(one.grad, torch.zeros_like(one))
    assert icnn(torch.randn(9, 3), torch.zeros(9).long()).item() == pytest.approx(0, abs=1e-6)  # all of one class


@pytest.mark.parametrize(("call", "told"), [
    (lambda: proto_triplet(torch.ones(2, 3), torch.zeros(3).long(), torch.ones(2, 3)), "Queries must be"),
    (lambda: proto_triplet(torch.ones(2, 3), torch.zeros(2).long(), torch.ones(2, 4)), "Queries must be"),
    (lambda: proto_cross_entropy(torch.ones(2, 3), torch.tensor([0, 2]), torch.ones(2, 3)), "label from 0 to 1"),
    (lambda: proto_cross_entropy(torch.ones(0, 3), torch.zeros(0).long(), torch.ones(2, 3)), "one or more queries"),
    (lambda: proto_triplet(torch.ones(1, 3), torch.zeros(1).long(), torch.ones(2, 3), margin=-1), "margin"),
    (lambda: proto_cross_entropy(torch.ones(1, 3), torch.zeros(1).long(), torch.ones(2, 3), temperature=0), "temperat"),
    (lambda: icnn(torch.ones(2, 3), torch.zeros(2).long(), torch.ones(2, 3)), "with labels"),
    (lambda: icnn(torch.ones(2, 3), torch.zeros(2).long(), torch.ones(2, 4), torch.zeros(2)), "Points must be"),
    (lambda: icnn(torch.ones(2, 3), torch.zeros(2).long(), neighbours=0), "from 1"),
    (lambda: icnn_score(torch.ones(2, 3), torch.zeros(2).long(), retrieved=0), "from 1"),
])  # fmt: skip
def test_wrong_inputs(call, told):
    with pytest.raises(InputError, match=told):
        call()
