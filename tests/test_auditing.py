"""A table of what is odd in data, on data whose oddities are known."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from nearfar.auditing import audit
from nearfar.cli import main
from nearfar.sources import open_data


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Three clusters of numbers. Line 5 repeats line 4, line 7 nearly line 6, line 12 has the label of another cluster
    and line 22 lies alone."""
    rng = np.random.default_rng(0)
    centres = np.array([[9, 0, 0, 9], [0, 9, 9, 0], [-9, -9, 0, 3]])
    rows = np.repeat(centres, 20, 0) + rng.normal(size=(60, 4))
    kinds = np.repeat(["a", "b", "c"], 20)
    rows[3], rows[5] = rows[2], rows[4] + 1e-3
    kinds[10] = "b"
    rows[20] = [-9, 30, -30, -30]
    path = tmp_path_factory.mktemp("odd") / "numbers.csv"
    lines = [",".join([*(f"{x:.5f}" for x in row), kind]) for row, kind in zip(rows, kinds, strict=True)]
    path.write_text("\n".join(["w,x,y,z,kind", *lines]) + "\n")
    return path


def told(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_report_names_file_line_and_other_row_of_each_oddity(table, tmp_path, capsys):
    out = tmp_path / "odd.csv"
    options = ["--vector", "w,x,y,z", "--label", "kind", "--report", str(out)]
    assert main(["data", str(table), *options]) == 0
    shown = capsys.readouterr().out
    rows = told(out)
    assert {(row["what"], row["file"], row["line"]) for row in rows} >= {
        ("duplicate", str(table), "5"), ("near copy", str(table), "7"), ("unlike label", str(table), "12"),
        ("outlier", str(table), "22")}  # fmt: skip
    by = {(row["what"], row["line"]): row for row in rows}
    assert by["duplicate", "5"]["other"] == by["duplicate", "5"]["key"].replace("5", "4")
    assert by["unlike label", "12"]["detail"] == "kind: b, around it a"
    assert float(by["unlike label", "12"]["value"]) > 0.5
    assert next(row["line"] for row in rows if row["what"] == "outlier") == "22"
    assert "vector: duplicate" in shown
    assert str(out) in shown.replace("\n", "")
    assert main(["data", str(table), *options]) == 2
    assert "exists already. Choose another --report" in capsys.readouterr().err


def test_the_summary_is_json_and_counts_the_table(table, tmp_path, capsys):
    out = tmp_path / "odd.jsonl"
    assert main(["data", str(table), "--vector", "w,x,y,z", "--label", "kind", "--report", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["report"]
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert {one["what"]: one["found"] for one in found["found"]} == {
        what: sum(line["what"] == what for line in lines)
        for what in ("duplicate", "near copy", "outlier", "unlike label")
    }
    assert found["path"] == str(out)


def test_a_report_that_cannot_be_written_is_told_before_the_data_are_read(tmp_path, capsys):
    for name, says in (("odd.txt", "known kind"), ("", "known kind"), ("folder.csv", "is a folder")):
        (tmp_path / "folder.csv").mkdir(exist_ok=True)
        assert main(["data", str(tmp_path / "nothing"), "--report", str(tmp_path / name) if name else ""]) == 2
        assert says in capsys.readouterr().err


def test_images_are_told_by_their_files(tmp_path):
    rng = np.random.default_rng(0)
    for kind, lines in (("up", 0), ("across", 1)):
        (tmp_path / kind).mkdir()
        for k in range(8):
            pixels = np.zeros((32, 32, 3), np.uint8)
            period = 2 + k % 4
            stripes = (np.arange(32) // period % 2 * 200).astype(np.uint8)
            pixels += (stripes[:, None] if lines else stripes[None, :])[..., None]
            pixels[:k] = rng.integers(0, 255, (k, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{k}.png")
    Image.open(tmp_path / "up" / "1.png").save(tmp_path / "up" / "copy.png")
    found = audit(open_data(tmp_path)).findings
    (copy,) = [one for one in found if one.what == "duplicate"]
    assert {copy.file, copy.other} == {str(tmp_path / "up" / "copy.png"), "up/1.png"}
    assert copy.line is None


def test_near_copies_of_one_group_are_no_finding(tmp_path):
    words = "the quick brown fox jumps over the lazy dog near the old river bank today"
    path = tmp_path / "texts.csv"
    path.write_text(f"text,group\n{words},1\n{words} again,1\n{words} once,2\nsomething else is written here now,3\n")
    found = [one for one in audit(open_data(path)).findings if one.what == "near copy"]
    assert all({one.row, int(one.other) - 2} != {0, 1} for one in found)
    assert found
