"""Similarities of one's own against the whole matrix and autograd: scorers of pairs, gates, heads, constants."""

import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call
from torch.nn.functional import normalize
from torch.testing import assert_close

from nearfar.errors import InputError
from nearfar.losses.rows import info_nce_rows
from nearfar.similarity import (
    Block,
    Count,
    CrossEntropy,
    LogSumExp,
    Max,
    Mean,
    Min,
    Similarity,
    SoftmaxMean,
    Source,
    Sum,
    at_least,
    at_most,
    dense,
    diagonal,
    engine,
    exchange_plan,
    function,
    listed,
    low_rank,
    one_way,
    per_column,
    per_row,
    same,
)
from tests.similarity.naive import seeded

N, M, D = 5, 7, 4
TILED = [("dense", None), ("streaming", 3), ("streaming", (2, 4))]


A, B = seeded(N, D), seeded(M, D, seed=1)


class PairScorer(Source):
    """A network that looks at both vectors of a pair."""

    tile_shape = (4, 4)

    def __init__(self, net, a, b):
        self.net, self.a, self.b, self.shape = net, a, b, (len(a), len(b))
        self.names = [name for name, _ in net.named_parameters()]

    def tensors(self):
        return self.a, self.b, *self.net.parameters()

    def tile(self, rows, columns, tensors):
        a, b, *weights = tensors
        a, b = a[rows, None], b[None, columns]
        pairs = torch.cat([a.expand(-1, b.shape[1], -1), b.expand(a.shape[0], -1, -1)], -1)
        return functional_call(self.net, dict(zip(self.names, weights, strict=True)), pairs)[..., 0]


class Gated(Source):
    """Cosine of what each anchor's gate lets through of both vectors: two products a tile."""

    def __init__(self, query, keys, gate):
        self.held, self.shape = (query, keys, gate), (len(query), len(keys))

    def tensors(self):
        return self.held

    def tile(self, rows, columns, tensors):
        query, keys, gate = tensors
        open_ones, k = gate[rows].sigmoid().square(), keys[columns]
        q = query[rows] * open_ones
        return q @ k.T / ((query[rows] * q).sum(1, keepdim=True) * (open_ones @ k.square().T)).sqrt()


class Heads(Source):
    """The mean of the cosines of several heads."""

    def __init__(self, query, keys, heads=2):
        self.held, self.heads, self.shape = (query, keys), heads, (len(query), len(keys))

    def tensors(self):
        return self.held

    def tile(self, rows, columns, tensors):
        q, k = (
            normalize(x[s].unflatten(1, (self.heads, -1)), dim=-1)
            for x, s in zip(tensors, (rows, columns), strict=True)
        )
        return torch.einsum("nhd,mhd->nm", q, k) / self.heads


class Words(Source):
    """Products of sparse rows."""

    dtype = torch.float64

    def __init__(self, query, keys):
        self.query, self.keys, self.shape = query, keys, (query.shape[0], keys.shape[0])

    def tile(self, rows, columns, tensors):
        return torch.from_numpy((self.query[rows] @ self.keys[columns].T).toarray())


class Plain(Source):
    """A function of Python, one number a pair."""

    shape, dtype = (N, M), torch.float64

    def tile(self, rows, columns, tensors):
        return torch.tensor(
            [[math.sin(3 * i + j) for j in range(columns.start, columns.stop)] for i in range(rows.start, rows.stop)],
            dtype=torch.float64,
        )


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2 * D, 6), nn.Tanh(), nn.Linear(6, 1)).double()


NET, GATE = network(), seeded(N, D, seed=2)
SPARSE = csr_matrix(A.numpy() * (A.numpy() > 0)), csr_matrix(B.numpy() * (B.numpy() > 0))


def pair_scores(a, b, *weights):
    first, bias, last, shift = weights
    excluded = a @ first[:, :D].T
    return torch.stack([torch.tanh(excluded[i] + b @ first[:, D:].T + bias) @ last[0] + shift for i in range(len(a))])


def gated_scores(query, keys, gate):
    return torch.stack(
        [normalize(keys * g, dim=1) @ normalize(q * g, dim=0) for q, g in zip(query, gate.sigmoid(), strict=True)]
    )


