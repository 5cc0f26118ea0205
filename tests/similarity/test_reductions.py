"""Every reduction with every kind of relation and weight: loops = dense = streaming, values and gradients."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

from nearfar.errors import InputError
from nearfar.similarity import (
    Block,
    Count,
    LogSumExp,
    Max,
    Mean,
    Min,
    Similarity,
    SoftmaxMean,
    Sum,
    at_least,
    at_most,
    dense,
    engine,
    everyone,
    function,
    listed,
    low_rank,
    nobody,
    overlap,
    per_column,
    per_row,
    same,
)
from tests.similarity import naive
from tests.similarity.naive import seeded

N, M, D = 5, 7, 3
ENGINES = [("dense", None), ("streaming", 3), ("streaming", (2, 5))]


def chance(*shape, seed=3, share=0.6):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share


Q, K = seeded(N, D), seeded(M, D, seed=1)
LABELS_Q = torch.tensor([0, 1, 5, -1, 2])
LABELS_K = torch.tensor([0, 0, 1, 2, -1, 1, 3])
MULTI_Q, MULTI_K = chance(N, 3, seed=8), chance(M, 3, seed=9)
LIST = torch.tensor([[0, 3], [1, -1], [6, 6], [-1, -1], [4, 0]])
MASK = chance(N, M)
MASK[2] = False
MASK_ROW = MASK.clone()
MASK_ROW[2, :2] = True
MASK_ROW[:, 0] = True
LIMIT = torch.linspace(-0.5, 0.5, N, dtype=torch.float64)

RELATIONS = {
    "none": (None, torch.ones(N, M, dtype=torch.bool)),
    "everyone": (everyone, torch.ones(N, M, dtype=torch.bool)),
    "nobody": (nobody, torch.zeros(N, M, dtype=torch.bool)),
    "dense": (dense(MASK), MASK),
    "listed": (listed(LIST), (LIST[:, :, None] == torch.arange(M)).any(1)),
    "same": (same(LABELS_Q, LABELS_K), (LABELS_Q[:, None] == LABELS_K) & (LABELS_Q[:, None] >= 0)),
    "others": (~same(LABELS_Q, LABELS_K), ~((LABELS_Q[:, None] == LABELS_K) & (LABELS_Q[:, None] >= 0))),
    "overlap": (overlap(MULTI_Q, MULTI_K), (MULTI_Q.long() @ MULTI_K.long().T) > 0),
    "column": (per_column(MASK[0]), MASK[0].expand(N, M)),
    "row": (per_row(MASK[:, 0]), MASK[:, :1].expand(N, M)),
    "mixed": (
        (dense(MASK) | listed(LIST)) & ~same(LABELS_Q, LABELS_K),
        (MASK | (LIST[:, :, None] == torch.arange(M)).any(1))
        & ~((LABELS_Q[:, None] == LABELS_K) & (LABELS_Q[:, None] >= 0)),
    ),
    "near": (at_least(LIMIT), naive.cosine(Q, K) / 0.3 >= LIMIT[:, None]),
    "far": (at_most(LIMIT), naive.cosine(Q, K) / 0.3 <= LIMIT[:, None]),
    "function": (
        function(lambda t: (t.row_index()[:, None] + t.column_index()) % 2 == 0),
        (torch.arange(N)[:, None] + torch.arange(M)) % 2 == 0,
    ),
}


def weights():
    """name -> (weight relation, the same as a function of its tensors, those tensors)."""
    matrix, column, row = (seeded(*shape, seed=s).abs() for shape, s in (((N, M), 4), ((M,), 5), ((N,), 6)))
    matrix[1, :4] = 0
    a, b = seeded(N, 2, seed=7).abs(), seeded(M, 2, seed=8).abs()
    return {
        "none": (lambda: None, lambda: torch.ones(N, M, dtype=torch.float64), []),
        "matrix": (lambda m: dense(m), lambda m: m, [matrix]),
        "column": (lambda w: per_column(w), lambda w: w.expand(N, M), [column]),
        "row": (lambda w: per_row(w), lambda w: w[:, None].expand(N, M), [row]),
        "factors": (lambda a, b: low_rank(a, b, 0.1), lambda a, b: a @ b.T + 0.1, [a, b]),
        "product": (
            lambda w, r: per_column(w) & per_row(r) & dense(MASK_ROW),
            lambda w, r: w * r[:, None] * MASK_ROW,
            [column, row],
        ),
        "square": (lambda w: per_column(w) & per_column(w), lambda w: (w * w).expand(N, M), [column]),
        "function": (
            lambda w: function(lambda t: torch.exp(-w[t.rows, None] * t.column_index()), w),
            lambda w: torch.exp(-w[:, None] * torch.arange(M)),
            [row],
        ),
    }


REDUCTIONS = {
    "logsumexp": (LogSumExp, {}),
    "scaled": (LogSumExp, {"scale": 1.7}),
    "sum": (Sum, {}),
    "mean": (Mean, {}),
    "softmaxmean": (SoftmaxMean, {"scale": 0.7}),
    "count": (Count, {}),
    "max": (Max, {}),
    "min": (Min, {}),
}
KIND = {"scaled": "logsumexp"}


def ask(reduction, q, k, name, tile):
    with engine(name, tile=tile):
        return Similarity(q, k, temperature=0.3).reduce(reduction)


@pytest.mark.parametrize("dim", [1, 0])
@pytest.mark.parametrize("kind", REDUCTIONS)
def test_values_equal_loops(kind, dim):
    cls, options = REDUCTIONS[kind]
    s = naive.cosine(Q, K) / 0.3
    weighted = weights() if kind not in ("max", "min") else {"none": weights()["none"]}
    for where, mask in RELATIONS.values():
        for make, matrix, tensors in weighted.values():
            expected = naive.reduction(KIND.get(kind, kind), s, mask, matrix(*tensors), dim, **options)
            for name, tile in ENGINES:
                found = ask(cls(where=where, weight=make(*tensors), dim=dim, **options), Q, K, name, tile)
                assert_close(found, expected, rtol=1e-10, atol=1e-10)


def gradients(reduction_of, tensors, name, tile):
    q, k = Q.clone().requires_grad_(), K.clone().requires_grad_()
    tensors = [x.clone().requires_grad_() for x in tensors]
    found = ask(reduction_of(tensors), q, k, name, tile)
    some = found.isfinite()
    (torch.where(some, found, 0).sin() * torch.arange(1, len(found) + 1)).sum().backward()
    return [x.grad if x.grad is not None else torch.zeros_like(x) for x in (q, k, *tensors)]


@pytest.mark.parametrize("dim", [1, 0])
@pytest.mark.parametrize("kind", REDUCTIONS)
def test_streaming_gradients_equal_dense(kind, dim):
    cls, options = REDUCTIONS[kind]
    weighted = weights() if kind not in ("max", "min") else {"none": weights()["none"]}
    relations = {k: RELATIONS[k] for k in ("none", "dense", "listed", "same", "mixed", "near", "nobody")}
    for where, _ in relations.values():
        for make, _, tensors in weighted.values():

            def reduction_of(x, make=make, where=where):
                return cls(where=where, weight=make(*x), dim=dim, **options)

            expected = gradients(reduction_of, tensors, "dense", None)
            for name, tile in ENGINES[1:]:
                for a, b in zip(gradients(reduction_of, tensors, name, tile), expected, strict=True):
                    assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "tile"), ENGINES[:2])
@pytest.mark.parametrize("weight", weights())
@pytest.mark.parametrize("kind", ["logsumexp", "scaled", "sum", "mean", "softmaxmean", "count"])
def test_gradcheck(kind, weight, name, tile):
    cls, options = REDUCTIONS[kind]
    make, _, tensors = weights()[weight]
    where = dense(MASK_ROW)

    def f(q, k, *x):
        with engine(name, tile=tile):
            s = Similarity(q, k, temperature=0.3)
            return torch.cat(
                [
                    s.reduce(cls(where=where, weight=make(*x), dim=1, **options)),
                    s.reduce(cls(weight=make(*x), dim=0, **options)),
                ]
            )

    inputs = [x.clone().requires_grad_() for x in (Q, K, *(t + 0.1 for t in tensors))]
    assert gradcheck(f, inputs, atol=1e-7)


def smooth(s, u):
    return torch.nn.functional.softplus(s - u, 1, 40)


@pytest.mark.parametrize(("name", "tile"), ENGINES)
def test_sum_of_a_function_with_a_value_for_each_row(name, tile):
    u = LIMIT.clone()
    expected = naive.reduction(
        "sum",
        naive.cosine(Q, K) / 0.3,
        MASK,
        torch.ones(N, M),
        1,
        phi=lambda s, u: math.log1p(math.exp(s - u)),
        u=u.tolist(),
    )
    assert_close(ask(Sum(phi=smooth, per_row=u, where=dense(MASK)), Q, K, name, tile), expected)
    weight = weights()["matrix"][2][0]

    def f(q, k, u, w):
        s = [
            ask(Sum(phi=smooth, per_row=u, where=dense(MASK), weight=dense(w), dim=dim), q, k, name, tile)
            for dim in (1, 0)
        ]
        return torch.cat(s)

    assert gradcheck(f, [x.clone().requires_grad_() for x in (Q, K, u, weight)])


@pytest.mark.parametrize(("name", "tile"), ENGINES)
def test_extremes_within_limits(name, tile):
    s = naive.cosine(Q, K) / 0.3
    for cls, kind in ((Max, "max"), (Min, "min")):
        for limits in ({"above": LIMIT}, {"below": LIMIT}, {"above": LIMIT - 1, "below": LIMIT}):
            expected = naive.reduction(kind, s, MASK, torch.ones(N, M), 1, **{k: v.tolist() for k, v in limits.items()})
            assert_close(ask(cls(where=dense(MASK), **limits), Q, K, name, tile), expected)


@pytest.mark.parametrize(("name", "tile"), ENGINES)
def test_ties_share_the_gradient_of_an_extreme(name, tile):
    q = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    k = torch.tensor([[2.0, 0], [2.0, 1], [0, 3], [2.0, 5], [1.0, 1]], dtype=torch.float64, requires_grad=True)
    with engine(name, tile=tile):
        Similarity(q, k, similarity="dot").reduce(Max()).sum().backward()
    third = 1 / 3
    assert_close(k.grad[:, 0], torch.tensor([third, third, 0, third, 0], dtype=torch.float64))


def test_softmax_shares_can_be_constants():
    for name, tile in ENGINES:
        q = Q.clone().requires_grad_()
        ask(SoftmaxMean(scale=0.7, detach=True), q, K, name, tile).sum().backward()
        r = Q.clone().requires_grad_()
        s = torch.nn.functional.normalize(r, dim=1) @ torch.nn.functional.normalize(K, dim=1).T / 0.3
        ((0.7 * s).softmax(1).detach() * s).sum().backward()
        assert_close(q.grad, r.grad)


def test_one_sweep_answers_rows_and_columns_together():
    asked = (LogSumExp(), LogSumExp(dim=0), Mean(where=dense(MASK)), Count(where=dense(MASK), dim=0))
    with engine("streaming", tile=3) as choice:
        s = Similarity(Q, K, temperature=0.3)
        together = s.reduce(*asked)
        assert choice.visited == 6
        for one, r in zip(together, asked, strict=True):
            assert_close(one, s.reduce(r), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "tile"), ENGINES)
def test_blocks_own_lists_and_gradients_switched_off(name, tile):
    own = seeded(N, 3, D, seed=11)
    asked = [LogSumExp(), Mean(), Max(), SoftmaxMean(), Sum(weight=per_column(seeded(M, seed=2).abs()))]

    def run(f):
        q, k, o, fixed = (x.clone().requires_grad_() for x in (Q, K, own, seeded(5, D, seed=12)))
        answers = f(q, k, o, fixed)
        (torch.stack(answers).sin() * torch.arange(1, 6)[:, None]).sum().backward()
        return answers, [q.grad, k.grad, o.grad], fixed.grad

    def ours(q, k, o, fixed):
        with engine(name, tile=tile):
            return Similarity(
                q, [Block(k), Block(o, per_anchor=True), Block(fixed, gradient=False)], temperature=0.5
            ).reduce(*asked)

    def plain(q, k, o, fixed):
        unit = torch.nn.functional.normalize
        q, k, o, fixed = unit(q, dim=-1), unit(k, dim=-1), unit(o, dim=-1), unit(fixed, dim=-1).detach()
        s = torch.cat([q @ k.T, torch.einsum("nd,nld->nl", q, o), q @ fixed.T], 1) / 0.5
        w = torch.cat([seeded(M, seed=2).abs().expand(N, M), torch.ones(N, 8, dtype=torch.float64)], 1)
        return [s.logsumexp(1), s.mean(1), s.amax(1), (s.softmax(1) * s).sum(1), (w * s).sum(1)]

    (a, ga, none), (b, gb, _) = run(ours), run(plain)
    assert none is None
    for x, y in zip([*a, *ga], [*b, *gb], strict=True):
        assert_close(x, y, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "tile"), ENGINES)
def test_leading_dimensions(name, tile):
    q, k = seeded(2, 3, N, D), seeded(2, 3, M, D, seed=1)
    w = seeded(2, 3, N, M, seed=4).abs()

    def f(q, k, w):
        with engine(name, tile=tile):
            s = Similarity(q, k, temperature=0.4)
            return torch.cat([s.reduce(LogSumExp(weight=dense(w))), s.reduce(Mean(dim=0))], -1)

    found = f(q, k, w)
    for i in range(2):
        for j in range(3):
            s = naive.cosine(q[i, j], k[i, j]) / 0.4
            one = torch.ones(N, M)
            expected = torch.cat(
                [naive.reduction("logsumexp", s, one, w[i, j], 1), naive.reduction("mean", s, one, one, 0)]
            )
            assert_close(found[i, j], expected)
    small = [x[:1, :2].clone().requires_grad_() for x in (q, k, w)]
    assert gradcheck(f, small)


def test_zero_weight_hides_a_candidate_at_any_temperature():
    q = torch.tensor([[1.0, 0.0]], requires_grad=True)
    k = torch.tensor([[1.0, 0.0], [-1.0, 0.1]])
    for name, tile in (("dense", None), ("streaming", 1), ("streaming", 2)):
        for kind in (LogSumExp, SoftmaxMean):
            with engine(name, tile=tile):
                s = Similarity(q, k, temperature=0.005)
                value = s.reduce(kind(weight=per_column(torch.tensor([0.0, 1.0]))))
                alone = s.at(torch.tensor([1]))
                assert_close(value, alone)
                (slope,) = torch.autograd.grad(value.sum(), q, retain_graph=True)
                (expected,) = torch.autograd.grad(alone.sum(), q)
                assert_close(slope, expected)


def test_similarities_inside_a_weight_are_constants():
    """A weight that reads the tile's similarities is a constant in the gradient, whatever the engine."""
    grads = []
    for name, tile in ENGINES:
        q = Q.clone().requires_grad_()
        ask(LogSumExp(weight=function(lambda t: t.s.exp())), q, K, name, tile).sum().backward()
        grads.append(q.grad)
    assert_close(grads[1], grads[0])
    assert_close(grads[2], grads[0])


