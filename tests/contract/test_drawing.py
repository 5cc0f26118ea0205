"""Methods that choose their rows: episodes, bags, partners, the whole set; and the row facts that a batch carries."""

import numpy as np
import pytest
import torch

from nearfar.errors import InputError
from nearfar.methods import Batch
from nearfar.sources import open_data
from nearfar.training import building
from nearfar.training.comparing import compare
from nearfar.training.settings import TrainSettings
from tests.contract import runs


def prepared(method, table, roles=None, **options):
    settings = TrainSettings(steps=4, warmup=0, device="cpu")
    return building.prepare(method, open_data(table, roles=roles), settings, options)


def test_an_episode_has_its_classes_and_rows(table):
    made = prepared("toy-episodes", table)
    batch = made.loader.at(0)
    assert (made.resolved["batch_size"], len(batch), batch.members) == (3, 3, 4)
    classes = batch.targets.view(4, 3)
    assert (classes == classes[0]).all()
    assert len(classes[0].unique()) == 3
    assert made.method.facts.classes == tuple(f"kind {k}" for k in range(6))


def test_a_method_knows_the_domains_of_its_rows(tmp_path):
    lines = ["text,language", *(f"a text of some words {i},{('fr', 'de', '')[i % 3]}" for i in range(60))]
    (tmp_path / "languages.csv").write_text("\n".join(lines))
    made = prepared("simclr", tmp_path / "languages.csv")
    assert made.method.facts.domains == ("de", "fr")
    batch = made.loader.at(0)
    wanted = [(1, 0, -1)[int(row) % 3] for row in batch.rows]
    assert batch.domains.tolist() == wanted


@pytest.mark.parametrize("at", [3, 5])
def test_a_run_of_episodes_goes_on_to_the_bit(at, table, tmp_path, monkeypatch):
    runs.run("toy-episodes", table, tmp_path / "whole", batch_size="auto")
    runs.stopped("toy-episodes", table, tmp_path / "parts", monkeypatch, at, batch_size="auto")
    runs.run("toy-episodes", table, tmp_path / "parts", resume=True, batch_size="auto")
    runs.same_to_the_bit(tmp_path / "whole", tmp_path / "parts")


def test_an_episode_on_two_processes_equals_one(table, tmp_path, monkeypatch):
    """Three classes: two on one process, one on the other."""
    done = runs.on_two_processes("toy-episodes", table, tmp_path / "two", batch_size="auto", **runs.SGD)
    assert done.returncode == 0, done.stderr[-3000:]
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    runs.run("toy-episodes", table, tmp_path / "one", batch_size="auto", **runs.SGD)
    runs.close(tmp_path / "one", tmp_path / "two", rtol=1e-3)


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        (
            "toy-episodes",
            {"batch_size": 12},
            "batches of 3 classes .* itself; --batch-size 12 does not fit",
        ),
        ("toy-episodes", {"batch_size": "auto", "micro_batch": 2}, "cannot be computed in micro-batches"),
        ("toy-episodes", {"batch_size": "auto", "ways": 7}, "6 of the 6 classes|7 classes"),
        ("toy-episodes", {"batch_size": "auto", "ways": 2, "devices": 3}, "3 processes cannot share a batch of 2"),
        ("toy-bags", {"devices": 2, "bag": "sack"}, "needs every batch whole on one process"),
        ("toy-bags", {}, "needs bag \\+ text"),
        ("toy-untrained", {"devices": 2}, "on one process"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(method, options, says, table, tmp_path):
    with pytest.raises(InputError, match=says):
        runs.run(method, table, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_batches_of_one_bag(table, tmp_path):
    runs.run("toy-bags", table, tmp_path / "run", bag="sack", batch_size=8)
    made = prepared("toy-bags", table, roles={"bag": "sack"})
    drawn = [made.loader.at(k) for k in range(8)]
    assert all(len(b.bags.unique()) == 1 for b in drawn)
    assert len({int(b.bags[0]) for b in drawn}) > 1


def test_partners_share_a_label(table, tmp_path):
    runs.run("toy-partners", table, tmp_path / "run")
    batch = prepared("toy-partners", table).loader.at(1)
    a, b = batch.labels["label"].chunk(2)
    assert batch.members == 2
    assert torch.equal(a, b)
    assert (batch.rows.chunk(2)[0] != batch.rows.chunk(2)[1]).all()


def test_the_whole_set_in_every_batch(table, tmp_path):
    runs.run("toy-whole", table, tmp_path / "run", batch_size="auto", steps=3)
    count = len(open_data(table).splits["train"])
    assert {line["rows"] for line in runs.lines(tmp_path / "run")} == {count}


def test_methods_with_batches_of_their_own_stand_in_a_comparison(table, tmp_path):
    done = compare(table, methods="toy-episodes,contriever", seeds=1, out=tmp_path / "c", report=False, steps=4,
                   device="cpu", progress=False, val_every=0)  # fmt: skip
    cells = {r["slug"]: r["seeds"][0] for r in done.results["rows"] if r["kind"] == "method"}
    assert {c["status"] for c in cells.values()} == {"done"}
    assert cells["toy-episodes"]["samples"] == 4 * 12
    assert cells["contriever"]["samples"] == 4 * done.results["plan"]["batch_size"]
    assert done.results["plan"]["batch_size"] > 3


def batch_of(members=2, n=4):
    rows = torch.arange(members * n)
    return Batch(
        rows, {}, {"text": rows + 50}, rows // 2, {"kind": rows % 3}, members, domains=rows % 5, bags=rows % 4,
        targets=rows + 7, values=rows / 2, negative_groups=torch.arange(n), negatives=[torch.arange(n) + 90],
        scores=rows * 1.0, views={"text": [torch.arange(n)] * members},
    )  # fmt: skip


def test_a_part_of_a_batch_keeps_what_is_known_of_its_rows():
    whole = batch_of()
    part = whole.part(slice(1, 3))
    assert part.rows.tolist() == [1, 2, 5, 6]
    for name in ("groups", "domains", "bags", "targets", "values", "scores"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[part.rows])
    assert torch.equal(part.labels["kind"], whole.labels["kind"][part.rows])
    assert torch.equal(part.content["text"], whole.content["text"][part.rows])
    assert part.negative_groups.tolist() == [1, 2]
    assert part.negatives[0].tolist() == [91, 92]


def test_parts_join_to_the_whole():
    whole = batch_of()
    again = Batch.joined([whole.part(slice(0, 1)), whole.part(slice(1, 4))])
    for name in ("rows", "groups", "domains", "bags", "targets", "values", "negative_groups", "scores"):
        assert torch.equal(getattr(again, name), getattr(whole, name)), name
    moved = whole.to("meta")
    assert moved.bags.device.type == moved.values.device.type == "meta"


def test_a_batch_of_single_rows_joins_too():
    whole = batch_of(members=1)
    again = Batch.joined([whole.part(slice(0, 2)), whole.part(slice(2, 4))])
    assert np.array_equal(again.targets, whole.targets)
    assert np.array_equal(again.negative_groups, whole.negative_groups)
