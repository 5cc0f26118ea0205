"""Layouts: who is an anchor, who a candidate, what is hidden."""

import pytest
import torch
from torch.testing import assert_close

from nearfar.errors import InputError
from nearfar.losses.rows import info_nce_rows
from nearfar.similarity import Block, ExcludedPairs, ExtraCandidates, Known, all_views, both_ways, engine, one_way, same
from tests.losses import reference


def views(count, n=5, d=4):
    make = torch.Generator().manual_seed(0)
    return [torch.randn(n, d, dtype=torch.float64, generator=make) for _ in range(count)]


def test_two_views_are_nt_xent_and_more_the_mean_over_ordered_pairs():
    v = views(4)
    assert_close(
        all_views(v[:2], temperature=0.2).loss(info_nce_rows).item(), reference.nt_xent(v[0], v[1], temperature=0.2)
    )
    z = [torch.nn.functional.normalize(x, dim=1) for x in v]
    total, pairs = 0.0, 0
    for a in range(4):
        for b in range(2):  # two targets
            if a != b:
                s = torch.cat([z[a] @ z[a].T, z[a] @ z[b].T], 1) / 0.2
                s[torch.arange(5), torch.arange(5)] = -torch.inf
                total += torch.nn.functional.cross_entropy(s, torch.arange(5) + 5)
                pairs += 1
    assert pairs == 6
    assert_close(all_views(v, targets=2, temperature=0.2).loss(info_nce_rows), total / pairs)


def test_hidden_items_are_neither_positive_nor_negative():
    a, b = views(2)
    item_identities = torch.tensor([7, 3, 7, -1, -1])
    s = one_way(a, b, temperature=0.3, excluded=ExcludedPairs([(item_identities, item_identities)])).parts[0]
    assert s.mask(s.negative)[0].tolist() == [False, True, False, True, True]
    assert s.mask(s.negative)[3].tolist() == [True, True, True, False, True]
    assert_close(s.paired(), s.dense().diagonal())
    two = all_views([a, b], excluded=ExcludedPairs([(item_identities, item_identities)])).parts[0]
    assert two.mask(two.negative)[0].tolist() == 2 * [False, True, False, True, True]


def test_hidden_pairs_are_seen_from_both_sides_and_further_keys_are_unknown():
    a, b = views(2)
    more = torch.cat([b, views(1, n=3)[0]])
    of_a, of_b = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([9, 9, 9, 9, 0])
    excluded = ExcludedPairs([(of_a, of_b)])
    forth, back = both_ways(a, more, excluded=excluded).parts
    assert not forth.mask(forth.negative)[0, 4]
    assert forth.mask(forth.negative)[:, 5:].all()
    assert not back.mask(back.negative)[4, 0]
    assert back.mask(back.negative)[0, 4]


def test_only_further_blocks_are_negatives_without_the_batch():
    a, b = views(2)
    queue = views(1, n=3)[0]
    s = one_way(a, b, in_batch=False, extra_candidates=[Block(queue)]).parts[0]
    assert s.mask(s.negative).sum(1).tolist() == [3] * 5
    assert not s.mask(s.negative)[:, :5].any()


def test_further_sees_the_anchors_and_may_hide_pairs():
    a, b = views(2, n=5)
    seen, row, column = [], torch.tensor([0, 1, 0, 1, 2]), torch.tensor([0, 0, 1, 1, 2])

    def hide(anchors):
        seen.append(anchors)
        return ExtraCandidates(excluded=same(row[anchors.items], anchors.columns(column)))

    layout = one_way(a, b, extra_candidates=hide)
    assert (seen[0].items.tolist(), seen[0].positive.tolist()) == ([0, 1, 2, 3, 4],) * 2
    assert seen[0].query is a
    s = layout.parts[0]
    excluded = row[:, None] == column
    assert torch.equal(s.mask(s.negative), ~excluded & ~torch.eye(5, dtype=torch.bool))
    both = both_ways(a, b, extra_candidates=hide, extra_candidates_back=hide)
    assert [torch.equal(p.mask(p.negative), s.mask(s.negative)) for p in both.parts] == [True, True]
    joined = all_views([a, b], extra_candidates=hide).parts[0]
    again = excluded.repeat(2, 2) | torch.eye(5, dtype=torch.bool).repeat(2, 2)
    assert torch.equal(joined.mask(joined.negative), ~again)


def test_further_positives_are_the_mean_outside_the_log():
    a, b = views(2, n=5)
    extra_positives = torch.tensor([[1, 2], [0, 3], [4, 0], [1, 2], [3, 3]])
    layout = one_way(a, b, temperature=0.3, extra_candidates=lambda _: ExtraCandidates(extra_positives=extra_positives))
    s = torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T / 0.3
    log_p = s - s.logsumexp(1, keepdim=True)
    expected = -torch.stack([log_p[i, [i, *extra_positives[i].tolist()]].mean() for i in range(5)]).mean()
    assert_close(layout.loss(info_nce_rows), expected)
    summed = both_ways(
        a, b, temperature=0.3, join="sum", extra_candidates=lambda _: ExtraCandidates(extra_positives=extra_positives)
    )
    back = one_way(b, a, temperature=0.3).loss(info_nce_rows)
    assert_close(summed.loss(info_nce_rows), expected + back)


def test_wrong_views_are_told():
    with pytest.raises(InputError, match="at least two views"):
        all_views(views(1))
    with pytest.raises(InputError, match="temperature"):
        all_views(views(2), temperature=0)


def test_known_partners_are_hidden_both_ways():
    """Item 0 also belongs to what item 2 holds, and item 1 to nothing more; the loss equals the loop without them."""
    a, b = torch.randn(2, 4, 5, dtype=torch.float64).unbind(0)
    ids = torch.tensor([7, 3, 9, -1])
    forth = Known(torch.tensor([7, 9, 3, 9, -1]), torch.tensor([0, 2, 3, 4, 5]), ids)
    back = Known(torch.tensor([11, 12, 11, 13, 14]), torch.tensor([0, 1, 2, 4, 5]), torch.tensor([11, 12, 13, 14]))
    s = (torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T) / 0.3
    excluded = torch.zeros(4, 4, dtype=torch.bool)
    excluded[0, 2] = True
    wanted = []
    for matrix, away in ((s, excluded), (s.T, excluded.T)):
        seen = matrix.masked_fill(away, -torch.inf)
        wanted.append((seen.logsumexp(1) - matrix.diagonal()).mean())
    for kind, tile in (("dense", None), ("streaming", 3)):
        with engine(kind, tile=tile):
            found = both_ways(a, b, temperature=0.3, excluded=ExcludedPairs([], (forth, back))).loss(info_nce_rows)
        assert_close(found, sum(wanted) / 2)
