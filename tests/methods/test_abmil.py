"""Attention pooling of bags against loops from Ilse et al. (2018, eq. 7 to 9), its invariances, and one step."""

import math

import pytest
import torch

from nearfar.errors import InputError
from nearfar.methods.bags.abmil import Attention, AttentionPooling
from nearfar.training import building
from nearfar.training.settings import TrainSettings

SMALL = {"vector_width": 16, "vector_layers": 1}


def drawn(gated, n=7, d=5, hidden=4):
    torch.manual_seed(3)
    attention, classifier = Attention(d, hidden, gated).double(), torch.nn.Linear(d, 1).double()
    h = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return AttentionPooling(attention, classifier, "tumour"), h, torch.tensor([1, 0, 1, 2, 1, 0, 1])[:n]


def loops(module, h, bags):
    """Probability of each bag, and the attention of each instance as a multiple of the mean one, number by number."""
    a, gate, w = module.attention.main, module.attention.gate, module.attention.score.weight[0].tolist()

    def layer(linear, x):
        return [sum(p * q for p, q in zip(row, x, strict=True)) + b
                for row, b in zip(linear.weight.tolist(), linear.bias.tolist(), strict=True)]  # fmt: skip

    def score(x):  # eq. 8, and eq. 9 with a gate
        opened = [1.0] * len(w) if gate is None else [1 / (1 + math.exp(-u)) for u in layer(gate, x)]
        return sum(c * math.tanh(v) * g for c, v, g in zip(w, layer(a, x), opened, strict=True))

    told, shares = [], [0.0] * len(h)
    for bag in range(int(bags.max()) + 1):
        own = [i for i in range(len(h)) if bags[i] == bag]
        scores = [math.exp(score(h[i].tolist())) for i in own]
        share = [s / sum(scores) for s in scores]
        z = [sum(s * h[i, k].item() for s, i in zip(share, own, strict=True)) for k in range(h.shape[1])]  # eq. 7
        told.append(1 / (1 + math.exp(-layer(module.classifier, z)[0])))
        for s, i in zip(share, own, strict=True):
            shares[i] = s * len(own)
    return shares, told


@pytest.mark.parametrize("gated", [False, True])
def test_answers_are_the_loops(gated):
    module, h, bags = drawn(gated)
    shares, told = loops(module, h, bags)
    instance, bag = module.of_bags(h, bags)
    assert instance.tolist() == pytest.approx(shares, rel=1e-9)
    assert bag.tolist() == pytest.approx(told, rel=1e-9)


@pytest.mark.parametrize("gated", [False, True])
def test_order_and_company_do_not_matter(gated):
    """Within a bag, and of bags; a bag of one is the instance alone; other bags change nothing."""
    module, h, bags = drawn(gated)
    instance, bag = module.of_bags(h, bags)
    order = torch.tensor([6, 3, 0, 5, 2, 1, 4])
    mixed, same = module.of_bags(h[order], bags[order])
    torch.testing.assert_close(mixed, instance[order])
    torch.testing.assert_close(same, bag)
    own = bags == 1
    alone, one = module.of_bags(h[own], torch.zeros(int(own.sum()), dtype=torch.long))
    torch.testing.assert_close(alone, instance[own])
    torch.testing.assert_close(one[0], bag[1])
    single, told = module.of_bags(h[3:4], torch.tensor([0]))
    assert single.item() == pytest.approx(1)
    assert told.item() == pytest.approx(module.classifier(h[3:4]).sigmoid().item(), rel=1e-12)
    assert bag[2].item() == pytest.approx(told.item(), rel=1e-12), "the third bag has one instance"
    twice, copied = module.of_bags(h[own].repeat(2, 1), torch.zeros(2 * int(own.sum()), dtype=torch.long))
    torch.testing.assert_close(copied[0], bag[1])
    torch.testing.assert_close(twice[: len(alone)], alone)


@pytest.mark.parametrize("gated", [False, True])
def test_gradients(gated):
    module, h, bags = drawn(gated, n=5)
    names = [name for name, _ in module.named_parameters()]

    def told(x, *weights):
        return torch.func.functional_call(module, dict(zip(names, weights, strict=True)), (x, bags))

    module.forward = lambda x, of: module.of_bags(x, of)[1]
    inputs = [h.requires_grad_(), *(p.detach().clone().requires_grad_() for p in module.parameters())]
    assert torch.autograd.gradcheck(told, inputs)


def test_extreme_attention_stays_finite():
    module, h, bags = drawn(False)
    with torch.no_grad():
        module.attention.score.weight *= 1e4
    instance, bag = module.of_bags(h, bags)
    assert torch.isfinite(instance).all()
    assert torch.isfinite(bag).all()
    half = module.half()
    assert torch.isfinite(half.of_bags(h.half(), bags)[1]).all()
    equal, _ = drawn(True)[0].of_bags(torch.zeros(7, 5, dtype=torch.float64), bags)
    assert equal.tolist() == pytest.approx([1.0] * 7), "all alike: no instance counts more"


def test_a_step_pools_every_bag_of_the_batch(bags_few):
    """The loss is the mean over the bags of a batch of several."""
    settings = TrainSettings(batch_size=24, steps=4, warmup=0, **SMALL)
    made = building.prepare("abmil", bags_few, settings, {"attention": 6, "gated": True})
    method, batch = made.method.double().eval(), made.loader.at(0)
    batch.views = {r: [x.double() for x in v] for r, v in method.make_views(batch).items()}
    names, of = batch.bags.unique(return_inverse=True)
    assert len(names) == 4
    embedded = method.encode(batch)
    _, told = loops(AttentionPooling(method.attention, method.classifier, "tumour"), embedded["features"].detach(), of)
    hot = [bags_few.target_names[bags_few.targets[batch.rows[of == b]][0]] == "tumour" for b in range(len(names))]
    want = [-math.log(p if positive else 1 - p) for p, positive in zip(told, hot, strict=True)]
    assert method.loss(embedded, batch).total.item() == pytest.approx(sum(want) / len(want), rel=1e-6)
    assert 0 < sum(hot) < len(hot)


def test_views_of_a_group_are_refused(bags_few):
    settings = TrainSettings(batch_size=8, steps=4, warmup=0, **SMALL)
    with pytest.raises(InputError, match="are for images, but the data are vectors"):
        building.prepare("abmil", bags_few, settings, {"views": "members"})
