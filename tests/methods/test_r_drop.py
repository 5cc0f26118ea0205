"""R-Drop as a method: from a table to classes that are told, on an encoder that another method has trained."""

import json

import pytest
import torch

import nearfar
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.training import building
from nearfar.training.settings import TrainSettings
from tests.conftest import write_notes

ROLES = {"text": "note", "text_b": None, "target": "kind", "domain": "part"}


def test_classes_are_told_by_a_model_that_another_method_began(tmp_path, capsys):
    table = str(write_notes(tmp_path / "notes.csv", 80))
    plan = ["--steps", "40", "--batch-size", "16", "--val-every", "0"]
    first = ["fit", "simcse", table, "--text", "note", *plan, "--vocabulary", "300", "--out", str(tmp_path / "first")]
    assert main(first) == 0
    run = str(tmp_path / "run")
    assert main(["fit", "r-drop", table, "--text", "note", "--target", "kind", "--task", "classification", *plan,
                 "--text-encoder", str(tmp_path / "first" / "model"), "--out", run]) == 0  # fmt: skip
    assert "accuracy" in capsys.readouterr().out
    out = tmp_path / "told.jsonl"
    assert main(["predict", run, table, "--text", "note", "--target", "kind", "--out", str(out)]) == 0
    told = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["prediction"] for row in told} <= {"animal", "plant"}
    assert all(0.5 <= row["share"] <= 1 for row in told)


def test_errors(tmp_path):
    path = tmp_path / "one.csv"
    path.write_text("note,kind\n" + "".join(f"a note of the number {k},same\n" for k in range(40)))
    roles = {"text": "note", "target": "kind"}
    with pytest.raises(InputError, match="'kind' is 'same' in all"):
        building.prepare("r-drop", nearfar.data(path, roles=roles), TrainSettings(), {})
    notes = nearfar.data(write_notes(tmp_path / "notes.csv", 40), roles=ROLES)
    with pytest.raises(InputError, match="or --weight 0"):
        building.prepare("r-drop", notes, TrainSettings(text_dropout=0.0), {})
    assert building.prepare("r-drop", notes, TrainSettings(text_dropout=0.0), {"weight": 0.0}).method.weight == 0


def test_long_texts_are_read_from_their_start(tmp_path):
    """In training as when they are told."""
    path = tmp_path / "long.csv"
    path.write_text("note,kind\n" + "".join(f"word{k} {'and so on ' * 80},{'ab'[k % 2]}\n" for k in range(40)))
    data = nearfar.data(path, roles={"text": "note", "target": "kind"})
    made = building.prepare("r-drop", data, TrainSettings(batch_size=8, steps=9, text_length=12), {})
    encoder, batch = made.method.tower.encoder, made.loader.at(3)
    wanted = encoder.prepare([data.texts("text")[row] for row in batch.rows.tolist()])
    found = made.method.make_views(batch)["text"][0]
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True) if isinstance(a, torch.Tensor))


def test_the_preset_is_its_own_for_sentences():
    """alpha 1 beside the sum of both cross-entropies is 0.5 beside their mean."""
    assert building.method_options("r-drop", {}, "paper").weight == 0.5
    training = nearfar.methods.get("r-drop").training_preset({})
    assert (training["lr"], training["betas"], training["schedule"]) == (1e-5, (0.9, 0.98), "linear")
    assert "clip_norm" not in training
