"""Hydra: pairs, gates and loss against loops over the whole (N, M, D), and what its card says of them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.testing import assert_close

from nearfar import losses
from nearfar.errors import InputError
from nearfar.heads import PairGate
from nearfar.losses.gated import gated_pairs, pair_rows
from nearfar.similarity import ExcludedPairs, engine
from nearfar.similarity.exchange import exchange
from tests.losses import reference

ENGINES = (("dense", None), ("streaming", 3))


def scene(n=8, d=5, seed=0, classes=4):
    make = torch.Generator().manual_seed(seed)
    q, k, g = (torch.randn(n, d, dtype=torch.float64, generator=make) for _ in range(3))
    y = torch.randint(0, classes, (n,), generator=make)
    return q, k, g.sigmoid(), y, y[torch.randperm(n, generator=make)]


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 8), seed=st.integers(0, 9999), classes=st.integers(1, 5), own=st.booleans(),
       reduction=st.sampled_from(["pairs", "anchors"]), temperature=st.sampled_from([0.05, 0.1, 1.0]),
       unknown=st.booleans(), subtract=st.sampled_from([None, 0.5]))  # fmt: skip
def test_the_loss_is_its_equation(n, seed, classes, own, reduction, temperature, unknown, subtract):
    q, k, g, y, y2 = scene(n, 4, seed, classes)
    if unknown:
        y[0] = -1
        y2[-1] = -1
    options = {"temperature": temperature, "reduction": reduction, "own": own, "subtract": subtract}
    k = q if own else k
    want = reference.hydra(q, k, g, y, y2, **options)
    for kind, tile in ENGINES:
        with engine(kind, tile=tile):
            assert losses.hydra(q, k, g, y, y2, **options).item() == pytest.approx(want, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize(("kind", "tile"), ENGINES)
def test_gradients(kind, tile):
    q, k, g, y, y2 = scene(6, 4, seed=2, classes=3)
    found = []
    for options in ({}, {"subtract": 0.5}, {"reduction": "anchors", "own": True}):
        with engine(kind, tile=tile):
            inputs = [x.clone().requires_grad_() for x in (q, k, g)]
            call = lambda a, b, c, o=options: losses.hydra(a, a if o.get("own") else b, c, y, y2, **o)  # noqa: E731
            call(*inputs).backward()
            found.append([torch.zeros_like(x) if x.grad is None else x.grad for x in inputs])
            if kind == "dense":
                assert gradcheck(call, inputs, atol=1e-6)
            else:
                dense = [x.clone().requires_grad_() for x in (q, k, g)]
                with engine("dense"):
                    call(*dense).backward()
                for x, grad in zip(dense, found[-1], strict=True):
                    assert_close(grad, torch.zeros_like(x) if x.grad is None else x.grad, rtol=1e-9, atol=1e-11)


def test_the_two_products_are_the_explicit_filter():
    q, k, g, _, _ = scene(7, 6)
    g[2] = 0
    g[3, :5] = 0
    filtered = losses.filtered_cosine(q, k, g)
    for i in range(7):
        a = torch.nn.functional.normalize(g[i] * q[i], dim=0, eps=1e-12)
        b = torch.nn.functional.normalize(g[i] * k, dim=1, eps=1e-12)
        assert_close(filtered[i], b @ a, rtol=1e-10, atol=1e-10)
    assert (filtered[2] == 0).all()
    assert_close(filtered[3].abs(), torch.ones(7, dtype=torch.float64))
    a, b = losses.released_similarity(q, k, g, 0.25)
    u, v = torch.nn.functional.normalize(q, dim=1), torch.nn.functional.normalize(k, dim=1)
    assert_close(a @ b.T, (g.square() * u) @ v.T - 0.25 * u @ v.T)


def test_open_gates_and_single_labels_are_info_nce_and_identical_pairs_have_the_class_mates():
    q, k, g, _, _ = scene()
    alone = torch.arange(8)
    for gates in (None, torch.ones_like(q), torch.full_like(q, 0.3)):
        assert_close(losses.hydra(q, k, gates, alone, alone), losses.info_nce(q, k, temperature=0.1))
    assert not torch.allclose(losses.hydra(q, k, g, alone, alone), losses.info_nce(q, k, temperature=0.1))
    y = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    count = pair_rows(gated_pairs(q, k, None, y, y, temperature=0.1, subtract=None, own=False, excluded=None,
                                  net=exchange("local")))[1]  # fmt: skip
    assert count.tolist() == [3, 3, 3, 2, 2, 3, 3, 3]


def test_only_the_ratios_of_a_gate_count_and_no_length():
    q, k, g, y, y2 = scene(seed=3)
    value = losses.hydra(q, k, g, y, y2)
    assert_close(losses.hydra(q, k, g * (0.1 + torch.rand(8, 1).double()), y, y2), value)
    assert_close(losses.hydra(q * (0.1 + torch.rand(8, 1).double()), k * (0.1 + torch.rand(8, 1)), g, y, y2), value)
    assert_close(losses.hydra(q, k, g * 1e-20, y, y2), value)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert_close(losses.hydra(q[:, order], k[:, order], g[:, order], y, y2), value)
    released = losses.hydra(q, k, g, y, y2, subtract=0.0)
    assert not torch.allclose(losses.hydra(q, k, g / 2, y, y2, subtract=0.0), released)
    rows = torch.tensor([7, 2, 1, 0, 6, 5, 3, 4])
    assert_close(losses.hydra(q[rows], k[rows], g[rows], y[rows], y2[rows]), value)


def test_a_closed_dimension_has_no_gradient():
    q, k, g, _, _ = scene(seed=4)
    g[:, 2] = 0
    g[0, 2] = 0.5
    slopes = torch.autograd.functional.jacobian(lambda v: losses.filtered_cosine(v, k, g), q)  # (row, key, item, dim)
    assert slopes[1, :, 1, 2].abs().max() < 1e-12
    assert slopes[1, :, 1, 3].abs().max() > 1e-3
    assert slopes[0, :, 0, 2].abs().max() > 1e-3


def rows_of(q, k, g, y, y2):
    total, count = pair_rows(gated_pairs(q, k, g, y, y2, temperature=0.1, subtract=None, own=False, excluded=None,
                                         net=exchange("local")))  # fmt: skip
    return total, count


def test_keys_of_the_first_class_and_other_positives_have_no_say():
    q, k, g, _, _ = scene(6, 5, seed=5)
    y, y2 = torch.tensor([0, 1, 1, 2, 0, 2]), torch.tensor([1, 0, 2, 2, 1, 0])
    before = rows_of(q, k, g, y, y2)[0]
    moved = k.clone()
    moved[4] = -3 * moved[4] + 1  # of class 0, the first class of rows 0 and 4
    after = rows_of(q, moved, g, y, y2)[0]
    assert (after == before).tolist() == [True, False, False, False, True, False]
    # Each positive stands alone in its denominator: without the other one its term is the same.
    less = torch.tensor([0, 1, -1, 2, 0, 2])
    both = rows_of(q, k, g, y, y2)[0][0]
    first = rows_of(q, k, g, less, y2)[0][0]
    other = rows_of(q, k, g, torch.tensor([0, -1, 1, 2, 0, 2]), torch.tensor([1, -1, 2, 2, 1, 0]))[0][0]
    assert_close(both, first + other)


def test_limits():
    q, k, g, y, y2 = scene(seed=6)
    total, count = pair_rows(gated_pairs(q, k, g, y, y2, temperature=1e9, subtract=None, own=False, excluded=None,
                                         net=exchange("local")))  # fmt: skip
    classes = zip(y.tolist(), y2.tolist(), strict=True)
    negatives = torch.tensor([sum(c not in pair for c in y.tolist()) for pair in classes])
    assert_close(total, count * (1 + negatives.double()).log())
    two = torch.tensor([0, 1] * 4)
    x = q.clone().requires_grad_()
    nothing = losses.hydra(x, k, g, two, 1 - two)  # no key of a third class
    nothing.backward()
    assert nothing.item() == 0
    assert (x.grad == 0).all()
    absent = losses.hydra(x, k, g, torch.zeros(8).long(), torch.ones(8).long())  # no key of the second class
    assert absent.item() == 0
    absent.backward()
    assert losses.hydra(q[:1], q[:1], g[:1], two[:1], two[:1], own=True) == 0
    assert losses.hydra(q[:0], k[:0], g[:0], two[:0], two[:0]) == 0
    assert (rows_of(q, k, g, y, y2)[0] >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_half_precision_small_temperatures_zero_vectors_and_other_strides(dtype):
    q, k, g, y, y2 = scene(9, 6, seed=7)
    q, k, g = ((x * 4).round().div(4).to(dtype) for x in (q, k, g + 0.2))
    q[0] = k[3] = 0
    exact = losses.hydra(q.double(), k.double(), g.double(), y, y2, temperature=0.005)
    for kind, tile in ENGINES:
        with engine(kind, tile=tile), torch.autocast("cpu", dtype=torch.bfloat16):
            x = q.clone().requires_grad_()
            value = losses.hydra(x, k, g, y, y2, temperature=0.005)
            value.backward()
        assert value.dtype == torch.float32
        assert_close(value.double(), exact, rtol=1e-4, atol=1e-3)
        assert x.grad.isfinite().all()
    wide = torch.stack([q, k, g], -1)
    assert_close(losses.hydra(*wide.unbind(-1), y, y2), losses.hydra(q, k, g, y, y2))


def test_duplicates_of_another_class_are_no_negatives():
    q, k, g, _, _ = scene(5, 4, seed=8)
    y, y2, ids = torch.tensor([0, 1, 2, 1, 0]), torch.tensor([1, 0, 2, 1, 0]), torch.tensor([7, 7, 7, -1, -1])
    found = losses.hydra(q, k, g, y, y2, excluded=ExcludedPairs([(ids, ids)]))
    never = {(i, j) for i in range(3) for j in range(3)}
    assert found.item() == pytest.approx(reference.hydra(q, k, g, y, y2, never=never))
    assert found < losses.hydra(q, k, g, y, y2)


def test_how_second_classes_are_drawn():
    y = torch.tensor([0, 0, 1, 2, 2, 2, -1])
    make = torch.Generator().manual_seed(0)
    drawn = [losses.draw_partners(y, generator=make) for _ in range(50)]
    assert all(torch.equal(x.sort().values, y.sort().values) for x in drawn)
    assert len({tuple(x.tolist()) for x in drawn}) > 20
    assert torch.equal(losses.draw_partners(y, "identical"), y)
    held = torch.tensor([0, 1, 2, 5])
    apart = torch.stack([losses.draw_partners(y, "distinct", classes=held, generator=make) for _ in range(300)])
    assert (apart[:, :-1] != y[:-1]).all()
    assert (apart[:, -1] == -1).all()
    for i in range(6):
        values, counts = apart[:, i].unique(return_counts=True)
        assert values.tolist() == [c for c in held.tolist() if c != y[i]]
        assert (counts > 65).all()
    again = [losses.draw_partners(y, "distinct", generator=torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(*again)
    with pytest.raises(InputError, match="two classes at least"):
        losses.draw_partners(torch.zeros(4).long(), "distinct")
    with pytest.raises(InputError, match="'pairs' must be"):
        losses.draw_partners(y, "some")


def test_near_classes_are_paired_more_readily():
    y, coarse = torch.tensor([0, 0, 1, 2, 3, 1]), torch.tensor([5, -1, 5, 2, -1, 5])
    distance = losses.class_distances(y, coarse, 4)
    assert distance.tolist() == [[0, 2, 4, 4], [2, 0, 4, 4], [4, 4, 0, 4], [4, 4, 4, 0]]
    weights = losses.pair_weights(distance, 2.0)
    assert_close(weights[0], torch.tensor([1, 1 / 9, 1 / 25, 1 / 25]))
    assert (losses.pair_weights(distance, 0.0) == 1).all()
    rows = torch.cat([y, torch.tensor([-1])])
    make = torch.Generator().manual_seed(1)
    drawn = torch.stack([losses.draw_partners(rows, weights=weights, generator=make) for _ in range(3000)])
    share = torch.stack([(drawn[:, 0] == c).float().mean() for c in range(4)])
    likely = torch.tensor([2.0, 2 / 9, 1 / 25, 1 / 25])
    assert_close(share, likely / likely.sum(), rtol=0, atol=0.03)
    assert (drawn[:, -1] == -1).all()
    assert (losses.draw_partners(torch.full((3,), -1), weights=weights) == -1).all()


@pytest.mark.parametrize("kind", ["pair", "product", "stochastic", "gumbel"])
def test_gates(kind):
    torch.manual_seed(0)
    gate = PairGate(5, 6, 8, 16, kind).double()
    first, second = torch.tensor([0, 1, 2, 3, 3]), torch.tensor([1, 1, 4, 0, 2])
    one = gate(first, second, torch.Generator().manual_seed(1))
    torch.testing.assert_close(gate(second, first, torch.Generator().manual_seed(1)), one)
    noisy = not torch.equal(one, gate(first, second, torch.Generator().manual_seed(2)))
    assert noisy == (kind in ("stochastic", "gumbel"))
    gate.eval()
    still = gate(first, second)
    assert torch.equal(still, gate(first, second))
    assert still.shape == (5, 6)
    assert ((still >= 0) & (still <= 1)).all()
    if kind == "stochastic":
        assert (one.detach() - still).std() > 0.2
    assert not torch.allclose(still[0], still[1]), "both classes choose it"
    assert not torch.allclose(still[0], still[3])
    assert_close(gate.of_classes()[1], gate(torch.tensor([1]), torch.tensor([1]))[0])
    if kind == "product":
        alone = gate.net(gate.vectors.weight).sigmoid()
        assert_close(still[2], alone[2] * alone[4])
    if kind == "stochastic":
        a = gate.net((gate.vectors.weight[first] + gate.vectors.weight[second]) / 2)
        assert_close(still, (a + 0.5).clamp(0, 1))
    if kind == "pair":
        e = (gate.vectors.weight[2] + gate.vectors.weight[4]) / 2
        assert_close(still[2], gate.net(e[None])[0].sigmoid())
    with pytest.raises(InputError, match="gate"):
        PairGate(5, 6, 8, 16, "round")


def test_a_gate_by_hand():
    """Two batch norms over the pairs of the batch, each after its ReLU."""
    torch.manual_seed(3)
    gate = PairGate(4, 3, 5, 7).double()
    first, second = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 2, 3, 3])
    e = ((gate.vectors.weight[first] + gate.vectors.weight[second]) / 2).relu()
    normed = (e - e.mean(0)) / (e.var(0, unbiased=False) + 1e-5).sqrt()
    h = (normed @ gate.net[2].weight.T + gate.net[2].bias).relu()
    normed = (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt()
    assert_close(gate(first, second), (normed @ gate.net[5].weight.T + gate.net[5].bias).sigmoid())


def test_entropy_and_overlap_of_gates():
    assert losses.gate_entropy(torch.full((3, 4), 0.5)).item() == pytest.approx(math.log(2))
    assert losses.gate_entropy(torch.tensor([[0.0, 1.0]])).item() == pytest.approx(0, abs=1e-4)
    g = torch.tensor([[0.2, 0.9]], dtype=torch.float64, requires_grad=True)
    want = -sum(p * math.log(p) + (1 - p) * math.log(1 - p) for p in (0.2, 0.9)) / 2
    assert losses.gate_entropy(g).item() == pytest.approx(want)
    assert gradcheck(losses.gate_entropy, (g,))
    overlap = losses.gate_overlap(torch.tensor([[1.0, 0.0], [0.0, 0.5], [0.3, 0.3]]))
    assert_close(overlap, torch.tensor([[1, 0, 0.5**0.5], [0, 1, 0.5**0.5], [0.5**0.5, 0.5**0.5, 1]]))


@pytest.mark.parametrize(("change", "told"), [
    ({"keys": torch.ones(3, 2)}, r"\(n, D\) alike"), ({"gates": torch.ones(2, 3)}, r"\(n, D\) alike"),
    ({"labels": torch.zeros(3).long()}, "Labels and partners"), ({"reduction": "sum"}, "reduction"),
    ({"temperature": 0.0}, "temperature"),
])  # fmt: skip
def test_wrong_inputs(change, told):
    y = torch.zeros(2).long()
    plain = {"query": torch.eye(2), "keys": torch.eye(2), "gates": None, "labels": y, "partners": y}
    with pytest.raises(InputError, match=told):
        losses.hydra(**(plain | change))
