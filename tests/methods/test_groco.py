"""GroCo as a method: views, options, the control, and the way from the command line."""

import json

import pytest
import torch

from nearfar import losses
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.losses import rows
from nearfar.methods.image.groco import GroCo
from nearfar.similarity import own_view
from nearfar.training import building
from nearfar.training.settings import TrainSettings
from tests.losses import reference
from tests.methods.test_contract import step

CROPS = {"name": "multi-crop", "big": 2, "small": 2}


def setup(data, size=8, **options):
    return building.prepare("groco", data, TrainSettings(batch_size=size, steps=6, warmup=0), {"dim": 16, **options})


@pytest.mark.parametrize(("options", "targets", "count"), [
    ({}, 2, 2), ({"draws": 2}, 4, 4), ({"views": CROPS}, 2, 4), ({"views": CROPS, "draws": 2}, 4, 8),
    ({"views": {"name": "members", "k": 3}}, 3, 3),
])  # fmt: skip
def test_a_step_is_the_equation(emoji_few, options, targets, count):
    made = setup(emoji_few, **options, top_k=3, steepness=2.0, mask_duplicates=False)
    embedded, _, loss = step(made)
    z = [v.detach() for v in embedded["views"]]
    assert len(z) == count
    want = reference.groco(z, top_k=3, steepness=2.0, targets=targets)
    assert loss.total.item() == pytest.approx(want, rel=1e-4)
    assert loss.total.item() == pytest.approx(losses.groco(z, top_k=3, steepness=2.0, targets=targets).item())


def test_crops_that_may_be_positives_come_first(emoji_few):
    made = setup(emoji_few, views=CROPS, draws=2)
    batch = made.loader.at(0)
    sides = [v.shape[-1] for v in made.method.make_views(batch)["image"]]
    assert sides == [sides[0]] * 4 + [sides[-1]] * 4
    assert sides[0] > sides[-1]
    drawn = setup(emoji_few, draws=2).method.make_views(batch)["image"]
    assert all(not torch.equal(a, b) for k, a in enumerate(drawn) for b in drawn[k + 1 :])


def test_the_control_and_other_losses(emoji_few):
    """NT-Xent over the same negatives, the mean over an anchor's positives; and SimCLR's layout with the same head."""
    made = setup(emoji_few, loss="nearest", top_k=3, draws=2, mask_duplicates=False)
    assert made.method.row_loss.top_k == 3
    embedded, _, loss = step(made)
    z = embedded["views"]
    parts = [rows.nearest_rows(s, top_k=3).mean() for s in own_view(z, temperature=0.5).parts]
    assert len(parts) == 12
    assert torch.allclose(loss.total, torch.stack(parts).mean(), atol=1e-6)
    embedded, _, loss = step(setup(emoji_few, own_view=False, loss="infonce", temperature=0.2, mask_duplicates=False))
    assert torch.allclose(loss.total, losses.nt_xent(*embedded["views"], temperature=0.2), atol=1e-6)
    for name in ("dcl", "hard", "triplet", "cacr"):
        assert torch.isfinite(step(setup(emoji_few, loss=name, views=CROPS))[2].total)
    elsewhere = building.prepare("simclr", emoji_few, TrainSettings(batch_size=8, steps=6, warmup=0), {"loss": "groco"})
    assert torch.isfinite(step(elsewhere)[2].total)


def test_with_detach_the_gradient_comes_from_the_anchors(emoji_few):
    made = setup(emoji_few, detach=False, mask_duplicates=False)
    embedded, batch, loss = step(made)
    assert torch.allclose(loss.total, losses.groco(embedded["views"]))
    views = [v.detach().requires_grad_() for v in embedded["views"]]
    grads = []
    for made.method.detach in (True, False):
        total = made.method.loss({"views": views}, batch).total
        grads.append(torch.autograd.grad(total, views[0])[0])
    wanted = torch.autograd.grad(losses.groco(views), views[0])[0]
    assert torch.allclose(grads[0], wanted)
    assert not torch.allclose(grads[1], wanted)


