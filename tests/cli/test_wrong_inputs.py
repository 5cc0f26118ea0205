"""Every option of every command with wrong values: exit code 2, one line that says what, and nothing left behind.

wrong_inputs.txt holds a line a case: what is typed, and what the message must say.
"""

import csv
import shlex
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nearfar.cli import COMMANDS, main

CASES = [line.split("  ->  ") for line in (Path(__file__).parent / "wrong_inputs.txt").read_text().splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Images, pairs, a model of each, their indexes and a comparison, as the cases name them."""
    folder = tmp_path_factory.mktemp("wrong")
    rng = np.random.default_rng(0)
    for name in "ab":
        (folder / "pics" / name).mkdir(parents=True)
        for i in range(16):
            image = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / "pics" / name / f"{i}.png")
    with open(folder / "pairs.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "text_b", "group", "section"])
        table.writerows([f"what is {i} x", f"it is {i} indeed y", f"g{i // 2}", f"s{i % 3}"] for i in range(40))
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(folder)
        for words in [
            "fit simclr pics --steps 2 --batch-size 8 --val-every 0 --out m1",
            "fit pairs pairs.csv --steps 2 --batch-size 8 --val-every 0 --out m2",
            "embed m2/model pairs.csv --out idx",
            "embed m1/model pics --out pidx",
            "compare pairs.csv --methods pairs --seeds 1 --steps 2 --batch-size 8 --out cmp",
        ]:
            assert main(words.split()) == 0
        yield folder


def state(folder):
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()} | {
        str(p): None for p in folder.rglob("*") if p.is_dir()
    }


def test_the_table_is_long_enough():
    assert len(CASES) >= 300
    assert {words.split()[0] for words, _ in CASES} >= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_inputs_are_refused(command, place, capsys):
    before, other = state(place), []
    for words, says in (case for case in CASES if case[0].split()[0] == command):
        capsys.readouterr()
        code = main(shlex.split(words))
        shown = capsys.readouterr()
        assert code == 2, (words, shown)
        if says not in shown.err:
            other.append((words, says, shown.err))
        assert shown.err.strip().splitlines()[-1].startswith("nearfar: "), (words, shown.err)
        assert "Traceback" not in shown.err, words
        assert state(place) == before, f"something was left behind or changed: {words}"
    assert other == []
