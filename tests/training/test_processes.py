"""Two processes that train one model together: the same numbers as one process on the same batches."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nearfar import encoders, processes
from nearfar.errors import InputError
from nearfar.methods.batch import Batch
from nearfar.models import save_model
from nearfar.training.engine import fit
from nearfar.training.loading import shared
from tests import stopping
from tests.compositions import write_shapes
from tests.conftest import dialogue, write_triplets
from tests.modalities.histories import made_up, write

pytestmark = pytest.mark.slow

WORDS = ["stone", "river", "window", "paper", "garden", "engine", "letter", "bridge", "candle", "forest", "market"]
WORDS += ["needle", "pocket", "ribbon", "saddle"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Pairs of texts too short to be cropped: nothing is random but the order."""
    path = tmp_path_factory.mktemp("together") / "pairs.csv"
    lines = [f"the {a} and the {b},{b} beside {a}" for a in WORDS for b in WORDS if a < b]
    path.write_text("question,answer\n" + "\n".join(lines) + "\n")
    return path


SCRIPT = """
import nearfar

nearfar.fit(method, table, text="question", text_b="answer", out=out, **json.loads(options))
"""
SCHEDULE = {"steps": 4, "batch_size": 9, "val_every": 2, "save_every": 2, "device": "cpu", "progress": False}
SGD = {"optimiser": "sgd", "lr": 0.02, "weight_decay": 0.0}  # AdamW would magnify the rounding of tiny gradients


def train(table, out, stop=9, method="pairs", **options):
    return stopping.start(SCRIPT, out, method, table, out, json.dumps(SCHEDULE | options), stop)


def weights(out):
    return load_file(out / "model" / "model.safetensors")


PLAIN = """
import nearfar

nearfar.fit(method, table, out=out, **json.loads(options))
"""


def two_equal_one(method, table, folder, options, monkeypatch):
    """The losses of both, after their weights were found the same."""
    done = stopping.start(PLAIN, folder / "two", method, table, folder / "two", json.dumps(options | {"devices": 2}), 9)
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    fit(method, table, out=folder / "one", **options)
    a, b = weights(folder / "one"), weights(folder / "two")
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=1e-4, atol=1e-6)
    curves = [[json.loads(x) for x in (folder / n / "curve.jsonl").read_text().splitlines()] for n in ("one", "two")]
    assert [x["loss"] for x in curves[1]] == pytest.approx([x["loss"] for x in curves[0]], rel=1e-4)
    return curves[0]


PROMPTED = {"text_encoder": "tiny", "text_causal": True, "text_pooling": "lasttoken", "text_length": 12,
            "vocabulary": 120, "image_size": 16}  # fmt: skip
CASES = {
    "micro-batch": {"micro_batch": 2, "accumulate": 2},
    "queue": {"negatives": {"name": "queue", "size": 24}, "learn_temperature": True},
    "mined": {"negatives": {"name": "mined", "count": 4, "start": 0.0, "refresh": 2}},
    "fnc": {"negatives": {"name": "fnc", "strategy": "attract", "threshold": 0.0, "start": 0.0}},
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case, table, tmp_path, monkeypatch):
    done = train(table, tmp_path / "two", devices=2, **SGD, **CASES[case])
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    fit("pairs", table, text="question", text_b="answer", out=tmp_path / "one", **SCHEDULE, **SGD, **CASES[case])
    assert processes.FOLDER not in os.environ, "what is started later would take this run's folder"
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=1e-4, atol=1e-6)
    curves = [[json.loads(x) for x in (tmp_path / n / "curve.jsonl").read_text().splitlines()] for n in ("one", "two")]
    for first, second in zip(*curves, strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)
        assert second["samples"] == first["samples"]
        assert second.get("val_primary") == pytest.approx(first.get("val_primary"), abs=0.02)


def test_a_teacher_on_two_processes_equals_one(table, tmp_path, monkeypatch):
    """The relations to the keys of all processes, and the mean over all anchors: 5 on one process, 4 on the other."""
    torch.manual_seed(0)
    encoder = encoders.text("small", texts=[f"the {a} beside and" for a in WORDS], vocabulary=120, dim=24)
    save_model(tmp_path / "teacher", {"text": encoder, "text_b": encoder})
    taught = SGD | {"steps": 2, "distil_from": str(tmp_path / "teacher"), "distil_weight": 20.0, "dims": "32"}
    done = train(table, tmp_path / "two", devices=2, **taught)
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    fit("pairs", table, text="question", text_b="answer", out=tmp_path / "one", **SCHEDULE | taught)
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=1e-4, atol=1e-6)
    curves = [[json.loads(x) for x in (tmp_path / n / "curve.jsonl").read_text().splitlines()] for n in ("one", "two")]
    for first, second in zip(*curves, strict=True):
        for name in ("loss", "distillation", "loss_32"):
            assert second[name] == pytest.approx(first[name], rel=1e-4)


