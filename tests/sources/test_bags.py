"""Bags and targets as they are read from files: counts, imbalance, what is missing, and what is refused."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from nearfar.errors import InputError
from nearfar.sources import open_data
from nearfar.sources.bags import bag_targets, bags_of, mixed, positive_class
from nearfar.sources.showing import show


def table(path, rows, columns="text,slide,state,kind,split"):
    path.write_text("\n".join([columns, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def twelve(change=lambda place, row: row):
    """Four bags of three texts; two are positive."""
    rows = [[f"text number {i}", f"s{i // 3}", ("no", "yes")[i // 3 % 2], "ab"[i % 3 == 0], ("train", "test")[i > 5]]
            for i in range(12)]  # fmt: skip
    return [change(i, row) or row for i, row in enumerate(rows)]


def shown(data):
    out = io.StringIO()
    show(data, Console(file=out, width=400))
    return " ".join(out.getvalue().split())


ROLES = {"bag": "slide", "target": "state", "label": ["kind"], "split": "split"}


def test_bags_are_counted_by_their_labels(tmp_path):
    data = open_data(table(tmp_path / "a.csv", twelve()), roles=ROLES)
    facts = json.loads(json.dumps(data.describe()))
    assert facts["bags"] == {"bags": 4, "least": 3, "median": 3, "most": 3, "alone": 0, "labelled_by": "state",
                             "classes": {"no": 2, "yes": 2}, "without": 0, "mixed": 0}  # fmt: skip
    assert "Bags of slide (4): 3 rows each; by 'state': no 2, yes 2" in shown(data)
    assert facts["labels"]["kind"]["ratio"] == 2
    assert "Classes of kind (2): a 8, b 4; the largest has 2 times the rows of the smallest" in shown(data)


def test_a_bag_has_the_label_of_its_rows(tmp_path):
    """Of those that have one; a row without a bag is one of its own."""

    def change(place, row):
        row[2] = row[2] if place in (1, 4, 10) else ""
        row[1] = "" if place == 8 else row[1]

    data = open_data(table(tmp_path / "a.csv", twelve(change)), roles=ROLES)
    low, high = bag_targets(data)
    assert low.tolist() == high.tolist() == [0, 0, 0, 1, 1, 1, -1, -1, -1, 1, 1, 1]
    found = bags_of(data, np.arange(12))
    assert dict(zip(found.names, found.labels.tolist(), strict=True)) == {
        "s0": 0, "s1": 1, "s2": -1, "s3": 1, data.keys[8]: -1}  # fmt: skip
    assert sorted(found.sizes.tolist()) == [1, 2, 3, 3, 3]
    for number, rows in enumerate(found.members()):
        assert (found.of[np.isin(found.rows, rows)] == number).all()
    some = bags_of(data, np.array([11, 4]))
    assert some.names == ["s1", "s3"]
    assert some.of.tolist() == [1, 0]
    assert "Bags of slide (5): 1 to 3 rows each; by 'state': no 1, yes 2; 2 without a label; 1 rows without a bag" in \
        shown(data)  # fmt: skip


def test_a_bag_with_two_labels(tmp_path):
    path = table(tmp_path / "a.csv", twelve(lambda k, row: row.__setitem__(2, "no") if k == 5 else None))
    data = open_data(path, roles=ROLES)
    assert np.flatnonzero(mixed(data)).tolist() == [3, 4, 5]
    assert "1 with two labels or more: 'state' is of rows, not of bags" in shown(data)
    two = r"The bag 's1' has two labels in 'state': 'yes' \(row .*\) and 'no' \(row .*\)"
    with pytest.raises(InputError, match=two):
        bags_of(data, np.arange(12))
    assert len(bags_of(data, np.array([0, 1, 9]))) == 2, "elsewhere"


def test_what_is_positive(tmp_path):
    data = open_data(table(tmp_path / "a.csv", twelve()), roles=ROLES)
    assert (positive_class(data), positive_class(data, "no")) == (1, 0)
    with pytest.raises(InputError, match=r"No bag of a.csv is 'yess'. Did you mean 'yes'"):
        positive_class(data, "yess")
    one = open_data(table(tmp_path / "b.csv", twelve(lambda k, row: row.__setitem__(2, "no"))), roles=ROLES)
    with pytest.raises(InputError, match=r"have 1 class: no. Two are needed"):
        positive_class(one)
    with pytest.raises(InputError, match=r"has no bags. Name the column: --bag COLUMN"):
        bags_of(open_data(table(tmp_path / "c.csv", twelve()), roles={"target": "state"}), np.arange(12))
    bare = open_data(table(tmp_path / "d.csv", twelve()), roles={"bag": "slide", "label": None})
    with pytest.raises(InputError, match=r"has no labels of bags. Name the column: --target COLUMN"):
        bags_of(bare, np.arange(12))
    assert "Bags of slide (4): 3 rows each; without labels" in shown(bare)


def test_missing_numbers_are_no_class(tmp_path):
    """NaN and null in a column of floats, as pandas writes classes with gaps."""
    state = [0.0, None, float("nan"), 1.0, float("nan"), 1.0] * 2
    made = pa.table({"text": [f"text number {i}" for i in range(12)], "slide": [i // 3 for i in range(12)],
                     "state": pa.array(state, pa.float64())})  # fmt: skip
    pq.write_table(made, tmp_path / "a.parquet")
    data = open_data(tmp_path / "a.parquet", roles={"bag": "slide", "target": "state"})
    assert data.target_names == ["0", "1"]
    assert data.targets.tolist() == [0, -1, -1, 1, -1, 1] * 2
    facts = data.describe()
    assert facts["bags"]["classes"] == {"0": 2, "1": 2}
    assert facts["target"]["missing"] == 6


@pytest.mark.parametrize(("change", "words"), [
    (lambda k, row: row.__setitem__(3, "rare") if k == 2 else None, "1 class of a single row"),
    (lambda k, row: row.__setitem__(3, "" if k < 6 else "xy"[k % 2]), "no training row has one"),
    (lambda k, row: row.__setitem__(3, "new" if k > 8 else "old"), "1 class of test rows that no training row has"),
    (lambda k, row: row.__setitem__(3, "" if k in (1, 4, 7) else row[3]), "3 rows without one"),
])  # fmt: skip
def test_what_a_supervised_method_will_miss_is_said(change, words, tmp_path):
    data = open_data(table(tmp_path / "a.csv", twelve(change)), roles={"label": ["kind"], "split": "split"})
    assert words in shown(data)


def test_folders_are_bags(tmp_path):
    rng = np.random.default_rng(0)
    for kind, slide in (("no", "s0"), ("no", "s1"), ("yes", "s0")):
        for k in range(2):
            path = tmp_path / "slides" / kind / slide / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    data = open_data(tmp_path / "slides", roles={"bag": "folder"})
    found = bags_of(data, data.ids)
    assert found.names == ["no/s0", "no/s1", "yes/s0"]
    assert [data.target_names[k] for k in found.labels] == ["no", "no", "yes"]
    (tmp_path / "texts" / "doc").mkdir(parents=True)
    for k in range(3):
        (tmp_path / "texts" / "doc" / f"{k}.txt").write_text(f"one text {k}")
    (tmp_path / "texts" / "alone.txt").write_text("another text")
    texts = open_data(tmp_path / "texts", roles={"bag": "folder"})
    assert sorted(bags_of_sizes(texts)) == [1, 3]
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.txt").write_text("a text")
    assert "folder" not in open_data(tmp_path / "flat").table.column_names


def bags_of_sizes(data):
    return np.unique(data.bags, return_counts=True)[1].tolist()
