"""What is written is whole or not there, has one owner, and says clearly where it is damaged."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from nearfar import files
from nearfar.errors import InputError, NearfarError

MEND = "Make it anew."


def started(tmp_path, script, *words):
    """A process that runs a script and says "ready" when it is where the test wants it."""
    command = [sys.executable, "-c", script, str(tmp_path), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def killed(process):
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


HOLD = """
import sys, time
from pathlib import Path
from nearfar import files
with files.lock(Path(sys.argv[1]) / ".lock", "'runs/a'"):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path):
    process = started(tmp_path, HOLD)
    try:
        with (
            pytest.raises(files.Busy, match=rf"'runs/a' is in use by another process \(number {process.pid} "),
            files.lock(tmp_path / ".lock", "'runs/a'"),
        ):
            pass
    finally:
        killed(process)
    assert (tmp_path / ".lock").exists()
    with files.lock(tmp_path / ".lock", "'runs/a'"), pytest.raises(files.Busy), files.lock(tmp_path / ".lock", "x"):
        pass
    assert os.listdir(tmp_path) == []


RACE = """
import sys, time
from pathlib import Path
from nearfar import files
place, log = Path(sys.argv[1]) / ".lock", Path(sys.argv[1]) / "log"
print("ready", flush=True)
for _ in range(300):
    try:
        with files.lock(place, "x"):
            held = Path(sys.argv[1]) / "held"
            held.touch(exist_ok=False)
            held.unlink()
    except files.Busy:
        pass
"""


def test_two_processes_never_hold_one_lock(tmp_path):
    processes = [started(tmp_path, RACE) for _ in range(3)]
    for process in processes:
        assert process.wait() == 0
        process.stdout.close()


