"""Cross-entropy of one direction: value and gradient in one pass equal loops and the whole matrix."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

from nearfar import losses
from nearfar.errors import InputError
from nearfar.losses import rows
from nearfar.similarity import (
    Block,
    CrossEntropy,
    ExcludedPairs,
    LogSumExp,
    Mean,
    Similarity,
    all_views,
    at_least,
    both_ways,
    dense,
    engine,
    function,
    listed,
    one_way,
    per_column,
    per_row,
    same,
)
from nearfar.similarity.answer import plan
from tests.similarity import naive
from tests.similarity.naive import seeded

N, M, D, L = 5, 7, 3, 4
STREAM = {"name": "streaming", "tile": 3}


Q, K, FAR = seeded(N, D), seeded(M, D, seed=1), seeded(L, D, seed=2)
IDS_Q, IDS_K = torch.tensor([0, 1, -1, 0, 3]), torch.tensor([0, 1, 2, 0, -1, 3, 3])
IDS_FAR = torch.tensor([0, 9, 3, -1])
PLACES = torch.tensor([0, 5, 2, -1, 6])


def swept(choice):
    """Whether a general way was taken: the matrix was built, or swept with running maxima."""
    return bool({"whole matrix", "general sweep"} & set(choice.ran))


def ask(q, k, far, t, columns, rows_, u):
    """Two blocks, hidden ids, weights of columns and rows, a listed positive."""
    excluded = same(IDS_Q, [IDS_K, IDS_FAR])
    s = Similarity(q, [Block(k), Block(far)], temperature=t, positive=listed(PLACES))
    weight = per_column(columns) & per_column(columns[:L], block=1) & per_row(rows_)
    return s.reduce(CrossEntropy(where=s.negative & ~excluded, weight=weight, of=u))


def expected(q, k, far, t, columns, rows_, u):
    s = torch.cat([naive.cosine(q, k), naive.cosine(q, far)], 1) / float(t)
    ids, w = torch.cat([IDS_K, IDS_FAR]), torch.cat([columns, columns[:L]]).tolist()
    out = []
    for i in range(N):
        seen = [j for j in range(M + L) if j != PLACES[i] and not (IDS_Q[i] >= 0 and IDS_Q[i] == ids[j])]
        total = naive.log_sum_exp([(s[i, j].item(), w[j] * rows_[i].item()) for j in seen])
        out.append(math.log1p(math.exp(total - u[i].item())))
    return torch.tensor(out, dtype=torch.float64)


INPUTS = (
    Q,
    K,
    FAR,
    torch.tensor(0.4, dtype=torch.float64),
    seeded(M, seed=4).abs() + 0.1,
    seeded(N, seed=5).abs() + 0.1,
    seeded(N, seed=6),
)


@pytest.mark.parametrize("how", [{"name": "dense"}, STREAM, {"name": "streaming", "tile": (2, 5)}, {"name": "auto"}])
def test_equals_loops_with_blocks_weights_and_hidden_pairs(how):
    def f(*inputs):
        with engine(**how):
            return ask(*inputs)

    assert_close(f(*INPUTS), expected(*INPUTS), rtol=1e-10, atol=1e-10)
    assert gradcheck(f, [x.clone().requires_grad_() for x in INPUTS])


@pytest.mark.parametrize("how", [STREAM, {"name": "auto"}])
@pytest.mark.parametrize("upstream", ["even", "uneven", "zero"])
def test_any_upstream_gradient_is_right_and_a_graph_can_be_used_twice(how, upstream):
    made = {
        "even": torch.full((N,), 0.3, dtype=torch.float64),
        "uneven": seeded(N, seed=9),
        "zero": torch.zeros(N, dtype=torch.float64),
    }[upstream]
    grads = {}
    for name, options in (("dense", {"name": "dense"}), ("ours", how)):
        inputs = [x.clone().requires_grad_() for x in INPUTS]
        with engine(**options):
            value = ask(*inputs)
        first = torch.autograd.grad(value, inputs, made, retain_graph=True)
        second = torch.autograd.grad(value, inputs, 2 * made)
        for a, b in zip(first, second, strict=True):
            assert_close(2 * a, b)
        grads[name] = first
    for a, b in zip(grads["ours"], grads["dense"], strict=True):
        assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_one_pass_visits_each_tile_once_and_a_memory_gets_no_gradient():
    a, b, memory = (seeded(8, 4, seed=s).requires_grad_() for s in (1, 2, 3))
    item_identities = torch.tensor([0, 1, 0, 2, 3, -1, -1, 2])
    excluded, known = (
        ExcludedPairs([(item_identities, item_identities)]),
        same(item_identities, item_identities.flip(0)),
    )
    with engine("streaming", tile=4) as choice:
        extra_candidates = [Block(memory, visible=~known, gradient=False)]
        loss = one_way(a, b, excluded=excluded, extra_candidates=extra_candidates, temperature=0.2).loss(
            rows.info_nce_rows
        )
        loss.backward()
        assert choice.visited == 8
    assert not swept(choice)
    assert memory.grad is None
    with engine("streaming", tile=4) as choice:
        extra_candidates = [Block(memory, visible=~known, gradient=False)]
        one_way(a, b, in_batch=False, extra_candidates=extra_candidates).loss(rows.info_nce_rows).backward()
        assert choice.visited == 4  # the batch's own block holds no negative: it is never multiplied


def test_no_gradient_wanted_makes_none():
    with engine("streaming", tile=4) as choice, torch.no_grad():
        value = losses.info_nce(seeded(8, 4), seeded(8, 4, seed=1))
        assert choice.visited == 4
    with engine("dense"):
        assert_close(value, losses.info_nce(seeded(8, 4), seeded(8, 4, seed=1)))


@pytest.mark.parametrize("temperature", [0.07, 0.005, 0.001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_small_temperatures_keep_their_digits(temperature, dtype):
    a, b = (seeded(30, 16, seed=s).to(dtype).requires_grad_() for s in (1, 2))
    with engine(**STREAM):
        value = losses.info_nce(a, b, temperature=temperature)
    value.backward()
    p, q = (x.detach().double().requires_grad_() for x in (a, b))
    with engine("dense"):
        exact = losses.info_nce(p, q, temperature=temperature)
    exact.backward()
    assert_close(value.double(), exact, rtol=1e-4, atol=1e-4)
    limit = 2e-3 if dtype == torch.float32 else 2e-2
    for x, y in ((a, p), (b, q)):
        assert_close(x.grad.double(), y.grad, rtol=limit, atol=limit * y.grad.abs().max().item())


def test_second_derivatives_of_small_matrices():
    a, b = (seeded(4, 3, seed=s).requires_grad_() for s in (1, 2))

    def penalty(how):
        with engine(**how):
            (g,) = torch.autograd.grad(losses.info_nce(a, b), a, create_graph=True)
            (h,) = torch.autograd.grad(losses.nt_xent(a, b), a, create_graph=True)
            return torch.autograd.grad(g.square().sum() + h.square().sum(), (a, b))

    for x, y in zip(penalty({"name": "auto"}), penalty({"name": "dense"}), strict=True):
        assert_close(x, y, rtol=1e-8, atol=1e-10)
    for loss in (losses.info_nce, losses.nt_xent, losses.clip):
        with engine(**STREAM), pytest.raises(InputError, match="second derivatives"):
            torch.autograd.grad(loss(a, b), a, create_graph=True)


def test_relations_of_ones_own_take_the_general_sweep():
    u = INPUTS[-1]
    weights = {"matrix": dense(seeded(N, M, seed=8).abs()), "function": function(lambda t: (t.s < 0.3).double())}
    for weight in weights.values():
        values = []
        for how in ({"name": "dense"}, STREAM):
            with engine(**how) as choice:
                values.append(Similarity(Q.clone().requires_grad_(), K).reduce(CrossEntropy(weight=weight, of=u)))
            assert swept(choice)
        assert_close(*values)


@pytest.mark.parametrize("panel", [1, 1 << 21])
def test_thresholds_and_panels_of_any_height(panel, monkeypatch):
    monkeypatch.setitem(plan.PANEL, "cpu", panel)
    a, b = seeded(150, 4).requires_grad_(), seeded(150, 4, seed=1).requires_grad_()
    limit = torch.linspace(-1, 1, 150, dtype=torch.float64)
    grads = []
    for how in ({"name": "dense"}, {"name": "streaming", "tile": 140}):
        with engine(**how) as choice:
            s = one_way(a, b, temperature=0.3).parts[0]
            value = s.mean(s.reduce(CrossEntropy(where=s.negative & at_least(limit), of=s.paired())))
        grads.append([value, *torch.autograd.grad(value, (a, b))])
        assert swept(choice) == (how["name"] == "dense")
    for x, y in zip(*grads, strict=True):
        assert_close(x, y)


@pytest.mark.parametrize(("how", "quick"), [(STREAM, True), ({"name": "auto"}, True), ({"name": "dense"}, False)])
def test_log_sum_exps_and_means_of_blocks_are_joined(how, quick):
    own = seeded(N, 2, D, seed=11)
    excluded = same(IDS_Q, [IDS_K, IDS_FAR, None])
    inputs = [x.clone().requires_grad_() for x in (Q, K, FAR, own, INPUTS[4], INPUTS[5])]

    def f(q, k, far, own, columns, rows_):
        s = Similarity(q, [Block(k), Block(far), Block(own, per_anchor=True)][: 2 if quick else 3], temperature=0.5)
        weight = per_column(columns) & per_row(rows_)
        return torch.stack(
            s.reduce(
                LogSumExp(where=~excluded, weight=weight), Mean(where=~excluded), LogSumExp(where=excluded, scale=1.5)
            )
        )

    with engine(**how) as choice:
        found = f(*inputs)
        assert swept(choice) != quick
        where = Similarity(Q, [Block(K), Block(FAR)]).mask(excluded)
        s = torch.cat([naive.cosine(Q, K), naive.cosine(Q, FAR)], 1) / 0.5
        w = torch.cat([INPUTS[4].expand(N, M), torch.ones(N, L)], 1) * INPUTS[5][:, None]
        if quick:
            assert_close(found[0], naive.reduction("logsumexp", s, ~where, w, 1))
            assert_close(found[1], naive.reduction("mean", s, ~where, torch.ones_like(w), 1))
            assert_close(found[2], naive.reduction("logsumexp", s, where, torch.ones_like(w), 1, scale=1.5))
        assert gradcheck(lambda *x: f(*x).clamp(min=-50), inputs)


@pytest.mark.parametrize("how", [STREAM, {"name": "auto"}])
def test_own_lists_beside_shared_candidates(how):
    own = seeded(N, 2, D, seed=11)
    grads = []
    for options in (how, {"name": "dense"}):
        inputs = [x.clone().requires_grad_() for x in (Q, K, own)]
        with engine(**options):
            s = Similarity(
                inputs[0],
                [Block(inputs[1]), Block(inputs[2], per_anchor=True)],
                temperature=0.3,
                positive=listed(PLACES),
            )
            values = s.reduce(CrossEntropy(where=s.negative, of=s.paired()), LogSumExp(dim=0), Mean())
        grads.append([*values, *torch.autograd.grad(sum(v.square().sum() for v in values), inputs)])
    for x, y in zip(*grads, strict=True):
        assert_close(x, y)


@pytest.mark.parametrize("which", [losses.info_nce, losses.clip, losses.nt_xent])
def test_hidden_pairs_of_several_kinds_stay_on_the_fast_path(which):
    layout = {
        losses.info_nce: lambda a, b, h: one_way(a, b, excluded=h),
        losses.clip: lambda a, b, h: both_ways(a, b, excluded=h),
        losses.nt_xent: lambda a, b, h: all_views([a, b], excluded=h),
    }[which]
    item_identities, groups = torch.tensor([0, 0, 1, 2, 1, -1, -1, 3, 0]), torch.tensor([5, 4, 4, 4, -1, 6, 7, -1, 7])
    excluded = ExcludedPairs([(item_identities, item_identities), (groups, groups)])
    grads = []
    for how in ({"name": "dense"}, {"name": "streaming", "tile": 4}):
        a, b = (seeded(9, 4, seed=s).requires_grad_() for s in (1, 2))
        with engine(**how) as choice:
            value = layout(a, b, excluded).loss(rows.hcl_rows if which is losses.clip else rows.info_nce_rows)
            value.backward()
        grads.append((value.detach(), a.grad, b.grad))
    assert not swept(choice)
    grid = {losses.info_nce: 9 - 1, losses.clip: 4 * (9 - 1), losses.nt_xent: 2 * 15}[which]
    assert choice.visited == grid  # the last tile between two towers holds a positive alone
    for x, y in zip(*grads, strict=True):
        assert_close(x, y)


def test_large_entries_of_leading_dimensions_are_swept_one_by_one(monkeypatch):
    monkeypatch.setattr(plan, "LARGE", 1)
    q, k = seeded(2, 3, N, D), seeded(2, 3, M, D, seed=1)
    grads = []
    for how in ({"name": "dense"}, STREAM):
        x, y = q.clone().requires_grad_(), k.clone().requires_grad_()
        with engine(**how):
            s = Similarity(x, y, temperature=0.4)
            values = s.reduce(LogSumExp(where=~listed(PLACES)), Mean(), LogSumExp(dim=0))
        grads.append([*values, *torch.autograd.grad(sum(v.square().sum() for v in values), (x, y))])
    assert grads[1][0].shape == (2, 3, N)
    for a, b in zip(*grads, strict=True):
        assert_close(a, b)


def test_columns_have_no_cross_entropy():
    with pytest.raises(InputError, match="rows"):
        CrossEntropy(of=torch.zeros(3), dim=0)