def head_scores(query, keys):
    half = D // 2
    return (
        normalize(query[:, :half]) @ normalize(keys[:, :half]).T
        + normalize(query[:, half:]) @ normalize(keys[:, half:]).T
    ) / 2


# name: how the source is made of its tensors, the whole matrix of the same tensors, the tensors.
SOURCES = {
    "network": (lambda a, b, *_: PairScorer(NET, a, b), pair_scores, [A, B, *NET.parameters()]),
    "gate": (Gated, gated_scores, [A, B, GATE]),
    "heads": (Heads, head_scores, [A, B]),
    "sparse": (lambda: Words(*SPARSE), lambda: torch.from_numpy((SPARSE[0] @ SPARSE[1].T).toarray()), []),
    "python": (
        Plain,
        lambda: torch.tensor([[math.sin(3 * i + j) for j in range(M)] for i in range(N)], dtype=torch.float64),
        [],
    ),
}


def leaves(name):
    """The source, its tensors with gradient, and the whole matrix built of them."""
    make, plain, tensors = SOURCES[name]
    if name == "network":
        a, b = (x.clone().requires_grad_() for x in tensors[:2])
        held = [a, b, *NET.parameters()]
    else:
        held = [x.clone().requires_grad_() for x in tensors]
    return make(*held), held, plain(*held)


def questions(u, bias):
    mask, classes = dense(seeded(N, M, seed=5) > -0.6), same(torch.arange(N) % 3, torch.arange(M) % 3)
    weight = per_row(u.exp()) & per_column(seeded(M, seed=7).exp()) & low_rank(u[:, None] ** 2, seeded(M, 1).abs(), 0.1)
    return [
        LogSumExp(),
        LogSumExp(dim=0),
        LogSumExp(where=classes, scale=1.7),
        LogSumExp(where=~mask, weight=weight, dim=0),
        Sum(where=mask, weight=weight),
        Sum(phi=lambda s, u: torch.tanh(s * u), per_row=bias, where=mask),
        Mean(where=classes),
        Mean(dim=0, where=mask),
        SoftmaxMean(where=mask, scale=2.0),
        Max(where=mask),
        Min(dim=0),
        Count(where=mask, weight=weight),
        Count(where=classes),
        CrossEntropy(where=~diagonal(N), of=bias),
        LogSumExp(where=function(lambda t: t.s.detach() > 0)),
    ]


@pytest.mark.parametrize("name", SOURCES)
def test_every_reduction_equals_the_whole_matrix_with_its_gradients(name):
    source, held, whole = leaves(name)
    u, bias = seeded(N, seed=3).requires_grad_(), seeded(N, seed=4).requires_grad_()
    asked = questions(u, bias)
    with engine("dense"):  # the product of the whole matrix with the unit matrix is the whole matrix
        expected = Similarity(whole, torch.eye(M, dtype=torch.float64), similarity="dot").reduce(*asked)
    seeds = [seeded(len(x), seed=9 + k) for k, x in enumerate(expected)]
    inputs = [*held, u, bias]

    def gradients_of(answers):
        total = sum((x * g)[x.isfinite()].sum() for x, g in zip(answers, seeds, strict=True))
        return torch.autograd.grad(total, inputs, retain_graph=True)

    gradients = gradients_of(expected)
    for kind, tile in [*TILED, ("auto", None)]:
        with engine(kind, tile=tile):
            found = Similarity(source).reduce(*asked)
            for one, x, y in zip(asked, found, expected, strict=True):
                assert_close(x, y, msg=f"{kind} {type(one).__name__}")
            for x, y in zip(gradients_of(found), gradients, strict=True):
                assert_close(x, y)


@pytest.mark.parametrize("name", ["network", "gate", "heads"])
def test_gradients_by_differences(name):
    make, _, tensors = SOURCES[name]
    t = seeded(N, 1, seed=6).exp().requires_grad_()
    inputs = [x.detach().clone().requires_grad_() for x in tensors]

    def f(t, *inputs):
        if name != "network":
            source = make(*inputs)
        else:
            source = PairScorer(NET, *inputs[:2])
            source.tensors = lambda: inputs
        with engine("streaming", tile=3):
            s = Similarity(source, temperature=t, positive=diagonal(N))
            return [*s.reduce(LogSumExp(), LogSumExp(dim=0), Max()), s.paired()]

    assert gradcheck(f, (t, *inputs))