def test_wrong_questions_are_told():
    s = Similarity(Q, [Block(K), Block(seeded(N, 2, D), per_anchor=True)])
    with pytest.raises(InputError, match="own list"):
        s.reduce(LogSumExp(dim=0, block=1))
    with pytest.raises(InputError, match=r"0 \(columns\) or 1"):
        LogSumExp(dim=2)
    with pytest.raises(InputError, match="at least one"):
        s.reduce()
    with pytest.raises(InputError, match="boolean"):
        s.reduce(LogSumExp(where=per_column(torch.ones(M))))
    with pytest.raises(InputError, match="weights have no 'or'"):
        s.reduce(LogSumExp(weight=per_column(torch.ones(M)) | dense(MASK)))
    with pytest.raises(InputError, match="no opposite"):
        s.reduce(LogSumExp(weight=~per_column(torch.ones(M))))
    with pytest.raises(InputError, match="Unknown similarity engine 'stream'"), engine("stream"):
        pass


def test_second_derivatives_are_refused_by_streaming():
    q = Q.clone().requires_grad_()
    with engine("streaming", tile=3), pytest.raises(InputError, match="second derivatives"):
        torch.autograd.grad(Similarity(q, K).reduce(LogSumExp()).sum(), q, create_graph=True)
    with engine("dense"):
        (g,) = torch.autograd.grad(Similarity(q, K).reduce(LogSumExp()).sum(), q, create_graph=True)
        g.sum().backward()
