"""PixPro and PixContrast: geometry, propagation and both losses against loops, and the invariants of the card."""

import math

import pytest
import torch

from nearfar.errors import InputError
from nearfar.methods.image.pixpro import (
    Propagation,
    cell_centres,
    crop_coordinates,
    pixcontrast,
    pixpro,
    positive_pixels,
    propagated,
)
from nearfar.models import load
from nearfar.training import building
from nearfar.training.engine import fit
from nearfar.training.settings import TrainSettings
from nearfar.views import TwoCrops

FULL = torch.tensor([[0.0, 0.0, 1.0, 1.0]])


def random_pixels(n=2, p=6, c=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, p, c, generator=g, dtype=torch.float64, requires_grad=True)


def some_positives(n=2, p=6):
    held = torch.zeros(n, p, p, dtype=torch.bool)
    held[0, 0, 1] = held[0, 2, 2] = held[0, 2, 5] = True
    return held


def cosine(a, b):
    return float((a @ b / (a.norm() * b.norm())).detach())


def test_coordinates_of_crops_and_flips():
    views = TwoCrops(flip=0.5)
    drawn = views.draw(40, 24, 30, torch.Generator().manual_seed(0))[0]
    found = crop_coordinates(drawn, 24, 30)
    for box, flip, c in zip(drawn.boxes.tolist(), drawn.flip.tolist(), found.tolist(), strict=True):
        left, right = box[0] / 29, (box[2] - 1) / 29
        left, right = (right, left) if flip else (left, right)
        expected = [left, box[1] / 23, right, (box[3] - 1) / 23]
        assert c == pytest.approx(expected, abs=1e-6)
    assert bool(drawn.flip.any())
    assert not bool(drawn.flip.all())
    whole = TwoCrops(crop=(1.0, 1.0), flip=0.0).draw(1, 8, 8, torch.Generator())[0]
    assert torch.allclose(crop_coordinates(whole, 8, 8), FULL)
    with pytest.raises(InputError, match="no coordinates"):
        crop_coordinates(drawn, 1, 5)


