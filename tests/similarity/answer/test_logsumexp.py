"""The fast sweep: that it is taken, how few tiles it visits, and that it hands over where float32 would not do."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from nearfar import losses
from nearfar.losses import rows
from nearfar.similarity import (
    Block,
    Count,
    CrossEntropy,
    ExcludedPairs,
    LogSumExp,
    Max,
    Mean,
    Similarity,
    SoftmaxMean,
    Sum,
    both_ways,
    engine,
    listed,
    low_rank,
    one_way,
    per_column,
    per_row,
    same,
)
from nearfar.similarity.answer import logsumexp, plan
from nearfar.similarity.answer.steps import Group
from tests.losses.cases import batch

GENERAL = "general sweep"


def spread(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def value_and_gradients(loss, *inputs):
    inputs = [x.clone().requires_grad_() for x in inputs]
    value = loss(*inputs)
    value.backward()
    return [value.detach(), *(x.grad for x in inputs)]


@pytest.mark.parametrize(
    ("loss", "tiles"),
    [
        (losses.clip, 2 * 4 * 4),
        (losses.nt_xent, 2 * (8 * 9) // 2),
        (losses.info_nce, 4 * 4),
        (losses.hcl, 2 * (8 * 9) // 2),
        (losses.dcl, 2 * (8 * 9) // 2),
    ],
)
def test_two_directions_share_a_sweep_and_views_visit_half_the_grid(loss, tiles):
    a, b = spread(16, 8), spread(16, 8, 1)
    with engine("dense"):
        expected = value_and_gradients(loss, a, b)
    with engine("streaming", tile=4) as choice:
        found = value_and_gradients(loss, a, b)
    assert choice.visited == tiles  # values, then gradients; one direction: at once
    assert GENERAL not in choice.ran
    for x, y in zip(found, expected, strict=True):
        assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_sup_con_sweeps_half_the_grid_and_its_positives_need_none():
    z, labels = spread(16, 8), torch.arange(16) % 3
    with engine("streaming", tile=4) as choice:
        losses.sup_con(z.requires_grad_(), labels).backward()
    assert choice.visited == 2 * (4 * 5) // 2
    assert GENERAL not in choice.ran
    with engine("streaming", tile=4) as choice:
        s = Similarity(z, z, positive=same(labels), itself=listed(torch.arange(16)))
        s.reduce(Mean(where=s.positive & ~s.itself))
        assert s.has_positive().all()
        assert choice.visited == 0


@pytest.mark.parametrize("loss", [losses.clip, losses.nt_xent, losses.info_nce, losses.hcl])
def test_running_maximum_takes_over_where_one_shift_is_not_enough(loss):
    """One item apart from a tight cluster: no single shift holds its sums and those of the others."""
    a, b = (0.05 * spread(12, 6, seed) + torch.eye(6)[1] for seed in (2, 3))
    a[0], b[0] = torch.eye(6)[0], torch.eye(6)[0] + 0.1 * torch.eye(6)[3]
    for temperature in (0.005, 0.003):
        x, y, ask = a.double(), b.double(), partial(loss, temperature=temperature)
        with engine("dense"):
            expected = value_and_gradients(ask, x, y)
        with engine("streaming", tile=5) as choice:
            found = value_and_gradients(ask, a, b)
        # the cross-entropy pass has each row's own maximum
        assert GENERAL in choice.ran or loss is losses.info_nce, "the fallback did not run"
        for p, q in zip(found, expected, strict=True):
            assert_close(p.double(), q, rtol=2e-3, atol=2e-3)


def test_one_shift_is_enough_at_a_small_temperature_of_spread_data():
    a = spread(40, 64, 3)
    b = a + 0.3 * spread(40, 64, 4)
    with engine("dense"):
        expected = value_and_gradients(lambda p, q: losses.info_nce(p, q, temperature=0.01), a.double(), b.double())
    s = one_way(a, b, temperature=0.01).parts[0]
    a_side, b_side = s._query.side(), s._operands[0].vectors.side()
    assert logsumexp.shift_for(a_side, b_side, Group(1.0, s.negative), 1 / 0.01) != 0
    with engine("streaming", tile=16) as choice:
        found = value_and_gradients(lambda p, q: losses.info_nce(p, q, temperature=0.01), a, b)
    assert GENERAL not in choice.ran
    for p, q in zip(found, expected, strict=True):
        assert_close(p.double(), q, rtol=1e-3, atol=1e-3)


def test_hidden_pairs_stay_hidden_on_the_fast_path():
    a, b, _ = batch(9, 4)
    item_identities = torch.tensor([0, 0, 1, 2, 1, -1, -1, 3, 0])
    wanted = None
    for name, tile in (("dense", None), ("streaming", 4)):
        with engine(name, tile=tile):
            found = value_and_gradients(
                lambda p, q: both_ways(p, q, excluded=ExcludedPairs([(item_identities, item_identities.flip(0))])).loss(
                    rows.info_nce_rows
                ),
                a,
                b,
            )
        wanted = wanted or found
        for p, q in zip(found, wanted, strict=True):
            assert_close(p, q, rtol=1e-10, atol=1e-10)


def test_asymmetric_relations_use_the_whole_grid():
    z = batch(8, 4)[0]
    one_sided = listed(torch.tensor([1, 2, 3, 4, 5, 6, 7, 0]))
    values = []
    for name, tile in (("dense", None), ("streaming", 3)):
        with engine(name, tile=tile):
            values.append(
                value_and_gradients(
                    lambda x: Similarity(x, Block(x), temperature=0.2).reduce(LogSumExp(where=~one_sided)).sum(), z
                )
            )
    for p, q in zip(*values, strict=True):
        assert_close(p, q, rtol=1e-10, atol=1e-10)


def test_a_directions_own_answers_are_not_kept():
    a, b, _ = batch(6, 4)
    layout = both_ways(a, b)
    layout.loss(rows.info_nce_rows)
    s = layout.parts[1]
    assert_close(s.reduce(LogSumExp()), s.dense().logsumexp(1))
    assert s._known == {}


@pytest.mark.parametrize(
    ("make", "tensors"),
    [
        (lambda a, b: low_rank(a, b, 0.3), [(40, 3), (24, 3)]),
        (lambda a, b, c: low_rank(a, b) & per_column(c), [(40, 3), (24, 3), (24,)]),
        (lambda r, c: per_row(r) & per_column(c), [(40,), (24,)]),
        (lambda c: per_column(c), [(24,)]),
    ],
)
@pytest.mark.parametrize("kind", [Sum, Mean, Count])
def test_sums_weighted_by_factors_or_low_rank_need_no_sweep(kind, make, tensors):
    q, k = spread(40, 8).double(), spread(24, 8, 1).double()
    weights = [
        spread(*(size if len(size) == 2 else (*size, 1)), seed).view(size).double() + 1.5
        for seed, size in enumerate(tensors)
    ]

    def ask(q, k, *weights):
        return Similarity(q, k, temperature=0.2).reduce(kind(weight=make(*weights))).square().sum()

    with engine("dense"):
        expected = value_and_gradients(ask, q, k, *weights)
    with engine("streaming", tile=4) as choice:
        found = value_and_gradients(ask, q, k, *weights)
    assert choice.visited == 0
    for x, y in zip(found, expected, strict=True):
        assert (x is None and y is None) or torch.allclose(x, y, rtol=1e-10, atol=1e-10)


def test_a_matrix_of_high_rank_is_swept_where_that_is_cheaper():
    s = Similarity(spread(4, 8), spread(4, 8, 1))
    with engine("streaming", tile=2) as choice:
        s.reduce(Sum(weight=low_rank(spread(4, 64), spread(4, 64, 1))))
    assert choice.visited == 4


@pytest.mark.parametrize("kind", [LogSumExp, Max, SoftmaxMean])
def test_labels_in_order_skip_the_tiles_that_hold_no_pair(kind):
    """Eight classes of eight rows: one tile a class where equals are asked for, all others where strangers are."""
    z, labels = spread(64, 8), torch.arange(8).repeat_interleave(8)
    for where, tiles in ((same(labels), 8), (~same(labels), 8 * 8 - 8), (same(labels) & ~same(labels), 0)):
        with engine("dense"):
            expected = value_and_gradients(
                lambda z, w=where: Similarity(z, spread(64, 8, 1)).reduce(kind(where=w)).clamp(min=-1e3).sum(), z
            )
        with engine("streaming", tile=8) as choice:
            found = value_and_gradients(
                lambda z, w=where: Similarity(z, spread(64, 8, 1)).reduce(kind(where=w)).clamp(min=-1e3).sum(), z
            )
        assert choice.visited == 2 * tiles
        for x, y in zip(found, expected, strict=True):
            assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_labels_in_order_skip_tiles_in_one_pass_and_on_half_of_the_grid():
    a, b, labels = spread(64, 8), spread(64, 8, 1), torch.arange(8).repeat_interleave(8)
    s = one_way(a.requires_grad_(), b, temperature=0.2, excluded=ExcludedPairs([(labels, labels)])).parts[0]
    with engine("streaming", tile=8) as choice:
        s.reduce(CrossEntropy(where=s.negative, of=s.paired())).sum().backward()
        assert choice.visited == 8 * 8 - 8
    z = Similarity(a, a, temperature=0.2)
    with engine("streaming", tile=8) as choice:
        z.reduce(LogSumExp(where=same(labels))).sum().backward()
        assert choice.visited == 2 * 8


def test_unknown_values_and_unsorted_ones_are_never_skipped_wrongly():
    rows, columns = torch.tensor([-1, -1, 3, 5, 5, 5, 0, 9]), torch.tensor([-1, 5, 5, 5, -1, -1, 9, 0])
    s = Similarity(spread(8, 4), spread(8, 4, 1))
    for where in (same(rows, columns), ~same(rows, columns)):
        expected = s.mask(where)
        with engine("streaming", tile=2):
            assert_close(s.reduce(Count(where=where)), expected.sum(1).float())
            assert_close(s.reduce(LogSumExp(where=where)), s.dense().masked_fill(~expected, -torch.inf).logsumexp(1))


@pytest.mark.parametrize(("loss", "tiles"), [(losses.clip, 1), (losses.nt_xent, 1), (losses.hcl, 2)])
def test_a_small_matrix_is_multiplied_once_and_every_backward_pass_is_right(loss, tiles):
    a, b = spread(16, 8), spread(16, 8, 1)
    with engine("dense"):
        _, *expected = value_and_gradients(loss, a, b)
    inputs = [x.clone().requires_grad_() for x in (a, b)]
    with engine() as choice:
        value = loss(*inputs)
        first = torch.autograd.grad(value, inputs, retain_graph=True)
        assert choice.visited == tiles  # of two scales nothing is kept
        second = torch.autograd.grad(value, inputs)
        assert choice.visited == tiles + 1
    for x, y, z in zip(first, second, expected, strict=True):
        assert torch.equal(x, y)
        assert_close(x, z, rtol=1e-4, atol=1e-6)


def test_nothing_is_kept_of_large_matrices_or_without_gradient(monkeypatch):
    def steps(q, k):
        (step,) = one_way(q, k).parts[0].explain(LogSumExp()).steps
        return step.keeps, step.cost.passes

    q, k = spread(16, 8), spread(16, 8, 1)
    assert steps(q, k) == (False, 1)
    assert steps(q.clone().requires_grad_(), k) == (True, 1)
    monkeypatch.setitem(plan.CROSSOVER, "cpu", 255)
    assert steps(q.requires_grad_(), k) == (False, 2)
    with engine() as choice:
        losses.clip(q, k).backward()
    assert choice.visited == 2