@pytest.mark.parametrize("name", SOURCES)
def test_the_other_asks(name):
    source, held, whole = leaves(name)
    s = Similarity(source, temperature=0.5, positive=listed(torch.tensor([3, -1, 0, 6, 6])))
    whole = whole / 0.5
    assert s.shape == (N, M)
    assert_close(s.dense(), whole)
    columns = torch.tensor([[0, 3], [6, 6], [2, 1], [4, 5], [0, 6]])
    for tile in (None, 2):
        with engine("auto" if tile is None else "streaming", tile=tile):
            assert_close(s.at(columns), whole.gather(1, columns))
            assert_close(s.at(columns[:, 1]), whole.gather(1, columns[:, 1:])[:, 0])
            assert_close(s.paired(), torch.where(s.positive.columns >= 0, whole[range(N), s.positive.columns], 0))
            values, places = s.topk(3, where=~diagonal(N))
            excluded = whole.detach().clone().fill_diagonal_(-math.inf)
            assert_close(values, excluded.topk(3).values)
            assert_close(excluded.gather(1, places), values)
            limit = s.threshold(2)
            assert (s.reduce(Count(where=at_least(limit))) == (whole >= limit[:, None]).sum(1)).all()
            assert (s.reduce(Count(where=at_least(limit))) >= 2).all()
            assert (s.reduce(Count(where=at_most(limit))) <= M - 1).all()
    mean = s.mean(s.paired())
    assert_close(mean, whole[[0, 2, 3, 4], [3, 0, 6, 6]].mean())
    if held:
        mean.backward()
        assert held[0].grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(), (1,), (N, 1), (1, M)])
def test_temperatures(shape):
    t = seeded(*shape, seed=5).exp()
    whole = head_scores(A, B)

    def f(t):
        with engine("streaming", tile=2):
            s = Similarity(Heads(A, B), temperature=t)
            return s.reduce(LogSumExp(), LogSumExp(dim=0))

    for x, y in zip(f(t), ((whole / t).logsumexp(1), (whole / t).logsumexp(0)), strict=True):
        assert_close(x, y)
    assert gradcheck(f, (t.requires_grad_(),))


def test_a_source_beside_keys_and_labels():
    """A queue scored by the network beside the cosines of the batch; blocks join as they do among keys."""
    q, k = A.clone().requires_grad_(), B.clone().requires_grad_()
    extra_candidates = seeded(4, D, seed=8)
    labels = [torch.arange(M) % 2, torch.tensor([0, 1, 1, -1])]
    whole = torch.cat([normalize(q) @ normalize(k).T, pair_scores(q, extra_candidates, *NET.parameters())], 1) / 0.2
    mine = torch.arange(N) % 2
    expected = torch.where(mine[:, None] == torch.cat(labels), whole, -math.inf).logsumexp(1), whole.mean(1)
    gradient = torch.autograd.grad(sum(x.sum() for x in expected), [q, k])
    for kind, tile in TILED:
        with engine(kind, tile=tile):
            s = Similarity(
                q,
                [Block(k, labels=labels[0]), Block(PairScorer(NET, q, extra_candidates), labels=labels[1])],
                labels=mine,
                temperature=0.2,
            )
            found = s.reduce(LogSumExp(where=s.same("labels")), Mean())
            for x, y in zip(found, expected, strict=True):
                assert_close(x, y)
            gradients = torch.autograd.grad(sum(x.sum() for x in found), [q, k])
            for x, y in zip(gradients, gradient, strict=True):
                assert_close(x, y)
    constant = Similarity(None, [Block(PairScorer(NET, q, extra_candidates), gradient=False)]).reduce(LogSumExp())
    assert not constant.requires_grad


def test_a_named_loss_learns_a_scorer_of_pairs():
    torch.manual_seed(0)
    net, a = network(), seeded(40, D)
    b = a[:, [1, 0, 3, 2]] * torch.tensor([1.0, -1, 1, -1])  # nothing that a cosine sees
    step = torch.optim.Adam(net.parameters(), 0.02)
    losses = []
    for _ in range(60):
        s = Similarity(PairScorer(net, a, b), positive=diagonal(len(a)))
        losses.append(s.mean(info_nce_rows(s)))
        step.zero_grad()
        losses[-1].backward()
        step.step()
    assert losses[-1] < 0.6 * losses[0]


