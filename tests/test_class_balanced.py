"""Rows drawn so that every class comes equally often, against counting; on the command line and in runs that go on."""

from collections import Counter

import numpy as np
import pytest

import nearfar
from nearfar.class_balanced import class_balanced
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.samplers import Groups, Permutation, Rows, WholeSet
from nearfar.sources import open_data
from nearfar.training import building
from nearfar.training.settings import TrainSettings

SIZES = {0: 30, 1: 7, 2: 2}
ROWS = np.arange(500, 544)  # sample ids that are no places; the last five have no label
LABELS = np.full(600, -1)
LABELS[ROWS[:39]] = np.repeat(list(SIZES), list(SIZES.values()))


def drawn(sampler, batches):
    return [sampler.rows(k) for k in range(batches)]


def test_every_class_equally_often_and_its_rows_too():
    bound = class_balanced(Permutation(), "kind").over(Rows(ROWS, labels={"kind": LABELS}), 8, seed=5)
    assert (bound.items, bound.epoch_steps) == (39, 4)
    for batches in (1, 4, 50):
        rows = np.concatenate(drawn(bound, batches))
        counts = Counter(LABELS[rows].tolist())
        assert counts.keys() == SIZES.keys()
        assert max(counts.values()) - min(counts.values()) <= 1
        for kind in SIZES:
            of = Counter(rows[LABELS[rows] == kind].tolist())
            seen = [of[int(r)] for r in ROWS if LABELS[r] == kind]
            assert max(seen) - min(seen) <= 1
    again = class_balanced(Permutation(), "kind").over(Rows(ROWS, labels={"kind": LABELS}), 8, seed=5)
    assert np.array_equal(again.rows(49), bound.rows(49))  # a function of seed and number alone
    other = class_balanced(Permutation(), "kind").over(Rows(ROWS, labels={"kind": LABELS}), 8, seed=6)
    assert not np.array_equal(np.concatenate(drawn(other, 4)), np.concatenate(drawn(bound, 4)))


def test_groups_and_rows_to_which_a_sampler_is_restricted():
    groups = np.full(600, -1)
    groups[ROWS] = np.arange(44) // 2
    labels = np.full(600, -1)
    labels[ROWS] = (np.arange(44) // 2 >= 20).astype(int)
    bound = class_balanced(Groups(2), "kind").over(Rows(ROWS, groups, {"kind": labels}), 10, seed=0)
    first, second = bound.rows(3).reshape(2, -1)
    assert np.array_equal(groups[first], groups[second])
    assert (first != second).all()
    assert Counter(labels[first].tolist()) == {0: 5, 1: 5}
    some = class_balanced(Permutation().only(ROWS[25:37]), "kind").over(Rows(ROWS, labels={"kind": LABELS}), 6, 0)
    assert set(np.concatenate(drawn(some, 20)).tolist()) == set(ROWS[25:37].tolist())
    assert class_balanced(WholeSet(), "kind") is None
    with pytest.raises(InputError, match="the training rows have 1 of them"):
        class_balanced(Permutation().only(ROWS[:5]), "kind").over(Rows(ROWS, labels={"kind": LABELS}), 2, 0)


@pytest.fixture(scope="module")
def rare(tmp_path_factory):
    """Texts of which one class has a tenth."""
    path = tmp_path_factory.mktemp("rare") / "texts.csv"
    lines = [f"{'a rare bird' if i % 10 == 0 else 'the usual cat'} number {i},{'xy'[i % 10 == 0]}" for i in range(150)]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    return path


def test_a_run_draws_them_and_says_so(rare):
    data = nearfar.data(rare)
    setup = building.prepare("simclr", data, TrainSettings(batch_size=12, steps=6, class_balanced=True), {})
    (labels,) = data.labels.values()
    rows = np.concatenate([setup.loader.at(k).rows.numpy() for k in range(6)])
    assert Counter(labels[rows].tolist()) == {0: 36, 1: 36}
    train = np.asarray(data.splits["train"])
    many = int((labels[train] == 1).sum())
    (note,) = (one for one in setup.notes if "drawn by" in one)
    assert f"in an epoch of {len(train)} rows each of its 2 classes comes {len(train) / 2:,.0f} times" in note
    assert f"the smallest ({many} rows)" in note


def test_numbers_to_be_learned_are_no_classes(tmp_path):
    lines = [f"word {i} of them and many more words,{i / 7:.3f}" for i in range(40)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,height", *lines]) + "\n")
    data = open_data(tmp_path / "texts.csv", roles={"text": "text", "target": "height"})
    with pytest.raises(InputError, match="--class-balanced draws by labels; the target 'height' holds numbers"):
        building.prepare("simclr", data, TrainSettings(steps=2, batch_size=8, class_balanced=True), {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["simclr"], "--class-balanced draws by labels, and texts.csv has none. Name the column: --label COLUMN."),
        (["contriever", "--stream", "true", "--label", "note"], "'contriever' draws its batches in a way of its own"),
    ],
)
def test_wrong_uses(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"word {i} of them and many more words,note {i % 7}" for i in range(40)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,note", *lines]) + "\n")
    assert main(["fit", words[0], "texts.csv", "--class-balanced", "--steps", "2", *words[1:]]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
