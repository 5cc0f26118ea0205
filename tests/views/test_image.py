"""Batched image views against one-by-one references, and what every plan promises."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as tv
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from nearfar import views
from nearfar.errors import InputError
from nearfar.views import Augment, colour, geometry, randaugment
from nearfar.views.image import Drawn

CPU = torch.device("cpu")
NO_FLIP = torch.zeros(1, dtype=torch.bool)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 6, height: int = 20, width: int = 24, seed: int = 1) -> torch.Tensor:
    """Smooth random images (noise would make rounding differences large)."""
    coarse = torch.rand(n, 3, 5, 5, generator=generator(seed))
    fine = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    return (fine.clamp(0, 1) * 255).round().to(torch.uint8)


def loop_crop(image, box, flip, size):
    x0, y0, x1, y1 = (int(v) for v in box)
    part = F.interpolate(image[None, :, y0:y1, x0:x1].double(), size, mode="bilinear", antialias=True)[0]
    return (part.flip(-1) if flip else part).float()


@pytest.mark.parametrize("size", [(8, 8), (20, 31), (40, 12)])
def test_both_crop_engines_equal_a_loop_of_float64_resizes(size):
    x = images(height=26, width=30)
    boxes = geometry.draw_boxes(torch.rand(6, 4, generator=generator()), 26, 30, (0.05, 1.0), (0.5, 2.0))
    flip = torch.tensor([0, 1, 0, 1, 1, 0], dtype=torch.bool)
    expected = torch.stack([loop_crop(*row, size) for row in zip(x, boxes, flip)])
    assert_close(geometry._crop_by_products(x, boxes, flip, size), expected, atol=2e-3, rtol=0)
    assert_close(geometry._crop_one_by_one(x, boxes, flip, size), expected, atol=1.01, rtol=0)  # rounds to uint8


def test_large_images_take_the_other_engine_and_give_the_same_view():
    large = images(4, 70, 70)
    augment = Augment(size=40, crop=(0.3, 1.0), flip=0.5)
    drawn = augment.draw(4, 70, 70, generator())
    by_products = geometry._crop_by_products(large, drawn.boxes, drawn.flip, (40, 40)) / 255
    assert_close(augment.apply(large, drawn), by_products, atol=1.01 / 255, rtol=0)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 1), st.floats(0, 1), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_boxes_lie_in_the_image(height, width, low, more, seed):
    high = low + (1 - low) * more
    u = torch.rand(50, 4, generator=generator(seed))
    boxes = geometry.draw_boxes(u, height, width, (low, high), (3 / 4, 4 / 3))
    x0, y0, x1, y1 = boxes.unbind(1)
    assert (x0 >= 0).all()
    assert (y0 >= 0).all()
    assert (x1 <= width).all()
    assert (y1 <= height).all()
    assert (x1 > x0).all()
    assert (y1 > y0).all()


def test_area_of_boxes_is_uniform_in_the_range():
    u = torch.rand(20000, 4, generator=generator())
    boxes = geometry.draw_boxes(u, 200, 300, (0.2, 1.0), (3 / 4, 4 / 3)).float()
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 60000
    fits = area < 0.85  # beyond, a 3:2 image cannot hold a box of the wanted shape
    assert_close(area.clamp(max=0.85).mean(), torch.tensor(0.2 + 0.65 * (1 - 0.65 / 0.8 / 2)), atol=0.01, rtol=0)
    assert 0.79 < fits.float().mean() < 0.84
    ratio = ((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1]))[fits]
    assert ratio.min() > 0.74
    assert ratio.max() < 1.36


@pytest.mark.parametrize(
    ("degrees", "zoom", "shift"), [(10.0, 1.0, (0.0, 0.0)), (0.0, 1.3, (0.1, 0.0)), (-30.0, 0.8, (0.0, -0.2))]
)
def test_affine_equals_torchvision_inside_the_image(degrees, zoom, shift):
    x, full = images(1, 32, 32), geometry.full_boxes(1, 32, 32, CPU)
    ours = geometry.affine(
        x, full, NO_FLIP, (32, 32), torch.tensor([math.radians(degrees)]), torch.tensor([zoom]), torch.tensor([shift])
    )
    theirs = tv.affine(
        x.float(),
        -degrees,
        [32 * shift[0], 32 * shift[1]],
        zoom,
        [0.0, 0.0],
        interpolation=tv.InterpolationMode.BILINEAR,
        fill=[-1000.0],
    )
    outside = (theirs[0].amin(0) < 0).float()  # what they fill with nothing (and blend at its rim), we fill with
    inside = F.max_pool2d(outside[None], 3, 1, 1)[0] == 0  # the edge
    assert inside.float().mean() > 0.4
    assert_close(ours[0][:, inside], theirs[0][:, inside], atol=0.02, rtol=1e-3)


def test_affine_with_a_flip_mirrors_and_with_a_box_crops():
    x, full = images(1, 16, 16), geometry.full_boxes(1, 16, 16, CPU)
    still = (torch.zeros(1), torch.ones(1), torch.zeros(1, 2))
    assert_close(geometry.affine(x, full, ~NO_FLIP, (16, 16), *still), x.flip(-1).float(), atol=1e-3, rtol=0)
    box = torch.tensor([[4, 2, 12, 10]])
    assert_close(geometry.affine(x, box, NO_FLIP, (8, 8), *still), x[:, :, 2:10, 4:12].float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("name", "factor"), [("brightness", 0.6), ("contrast", 0.5), ("saturation", 0.3)])
def test_single_colour_changes_equal_torchvision(name, factor):
    x = (images(3) // 2 + 40).float()  # far from the limits, where torchvision clamps between steps
    change = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0} | {name: factor}
    ours = colour.mix_colours(
        x.clone(),
        *(torch.full((3,), value) for value in change.values()),
        torch.zeros(3),
        torch.arange(4).expand(3, 4),
        torch.zeros(3, dtype=torch.bool),
    )
    theirs = getattr(tv, f"adjust_{name}")(x / 255, factor)
    assert_close(ours, theirs, atol=2e-3, rtol=0)  # torchvision's luminance has four digits


def test_colour_order_matters_and_follows_the_given_order():
    x = (images(2) // 2 + 40).float()
    values = [torch.full((2,), v) for v in (1.3, 0.5, 0.7, 0.0)]
    order = torch.tensor([[0, 1, 2, 3], [1, 2, 0, 3]])
    ours = colour.mix_colours(x.clone(), *values, order, torch.zeros(2, dtype=torch.bool))
    steps = {0: lambda p: p * 1.3, 1: lambda p: tv.adjust_contrast(p, 0.5), 2: lambda p: tv.adjust_saturation(p, 0.7)}
    for i in range(2):
        expected = x[i] / 255
        for k in order[i, :3].tolist():
            expected = steps[k](expected)
        assert_close(ours[i], expected.clamp(0, 1), atol=3e-3, rtol=0)
    same_image = colour.mix_colours(
        x[:1].repeat(2, 1, 1, 1), *values, torch.tensor([[0, 1, 2, 3]] * 2), torch.tensor([True, False])
    )
    assert_close(same_image[0, 0], same_image[0, 2])
    assert not torch.allclose(same_image[1, 0], same_image[1, 2])


def test_hue_keeps_luminance_and_a_whole_turn_is_nothing():
    x = (images(2) // 3 + 80).float()
    one, order, no = torch.ones(2), torch.arange(4).expand(2, 4), torch.zeros(2, dtype=torch.bool)
    half = colour.mix_colours(x.clone(), one, one, one, torch.tensor([0.3, 1.0]), order, no)
    luminance = torch.tensor(colour.LUMINANCE)[:, None, None]
    assert_close((half * luminance).sum(1), (x / 255 * luminance).sum(1), atol=2e-3, rtol=0)
    assert_close(half[1], x[1] / 255, atol=1e-3, rtol=0)
    assert (half[0] - x[0] / 255).abs().max() > 0.05


@pytest.mark.parametrize(("side", "kernel"), [(32, 3), (40, 9), (4, 7)])
def test_blur_equals_a_convolution_of_each_image(side, kernel):
    x = torch.rand(5, 3, side, side, generator=generator())
    sigma = torch.tensor([0.1, 0.5, 1.0, 2.0, 3.0])
    reach = min(kernel // 2, side - 1)
    for row, width, ours in zip(x, sigma, colour.blur(x, sigma, kernel)):
        line = (-0.5 * (torch.arange(-reach, reach + 1).double() / width) ** 2).exp()
        square = torch.outer(line, line) / line.sum() ** 2
        padded = F.pad(row[:, None].double(), [reach] * 4, mode="reflect")
        assert_close(ours, F.conv2d(padded, square[None, None])[:, 0].float(), atol=1e-5, rtol=1e-5)


def test_solarise_and_erase():
    x = torch.tensor([0.2, 0.5, 0.9]).view(1, 1, 1, 3).expand(1, 3, 2, 3)
    assert_close(colour.solarise(x)[0, 0, 0], torch.tensor([0.2, 0.5, 0.1]))
    erased = colour.erase(torch.zeros(2, 3, 5, 6), torch.tensor([[1, 2, 4, 5], [0, 0, 1, 1]]))
    assert erased[0].sum() == 3 * 3 * 3 * 0.5
    assert (erased[0, :, 2:5, 1:4] == 0.5).all()
    assert erased[1].sum() == 1.5


EVERYTHING = Augment(
    crop=(0.3, 1.0),
    flip=0.5,
    rotate=10,
    zoom=0.1,
    shift=0.1,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    grey=0.3,
    blur=0.5,
    solarise=0.3,
    erase=0.4,
)


@pytest.mark.parametrize(
    "augment", [EVERYTHING, Augment(crop=(0.3, 1.0), flip=0.5, contrast=0.4, blur=0.5, erase=0.5), Augment(flip=0.5)]
)
def test_a_image_does_not_depend_on_its_batch(augment):
    x = images(40)
    drawn = augment.draw(40, 20, 24, generator())
    together = augment.apply(x, drawn)
    assert together.shape == (40, 3, 20, 24)
    assert together.dtype == torch.float32
    assert together.min() >= 0
    assert together.max() <= 1
    rows = torch.tensor([33, 0, 7])
    alone = augment.apply(x[rows], Drawn(*(value[rows] for value in drawn)))
    assert_close(alone, together[rows], atol=1e-5, rtol=0)


def test_every_image_has_its_own_numbers():
    drawn = EVERYTHING.draw(64, 20, 24, generator())
    for name in ("turn", "zoom", "brightness", "sigma"):
        assert getattr(drawn, name).unique().numel() > 30, name
    for name in ("flip", "grey", "blur", "solarise", "erase"):
        share = getattr(drawn, name).float().mean()
        assert 0.1 < share < 0.8, name
    same = EVERYTHING(images(1).expand(8, -1, -1, -1).contiguous(), generator())
    assert (same[0] - same[1:]).abs().amax((1, 2, 3)).min() > 0.02


def test_input_is_left_alone_and_nothing_to_do_gives_the_image():
    x = images()
    before = x.clone()
    assert_close(Augment()(x, generator()), x / 255)
    EVERYTHING(x, generator())
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", ["two-crops", "multi-crop", "members"])
def test_plans_keep_their_promises(name):
    plan = views.build(name)
    x = images(5 * plan.members, 32, 32)
    out = plan(x, generator(3))
    assert len(out) == plan.count >= plan.targets >= 1
    assert all(v.shape[:2] == (5, 3) and v.dtype == torch.float32 for v in out)
    assert all(v.shape[-2:] == (32, 32) for v in out[: plan.targets])
    again, other = plan(x, generator(3)), plan(x, generator(4))
    assert all(torch.equal(a, b) for a, b in zip(out, again))
    assert not any(torch.equal(a, b) for a, b in zip(out, other))
    assert not torch.equal(out[0], out[1])


def test_boxes_of_a_plan_are_those_of_its_views():
    plan = views.TwoCrops(strength=0.0, grey=0.0)
    x = images(4, 32, 32)
    drawn = plan.draw(4, 32, 32, generator(5))
    for view, numbers in zip(plan(x, generator(5)), drawn):
        expected = torch.stack([loop_crop(*row, (32, 32)) for row in zip(x, numbers.boxes, numbers.flip)]) / 255
        assert_close(view, expected, atol=1e-4, rtol=0)


def test_multi_crop_sizes_and_scales():
    plan = views.MultiCrop(big=2, small=3, big_size=48, small_size=20)
    out = plan(images(3, 64, 64), generator())
    assert [v.shape[-1] for v in out] == [48, 48, 20, 20, 20]
    paper = views.MultiCrop().augments(224, 224)
    assert [a.crop for a in paper] == [(0.14, 1.0)] * 2 + [(0.05, 0.14)] * 6
    assert paper[-1].size == 96
    assert views.MultiCrop().augments(32, 32)[-1].size == 16


def test_members_views_come_from_their_own_member():
    still = views.Members(k=3, rotate=0, zoom=0, shift=0, saturation=0, grey=0)
    x = images(6, 8, 8)
    for view, member in zip(still(x, generator()), x.split(2)):
        assert_close(view, member / 255)
    with pytest.raises(InputError, match="3 rows an item"):
        still(x[:4], generator())


def test_blur_is_only_for_larger_views_unless_asked():
    assert not views.TwoCrops().augments(32, 32)[0].draw(50, 32, 32, generator()).blur.any()
    assert views.TwoCrops().augments(96, 96)[0].draw(50, 96, 96, generator()).blur.any()
    first, second = views.TwoCrops(blur=(1.0, 0.1), solarise=(0.0, 0.2)).augments(32, 32)
    assert (first.blur, second.blur, first.solarise, second.solarise) == (1.0, 0.1, 0.0, 0.2)


def test_wrong_input_and_options():
    with pytest.raises(InputError, match="uint8 batch"):
        views.TwoCrops()(torch.rand(2, 3, 8, 8), generator())
    for bad in ({"crop": (0.5, 0.2)}, {"flip": 1.5}, {"strength": -1.0}):
        with pytest.raises(InputError):
            views.TwoCrops(**bad)
    with pytest.raises(InputError, match="Did you mean 'two-crops'"):
        views.build("two-crop")
    with pytest.raises(InputError, match="Did you mean 'strength'"):
        views.build("two-crops", strenght=1.0)
    with pytest.raises(InputError, match="two crops in all"):
        views.MultiCrop(big=1, small=0)


def test_an_empty_batch_gives_empty_views():
    assert [v.shape for v in views.TwoCrops()(images(2)[:0], generator())] == [(0, 3, 20, 24)] * 2


def test_views_upside_down():
    """Mirrored top-down with the probability asked for; the other random numbers stay what they were."""
    x = torch.randint(0, 256, (64, 3, 20, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain, turned = Augment(crop=(0.3, 1.0), flip=0.5), Augment(crop=(0.3, 1.0), flip=0.5, flip_vertical=0.5)
    drawn = turned.draw(64, 20, 24, torch.Generator().manual_seed(1))
    before = plain.draw(64, 20, 24, torch.Generator().manual_seed(1))
    assert torch.equal(drawn.boxes, before.boxes)
    assert 16 < int(drawn.upside.sum()) < 48
    a, b = turned.apply(x, drawn), plain.apply(x, before)
    expected = torch.where(drawn.upside[:, None, None, None], b.flip(-2), b)
    assert_close(a, expected)


@pytest.mark.parametrize("number", range(14))
@pytest.mark.parametrize("sign", [-1, 1])
def test_randaugment_is_torchvisions(number, sign):
    """Each operation at magnitude 10 of 30 against torchvision's own of that name."""
    from torchvision.transforms import v2

    names = ["Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
             "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize"]  # fmt: skip
    x = torch.randint(0, 256, (5, 3, 33, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    u = torch.tensor([[(number + 0.5) / 14, 0.25 if sign < 0 else 0.75]]).repeat(5, 1)
    found = randaugment.apply(x.float(), u, 10)
    theirs = v2.RandAugment(num_magnitude_bins=31)
    magnitudes, signed = theirs._AUGMENTATION_SPACE[names[number]]
    values = magnitudes(31, 33, 40)
    value = 0.0 if values is None else float(values[10]) * (sign if signed else 1)
    expected = theirs._apply_image_or_video_transform(
        x, names[number], value, interpolation=v2.InterpolationMode.NEAREST, fill={}
    )
    assert_close(found, expected.float(), atol=1.0, rtol=0)


def test_randaugment_gives_each_image_its_own():
    x = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    plan = views.build("two-crops", randaugment=(2, 10))
    drawn = plan.draw(40, 16, 16, torch.Generator().manual_seed(4))
    assert drawn[0].ops.shape == (40, 4)
    together = plan.apply(x, drawn)[0]
    alone = torch.cat([plan.augments(16, 16)[0].apply(x[i : i + 1], Drawn(*(v[i : i + 1] for v in drawn[0])))
                       for i in range(40)])  # fmt: skip
    assert_close(together, alone)
    with pytest.raises(InputError):
        views.build("two-crops", randaugment=(0, 10))


@pytest.mark.parametrize("first", ["weak", "strong", "plain"])
def test_weak_strong_is_a_weak_crop_and_strong_views(first):
    """Each view is that of its own augmentation with the same random numbers."""
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    plan = views.build("weak-strong", strong=2, first=first)
    assert (plan.count, plan.targets, plan.members) == (3, 3, 1)
    make = torch.Generator().manual_seed(2)
    drawn = plan.draw(5, 16, 16, make)
    made = plan.apply(images, drawn)
    strong = views.simclr_augment(crop=(0.2, 1.0), strength=0.5)
    own = {"weak": views.Augment(crop=(0.5, 1.0)), "strong": strong, "plain": views.Augment()}[first]
    for view, numbers, augment in zip(made, drawn, [own, strong, strong], strict=True):
        assert torch.equal(view, augment.apply(images, numbers))
    area = (drawn[0].boxes[:, 2] - drawn[0].boxes[:, 0]) * (drawn[0].boxes[:, 3] - drawn[0].boxes[:, 1]) / 256
    assert (area >= (0.4 if first == "weak" else 1.0 if first == "plain" else 0.1)).all()
    if first == "plain":
        assert_close(made[0], images.float() / 255)
    assert not drawn[0].flip.any() or first == "strong"
    assert not torch.equal(made[1], made[2])
    with pytest.raises(InputError, match="weak_crop"):
        views.build("weak-strong", weak_crop=(0.9, 0.5))
