"""Tables whose training rows are single items and whose other rows are pairs with a score."""

import csv

import numpy as np
import pytest

import nearfar
from nearfar import evaluation
from nearfar.errors import InputError
from nearfar.training import building
from nearfar.training.settings import TrainSettings

WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "islet", "jetty", "kelp", "lagoon"]


def sentence(rng):
    return " ".join(rng.choice(WORDS, 6))


def written(path, rows, columns=("text", "text_b", "score", "split")):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def rows_of(rng, train=40, val=10, test=20):
    single = [(f"{sentence(rng)} {i}", "", "", "train") for i in range(train)]
    pairs = [
        (f"{sentence(rng)} a{i}", f"{sentence(rng)} b{i}", str(i % 6), "val" if i < val else "test")
        for i in range(val + test)
    ]
    return single + pairs


@pytest.fixture
def rows():
    return rows_of(np.random.default_rng(0))


def test_single_sentences_are_trained_on_and_pairs_are_measured(rows, tmp_path):
    data = nearfar.data(written(tmp_path / "sts.csv", rows))
    assert data.only_tested == {"text_b", "score"}
    assert set(data.training_roles) == {"text", "split"}
    train, test = data.splits["train"], data.splits["test"]
    assert np.isnan(data.scores[train]).all()
    assert np.isfinite(data.scores[test]).all()
    assert (data.content("text_b")[train] == -1).all()
    assert (data.content("text_b")[test] >= 0).all()
    assert not data.positives[train].any()
    assert evaluation.task_for(data).kind == "sts"
    found = data.describe()
    assert found["content"]["text_b"]["distinct"] == 30
    assert found["content"]["text_b"]["sizes"]["least"] > 0
    assert found["scores"]["counts"]["5"] == {"train": 0, "val": 1, "test": 4}
    assert any("so it only measures" in note for note in data.notes)


def test_a_method_of_views_learns_and_one_of_pairs_says_what_is_missing(rows, tmp_path):
    data = nearfar.data(written(tmp_path / "sts.csv", rows))
    assert building.fits("simclr", data)
    assert not building.fits("pairs", data)
    with pytest.raises(InputError, match=r"'pairs' needs .*; sts.csv has split, text"):
        building.check_needs("pairs", data)
    setup = building.prepare("simclr", data, TrainSettings(steps=1, batch_size=8, task="sts"), {})
    assert set(setup.rows) == set(data.splits["train"])
    assert set(setup.loader.at(0).content) == {"text"}


def test_an_empty_cell_of_a_measured_row_is_a_fault(rows, tmp_path):
    rows[45] = (rows[45][0], "", *rows[45][2:])
    with pytest.raises(InputError, match=r"line 47: column 'text_b': the text is empty"):
        nearfar.data(written(tmp_path / "sts.csv", rows))
    data = nearfar.data(tmp_path / "sts.csv", unreadable="skip")
    assert len(data) == len(rows) - 1
    assert "line 47" in str(data.problems[0])


def test_one_filled_training_row_makes_the_empty_ones_faults(rows, tmp_path):
    rows[3] = (rows[3][0], "another side", "3", "train")
    with pytest.raises(InputError, match=r"line 2: column 'text_b': the text is empty \(\d+ more"):
        nearfar.data(written(tmp_path / "sts.csv", rows))


@pytest.mark.parametrize(("missing", "words"), [("val", "validation"), ("test", "test")])
def test_pairs_cannot_be_cut_from_single_rows(rows, tmp_path, missing, words):
    rows = [row for row in rows if row[3] != missing]
    with pytest.raises(InputError, match=f"empty in all training rows, so it only measures, and no row .* {words}"):
        nearfar.data(written(tmp_path / "sts.csv", rows))


def test_a_tested_side_that_was_trained_on_is_told(rows, tmp_path):
    rows[-1] = (rows[-1][0], rows[0][0], *rows[-1][2:])
    data = nearfar.data(written(tmp_path / "sts.csv", rows))
    assert data.leaks() == 1
    with pytest.raises(InputError, match="1 of 20 test rows share 1 text of the role 'text_b' with training rows"):
        nearfar.data(written(tmp_path / "sts.csv", rows), strict=True)
