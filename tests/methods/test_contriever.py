"""Contriever: a teacher without gradient, negatives from the queue alone, the papers' in-batch form."""

import math

import pytest
import torch

from nearfar.methods.contrast import auto_momentum
from nearfar.mixture import corpus_shares
from nearfar.momentum import momentum_at
from nearfar.negatives.queue import auto_size
from nearfar.similarity import normalise
from nearfar.training import building
from nearfar.training.settings import TrainSettings


def prepare(data, **options):
    return building.prepare("contriever", data, TrainSettings(batch_size=8, steps=20, warmup=0), options)


def embed(made, number=0):
    batch = made.loader.at(number)
    batch.views = made.method.make_views(batch)
    embedded = made.method.encode(batch)
    made.method.before_targets(batch)
    with torch.no_grad():
        embedded |= made.method.targets(batch)
    return embedded, batch


def test_loss_is_cross_entropy_against_the_queue(emoji_few):
    made = prepare(
        emoji_few,
        negatives={"name": "queue", "size": 32, "in_batch": False, "random_start": True},
        mask_duplicates=False,
    )
    made.method.eval()
    embedded, batch = embed(made)
    loss = made.method.loss(embedded, batch).total
    q, k = normalise(embedded["views"][0]), normalise(embedded["targets"][1])
    queue = made.method.negatives.keys
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / 0.05
    expected = torch.nn.functional.cross_entropy(logits, torch.zeros(8, dtype=torch.long))
    assert torch.allclose(loss, expected, atol=1e-5)
    loss.backward()
    assert all(p.grad is None for p in made.method.teacher.parameters())


def test_in_batch_form_is_one_directional_info_nce(emoji_few):
    from nearfar.losses import info_nce

    made = prepare(emoji_few, negatives=None, momentum=None, mask_duplicates=False)
    embedded, batch = embed(made)
    loss = made.method.loss(embedded, batch).total
    z = embedded["views"]
    assert torch.allclose(loss, info_nce(z[0], z[1], temperature=0.05))


def test_paper_preset_compares_inner_products(emoji_few):
    made = prepare(emoji_few, normalise=False, negatives=None, momentum=None, mask_duplicates=False)
    embedded, batch = embed(made)
    z = embedded["views"]
    logits = z[0] @ z[1].T / 0.05
    assert torch.allclose(
        made.method.loss(embedded, batch).total, torch.nn.functional.cross_entropy(logits, torch.arange(8)), rtol=1e-5
    )


def test_teacher_follows_before_keys_are_made(emoji_few):
    made = prepare(emoji_few, momentum=0.5)
    student = [p.detach().clone() for p in made.method.tower.parameters()]
    with torch.no_grad():
        for p in made.method.tower.parameters():
            p.add_(1)
    embed(made)
    for old, now in zip(student, made.method.teacher.parameters(), strict=True):
        assert torch.allclose(now, old + 0.5, atol=1e-6)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.99), (50, 0.995), (100, 1.0), (150, 1.0)])
def test_cosine_momentum(step, expected):
    assert momentum_at(step, 100, 0.99, 1.0, "cosine") == pytest.approx(expected)
    assert momentum_at(step, 100, 0.99) == 0.99


def test_auto_momentum_gives_the_papers_value_at_its_scale():
    assert auto_momentum(131072, 2048, 500_000) == pytest.approx(0.99844, abs=1e-5)
    assert 0.99 <= auto_momentum(128, 64, 500_000) <= 0.9995
    for queue, batch in ((1024, 64), (65536, 256)):
        m = auto_momentum(queue, batch, 500_000)
        assert (1 - m) * queue / batch <= 0.1 + 1e-9 or m == 0.9995


@pytest.mark.parametrize(("steps", "size", "most"), [(100, 256, 0.97), (300, 256, 0.99), (3000, 1280, 0.999)])
def test_a_short_run_has_a_short_queue_and_a_quick_teacher(steps, size, most):
    assert auto_size(128, 1_000_000, steps) == size
    assert auto_momentum(131072, 128, steps) == pytest.approx(min(most, 0.9995))
    assert auto_size(128, 1_000_000, 1_000_000) == 65536
    assert auto_size(128, 2000, 1_000_000) == 384, "at most a quarter of the samples"


def test_corpora():
    assert corpus_shares([10, 90], 0.0).tolist() == [0.5, 0.5]
    assert corpus_shares([10, 90], 1.0) == pytest.approx([0.1, 0.9])
    assert math.isclose(corpus_shares([1, 99], 0.5).sum(), 1)
