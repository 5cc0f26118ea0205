"""What stands in two splits is told, and refused where that is asked for."""

import numpy as np
import pytest

import nearfar
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.sources import open_data


def sides(tmp_path, column="group"):
    lines = [f"item {i} x,{i % 10},{'train' if i < 20 else 'test'}" for i in range(30)]
    path = tmp_path / "sides.csv"
    path.write_text(f"text,{column},split\n" + "\n".join(lines))
    return path


@pytest.mark.parametrize("column", ["group", "unit"])
def test_groups_and_units_on_both_sides(tmp_path, capsys, column):
    path = sides(tmp_path, column)
    data = open_data(path)
    assert data.leaks() == 8  # two of the ten groups are cut from the training rows for validation
    (one,) = [found for found in data.shared() if (found.earlier, found.later) == ("train", "test")]
    assert (one.role, one.values, one.rows, one.of) == (column, 8, 8, 10)
    assert len(train_values(data, column)) == 8
    assert main(["data", str(path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "none on two sides" not in shown
    assert f"8 of 10 test rows share 8 {column}s of the role '{column}' with training rows (" in shown


def train_values(data, column):
    return {int(v) for v in data.values(column, data.splits["train"])}


def test_strict_refuses(tmp_path, capsys):
    path = sides(tmp_path)
    with pytest.raises(InputError, match=r"test rows share .* groups.*leave out --strict"):
        open_data(path, strict=True)
    assert main(["data", str(path), "--strict"]) == 2
    assert "Mend the split" in capsys.readouterr().err
    fine = open_data(path, roles={"split": None}, strict=True)
    assert fine.leaks() == 0
    with pytest.raises(InputError):
        nearfar.fit("pairs", open_data(path), strict=True)


def test_a_split_of_ours_shares_nothing(tmp_path):
    assert open_data(sides(tmp_path), roles={"split": None}).shared() == []


def test_rows_without_a_group_or_unit_stand_alone(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    nan = float("nan")
    table = {"text": [f"t {i} x" for i in range(8)], "group": [0.0, 0.0, 1.0, 1.0, nan, nan, None, nan],
             "unit": ["a", "a", "b", "b", "", None, " ", ""], "label": [0.0, 1.0, nan, 1.0, None, 0.0, nan, 1.0],
             "id": ["x", None, "y", "z", "", "u", "v", "w"]}  # fmt: skip
    pq.write_table(pa.table(table), tmp_path / "n.parquet")
    data = open_data(tmp_path / "n.parquet")
    assert data.groups.tolist() == [0, 0, 1, 1, 2, 3, 4, 5]
    assert data.units.tolist() == [0, 0, 1, 1, 2, 3, 4, 5]
    assert data.labels["label"].tolist() == [0, 1, -1, 1, -1, 0, -1, 1]
    assert data.keys == ["x", "row 1", "y", "z", "row 4", "u", "v", "w"]
    assert sum(len(rows) for rows in data.splits.values()) == 8
    assert len(np.unique(data._unit_marks)) == 6


def test_fit_and_compare_tell(tmp_path):
    lines = [f"item {i} x,other {i} y,{i % 10},{'train' if i < 40 else 'test'}" for i in range(60)]
    (tmp_path / "p.csv").write_text("text,text_b,group,split\n" + "\n".join(lines))
    said: list[str] = []
    few = {"steps": 2, "batch_size": 8, "val_every": 0, "progress": False, "say": said.append}
    nearfar.fit("pairs", tmp_path / "p.csv", out=tmp_path / "run", **few)
    nearfar.compare(tmp_path / "p.csv", methods="pairs", seeds=1, out=tmp_path / "cmp", report=False, **few)
    told = [line for line in said if line.startswith("warning:") and "'group' with training rows" in line]
    assert len(told) == 2
    assert told[0] == told[1]
    assert "of 20 test rows share" in told[0]
