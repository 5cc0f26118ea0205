"""INS and attention pooling as methods: the parts of a run, what is never looked at, errors, and the way of a user."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import nearfar
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.losses.bags import linear_between
from nearfar.methods.bagwise import InstanceClassifier, PoolOptions
from nearfar.training import building
from nearfar.training.settings import TrainSettings
from tests.conftest import write_bags
from tests.contract import runs

SMALL = {"vector_width": 16, "vector_layers": 1}
ROLES = {"bag": "bag", "target": "state", "label": ["truth"]}


@pytest.fixture
def table(tmp_path):
    return write_bags(tmp_path / "bags.csv")


def edited(path, change):
    """The table with each row changed: change(number, row)."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        change(number, row)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def prepared(data, slug="ins", settings=None, **options):
    return building.prepare(slug, data, TrainSettings(**{"batch_size": 8, "steps": 20, "warmup": 0} | SMALL
                                                      | (settings or {})), options)  # fmt: skip


def trained(data, out, method="ins", **more):
    given = {"steps": 24, "batch_size": 16, "val_every": 0, "progress": False, **SMALL, **more}
    return nearfar.fit(method, data, out=out, **given)


def state(run):
    return torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_the_three_parts_of_a_run(bags_few):
    made = prepared(bags_few, pretraining=0.1, start=0.3)
    method, tumour = made.method, bags_few.target_names.index("tumour")
    assert [method.stage_of(k) for k in range(20)] == [0] * 2 + [1] * 4 + [2] * 14
    drawn = {stage: set() for stage in (0, 1, 2)}
    for batch in made.loader:
        drawn[method.stage_of(batch.step)] |= set(bags_few.targets[batch.rows].tolist())
    assert drawn == {0: {0, 1}, 1: {tumour}, 2: {0, 1}}
    assert prepared(bags_few, pretraining=0.0).method.stage_of(0) == 1
    assert prepared(bags_few, pretraining=0.0, start=0.0).method.stage_of(0) == 2
    for start in (0.1, 0.0):  # no warm-up: what follows the classifier alone sees all
        assert [prepared(bags_few, pretraining=0.1, start=start).method.stage_of(k) for k in range(20)] == (
            [0] * 2 + [2] * 18)  # fmt: skip
    assert 1 in [prepared(bags_few, pretraining=0.1, start=0.11).method.stage_of(k) for k in range(20)]
    with pytest.raises(InputError, match=r"--start 0.05 is before the end of --pretraining 0.1\."):
        prepared(bags_few, pretraining=0.1, start=0.05)
    assert [linear_between((0.95, 0.8), share) for share in (0, 0.5, 1, 3)] == pytest.approx([0.95, 0.875, 0.8, 0.8])


def test_soft_targets_keep_what_is_sure(bags_few, tmp_path):
    """Also the queue's classes, and that prototypes have length 1."""
    run = trained(bags_few, tmp_path / "run", phi=(0.5, 0.5), queue=32)
    kept, rows = state(run), np.asarray(bags_few.splits["train"])
    sure = torch.from_numpy(bags_few.targets[rows] != bags_few.target_names.index("tumour"))
    torch.testing.assert_close(kept["soft"].sum(1), torch.ones(len(rows)))
    assert (kept["soft"] >= 0).all()
    assert kept["soft"][sure].eq(torch.tensor([1.0, 0.0])).all()
    assert not kept["soft"][~sure].eq(0.5).all()
    torch.testing.assert_close(kept["prototypes"].norm(dim=1), torch.ones(2))
    assert set(kept["keys.item_identities"].unique().tolist()) <= {0, 1}
    said = []
    still = state(trained(bags_few, tmp_path / "still", phi=(1.0, 1.0), say=said.append))
    assert sum("prototypes call every instance of the positive bags negative" in line for line in said) == 1
    assert still["soft"][~sure].eq(0.5).all(), "phi 1 keeps them"
    none = state(trained(bags_few, tmp_path / "none", pseudo_labels="none"))
    assert none["soft"][~sure].eq(0.5).all()


