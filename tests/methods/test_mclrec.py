"""MCLRec: three updates of a step by hand, who changes when, its variants, and what training sees."""

import copy

import numpy as np
import pytest
import torch

from nearfar import losses, methods
from nearfar.errors import InputError
from nearfar.heads.augmenter import Augmenter
from nearfar.methods.recommending import covering
from nearfar.sources.interactions import log_of
from nearfar.training import building, engine
from nearfar.training.settings import TrainSettings
from tests.contract.test_phases import Watch
from tests.methods.test_one_step import CL4SRec, MCLRecJoint, without_dropout

OPTIONS = {"weight": 0.3, "temperature": 0.7, "beta": 0.2, "regularise": 0.4}


def prepared(data, slug="mclrec", **options):
    settings = TrainSettings(batch_size=8, steps=4, warmup=0, schedule="constant", optimiser="adam", lr=1e-3,
                             weight_decay=0.0, device="cpu", history_width=16, history_inner=16)  # fmt: skip
    return building.prepare(slug, data, settings, options)


class Naive(MCLRecJoint):
    """Both losses of the card; the updates are made by the test."""

    def second(self, batch):
        h1, h2 = (h.detach() for h in self.states(batch))
        z1, z2 = (self.made_of(h, w.net) for h, w in zip((h1, h2), self.method.augmenters, strict=True))
        apart = sum(losses.pair_contrast(a, b) for a, b in ((z1, z2), (h1, z2), (h2, z1)))
        easy = sum(losses.contrast_regulariser(a, b, temperature=0.7) for a, b in ((h1, z2), (h2, z1), (z1, z2)))
        return apart + 0.4 * easy


def adam(parameters, grads, state, lr=1e-3, b1=0.9, b2=0.999):
    """One step as it is published."""
    with torch.no_grad():
        for p, g in zip(parameters, grads, strict=True):
            if g is None:
                continue
            m, v, t = state.get(p, (torch.zeros_like(p), torch.zeros_like(p), 0))
            m, v, t = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g, t + 1
            state[p] = m, v, t
            p -= lr * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + 1e-8)


@pytest.mark.parametrize("updates", [2, 3])
def test_two_steps_are_those_of_the_card(updates, log_few):
    made = prepared(log_few, updates=updates, **OPTIONS)
    without_dropout(made.method)
    begun = copy.deepcopy(made.method)
    engine.trainer_for(made, [], 2).fit(made.method, made.loader)
    made.loader.start = 0
    arm, state = Naive(begun.train(), made), {}
    theta, phi = list(begun.tower.parameters()), list(begun.augmenters.parameters())
    for _, batch in zip(range(2), made.loader, strict=False):
        for turn in ["theta", "phi", "theta"][:updates]:
            mine = theta if turn == "theta" else phi
            loss = arm.loss(batch, 0) if turn == "theta" else arm.second(batch)
            adam(mine, torch.autograd.grad(loss, mine, allow_unused=True), state)
    for name, p in made.method.named_parameters():
        wanted = dict(begun.named_parameters())[name].detach()
        torch.testing.assert_close(p.detach(), wanted, rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_each_update_changes_its_own_parameters_alone_and_the_gradient_passes(log_few):
    made, seen, before = prepared(log_few, **OPTIONS), [], {}

    def watch(method, optimizer):
        changed = {
            n.split(".")[0] for n, p in method.named_parameters() if n in before and not torch.equal(before[n], p)
        }
        held = {n.split(".")[0] for n, p in method.named_parameters() if p.grad is not None}
        seen.append((held, changed))
        before.update({n: p.detach().clone() for n, p in method.named_parameters()})

    engine.trainer_for(made, [Watch(watch)], 2).fit(made.method, made.loader)
    assert [held for held, _ in seen] == [{"tower"}, {"augmenters"}, {"tower"}] * 2
    assert [changed for _, changed in seen[1:]] == [held for held, _ in seen[:-1]]
    assert made.method.trainer.global_step == 2
    batch = made.loader.at(0)
    batch.views = made.method.make_views(batch)
    without_dropout(made.method)

    def gradient():
        loss = made.method.encoder_loss(batch).total
        return torch.autograd.grad(loss, made.method.own.table.weight)[0]

    one = gradient()
    with torch.no_grad():
        made.method.augmenters[0].net[0].weight.add_(0.5)
    assert not torch.equal(one, gradient())


def test_without_weights_the_encoder_is_trained_as_sasrec(log_few):
    made, plain = prepared(log_few, weight=0.0, beta=0.0), prepared(log_few, "sasrec", positions="last")
    for one in (made, plain):
        without_dropout(one.method)
    plain.method.tower.load_state_dict(made.method.tower.state_dict())
    batches = []
    for one in (made, plain):
        batch = one.loader.at(0)
        batch.views = one.method.make_views(batch)
        batches.append(batch)
    assert torch.equal(batches[0].rows, batches[1].rows)
    assert torch.allclose(made.method.encoder_loss(batches[0]).total,
                          plain.method.loss(plain.method.encode(batches[1]), batches[1]).total)  # fmt: skip


def test_variants(log_few):
    assert len(prepared(log_few).method.phases()) == 3
    assert [p.name for p in prepared(log_few, updates=2).method.phases()] == ["encoder", "augmenters"]
    joint = prepared(log_few, joint=True).method
    assert joint.phases() == ()
    one = prepared(log_few, one_augmenter=True).method
    assert one.augmenters[0] is one.augmenters[1]
    assert joint.augmenters[0] is not joint.augmenters[1]
    assert [layer.out_features for layer in list(joint.augmenters[0].net)[::2]] == [8, 4, 16]
    with pytest.raises(InputError, match="updates"):
        prepared(log_few, joint=True, updates=2)
    with pytest.raises(InputError, match="trains the table of items"):
        building.prepare("mclrec", log_few, TrainSettings(freeze=True, steps=2), {})


def test_augmenters_give_unit_vectors_whatever_the_scale_of_their_last_layer():
    torch.manual_seed(0)
    made, h = Augmenter(8, (4, 2)), torch.randn(5, 8)
    z = made(h)
    assert torch.allclose(z.norm(dim=1), torch.ones(5), atol=1e-6)
    with torch.no_grad():
        made.net[4].weight.mul_(7)
        made.net[4].bias.mul_(7)
    assert torch.allclose(made(h), z, atol=1e-6)


def test_rows_of_all_positions_cover_every_following_item_once(log_few):
    log, rows, length = log_of(log_few), log_few.splits["train"], 4
    told = []
    for row in covering(log_few, rows, length):
        (codes,), (n,) = log.spans.of([row], length)
        user = log.users[row]
        told += [(user, item) for item in [*codes[1:n].tolist(), int(log.items[row])]]
    assert sorted(told) == sorted((log.users[row], log.items[row]) for row in rows)


def test_prefixes_are_samples_where_each_is_told_alone(log_few):
    made = prepared(log_few)
    assert len(made.loader.table.rows) == made.loader.sampler.items == len(log_few.splits["train"])
    all_at_once = prepared(log_few, "sasrec")
    assert all_at_once.loader.sampler.items < made.loader.sampler.items
    assert methods.get("cl4srec").defaults["positions"] == "last"
    assert np.isin(made.loader.table.rows, log_few.splits["train"]).all()
    assert CL4SRec.every is False
