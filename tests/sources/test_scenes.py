"""Emoji on photographs: exact masks, nothing shared between splits, the same scenes again."""

import numpy as np
import pytest

from nearfar.sources import open_data
from nearfar.sources.sets import scenes


@pytest.fixture(scope="module", autouse=True)
def few():
    """Thirty scenes in place of 1,600."""
    before = dict(scenes.COUNTS)
    scenes.COUNTS.update(train=14, val=8, test=8)
    yield
    scenes.COUNTS.update(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return open_data("scenes", cache=tmp_path_factory.mktemp("cache"))


def test_what_it_holds(data):
    assert {name: len(rows) for name, rows in data.splits.items()} == scenes.COUNTS
    assert list(data.mask_names.values()) == list(scenes.CLASSES)
    shares = np.bincount(data.masks(scenes.SIDE).ravel(), minlength=5) / (len(data) * scenes.SIDE**2)
    assert 0.6 < shares[0] < 0.95
    assert shares[1:].min() > 0.005
    assert data.leaks() == 0


def test_no_photograph_and_no_family_straddles(data):
    from nearfar.sources.sets.emoji import open_emoji

    table = open_emoji().table
    family = dict(zip(table["emoji"], table["family"], strict=True))
    photos, families = [], []
    for rows in data.splits.values():
        photos.append(set(data.texts("photo", rows)))
        families.append({family[code] for told in data.texts("emoji", rows) for code in told.split()})
    for found in (photos, families):
        assert all(found)
        assert not found[0] & found[1]
        assert not found[0] & found[2]
        assert not found[1] & found[2]


def test_every_photograph_has_a_licence():
    named = {name for names in scenes.PHOTOS.values() for name in names}
    assert set(scenes.LICENCES) == named | set(scenes.STYLES)
    assert all(min(scenes.photograph(name).size) >= scenes.SIDE for name in named)


def test_the_same_seed_draws_the_same_scenes(data, tmp_path):
    again = open_data("scenes", cache=tmp_path)
    assert again.hash == data.hash
    assert np.array_equal(again.masks(96), data.masks(96))
    other = open_data("scenes", seed=1, cache=tmp_path)
    assert other.hash != data.hash


def test_a_sticker_loses_its_ground_and_its_pale_seam():
    import io

    from PIL import Image

    drawing = np.full((48, 48, 3), 255, np.uint8)
    y, x = np.mgrid[:48, :48]
    share = np.clip(18.5 - np.hypot(y - 23.5, x - 23.5), 0, 1)[..., None]  # a disc with a soft edge, drawn on white
    drawing = (share * np.array([200, 20, 20]) + (1 - share) * 255).round().astype(np.uint8)
    drawing[20:28, 20:28] = 255  # white inside belongs to the drawing
    buffer = io.BytesIO()
    Image.fromarray(drawing).save(buffer, "png")
    one = scenes.sticker(buffer.getvalue(), "1F534", "disc", 1)
    assert one.opacity[23, 23] == 1
    assert one.opacity[0, 0] == 0
    assert abs(one.opacity - share[..., 0]).max() < 0.1
    laid = one.colour + (1 - one.opacity[..., None]) * np.array([0.0, 0.0, 1.0])
    assert laid[..., 1][share[..., 0] < 0.9].max() < 0.2  # on blue no seam of white is left
