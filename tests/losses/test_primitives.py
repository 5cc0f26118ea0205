"""CoT's equations against loops from the card, its invariants, and inputs that are hard."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import normalize
from torch.testing import assert_close

from nearfar.errors import InputError
from nearfar.heads.primitives import LabelComposer, ObjectGuidedAttention, Primitives
from nearfar.losses import attribute_shares, composition_scores, cosine_classifier, mixed_pairs
from nearfar.losses.primitives import guide, guided, let_through, mixed

PAIRS = torch.tensor([[0, -1, 0], [2, -1, 1], [0, 1, 1], [1, -1, 0]])


def drawn(*shape, seed=0, grad=False):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_(grad)


def cos(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def naive_classifier(z, classes, target, t):
    total = 0.0
    for row, true in zip(z, target, strict=True):
        s = [cos(row, c) / t for c in classes]
        total += math.log(sum(math.exp(x) for x in s)) - s[int(true)]
    return total / len(z)


def test_the_classifier_is_a_softmax_of_cosines():
    z, classes, y = drawn(5, 4), drawn(6, 4, seed=1), torch.tensor([0, 5, 2, 2, 1])
    for t in (0.05, 0.7):
        want = naive_classifier(z, classes, y, t)
        assert cosine_classifier(z, classes, y, temperature=t).item() == pytest.approx(want, rel=1e-9)
    shares = torch.eye(6, dtype=torch.float64)[y]
    shares[0] = torch.tensor([0.5, 0, 0, 0.5, 0, 0])
    want = (naive_classifier(z[:1], classes, [0], 0.05) + naive_classifier(z[:1], classes, [3], 0.05)) / 2
    want = (want + 4 * naive_classifier(z[1:], classes, y[1:], 0.05)) / 5
    assert cosine_classifier(z, classes, shares).item() == pytest.approx(want, rel=1e-9)
    assert_close(cosine_classifier(3 * z, 0.2 * classes, y), cosine_classifier(z, classes, y))
    assert gradcheck(lambda a, b: cosine_classifier(a, b, y), (z.requires_grad_(), classes.requires_grad_()))


def test_mixed_pairs_by_a_loop():
    u, q, classes = drawn(4, 5), drawn(4, 5, seed=1), drawn(7, 5, seed=2)
    want = 0.0
    for i in range(4):
        own = cos(u[i], q[i]) / 0.1
        others = sum(math.exp(cos(u[i], c) / 0.1) for c in classes)
        want -= math.log(math.exp(own) / (math.exp(own) + others)) / 4
    found = mixed_pairs(u, q, classes)
    assert found.item() == pytest.approx(want, rel=1e-9)
    assert found > 0
    assert_close(mixed_pairs(9 * u, 0.1 * q, 2 * classes), found)
    own = mixed_pairs(u, classes[:4], classes)
    assert own >= math.log(2)
    same = mixed_pairs(classes[:4], classes[:4], classes, temperature=0.01)
    assert same.item() == pytest.approx(math.log(2), abs=1e-6)
    assert gradcheck(mixed_pairs, tuple(x.requires_grad_() for x in (u, q, classes)))


def test_swapping_partners_and_shares_leaves_the_mixture():
    a, b = drawn(3, 4), drawn(3, 4, seed=1)
    assert_close(mixed(a, b, 0.3), mixed(b, a, 0.7))
    assert torch.equal(mixed(a, b, 1.0), a)
    assert torch.equal(mixed(a, b, 0.0), b)


def test_shares_of_attributes():
    want = [[1, 0, 0], [0, 0, 1], [0.5, 0.5, 0], [0, 1, 0]]
    assert attribute_shares(PAIRS, 3).tolist() == want


def test_scores_are_three_cosines():
    p, a, o, y, ea, eo = (drawn(*s, seed=i) for i, s in enumerate([(5, 4)] * 3 + [(4, 4), (3, 4), (2, 4)]))
    found = composition_scores(p, a, o, y, ea, eo, PAIRS)
    for i in range(5):
        for k, pair in enumerate(PAIRS.tolist()):
            used = [x for x in pair[:-1] if x >= 0]
            told = sum(cos(a[i], ea[x]) for x in used) / len(used)
            assert found[i, k].item() == pytest.approx(cos(p[i], y[k]) + told + cos(o[i], eo[pair[-1]]), abs=1e-9)
    assert found.abs().max() <= 3
    rest = found - normalize(p, dim=1) @ normalize(y, dim=1).T
    assert_close(rest[:, 0] - rest[:, 3], normalize(a, dim=1) @ (normalize(ea, dim=1)[0] - normalize(ea, dim=1)[1]))


def test_gates_let_through_less_than_all():
    f, v = drawn(3, 4, 5, 6), drawn(3, 7, seed=1)
    net = ObjectGuidedAttention(7, 4).double()
    channels, through, places = net.gates(f, v)
    for b in range(3):
        for c in range(4):
            g = 1 / (1 + math.exp(-channels[b, c].item()))
            assert_close(through[b, c], f[b, c] * g)
    shown = guide(v, through)
    assert_close(shown[:, 0], v.mean(1)[:, None, None].expand(3, 5, 6))
    assert_close(shown[:, 1], through.mean(1))
    g = net(f, v)
    assert_close(g, f + through * places.sigmoid())
    assert ((g - f).abs() <= f.abs()).all()
    closed = guided(f, let_through(f, torch.full((3, 4), -1e3).double()), places)
    assert torch.equal(closed, f)


def test_the_order_of_places_counts_through_the_gate_alone():
    f, v, net = drawn(2, 4, 3, 3), drawn(2, 5, seed=1), ObjectGuidedAttention(5, 4).double().eval()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    moved = f.flatten(2)[..., order].view_as(f)
    assert_close(net.gates(f, v)[0], net.gates(moved, v)[0])
    assert not torch.allclose(net(f, v).mean((2, 3)), net(moved, v).mean((2, 3)))
    pooled = Primitives(6, [4], 5, "pooled").double().eval()
    assert_close(pooled(drawn(2, 6), [f])[1], pooled(drawn(2, 6), [moved])[1])


@pytest.mark.parametrize("attention", ["object", "pooled", "last"])
def test_vectors_of_a_image(attention):
    net = Primitives(6, [4, 8], 5, attention).double().eval()
    c, maps = drawn(3, 6), [drawn(3, 4, 2, 2, seed=1), drawn(3, 8, 4, 4, seed=2)]
    item, attribute, pair = net(c, maps if attention != "last" else [])
    assert_close(item, net.objects(c))
    seen = maps if attention == "pooled" else [g(x, item) for g, x in zip(net.guides, maps, strict=False)]
    want = c if attention == "last" else torch.cat([x.mean((2, 3)) for x in seen], 1)
    assert_close(attribute, net.attributes(want))
    assert_close(pair, net.pairs[3](net.pairs[1](torch.cat([item, attribute], 1)).relu()))
    assert Primitives(**net.sizes).state_dict().keys() == net.state_dict().keys()
    with pytest.raises(InputError, match="attention"):
        Primitives(6, [4], 5, "objects")


def test_labels_of_pairs_see_each_other_in_training():
    composer = LabelComposer(torch.eye(3, 4), torch.eye(2, 4))
    shares, objects = attribute_shares(PAIRS, 3), PAIRS[:, -1]
    words, things = composer.words(shares, objects)
    assert_close(words[2], (composer.attributes[0] + composer.attributes[1]) / 2)
    assert torch.equal(things, composer.objects[objects])
    before = composer.net[1].running_mean.clone()
    whole = composer.labels(shares, objects)
    assert not torch.equal(composer.net[1].running_mean, before)
    assert not torch.allclose(composer.labels(shares[:3], objects[:3]), whole[:3])
    composer.eval()
    assert_close(composer.labels(shares[:1], objects[:1]), composer.labels(shares, objects)[:1])


def test_hard_inputs():
    z, classes, y = drawn(1, 4), drawn(3, 4, seed=1), torch.tensor([1])
    assert cosine_classifier(z, classes, y).isfinite()  # a batch of one
    assert cosine_classifier(z[:0], classes, y[:0]) == 0
    assert mixed_pairs(z[:0], z[:0], classes) == 0
    zero = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    loss = cosine_classifier(zero, classes, torch.tensor([0, 2]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3))
    assert zero.grad.isfinite().all()
    assert mixed_pairs(zero, zero, classes).item() == pytest.approx(math.log(4))
    assert cosine_classifier(z, z, torch.tensor([0])).item() == pytest.approx(0, abs=1e-9)  # one class alone
    half = cosine_classifier(z.half(), classes.half(), y)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(cosine_classifier(z, classes, y).item(), rel=0.02, abs=1e-2)
    tiny = cosine_classifier(z.float(), classes.float(), y, temperature=1e-4)
    assert tiny.isfinite()
    wide = drawn(4, 3).T
    assert not wide.is_contiguous()
    assert_close(cosine_classifier(wide, classes, y.expand(3)), cosine_classifier(wide.clone(), classes, y.expand(3)))
    with pytest.raises(InputError, match="Vectors of 4 numbers"):
        cosine_classifier(z, drawn(3, 5), y)
    with pytest.raises(InputError, match="temperature"):
        cosine_classifier(z, classes, y, temperature=0.0)
    with pytest.raises(InputError, match="needs a label"):
        mixed_pairs(z, drawn(2, 4), classes)
    random = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    chance = cosine_classifier(random[:2000], random[2000:2050], torch.arange(2000) % 50, temperature=1.0)
    assert chance.item() == pytest.approx(math.log(50), abs=0.02)
