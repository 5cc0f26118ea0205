"""SwAV's order of things: who gives codes, when the queue counts, what stays frozen."""

import pytest
import torch

from nearfar.errors import InputError
from nearfar.losses import sinkhorn, swapped_prediction
from nearfar.methods.batch import Facts
from nearfar.methods.image.swav import auto_prototypes, auto_queue
from nearfar.training import building
from nearfar.training.settings import TrainSettings


@pytest.fixture
def made(emoji_few):
    settings = TrainSettings(batch_size=8, steps=40, warmup=0)
    options = {
        "prototypes": 12,
        "queue": 16,
        "queue_start": 0.0,
        "freeze_prototypes": 2,
        "eps": 0.05,
        "views": {"name": "multi-crop", "big": 2, "small": 2},
    }
    return building.prepare("swav", emoji_few, settings, options)


def run(made, number):
    batch = made.loader.at(number)
    batch.views = made.method.make_views(batch)
    made.method.before_targets(batch)
    embedded = made.method.encode(batch)
    return embedded, batch


def test_loss_is_the_papers(made):
    embedded, batch = run(made, 0)
    z, centres = embedded["views"], made.method.centres
    loss = made.method.loss(embedded, batch).total
    scores = [v @ centres.weight.T for v in z]
    codes = [sinkhorn(scores[c].detach(), eps=0.05, iterations=3) for c in range(2)]
    expected = torch.stack(
        [
            torch.stack(
                [-(codes[c] * torch.log_softmax(scores[v] / 0.1, 1)).sum(1).mean() for v in range(4) if v != c]
            ).mean()
            for c in range(2)
        ]
    ).mean()
    assert torch.allclose(loss, expected)
    assert torch.allclose(swapped_prediction(scores, codes, temperature=0.1), expected)


def test_prototypes_have_unit_length_when_used(made):
    with torch.no_grad():
        made.method.centres.weight.mul_(3)
    run(made, 0)
    assert torch.allclose(made.method.centres.weight.norm(dim=1), torch.ones(12))


def test_queue_is_newest_first_and_counts_only_when_full(made):
    method = made.method
    seen = []
    for number in range(3):
        embedded, batch = run(made, number)
        full = int(method.queued) >= 16
        assert full == (number >= 2)
        z = embedded["views"]
        codes = method.codes(z[0], 0, number, 40)
        alone = sinkhorn(method.scores(z[0]).detach(), eps=0.05, iterations=3)
        assert torch.allclose(codes, alone) != full
        if full:
            joint = sinkhorn(
                torch.cat([method.scores(method.queue[0]), method.scores(z[0])]).detach(), eps=0.05, iterations=3
            )
            assert torch.allclose(codes, joint[-8:])
        seen.insert(0, z[0].detach().clone())
        method.after_step({"views": [x.detach() for x in z]}, batch)
    assert torch.allclose(method.queue[0], torch.cat(seen)[:16])


def test_prototypes_are_frozen_at_first(made):
    embedded, batch = run(made, 0)
    made.method.loss(embedded, batch).total.backward()
    assert made.method.centres.weight.grad is not None
    made.method.before_step()
    assert made.method.centres.weight.grad is None
    assert next(made.method.tower.parameters()).grad is not None


def test_codes_are_constants(made):
    embedded, _ = run(made, 0)
    codes = made.method.codes(embedded["views"][0], 0, 0, 40)
    assert not codes.requires_grad
    assert torch.allclose(codes.sum(1), torch.ones(8), atol=1e-5)


def test_one_view_is_refused(emoji_few):
    with pytest.raises(InputError, match="at least two crops"):
        building.prepare(
            "swav",
            emoji_few,
            TrainSettings(batch_size=8, steps=4),
            {"views": {"name": "multi-crop", "big": 1, "small": 0}},
        )


@pytest.mark.parametrize(
    ("steps", "batch", "prototypes", "queue"),
    [(300, 128, 128, 0), (3000, 128, 384, 10 * 128), (600, 16, 30, 32), (1_000_000, 256, 3000, 3840)],
)
def test_short_runs_have_few_prototypes_and_a_short_queue(steps, batch, prototypes, queue):
    facts = Facts(samples=1_000_000, items=1_000_000, batch_size=batch, steps=steps)
    assert auto_prototypes(facts) == prototypes
    assert auto_queue(facts, prototypes) == queue
