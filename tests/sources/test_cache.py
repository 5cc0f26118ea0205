"""What is kept of data answers for these data alone, belongs to their owner, and stays within its bound."""

import json
import os

import numpy as np
import pytest

from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.sources import open_data, storage


@pytest.fixture
def same_names(tmp_path, image):
    """Two folders whose files have equal names, sizes and times, and other pixels."""
    for number, folder in enumerate("ab"):
        for i in range(5):
            os.utime(image(tmp_path / folder / f"{i}.bmp", seed=10 * number + i), (1, 1))
    return tmp_path / "a", tmp_path / "b"


def test_equal_names_sizes_and_times_are_no_equal_files(same_names):
    a, b = map(open_data, same_names)
    assert a.hash != b.hash
    assert not np.array_equal(a.images("image", 8), b.images("image", 8))


def test_a_file_replaced_under_the_same_size_and_time(tmp_path, image):
    for i in range(4):
        os.utime(image(tmp_path / "p" / f"{i}.bmp", seed=i), (1, 1))
    before = open_data(tmp_path / "p")
    os.utime(image(tmp_path / "p" / "2.bmp", seed=9), (1, 1))
    after = open_data(tmp_path / "p")
    assert np.flatnonzero(before.digests("image") != after.digests("image")).tolist() == [2]


def test_an_error_read_from_the_cache_names_the_file_at_hand(tmp_path, image):
    for folder in ("first", "second"):
        image(tmp_path / folder / "a.png")
        (tmp_path / folder / "t.csv").write_text("image,text\na.png,some words\nlost.png,more words\n")
        (tmp_path / folder / "e.csv").write_text("text,label\nwords,a\n ,b\nwords,b\n")
        for name in ("t.csv", "e.csv"):
            with pytest.raises(InputError) as caught:
                open_data(tmp_path / folder / name)
            assert str(tmp_path / folder / name) in str(caught.value)
            assert {"first": "second", "second": "first"}[folder] not in str(caught.value)
    problem = open_data(tmp_path / "second" / "t.csv", unreadable="skip").problems[0]
    assert str(problem) == (
        f"{tmp_path}/second/t.csv, line 3: column 'image' ({tmp_path}/second/lost.png): there is no such file"
    )


def test_a_damaged_entry_is_made_anew(image_folder, cache):
    pixels = open_data(image_folder).images("image", 8)
    for kind in ("tables", "scans", "pixels"):
        (path,) = (cache / kind).iterdir()
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert np.array_equal(open_data(image_folder).images("image", 8), pixels)
    for kind in ("tables", "scans", "pixels"):
        (path,) = (cache / kind).iterdir()
        path.write_bytes(path.read_bytes()[:50])
    assert np.array_equal(open_data(image_folder).images("image", 8), pixels)


def test_nobody_else_may_read_it(image_folder, cache):
    cache.mkdir(mode=0o755)
    (cache / "pixels").mkdir(mode=0o755)
    open_data(image_folder).images("image", 8)
    assert {p.stat().st_mode & 0o777 for p in cache.iterdir()} == {0o700}
    fresh = cache.parent / "fresh" / "inner"
    storage.cache_dir(fresh)
    assert fresh.stat().st_mode & 0o777 == 0o700


def held(cache):
    return sum(f.stat().st_size for f in cache.rglob("*") if f.is_file())


def test_it_stays_within_its_bound(image_folder, cache, monkeypatch):
    data = open_data(image_folder)
    monkeypatch.setenv("NEARFAR_CACHE_SIZE", "50KB")
    for size in range(8, 24):
        assert data.images("image", size).shape == (20, 3, size, size)
        assert held(cache) <= 50_000 or len(list((cache / "pixels").iterdir())) == 1
    monkeypatch.setenv("NEARFAR_CACHE_SIZE", "plenty")
    with pytest.raises(InputError, match=r"NEARFAR_CACHE_SIZE is 'plenty'.*20GB"):
        open_data(image_folder).images("image", 30)


def test_what_was_used_last_stays(tmp_path):
    paths = [tmp_path / "pixels" / f"{i}.u8" for i in range(4)]
    for i, path in enumerate(paths):
        with storage.new_entry(path) as temporary:
            temporary.write_bytes(bytes(1000))
        os.utime(path, (i, i))
    assert storage.entry(paths[0])
    storage.trim(tmp_path, 2200)
    assert [p.name for p in paths if p.exists()] == ["0.u8", "3.u8"]


def test_leftovers_of_stopped_writers_go(tmp_path):
    (tmp_path / "scans").mkdir()
    old, new = tmp_path / "scans" / ".x.npz.1.tmp", tmp_path / "scans" / ".y.npz.2.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    storage.kept(tmp_path)
    assert (old.exists(), new.exists()) == (False, True)


def test_the_command_shows_and_clears(image_folder, cache, capsys):
    open_data(image_folder).images("image", 8)
    (cache / "mine.txt").write_text("not of nearfar")

    def run(*words):
        assert main(["cache", *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    found = run()
    assert found["path"] == str(cache)
    assert {k["kind"]: k["entries"] for k in found["kinds"] if k["entries"]} == {"tables": 1, "scans": 1, "pixels": 1}
    assert found["bytes"] == held(cache) - len("not of nearfar")
    assert run("clear", "--unused", "1h")["removed"] == 0
    assert run("clear", "--kind", "pixels")["removed"] == 1
    assert run("clear")["removed"] == 2
    assert run()["bytes"] == 0
    assert (cache / "mine.txt").exists()
    assert main(["cache"]) == 0
    assert "tables" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "said"), [
    (["empty"], "no 'empty'"), (["--kind", "pixel"], "no kind 'pixel'"),
    (["clear", "--unused", "long"], "'long' is not a time"),
])  # fmt: skip
def test_wrong_cache_commands(words, said, capsys):
    assert main(["cache", *words]) == 2
    assert said in capsys.readouterr().err