def test_slices_cost_what_they_are(monkeypatch):
    """The gradient of a tile is that of its slices: nothing of the size of all rows is made for each tile."""
    made = []
    grad = torch.autograd.grad

    def watched(*args, **kwargs):
        found = grad(*args, **kwargs)
        made.extend(x.numel() for x in found if x is not None)
        return found

    a, b = seeded(64, D).requires_grad_(), seeded(48, D, seed=1).requires_grad_()
    with engine("streaming", tile=8):
        total = Similarity(Heads(a, b)).reduce(LogSumExp()).sum()
        monkeypatch.setattr(torch.autograd, "grad", watched)
        total.backward()
    assert max(made) == 8 * D
    assert_close(a.grad, grad(head_scores(a, b).logsumexp(1).sum(), a)[0])


def test_no_tile_is_larger_than_the_source_wants():
    class Watched(PairScorer):
        largest = 0

        def tile(self, rows, columns, tensors):
            Watched.largest = max(Watched.largest, rows.stop - rows.start, columns.stop - columns.start)
            return super().tile(rows, columns, tensors)

    s = Similarity(Watched(NET, seeded(30, D), seeded(30, D)), positive=diagonal(30))
    s.mean(info_nce_rows(s) + s.reduce(Max())).backward()
    s.topk(3)
    s.threshold(2)
    assert Watched.largest == 4


def test_what_cannot_be_is_refused():
    class Undeclared(Heads):
        def tensors(self):
            return self.held[:1]

        def tile(self, rows, columns, tensors):
            return super().tile(rows, columns, (*tensors, self.held[1]))

    learned = B.clone().requires_grad_()
    with pytest.raises(InputError, match="tensors\\(\\) does not list"):
        Similarity(Undeclared(A, learned))
    with torch.no_grad():
        Similarity(Undeclared(A, learned)).reduce(Max())

    class Flat(Heads):
        def tile(self, rows, columns, tensors):
            return super().tile(rows, columns, tensors).sum(1)

    with (
        pytest.raises(InputError, match=r"Flat.tile must give a float tensor \(5, 7\) for the rows 0 to 5"),
        torch.no_grad(),
    ):
        Similarity(Flat(A, B)).dense()

    class Numbers(Plain):
        def tile(self, rows, columns, tensors):
            return np.zeros((2, 2))

    with pytest.raises(InputError, match="Got ndarray"):
        Similarity(Numbers()).dense()

    class Shapeless(Plain):
        shape = (3,)

    with pytest.raises(InputError, match="rows, columns"):
        Similarity(Shapeless())
    with pytest.raises(InputError, match="in place of query"):
        Similarity(Heads(A, B), B)
    with pytest.raises(InputError, match="each block is a source"):
        Similarity(None, B)
    with pytest.raises(InputError, match="has 5 rows"):
        Similarity(B, Block(Heads(A, B)))
    with pytest.raises(InputError, match="different numbers of rows"):
        Similarity(None, [Block(Heads(A, B)), Block(Heads(B, B))])
    with pytest.raises(InputError, match="shared by all anchors"):
        Similarity(None, Block(Heads(A, B), per_anchor=True))
    with pytest.raises(InputError, match="temperature must be one number"):
        Similarity(Heads(A, B), temperature=torch.ones(3, 1))
    with pytest.raises(InputError, match="embeddings"), exchange_plan("gather"):
        one_way(Heads(A, B), B)
    q = A.clone().requires_grad_()
    with engine("streaming", tile=3), pytest.raises(InputError, match="second derivatives"):
        torch.autograd.grad(Similarity(Heads(q, B)).reduce(LogSumExp()).sum(), q, create_graph=True)
    with engine("dense"):
        first = torch.autograd.grad(Similarity(Heads(q, B)).reduce(LogSumExp()).sum(), q, create_graph=True)[0]
        assert first.square().sum().requires_grad


def test_nothing_to_see():
    empty = Similarity(Heads(A, B[:0]))
    assert (empty.reduce(LogSumExp()) == -math.inf).all()
    assert (empty.topk(2)[1] == -1).all()
    assert Similarity(Heads(A[:0], B)).reduce(LogSumExp(dim=0)).tolist() == [-math.inf] * M
