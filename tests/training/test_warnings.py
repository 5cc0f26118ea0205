"""Training that goes wrong says so early: what, where, what to try."""

import warnings

import pytest
import torch

from nearfar.errors import NearfarError
from nearfar.training import engine
from nearfar.training.callbacks import Curve, spread


def test_a_loss_that_is_not_finite_stops_the_run(emoji_few, tmp_path):
    with pytest.raises(NearfarError, match=r"The term 'loss' of simclr is not finite at step \d+.*lower learning rate"):
        engine.fit(
            "simclr",
            emoji_few,
            out=tmp_path / "run",
            steps=30,
            batch_size=16,
            lr=1e30,
            optimiser="sgd",
            warmup=0,
            projector=0,
            val_every=0,
            save_every=1,
            progress=False,
        )
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    assert not (tmp_path / "run" / "scores.json").exists()


def test_spread_tells_even_from_collapsed():
    even = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    assert spread(even) == pytest.approx(1, abs=0.05)
    assert spread(torch.ones(50, 64) + 1e-4 * even[:50]) < 0.01
    assert spread(torch.ones(1, 64)) == 1.0


def test_collapse_is_told_once(tmp_path):
    curve = Curve(tmp_path / "curve.jsonl", 1, None, 0)
    with pytest.warns(UserWarning, match="is collapsing at step 30"):
        curve.warn(0.01, 30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curve.warn(0.01, 31)


def test_masked_pairs_are_counted_and_told(emoji_few, tmp_path):
    said = []
    run = engine.fit(
        "simclr", emoji_few, out=tmp_path / "run", steps=3, batch_size=64, val_every=0, progress=False, say=said.append
    )
    assert 0 < run.cost["masked"] < 0.2  # several drawings of one emoji meet in a batch
    assert any("were not pushed apart" in line for line in said)