def test_the_curve_tells_how_many_anchors_are_in_order(emoji_few):
    made = setup(emoji_few, mask_duplicates=False)
    embedded, batch, loss = step(made)
    ordered = rows.in_order(own_view(embedded["views"], together=True).parts[0])
    assert loss.terms["ordered"].item() == pytest.approx(ordered.double().mean().item())
    far_apart = torch.eye(8, 16)
    assert made.method.loss({"views": [far_apart, far_apart]}, batch).terms["ordered"] == 1


def test_a_batch_smaller_than_k(emoji_few):
    assert setup(emoji_few, top_k=10).resolved["top_k"] == 7
    assert "top_k" not in setup(emoji_few, top_k=7).resolved


def test_errors(emoji_few):
    with pytest.raises(InputError, match="two views that may be positives"):
        setup(emoji_few, views={"name": "multi-crop", "big": 1, "small": 3})
    with pytest.raises(InputError, match="and no labels"):
        setup(emoji_few, loss="supcon")
    with pytest.raises(InputError, match="'top_k' belongs to the loss 'groco'"):
        building.method_options("groco", {"top_k": 3, "loss": "infonce"}, "auto")
    with pytest.raises(InputError, match="has no temperature to learn"):
        setup(emoji_few, learn_temperature=True)
    for option, value in (("top_k", 0), ("steepness", -1.0), ("draws", 0), ("negatives", "queue"), ("momentum", 0.9)):
        with pytest.raises(InputError, match=option):
            building.method_options("groco", {option: value}, "auto")


def test_the_papers_head_views_and_rate(emoji_few):
    made = building.prepare(
        "groco", emoji_few, TrainSettings(batch_size=16, steps=6, preset="paper"), {"projector": 32}
    )
    head = list(made.method.tower.head)
    assert [type(x).__name__ for x in head] == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear", "BatchNorm1d"]
    assert [x.bias is None for x in head if isinstance(x, torch.nn.Linear)] == [True] * 3
    assert [x.affine for x in head if isinstance(x, torch.nn.BatchNorm1d)] == [True, True, False]
    assert head[-2].out_features == 2048
    assert made.method.optimisation.lr == pytest.approx(24 * 16 / 1024)
    assert made.method.optimisation.optimiser == "sgd"
    first, second = made.method.plan.augments(224, 224)
    assert (first.blur, second.blur, first.solarise, second.solarise) == (1.0, 0.1, 0.0, 0.2)
    for one in (first, second):
        assert (one.crop, one.flip, one.brightness, one.contrast, one.saturation, one.hue, one.jitter, one.grey) == (
            (0.14, 1.0), 0.5, 0.4, 0.4, 0.2, 0.1, 0.8, 0.2)  # fmt: skip
    found = building.method_options("groco", {"views": {"name": "multi-crop", "blur": (1.0, 0.1, 0.5)}}, "paper")
    built = building.options.instantiate([GroCo], found)["views"]
    assert [(a.blur, a.solarise, a.crop, a.size) for a in built.augments(224, 224)] == [
        (1.0, 0.0, (0.14, 1.0), None), (0.1, 0.2, (0.14, 1.0), None), *[(0.5, 0.0, (0.05, 0.14), 96)] * 6]  # fmt: skip


def test_from_the_command_line(tmp_path, capsys):
    """fit on numbers and on texts, then the report of one."""
    run = tmp_path / "run"
    small = ["--limit", "300", "--steps", "30", "--batch-size", "32", "--val-every", "0", "--device", "cpu"]
    assert main(["fit", "groco", "digits", "--vector-width", "16", "--draws", "2", *small, "--out", str(run)]) == 0
    curve = [json.loads(x) for x in (run / "curve.jsonl").read_text().splitlines()]
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert "ordered" in curve[-1]
    texts = tmp_path / "notes.txt"
    things, sides = ("river", "stone", "wall", "bird", "tree"), ("colour", "age", "name", "song")
    texts.write_text("\n".join(f"a note on the {thing} and its {side}" for thing in things for side in sides))
    words = ["fit", "groco", str(texts), "--loss", "nearest", "--dry-run", "--batch-size", "8"]
    assert main(words) == 0
    assert "top_k 7" in capsys.readouterr().out
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
