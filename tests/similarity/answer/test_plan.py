"""Which algorithm answers: named steps from shapes and relations alone; `explain` tells them, `reduce` takes them."""

import pytest
import torch

from nearfar import losses
from nearfar.errors import InputError
from nearfar.losses import rows
from nearfar.similarity import (
    Block,
    Count,
    CrossEntropy,
    LogSumExp,
    Max,
    Mean,
    Similarity,
    Source,
    Sum,
    all_views,
    both_ways,
    dense,
    diagonal,
    engine,
    equal,
    function,
    listed,
    low_rank,
    one_way,
    per_column,
    per_row,
    same,
)
from nearfar.similarity.answer import plan
from nearfar.similarity.answer.engine import Engine
from nearfar.similarity.answer.steps import Ask, BlockShape, Shape
from tests.similarity.naive import seeded

N, M, D = 12, 20, 4
LABELS = torch.arange(N) % 3, torch.arange(M) % 3
PAIRS = listed(torch.arange(N))


def matrix(gradient=True, **options):
    q, k = seeded(N, D).float(), seeded(M, D, seed=1).float()
    return Similarity(q.requires_grad_(gradient), k, temperature=0.3, positive=listed(torch.arange(N)), **options)


@pytest.mark.parametrize(
    ("reduction", "step"),
    [
        (LogSumExp(), "log-sum-exp sweep"),
        (
            LogSumExp(where=~same(*LABELS), weight=per_row(torch.ones(N)) & per_column(torch.ones(M))),
            "log-sum-exp sweep",
        ),
        (LogSumExp(where=~equal(*LABELS)), "log-sum-exp sweep"),
        (LogSumExp(where=listed(torch.arange(N))), "listed pairs"),
        (CrossEntropy(where=~listed(torch.arange(N))), "cross-entropy pass"),
        (Max(where=listed(torch.arange(N))), "listed pairs"),
        (Mean(where=same(*LABELS)), "class sums"),
        (Count(), "class sums"),
        (Sum(weight=low_rank(torch.ones(N, 1), torch.ones(M, 1))), "weighted sums"),
        (Sum(where=~same(*LABELS) & ~listed(torch.arange(N))), "class sums"),
        (Sum(where=PAIRS & same(*LABELS) & ~PAIRS), "no pairs"),
        (Sum(phi=torch.exp), "general sweep"),
        (Max(), "general sweep"),
        (LogSumExp(weight=dense(torch.ones(N, M))), "general sweep"),
        (LogSumExp(where=function(lambda t: t.s > 0)), "general sweep"),
    ],
)
def test_explain_names_the_steps_that_reduce_takes(reduction, step):
    with engine("streaming", tile=5) as choice:
        s = matrix()
        told = s.explain(reduction)
        assert choice.visited == 0
        s.reduce(reduction)
    assert told.names == choice.ran == [step]


def test_the_forced_matrix_and_the_small_one():
    with engine("dense"):
        assert matrix().explain(LogSumExp(), Max()).names == ["whole matrix"]
    assert matrix().explain(Max()).names == ["whole matrix"]
    assert "small" in matrix().explain(Max()).steps[0].why


def test_several_reductions_share_sweeps():
    s = matrix()
    mean = Mean(where=same(*LABELS))
    with engine("streaming"):
        told = s.explain(LogSumExp(), LogSumExp(dim=0), mean)
        assert told.names == ["log-sum-exp sweep"]
        assert "rows and columns; sums taken along: 1" in told.steps[0].why
        assert s.explain(LogSumExp(), mean, Max()).names == ["class sums", "general sweep"]
        assert s.explain(CrossEntropy(), LogSumExp()).names == ["log-sum-exp sweep"]


def test_costs_are_those_of_the_documentation():
    """8 n m d with gradients, 6 in one pass, half where queries are keys, 2 without gradients."""
    n, d = 1 << 14, 64
    q = torch.empty(n, d, requires_grad=True)
    k = torch.empty(n, d)
    with engine("streaming"):
        cost = {
            name: s.explain(r).cost
            for name, s, r in (
                ("fused", Similarity(q, k), LogSumExp()),
                ("half", Similarity(q, q), LogSumExp()),
                ("pass", one_way(q, k).parts[0], CrossEntropy()),
                ("values", Similarity(k, k.clone()), LogSumExp()),
            )
        }
    unit = n * n * d
    assert {name: c.products / unit for name, c in cost.items()} == {"fused": 8, "half": 4, "pass": 6, "values": 2}
    assert {name: c.passes for name, c in cost.items()} == {"fused": 2, "half": 2, "pass": 1, "values": 1}
    assert all(c.memory < n * n / 4 for c in cost.values()), "a sixteenth of what the matrix would take"


