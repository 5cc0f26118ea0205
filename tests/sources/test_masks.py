"""Masks beside images: what is read, how it is cut, and what each wrong input says."""

import numpy as np
import pytest
from PIL import Image

from nearfar.errors import InputError
from nearfar.sources import open_data
from nearfar.sources.images import Unreadable
from nearfar.sources.masks import decode, pairs, square


def save(path, mask, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(mask)).save(path, **options)


def mask_of(number, size=(12, 10)):
    """Class 1 or 2 in a corner of the ground."""
    mask = np.zeros(size[::-1], np.uint8)
    mask[: 3 + number % 5, :4] = 1 + number % 2
    return mask


@pytest.fixture
def masked_folder(tmp_path, image):
    """Twenty images in images/, each with a mask in masks/."""
    for i in range(20):
        image(tmp_path / "field" / "images" / f"{i:02d}.jpg", seed=i)
        save(tmp_path / "field" / "masks" / f"{i:02d}.png", mask_of(i))
    return tmp_path / "field"


def fails(path, *parts, **options):
    with pytest.raises(InputError) as caught:
        open_data(path, **options)
    for part in parts:
        assert str(part) in str(caught.value), f"{part!r} not in {caught.value}"


def test_a_folder_of_images_and_masks(masked_folder):
    (masked_folder / "classes.txt").write_text("ground\nwheat\nweed\n")
    data = open_data(masked_folder)
    assert len(data) == 20
    assert data.roles == {"image": "file", "mask": "mask", "id": "file"}
    assert data.mask_names == {0: "ground", 1: "wheat", 2: "weed"}
    assert data.mask_counts() == {0: 20, 1: 10, 2: 10}
    assert data.notes == []
    assert (data.masks(10)[3] == mask_of(3)[:, 1:11]).all()  # cut out of the middle, as the image is
    assert (data.masks(10, [3])[0] == data.masks(10)[3]).all()
    assert data.describe()["masks"]["classes"] == {"ground": 20, "wheat": 10, "weed": 10}


def test_the_hash_changes_with_a_mask(masked_folder):
    before = open_data(masked_folder).hash
    save(masked_folder / "masks" / "03.png", mask_of(3) * 0 + 1)
    assert open_data(masked_folder).hash != before


def test_layouts():
    def found(*files):
        made = pairs(list(files))
        return None if made is None else {file: (pair.mask, pair.place) for file, pair in made.items()}

    assert found("images/a.jpg", "masks/a.png") == {"images/a.jpg": ("masks/a.png", "a.jpg")}
    assert found("images/train/a.jpg", "annotations/train/a.png") == {
        "images/train/a.jpg": ("annotations/train/a.png", "train/a.jpg")
    }
    assert found("train/images/a.jpg", "train/masks/a.png", "val/images/b.jpg") == {
        "train/images/a.jpg": ("train/masks/a.png", "train/a.jpg"),
        "val/images/b.jpg": (None, "val/b.jpg"),
    }
    assert found("images/a.jpg", "masks/b.png") == {"images/a.jpg": ("masks/a.png", "a.jpg")}  # looked for, not there
    assert found("masks/a.png", "hats/b.png") is None
    assert found("images/a.jpg", "images/b.jpg") is None


def test_folders_of_splits(tmp_path, image):
    for i, name in enumerate(["train"] * 8 + ["val"] * 3 + ["test"] * 3):
        image(tmp_path / "d" / name / "images" / f"{i}.png", seed=i)
        save(tmp_path / "d" / name / "masks" / f"{i}.png", mask_of(i))
    data = open_data(tmp_path / "d")
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 8, "val": 3, "test": 3}


def test_a_table_and_rows_without_a_mask(masked_folder):
    lines = ["image,mask", *(f"images/{i:02d}.jpg,{f'masks/{i:02d}.png' if i % 3 else ''}" for i in range(12))]
    (masked_folder / "t.csv").write_text("\n".join(lines) + "\n")
    data = open_data(masked_folder / "t.csv")
    assert data.roles["mask"] == "mask"
    assert data.masked.tolist() == [i % 3 > 0 for i in range(12)]
    assert (data.masks(8, [0]) == 255).all()
    assert "mask" not in open_data(masked_folder / "t.csv", roles={"mask": None}).roles
    fails(masked_folder / "t.csv", "a mask needs its image", roles={"image": None, "mask": "mask", "text": "image"})


def test_what_is_wrong_with_a_mask(masked_folder, image):
    masks, images = masked_folder / "masks", masked_folder / "images"
    (masks / "05.png").rename(masks / "away.png")
    fails(masked_folder, images / "05.jpg", masks / "05.png", "no such file")
    data = open_data(masked_folder, unreadable="skip")
    assert len(data) == 19
    assert "05.jpg" in data.problems[0].file
    save(masks / "05.png", mask_of(5, (30, 20)))
    fails(masked_folder, "masks/05.png has 30 x 20 pixels, the image 12 x 10")
    (masks / "05.png").write_bytes(b"no image")
    fails(masked_folder, masks / "05.png", "not an image")
    image(masks / "05.png", seed=1)
    fails(masked_folder, masks / "05.png", "it holds colours")
    save(masks / "05.png", mask_of(5).astype(np.uint16) * 300)
    fails(masked_folder, "its values reach 600")
    save(masks / "05.png", mask_of(5))
    save(masks / "05.tif", mask_of(5))
    fails(masked_folder, "two masks of one image", "05.png", "05.tif")


def test_values_that_are_no_classes(masked_folder):
    for i in range(20):
        save(masked_folder / "masks" / f"{i:02d}.png", (mask_of(i) > 0).astype(np.uint8) * 255)
    fails(masked_folder, "one class only (values: 0, 255)", "write foreground as 1")
    for i in range(20):
        soft = np.arange(120, dtype=np.uint8).reshape(10, 12) + (135 if i % 2 else 0)
        save(masked_folder / "masks" / f"{i:02d}.png", soft)
    fails(masked_folder, "different values", "Grey levels")


def test_names_of_the_classes_must_reach(masked_folder):
    (masked_folder / "classes.txt").write_text("ground\nwheat\n")
    fails(masked_folder, "names 2 classes", "the class 2")


def test_modes_of_masks(tmp_path):
    mask = mask_of(1)
    palette = Image.fromarray(mask, "P")
    palette.putpalette([0, 0, 0, 200, 30, 30, 30, 200, 30])
    palette.save(tmp_path / "palette.png")
    save(tmp_path / "equal.png", np.repeat(mask[..., None], 3, 2))
    save(tmp_path / "wide.png", mask.astype(np.uint16))
    Image.fromarray(mask > 0).save(tmp_path / "binary.png")
    for name in ("palette", "equal", "wide"):
        assert (decode(tmp_path / f"{name}.png") == mask).all(), name
    assert (decode(tmp_path / "binary.png") == (mask > 0)).all()
    save(tmp_path / "m.jpg", mask)
    with pytest.raises(Unreadable, match="JPEG"):
        decode(tmp_path / "m.jpg")


def test_squares_keep_classes_and_pad_with_none():
    mask = mask_of(4, (12, 6))
    assert set(np.unique(square(mask, 5))) <= {0, 1}
    padded = square(mask, 12, "pad")
    assert (padded[3:9] == mask).all()
    assert (padded[:3] == 255).all()
    assert (padded[9:] == 255).all()
