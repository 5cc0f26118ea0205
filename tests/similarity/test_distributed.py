"""Two and three processes equal one: value (mean over ranks) and gradients (averaged), for every loss."""

import faulthandler
import os
import socket
from itertools import product

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.testing import assert_close

from nearfar import losses
from nearfar.errors import InputError
from nearfar.losses.rows import info_nce_rows, mil_nce_rows, sup_con_rows
from nearfar.negatives import Queue
from nearfar.negatives.base import Items
from nearfar.similarity import (
    Block,
    Count,
    ExcludedPairs,
    Known,
    LogSumExp,
    Max,
    Similarity,
    all_views,
    both_ways,
    engine,
    exchange_plan,
    function,
    per_column,
    same,
)
from nearfar.similarity.exchange import exchange
from tests import stopping
from tests.losses.cases import CASES, batch

SHARES = {2: [3, 6], 3: [4, 1, 3]}
MARKS = torch.tensor([0, 1, 0, 2, 2, -1, -1, 1, 0])
NEGATIVE = [name for name, (_, has) in CASES.items() if has]


def known(rows):
    """Item i also belongs to item i + 1 of all processes."""
    starts = 2 * torch.arange(len(rows) + 1)
    forth, back = (torch.stack([rows, rows + step], 1).reshape(-1) for step in (1, -1))
    return Known(forth, starts, rows), Known(back, starts, rows)


def hidden_pairs(a, b, labels, rows, **more):
    """Both directions with hidden items, and two further hard negatives on every process."""
    excluded = ExcludedPairs([(MARKS[rows], MARKS[rows])], known(rows))
    keys = torch.cat([b, batch(9, 4, seed=5)[0][rows][:1]])
    return both_ways(a, keys, excluded=excluded, **more).loss(info_nce_rows)


def hidden_views(a, b, labels, rows, **more):
    return all_views([a, b], excluded=ExcludedPairs([(MARKS[rows], MARKS[rows])]), **more).loss(info_nce_rows)


def befriended(a, b, labels, **more):
    """Labels make several positives of every anchor, under two layouts at once."""
    extra_positives = ExcludedPairs([(labels, labels)])
    views = all_views([a, b], extra_positives=extra_positives, temperature=0.3, **more).loss(sup_con_rows)
    return views + both_ways(a, b, extra_positives=extra_positives, temperature=0.3, **more).loss(mil_nce_rows)


def joined_hidden_pairs(a, b, shares):
    starts = torch.tensor(shares).cumsum(0) - torch.tensor(shares)
    keys = torch.cat([b, batch(9, 4, seed=5)[0][starts]])
    item_identities = MARKS[: len(a)]
    return both_ways(
        a, keys, excluded=ExcludedPairs([(item_identities, item_identities)], known(torch.arange(len(a))))
    ).loss(info_nce_rows)


def mixtures(a, b, partner, shares, **more):
    """Mixtures of one side, then soft targets."""
    mixed = losses.mix_rows(a, partner, shares)
    return losses.m3co(mixed, b, partner, shares, temperature=0.4, **more) + losses.soft_contrast(a, b, **more)


def value_and_gradients(call, a, b, world):
    x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)  # a parameter that all processes share
    value = call(x * scale + 0.1 * scale, y)
    value.backward()
    shared = scale.grad.clone()
    if world > 1:
        dist.all_reduce(shared)
        dist.all_reduce(value.detach())
    grads = [torch.zeros_like(x) if x.grad is None else x.grad for x in (x, y)]  # a frozen side has none
    return value.detach() / world, grads[0] / world, grads[1] / world, shared / world


def compare(name, call, joined, share, world):
    a, b, _ = batch(sum(SHARES[world]), 4, seed=1)
    whole = value_and_gradients(joined, a, b, 1)
    part = value_and_gradients(call, a[share], b[share], world)
    for found, want in zip(part, (whole[0], whole[1][share], whole[2][share], whole[3]), strict=True):
        assert_close(found, want, rtol=1e-8, atol=1e-9, msg=lambda m: f"{name}: {m}")


