"""The equations of bags against loops written from the card of INS, and what must hold for them."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from nearfar.errors import InputError
from nearfar.losses import bags, info_nce
from tests.losses import reference


def drawn(n=7, m=5, d=4, seed=0):
    make = torch.Generator().manual_seed(seed)
    q, k, queue = (normalize(torch.randn(r, d, dtype=torch.float64, generator=make), dim=1) for r in (n, n, m))
    classes, past = torch.randint(0, 2, (n,), generator=make), torch.randint(-1, 2, (m,), generator=make)
    return q, k, queue, classes, past


@pytest.mark.parametrize("tau", [0.07, 0.5])
def test_contrast_is_the_loop(tau):
    q, k, queue, classes, past = drawn()
    found = bags.ins_contrast(q, k, queue, classes, past, temperature=tau)
    assert found.item() == pytest.approx(reference.ins_contrast(q, k, queue, classes, past, temperature=tau), rel=1e-9)


def test_contrast_of_different_classes_is_infonce_over_all_other_rows():
    q, k, queue, _, _ = drawn()
    found = bags.ins_contrast(q, k, queue, torch.arange(7), torch.full((5,), -1), temperature=0.2)
    rows = [torch.cat([q[[j for j in range(7) if j != i]], k, queue]) @ q[i] / 0.2 for i in range(7)]
    wanted = torch.stack([s.logsumexp(0) - q[i] @ k[i] / 0.2 for i, s in enumerate(rows)]).mean()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-9)


def test_contrast_alone_in_the_batch_and_gradients():
    q, k, queue, classes, past = drawn(n=1)
    assert bags.ins_contrast(q, k, queue[:0], classes, past[:0]).item() == pytest.approx(0, abs=1e-12)
    q, k, queue, classes, past = drawn(n=3)
    q.requires_grad_()
    keys, old = k.clone().requires_grad_(), queue.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: bags.ins_contrast(x, k, queue, classes, past, temperature=0.3), (q,))
    bags.ins_contrast(q, keys, old, classes, past).backward()
    assert keys.grad is None
    assert old.grad is None
    half = bags.ins_contrast(*(x.detach().half() for x in (q, k, queue)), classes, past, temperature=0.01)
    assert torch.isfinite(half)
    zero = torch.zeros(3, 4, dtype=torch.float64)
    assert torch.isfinite(bags.ins_contrast(zero, zero, queue, classes, past))
    order = torch.tensor([2, 0, 1])
    one, other = (bags.ins_contrast(q[o], k[o], queue, classes[o], past) for o in (torch.arange(3), order))
    assert one.item() == pytest.approx(other.item(), rel=1e-12), "the order of the batch does not matter"
    with pytest.raises(InputError, match="Queries and keys must be"):
        bags.ins_contrast(q, k[:2], queue, classes, past)


def test_warm_up_sees_the_own_key_and_the_queue_alone():
    q, k, queue, _, _ = drawn()
    found = bags.queue_contrast(q, k, queue, temperature=0.2)
    assert found.item() == pytest.approx(reference.queue_contrast(q, k, queue, temperature=0.2), rel=1e-9)
    alone = [bags.queue_contrast(q[i : i + 1], k[i : i + 1], queue, temperature=0.2).item() for i in range(7)]
    assert found.item() == pytest.approx(np.mean(alone), rel=1e-9), "other rows of the batch have no part"
    assert info_nce(q, k, temperature=0.2).item() != pytest.approx(found.item(), rel=1e-3)


def test_pseudo_classes():
    logits, inside = torch.tensor([[0.0, 3.0], [0.0, 3.0], [2.0, 1.0]]), torch.tensor([True, False, True])
    a = bags.masked_scores(logits, inside)
    torch.testing.assert_close(a, logits.softmax(1) * torch.tensor([[1.0, 1], [1, 0], [1, 1]]))
    assert a.argmax(1).tolist() == [1, 0, 0]
    assert bags.masked_scores(logits * 0, inside).argmax(1).tolist() == [0, 0, 0]


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_prototypes_move_row_by_row(momentum):
    q, _, _, classes, _ = drawn(n=9)
    start = normalize(torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3)), dim=1)
    wanted = start.clone()
    for row, c in zip(q, classes.tolist(), strict=True):
        wanted[c] = momentum * wanted[c] + (1 - momentum) * row
    found = bags.moved_prototypes(start, q, classes, momentum)
    torch.testing.assert_close(found, normalize(wanted, dim=1))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2, dtype=torch.float64))
    one = bags.moved_prototypes(start, q, torch.zeros(9, dtype=torch.long), 0.9)
    torch.testing.assert_close(one[1], start[1])
    assert bags.moved_prototypes(torch.zeros(2, 4).double(), q, torch.zeros(9, dtype=torch.long))[1].norm() == 0
    assert bags.prototype_scores(q, torch.zeros(2, 4).double()).eq(0.5).all()
    with pytest.raises(InputError, match=r"momentum of prototypes must be in \[0, 1\]"):
        bags.moved_prototypes(start, q, classes, 1.1)


def test_soft_targets():
    make = torch.Generator().manual_seed(0)
    targets, inside = torch.rand(8, 1, generator=make), torch.arange(8) % 2 == 0
    targets, scores = torch.cat([1 - targets, targets], 1), torch.rand(8, 2, generator=make)
    for phi in (0.0, 0.3, 1.0):
        found = bags.pseudo_targets(targets, scores, inside, phi)
        for i in range(8):
            hot = int(np.argmax(scores[i] * torch.tensor([1.0, float(inside[i])])))
            wanted = [phi * float(targets[i, c]) + (1 - phi) * (c == hot) for c in (0, 1)] if inside[i] else [1.0, 0.0]
            assert found[i].tolist() == pytest.approx(wanted)
        torch.testing.assert_close(found.sum(1), torch.ones(8))
        assert (found >= 0).all()
    assert bags.pseudo_targets(targets, scores * 0 + 0.5, inside, 0.0)[:, 0].eq(1).all(), "a tie is class 0"
    with pytest.raises(InputError, match="phi must be"):
        bags.pseudo_targets(targets, scores, inside, 2.0)


def test_cross_entropies():
    logits = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    soft = torch.tensor([[1, 0], [0.5, 0.5], [0, 1], [0.2, 0.8], [1, 0]], dtype=torch.float64)
    wanted = [-sum(t * math.log(p) for t, p in zip(soft[i].tolist(), logits[i].softmax(0).tolist(), strict=True))
              for i in range(5)]  # fmt: skip
    assert bags.soft_cross_entropy(logits, soft).item() == pytest.approx(np.mean(wanted))
    assert torch.autograd.gradcheck(lambda x: bags.soft_cross_entropy(x, soft), (logits,))
    assert bags.soft_cross_entropy(logits[:0], soft[:0]).item() == 0
    p, labels = torch.tensor([0.2, 0.9, 0.0, 1.0]), torch.tensor([False, True, False, True])
    assert bags.bag_cross_entropy(p, labels).item() == pytest.approx(-(math.log(0.8) + math.log(0.9)) / 4, rel=1e-4)
    assert torch.isfinite(bags.bag_cross_entropy(p, ~labels))
    z = torch.tensor([-2.0, 3.0, 800.0])
    told = bags.bag_logit_loss(z, torch.tensor([False, True, True])).item()
    assert told == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(-3))) / 3, rel=1e-5)


def test_bags_of_instances():
    p, of = torch.tensor([0.1, 0.8, 0.4, 0.6]), torch.tensor([1, 0, 1, 1])
    assert bags.bag_probabilities(p, of).tolist() == pytest.approx([0.8, 1.1 / 3])
    assert bags.bag_probabilities(p, of, "max").tolist() == pytest.approx([0.8, 0.6])
    lse = [0.8, math.log(np.mean(np.exp([0.1, 0.4, 0.6])))]
    assert bags.bag_probabilities(p, of, "lse").tolist() == pytest.approx(lse)
    assert bags.bag_probabilities(p[:0], of[:0]).shape == (0,)
    with pytest.raises(InputError, match="mean, max or lse"):
        bags.bag_probabilities(p, of, "median")


def test_attention_pooling_of_half_precision_with_weights_that_are_wider():
    """Under autocast the exponential is float32 while the instances are not."""
    h, a, of = torch.randn(6, 3), torch.randn(6), torch.tensor([0, 0, 0, 1, 1, 2])
    pooled, weight = bags.attention_pooling(h.bfloat16(), a, of)
    assert (pooled.dtype, weight.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(pooled.float(), bags.attention_pooling(h, a, of)[0], atol=0.03, rtol=0.03)


def test_attention_pooling_is_the_loop():
    make = torch.Generator().manual_seed(2)
    h, a = torch.randn(6, 3, dtype=torch.float64, generator=make), torch.randn(6, dtype=torch.float64, generator=make)
    of = torch.tensor([0, 2, 2, 1, 0, 2])
    pooled, weight = bags.attention_pooling(h, a, of)
    for b in range(3):
        own = torch.tensor([i for i in range(6) if of[i] == b])
        share = a[own].softmax(0)
        torch.testing.assert_close(weight[own], share)
        torch.testing.assert_close(pooled[b], share @ h[own])
    inputs = (h.requires_grad_(), a.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, y: bags.attention_pooling(x, y, of)[0], inputs)
    steep, _ = bags.attention_pooling(h, a * 1e4, of)
    assert torch.isfinite(steep).all()
