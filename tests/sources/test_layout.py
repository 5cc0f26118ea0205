# ruff: noqa: E501
"""Folders, shards and descriptions are read as their owners mean them, and what is left out is counted."""

import json
import os
import socket

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nearfar.errors import InputError
from nearfar.sources import open_data
from nearfar.sources.layout import layout
from nearfar.sources.splits import standard_name


def places(*folders, files=4):
    return [f"{folder}/{i}.png".lstrip("/") for folder in folders for i in range(files)]


def read(files):
    found = layout(files)
    columns = {name: sorted({str(v) for v in values}) for name, values in found.columns.items()}
    return len(found.kept), columns, " ".join(found.notes)


SPLIT = {"split": ["test", "train"]}


@pytest.mark.parametrize(("files", "rows", "columns", "said"), [
    (places("train/a", "train/b", "test/a", "test/b"), 16, {**SPLIT, "label": ["a", "b"]}, ""),
    (places("Train/a", "train/b", "TEST/a", "TEST/b"), 16, {**SPLIT, "label": ["a", "b"]}, ""),
    (places("top/train/a", "top/train/b", "top/test/b"), 12, {**SPLIT, "label": ["a", "b"]}, ""),
    (places("train2017", "val2017"), 8, {"split": ["train", "val"]}, ""),
    (places("images/train", "images/dev"), 8, {"split": ["train", "val"]}, ""),
    (places("seg_train/seg_train/a", "seg_train/seg_train/b", "seg_test/seg_test/a"), 12, {**SPLIT, "label": ["a", "b"]}, ""),
    (places("cat/train", "cat/test", "dog/train"), 12, {**SPLIT, "label": ["cat", "dog"]}, ""),
    (places("train/a", "train/b", "test/a", "unlabeled"), 16, {**SPLIT, "label": ["None", "a", "b"]}, "4 files lie in no class folder"),
    (places("train/pos", "train/neg", "train/unsup", "test/pos"), 16, {**SPLIT, "label": ["None", "neg", "pos"]}, "no class folder"),
    ([*places("train/a", "train/b", "test/a"), "x.png"], 12, {**SPLIT, "label": ["a", "b"]}, "1 files outside of the folders test, train left out (x.png)"),
    (places("train/a", "train/b", "test"), 8, {"split": ["train"], "label": ["a", "b"]}, "4 files of 'test', where nothing has a class, left out"),
    (places("train", "test"), 8, SPLIT, ""),
    (places("a", "b"), 8, {"label": ["a", "b"]}, ""),
    (places("data/a", "data/b/deep"), 8, {"label": ["a", "b"]}, ""),
    ([*places("a", "b"), "x.png"], 9, {"label": ["None", "a", "b"]}, "1 files lie in no class folder"),
    (places("", files=9) + places("a", "b", files=2), 13, {}, "not taken for classes"),
    (places("only"), 4, {}, "one class only"),
    (places("test tube", "train station", "a", "b", "c", "d"), 24, {"label": ["a", "b", "c", "d", "test tube", "train station"]}, ""),
    (places(""), 4, {}, ""),
])  # fmt: skip
def test_folders(files, rows, columns, said):
    found = read(files)
    assert found[:2] == (rows, columns)
    assert said in found[2]
    assert bool(said) == bool(found[2])


@pytest.mark.parametrize(("name", "split"), [
    ("train", "train"), ("train-00000-of-00004", "train"), ("validation_matched", "val"), ("TEST", "test"), ("test.v2", "test"),
    ("dev", "val"), ("images_train2017", "train"), ("extra", "train"), ("held-out", "test"), ("split=test", "test"),
    ("trainer", None), ("a", None), ("", None), ("latest", None), ("device", None), ("contrast", None),
])  # fmt: skip
def test_names_of_splits(name, split):
    assert standard_name(name) == split


def test_links_to_folders_are_followed_once(tmp_path, image):
    for i in range(6):
        image(tmp_path / "p" / "a" / f"{i}.png", seed=i)
        image(tmp_path / "store" / f"{i}.png", seed=10 + i)
    (tmp_path / "p" / "b").symlink_to("../store")
    (tmp_path / "p" / "b2").symlink_to("b")
    (tmp_path / "p" / "a" / "loop").symlink_to("..")
    (tmp_path / "store" / "back").symlink_to("../p")
    data = open_data(tmp_path / "p")
    assert len(data) == 12
    assert data.label_names["label"] == ["a", "b"]
    assert "3 links to folders that are read already left out (a/loop, b/back, b2)" in data.notes


