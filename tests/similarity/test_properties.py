"""Any shape, type, tiling and pattern of labels: every engine gives the float64 answer of the whole matrix."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from nearfar import losses
from nearfar.losses import rows
from nearfar.similarity import (
    Block,
    Count,
    CrossEntropy,
    ExcludedPairs,
    LogSumExp,
    Mean,
    Similarity,
    Sum,
    all_views,
    both_ways,
    engine,
    one_way,
    per_column,
    same,
)

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@st.composite
def batches(draw):
    """Vectors (with zero and repeated rows), marks of a few kinds of values, an engine."""
    n, more, d = draw(st.integers(1, 9)), draw(st.integers(0, 6)), draw(st.integers(1, 5))
    make = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    a, b = torch.randn(n, d, generator=make), torch.randn(n + more, d, generator=make)
    if draw(st.booleans()):
        a[0], b[-1] = 0, b[0]
    values = st.lists(st.integers(-1, 3), min_size=n, max_size=n)
    item_identities = [torch.tensor(draw(values)) for _ in range(2)]
    tile = draw(st.sampled_from([1, 2, (3, 2), (2, 5), 16]))
    how = draw(st.sampled_from([{"name": "auto"}, {"name": "streaming", "tile": tile}]))
    return a.to(dtype), b.to(dtype), item_identities, how


def answers(call, how, a, b, dtype):
    a, b = (x.to(dtype).clone().requires_grad_() for x in (a, b))
    with engine(**how):
        value = call(a, b)
        value.sum().backward()
    grads = [torch.zeros_like(x) if x.grad is None else x.grad for x in (a, b)]
    return [value.detach(), *grads]


def check(call, a, b, how):
    limit = TOLERANCE[a.dtype]
    wanted = answers(call, {"name": "dense"}, a, b, torch.float64)
    for found, want in zip(answers(call, how, a, b, a.dtype), wanted, strict=True):
        assert found.isfinite().all()
        assert_close(found.double(), want, rtol=limit, atol=limit * max(1.0, want.abs().max().item()))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(batches(), st.sampled_from([0.05, 0.5, 3.0]))
def test_losses_with_hidden_pairs(batch, temperature):
    a, b, item_identities, how = batch
    n = len(a)
    excluded = ExcludedPairs([(x, x) for x in item_identities])
    options = {"excluded": excluded, "temperature": temperature}
    check(lambda p, q: one_way(p, q, **options).loss(rows.info_nce_rows), a, b, how)
    check(lambda p, q: both_ways(p, q, **options).loss(rows.info_nce_rows), a, b, how)
    check(lambda p, q: all_views([p, q[:n]], **options).loss(rows.info_nce_rows), a, b, how)
    check(lambda p, q: losses.sup_con(p, item_identities[0], temperature=temperature) + 0 * q.sum(), a, b, how)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(batches(), st.integers(0, 2))
def test_reductions_of_two_blocks(batch, kinds):
    a, b, item_identities, how = batch
    n, m = len(a), len(b)
    columns = torch.cat([item_identities[1], torch.full((m - n,), 2)])
    weight = torch.linspace(0, 2, m, dtype=torch.float64)

    def call(p, q):
        s = Similarity(p, [Block(q), Block(p.detach(), gradient=False)], temperature=0.4)
        where = ~same(item_identities[0], [columns, item_identities[1]])
        if kinds:
            where = where & ~same(item_identities[1], [columns, None])
        if kinds == 2:
            where = where & same(item_identities[0], [columns.flip(0), item_identities[0]])
        w = per_column(weight.to(s.query.dtype))
        asked = s.reduce(
            LogSumExp(where=where, weight=w),
            Mean(where=where),
            Sum(where=where),
            Count(where=where),
            CrossEntropy(where=where, of=torch.zeros(n, dtype=s.query.dtype)),
        )
        return torch.stack([x.clamp(min=-20) for x in asked])

    check(call, a, b, how)
