"""Options of training that are no method's own, all in one run: it goes on as it was, to the bit."""

import json

import pytest
import torch

import nearfar
from nearfar import encoders
from nearfar.models import save_model
from tests.contract import runs
from tests.training.test_nesting import WORDS


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    rows = [(a, b, i * j % 5 > 0) for i, a in enumerate(WORDS) for j, b in enumerate(WORDS) if a != b]
    lines = [f"the {a} of the {b},{b} and {a},{'usual' if often else 'rare'}" for a, b, often in rows]
    path.write_text("\n".join(["question,answer,kind", *lines]) + "\n")
    return path


def test_resumed_equals_uninterrupted(table, tmp_path, monkeypatch):
    torch.manual_seed(0)
    teacher = encoders.text("small", texts=[" ".join(WORDS)] * 9, vocabulary=120, dim=48)
    save_model(tmp_path / "teacher", {"text": teacher, "text_b": teacher})
    options = {"text_encoder": "tiny", "vocabulary": 120, "lr": 1e-2, "layer_decay": 0.7, "patience": 9, "steps": 12,
               "gradient_checkpointing": True, "class_balanced": True, "dims": "64,16",
               "distil_from": str(tmp_path / "teacher"), "distil_weight": 5.0}  # fmt: skip
    data = nearfar.data(table, roles={"text": "question", "text_b": "answer", "label": ["kind"]})
    runs.run("pairs", data, tmp_path / "whole", **options)
    runs.stopped("pairs", data, tmp_path / "parts", monkeypatch, at=5, **options)
    runs.run("pairs", data, tmp_path / "parts", resume=True, **options)
    runs.same_to_the_bit(tmp_path / "whole", tmp_path / "parts")
    first, *_, last = (line["distillation"] for line in runs.lines(tmp_path / "whole"))
    assert last < 0.8 * first
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["supervised"] is True
    assert config["resolved"]["dims"] == "128+64+16"
    assert "0.7 of the learning rate from each block" in config["resolved"]["optimiser"]
