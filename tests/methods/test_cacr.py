"""CACR as a method: its three forms wired to their equations, and trained from the command line."""

import pytest
import torch

from nearfar import losses
from nearfar.errors import InputError
from nearfar.methods.image.cacr import weight_entropy
from nearfar.training import building
from nearfar.training.settings import TrainSettings
from tests.methods.command_line import curve_of


def make(data, **options):
    return building.prepare("cacr", data, TrainSettings(batch_size=8, steps=6, warmup=0), {"dim": 16, **options})


def step(made, number=0):
    batch = made.loader.at(number)
    batch.views = made.method.make_views(batch)
    embedded = made.method.encode(batch)
    made.method.before_targets(batch)
    embedded |= made.method.targets(batch)
    return embedded, batch, made.method.loss(embedded, batch).total


def test_batch_form_is_the_equation_over_k_plus_1_views(emoji_few):
    options = {"positives": 2, "alpha": 2.0, "beta": 0.5, "tau_pos": 0.3, "tau_neg": 0.9, "tau_plus": 0.1}
    made = make(emoji_few, **options, mask_duplicates=False)
    embedded, _, loss = step(made)
    assert len(embedded["views"]) == options.pop("positives") + 1
    assert torch.allclose(loss, losses.cacr(embedded["views"], **options))
    assert made.method.teacher is None
    assert made.method.terms == {}
    more = make(emoji_few, positives=1, views={"name": "multi-crop", "small": 2})
    assert len(step(more)[0]["views"]) == 4
    rbf = make(emoji_few, positives=1, repulsion="rbf", detach_weights=True, mask_duplicates=False)
    embedded, _, loss = step(rbf)
    assert torch.allclose(loss, losses.cacr(embedded["views"], repulsion="rbf"))


def test_queue_form_contrasts_with_the_last_views_of_earlier_steps(emoji_few):
    made = make(emoji_few, form="queue", positives=2, negatives={"name": "queue", "size": 16}, mask_duplicates=False)
    embedded, batch, loss = step(made)
    assert torch.allclose(loss, losses.cacr_queue(embedded["views"], embedded["targets"], []))
    assert len(embedded["targets"]) == 3
    made.method.after_step(embedded, batch)
    queue = made.method.negatives
    assert torch.allclose(queue.keys[queue.filled], embedded["targets"][-1])
    embedded, _, loss = step(made, 1)
    kept = queue.keys[queue.filled]
    assert torch.allclose(loss, losses.cacr_queue(embedded["views"], embedded["targets"], kept))
    made.method.official = True
    theirs = made.method.loss(embedded, batch).total
    assert torch.allclose(theirs, losses.cacr_queue(embedded["views"], embedded["targets"], kept, official=True))
    assert made.resolved["momentum"] == made.method.momentum


def test_momentum_form_predicts_the_teachers_big_views(emoji_few):
    made = make(
        emoji_few, form="momentum", temperature=0.5, mask_duplicates=False, views={"name": "multi-crop", "small": 3}
    )
    embedded, batch, loss = step(made)
    z, targets = embedded["views"], embedded["targets"]
    assert len(z) == 5
    assert len(targets) == 2
    assert torch.allclose(loss, losses.cacr_targets(z, targets, temperature=0.5))
    assert made.resolved["momentum"] == 0.99
    assert made.method.predictor is not None
    loss.backward()
    assert all(p.grad is not None for p in made.method.predictor.parameters() if p.requires_grad)
    assert all(p.grad is None for p in made.method.teacher.parameters())
    before = [p.clone() for p in made.method.teacher.parameters()]
    with torch.no_grad():
        for p in made.method.tower.parameters():
            p.add_(1.0)
    batch.step = batch.steps  # by cosine the momentum has reached 1: the teacher stands still
    made.method.before_targets(batch)
    assert all(torch.equal(p, q) for p, q in zip(before, made.method.teacher.parameters(), strict=True))
    euclidean = make(emoji_few, form="momentum", positives=1, repulsion="euclidean", mask_duplicates=False)
    embedded, _, loss = step(euclidean)
    assert torch.allclose(loss, losses.cacr_targets(embedded["views"], embedded["targets"], cost="euclidean"))


def test_weight_entropy_falls_as_near_negatives_count_more():
    a, b = torch.randn(9, 5), torch.randn(9, 5)
    flat, soft, sharp = (weight_entropy(a, b, tau) for tau in (0.0, 2.0, 200.0))
    assert flat.item() == pytest.approx(torch.log(torch.tensor(8.0)).item(), abs=1e-3)
    assert flat > soft > sharp


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positives": 0}, "positives"),
        ({"negatives": "queue"}, "--form queue"),
        ({"tau_plus": 1.5}, "tau_plus"),
    ],
)
def test_what_does_not_fit_is_refused(emoji_few, options, message):
    with pytest.raises(InputError, match=message):
        step(make(emoji_few, **options))


@pytest.mark.parametrize(
    "words",
    [
        ["--positives", "2", "--repulsion", "rbf"],
        ["--form", "queue", "--positives", "1", "--negatives", "queue", "--negatives.size", "32"],
        ["--form", "momentum", "--views", "multi-crop", "--views.small", "1", "--temperature", "0.2"],
    ],
)
def test_it_trains_from_the_command_line(words, tmp_path, capsys):
    out = tmp_path / "run"
    curve = curve_of("cacr", out, capsys, *words)
    assert curve[-1]["step"] == 12
    assert any("weight_entropy" in line for line in curve)
    assert all("temperature" not in line for line in curve)


def test_the_papers_literals(emoji_few):
    made = building.prepare("cacr", emoji_few, TrainSettings(batch_size=8, steps=2, preset="paper"), {})
    assert made.method.positives == 4
    assert made.method.taus == {"tau_pos": 1.0, "tau_neg": 0.9, "alpha": 1.0, "beta": 1.0}