def all_losses(rank, world):
    shares = SHARES[world]
    start = sum(shares[:rank])
    share = slice(start, start + shares[rank])
    labels = torch.tensor([0, 1, 0, 2, 1, 1, -1, 3, 0])[: sum(shares)]
    kinds = [("auto", None, "gather"), ("streaming", 2, "gather"), ("streaming", 2, "ring")]
    for kind, tile, plan in kinds if world == 2 else [*kinds[:1], *kinds[2:]]:
        with engine(kind, tile=tile), exchange_plan(plan):
            for name in NEGATIVE:
                loss = CASES[name][0]
                compare(
                    name,
                    lambda a, b, f=loss: f(a, b, labels[share], negatives="global"),
                    lambda a, b, f=loss: f(a, b, labels),
                    share,
                    world,
                )
            compare(
                "extra_positives",
                lambda a, b: befriended(a, b, labels[share], negatives="global"),
                lambda a, b: befriended(a, b, labels),
                share,
                world,
            )
            rows = torch.arange(sum(shares))[share]
            compare(
                "hidden pairs",
                lambda a, b, rows=rows: hidden_pairs(a, b, None, rows, negatives="global"),
                lambda a, b: joined_hidden_pairs(a, b, shares),
                share,
                world,
            )
            partners = [torch.arange(n).roll(1) for n in shares]
            starts = torch.tensor(shares).cumsum(0) - torch.tensor(shares)
            joined = torch.cat([x + at for x, at in zip(partners, starts, strict=True)])
            own = torch.linspace(0.1, 1, sum(shares))
            compare(
                "mixtures",
                lambda a, b, p=partners[rank], x=own[share]: mixtures(a, b, p, x, negatives="global"),
                lambda a, b, p=joined, x=own: mixtures(a, b, p, x),
                share,
                world,
            )
            everything = torch.arange(sum(shares))
            compare(
                "hidden views",
                lambda a, b, rows=rows: hidden_views(a, b, None, rows, negatives="global"),
                lambda a, b, rows=everything: hidden_views(a, b, None, rows),
                share,
                world,
            )


def errors_are_shared(rank, world):
    good = torch.randn(3, 4)
    bad = {"rows": torch.randn(2, 4), "width": torch.randn(3, 5), "type": torch.randn(3, 4).double()}
    for kind, plan in product(bad, ("gather", "ring")):
        mine = bad[kind] if rank == 0 else good
        for loss in (losses.info_nce, losses.nt_xent, losses.clip):
            with exchange_plan(plan), pytest.raises(InputError):
                loss(good if kind == "rows" else mine, mine, negatives="global")
    with pytest.raises(InputError):
        losses.sup_con(good, torch.zeros(3 if rank else 2, dtype=torch.long), negatives="global")
    one = torch.randn(1 if rank == 0 else 0, 4)
    with pytest.raises(InputError, match="one item"):
        losses.dcl(one, one, negatives="global")