@pytest.mark.parametrize(
    ("loss", "products"),
    [(losses.info_nce, 6), (losses.clip, 8), (losses.dcl, 16), (losses.nt_xent, 16), (losses.hcl, 16)],
)
def test_a_block_of_an_engine_tells_what_a_loss_took(loss, products):
    """In units of n^2 d for n pairs; two views are 2n anchors, and half of their matrix."""
    n, d = 300, 8
    a, b = (seeded(n, d, seed=seed).float().requires_grad_() for seed in (1, 2))
    with engine("streaming", tile=64) as choice:
        loss(a, b)
    assert sum(p.cost.products for p in choice.plans) == products * n * n * d
    assert [name for p in choice.plans for name in p.names if name != "transpose"] == choice.ran
    assert all(p.cost.memory < 4 * n * n for p in choice.plans)


def test_the_plan_needs_no_tensor():
    shape = Shape(1 << 20, 512, (BlockShape(1 << 20, gradient=True), BlockShape(1 << 16)), gradient=True)
    found = plan.plan(Ask(shape, [LogSumExp(), Mean(), LogSumExp(scale=2.0)]), Engine())
    assert found.names == ["class sums"] * 4 + ["log-sum-exp sweep"] * 2
    assert found.cost.memory < 1 << 33
    text = str(found)
    assert "1,048,576 x 1,114,112" in text
    assert "general sweep" in text, "what happens where no shift of the exponents holds the sums"


def test_blocks_sources_and_entries():
    class Constant(Source):
        shape = (N, 3)

        def tile(self, rows, columns, tensors):
            return torch.zeros(rows.stop - rows.start, columns.stop - columns.start)

    q, k = seeded(N, D).float().requires_grad_(), seeded(M, D, seed=1).float()
    with engine("streaming"):
        s = Similarity(q, [Block(k), Block(Constant())])
        assert s.explain(LogSumExp(), Count()).names == [
            "class sums",
            "class sums",
            "log-sum-exp sweep",
            "general sweep",
        ]
        assert s.explain(LogSumExp(), Max()).names == ["general sweep"]
        large = Similarity(torch.empty(2, 300, D), torch.empty(2, 300, D))
        (step,) = large.explain(LogSumExp()).steps
        assert step.name == "entry by entry"
        assert "log-sum-exp sweep" in step.why


def test_a_symmetric_matrix_takes_half_of_the_grid():
    with engine("streaming"):
        z = torch.empty(40, D, requires_grad=True)
        for where, half in (
            (~diagonal(40), True),
            (~listed(torch.arange(40).roll(1)), False),
            (same(torch.arange(40) % 3), True),
            (~equal(*[torch.arange(40)] * 2), False),
        ):
            assert Similarity(z, z).explain(LogSumExp(where=where)).steps[0].half_grid is half


def test_two_directions_share_one_sweep(monkeypatch):
    told = []
    plain = Similarity._plan
    monkeypatch.setattr(Similarity, "_plan", lambda s, r: told.append(plain(s, r)) or told[-1])
    a, b = seeded(N, D).float().requires_grad_(), seeded(N, D, seed=1).float()
    both_ways(a, b).loss(rows.info_nce_rows)
    assert [t.names for t in told] == [["log-sum-exp sweep"], ["transpose"]]
    told.clear()
    all_views([a, b]).loss(rows.info_nce_rows)
    assert [t.names for t in told] == [["log-sum-exp sweep"]]


def test_the_mth_largest_is_selected_among_a_few_rows_or_bit_by_bit_where_keys_travel():
    here, away = BlockShape(1 << 20), BlockShape(1 << 20, travels=True)
    step = plan.selection(Shape(1 << 10, 64, (here,)), Engine())
    assert (step.name, step.cost.passes, step.tile[0]) == ("selection", 1, 2)
    assert plan.selection(Shape(1 << 10, 64, (away,)), Engine()).cost.passes == 8
    with engine() as choice:
        matrix().threshold(3)
    assert choice.ran == ["selection"]


def test_what_cannot_be_asked_is_told_by_explain_too():
    own = Similarity(seeded(N, D), Block(seeded(N, 3, D, seed=1), per_anchor=True))
    with pytest.raises(InputError, match="own list"):
        own.explain(LogSumExp(dim=0))
    with pytest.raises(InputError, match="declared positive"):
        Similarity(seeded(N, D), seeded(M, D)).explain(CrossEntropy())