def test_positives_equal_the_loop():
    torch.manual_seed(0)
    corners = torch.rand(5, 2) * 0.4
    a = torch.cat([corners, corners + 0.3 + 0.3 * torch.rand(5, 2)], 1)
    b = torch.cat([corners + 0.1, corners + 0.5], 1)[:, [2, 1, 0, 3]]  # mirrored
    found = positive_pixels(a, b, 3, 4)
    for n in range(5):
        for i in range(12):
            for j in range(12):
                sizes, places = [], []
                for box, k in ((a[n], i), (b[n], j)):
                    w, h = (box[2] - box[0]) / 4, (box[3] - box[1]) / 3
                    places.append((box[0] + (k % 4 + 0.5) * w, box[1] + (k // 4 + 0.5) * h))
                    sizes.append(math.hypot(w, h))
                distance = math.hypot(places[0][0] - places[1][0], places[0][1] - places[1][1])
                assert bool(found[n, i, j]) == (distance / max(sizes) < 0.7)
    assert bool(found.any())
    assert torch.equal(positive_pixels(b, a, 3, 4), found.transpose(1, 2))
    moved = [0.5 * x + 0.2 for x in (a, b)]
    assert torch.equal(positive_pixels(*moved, 3, 4), found)


def test_the_same_crop_pairs_each_cell_with_itself():
    assert torch.equal(positive_pixels(FULL, FULL, 4, 4)[0], torch.eye(16, dtype=torch.bool))
    wider = positive_pixels(FULL, FULL, 4, 4, threshold=0.9)[0]
    assert int(wider[5].sum()) == 5  # itself and its four neighbours


def test_a_mirrored_view_with_its_map_reversed_changes_nothing():
    torch.manual_seed(0)
    a, b = FULL, torch.tensor([[0.2, 0.1, 0.9, 0.8]])
    mirrored = b[:, [2, 1, 0, 3]]
    columns = torch.arange(16).view(4, 4).flip(1).reshape(-1)
    plain, turned = positive_pixels(a, b, 4, 4), positive_pixels(a, mirrored, 4, 4)
    assert torch.equal(turned[:, :, columns], plain)
    x, z = random_pixels(1, 16), random_pixels(1, 16, seed=1)
    assert torch.allclose(pixpro(x, z, plain), pixpro(x, z[:, columns], turned))


def test_centres_are_row_by_row():
    centres, diagonal = cell_centres(FULL, 2, 4)
    assert centres[0, 0].tolist() == [0.125, 0.25]
    assert centres[0, 5].tolist() == [0.375, 0.75]
    assert float(diagonal) == pytest.approx(math.hypot(0.25, 0.5))


def test_propagation_equals_the_loop():
    x, g = random_pixels(), random_pixels(seed=1)
    found = propagated(x, g, gamma=2.0)
    for n in range(2):
        for i in range(6):
            expected = sum(max(cosine(x[n, i], x[n, j]), 0) ** 2 * g[n, j] for j in range(6))
            assert torch.allclose(found[n, i], expected)
    assert torch.autograd.gradcheck(lambda a, b: propagated(a, b), (x, g))
    assert torch.allclose(propagated(5 * x, g), found)
    sharp = propagated(x, g, gamma=1e4)
    assert torch.allclose(sharp, g, atol=1e-6)
    same = torch.ones(1, 5, 3, dtype=torch.float64)
    assert torch.allclose(propagated(same, g[:1, :5, :3]), g[:1, :5, :3].sum(1, keepdim=True).expand(-1, 5, -1))


def test_a_low_gamma_has_a_finite_gradient():
    x = torch.eye(3, dtype=torch.float64)[None].requires_grad_()
    propagated(x, torch.ones(1, 3, 2, dtype=torch.float64), gamma=0.5).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def test_pixpro_equals_the_loop():
    y, target, held = random_pixels(), random_pixels(seed=1), some_positives()
    mean = (cosine(y[0, 0], target[0, 1]) + cosine(y[0, 2], target[0, 2]) + cosine(y[0, 2], target[0, 5])) / 3
    loss = pixpro(y, target, held)
    assert loss.item() == pytest.approx(-2 * mean / 2, rel=1e-5)  # the other image has no positive and counts
    loss.backward()
    assert target.grad is None
    assert torch.autograd.gradcheck(lambda a: pixpro(a, target, held), y)
    everywhere = torch.ones(2, 6, 6, dtype=torch.bool)
    ones = torch.ones(2, 6, 4, dtype=torch.float64)
    assert pixpro(ones, 3 * ones, everywhere).item() == pytest.approx(-2, rel=1e-5)


def test_pixcontrast_equals_the_loop():
    x, target, held = random_pixels(), random_pixels(seed=1), some_positives()
    rows = []
    for i in (0, 2):
        e = [math.exp(cosine(x[0, i], target[0, j]) / 0.3) for j in range(6)]
        rows.append(-math.log(sum(v for v, h in zip(e, held[0, i].tolist(), strict=True) if h) / sum(e)))
    loss = pixcontrast(x, target, held)
    assert loss.item() == pytest.approx(sum(rows) / 2, rel=1e-9)  # the image without a positive is left out
    loss.backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())
    assert target.grad is None
    everywhere = torch.ones(2, 6, 6, dtype=torch.bool)
    assert pixcontrast(x, target, everywhere).item() == pytest.approx(0, abs=1e-9)
    assert torch.autograd.gradcheck(lambda a: pixcontrast(a, target, held), random_pixels())


def test_nothing_in_common_is_zero_with_a_graph():
    x = random_pixels()
    for loss in (pixpro, pixcontrast):
        value = loss(x, random_pixels(seed=1), torch.zeros(2, 6, 6, dtype=torch.bool))
        value.backward()
        assert value.item() == 0


def test_propagation_module_permutes_with_its_pixels():
    torch.manual_seed(0)
    module, x = Propagation(4), torch.randn(2, 4, 3, 3)
    order = torch.randperm(9)
    shuffled = x.flatten(2)[:, :, order].view_as(x)
    assert torch.allclose(module(shuffled).flatten(2), module(x).flatten(2)[:, :, order], atol=1e-5)
    with pytest.raises(InputError, match="layers"):
        Propagation(4, layers=3)


SMALL = {"projector": 16, "dim": 8}


@pytest.mark.parametrize("options", [{}, {"pretext": "contrast"}, {"instance": 1.0, "layers": 2}])
def test_it_trains_and_its_model_loads(options, emoji_few, tmp_path):
    out = tmp_path / "run"
    run = fit("pixpro", emoji_few, out=out, steps=3, batch_size=8, val_every=0, progress=False, **SMALL, **options)
    assert 0 <= run.scores["test"]["primary"] <= 1
    model = load(out / "model")
    assert model.embed(list(emoji_few.images("image", 32, [0, 1]).transpose(0, 2, 3, 1))).shape == (2, 192)


def test_the_teacher_keeps_its_own_statistics_and_gets_no_gradient(emoji_few):
    ready = building.prepare("pixpro", emoji_few, TrainSettings(batch_size=8, steps=4), SMALL)
    method, batch = ready.method, ready.loader.at(0)
    batch.views = method.make_views(batch)
    assert batch.views["places"][0].shape == (8, 4)
    embedded = method.encode(batch)
    method.before_targets(batch)
    embedded |= method.targets(batch)
    loss = method.loss(embedded, batch)
    loss.total.backward()
    assert -4 <= float(loss.total.detach()) <= 4
    assert all(p.grad is None for p in method.teacher.parameters())
    norms = [m for m in method.student.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    twins = [m for m in method.teacher.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms[0].running_mean is not twins[0].running_mean


def test_views_that_cannot_be_traced_are_refused(emoji_few):
    for views in ("members", {"name": "members", "k": 1}):
        with pytest.raises(InputError, match="two crops"):
            building.prepare("pixpro", emoji_few, TrainSettings(batch_size=8, steps=4), {"views": views})


def test_a_crop_mirrored_top_down_keeps_its_places():
    """Its coordinates are swapped, and with its map turned back the positives are the same."""
    plain = TwoCrops(flip=0.0)
    turned = TwoCrops(flip=0.0, flip_vertical=1.0)
    a = plain.draw(6, 40, 40, torch.Generator().manual_seed(0))
    b = turned.draw(6, 40, 40, torch.Generator().manual_seed(0))
    here, other = (crop_coordinates(d, 40, 40) for d in a)
    flipped = crop_coordinates(b[0]._replace(boxes=a[0].boxes), 40, 40)
    assert torch.equal(flipped[:, [0, 3, 2, 1]], here)
    held = positive_pixels(here, other, 5, 5).view(6, 5, 5, 25)
    assert torch.equal(positive_pixels(flipped, other, 5, 5).view(6, 5, 5, 25).flip(1), held)
