"""Training on a GPU: mixed precision, queues and teachers, micro-batches; a seed gives the same numbers."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from nearfar.training.engine import fit

if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)

CASES = {
    "simclr": {},
    "dcl": {"negatives": "queue", "momentum": "auto"},
    "swav": {"prototypes": 30},
    "mochi": {"negatives": {"name": "mixing", "size": 48, "start": 0.3}},
    "pairs": {},
    "align": {},
    "contriever": {"stream": True, "length": 16},
    "cacr": {},
    "simclr micro": {"micro_batch": 5},
    "simclr siglip": {"loss": "siglip"},
}


def run(name, data, out, **more):
    return fit(
        name.split()[0],
        data,
        out=out,
        steps=6,
        batch_size=16,
        val_every=3,
        device="cuda",
        progress=False,
        **CASES[name],
        **more,
    )


def curve(folder):
    return [json.loads(line)["loss"] for line in (folder / "curve.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
@pytest.mark.parametrize("name", CASES)
def test_trains_in_every_precision(name, precision, emoji_few, tmp_path):
    done = run(name, emoji_few, tmp_path / "run", precision=precision)
    assert all(math.isfinite(x) for x in curve(tmp_path / "run"))
    assert math.isfinite(done.scores["test"]["primary"])


@pytest.mark.parametrize("name", ["simclr", "dcl", "pairs"])
def test_a_seed_gives_the_same_numbers(name, emoji_few, tmp_path):
    for folder in ("one", "two"):
        run(name, emoji_few, tmp_path / folder)
    one, two = (load_file(tmp_path / f / "model" / "model.safetensors") for f in ("one", "two"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert curve(tmp_path / "one") == curve(tmp_path / "two")


def test_micro_batches_give_the_gradients_of_the_whole(emoji_few, tmp_path):
    run("simclr", emoji_few, tmp_path / "whole")
    run("simclr micro", emoji_few, tmp_path / "parts")
    assert curve(tmp_path / "parts") == pytest.approx(curve(tmp_path / "whole"), rel=1e-3)
