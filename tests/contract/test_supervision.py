"""Who sees labels: targets of both kinds, rows without one, bags, and what a comparison says of it."""

import csv
import json

import numpy as np
import pytest

from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.sources import open_data
from nearfar.training import building
from nearfar.training.comparing import compare
from nearfar.training.settings import TrainSettings
from tests.contract import runs


def rows_of(table):
    with open(table, newline="") as file:
        return list(csv.DictReader(file))


def written(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def prepared(method, data, **options):
    return building.prepare(method, data, TrainSettings(batch_size=12, steps=4, warmup=0, device="cpu"), options)


def test_numbers_and_classes_of_a_target(table):
    data = open_data(table, roles={"target": "number"})
    assert data.target_values.dtype == np.float64
    assert data.target_values.tolist() == [float(r["number"]) for r in rows_of(table)]
    named = open_data(table, roles={"target": "sack"})
    assert [named.target_names[k] for k in named.targets] == [r["sack"] for r in rows_of(table)]
    assert named.target_values is None
    plain = open_data(table)
    assert plain.target_names == plain.label_names["label"], "without a target: the first column of labels"
    assert plain.target_values is None
    batch = prepared("toy-regression", data).loader.at(0)
    assert batch.values.tolist() == data.target_values[batch.rows].tolist()


def test_rows_without_a_target_are_left_out_and_told(table, tmp_path):
    rows = rows_of(table)
    for k in range(0, len(rows), 3):
        rows[k]["number"] = ""
    path, said = written(tmp_path / "gaps.csv", rows), []
    runs.run("toy-regression", path, tmp_path / "run", target="number", say=said.append)
    train = open_data(path, roles={"target": "number"}).splits["train"]
    lacking = int((train % 3 == 0).sum())
    assert f"note: {lacking:,} training rows without a target are left out" in said
    assert all(np.isfinite(line["loss"]) for line in runs.lines(tmp_path / "run"))


def test_a_target_that_is_not_a_number_is_told_by_its_row(table, tmp_path):
    rows = rows_of(table)
    rows[4]["number"] = "much"
    path = written(tmp_path / "words.csv", rows)
    with pytest.raises(InputError, match=r"words\.csv, line 6: the target 'much' is not a number"):
        runs.run("toy-regression", path, tmp_path / "run", target="number")
    with pytest.raises(InputError, match="needs target \\+ text"):
        runs.run("toy-regression", table, tmp_path / "run")
    for row in rows:
        row["number"] = ""
    with pytest.raises(InputError, match="No training row has a target"):
        runs.run("toy-regression", written(tmp_path / "none.csv", rows), tmp_path / "run", target="number")
    assert not (tmp_path / "run").exists()


def test_bags_are_not_divided_by_a_split(table):
    data = open_data(table, roles={"bag": "sack"})
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not set(data.bags[data.splits[a]]) & set(data.bags[data.splits[b]])
    both = open_data(table, roles={"bag": "sack", "group": "number"})
    assert len(np.unique(both.units)) <= min(len(np.unique(both.bags)), len(np.unique(both.groups)))
    assert not np.array_equal(both.bags, both.groups), "bags, groups and units are three things"
    own = open_data(table, roles={"text": "text", "bag": "sack", "unit": "number"})
    assert len(np.unique(own.units)) == len({r["number"] for r in rows_of(table)}), "a unit that is named decides"


def test_a_bag_in_two_splits_is_told(table, tmp_path):
    rows = [r | {"split": ("train", "val", "test")[k % 3]} for k, r in enumerate(rows_of(table))]
    data = open_data(written(tmp_path / "split.csv", rows), roles={"bag": "sack"})
    assert any("bags of the role 'bag'" in str(one) for one in data.shared())


@pytest.mark.parametrize(("kind", "words"), [
    ("", "No row of the train split has a value in 'label'"),
    ("kind 1", "'label' has one value only in the training part"),
])  # fmt: skip
def test_labels_in_the_test_part_alone_are_told_before_training(kind, words, table, tmp_path):
    rows = [r | {"split": ("train", "val", "test")[k % 3]} for k, r in enumerate(rows_of(table))]
    rows = [r | {"label": kind} if r["split"] == "train" else r for r in rows]
    path = written(tmp_path / "late.csv", rows)
    with pytest.raises(InputError, match=words):
        runs.run("contriever", path, tmp_path / "run", loss="supcon")
    with pytest.raises(InputError, match=words):
        compare(path, methods="contriever", seeds=1, out=tmp_path / "c", steps=2, device="cpu", progress=False)
    assert sorted(tmp_path.iterdir()) == [path], "nothing was begun"


def test_a_comparison_says_who_sees_labels(table, tmp_path, capsys):
    three = "contriever,toy-episodes,contriever --loss supcon"
    words = ["compare", str(table), "--methods", three, "--seeds", "1", "--steps", "3", "--device", "cpu",
             "--val-every", "0", "--out", str(tmp_path / "c")]  # fmt: skip
    assert main(words) == 0
    out = capsys.readouterr().out
    results = json.loads((tmp_path / "c" / "results.json").read_text())
    sees = {r["slug"]: r.get("supervised") for r in results["rows"] if r["kind"] == "method"}
    assert sees == {"contriever": False, "toy-episodes": True, "contriever-loss-supcon": True}
    assert "toy-episodes (sees labels)" in out
    assert results["winner"] is None
    reason = " ".join(results["reason"].split())
    assert reason.startswith("Methods that see labels of the training rows are ranked apart from those that do not.")
    assert "Without labels: " in reason
    assert "With labels: " in reason
    order = [line.split()[0] for line in out.splitlines() if line.split()[:1] in (["contriever"], ["toy-episodes"])]
    assert order[:2] == ["contriever", "toy-episodes"], "whatever their scores"
    page = (tmp_path / "c" / "report.html").read_text()
    assert "toy-episodes (sees labels)" in page


def test_nothing_is_said_where_all_are_alike(table, tmp_path):
    done = compare(table, methods="contriever", seeds=1, out=tmp_path / "c", report=False, steps=2, device="cpu",
                   progress=False, val_every=0)  # fmt: skip
    assert "sees labels" not in done.results["reason"] + str([r["label"] for r in done.results["rows"]])


@pytest.mark.parametrize(("loss", "sees"), [("infonce", False), ("supcon", True)])
def test_a_loss_with_labels_sees_them(loss, sees, table, tmp_path):
    run = runs.run("contriever", table, tmp_path / "run", loss=loss, steps=2, val_every=0)
    assert run.plan["supervised"] is sees
