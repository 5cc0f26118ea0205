"""Batches: member-major, distinct groups, one permutation an epoch, a function of (seed, step) alone."""

import numpy as np
import pytest
import torch

from nearfar.errors import InputError
from nearfar.methods import get
from nearfar.training import building
from nearfar.training.loading import Sampler, TokenStore, TokenStream
from nearfar.training.settings import TrainSettings


def test_members_are_laid_member_major():
    groups = np.repeat(np.arange(10), 3)
    sampler = Sampler(np.arange(30), groups, 3, 4, seed=1)
    rows = sampler.at(0).reshape(3, 4)
    assert (groups[rows] == groups[rows[0]]).all()  # column i: three members of one group
    assert len(np.unique(groups[rows[0]])) == 4  # four different groups
    assert all(len(np.unique(column)) == 3 for column in rows.T)


def test_every_item_once_an_epoch_and_the_same_at_every_call():
    sampler = Sampler(np.arange(40), None, 1, 8, seed=3)
    first = np.concatenate([sampler.at(s) for s in range(5)])
    assert sorted(first) == list(range(40))
    second = np.concatenate([sampler.at(s) for s in range(5, 10)])
    assert sorted(second) == list(range(40))
    assert (first != second).any()
    again = Sampler(np.arange(40), None, 1, 8, seed=3)
    assert (again.at(7) == second[16:24]).all()
    assert (Sampler(np.arange(40), None, 1, 8, seed=4).at(0) != sampler.at(0)).any()


def test_groups_too_small_are_an_error():
    with pytest.raises(InputError, match="No group of the training rows has 2 members"):
        Sampler(np.arange(5), np.arange(5), 2, 2, seed=0)
    with pytest.raises(InputError, match="have no groups"):
        Sampler(np.arange(5), None, 2, 2, seed=0)


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


def test_stream_chunks_are_contiguous_and_drawn_by_corpus():
    store = TokenStore([list(range(100)), list(range(1000, 1300))], length=50)
    rng = np.random.default_rng(0)
    uniform = TokenStream(store, np.array([0, 1]), 10, alpha=0.0)
    ids = uniform.draw(2000, rng, offset=3).ids
    assert (ids.diff(dim=1) == 1).all()
    assert 0.45 < (ids[:, 0] < 1000).float().mean() < 0.55
    assert ((ids[:, 0] % 10) == 3).all()
    proportional = TokenStream(store, np.array([0, 1]), 10, alpha=1.0)
    assert 0.2 < (proportional.draw(2000, rng, 0).ids[:, 0] < 1000).float().mean() < 0.3
    with pytest.raises(InputError, match="fewer than one chunk"):
        TokenStream(store, np.array([0, 1]), 1000, 0.0)


def test_duplicates_and_known_positives_hide(emoji_few):
    setup = building.prepare("pairs", emoji_few, TrainSettings(batch_size=16, steps=3), {})
    batch = setup.loader.at(0)
    batch.content["image"] = torch.arange(32)  # no two drawings alike
    assert batch.masked_share() == 0
    batch.content["image"][0] = batch.content["image"][5]
    hidden = batch.hidden()
    same = sum((row[:, None] == column) for row, column in hidden.kinds) > 0
    assert same[0, 5]
    assert same[5, 0]
    assert not same[1, 2]
    assert batch.masked_share() == pytest.approx(2 / (16 * 15))


def test_auto_rules(emoji_few):
    cls = get("swav")
    setup = building.prepare("swav", emoji_few, TrainSettings(batch_size=8, steps=100), {})
    method = setup.method
    assert isinstance(method, cls)
    assert setup.resolved["prototypes"] == 30, "a short run: no more than the batch holds, and at least 30"
    assert len(emoji_few.splits["train"]) // 4 > 30
    assert setup.resolved["freeze_prototypes"] == 10
    paper = building.prepare("dcl", emoji_few, TrainSettings(batch_size=8, steps=5, preset="paper"), {"dim": 64})
    assert paper.options["sigma"] == 0.5
    assert paper.options["dim"] == 64  # what is given goes before the preset
