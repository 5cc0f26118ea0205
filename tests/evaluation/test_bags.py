"""The task of bags: numbers counted by hand, who is asked and who is read by a probe, and what is refused."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import nearfar
from nearfar.errors import InputError
from nearfar.evaluation import task_for
from nearfar.evaluation.pairwise import auc, placements
from tests.conftest import write_bags

ROLES = {"bag": "bag", "target": "state", "label": ["truth"]}


def test_area_under_the_curve():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, 60) / 5, rng.random(60) < 0.3
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    pairs = [(a > b) + (a == b) / 2 for a in scores[labels] for b in scores[~labels]]
    assert auc(scores, labels) == pytest.approx(np.mean(pairs))
    assert placements(scores, labels).shape == (labels.sum(),)
    assert auc([1, 2], [1, 0]) == 0
    assert auc([1, 1], [1, 0]) == 0.5
    assert np.isnan(auc([1, 2], [1, 1]))


class Asked:
    """Vectors of the rows, and an answer that takes the first number as the score of an instance."""

    def __init__(self, data, answers=True):
        self.values, self.inference, self.asked = data.facts("values", "vector"), self if answers else None, 0

    def __call__(self, role, rows):
        return self.values[rows]

    raw = __call__

    def of_bags(self, vectors, bags):
        self.asked += 1
        p = vectors[:, 0]
        return p, torch.stack([p[bags == b].max() for b in range(int(bags.max()) + 1)])


@pytest.fixture
def data(tmp_path):
    return nearfar.data(write_bags(tmp_path / "bags.csv"), roles=ROLES)


def test_a_model_that_tells_bags_is_asked(data):
    task, embed = task_for(data), Asked(data)
    assert task.kind == "bags"
    assert task.primary == "instance_auc"
    rows = np.sort(data.splits["test"])
    p, hot = embed.values[rows][:, 0], np.array(data.values("truth", rows)) == "tumour"
    names = np.array(data.values("bag", rows))
    whole = {n: p[names == n].max() for n in np.unique(names)}
    state = {n: data.values("state", rows[names == n])[0] == "tumour" for n in whole}
    scores = task.evaluate(embed, "test", examples=4)
    assert embed.asked == 2, "on test rows, and on validation rows for the threshold"
    assert scores.metrics["instance_auc"] == pytest.approx(roc_auc_score(hot, p))
    assert scores.metrics["bag_auc"] == pytest.approx(roc_auc_score(list(state.values()), list(whole.values())))
    inside = np.isin(names, [n for n in state if state[n]])
    parts = scores.directions["instances of positive bags"]
    assert parts["instance_auc"] == pytest.approx(roc_auc_score(hot[inside], p[inside]))
    low, high = scores.bootstrap().bounds
    assert low <= scores.primary <= high
    best = max(whole, key=lambda n: whole[n])
    first = scores.examples[0]
    assert first.direction.startswith(f"bag {best} (")
    assert [hit.score for hit in first.hits] == sorted(p[names == best].tolist(), reverse=True)[:5]
    hot = np.array(data.values("truth")) == "tumour"
    assert [hit.relevant for hit in first.hits] == [hot[hit.row] for hit in first.hits]
    assert scores.tables[0].rows[0][0] == best


def test_other_vectors_are_read_by_a_probe(data):
    """On rows that are told apart by two numbers, a probe on the labels of bags finds them."""
    scores = task_for(data).evaluate(Asked(data, answers=False), "test")
    assert scores.metrics["instance_auc"] > 0.85
    assert scores.metrics["bag_auc"] > 0.8
    assert 0 < task_for(data).evaluate(Asked(data, answers=False), "val").metrics["bag_auc"] <= 1


def test_without_labels_of_instances_bags_alone_are_measured(tmp_path):
    data = nearfar.data(write_bags(tmp_path / "bags.csv"), roles={"bag": "bag", "target": "state"})
    task = task_for(data)
    assert (task.kind, task.primary) == ("bags", "bag_auc")
    scores = task.evaluate(Asked(data), "test", examples=2)
    assert set(scores.metrics) == {"bag_auc", "bag_accuracy"}
    assert scores.examples[0].hits


def test_which_instances_are_positive(tmp_path):
    path = write_bags(tmp_path / "bags.csv")
    text = path.read_text().replace(",normal\n", ",2\n").replace(",tumour\n", ",9\n")
    path.write_text(text)
    data = nearfar.data(path, roles=ROLES)
    assert data.label_names["truth"][task_for(data).instance_class] == "9"
    path.write_text(text.replace(",2\n", ",3\n", 20))
    many = nearfar.data(path, roles=ROLES)
    with pytest.raises(InputError, match="in 'truth' makes an instance positive is not known: 2, 3, 9"):
        task_for(many)
    with pytest.raises(InputError, match="No instance is '8'"):
        task_for(many, "bags --instance-positive 8")
    assert task_for(many, "bags --instance-positive 9").evaluate(Asked(many), "test").primary > 0.5


def test_bags_with_two_labels_are_no_task(tmp_path):
    path = write_bags(tmp_path / "bags.csv")
    data = nearfar.data(path, roles={"bag": "bag", "label": ["truth"]})
    assert task_for(data).kind == "labels"
    with pytest.raises(InputError, match=r"cannot be measured by 'bags'. It needs bags with one label each"):
        task_for(data, "bags")


def test_a_split_of_one_kind_is_told(tmp_path):
    path = write_bags(tmp_path / "bags.csv")
    lines = path.read_text().splitlines()
    parts = ["split", *("test" if i >= 300 and "normal" in line.split(",")[5] else "train" if i < 280 else "val"
                        for i, line in enumerate(lines[1:]))]  # fmt: skip
    path.write_text("\n".join(f"{line},{part}" for line, part in zip(lines, parts, strict=True)))
    data = nearfar.data(path, roles=ROLES)
    for refused in (task_for(data).check, lambda: task_for(data).evaluate(Asked(data), "test")):
        with pytest.raises(InputError, match="None of the 5 bags of the test split is positive: there is nothing to"):
            refused()
    assert task_for(data).evaluate(Asked(data), "val").primary > 0.5