def test_labels_of_instances_are_never_looked_at(table, tmp_path):
    """Weights are the same to the bit under other labels of rows, and others under other labels of bags."""
    made = [trained(nearfar.data(table, roles=ROLES), tmp_path / "a")]
    made.append(trained(nearfar.data(table, roles={"bag": "bag", "target": "state"}), tmp_path / "b"))
    edited(table, lambda k, row: row.update(truth=("normal", "tumour")[k % 2]))
    made.append(trained(nearfar.data(table, roles=ROLES), tmp_path / "c"))
    weights = [state(run) for run in made]
    assert all(torch.equal(v, other[k]) for other in weights[1:] for k, v in weights[0].items())
    edited(table, lambda k, row: row.update(state=("normal", "tumour")[k // 6 % 3 == 0]))
    other = state(trained(nearfar.data(table, roles=ROLES), tmp_path / "d"))
    assert any(not torch.equal(v, other[k]) for k, v in weights[0].items())


def test_the_bag_loss_takes_all_bags_in_turn(bags_few):
    method = prepared(bags_few, bag_start=0.0, bag_rows=4, pretraining=0.0, start=0.0).method
    seen, viewed = [], method.survey.viewed

    def note(rows, number):
        seen.append(rows)
        return viewed(rows, number)

    method.survey.viewed = note
    many = len(method.members_of)
    for step in range(many):
        batch = nearfar.methods.Batch(torch.arange(8), {}, step=step, steps=many)
        assert method.bag_term(batch, 2).item() > 0
    bags = [set(bags_few.bags[rows].tolist()) for rows in seen]
    assert all(len(one) == 1 for one in bags)
    assert len(set().union(*bags)) == many == len(seen)
    assert {len(rows) for rows in seen} == {4}
    assert float(method.bag_term(batch, 1)) == 0


def test_a_bag_is_told_from_its_instances():
    module = InstanceClassifier(torch.nn.Linear(3, 2), "tumour")
    z, of = torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1])
    p = torch.stack([module.classifier(row).softmax(0)[1] for row in z]).detach()
    for pool, wanted in (("mean", [p[[0, 2]].mean(), p[[1, 3, 4]].mean()]), ("max", [p[[0, 2]].max(),
                                                                                    p[[1, 3, 4]].max()])):  # fmt: skip
        instance, bag = module.scores(z, of, PoolOptions(pool))
        torch.testing.assert_close(instance, p)
        torch.testing.assert_close(bag, torch.stack(wanted))


@pytest.mark.parametrize("slug", ["ins", "abmil"])
def test_wrong_bags(slug, table, tmp_path):
    def refused(match, **roles):
        with pytest.raises(InputError, match=match):
            nearfar.fit(slug, table, out=tmp_path / "run", **({"bag": "bag", "target": "state"} | roles), **SMALL)

    refused(r"needs a column of any kind \+ bag \+ target", bag=None)
    refused("The bag 'slide 1' has two labels in 'truth': 'tumour' .* and 'normal'", target="truth")
    three = table.read_text()
    edited(table, lambda k, row: row.update(state=("a", "b", "c")[k // 6 % 3]))
    refused("Bags are positive or negative, and those of .* have 3 classes: a, b, c")
    refused("No bag of .* is 'd'", positive="d")
    run = trained(nearfar.data(table, roles=ROLES), tmp_path / "named", slug, positive="b", steps=2)
    assert run.plan["resolved"]["positive"] == "b"
    table.write_text(three)
    edited(table, lambda k, row: row.update(state="normal"))
    refused("have 1 class: normal. Two are needed")
    table.write_text(three)
    edited(
        table,
        lambda k, row: row.update(
            state="" if row["state"] == "tumour" and k < 330 else row["state"],
            split=("train", "test", "val")[(k >= 240) + (k >= 320)],
        ),
    )
    refused("None of the 20 training bags is 'tumour': there is nothing to tell apart", split="split")
    edited(table, lambda k, row: row.update(state="" if k < 240 else row["state"]))
    refused("No training row has a target", split="split")
    assert not (tmp_path / "run").exists()


def test_bags_without_a_label_are_left_out_and_counted(table, tmp_path):
    edited(table, lambda k, row: row.update(state="nan" if k // 6 % 10 == 3 else row["state"]))
    data, said = nearfar.data(table, roles=ROLES), []
    assert data.target_names == ["normal", "tumour"]
    run = trained(data, tmp_path / "run", say=said.append)
    lacking = int((data.targets[data.splits["train"]] < 0).sum())
    assert lacking % 6 == 0
    assert f"note: {lacking:,} training rows without a target are left out" in said
    counts = run.scores["test"]["counts"]["bags"]
    assert counts["skipped"] == len({b for b in data.bags[data.splits["test"]]
                                     if data.targets[data.bags == b].max() < 0})  # fmt: skip
    assert all(np.isfinite(json.loads(line)["loss"]) for line in (run.path / "curve.jsonl").read_text().splitlines())


def test_both_learn_which_rows_make_a_bag_positive(bags_few, tmp_path):
    """On bags that are easy to tell; chance is 0.5."""
    more = {"steps": 120, "lr": 0.01, "batch_size": 32}
    ins = trained(bags_few, tmp_path / "ins", start=0.1, **more)
    pooled = trained(bags_few, tmp_path / "abmil", "abmil", gated=True, **more)
    for run, least in ((ins, 0.85), (pooled, 0.6)):
        assert run.scores["test"]["metrics"]["bag_auc"] > 0.85
        assert run.scores["test"]["metrics"]["instance_auc"] > least
        assert run.plan["supervised"]


@pytest.mark.slow
def test_two_processes_equal_one(table, tmp_path):
    """Prototypes, queue and soft targets too; views are given (nothing is corrupted)."""
    options = {"bag": "bag", "target": "state", "views": {"name": "corrupt", "rate": 0.0}, "queue": 24,
               "bag_start": 0.3, "val_every": 0, **runs.SGD, **SMALL}  # fmt: skip
    done = runs.on_two_processes("ins", table, tmp_path / "two", **options)
    assert done.returncode == 0, done.stderr
    runs.run("ins", table, tmp_path / "one", **options)
    runs.close(tmp_path / "one", tmp_path / "two")
    with pytest.raises(InputError, match="'abmil' needs every batch whole on one process"):
        runs.run("abmil", table, tmp_path / "abmil", devices=2, bag="bag", target="state")


def slides(root, rng, count):
    """Images as CLASS/SLIDE/PATCH.png: in a tumour two of six are bright."""
    for slide in range(count):
        kind = ("normal", "tumour")[slide % 2]
        folder = root / kind / f"s{slide:02}"
        folder.mkdir(parents=True)
        for patch in range(6):
            high = 250 if kind == "tumour" and patch < 2 else 60
            Image.fromarray(rng.integers(0, high, (16, 16, 3), dtype=np.uint8)).save(folder / f"{patch}.png")
    return root


def test_from_a_folder_of_folders_to_scores_of_slides(tmp_path, capsys):
    """fit, report, predict and compare, from the command line; new slides have no label."""
    rng, run = np.random.default_rng(0), str(tmp_path / "run")
    seen = str(slides(tmp_path / "slides", rng, 40))
    assert main(["fit", "ins", seen, "--bag", "folder", "--steps", "30", "--batch-size", "16", "--image-size", "16",
                 "--split-seed", "1", "--out", run, "--device", "cpu"]) == 0  # fmt: skip
    assert "positive tumour" in capsys.readouterr().out
    new = tmp_path / "new"
    slides(new, rng, 4)
    for folder in [*(new / "normal").iterdir(), *(new / "tumour").iterdir()]:
        folder.rename(new / folder.name)
    assert main(["predict", run, str(new), "--bag", "folder", "--out", str(tmp_path / "told.csv")]) == 0
    with open(tmp_path / "told.csv", newline="") as file:
        told = list(csv.DictReader(file))
    assert [row["key"] for row in told[:2]] == ["s00/0.png", "s00/1.png"]
    for name in ("s00", "s01", "s02", "s03"):
        own = [row for row in told if row["bag"] == name]
        scores = [float(row["instance_score"]) for row in own]
        assert len(own) == 6
        assert [float(row["bag_score"]) for row in own] == pytest.approx([np.mean(scores)] * 6, rel=1e-5)
        assert [int(row["rank"]) for row in own] == [1 + sum(s > one for s in scores) for one in scores]
    assert main(["predict", run, str(new), "--bag", "folder", "--pool", "max"]) == 0
    capsys.readouterr()
    assert main(["predict", run, str(new), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["rows"][0]) == {"key", "instance_score"}, "no bags are known"
    assert main(["report", run, "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "its highest instances" in page
    assert "Highest instances of bags" in page
    assert main(["compare", seen, "--bag", "folder", "--methods", "ins,abmil,simclr", "--seeds", "1", "--steps", "4",
                 "--batch-size", "16", "--image-size", "16", "--split-seed", "1", "--val-every", "0", "--device", "cpu",
                 "--out", str(tmp_path / "both")]) == 0  # fmt: skip
    results = json.loads((tmp_path / "both" / "results.json").read_text())
    assert {r["slug"]: r["supervised"] for r in results["rows"] if r["kind"] == "method"} == {
        "ins": True, "abmil": True, "simclr": False}  # fmt: skip
    assert results["task"]["kind"] == "bags"
