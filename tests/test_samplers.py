"""Samplers: pure functions of seed and number, each with the batches that it promises."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.class_balanced import class_balanced
from nearfar.encoders.tokens import TokenStore
from nearfar.errors import InputError, NearfarError
from nearfar.samplers import (
    Balanced,
    Beside,
    Chunks,
    Groups,
    InTurn,
    Mixture,
    Neighbours,
    OneOf,
    Partners,
    Permutation,
    Rows,
    WholeBags,
    WholeSet,
    alike,
    listed,
    shares_of,
    single_label_batches,
)

ROWS = np.arange(100, 160)  # sample ids that are no places
LABELS = np.full(200, -1)
LABELS[ROWS] = np.arange(60) % 4
GROUPS = np.full(200, -1)
GROUPS[ROWS] = np.arange(60) // 3
DOMAINS = np.full(200, -1)
DOMAINS[ROWS] = np.repeat([0, 1, 2], [36, 18, 6])
TABLE = Rows(ROWS, GROUPS, {"class": LABELS, "domain": DOMAINS})
STARTS, FLAT = np.arange(201) * 2, np.stack([np.arange(200), np.arange(200) + 200], 1).reshape(-1) % 160
STORE = TokenStore([list(range(10 * i, 10 * i + i % 7)) for i in range(200)], length=50)

MADE = {
    "permutation": Permutation(),
    "groups": Groups(3),
    "class balanced": class_balanced(Permutation(), "domain"),
    "class balanced groups": class_balanced(Groups(3), "domain"),
    "in turn": InTurn("class"),
    "in turn, groups": InTurn(np.arange(60) // 30, members=3),
    "one of": OneOf("domain", alpha=0.5),
    "balanced": Balanced("class", 3, 5),
    "mixture": Mixture((Permutation().only(ROWS[:40]), 3), (Permutation().only(ROWS[40:]), 1)),
    "beside": Beside(Permutation().only(ROWS[:40]), Permutation().only(ROWS[40:])),
    "partners": Partners(alike(ROWS, LABELS[ROWS])),
    "partners of groups": Partners(alike(ROWS, LABELS[ROWS]), Groups(2)),
    "neighbours": Neighbours(STARTS, FLAT, (2, 3)),
    "whole set": WholeSet(),
    "chunks": Chunks("text", 20, alpha=0.5),
}


def bound(name, seed=0, batch=6, since=0):
    table = Rows(ROWS, GROUPS, TABLE.labels, lambda role: STORE)
    return MADE[name].over(table, batch, seed, since)


@pytest.mark.parametrize("name", MADE)
def test_batches_depend_on_seed_and_number_alone(name):
    forward, backward = bound(name, since=2), bound(name, since=2)
    a = [forward.rows(k) for k in range(2, 40)]
    b = [backward.rows(k) for k in reversed(range(2, 40))][::-1]
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert all(len(x) == forward.members * forward.batch_size for x in a)
    if name != "whole set":
        assert any(not np.array_equal(x, y) for x, y in pairwise(a))
        other = bound(name, seed=1, since=2)
        assert any(not np.array_equal(x, other.rows(k)) for k, x in enumerate(a, 2))
    if forward.identified:
        assert name == "neighbours" or np.isin(np.concatenate(a), ROWS).all()


@pytest.mark.parametrize("name", [n for n in MADE if n != "chunks"])
def test_any_rows_are_completed_to_items(name):
    sampler = bound(name)
    whole = sampler.completed(ROWS[:7])
    assert len(whole) == 7 * sampler.members
    assert np.array_equal(whole[:7], ROWS[:7])


def test_whole_bags_once_an_epoch():
    """Batches are as many bags as make about so many rows; of a large bag other rows each time."""
    bags = np.full(200, -1)
    bags[ROWS] = np.repeat(np.arange(9), [4, 6, 5, 5, 3, 7, 5, 5, 20])
    bags[ROWS[0]] = -1
    table = Rows(ROWS, None, {"bag": bags})
    sampler = WholeBags(6).over(table, 10, seed=0)
    assert (sampler.count, sampler.epoch_steps, sampler.items) == (2, 4, 59)
    seen = [sampler.rows(k) for k in range(8)]
    again = WholeBags(6).over(table, 10, seed=0)
    assert all(np.array_equal(again.rows(k), seen[k]) for k in (5, 0, 7))
    for epoch in (seen[:4], seen[4:]):
        drawn = Counter(bags[np.concatenate(epoch)].tolist())
        assert len(drawn) == 8
        assert all(count == min(6, (bags == b).sum()) for b, count in drawn.items())
    large = [frozenset(rows[bags[rows] == 8].tolist()) for rows in seen]
    assert len({one for one in large if one}) == sum(map(bool, large)) > 0
    assert len(WholeBags(6).over(table, 1, seed=0).rows(0)) <= 6, "one bag at least"
    with pytest.raises(InputError, match="No training row is in a bag"):
        WholeBags(6).over(Rows(ROWS, None, {"bag": np.full(200, -1)}), 10, seed=0)


def test_every_item_once_an_epoch():
    sampler = Permutation().over(Rows(np.arange(40)), 8, seed=3)
    first, second = (np.concatenate([sampler.rows(s) for s in range(k, k + 5)]) for k in (0, 5))
    assert sorted(first) == sorted(second) == list(range(40))
    assert (first != second).any()
    assert sampler.epoch_steps == 5


def test_members_are_laid_member_major():
    rows = bound("groups").rows(0).reshape(3, 6)
    assert (GROUPS[rows] == GROUPS[rows[0]]).all()  # column i: three members of one group
    assert len(np.unique(GROUPS[rows[0]])) == 6
    assert all(len(np.unique(column)) == 3 for column in rows.T)


def test_groups_too_small_are_an_error():
    with pytest.raises(InputError, match="No group of the training rows has 2 members"):
        Groups(2).over(Rows(np.arange(5), np.arange(5)), 2, 0)
    with pytest.raises(InputError, match="have no groups"):
        Groups(2).over(Rows(np.arange(5)), 2, 0)


@given(st.lists(st.integers(0, 4), min_size=8, max_size=60), st.integers(2, 5), st.integers(0, 99))
def test_batches_of_one_label_take_turns(labels, size, seed):
    labels = np.array(labels)
    batches = single_label_batches(labels, size, np.random.default_rng(seed))
    assert len(batches) == sum(n // size for n in Counter(labels.tolist()).values())
    assert all(len(set(labels[b])) == 1 and len(b) == size for b in batches)
    seen = [i for b in batches for i in b]
    assert len(set(seen)) == len(seen), "no item twice in an epoch"
    order = [int(labels[b[0]]) for b in batches]
    first = order[: len(set(order))]
    assert first == sorted(set(first)), "each label in its turn"


def test_labels_in_turn_count_from_the_beginning_of_their_stage():
    sampler = InTurn(np.arange(40) % 3).over(Rows(np.arange(100, 140)), 5, 0, since=30)
    drawn = [sampler.rows(k) for k in range(30, 36)]
    assert sampler.dropped == pytest.approx(1 - 6 * 5 / 40)
    assert len(set(np.concatenate(drawn).tolist())) == 30
    assert all(len(set((rows - 100) % 3)) == 1 for rows in drawn)
    one = InTurn(np.zeros(40, np.int64)).over(Rows(np.arange(40)), 5, 0)
    assert len({*np.concatenate([one.rows(k) for k in range(8)]).tolist()}) == 40, "one label: an ordinary epoch"
    with pytest.raises(NearfarError, match="fills a batch"):
        InTurn(np.arange(40)).over(Rows(np.arange(40)), 5, 0)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_one_label_a_batch_is_drawn_by_its_share(alpha):
    share = 0.6**alpha / sum(x**alpha for x in (0.6, 0.3, 0.1))
    sampler = OneOf("domain", alpha).over(TABLE, 6, 0)
    drawn = [sampler.rows(k) for k in range(2000)]
    labels = [set(DOMAINS[rows].tolist()) for rows in drawn]
    assert all(len(one) == 1 for one in labels)
    assert sum(one == {0} for one in labels) / 2000 == pytest.approx(share, abs=0.04)
    assert all(len(set(rows)) == 6 for rows in drawn), "no row twice in a batch"


def test_an_epoch_of_one_label_repeats_no_row_before_all_were_drawn():
    sampler = OneOf(np.zeros(60, np.int64)).over(TABLE, 7, 0)
    assert sampler.epoch_steps == 8
    assert len(set(np.concatenate([sampler.rows(k) for k in range(8)]).tolist())) == 56


def test_labels_that_do_not_fill_a_batch_are_left_out():
    sampler = OneOf("domain", 0.0).over(TABLE, 10, 0)
    assert {int(DOMAINS[sampler.rows(k)[0]]) for k in range(60)} == {0, 1}
    assert sampler.items == 60
    assert sampler.sizing == 54
    with pytest.raises(InputError, match=r"None of the 3 labels .* has 37 items"):
        OneOf("domain").over(TABLE, 37, 0)
    with pytest.raises(InputError, match="None of the 60 items has one of the labels"):
        OneOf(np.full(60, -1)).over(TABLE, 3, 0)
    with pytest.raises(InputError, match="by 'bag', which the data do not have"):
        OneOf("bag").over(TABLE, 3, 0)


def test_an_episode_holds_classes_with_as_many_rows_each():
    sampler = Balanced("class", 3, 5).over(TABLE, 999, 0)
    assert sampler.left_out == ""
    assert (sampler.batch_size, sampler.members, sampler.items) == (3, 5, 12)
    for number in range(50):
        rows = sampler.rows(number).reshape(5, 3)
        assert (LABELS[rows] == LABELS[rows[0]]).all()
        assert len(set(LABELS[rows[0]].tolist())) == 3
        assert len(set(rows.reshape(-1).tolist())) == 15
    assert {tuple(sorted(set(LABELS[sampler.rows(k)].tolist()))) for k in range(60)} == {
        (0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)
    }  # fmt: skip
    with pytest.raises(InputError, match="4 of the 4 classes"):
        Balanced("class", 5, 5).over(TABLE, 1, 0)
    with pytest.raises(InputError, match="0 of the 4 classes"):
        Balanced("label", 2, 16).over(TABLE, 1, 0)


def test_a_mixture_gives_each_source_its_share():
    sampler = bound("mixture", batch=8)
    for number in range(20):
        assert (sampler.rows(number) < ROWS[40]).sum() == 6
    short = Mixture((Permutation(), 1), (Permutation().only(ROWS[:2]), 1)).over(TABLE, 8, 0)
    assert [len(p.rows(0)) for p in short.bound] == [6, 2], "a short source gives all it has, others fill the batch"
    with pytest.raises(InputError, match="as many members"):
        Mixture((Permutation(), 1), (Groups(2), 1))


@given(st.integers(1, 40), st.lists(st.floats(0.01, 9), min_size=1, max_size=5), st.data())
@settings(max_examples=60)
def test_shares_fill_the_batch_within_their_rooms(total, weights, data):
    rooms = np.array(data.draw(st.lists(st.integers(1, 30), min_size=len(weights), max_size=len(weights))))
    total = min(total, int(rooms.sum()))
    counts = shares_of(total, np.array(weights), rooms)
    assert counts.sum() == total
    assert (counts <= rooms).all()
    assert (counts >= 0).all()
    assert total < len(weights) or (counts > 0).all()


def test_partners_share_the_label_and_are_others():
    sampler = bound("partners", batch=20)
    drawn = [sampler.rows(k).reshape(2, 20) for k in range(30)]
    assert all((LABELS[a] == LABELS[b]).all() and (a != b).all() for a, b in drawn)
    seen = Counter(int(b[a == 100][0]) for a, b in drawn if (a == 100).any())
    assert len(seen) > 3, "drawn anew in each epoch"
    alone = alike(np.arange(4), np.array([0, 1, 1, -1]))
    assert alone(np.arange(4), np.random.default_rng(0)).tolist() == [0, 2, 1, 3]


def test_listed_partners_come_by_their_weights():
    draw = listed(np.array([1, 1, 0]), np.array([7, 8, 9]), np.array([1.0, 3.0, 1.0]))
    drawn = draw(np.full(4000, 1), np.random.default_rng(0))
    assert (drawn == 8).mean() == pytest.approx(0.75, abs=0.03)
    assert draw(np.array([0, 5]), np.random.default_rng(0)).tolist() == [9, 5], "without a list: the row itself"


def test_neighbours_come_hop_by_hop():
    rows = bound("neighbours", batch=4).rows(0).reshape(-1, 4)
    assert rows.shape[0] == 1 + 2 + 6
    near = {i: set(FLAT[STARTS[i] : STARTS[i + 1]].tolist()) for i in range(200)}
    for column in rows.T.tolist():
        assert all(k in near[column[0]] for k in column[1:3])
        assert all(column[3 + j] in near[column[1 + j // 3]] for j in range(6))
    lonely = Neighbours(np.zeros(201, np.int64), np.zeros(0, np.int64), (2,)).over(TABLE, 4, 0)
    assert len(set(map(tuple, lonely.rows(0).reshape(3, 4)))) == 1, "without neighbours: the row itself"


def test_the_whole_set_is_every_batch():
    sampler = WholeSet().over(TABLE, 8, 0)
    assert sampler.batch_size == 60
    assert all(np.array_equal(sampler.rows(k), ROWS) for k in range(3))


def test_chunks_are_contiguous_and_drawn_by_corpus():
    store = TokenStore([list(range(100)), list(range(1000, 1300))], length=50)
    table = Rows(np.array([0, 1]), None, {"domain": np.array([0, 1])}, lambda role: store)

    def ids(alpha, batch=2000):
        sampler = Chunks("text", 10, alpha).over(table, batch, 0)
        return sampler.reading("text", lambda role: None)(sampler.rows(0), None).ids

    uniform = ids(0.0)
    assert (uniform.diff(dim=1) == 1).all()
    assert 0.45 < (uniform[:, 0] < 1000).float().mean() < 0.55
    assert len(set((uniform[:, 0] % 10).tolist())) == 1, "one grid an epoch"
    assert 0.2 < (ids(1.0)[:, 0] < 1000).float().mean() < 0.3
    with pytest.raises(InputError, match="fewer than one chunk"):
        Chunks("text", 1000).over(table, 2, 0)


def test_only_some_of_the_rows():
    drawn = Permutation().only(ROWS[:12]).over(TABLE, 6, 0)
    assert drawn.items == 12
    assert set(np.concatenate([drawn.rows(k) for k in range(4)]).tolist()) == set(ROWS[:12].tolist())
    with pytest.raises(InputError, match="no training rows"):
        Permutation().only(np.array([5])).over(TABLE, 6, 0)


def test_sized_batches():
    """Whatever the batch size of the run; a partner follows each row."""
    rows = np.arange(40)
    found = Partners(alike(rows, rows % 4), Permutation().only(rows[:20])).sized(6).over(Rows(rows), 12, seed=0)
    drawn = found.rows(0)
    assert found.batch_size == 6
    assert len(drawn) == 12
    assert (drawn[:6] < 20).all()
    assert found.epoch_steps == 3
    assert len(Permutation().over(Rows(rows), 12, seed=0).rows(0)) == 12
