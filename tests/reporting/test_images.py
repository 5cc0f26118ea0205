"""Thumbnails can be read again, maps keep neighbours together, examples point at the right items."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from nearfar.errors import InputError
from nearfar.evaluation.tasks import task_for
from nearfar.reporting import examples_json, map_2d, map_json, painted, thumbnail
from nearfar.reporting.images import class_colour

from ..evaluation.tiny import Tiny, Vectors, some_images
from .sample import embedding


def decoded(uri):
    head, body = uri.split(",")
    assert head.startswith("data:image/")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))).convert("RGB"))


@pytest.mark.parametrize("layout", [(3, 60, 90), (60, 90, 3), (60, 90), (1, 60, 90)])
def test_thumbnails_keep_colour_and_shape(layout):
    back = decoded(thumbnail(np.full(layout, 200, np.uint8), size=30))
    assert back.shape == (20, 30, 3)
    assert abs(back.astype(int) - 200).max() <= 4


def test_a_thumbnail_of_something_else():
    with pytest.raises(InputError, match="uint8"):
        thumbnail(np.zeros((3, 8, 8)))


def test_the_map_keeps_kinds_together():
    z, labels = embedding(180)
    places = map_2d(z)
    distance = np.linalg.norm(places[:, None] - places, axis=2) + 9 * np.eye(180)
    assert (labels[distance.argmin(1)] == labels).mean() > 0.9
    assert np.abs(places).max() == pytest.approx(1)
    np.testing.assert_array_equal(places, map_2d(z))


@pytest.mark.parametrize("z", [np.ones((20, 4)), np.ones((1, 4)), np.eye(3), np.arange(40.0).reshape(20, 2) + 1])
def test_maps_of_little(z):
    places = map_2d(z)
    assert places.shape == (len(z), 2)
    assert np.isfinite(places).all()


def test_too_many_points():
    with pytest.raises(InputError, match="at most 1500"):
        map_2d(np.ones((1501, 2)))


def test_examples_point_at_the_right_items():
    answers = ["a", "b  \n c"]
    data = Tiny(
        {"text": ["q", "r"], "text_b": answers},
        corpus={"text_b": [*answers, "far away"]},
        corpus_keys={"text_b": ["d1", "d2", "d3"]},
    )
    vectors = {"text": np.eye(3)[:2], "text_b": np.eye(3)[:2]}
    embed = Vectors(vectors, {"text_b": np.eye(3)[[0, 1, 1]] + [[0], [0], [0.1]]})
    scores = task_for(data).evaluate(embed, "test", examples=2)
    found = examples_json(data, scores.examples)
    assert len(found) == 2
    one = next(example for example in found if example["query"]["text"] == "q")
    assert one["rank"] == 1
    assert one["hits"][0] == {"key": "d1", "text": "a", "score": 1.0, "relevant": True}
    texts = {hit["text"]: hit["key"] for hit in one["hits"]}
    assert texts == {"a": "d1", "b c": "d2", "far away": "d3"}


def test_examples_and_maps_of_images():
    data = Tiny({"image": some_images(12)}, groups=np.arange(12) % 4)
    embed = Vectors({"image": np.random.default_rng(0).normal(size=(12, 4))})
    scores = task_for(data).evaluate(embed, "test", examples=3)
    found = examples_json(data, scores.examples)
    assert len(found) == 3
    np.testing.assert_allclose(
        decoded(found[0]["query"]["image"]).mean(), data.columns["image"][scores.examples[0].row].mean(), atol=6
    )
    drawn = map_json(data, "image", [2, 5], np.eye(2), ["x", "y"])
    assert drawn["key"] == ["item 2", "item 5"]
    assert drawn["label"] == ["x", "y"]
    assert len(drawn["thumb"]) == len(drawn["x"]) == 2


def test_masks_are_painted_over_the_image():
    image = np.full((3, 8, 8), 200, np.uint8)
    mask = np.zeros((4, 4), np.uint8)
    mask[0, 0], mask[3, 3] = 1, 255
    shown = painted(image, mask).astype(int)
    assert (shown[4, 4] == shown[4, 4, 0]).all()  # the ground is darkened, not coloured
    assert shown[4, 4, 0] < 200
    assert abs(shown[0, 0] - (0.28 * 200 + 0.72 * np.array(class_colour(1)))).max() <= 1
    assert (shown[1, 1] == shown[0, 0]).all()  # a coarser mask covers whole squares
    assert np.ptp(shown[7, 7]) == 0
    assert len({class_colour(value) for value in range(1, 30)}) == 29
