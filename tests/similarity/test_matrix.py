"""Asks of a similarity besides reductions, temperatures, the kinds of similarity, counted tiles."""

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
    Similarity,
    Sum,
    Temperature,
    at_least,
    dense,
    engine,
    listed,
    same,
)
from nearfar.similarity.answer import plan
from nearfar.similarity.answer.normalise import normalise
from tests.similarity import naive
from tests.similarity.naive import seeded

N, M, D = 6, 9, 4
ENGINES = [("dense", None), ("streaming", 4)]


Q, K = seeded(N, D), seeded(M, D, seed=1)


@pytest.mark.parametrize("kind", ["cosine", "dot", "euclidean"])
def test_kinds_of_similarity(kind):
    plain = {"cosine": naive.cosine(Q, K), "dot": Q @ K.T, "euclidean": -naive.squared_distance(Q, K)}[kind]
    s = Similarity(Q, K, similarity=kind, temperature=0.5)
    assert_close(s.dense(), plain / 0.5, rtol=1e-10, atol=1e-10)
    for name, tile in ENGINES:

        def f(q, k, name=name, tile=tile):
            with engine(name, tile=tile):
                return Similarity(q, k, similarity=kind, temperature=0.5).reduce(LogSumExp())

        assert_close(f(Q, K), (plain / 0.5).logsumexp(1))
        assert gradcheck(f, (Q.clone().requires_grad_(), K.clone().requires_grad_()))


def test_euclidean_far_from_the_origin_keeps_its_digits():
    q, k = (Q + 1000).float(), (K + 1000).float()
    s = Similarity(q, k, similarity="euclidean")
    assert_close(s.dense().double(), -naive.squared_distance(q, k), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", [(), (1,), (N, 1), (1, M)])
def test_shapes_of_the_temperature(shape):
    t = seeded(*shape, seed=5).abs() + 0.2
    expected = naive.cosine(Q, K) / (t if t.dim() != 1 else t[0])
    for name, tile in ENGINES:

        def f(t, name=name, tile=tile):
            with engine(name, tile=tile):
                s = Similarity(Q, K, temperature=t)
                return torch.cat([s.reduce(LogSumExp()), s.reduce(LogSumExp(dim=0))])

        assert_close(f(t), torch.cat([expected.logsumexp(1), expected.logsumexp(0)]))
        assert gradcheck(f, (t.clone().requires_grad_(),))


def test_at_and_paired():
    s = Similarity(
        Q,
        [Block(K), Block(seeded(N, 3, D, seed=2), per_anchor=True)],
        temperature=0.1,
        positive=listed(torch.tensor([0, 8, -1, 3, 3, 5])),
    )
    whole = s.dense()
    assert_close(
        s.paired(), torch.stack([whole[0, 0], whole[1, 8], whole[0, 0] * 0, whole[3, 3], whole[4, 3], whole[5, 5]])
    )
    columns = torch.randint(0, M, (N, 4))
    assert_close(s.at(columns), whole.gather(1, columns))
    own = torch.randint(0, 3, (N, 2))
    assert_close(s.at(own, block=1), whole.gather(1, own + M))
    assert s.has_positive().tolist() == [True, True, False, True, True, True]
    assert s.has_negative().all()
    assert s.shape == (N, M + 3)


def test_mean_leaves_out_rows_without_a_positive():
    s = Similarity(Q, K, positive=listed(torch.tensor([0, -1, -1, 3, 3, -1])))
    values = torch.tensor([1.0, 90, math.inf, 2, 3, math.nan], dtype=torch.float64, requires_grad=True)
    mean = s.mean(values)
    mean.backward()
    assert mean.item() == pytest.approx(2)
    assert_close(values.grad, torch.tensor([1, 0, 0, 1, 1, 0], dtype=torch.float64) / 3)
    assert s.log_mean_exp(values).item() == pytest.approx(math.log((math.e + math.e**2 + math.e**3) / 3))
    none = Similarity(Q.clone().requires_grad_(), K, positive=same(torch.full((N,), -1), torch.zeros(M)))
    empty = none.mean(none.reduce(LogSumExp()))
    empty.backward()
    assert empty.item() == 0
    assert none.log_mean_exp(torch.zeros(N)).item() == 0


def test_topk_and_threshold_equal_sorting():
    where = dense(seeded(N, M, seed=3) > -0.3)
    s = Similarity(Q, K, temperature=0.2)
    masked = torch.where(s.mask(where), s.dense(), -math.inf)
    values, columns = s.topk(4, where=where)
    assert_close(values, masked.topk(4).values)
    assert_close(torch.where(columns >= 0, masked.gather(1, columns.clamp(min=0)), -math.inf), values)
    many = s.topk(M + 2)[0]
    assert_close(many[:, :M], s.dense().sort(descending=True).values)
    assert (many[:, M:] == -math.inf).all()
    for m in (1, 3, M):
        kept = s.mask(at_least(s.threshold(m)))
        assert (kept.sum(1) == m).all()
    each = torch.tensor([1, 2, 3, 4, 5, 6])
    assert (s.mask(at_least(s.threshold(each))).sum(1) == each).all()
    with pytest.raises(InputError, match="at least 1"):
        s.topk(0)


@pytest.mark.parametrize("panel", [1, 40, 1 << 20])
@pytest.mark.parametrize("lead", [(), (2, 2)])
def test_threshold_is_the_mth_largest_for_shares_and_for_each_rows_own_m(panel, lead, monkeypatch):
    monkeypatch.setitem(plan.SELECTED, "cpu", panel)
    q, k = seeded(*lead, 7, D, seed=1), seeded(*lead, 20, D, seed=2)
    k[..., 5, :] = k[..., 6, :]
    where = dense(seeded(7, 20, seed=3) > -0.5)
    s = Similarity(q, k)
    ordered = torch.where(s.mask(where), s.dense(), -math.inf).sort(descending=True).values
    for m in (1, 8, 20):
        assert_close(s.threshold(m, where=where), ordered[..., m - 1])
    each = torch.tensor([1, 5, 5, 20, 12, 3, 25]).expand(*lead, 7)
    expected = ordered.gather(-1, (each - 1).clamp(max=19)[..., None])[..., 0]
    assert_close(s.threshold(each, where=where), torch.where(each <= 20, expected, -math.inf))
    with pytest.raises(InputError, match="at least 1"):
        s.threshold(0)


@pytest.mark.parametrize("tile", [1, 2, 5])
def test_threshold_keeps_ties_whatever_the_tiling(tile):
    q = torch.randn(3, 16)
    k = torch.cat([torch.randn(5, 16), torch.randn(1, 16).expand(4, 16)])
    s = Similarity(q, k)
    same_as = s.dense()[:, -1]
    m = (s.dense() > same_as[:, None] + 1e-4).sum(1) + 1  # the first of the four equal ones
    with engine("streaming", tile=tile):
        assert (s.reduce(Count(where=at_least(s.threshold(m)))) == m + 3).all()


@pytest.mark.parametrize("kind", [LogSumExp, Mean, Sum, Count, Max])
def test_sparse_relations_visit_few_tiles(kind):
    n = 40
    s = Similarity(seeded(n, D), seeded(n, D, seed=2), temperature=0.3)
    columns = torch.arange(n)
    with engine("dense"):
        expected = s.reduce(kind(where=listed(columns)))
    with engine("streaming", tile=4) as choice:
        assert_close(s.reduce(kind(where=listed(columns))), expected)
        assert choice.visited <= 10
    with engine("streaming", tile=4) as choice:
        s.reduce(kind(where=listed(torch.full((n,), -1))))
        assert choice.visited == 0
    with engine("streaming", tile=4) as choice:
        s.reduce(kind(where=~listed(columns)))
        assert choice.visited <= 100


def test_default_engine_streams_large_matrices():
    with engine() as choice:
        Similarity(torch.randn(64, 4), torch.randn(64, 4)).reduce(LogSumExp())
        assert choice.visited == 1
    with engine() as choice:
        Similarity(torch.randn(1500, 4), torch.randn(1500, 4)).reduce(LogSumExp())
        assert choice.visited > 1


def test_normalise():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-4, 0.0]], dtype=torch.float16, requires_grad=True)
    z = normalise(x)
    assert z.dtype == torch.float32
    assert_close(z, torch.tensor([[0.6, 0.8], [0, 0], [1, 0]]), rtol=1e-3, atol=1e-3)
    z[:2].sum().backward()
    assert x.grad.isfinite().all()
    big = torch.full((1, 3), 60000.0, dtype=torch.float16)
    assert_close(normalise(big), torch.full((1, 3), 3**-0.5))


