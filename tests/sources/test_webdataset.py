"""Shards of WebDataset, against what was written into them by hand."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

import nearfar
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.sources import open_data


def image(seed, kind="PNG"):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def shard(path, members):
    """members: name -> bytes or text."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def as_img2dataset(first, count):
    """As img2dataset writes: image, caption, and a JSON that repeats the caption."""
    found = {}
    for i in range(first, first + count):
        said = {"caption": f"a thing of sort {i}", "url": f"https://example.org/{i}.jpg", "key": f"{i:09d}",
                "width": 20, "similarity": i / 100, "sha256": None, "exif": {"a": 1}}  # fmt: skip
        found |= {f"{i:09d}.jpg": image(i, "JPEG"), f"{i:09d}.txt": f"a thing of sort {i}\n",
                  f"{i:09d}.json": json.dumps(said)}  # fmt: skip
    return found


def test_one_shard(tmp_path):
    data = open_data(shard(tmp_path / "00000.tar", as_img2dataset(0, 30)))
    assert data.roles["image"] == "image"
    assert data.roles["text"] == "text"
    assert data.roles["id"] == "key"
    assert data.keys == [f"{i:09d}" for i in range(30)]
    assert data.texts("text") == [f"a thing of sort {i}" for i in range(30)]
    assert data.values("similarity")[7] == "0.07"
    assert "score" not in data.roles  # how near a model found the pair, by which it was chosen
    assert data.values("exif")[0] == '{"a": 1}'
    assert "caption" not in data.table.column_names
    given = np.asarray(Image.open(io.BytesIO(image(3, "JPEG"))))
    np.testing.assert_array_equal(data.images("image", 20, np.array([3]))[0].transpose(1, 2, 0), given)


def test_a_folder_of_shards_and_splits_by_their_names(tmp_path):
    for k in range(3):
        shard(tmp_path / f"{k:05d}.tar", as_img2dataset(20 * k, 20))
    data = open_data(tmp_path)
    assert data.keys == [f"{i:09d}" for i in range(60)]
    (tmp_path / "named").mkdir()
    for k, name in enumerate(["train-0", "train-1", "val-0", "test-0"]):
        shard(tmp_path / "named" / f"{name}.tar", as_img2dataset(10 * k, 10))
    named = open_data(tmp_path / "named")
    assert {name: len(rows) for name, rows in named.splits.items()} == {"train": 20, "val": 10, "test": 10}


def test_classes_several_images_and_members_of_other_kinds(tmp_path):
    members = {}
    for i in range(12):
        members |= {f"a/{i}.left.png": image(i), f"a/{i}.right.png": image(100 + i), f"a/{i}.cls": str(i % 3),
                    f"a/{i}.npy": b"x"}  # fmt: skip
    data = open_data(shard(tmp_path / "s.tar", members), roles={"image": "left", "image_b": "right"})
    assert data.values("label")[:4] == ["0", "1", "2", "0"]
    assert data.keys[:2] == ["a/0", "a/1"]
    assert any("members of other kinds are left out: npy" in note for note in data.notes)


def test_a_sample_that_lacks_its_image(tmp_path):
    members = as_img2dataset(0, 12)
    del members["000000005.jpg"]
    path = shard(tmp_path / "s.tar", members)
    with pytest.raises(InputError, match=r"s\.tar, row 5: .*there is no image"):
        open_data(path)
    assert len(open_data(path, unreadable="skip")) == 11


def test_lists_of_captions_in_a_shard(tmp_path):
    members = {}
    for i in range(20):
        members |= {
            f"{i}.png": image(i),
            f"{i}.json": json.dumps({"captions": [f"thing {i} here", f"one {i} again"]}),
        }
    data = open_data(shard(tmp_path / "s.tar", members))
    assert data.texts("text")[:3] == ["thing 0 here", "one 0 again", "thing 1 here"]
    assert data.keys[:3] == ["0#0", "0#1", "1#0"]


def test_training_reads_shards(tmp_path):
    shard(tmp_path / "s.tar", as_img2dataset(0, 40))
    run = nearfar.fit("pairs", tmp_path / "s.tar", out=tmp_path / "run", steps=3, batch_size=8, val_every=0)
    assert nearfar.load(run.path / "model", verify=True).modalities == ["image", "text"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "holds no sample that nearfar reads"),
        ({"0.npy": b"x"}, "holds no sample that nearfar reads (endings: npy)"),
        ({"0.json": "[1, 2]"}, "0.json: it is not a JSON object"),
        ({"0.json": "{"}, "0.json: it is not JSON"),
        ({"0.txt": b"\xff\xfe\xfa"}, "0.txt: it is not text in UTF-8"),
    ],
)
def test_what_is_no_shard(members, message, tmp_path, capsys):
    shard(tmp_path / "s.tar", members)
    assert main(["data", str(tmp_path / "s.tar")]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_damaged_shards(tmp_path):
    path = shard(tmp_path / "s.tar", as_img2dataset(0, 12))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2 + 100])
    with pytest.raises(InputError, match="cannot be read as a tar file"):
        open_data(path)
    path.write_bytes(b"no tar at all" * 100)
    with pytest.raises(InputError, match="cannot be read as a tar file"):
        open_data(path)