def travelling(rank, world):
    """What a ring answers beside the losses, what it refuses, and an error inside a sweep of one rank."""
    shares = SHARES[world]
    q, k, _ = batch(sum(shares), 4, seed=3)
    k[2] = k[-1]  # a tie across ranks
    start = sum(shares[:rank])
    mine = slice(start, start + shares[rank])
    whole = Similarity(q, k, temperature=0.5)
    with exchange_plan("ring"), engine("streaming", tile=2) as choice:
        keys, offset, ring = exchange("global").keys(k[mine])
        assert (offset, keys.shape[0]) == (start, shares[rank])
        s = Similarity(q[mine], Block(keys, ring=ring), temperature=0.5)
        assert s.shape == (shares[rank], sum(shares))
        found = s.reduce(LogSumExp())
        assert choice.visited == -(-shares[rank] // 2) * sum(-(-n // 2) for n in shares)
        assert_close(found, whole.reduce(LogSumExp())[mine])
        for found, want in zip(s.topk(3), whole.topk(3), strict=True):
            assert_close(found.sort(-1).values, want[mine].sort(-1).values)
        small, many = q.mul(2).round(), k.mul(2).round()  # whole numbers: ties between ranks are exact
        ring_keys, _, ring = exchange("global").keys(many[mine])
        found = Similarity(small[mine], Block(ring_keys, ring=ring), similarity="dot").topk(4)
        for x, y in zip(found, Similarity(small, many, similarity="dot").topk(4), strict=True):
            assert torch.equal(x, y[mine])
        for m in (1, 4, torch.arange(1, sum(shares) + 1), 99):
            wanted = whole.threshold(m)[mine]
            assert_close(s.threshold(m if isinstance(m, int) else m[mine]), wanted)
        assert_close(s.reduce(Max()), whole.reduce(Max())[mine])
        for ask in (s.dense, lambda: s.reduce(Count(dim=0)), lambda: s.at(torch.zeros(shares[rank]).long() - 1)):
            with pytest.raises(InputError, match="travel"):
                ask()

        def broken(t):
            if rank == 0:
                raise InputError("this rank's own weight")
            return torch.ones(1, 1, dtype=torch.float64)

        with pytest.raises(InputError, match="own weight" if rank == 0 else "1 of"):
            s.reduce(LogSumExp(weight=function(broken)))


def travelling_fast(rank, world):
    """Log-sum-exps of keys that travel take the fast sweep on all ranks, or on none where float32 would not hold."""
    shares = SHARES[world]
    q, k, labels = (x.float() if x.is_floating_point() else x for x in batch(sum(shares), 4, seed=3))
    start = sum(shares[:rank])
    mine = slice(start, start + shares[rank])
    weight = torch.linspace(0.2, 2, sum(shares))
    for t, slow in ((0.3, False), (0.004, True)):
        inputs = [x.clone().requires_grad_() for x in (q, k, weight)]
        whole = [x.clone().requires_grad_() for x in (q, k, weight)]
        with exchange_plan("ring"), engine("streaming", tile=2) as choice:
            keys, _, ring = exchange("global").keys(inputs[1][mine])
            s = Similarity(inputs[0][mine], Block(keys, ring=ring), temperature=t)
            asked = [LogSumExp(weight=per_column(inputs[2]), where=~same(labels[mine], labels)), LogSumExp(scale=2)]
            assert s.explain(*asked).names == ["ring log-sum-exp"]
            sum(x[x.isfinite()].sum() for x in s.reduce(*asked)).backward()
        assert ("ring sweep" in choice.ran) == slow
        s = Similarity(whole[0], whole[1], temperature=t)
        asked = [LogSumExp(weight=per_column(whole[2]), where=~same(labels)), LogSumExp(scale=2)]
        sum(x[x.isfinite()].sum() for x in s.reduce(*asked)).backward()
        dist.all_reduce(inputs[2].grad)
        for x, y, place in zip(inputs, whole, (mine, mine, slice(None)), strict=True):
            assert_close(x.grad[place], y.grad[place], rtol=1e-4, atol=1e-4)


def sinkhorn_and_queue(rank, world):
    scores = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).double()
    share = slice(0, 3) if rank == 0 else slice(3, 5) if rank == 1 and world == 3 else slice(3 if world == 2 else 5, 7)
    found = losses.sinkhorn(scores[share], group=dist.group.WORLD)
    assert_close(found, losses.sinkhorn(scores)[share], rtol=1e-10, atol=1e-10)
    queue = Queue(6)
    queue.setup(4, 1, 3, 100)
    rows = torch.arange(7)[share]
    queue.update(scores[share].float().repeat(1, 2)[:, :4], Items(rows, torch.full((len(rows), 1), rank)))
    everyone = [torch.empty_like(queue.keys) for _ in range(world)]
    dist.all_gather(everyone, queue.keys)
    assert all(torch.equal(x, queue.keys) for x in everyone)
    assert sorted(queue.keys[:, 0].tolist()) == sorted(scores[1:, 0].float().tolist())


def warns_once(rank, world):
    a, b, _ = batch(3, 4)
    with pytest.warns(UserWarning, match="negatives='local'"):
        losses.clip(a, b)


def work(rank, world, port):
    faulthandler.enable()  # a child that is aborted says where
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    for check in (warns_once, all_losses, travelling, travelling_fast, errors_are_shared, sinkhorn_and_queue):
        check(rank, world)
    dist.barrier()  # none leaves while another still listens
    os._exit(0)  # a thread of gloo that still lets go of a tensor can abort an interpreter that ends


@pytest.mark.parametrize("world", [2, 3])
def test_processes_equal_one(world):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stopping.forkserver()  # what it has imported is there at once
    mp.start_processes(work, (world, port), nprocs=world, start_method="forkserver")
