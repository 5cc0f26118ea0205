"""The dense task on a real folder: what is chosen, what is fitted on what, references, intervals, messages."""

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar import encoders
from nearfar.errors import InputError
from nearfar.evaluation import references, task_for
from nearfar.evaluation.references import hog_cells, pixel_cells
from nearfar.methods.tower import Tower
from nearfar.sources import open_data
from nearfar.training.embedding import Embedder


def drawn(number, size=64):
    """A red disc (1) and a green bar (2) on a noisy grey ground (0), and their mask; the left edge belongs to none."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:size, :size]
    mask = np.zeros((size, size), np.uint8)
    (cy, cx), r = rng.uniform(14, 50, 2), rng.uniform(8, 14)
    bar = int(rng.integers(0, size - 12))
    mask[bar : bar + 12] = 2
    mask[np.hypot(y - cy, x - cx) < r] = 1
    image = np.array([[120, 120, 120], [200, 40, 40], [40, 180, 60]])[mask] + rng.integers(-30, 31, (size, size, 3))
    mask[:, :2] = 255
    return image.astype(np.uint8), mask


def folder_of(root, count, bare=()):
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    lines = ["image,mask"]
    for number in range(count):
        image, mask = drawn(number)
        Image.fromarray(image).save(root / "images" / f"{number:03}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number:03}.png")
        lines.append(f"images/{number:03}.png," + ("" if number in bare else f"masks/{number:03}.png"))
    (root / "few.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return open_data(folder_of(tmp_path_factory.mktemp("shapes") / "d", 60))


@pytest.fixture(scope="module")
def embed(data):
    torch.manual_seed(0)
    return Embedder({"image": Tower(encoders.image("small", 32))}, data, batch_size=7)


def test_masks_are_measured_where_there_are_some(data):
    task = task_for(data)
    assert task.kind == "dense"
    assert task.side == 64
    assert task_for(data, "proxy").kind == "proxy"
    assert task.summary()["label"] == "mIoU"
    assert task.summary()["classes"] == {"0": "class 0", "1": "class 1", "2": "class 2"}


def test_no_image_is_in_two_parts(data):
    task = task_for(data)
    for split in ("val", "test"):
        train, val, test = (set(part.tolist()) for part in task.parts(split))
        assert not train & val
        assert not train & test
        assert not val & test
        assert test == set(data.splits[split].tolist())
    train, val, _ = task.parts("val")
    assert set(train) | set(val) == set(data.splits["train"])


def test_references_and_an_untrained_encoder(data, embed):
    task = task_for(data)
    rows = {one.slug: one for one in references(data, task)}
    assert list(rows) == ["chance", "pixels", "hog", "both"]
    found = {slug: rows[slug].evaluate("test") for slug in ("chance", "pixels")}
    truth = data.masks(64, data.splits["test"])
    ground = (truth == 0).sum() / (truth != 255).sum()
    assert found["chance"].metrics["pixel accuracy"] == pytest.approx(ground)
    assert found["chance"].primary == pytest.approx(ground / 3)  # its IoU is the share, those of the others are 0
    assert found["pixels"].primary > found["chance"].primary + 0.3
    scores = task.evaluate(embed, "test", examples=3)
    assert scores.primary > found["chance"].primary + 0.2
    assert scores.primary == pytest.approx(np.mean([part["miou"] for part in scores.directions.values()]))
    low, high = scores.to_dict()["bootstrap"]
    assert low < scores.primary < high
    assert [one.row in data.splits["test"] for one in scores.masks] == [True] * 3
    assert task.evaluate(embed, "test").primary == scores.primary  # the same numbers again
    assert sum(one.found.size for one in scores.masks) == 3 * 64 * 64


def test_another_layer_is_another_map(data, embed):
    sizes = {layer: next(embed.maps("image", np.arange(2), layer)).shape for layer in (1, 2, 3, 4, None)}
    assert sizes == {1: (2, 32, 16, 16), 2: (2, 64, 8, 8), 3: (2, 128, 4, 4), 4: (2, 192, 4, 4), None: (2, 192, 4, 4)}
    assert task_for(data, layer=1).evaluate(embed, "test").primary != task_for(data).evaluate(embed, "test").primary
    assert "after layer 1" in task_for(data, layer=1).describe()
    with pytest.raises(InputError, match=r"layers 1 to 4\. Got layer 5"):
        task_for(data, layer=5).evaluate(embed, "test")


def test_rows_without_a_mask_are_trained_on_and_not_measured(tmp_path):
    bare = set(range(0, 40, 3))
    data = open_data(folder_of(tmp_path / "d", 40, bare) / "few.csv")
    task = task_for(data)
    for part in task.parts("test"):
        assert len(part)
        assert not bare & set(part.tolist())
    no_masks = open_data(tmp_path / "d" / "few.csv", roles={"mask": None})
    with pytest.raises(InputError, match=r"cannot be measured by 'dense'.*--mask COLUMN"):
        task_for(no_masks, "dense")
    lines = (tmp_path / "d" / "few.csv").read_text().splitlines()
    split = ["train"] * 20 + ["val"] * 10 + ["test"] * 10
    kept = [
        f"{line},{s}" if s != "val" else f"{line.split(',')[0]},,{s}" for line, s in zip(lines[1:], split, strict=True)
    ]
    (tmp_path / "d" / "split.csv").write_text("\n".join(["image,mask,split", *kept]) + "\n")
    with pytest.raises(InputError, match="No image of the val split"):
        task_for(open_data(tmp_path / "d" / "split.csv"))


def test_cells_of_references_lie_where_the_pixels_are():
    image = np.zeros((1, 3, 16, 24), np.uint8)
    image[0, :, :8, 8:16] = 255
    cells = pixel_cells(image)
    assert cells.shape == (1, 192, 2, 3)
    assert cells[0].min(0).tolist() == [[0, 1, 0], [0, 0, 0]]
    image = np.full((1, 3, 32, 32), 128, np.uint8)
    image[0, :, 24:, ::2] = 0  # upright stripes at the bottom
    strength = hog_cells(image)[0].sum(0)
    assert strength.shape == (4, 4)
    assert strength[0].max() == 0
    assert strength[3].min() > 0