def test_pairs_of_classes_on_two_processes_equal_one(tmp_path, monkeypatch):
    """Without a head, whose batch norm would see half of the batch; pairs and gates are those of the whole."""
    notes = tmp_path / "notes.csv"
    lines = [f"the {a} and the {b},{a[0]}" for a in WORDS for b in WORDS if a != b]
    notes.write_text("note,kind\n" + "\n".join(lines) + "\n")
    options = SCHEDULE | SGD | {"views": "twice", "projector": 0, "gate_width": 8, "gate_hidden": 8}
    two_equal_one("hydra", notes, tmp_path, options | {"text": "note", "target": "kind"}, monkeypatch)
    assert any("gate" in name for name in weights(tmp_path / "one"))


def test_banks_of_languages_on_two_processes_equal_one(tmp_path, monkeypatch):
    """By running statistics, since those of a batch would be of half of it; the banks are of all processes."""
    notes = tmp_path / "notes.csv"
    lines = [f"the {a} and the {b},{a},{k % 2}" for k, a in enumerate(WORDS[:8]) for b in WORDS]
    notes.write_text("note,page,language\n" + "\n".join(lines) + "\n")
    options = SCHEDULE | SGD | {"norm": "running", "bank": 16, "batch_size": 8}
    columns = {"text": "note", "group": "page", "domain": "language"}
    assert two_equal_one("ccp", notes, tmp_path, options | columns, monkeypatch)[-1]["loss"] > 0


def test_four_queues_on_two_processes_equal_one(table, tmp_path, monkeypatch):
    """Of code and queries and their copies by the teacher, all processes' vectors in each; without augmentation."""
    options = SCHEDULE | SGD | {"queue": 24, "rate": 0.0, "momentum": 0.5, "batch_size": 8}
    two_equal_one("cocosoda", table, tmp_path, options | {"text": "question", "text_b": "answer"}, monkeypatch)


