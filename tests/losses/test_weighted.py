"""Negatives with weights (MEOW, AdaMEOW): loops over pairs, invariants, and what makes their losses run away."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import normalize
from torch.testing import assert_close

from nearfar import losses
from nearfar.errors import InputError

CLUSTERS = torch.tensor([[0, 0, 1, 1, 2, 2], [1, 1, 1, 0, 0, 1]])


def vectors(n=6, d=4, seed=0):
    make = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, dtype=torch.float64, generator=make) for _ in range(2)]


def naive(u, v, w, tau):
    u, v, n = normalize(u), normalize(v), len(u)
    rows = []
    for i in range(n):
        below = [float(w[i, j]) * math.exp(float(u[i] @ v[j]) / tau) for j in range(n)]
        if sum(below) > 0:
            rows.append(-math.log(math.exp(float(u[i] @ v[i]) / tau) / sum(below)))
    return sum(rows) / len(rows)


@pytest.mark.parametrize("tau", [0.1, 0.9])
def test_contrast_equals_its_loops(tau):
    u, v = vectors()
    w = losses.cluster_weights(CLUSTERS)
    loop = [[2 - sum(int(c[i] == c[j]) for c in CLUSTERS) for j in range(6)] for i in range(6)]
    assert w.tolist() == loop
    assert torch.equal(w, w.T)
    assert (w.diagonal() == 0).all()
    assert losses.weighted_contrast(u, v, w, temperature=tau).item() == pytest.approx(naive(u, v, w, tau), rel=1e-9)
    soft = torch.rand(6, 6, dtype=torch.float64)
    assert losses.weighted_contrast(u, v, soft, temperature=tau).item() == pytest.approx(naive(u, v, soft, tau))


def test_gradients():
    u, v = (x.requires_grad_() for x in vectors(5, 3))
    w = losses.cluster_weights(CLUSTERS[:, :5])
    soft = torch.rand(5, 5, dtype=torch.float64).add(0.1).requires_grad_()
    assert gradcheck(lambda u, v: losses.weighted_contrast(u, v, w), (u, v))
    assert gradcheck(lambda u, w: losses.weighted_contrast(u, v, losses.balanced_weights(w)), (u, soft))
    layers = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in [(2, 3), (2,), (2,), ()]]
    assert gradcheck(losses.learned_weights, (u, v, *layers))
    centres, phi = torch.randn(3, 3, dtype=torch.float64), torch.rand(3, dtype=torch.float64) + 0.5
    assert gradcheck(lambda u: losses.prototype_contrast(u, centres, CLUSTERS[0, :5], phi), (u,))


def test_singletons_give_decoupled_contrast():
    u, v = vectors()
    alone = torch.stack([torch.arange(6)] * 3)
    w = losses.cluster_weights(alone)
    assert_close(w, 3 * (1 - torch.eye(6)))
    plain = losses.weighted_contrast(u, v, 1 - torch.eye(6), temperature=0.5)
    assert_close(losses.weighted_contrast(u, v, w, temperature=0.5), plain + math.log(3))
    low = -2 / 0.5 + math.log(5)
    assert low <= plain <= 2 / 0.5 + math.log(5)
    tight = torch.ones(6, 4, dtype=torch.float64)
    assert_close(losses.weighted_contrast(tight, tight, 1 - torch.eye(6)).item(), math.log(5))


def test_nodes_that_share_all_clusters_do_not_push():
    u, v = (x.requires_grad_() for x in vectors())
    w = losses.cluster_weights(CLUSTERS)
    assert w[0, 1] == 0

    def row(i):  # the part of an anchor: the others have no weight and leave the mean
        alone = torch.zeros_like(w)
        alone[i] = w[i]
        return losses.weighted_contrast(u, v, alone)

    push = torch.autograd.grad(row(0), v)[0]
    assert (push[1] == 0).all()
    assert (push[[0, 2, 3, 4, 5]].norm(dim=1) > 0).all()


def test_numbers_of_clusters_mean_nothing_and_members_do():
    u, v = vectors()
    renamed = torch.stack([torch.tensor([2, 0, 1])[CLUSTERS[0]], 1 - CLUSTERS[1]])
    assert torch.equal(losses.cluster_weights(renamed), losses.cluster_weights(CLUSTERS))
    moved = CLUSTERS[:, torch.tensor([2, 0, 4, 1, 5, 3])]
    assert not torch.equal(losses.cluster_weights(moved), losses.cluster_weights(CLUSTERS))

    def prototypes(one):
        centres = losses.centres_of(v, one, 3)
        return losses.prototype_contrast(u, centres, one, losses.concentration(v, centres, one))

    assert_close(prototypes(renamed[0]), prototypes(CLUSTERS[0]))


def test_learned_weights_equal_their_loops():
    a, b = vectors()
    layers = [torch.randn(s, dtype=torch.float64) for s in [(3, 4), (3,), (3,), ()]]
    found = losses.learned_weights(a, b, *layers)
    w1, b1, w2, b2 = layers
    for i in range(6):
        for j in range(6):
            assert_close(found[i, j], torch.sigmoid(w2 @ torch.tanh(w1 @ (a[i] + b[j]) + b1) + b2))
    swapped = losses.learned_weights(torch.cat([b[3:4], a[1:]]), torch.cat([b[:3], a[:1], b[4:]]), *layers)
    assert_close(swapped[0, 3], found[0, 3])
    assert losses.learned_weights(a[:0], b, *layers).shape == (0, 6)
    ones = losses.learned_weights(a, b, w1, b1, w2, torch.tensor(1e9, dtype=torch.float64))
    whole = losses.weighted_contrast(a, b, ones, temperature=0.5)
    s = normalize(a) @ normalize(b).T / 0.5
    assert_close(whole, torch.nn.functional.cross_entropy(s, torch.arange(6)))
    assert whole >= 0


def test_without_a_mean_weights_run_away():
    u, v = vectors()
    some = torch.rand(6, 6, dtype=torch.float64) + 0.1
    values = [losses.weighted_contrast(u, v, some * 10.0**-k).item() for k in (0, 10, 100)]
    assert values == pytest.approx([values[0] - k * math.log(10) for k in (0, 10, 100)])
    assert values[-1] < -200
    held = [losses.weighted_contrast(u, v, losses.balanced_weights(some * 10.0**-k)) for k in (0, 10, 100)]
    assert_close(held[0], held[2])
    assert_close(losses.balanced_weights(some).mean(1), torch.ones(6, dtype=torch.float64))
    assert (losses.balanced_weights(0 * some) == 0).all()


def test_rows_without_negatives_leave_the_mean():
    u, v = (x.requires_grad_() for x in vectors())
    w = losses.cluster_weights(torch.zeros(2, 6, dtype=torch.int64))
    nothing = losses.weighted_contrast(u, v, w)
    nothing.backward()
    assert nothing.item() == 0
    assert (u.grad == 0).all()
    w = losses.cluster_weights(CLUSTERS)
    w[2] = 0
    assert losses.weighted_contrast(u, v, w).item() == pytest.approx(naive(u.detach(), v.detach(), w, 1.0))
    w.requires_grad_()
    u.grad = None
    losses.weighted_contrast(u, v, w).backward()
    assert torch.isfinite(torch.as_tensor(w.grad)).all()
    assert torch.isfinite(torch.as_tensor(u.grad)).all()


def naive_concentration(z, centres, y, tau, measure):
    z, centres = normalize(z), normalize(centres)
    raw, single = [], []
    for k in range(len(centres)):
        members = [i for i in range(len(z)) if y[i] == k]
        if len(members) < 2:
            single.append(k)
            raw.append(0.0)
            continue
        cos = [float(z[i] @ centres[k]) for i in members]
        roots = [math.sqrt(max(0.0, 2 - 2 * c if measure == "distance" else c)) for c in cos]
        raw.append(sum(roots) / len(roots) / math.log(len(members) + 5))
    for k in single:
        raw[k] = max(raw)
    raw = np.clip(raw, *np.percentile(raw, [10, 90]))
    return tau * raw / raw.mean()


@pytest.mark.parametrize("measure", ["distance", "similarity"])
def test_prototypes_equal_their_loops(measure):
    u, v = vectors(9)
    y = torch.tensor([0, 0, 0, 1, 1, 2, 4, 4, 4])  # 2 has one member, 3 none
    centres = losses.centres_of(v, y, 5)
    unit = normalize(v)
    assert_close(centres[1], normalize(unit[3:5].mean(0), dim=0))
    assert (centres[3] == 0).all()
    phi = losses.concentration(v, centres, y, temperature=0.4, measure=measure)
    expected = naive_concentration(v, centres, y, 0.4, measure)
    assert phi.tolist() == pytest.approx(expected.tolist(), rel=1e-12)
    total, a = 0.0, normalize(u)
    for i in range(9):
        terms = [math.exp(float(a[i] @ centres[k]) / expected[k]) for k in range(5)]
        total -= math.log(terms[int(y[i])] / (9 / 5 * sum(terms))) / 9
    found = losses.prototype_contrast(u, centres, y, phi)
    assert found.item() == pytest.approx(total)
    assert found >= math.log(9 / 5)
    centres.requires_grad_()
    phi.requires_grad_()
    u.requires_grad_()
    losses.prototype_contrast(u, centres, y, phi).backward()
    assert centres.grad is None
    assert phi.grad is None
    assert torch.as_tensor(u.grad).norm() > 0


def test_tight_clusters_are_sharp_by_distance_and_flat_by_similarity():
    z = torch.tensor([[1.0, 0.05], [1, -0.05], [1, 1.5], [-1, 1.5], [-1, -1.5], [-0.5, -1.5]])
    y = torch.tensor([0, 0, 1, 1, 2, 2])
    centres = losses.centres_of(z, y, 3)
    near, far = (losses.concentration(z, centres, y, measure=m) for m in ("distance", "similarity"))
    assert near[0] < near[1]
    assert far[0] > far[1]


def test_degenerate_input():
    same = torch.ones(4, 3)
    y = torch.zeros(4, dtype=torch.int64)
    one = losses.centres_of(same, y, 2)
    assert_close(losses.concentration(same, one, y, temperature=0.3), torch.full((2,), 0.3))
    opposite = losses.concentration(same, -one, y, temperature=0.3, measure="similarity")
    assert opposite.isfinite().all()
    zero = torch.zeros(4, 3, requires_grad=True)
    w = 1 - torch.eye(4)
    loss = losses.weighted_contrast(zero, same, w) + losses.prototype_contrast(zero, one, y, torch.ones(2))
    loss.backward()
    assert torch.isfinite(torch.as_tensor(zero.grad)).all()
    assert losses.weighted_contrast(same[:1], same[:1], w[:1, :1]).item() == 0
    assert losses.weighted_contrast(same[:0], same[:0], w[:0, :0]).item() == 0
    u, v = vectors()
    half = losses.weighted_contrast(u.half(), v.half(), losses.cluster_weights(CLUSTERS), temperature=0.01)
    assert half.dtype == torch.float32
    exact = losses.weighted_contrast(u.half().double(), v.half().double(), losses.cluster_weights(CLUSTERS),
                                     temperature=0.01)  # fmt: skip
    assert half.item() == pytest.approx(exact.item(), rel=1e-4)
    turned = losses.weighted_contrast(u.T.contiguous().T, v, losses.cluster_weights(CLUSTERS))
    assert_close(turned, losses.weighted_contrast(u, v, losses.cluster_weights(CLUSTERS)))
    with pytest.raises(InputError, match=r"weights \(n, n\)"):
        losses.weighted_contrast(u, v, w)
    with pytest.raises(InputError, match="positive"):
        losses.weighted_contrast(u, v, losses.cluster_weights(CLUSTERS), temperature=0.0)
    with pytest.raises(InputError, match="concentration for each"):
        losses.prototype_contrast(u, one, CLUSTERS[0], torch.ones(3))
