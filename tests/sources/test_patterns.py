"""Patterns of paths: the files that the shell's own matching finds, read as a folder of them alone would be."""

import glob
import os
import shutil

import numpy as np
import pytest
from PIL import Image

import nearfar
from nearfar.cli import main
from nearfar.errors import InputError


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs", "birds/far"):
        (tmp_path / "shots" / name).mkdir(parents=True)
        for k in range(24):
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "shots" / name / f"{k}.{'png' if k % 2 else 'bmp'}")
    (tmp_path / "shots" / "cats" / ".1.png").write_bytes(b"")
    for k in range(3):
        rows = "".join(f"words {k} {i},answer {k} {i}\n" for i in range(10))
        (tmp_path / f"part{k}.csv").write_text(f"text,text_b\n{rows}")
    (tmp_path / "part[x].csv").write_text("text\nfirst\nsecond\n")
    return tmp_path


@pytest.mark.parametrize(
    "pattern", ["shots/cats/*.png", "shots/*/*.bmp", "shots/**/1?.*", "shots/[cd]*s/[0-4].*", "{}/**/*.bmp"]
)
def test_images(pattern, files):
    pattern = pattern.format(files)
    data, found = nearfar.data(pattern), sorted(glob.glob(pattern, recursive=True))
    assert sorted(os.path.abspath(data.base / key) for key in data.keys) == sorted(map(os.path.abspath, found))
    for row, key in enumerate(data.keys):
        with Image.open(data.base / key) as image:
            shown = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        np.testing.assert_array_equal(data.images("image", 16, [row])[0], shown)


def test_a_folder_that_matches_is_read_whole_and_is_a_class(files):
    data = nearfar.data("shots/*s")
    assert len(data.keys) == 72
    classes = np.array(data.label_names["label"])[data.labels["label"]]
    assert {key.split("/")[0] for key in data.keys} == set(classes) == {"cats", "dogs", "birds"}


def test_tables_are_read_as_one(files):
    data = nearfar.data("part[01].csv")
    assert data.texts("text") == [f"words {k} {i}" for k in (0, 1) for i in range(10)]
    assert nearfar.data("part[x].csv").texts("text") == ["first", "second"]  # there is a file of that very name


def test_runs_from_a_pattern_go_on_and_know_new_files(files, capsys):
    words = ["--steps", "4", "--batch-size", "8", "--image-size", "16", "--val-every", "0", "--out", "run"]
    assert main(["fit", "simclr", "shots/*/*.png", *words]) == 0
    assert main(["fit", "--resume", "--out", "run"]) == 0
    shutil.copy("shots/dogs/1.png", "shots/cats/99.png")
    assert main(["fit", "--resume", "--out", "run"]) != 0
    assert "The data have changed" in capsys.readouterr().err


def test_what_matches_nothing_or_was_spread_by_the_shell_is_told(files, capsys):
    with pytest.raises(InputError, match=r"No file matches shots/\*\.gif"):
        nearfar.data("shots/*.gif")
    with pytest.raises(InputError, match=r"No file matches .*hidden"):
        nearfar.data("shots/cats/.*")
    assert main(["data", *sorted(glob.glob("shots/cats/*"))]) != 0
    assert "put it in quotes" in capsys.readouterr().err