def test_stopped_on_two_processes_and_gone_on_to_the_same_numbers(table, tmp_path):
    options = {"devices": 2, "negatives": "queue"}
    whole = train(table, tmp_path / "whole", **options)
    assert whole.returncode == 0, whole.stderr
    assert train(table, tmp_path / "part", stop=3, **options).returncode != 0  # a step after the checkpoint of step 2
    assert torch.load(tmp_path / "part" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    again = train(table, tmp_path / "part", resume=True, **options)
    assert again.returncode == 0, again.stderr
    assert all(torch.equal(v, weights(tmp_path / "part")[k]) for k, v in weights(tmp_path / "whole").items())


def test_stages_and_clusters_on_two_processes_stopped_and_gone_on_equal_one(table, tmp_path, monkeypatch):
    """Stopped inside the second stage, after its clusters were made anew on both processes."""
    options = {"stages": 1, "clusters": 3, "projector": 0, "steps": 8, "batch_size": 8, "val_every": 0,
               "negatives": {"name": "cluster", "clusters": 3, "start": 0.3}}  # fmt: skip
    assert train(table, tmp_path / "two", stop=7, method="mcl", devices=2, **SGD, **options).returncode != 0
    assert torch.load(tmp_path / "two" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6
    again = train(table, tmp_path / "two", method="mcl", devices=2, resume=True, **SGD, **options)
    assert again.returncode == 0, again.stderr
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    fit("mcl", table, text="question", text_b="answer", out=tmp_path / "one", **SCHEDULE | SGD | options)
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert {k.split(".")[3] for k in a} == {"0", "1"}, "both stages are kept"
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=1e-4, atol=1e-6)
    curves = [[json.loads(x) for x in (tmp_path / n / "curve.jsonl").read_text().splitlines()] for n in ("one", "two")]
    for first, second in zip(*curves, strict=True):
        for term in ("loss", "stage", "dropped", "same_cluster"):
            assert second[term] == pytest.approx(first[term], rel=1e-4)
    assert {line["same_cluster"] < 1 for line in curves[0]} == {True, False}, "clusters came into use"


def command(table, out, *more):
    words = [sys.executable, "-m", "nearfar", "fit", "pairs", table, "--text", "question", "--text-b", "answer"]
    words += ["--out", out, "--steps", "2", "--batch-size", "9", "--val-every", "0", "--device", "cpu", "--devices", 2]
    called = list(map(str, [*words, *more]))
    return subprocess.run(called, capture_output=True, text=True, timeout=400, env=stopping.clean())


def test_on_the_command_line_the_first_process_speaks(table, tmp_path):
    done = command(table, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained parameters") == 1
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr


def test_an_error_of_the_run_ends_all_processes(table, tmp_path):
    done = command(table, tmp_path / "bad", "--lr", "1e30", "--optimiser", "sgd", "--warmup", "0", "--steps", "5")
    assert done.returncode == 1
    assert "not finite" in done.stderr


def test_launched_by_hand_without_devices(monkeypatch, emoji_few, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match="--devices 4"):
        fit("simclr", emoji_few, out=tmp_path / "x", steps=2, batch_size=8, progress=False)


def test_more_processes_than_items(emoji_few, tmp_path):
    with pytest.raises(InputError, match="cannot share a batch"):
        fit("simclr", emoji_few, out=tmp_path / "x", steps=2, batch_size=2, devices=3, progress=False)


@pytest.mark.parametrize(("count", "world"), [(9, 2), (3, 3), (10, 4), (2, 3)])
def test_shares_cover_the_batch_once(count, world):
    rows = torch.arange(2 * count).numpy()
    parts = [shared(rows, 2, r, world).reshape(2, -1) for r in range(world)]
    assert max(p.shape[1] for p in parts) - min(p.shape[1] for p in parts) <= 1
    assert torch.equal(torch.cat([torch.from_numpy(p) for p in parts], 1), torch.arange(2 * count).view(2, -1))


def test_batches_of_one_step_join_by_member():
    first, second = torch.tensor([1, 2]), torch.tensor([3])
    parts = [
        Batch(torch.cat([x, x + 10]), {}, groups=x.repeat(2), members=2, accumulation_step=k, accumulation_steps=2)
        for k, x in enumerate((first, second))
    ]
    whole = Batch.joined(parts)
    assert whole.rows.tolist() == [1, 2, 3, 11, 12, 13]
    assert whole.groups is not None
    assert whole.groups.tolist() == [1, 2, 3, 1, 2, 3]


def test_one_process_needs_no_exchange():
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.full((2,), 3.0)
    processes.average_gradients([p])
    assert p.grad.tolist() == [3, 3]
    assert processes.mean({"a": 2.0}) == {"a": 2.0}
    assert processes.any_rank(True)
    assert not processes.any_rank(False)


def test_masks_of_triplets_on_two_processes_equal_one(tmp_path, monkeypatch):
    """The frozen encoder of the first stage hides candidates of both processes."""
    table = write_triplets(tmp_path / "triplets.csv")
    options = SCHEDULE | SGD | {"batch_size": 8, "phi": 0.3, "frozen_share": 0.4}
    assert two_equal_one("multicsr", table, tmp_path, options, monkeypatch)[-1]["hidden"] > 0


@pytest.mark.parametrize("method", ["cl4srec", "mclrec"])
def test_histories_on_two_processes_equal_one(method, tmp_path, monkeypatch):
    """Views that change nothing; the batch of both processes is contrasted, by one update or by three in turn."""
    table = write(tmp_path / "log.csv", made_up(np.random.default_rng(0), users=30))
    same = {"name": "crop-mask-reorder", "crop": 1.0, "mask": 0.0, "reorder": 0.0}
    options = SCHEDULE | SGD | {"views": same, "history_dropout": 0.0, "history_width": 16, "batch_size": 9}
    two_equal_one(method, table, tmp_path, options, monkeypatch)


def test_a_teacher_and_its_candidates_on_two_processes_equal_one(tmp_path, monkeypatch):
    """Both processes find the same nearest sentences by the teacher that they trained together; all candidates are
    weighed, so nothing is drawn."""
    notes = tmp_path / "notes.csv"
    notes.write_text("\n".join(["note", *(f"the {a} and the {b}" for a in WORDS for b in WORDS if a < b)]) + "\n")
    options = SCHEDULE | SGD | {"expected": True, "pool": 4, "batch_size": 8, "text": "note"}
    curve = two_equal_one("debcse", notes, tmp_path, options, monkeypatch)
    assert "positive meaning" in curve[-1], "the second stage was reached"


def test_dialogues_of_both_sorts_on_two_processes_equal_one(tmp_path, monkeypatch):
    dialogues = tmp_path / "dialogues.jsonl"
    dialogues.write_text("\n".join(json.dumps(dialogue(k)) for k in range(30)))
    options = SCHEDULE | SGD | {"mlm": 0.0, "batch_size": 12, "val_every": 0}
    curve = two_equal_one("space2", dialogues, tmp_path, options, monkeypatch)
    assert curve[-1]["loss"] != curve[0]["loss"]


def test_prompts_of_compositions_on_two_processes_equal_one(tmp_path, monkeypatch):
    shapes = write_shapes(tmp_path)
    options = SCHEDULE | SGD | PROMPTED | {"untrained": True, "batch_size": 8}
    curve = two_equal_one("csp", shapes, tmp_path, options, monkeypatch)
    assert curve[-1]["loss"] != curve[0]["loss"]


def test_partners_of_rare_attributes_on_two_processes_equal_one(tmp_path, monkeypatch):
    """The encoder is held from the start, and neither gates nor mixtures take part, since batch norms
    see the rows of their own process; whole images."""
    whole = {"name": "two-crops", "crop": [1.0, 1.0], "flip": 0.0, "strength": 0.0, "grey": 0.0, "blur": 0.0}
    shapes = write_shapes(tmp_path)
    options = SCHEDULE | SGD | {"augment_from": 0.0, "augment_share": 1.0, "dim": 16, "dropout": 0.0, "batch_size": 8,
                                "attention": "pooled", "mix_weight": 0.0,
                                "views": whole,
                                "image_size": 16}  # fmt: skip
    two_equal_one("cot", shapes, tmp_path, options, monkeypatch)
