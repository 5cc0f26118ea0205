"""The nearest candidates with ties in order, places in a ranking, and relations of few pairs, against loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from nearfar.errors import InputError
from nearfar.similarity import (
    Block,
    Count,
    LogSumExp,
    Similarity,
    Sum,
    at_most,
    dense,
    diagonal,
    engine,
    equal,
    same,
    sparse,
)
from nearfar.similarity.answer import topk


@st.composite
def matrices(draw):
    """Whole numbers, so that products and ties are exact; what is hidden; leading dimensions or own lists."""
    seed, n, m = draw(st.integers(0, 10_000)), draw(st.integers(1, 6)), draw(st.integers(0, 40))
    make = torch.Generator().manual_seed(seed)
    lead = draw(st.sampled_from([(), (2,)]))
    q = torch.randint(-2, 3, (*lead, n, 2), generator=make).float()
    own = draw(st.booleans())
    k = torch.randint(-2, 3, (*lead, n, m, 2) if own else (*lead, m, 2), generator=make).float()
    hidden = torch.randint(0, 3, (n, m), generator=make) == 0
    return q, Block(k, per_anchor=own), hidden, draw(st.integers(1, 12)), draw(st.integers(1, 7))


@given(matrices(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_topk_is_a_stable_sort(case, few):
    q, block, hidden, k, tile = case
    s = Similarity(q, block, similarity="dot")
    where = ~sparse(*hidden.nonzero().T, len(hidden)) if few else dense(~hidden)
    masked = s.dense().masked_fill(hidden, -math.inf)
    masked = torch.cat([masked, masked.new_full((*masked.shape[:-1], k), -math.inf)], -1)
    values, order = masked.sort(dim=-1, descending=True, stable=True)
    with pytest.MonkeyPatch.context() as patch, engine("streaming", tile=tile):
        patch.setattr(topk, "CHUNK", 3)
        patch.setattr(topk, "FLOOD", 1)
        patch.setitem(topk.STRIP, "cpu", 5)
        done = []
        found = s.topk(k, where=where, progress=done.append)
    assert torch.equal(found[0], values[..., :k])
    assert torch.equal(found[1], torch.where(values == -math.inf, -1, order)[..., :k])
    assert sum(done) == q.shape[-2]


def test_many_ties_and_a_sorted_gallery():
    """All equal, and every candidate better than those before it: nothing can be passed over."""
    q, rising = torch.ones(3, 1), torch.arange(9000.0)[:, None]
    assert Similarity(q, torch.ones(9000, 1)).topk(30)[1].tolist() == [list(range(30))] * 3
    values, columns = Similarity(q, rising, similarity="dot").topk(300)
    assert columns.tolist() == [list(range(8999, 8699, -1))] * 3
    assert torch.equal(values, columns.float())
    broken = torch.rand(9000, 1)
    broken[7] = math.nan  # what is no number is nobody's neighbour, and hides nobody
    kept = torch.where(broken.isnan(), -1, broken)[:, 0].sort(descending=True).indices[:5].tolist()
    assert Similarity(q, broken, similarity="dot").topk(5)[1].tolist() == [kept] * 3


@given(st.integers(0, 10_000), st.integers(1, 7), st.sampled_from([0, 2, 100]))
@settings(max_examples=100, deadline=None)
def test_places_equal_the_loop(seed, tile, few):
    make = torch.Generator().manual_seed(seed)
    n, m = 5, 24
    q, k = (torch.randint(-2, 3, (x, 2), generator=make).float() for x in (n, m))
    wanted, hidden = (torch.rand(n, m, generator=make) < share for share in (0.3, 0.2))
    s = Similarity(q, k, similarity="dot")
    whole, expected = (q @ k.T).tolist(), []
    for i in range(n):
        seen = [j for j in range(m) if not hidden[i, j]]
        ranking = sorted(seen, key=lambda j: (-whole[i][j], bool(wanted[i, j])))
        expected += [(i, place) for place, j in enumerate(ranking, 1) if wanted[i, j]]
    with pytest.MonkeyPatch.context() as patch, engine("streaming", tile=tile):
        patch.setattr(topk, "FEW", few)
        patch.setitem(topk.STRIP, "cpu", 7)
        found = list(s.ranks_of(sparse(*wanted.nonzero().T, n), where=~sparse(*hidden.nonzero().T, n)))
    assert [(p.rows.start + int(i), int(place)) for p in found for i, place in zip(p.row, p.place)] == expected
    assert [p.rows for p in found] == [slice(i, min(i + tile, n)) for i in range(0, n, tile)]


def test_places_are_refused_where_there_is_no_ranking():
    q = torch.randn(4, 3)
    with pytest.raises(InputError, match="2 rows"):
        next(Similarity(q, q).ranks_of(equal(torch.arange(2), torch.arange(4))))
    with pytest.raises(InputError, match=r"anchors \(N, D\)"):
        next(Similarity(q[None], q[None]).ranks_of(equal(torch.arange(4), torch.arange(4))))


def test_sparse_relations_equal_dense_ones():
    make = torch.Generator().manual_seed(0)
    q, k = torch.randn(9, 4, generator=make).double(), torch.randn(14, 4, generator=make).double()
    mask = torch.rand(9, 14, generator=make) < 0.25
    rows, columns = mask.nonzero().T
    few = sparse(rows.repeat(2), columns.repeat(2), 9)
    assert few.counts.tolist() == mask.sum(1).tolist()
    s, shift = Similarity(q, [Block(k), Block(k[:3])], temperature=0.3), at_most(torch.zeros(9))
    for relation, plain in ((few, dense(mask)), (~few, ~dense(mask)), (few & shift, dense(mask) & shift)):
        asked = [[kind(where=r) for kind in (LogSumExp, Sum, Count)] for r in (relation, plain)]
        for name, tile in (("auto", None), ("dense", None), ("streaming", 4)):
            with engine(name, tile=tile):
                for x, y in zip(s.reduce(*asked[0]), s.reduce(*asked[1]), strict=True):
                    assert_close(x, y)
    other = sparse(rows, columns % 3, 9, block=1)
    moved = torch.zeros(9, 17, dtype=torch.bool)
    moved[rows, 14 + columns % 3] = True
    assert_close(s.reduce(LogSumExp(where=other)), s.dense().masked_fill(~moved, -math.inf).logsumexp(1))
    assert torch.equal(s.topk(3, where=~other, block=1)[0].isfinite().sum(1), 3 - moved.sum(1))


def test_tiles_without_a_pair_are_passed_over():
    q = torch.randn(40, 4)
    with engine("streaming", tile=10) as choice:
        Similarity(q, q.clone()).reduce(Sum(where=sparse(torch.tensor([3, 25]), torch.tensor([39, 0]), 40)))
    assert choice.visited == 2


def test_equal_values_as_sparse_pairs():
    rows, columns = torch.tensor([3, -1, 0, 5, 3]), torch.tensor([0, 3, -1, 3, 0, 7])
    s = Similarity(torch.randn(5, 2), torch.randn(6, 2))
    assert torch.equal(s.mask(equal(rows, columns)), s.mask(same(rows, columns)))
    assert torch.equal(s.mask(~equal(rows, columns) | diagonal(5)), s.mask(~same(rows, columns) | diagonal(5)))


def test_wrong_pairs_are_an_error():
    with pytest.raises(InputError, match=r"Got \(2,\) and \(3,\)"):
        sparse(torch.arange(2), torch.arange(3), 4)
    for rows, columns in (([0, 4], [0, 0]), ([0, -1], [0, 0]), ([0, 1], [0, -1])):
        with pytest.raises(InputError, match="rows from 0 to 3"):
            sparse(torch.tensor(rows), torch.tensor(columns), 4)