WRITE = """
import os, sys, time
from pathlib import Path
from nearfar import files
target = Path(sys.argv[1]) / "model"
if sys.argv[2] == "replacing":
    rename = os.rename
    def stop(a, b):
        rename(a, b)
        if str(b).endswith(".old"):
            print("ready", flush=True)
            time.sleep(60)
    os.rename = stop
with files.whole(target) as fresh:
    fresh.mkdir()
    (fresh / "weights").write_text("new")
    if sys.argv[2] == "writing":
        print("ready", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("moment", ["writing", "replacing"])
def test_a_folder_whose_replacement_was_killed_comes_back(moment, tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "weights").write_text("old")
    process = started(tmp_path, WRITE, moment)
    before = sorted(os.listdir(tmp_path))
    files.tidy(target)
    assert sorted(os.listdir(tmp_path)) == before, "what a living process writes is left alone"
    killed(process)
    files.tidy(target)
    assert os.listdir(tmp_path) == ["model"]
    assert (target / "weights").read_text() == "old"
    with files.whole(target) as fresh:
        fresh.mkdir()
    assert os.listdir(target) == []
    assert os.listdir(tmp_path) == ["model"]


def test_a_failed_block_leaves_nothing(tmp_path):
    (tmp_path / "a").write_text("old")

    def fail():
        with files.whole(tmp_path / "a") as fresh:
            fresh.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_what_another_machine_left_goes_after_a_day(tmp_path):
    left = tmp_path / ".a.00000000-1-0123456789abcdef.tmp"
    left.write_text("")
    files.tidy_inside(tmp_path)
    assert left.exists()
    os.utime(left, (time.time() - 100_000,) * 2)
    files.tidy_inside(tmp_path)
    assert not left.exists()


def test_modes_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_json(tmp_path / "a.json", {})
        with files.whole(tmp_path / "folder") as fresh:
            fresh.mkdir()
    finally:
        os.umask(before)
    assert [oct((tmp_path / name).stat().st_mode & 0o777) for name in ("a.json", "folder")] == ["0o640", "0o750"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\0\0\0", "is empty"),
        (b'{"a": 1', r"is not JSON \(line 1\)"),
        (b"\xff\xfe\x00\x80", "is not text"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "is not JSON"),
        (b"[1]", "holds a list, not an object"),
        (b"null", "holds nothing, not an object"),
        (b"{}", "'a' is missing"),
        (b'{"a": "1"}', "'a' is a text, not a whole number"),
        (b'{"a": true}', "'a' is true or false, not a whole number"),
    ],
)
def test_damaged_json(content, message, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        files.read_json(path, {"a": int}, MEND)
    assert str(path) in str(error.value)
    assert error.value.hint == MEND


def test_a_checksum_tells_a_changed_number(tmp_path):
    path = tmp_path / "scores.json"
    files.write_json(path, {"a": 0.1 + 0.2, "b": [1, None, "ü\ud83d"], "c": np.float32(2)}, checksum=True)
    assert files.read_json(path, {"a": float}, MEND) == {"a": 0.1 + 0.2, "b": [1, None, "ü\ud83d"], "c": 2}
    path.write_bytes(path.read_bytes().replace(b"0.3", b"0.7"))
    with pytest.raises(InputError, match="not what was written"):
        files.read_json(path, {"a": float}, MEND)


def test_lines(tmp_path):
    path = tmp_path / "curve.jsonl"
    assert files.read_lines(path, {}, MEND) == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert files.read_lines(path, {"step": int}, MEND) == [{"step": 1}, {"step": 2}]
    for text, message in (('{"step": 1}\n}{\n', "line 2 is not JSON"), ("3\n", "not an object"), ("{}\n", "'step'")):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            files.read_lines(path, {"step": int}, MEND)


def test_an_array_is_read_only_where_it_is_whole(tmp_path):
    path, array = tmp_path / "a.npy", np.arange(12, dtype=np.float32).reshape(4, 3)
    files.save_array(path, array)
    np.testing.assert_array_equal(files.load_array(path), array)
    np.testing.assert_array_equal(np.load(path), array)
    good = path.read_bytes()
    for place in range(0, len(good), 7):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        assert files.load_array(path) is None
    for cut in (0, 1, len(good) - 1):
        path.write_bytes(good[:cut])
        assert files.load_array(path) is None
    assert files.load_array(tmp_path / "none.npy") is None


def test_a_flipped_byte_of_a_checkpoint_is_told_or_harmless(tmp_path):
    path, held = tmp_path / "last.ckpt", {"w": torch.arange(40.0), "step": 7, "name": {"a": torch.ones(2)}}
    torch.save(held, path)
    good = path.read_bytes()
    told = 0
    for place in range(0, len(good), 5):
        path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        try:
            files.check_zip(path, MEND)
            with files.reading(path, MEND):
                found = torch.load(path, weights_only=True)
        except InputError as error:
            told += str(path) in str(error)
            continue
        assert torch.equal(found["w"], held["w"])
        assert found["step"] == 7
        assert torch.equal(found["name"]["a"], held["name"]["a"])
    assert told > 50


def test_errors_within_reading_and_writing(tmp_path):
    for error in (KeyError("task"), TypeError("'int' object is not iterable"), AttributeError("x"), RecursionError()):
        with pytest.raises(InputError, match="is damaged"), files.reading(tmp_path / "x.json", MEND):
            raise error
    with pytest.raises(InputError, match="cannot be read: No such file"), files.reading(tmp_path / "x.json", MEND):
        (tmp_path / "x.json").read_text()
    with pytest.raises(NearfarError, match="Free some space") as told, files.writing(tmp_path / "y"):
        raise OSError(28, "No space left on device")
    assert not isinstance(told.value, InputError)


def test_empty_folders_that_were_made_are_taken_away(tmp_path):
    made = files.make_folders(tmp_path / "a" / "b" / "c")
    (tmp_path / "a" / "kept").write_text("")
    files.remove_empty(made)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "kept"]


def test_json_is_plain(tmp_path):
    files.write_json(tmp_path / "a.json", {"a": np.arange(3), "b": tmp_path})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [0, 1, 2], "b": str(tmp_path)}
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "a.json", {"a": object()})
    assert os.listdir(tmp_path) == ["a.json"]
