"""Token views: properties against plain lists."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar import views
from nearfar.encoders.tokens import Special, Tokens, frame, pad
from nearfar.errors import InputError
from nearfar.views import text

SPECIAL = Special(bos=1, eos=2, pad=0, mask=4, size=1000, length=64)
BARE = Special(bos=None, eos=None, pad=0, mask=None, size=1000, length=64)
rows_of_ids = st.lists(st.lists(st.integers(10, 999), max_size=40), min_size=1, max_size=8)


class Stub:
    """Anything with `special` can be bound; encoders are tested elsewhere."""

    def __init__(self, special: Special):
        self.special = special


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lists(tokens: Tokens) -> list[list[int]]:
    lengths = tokens.mask.sum(1)
    right_padded = torch.arange(tokens.mask.shape[1]) < lengths[:, None]
    assert torch.equal(tokens.mask, right_padded)
    return [ids[:n].tolist() for ids, n in zip(tokens.ids, lengths)]


@settings(max_examples=50, deadline=None)
@given(rows_of_ids, st.integers(0, 99))
def test_inverse_cloze_divides_a_text(rows, seed):
    """Span and rest make up the text; with keep = 1 the key is the whole text."""
    rows = [row or [10] for row in rows]
    span, rest = text.cloze(pad(rows), (0.2, 0.6), 0.0, generator(seed))
    for whole, query, key in zip(rows, lists(span), lists(rest), strict=True):
        start = next(i for i in range(len(whole)) if whole[i : i + len(query)] == query)
        left = [whole[:i] + whole[i + len(query) :] for i in range(start, len(whole))]
        assert key in left or (len(query) == len(whole) and key == whole)
    assert lists(text.cloze(pad(rows), (0.2, 0.6), 1.0, generator(seed))[1]) == rows


def test_inverse_cloze_is_a_plan():
    plan = views.build("ict", keep=0.0).bind(Stub(SPECIAL))
    a, b = plan(pad([list(range(10, 30))] * 3), generator())
    assert not set(lists(a)[0][1:-1]) & set(lists(b)[0][1:-1])


def is_subsequence(part, whole):
    rest = iter(whole)
    return all(token in rest for token in part)


@given(rows_of_ids)
def test_pad_keeps_every_row(rows):
    assert lists(pad(rows, fill=7)) == rows
    assert (pad(rows, fill=7).ids[~pad(rows).mask] == 7).all()


@given(rows_of_ids, st.integers(3, 12))
def test_frame_cuts_and_adds_bos_and_eos(rows, length):
    special = SPECIAL._replace(length=length)
    assert lists(frame(pad(rows), special)) == [[1, *row[: length - 2], 2] for row in rows]
    only_eos = special._replace(bos=None)
    assert lists(frame(pad(rows), only_eos)) == [[*row[: length - 1], 2] for row in rows]
    assert lists(frame(pad(rows), BARE._replace(length=length))) == [row[:length] for row in rows]


@given(rows_of_ids, st.floats(0.01, 1), st.floats(0, 1), st.integers(0, 99))
def test_crop_is_a_contiguous_span_of_allowed_length(rows, low, more, seed):
    high = low + (1 - low) * more
    for part, row in zip(lists(text.crop(pad(rows), (low, high), generator(seed))), rows):
        if row:
            assert max(1, int(len(row) * low - 1e-4)) <= len(part) <= max(1, int(len(row) * high + 1e-4))
        assert any(row[i : i + len(part)] == part for i in range(len(row) - len(part) + 1))


def test_crop_of_everything_is_the_text():
    rows = [list(range(10, 10 + n)) for n in (1, 7, 33, 40)]
    assert lists(text.crop(pad(rows), (1.0, 1.0), generator())) == rows


def test_crop_starts_and_lengths_are_uniform():
    whole = pad([list(range(10, 110))] * 20000)
    parts = text.crop(whole, (0.2, 0.4), generator())
    length = parts.mask.sum(1).float()
    start = parts.ids[:, 0].float() - 10
    assert abs(length.mean() - 29.5) < 0.15
    assert length.min() == 20
    assert length.max() == 39
    assert abs((start / (100 - length)).mean() - 0.5) < 0.01
    assert start.min() == 0
    assert ((start + length) == 100).any()


@given(rows_of_ids, st.floats(0, 1), st.integers(0, 99))
def test_delete_keeps_order_and_never_empties(rows, p, seed):
    for part, row in zip(lists(text.delete(pad(rows), p, generator(seed))), rows):
        assert is_subsequence(part, row)
        assert bool(part) == bool(row)


def test_delete_and_mask_shares():
    whole = pad([list(range(10, 60))] * 2000)
    assert abs(text.delete(whole, 0.1, generator()).mask.sum() / 100000 - 0.9) < 0.005
    masked = text.mask(whole, 0.15, 4, generator())
    assert abs((masked.ids == 4).float().mean() - 0.15) < 0.005
    assert ((masked.ids == 4) | (masked.ids == whole.ids)).all()


def test_all_deleted_or_masked_leaves_one_random_token():
    whole = pad([[10, 11, 12]] * 300 + [[]])
    left = lists(text.delete(whole, 1.0, generator()))
    assert {tuple(row) for row in left[:-1]} == {(10,), (11,), (12,)}
    assert left[-1] == []
    masked = lists(text.mask(whole, 1.0, 4, generator()))
    assert all(row.count(4) == 2 for row in masked[:-1])
    assert len({tuple(row) for row in masked[:-1]}) == 3


@given(rows_of_ids, st.floats(0, 1), st.integers(0, 99))
def test_shuffle_is_a_permutation_that_keeps_unchosen_places(rows, p, seed):
    tokens = pad(rows)
    out = text.shuffle(tokens, p, generator(seed))
    assert [sorted(row) for row in lists(out)] == [sorted(row) for row in rows]
    if p == 0:
        assert lists(out) == rows


def test_shuffle_moves_about_the_chosen_share():
    rows = [list(range(10, 110))] * 200
    moved = (text.shuffle(pad(rows), 0.3, generator()).ids != pad(rows).ids).float().mean()
    assert 0.25 < moved < 0.3


def test_replace_takes_ordinary_tokens_only():
    special = SPECIAL._replace(size=8)
    whole = pad([[9] * 100] * 100)
    out = text.replace(whole, 0.5, special, generator())
    assert set(out.ids.unique().tolist()) == {3, 5, 6, 7, 9}  # neither 0, 1, 2 nor 4
    assert abs((out.ids != 9).float().mean() - 0.25) < 0.02  # half of the draws hit a special one


@pytest.mark.parametrize("name", ["crops", "twice", "delete", "mask"])
@settings(deadline=None, max_examples=15)
@given(rows=rows_of_ids)
def test_plans_give_two_framed_views(name, rows):
    plan = views.build(name).bind(Stub(SPECIAL))
    out = plan(pad(rows), generator(1))
    assert len(out) == plan.count == plan.targets == 2
    assert plan.members == 1
    for view in out:
        for part, row in zip(lists(view), rows):
            assert part[0] == 1
            assert part[-1] == 2
            assert (len(part) > 2) == bool(row)
    again = plan(pad(rows), generator(1))
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(out, again))


def test_views_differ_but_twice_does_not():
    rows = [list(range(10, 60))] * 4
    for name in ("crops", "delete", "mask"):
        a, b = views.build(name).bind(Stub(SPECIAL))(pad(rows), generator())
        assert lists(a) != lists(b)
        assert len({tuple(row) for row in lists(a)}) == 4
    a, b = views.Twice().bind(Stub(SPECIAL))(pad(rows), generator())
    assert lists(a) == lists(b) == [[1, *row, 2] for row in rows]


def test_every_change_of_crops_acts():
    rows = [list(range(10, 60))] * 20
    plain = views.Crops(ratio=(1.0, 1.0), delete=0.0).bind(Stub(SPECIAL))
    assert lists(plain(pad(rows), generator())[0]) == [[1, *row, 2] for row in rows]
    for change in ("delete", "mask", "replace", "shuffle"):
        plan = views.Crops(ratio=(1.0, 1.0), **({"delete": 0.0} | {change: 0.5})).bind(Stub(SPECIAL))
        assert lists(plan(pad(rows), generator())[0]) != [[1, *row, 2] for row in rows], change


def test_wrong_use_is_told():
    with pytest.raises(InputError, match="bind"):
        views.Crops()(pad([[10]]), generator())
    with pytest.raises(InputError, match="no mask token"):
        views.Mask().bind(Stub(BARE))(pad([[10]]), generator())
    with pytest.raises(InputError, match="'ratio'"):
        views.Crops(ratio=(0.0, 0.5))
    with pytest.raises(InputError, match="option 'p' must be a number in"):
        views.Delete(p=2)
