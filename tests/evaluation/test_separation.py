"""The four probes: on vectors that hold one label or both, and on data that lack what is asked for."""

import csv

import numpy as np
import pytest

import nearfar
from nearfar.errors import InputError
from nearfar.evaluation import task_for


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp("probes") / "rows.csv", np.random.default_rng(0)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "place", "sign", "one"])
        for i in range(1200):
            sign = f"sign {rng.integers(3)}" if i % 2 else ""
            writer.writerow([f"{rng.normal():.5f}", f"{rng.normal():.5f}", f"place {rng.integers(4)}", sign,
                             "same" if i % 2 else "other"])  # fmt: skip
    return nearfar.data(path, roles={"vector": ["a", "b"], "label": ["place", "sign", "one"]})


class Told:
    """Vectors that hold the labels named for each variant, and noise."""

    def __init__(self, data, held, name=None):
        self.data, self.held, self.name = data, held, name

    def of_variant(self, name):
        return Told(self.data, self.held, name)

    def raw(self, role, rows):
        parts = [np.random.default_rng(len(str(self.name))).normal(size=(len(self.data), 2))[rows]]
        parts += [5 * np.eye(5)[self.data.labels[column][rows]] for column in self.held.get(self.name, ())]
        return np.concatenate(parts, 1)


APART = {"common": ["place"], "salient": ["sign"]}


def test_the_ideal_the_opposite_and_both_in_one(data):
    task = task_for(data, "separation")
    assert (task.shared, task.salient) == ("place", "sign")
    ideal = task.evaluate(Told(data, APART), "test").metrics
    assert ideal["shared from common"] == ideal["salient from salient"] == 1
    assert ideal["shared from salient"] < 0.5
    assert ideal["salient from common"] < 0.6
    both = task.evaluate(Told(data, {"common": ["place", "sign"], "salient": ["place", "sign"]}), "test").metrics
    turned = task.evaluate(Told(data, {"common": ["sign"], "salient": ["place"]}), "test").metrics
    nothing = task.evaluate(Told(data, {}), "test").metrics
    assert ideal["deviation"] < 0.25 < both["deviation"] < turned["deviation"]
    assert [both[name] for name in both if name != "deviation"] == [1, 1, 1, 1]
    rows = data.splits["test"][data.labels["sign"][data.splits["test"]] >= 0]
    share = []
    for column in ("place", "sign"):
        train = data.splits["train"][data.labels["sign"][data.splits["train"]] >= 0]
        share.append((data.labels[column][rows] == np.bincount(data.labels[column][train]).argmax()).mean())
    assert both["deviation"] == pytest.approx(2 - sum(share))  # one vector for both: as far as chance
    assert task.chance("test").primary == pytest.approx(both["deviation"])
    told = [1 - nothing["shared from common"], abs(nothing["shared from salient"] - share[0]),
            abs(nothing["salient from common"] - share[1]), 1 - nothing["salient from salient"]]  # fmt: skip
    assert nothing["deviation"] == pytest.approx(sum(told))


def test_the_background_is_left_out_and_counted(data):
    task = task_for(data, "separation")
    counts = task.evaluate(Told(data, APART), "test").counts["target rows"]
    test = data.splits["test"]
    assert counts["skipped"] == (data.labels["sign"][test] < 0).sum()
    assert counts["queries"] + counts["skipped"] == len(test)
    scores = task.evaluate(Told(data, APART), "val")
    assert scores.primary == scores.metrics["deviation"]
    assert task.metric().higher_is_better is False


def test_what_is_asked_for_and_not_there(data):
    turned = task_for(data, "separation", shared_label="sign", salient_label="place")
    assert turned.evaluate(Told(data, APART), "test").metrics["shared from salient"] == 1
    for options, match in (({"shared_label": "plac"}, "no column of labels 'plac'. Did you mean 'place'"),
                           ({"salient_label": "other"}, "--salient-label other"),
                           ({"shared_label": "sign"}, "are both 'sign'")):  # fmt: skip
        with pytest.raises(InputError, match=match):
            task_for(data, "separation", **options)
    with pytest.raises(InputError, match="The shared label has one value only"):
        task_for(data, "separation", shared_label="one").evaluate(Told(data, APART), "test")
    one = nearfar.data(data.path, roles={"vector": ["a", "b"], "label": ["place"]})
    with pytest.raises(InputError, match=r"cannot be measured by 'separation'. It needs two columns of labels"):
        task_for(one, "separation")
