"""MoCHi as a method: its host, its defaults, its queue. The equations: tests/negatives/test_mixing.py."""

import json

import pytest
import torch

from nearfar import methods
from nearfar.negatives import Mixing
from nearfar.training import building
from nearfar.training.engine import fit
from nearfar.training.settings import TrainSettings
from tests.methods.test_contract import step


def setup(data, slug="mochi", **options):
    return building.prepare(slug, data, TrainSettings(batch_size=8, steps=20, warmup=0), options)


def trained(made, count):
    """Some steps as the engine runs them, without an optimiser."""
    embedded, losses = {}, []
    for number in range(count):
        made.method.before_draw(number)
        embedded, batch, loss = step(made, number)
        losses.append(loss)
        made.method.after_step({k: [x.detach() for x in v] for k, v in embedded.items()}, batch)
    return losses, embedded


def test_defaults_are_its_host_with_a_random_queue(emoji_few):
    made = setup(emoji_few)
    part = made.method.negatives
    assert isinstance(part, Mixing)
    assert not part.in_batch
    assert part.filled.all()
    assert part.capacity == 16, "two batches: a run of 20 steps"
    assert made.method.momentum == pytest.approx(0.85), "the teacher looks back over a third of it"
    assert not made.method.both_directions
    assert made.resolved["negatives.hard"] == 8
    paper = building.method_options("mochi", {}, "paper")
    assert paper.momentum == 0.999
    assert vars(paper.negatives.init_args)["mixed"] == 1024


def test_one_direction_against_the_teacher_alone(emoji_few):
    made = setup(emoji_few, negatives={"name": "queue", "size": 16, "in_batch": False, "random_start": True})
    embedded, _, loss = step(made)
    q, k = embedded["views"][0], embedded["targets"][1]
    z, t, queue = (torch.nn.functional.normalize(x, dim=1) for x in (q, k, made.method.negatives.keys))
    logits = torch.cat([(z * t).sum(1, keepdim=True), z @ queue.T], 1) / 0.2
    expected = torch.nn.functional.cross_entropy(logits, torch.zeros(8, dtype=torch.long))
    torch.testing.assert_close(loss.total, expected)


def test_mixing_hardens_the_same_batch(emoji_few):
    with_none = {"name": "mixing", "size": 16, "mixed": 0, "with_query": 0, "start": 0.0, "in_batch": False}
    plain, _ = trained(setup(emoji_few, negatives=with_none), 3)
    mixed, _ = trained(setup(emoji_few, negatives=with_none | {"mixed": 6, "with_query": 6}), 3)
    assert all(a.total < b.total for a, b in zip(plain[1:], mixed[1:], strict=True))


def test_after_some_steps_the_queue_holds_the_teachers_keys(emoji_few):
    made = setup(emoji_few, negatives={"name": "mixing", "size": 16, "start": 0.0, "in_batch": False})
    _, embedded = trained(made, 2)
    assert torch.equal(made.method.negatives.keys[8:], embedded["targets"][1])
    assert made.method.negatives.filled.all()


@pytest.mark.parametrize(
    ("slug", "loss"), [("mochi", "dcl"), ("contriever", "dcl"), ("simclr", "supcon"), ("pairs", "hcl")]
)
def test_mixing_with_any_loss_in_any_method(slug, loss, emoji_few):
    made = setup(emoji_few, slug, negatives={"name": "mixing", "size": 16, "start": 0.0}, loss=loss)
    made.method.log_every = 1
    losses, _ = trained(made, 3)
    assert all(torch.isfinite(x.total) for x in losses)
    assert losses[-1].terms["mixed_mass"] > 0
    losses[-1].total.backward()


def test_the_curve_tells_of_the_mixtures(emoji_few, tmp_path):
    run = fit(
        "mochi",
        emoji_few,
        out=tmp_path / "run",
        steps=6,
        batch_size=16,
        val_every=0,
        progress=False,
        negatives={"name": "mixing", "size": 32, "start": 0.4, "in_batch": False},
    )
    lines = [json.loads(x) for x in (run.path / "curve.jsonl").read_text().splitlines()]
    assert "mixed_mass" not in lines[0]
    assert 0 < lines[-1]["mixed_mass"] < 1
    assert {"proxy", "mixed_hardest", "cos_mixed", "cos_with_query"} <= set(lines[-1])
    assert methods.describe("mochi")["paper"]["venue"] == "NeurIPS 2020"
