"""Batches: member-major, distinct groups, one permutation an epoch, a function of (seed, step) alone."""

import numpy as np
import pytest
import torch

from nearfar.methods import get
from nearfar.training import building
from nearfar.training.loading import TokenStore
from nearfar.training.settings import TrainSettings


@pytest.mark.parametrize(
    ("slug", "options"), [("pairs", {}), ("dcl", {"views": "members"}), ("swav", {"views": "members"})]
)
def test_positives_of_a_group_method_are_of_one_group(slug, options, emoji_few):
    setup = building.prepare(slug, emoji_few, TrainSettings(batch_size=8, steps=3), options)
    batch = setup.loader.at(0)
    assert batch.members == 2
    a, b = batch.groups.split(8)
    assert (a == b).all()
    assert len(a.unique()) == 8
    assert (batch.rows[:8] != batch.rows[8:]).all()


def test_token_store_windows():
    store = TokenStore([list(range(10)), [], [5, 6]], length=4)
    start = store.read(np.array([0, 1, 2]))
    assert start.ids[0].tolist() == [0, 1, 2, 3]
    assert start.mask.sum(1).tolist() == [4, 0, 2]
    drawn = store.read(np.zeros(200, np.int64), np.random.default_rng(0)).ids
    assert (drawn.diff(dim=1) == 1).all()  # contiguous
    assert set(drawn[:, 0].tolist()) == set(range(7))  # every place


def test_duplicates_and_known_positives_hide(emoji_few):
    setup = building.prepare("pairs", emoji_few, TrainSettings(batch_size=16, steps=3), {})
    batch = setup.loader.at(0)
    batch.content["image"] = torch.arange(32)  # no two drawings alike
    assert batch.masked_share() == 0
    batch.content["image"][0] = batch.content["image"][5]
    excluded = batch.excluded()
    same = sum((row[:, None] == column) for row, column in excluded.kinds) > 0
    assert same[0, 5]
    assert same[5, 0]
    assert not same[1, 2]
    assert batch.masked_share() == pytest.approx(2 / (16 * 15))


def test_auto_rules(emoji_few):
    cls = get("swav")
    setup = building.prepare("swav", emoji_few, TrainSettings(batch_size=8, steps=100), {})
    method = setup.method
    assert isinstance(method, cls)
    assert setup.resolved["prototypes"] == max(30, len(emoji_few.splits["train"]) // 4)
    assert setup.resolved["freeze_prototypes"] == 10
    paper = building.prepare("dcl", emoji_few, TrainSettings(batch_size=8, steps=5, preset="paper"), {"dim": 64})
    assert paper.options["sigma"] == 0.5
    assert paper.options["dim"] == 64  # what is given goes before the preset