def test_same_seed_same_bits():
    q, k = torch.randn(300, 16), torch.randn(200, 16)
    with engine("streaming", tile=64):
        assert torch.equal(*(Similarity(q, k, temperature=0.01).reduce(LogSumExp()) for _ in range(2)))


def test_learned_temperature_stays_float32_and_in_its_bounds():
    t = Temperature(0.07, bounds=(0.01, 1.0)).half()
    assert t.log_tau.dtype == torch.float32
    assert t().item() == pytest.approx(0.07)
    with torch.no_grad():
        t.log_tau.fill_(-100)
    t.project()
    assert t().item() == pytest.approx(0.01)
    with pytest.raises(InputError, match="within"):
        Temperature(5.0, bounds=(0.01, 1.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Similarity(Q, K, similarity="cosin"), "Did you mean 'cosine'"),
        (lambda: Similarity(Q, K[:, :2]), "D = 4"),
        (lambda: Similarity(Q[0], K), "query must be"),
        (lambda: Similarity(Q, []), "at least one block"),
        (lambda: Similarity(Q, Block(seeded(3, 2, D), per_anchor=True)), "lists for 3"),
        (lambda: Similarity(Q, K, temperature=-1.0), "temperature"),
        (lambda: Similarity(Q, K).paired(), "one declared positive"),
        (lambda: Similarity(Q, K).same("labels"), "carry no 'labels'"),
    ],
)
def test_wrong_inputs_are_told(call, message):
    with pytest.raises(InputError, match=message):
        call()