def test_what_is_left_out_is_counted(tmp_path, image):
    for name in ("a/1.PNG", "a/2.png", "b/3.Jpg", "b/4.jpeg", "a/.ipynb_checkpoints/5.png", "__MACOSX/6.png"):
        image(tmp_path / "p" / name)
    (tmp_path / "p" / "Thumbs.db").write_text("")
    os.mkfifo(tmp_path / "p" / "b" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(tmp_path / "p")  # the path of a socket may not be long
        server.bind("socket.png")
        os.chdir(here)
        data = open_data(tmp_path / "p")
    assert data.label_names == {"label": ["a", "b"]}
    assert len(data) == 4
    assert "3 hidden or system files and folders left out (Thumbs.db, __MACOSX, a/.ipynb_checkpoints)" in data.notes
    assert "2 pipes, sockets and devices left out (b/pipe.png, socket.png)" in data.notes


def test_a_pipe_or_a_device_is_no_table(tmp_path):
    os.mkfifo(tmp_path / "t.csv")
    for path, kind in ((tmp_path / "t.csv", "a pipe"), ("/dev/null", "a device")):
        with pytest.raises(InputError, match=f"is {kind}, not a file"):
            open_data(path)


def test_a_pipe_in_a_cell_is_a_bad_row(tmp_path, image):
    image(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "t.csv").write_text("image,text\na.png,one two\nb.png,three four\n")
    data = open_data(tmp_path / "t.csv", unreadable="skip")
    assert "it is a pipe, not a file" in data.problems[0].message


def test_names_that_are_not_utf8_are_problems(tmp_path, image):
    for i in range(4):
        image(tmp_path / "p" / f"{i}.png", seed=i)
    os.rename(os.fsencode(tmp_path / "p" / "0.png"), os.fsencode(tmp_path / "p") + b"/caf\xe9.png")
    with pytest.raises(InputError, match=r"caf\\xe9\.png: its name is not valid UTF-8.*Rename"):
        open_data(tmp_path / "p")
    data = open_data(tmp_path / "p", unreadable="skip")
    assert (len(data), len(data.problems), data.notes) == (3, 1, [])


def rows(split, count=12, **more):
    return pa.table({"text": [f"{split} text {i}" for i in range(count)], **more})


@pytest.mark.parametrize("names", [("train-00000-of-00001", "test-00000-of-00001"), ("data/train", "data/test"),
                                   ("train/0000", "test/0000")])  # fmt: skip
@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_tables_called_as_splits(tmp_path, names, ending):
    for split, name in zip(("train", "test"), names, strict=True):
        path = tmp_path / "d" / f"{name}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = rows(split)
        if ending == "parquet":
            pq.write_table(table, path)
        else:
            lines = [f"text\n{t}\n" if i == 0 else f"{t}\n" for i, t in enumerate(table["text"].to_pylist())]
            lines = lines if ending == "csv" else [json.dumps({"text": t}) + "\n" for t in table["text"].to_pylist()]
            path.write_text("".join(lines))
    (tmp_path / "d" / "README.md").write_text("about it")
    data = open_data(tmp_path / "d")
    assert all(t.startswith("test") for t in data.texts("text", data.splits["test"]))
    assert all(t.startswith("train") for t in data.texts("text", data.splits["train"]))
    assert len(set(data.keys)) == len(data) == 24
    assert "1 files that are not tables left out (1 .md)" in data.notes


def test_an_error_in_a_shard_names_its_file_and_line(tmp_path):
    for k in range(2):
        (tmp_path / f"part-{k}.csv").write_text(f"text,label\nsome words {k},a\n{'more words' if not k else ' '},b\n")
    with pytest.raises(InputError, match=r"part-1\.csv, line 3: column 'text': the text is empty"):
        open_data(tmp_path)


def test_shards_of_unlike_types_and_orders(tmp_path):
    pq.write_table(rows("train", label=[0, 1] * 6, extra=[1] * 12, none=pa.nulls(12)), tmp_path / "train.parquet")
    pq.write_table(
        pa.table({"label": ["0", "1"], "none": ["x", "y"], "text": ["a b", "c d"]}), tmp_path / "test.parquet"
    )
    data = open_data(tmp_path)
    assert data.label_names == {"label": ["0", "1"]}
    assert data.texts("text", data.splits["test"]) == ["a b", "c d"]
    notes = " ".join(data.notes)
    assert "'label' has unlike types" in notes
    assert "lack are empty there: extra" in notes
    pq.write_table(pa.table({"words": ["a b"]}), tmp_path / "val.parquet")
    with pytest.raises(InputError, match="its columns differ"):
        open_data(tmp_path)


def test_descriptions_beside_the_images_of_each_split(tmp_path, image):
    for split, count in (("train", 8), ("test", 4)):
        for i in range(count):
            image(tmp_path / "d" / split / f"{i}.png", seed=i + 100 * (split == "test"))
        lines = "".join(f"{i}.png,a caption of {split} {i}\n" for i in range(count - 1))
        (tmp_path / "d" / split / "metadata.csv").write_text(f"file_name,text\n{lines}")
    data = open_data(tmp_path / "d")
    assert {role: data.roles[role] for role in ("image", "text", "split")} == {
        "image": "file_name", "text": "text", "split": "split"
    }  # fmt: skip
    assert all("test" in t for t in data.texts("text", data.splits["test"]))
    assert len(data) == 10
    assert "2 images that metadata.csv does not name left out (test/3.png, train/7.png)" in data.notes


def test_outputs_inside_the_data_are_no_data(tmp_path, image_folder):
    before = open_data(image_folder).hash
    run = image_folder / "run"
    (run / "model").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"data_hash": "x", "split_hash": "y", "method": "simclr"}))
    (run / "model" / "a.png").write_bytes((image_folder / "cat" / "00.png").read_bytes())
    (image_folder / "index").mkdir()
    (image_folder / "index" / "index.json").write_text(json.dumps({"model_hash": "x", "dim": 3}))
    pq.write_table(rows("x").replace_schema_metadata({"nearfar": "{}"}), image_folder / "vectors.parquet")
    data = open_data(image_folder)
    assert data.hash == before
    assert "3 outputs of nearfar left out (index, run, vectors.parquet)" in data.notes
