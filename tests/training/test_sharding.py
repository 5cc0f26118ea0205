"""Encoders divided between two processes (--strategy fsdp): the numbers of one process that holds all of it."""

import json

import pytest
import torch
from safetensors.torch import load_file

from nearfar import encoders
from nearfar.encoders.sharding import blocks_of
from nearfar.errors import InputError
from nearfar.training.engine import fit
from tests import stopping

WORDS = ["stone", "river", "window", "paper", "garden", "engine", "letter", "bridge", "candle", "forest"]
TRAIN = """
import nearfar
from nearfar.training import callbacks

told = callbacks.Checkpoint.save


def save(self, trainer):
    told(self, trainer)
    divided = [p for p in trainer.lightning_module.parameters() if hasattr(p, "to_local")]
    held = sum(p.to_local().numel() for p in divided), sum(p.numel() for p in divided)
    states = [trainer.optimizers[0].state.get(p, {}) for p in divided]
    moments = {tuple(v.to_local().shape) for state in states for v in state.values() if v.dim()}
    print("held", *held, moments <= {tuple(p.to_local().shape) for p in divided}, flush=True)
    if trainer.global_step >= int(stop):
        raise SystemExit(3)


callbacks.Checkpoint.save = save
nearfar.fit(method, table, out=out, **json.loads(options))
"""
SCHEDULE = {"steps": 4, "batch_size": 9, "val_every": 2, "save_every": 2, "device": "cpu", "progress": False}
SCHEDULE |= {"optimiser": "sgd", "lr": 0.05, "weight_decay": 0.01, "text_encoder": "tiny", "text_length": 16}
SCHEDULE |= {"vocabulary": 120, "text": "question"}
PAIRS = {"text_b": "answer"}
TWO = {"devices": 2, "strategy": "fsdp"}
CASES = {
    "rates by layers, clipped, lamb": ("pairs", PAIRS | {"clip_norm": 0.05, "layer_decay": 0.7, "optimiser": "lamb"}),
    "micro-batches, computed again": ("pairs", PAIRS | {"micro_batch": 2, "accumulate": 2,
                                                        "gradient_checkpointing": True}),
    "teachers and queues": ("cocosoda", PAIRS | {"queue": 24, "rate": 0.0, "momentum": 0.5, "batch_size": 8}),
}  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("sharded") / "pairs.csv"
    lines = [f"the {a} and the {b},{b} beside {a}" for a in WORDS for b in WORDS if a < b]
    path.write_text("question,answer\n" + "\n".join(lines) + "\n")
    return path


def weights(out):
    return load_file(out / "model" / "model.safetensors")


def two(table, out, method, options, stop=99):
    return stopping.start(TRAIN, out, method, table, out, json.dumps(SCHEDULE | options | TWO), stop)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case, table, tmp_path, monkeypatch):
    method, options = CASES[case]
    done = two(table, tmp_path / "two", method, options)
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    fit(method, table, out=tmp_path / "one", **SCHEDULE | options)
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=1e-4, atol=2e-6)
    curves = [[json.loads(x) for x in (tmp_path / n / "curve.jsonl").read_text().splitlines()] for n in ("one", "two")]
    for first, second in zip(*curves, strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)
        assert second.get("val_primary") == pytest.approx(first.get("val_primary"), abs=0.02)
    held = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("held")]
    assert {int(own) * 2 == int(all_) > 0 and shapes == "True" for own, all_, shapes in held} == {True}


@pytest.mark.slow
def test_stopped_and_gone_on_to_the_same_numbers(table, tmp_path):
    """AdamW's moments, dropout, and the best weights that are kept."""
    options = PAIRS | {"optimiser": "adamw", "lr": 1e-3, "val_every": 1, "patience": 9}
    whole = two(table, tmp_path / "whole", "pairs", options)
    assert whole.returncode == 0, whole.stderr
    assert two(table, tmp_path / "part", "pairs", options, stop=2).returncode != 0
    assert torch.load(tmp_path / "part" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    again = two(table, tmp_path / "part", "pairs", options | {"resume": True})
    assert again.returncode == 0, again.stderr
    assert all(torch.equal(v, weights(tmp_path / "part")[k]) for k, v in weights(tmp_path / "whole").items())
    told = [json.loads((tmp_path / n / "scores.json").read_text()) for n in ("whole", "part")]
    assert told[0]["scores"] == told[1]["scores"]


@pytest.mark.parametrize(
    ("method", "options", "what"),
    [
        ("pairs", PAIRS | {"devices": 1}, "there is one process"),
        ("pairs", PAIRS | {"freeze": True}, "trains heads alone"),
        ("pairs", PAIRS | {"precision": "16"}, "--precision bf16 or 32"),
        ("pairs", PAIRS | {"micro_batch": 1}, "--micro-batch 2 or more"),
        ("pairs", PAIRS | {"text_encoder": "small", "text_length": None}, "none has any"),
        ("mcl", PAIRS, "in stages"),
    ],
)
def test_what_cannot_be_divided(method, options, what, table, tmp_path):
    given = {k: v for k, v in (SCHEDULE | TWO | options).items() if v is not None}
    with pytest.raises(InputError, match=what):
        fit(method, table, out=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "count"), [("resnet18", 8), ("vit_tiny_patch16_224", 12), ("convnext_atto", 12)])
def test_blocks_of_encoders_of_images(name, count):
    """Each once, none a list that is walked through, and together nearly all of the weights."""
    encoder = encoders.image(name, size=32)
    blocks = blocks_of(torch.nn.Sequential(encoder))
    own = [{id(p) for p in block.parameters()} for block in blocks]
    assert len(set().union(*own)) == sum(map(len, own))
    assert len(blocks) >= count
    many = sum(p.numel() for block in blocks for p in block.parameters())
    assert many > 0.8 * sum(p.numel() for p in encoder.parameters())
