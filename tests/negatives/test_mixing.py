"""MoCHi's mixtures: the equations, the hard lists, what sees them, what they never touch."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from nearfar.errors import InputError
from nearfar.losses.rows import dcl_rows, info_nce_rows
from nearfar.negatives import Mixing, Queue
from nearfar.negatives.mixing import drawn, hardest, mix, mix_hardest, mix_query
from nearfar.similarity import Block, Similarity, listed, one_way

from .scene import anchors, items

D = 6


def unit(*shape, seed=0, dtype=torch.float64):
    made = torch.randn(*shape, D, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return torch.nn.functional.normalize(made, dim=-1)


def filled(part, count=32, kinds=1, item_identities=None, steps=10):
    part.setup(D, kinds, batch_size=8, samples=100, steps=steps)
    part.keys = part.keys.double()
    values = (
        torch.arange(100, 100 + count)[:, None].expand(count, kinds) if item_identities is None else item_identities
    )
    part.update(unit(count, seed=7), items(values))
    return part


def mixing(**options):
    return filled(Mixing(32, **{"hard": 8, "mixed": 5, "with_query": 4, "start": 0.0} | options))


def loss(part, q, k, rows=info_nce_rows, step=0, temperature=0.2, seed=0):
    values = torch.arange(len(q))[:, None]
    extra_candidates = lambda seen: part.extra_candidates(seen, items(values, step=step, steps=10, seed=seed))  # noqa: E731
    return one_way(q, k, temperature=temperature, in_batch=False, extra_candidates=extra_candidates).loss(rows)


def synthetic(part, q, step=0, **more):
    return (
        part.extra_candidates(anchors(q), items(torch.arange(len(q))[:, None], step=step, steps=10, **more))
        .blocks[1]
        .keys
    )


def test_without_mixtures_the_loss_is_moco_and_with_them_strictly_larger():
    q, k = unit(5, seed=1), unit(5, seed=2)
    plain = loss(filled(Queue(32, in_batch=False)), q, k)
    assert torch.equal(plain, loss(mixing(mixed=0, with_query=0, in_batch=False), q, k))
    assert torch.equal(plain, loss(mixing(in_batch=False, start=0.5), q, k, step=4)), "before the warm-up ends"
    for counts in ({"with_query": 0}, {"mixed": 0}, {}):
        assert loss(mixing(in_batch=False, **counts), q, k) > plain


def test_the_loss_equals_the_sum_over_all_candidates_in_a_loop():
    q, k, part = unit(4, seed=1), unit(4, seed=2), mixing()
    lists, tau, total = synthetic(part, q), 0.2, 0.0
    for i in range(4):
        everyone = [*part.keys, *lists[i]]
        exponentials = [math.exp(float(q[i] @ n) / tau) for n in everyone]
        positive = math.exp(float(q[i] @ k[i]) / tau)
        total -= math.log(positive / (positive + sum(exponentials)))
    assert_close(float(loss(part, q, k)), total / 4)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 0.5))
def test_lengths_bounds_and_hardening(seed, share, beta):
    q, keys = unit(3, seed=seed), unit(20, seed=seed + 1)
    hard = keys[hardest(q, keys, 6)]
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(6, (3, 7, 2), generator=generator)
    alpha = torch.full((3, 7), share, dtype=torch.float64)
    h = mix_hardest(hard, pairs, alpha)
    assert_close(h.norm(dim=-1), torch.ones(3, 7, dtype=torch.float64))
    ends = torch.einsum("nd,nspd->nsp", q, torch.stack([hard[i][pairs[i]] for i in range(3)])).amin(-1)
    some = ends >= 0
    found = torch.einsum("nd,nsd->ns", q, h)
    assert bool((found[some] >= ends[some] - 1e-12).all()), "never easier than its easier end"
    assert_close(h, mix_hardest(hard, pairs.flip(-1), 1 - alpha))
    with_q = mix_query(q, hard, pairs[..., 0], torch.full((3, 7), beta, dtype=torch.float64))
    before = torch.einsum("nd,nsd->ns", q, torch.stack([hard[i][pairs[i, :, 0]] for i in range(3)]))
    after = torch.einsum("nd,nsd->ns", q, with_q)
    assert_close(with_q.norm(dim=-1), torch.ones(3, 7, dtype=torch.float64))
    assert bool((after >= before - 1e-12).all()), "mixing with the query only hardens"
    more = mix_query(q, hard, pairs[..., 0], torch.full((3, 7), beta / 2, dtype=torch.float64))
    assert bool((torch.einsum("nd,nsd->ns", q, more) <= after + 1e-12).all()), "and the more the larger its share"


def test_no_share_of_the_query_leaves_the_key_and_antipodes_give_a_zero_vector():
    q, keys = unit(2, seed=1), unit(4, seed=2)
    places = torch.zeros(2, 3, dtype=torch.long)
    assert_close(
        mix_query(q, keys.expand(2, 4, D), places, torch.zeros(2, 3, dtype=torch.float64)), keys[0].expand(2, 3, D)
    )
    nothing = mix(keys[0], -keys[0], torch.tensor(0.5, dtype=torch.float64))
    assert torch.equal(nothing, torch.zeros(D, dtype=torch.float64))


def test_every_query_has_its_own_list():
    q, keys = unit(6, seed=3), unit(40, seed=4)
    found = hardest(q, keys, 5)
    for i in range(6):
        assert found[i].tolist() == (keys @ q[i]).argsort(descending=True)[:5].tolist()
    assert len({tuple(row) for row in found.tolist()}) == 6


def test_one_hard_key_is_repeated_as_often_as_it_is_mixed():
    """N = 1: each mixture is the hardest key itself, so that it weighs 1 + s."""
    q, k = unit(4, seed=1), unit(4, seed=2)
    part = mixing(hard=1, mixed=3, with_query=0, in_batch=False)
    top = part.keys[hardest(q, part.keys, 1)]
    assert_close(synthetic(part, q), top.expand(4, 3, D))
    s = Similarity(
        q,
        [Block(k), Block(part.keys), Block(top.expand(4, 3, D), per_anchor=True)],
        temperature=0.2,
        positive=listed(torch.arange(4)),
    )
    s = Similarity(q, [Block(k, visible=listed(torch.arange(4))), *s.blocks[1:]], temperature=0.2, positive=s.positive)
    assert_close(loss(part, q, k), s.mean(info_nce_rows(s)))


def test_the_gradient_is_the_closed_form_and_reaches_the_query_alone():
    q, k, part, tau = unit(3, seed=1).requires_grad_(), unit(3, seed=2), mixing(), 0.2
    part.keys.requires_grad_()
    loss(part, q, k).backward()
    assert part.keys.grad is None
    lists = synthetic(part, q.detach())
    for i in range(3):
        candidates = torch.cat([k[i][None], part.keys.detach(), lists[i]])
        p = torch.softmax(candidates @ q[i].detach() / tau, 0)
        flow = -((1 - p[0]) * candidates[0] - (p[1:, None] * candidates[1:]).sum(0)) / tau / 3
        flow = flow - (flow @ q[i].detach()) * q[i].detach()  # the loss divides by the length of q
        assert_close(q.grad[i], flow)


def test_permuted_queue_and_rotated_space_give_the_same_loss():
    q, k = unit(4, seed=1), unit(4, seed=2)
    part, before = mixing(), loss(mixing(), q, k)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    part.keys, part.item_identities = part.keys[order], part.item_identities[order]
    assert_close(loss(part, q, k), before)
    turn = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64))[0]
    part.keys = part.keys @ turn
    assert_close(loss(part, q @ turn, k @ turn), before)


def test_keys_of_the_same_item_are_neither_ranked_nor_mixed():
    item_identities = torch.tensor([[0]] * 31 + [[50]])
    part = filled(Mixing(32, hard=8, mixed=5, with_query=0, start=0.0), item_identities=item_identities)
    q = unit(2, seed=1)
    values = items(torch.tensor([[0], [50]]))
    block = part.extra_candidates(anchors(q), values).blocks[1]
    assert_close(block.keys[0], part.keys[31].expand(5, D))
    alone = filled(
        Mixing(32, hard=8, mixed=5, with_query=2, start=0.0), item_identities=torch.zeros(32, 1, dtype=torch.long)
    )
    q, k = unit(1, seed=1), unit(1, seed=2)
    extra_candidates = lambda seen: alone.extra_candidates(seen, items(torch.tensor([[0]])))  # noqa: E731
    s = one_way(q, k, in_batch=False, extra_candidates=extra_candidates).parts[0]
    assert not s.mask(s.negative).any(), "an anchor without a hard key sees no mixture"


def test_the_queue_holds_real_keys_only():
    part = filled(Mixing(16, hard=4, mixed=4, with_query=4, start=0.0), count=16)
    for step in range(4):
        fresh = unit(8, seed=50 + step)
        part.extra_candidates(anchors(unit(4, seed=1)), items(torch.arange(4)[:, None]))
        part.update(fresh, items(torch.arange(8)[:, None]))
    assert_close(part.keys, torch.cat([unit(8, seed=52), unit(8, seed=53)]))


def test_draws_repeat_for_a_step_and_differ_between_steps():
    part, q = mixing(), unit(3, seed=1)
    assert torch.equal(synthetic(part, q, step=2), synthetic(part, q, step=2))
    assert not torch.equal(synthetic(part, q, step=2), synthetic(part, q, step=3))
    places = drawn(torch.tensor([3, 1, 0]), (200,), torch.Generator().manual_seed(0))
    assert set(places[0].tolist()) == {0, 1, 2}
    assert set(places[1:].flatten().tolist()) == {0}


def test_terms_for_the_curve_are_those_of_the_loop():
    q, k, part, tau = unit(4, seed=1), unit(4, seed=2), mixing(in_batch=False), 0.2
    values = items(torch.arange(4)[:, None], steps=10)
    s = one_way(
        q, k, temperature=tau, in_batch=False, extra_candidates=lambda seen: part.extra_candidates(seen, values)
    ).parts[0]
    terms, lists = part.terms(s), synthetic(part, q)
    real, made = q @ part.keys.T, torch.einsum("nd,nld->nl", q, lists)
    positive = (q * k).sum(1)
    everyone = torch.cat([positive[:, None], real, made], 1)
    assert_close(terms["mixed_mass"], torch.softmax(everyone / tau, 1)[:, 33:].sum(1).mean())
    assert_close(terms["cos_mixed"], made[:, :5].mean())
    assert_close(terms["cos_with_query"], made[:, 5:].mean())
    top = torch.cat([real, made], 1).topk(8).indices
    assert_close(terms["mixed_hardest"], (top >= 32).float().mean())
    assert_close(terms["proxy"], (positive > everyone[:, 1:].amax(1)).float().mean())
    assert set(mixing(start=1.0).terms(one_way(q, k).parts[0])) == {"proxy"}


def test_any_row_loss_and_plain_products():
    q, k = unit(4, seed=1) * 3, unit(4, seed=2)
    assert torch.isfinite(loss(mixing(), q, k, dcl_rows))
    values = items(torch.arange(4)[:, None])
    part = mixing()
    s = one_way(q, k, similarity="dot", extra_candidates=lambda seen: part.extra_candidates(seen, values)).parts[0]
    assert torch.isfinite(s.mean(info_nce_rows(s)))
    assert bool((s.blocks[2].keys[:, :5].norm(dim=-1) < 1).any()), "mixtures keep their length where lengths matter"


def test_automatic_counts_and_start():
    part = Mixing()
    part.setup(D, 1, batch_size=64, samples=1 << 20, steps=100_000)
    assert (part.capacity, part.counts, part.begin) == (333 * 64, (1024, 1024, 512), 5000)
    part = Mixing(512)
    part.setup(D, 1, batch_size=64, samples=1200, steps=300)
    assert (part.counts, part.begin) == ((32, 32, 16), 15)
    part = Mixing(8, hard=100)
    part.setup(D, 1, batch_size=4, samples=50, steps=2)
    assert (part.counts[0], part.begin) == (8, 1)
    for wrong in ({"hard": 0}, {"mixed": -1}, {"start": 1.5}):
        with pytest.raises(InputError):
            Mixing(**wrong)
