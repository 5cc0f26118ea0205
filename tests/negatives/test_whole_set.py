"""Parts that look at the whole training set, and those that restrict the batch: mined, cluster, fnc."""

import json
import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from nearfar.clustering import k_means
from nearfar.errors import InputError
from nearfar.losses.rows import dcl_rows, hcl_rows, info_nce_rows, triplet_rows
from nearfar.negatives import FNC, Cluster, Items, Mined
from nearfar.negatives.fnc import false_negatives
from nearfar.negatives.mined import mine, shared_label
from nearfar.similarity import Similarity, all_views, engine, everyone, listed, one_way, same

from .scene import anchors, items

D = 5


def unit(*shape, seed=0):
    made = torch.randn(*shape, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(made, dim=-1)


class Whole:
    """A training set whose embeddings are given."""

    def __init__(self, anchors, keys, rows, item_identities, labels=None):
        self.a, self.k, self.rows, self.m, self.labels = anchors, keys, np.asarray(rows), item_identities, labels
        self.notes = {}

    def items(self, rows):
        return Items(torch.as_tensor(rows), self.m[[self.rows.tolist().index(row) for row in rows]])

    def features(self):
        return self.a

    def sides(self):
        return self.a, self.k

    def note(self, name, value):
        self.notes[name] = json.loads(json.dumps(value))

    def tell(self, text):
        self.told = text

    def key(self, row):
        return f"row {row}"


def test_mining_is_the_sorted_matrix_without_what_is_known_or_too_near():
    a, b = unit(30, seed=1), unit(30, seed=2) + unit(30, seed=1)
    groups = torch.arange(30) // 3
    s = a @ torch.nn.functional.normalize(b, dim=1).T
    with engine("streaming", tile=7):
        found = mine(a, b, 4, known=same(groups), margin=0.1, skip=1)
    for i in range(30):
        limit = s[i, i] - 0.1 * s[i, i].abs()
        free = [j for j in range(30) if groups[j] != groups[i]]
        left = sorted((j for j in free if s[i, j] <= limit), key=lambda j: -s[i, j])
        assert found.lists[i].tolist() == [*left[1:5], *[-1] * (4 - len(left[1:5]))]
    assert_close(found.positive, s.diagonal())
    free = s.masked_fill(groups[:, None] == groups, -math.inf)
    assert_close(found.above, float((free.topk(4).values > s.diagonal()[:, None]).double().mean()))


def test_share_of_one_label():
    lists, labels = torch.tensor([[1, 2], [0, -1], [3, 0], [0, 1]]), torch.tensor([0, 0, 1, -1])
    assert shared_label(lists, labels) == pytest.approx(2 / 4)
    assert math.isnan(shared_label(torch.full((4, 2), -1), labels))


def mined(survey, **options):
    part = Mined(**{"count": 3, "start": 0.0, "margin": 0.0} | options)
    part.setup(D, 1, batch_size=4, samples=len(survey.rows), steps=20)
    part.bank = part.bank.double()
    return part


def test_mined_lists_follow_the_rows_whatever_their_order():
    rows = [11, 3, 8, 20, 5, 14]
    whole = Whole(unit(6, seed=1), unit(6, seed=1), rows, torch.full((6, 1), -1), np.array([0, 0, 1, 1, 2, 2]))
    part = mined(whole)
    part.before(0, 20, whole)
    found = mine(whole.a, whole.k, 3, margin=0.0).lists
    block = part.extra_candidates(anchors(unit(3), [0, 1, 0]), items([[-1], [-1]], rows=[20, 99])).blocks[0]
    assert_close(block.keys[0], whole.k[found[3]])
    s = Similarity(unit(3), block)
    assert s.mask(s.visible).tolist() == [[True] * 3, [False] * 3, [True] * 3], "unknown rows have no list"
    part.update(-whole.k[[3]], items([[-1]], rows=[20]))
    seen = part.extra_candidates(
        anchors(unit(1)), items([[-1]], rows=[rows[int((found == 3).any(1).nonzero()[0])]])
    ).blocks[0]
    assert bool((seen.keys == -whole.k[3]).all(-1).any()), "the bank holds the latest key"
    assert whole.told.startswith("mined at step 0: 100% of the rows have hard negatives")
    told = whole.notes["mined"]
    assert told["false_negatives"] == pytest.approx(shared_label(found, torch.tensor(whole.labels)))
    assert told["examples"][0]["row"].startswith("row ")
    assert_close(float(part.terms(Similarity(unit(3), block))["mined_false"]), told["false_negatives"])


def test_nothing_mined_is_no_number():
    """An encoder that tells nothing apart: every candidate is too near, so a run goes on without hard negatives."""
    same_vectors = torch.ones(4, D, dtype=torch.float64) / D**0.5
    whole = Whole(same_vectors, same_vectors, range(4), torch.full((4, 1), -1), np.array([0, 0, 1, 1]))
    part = mined(whole, margin=0.1)
    part.before(0, 20, whole)
    assert whole.told == "mined at step 0: 0% of the rows have hard negatives; examples in mined.json"
    assert whole.notes["mined"]["false_negatives"] is None
    assert part.terms(None) == {}
    assert not part.extra_candidates(anchors(unit(2)), items([[-1], [-1]], rows=[0, 1])).blocks


def test_mined_without_labels_estimates_by_the_positives_and_refreshes():
    whole = Whole(unit(8, seed=1), unit(8, seed=2), range(8), torch.full((8, 1), -1))
    part = mined(whole, start=0.1, refresh=5)
    assert [k for k in range(20) if part.due(k, 20)] == [2, 7, 12, 17]
    part.before(1, 20, whole)
    assert "mined" not in whole.notes
    part.before(2, 20, whole)
    assert whole.notes["mined"]["estimated_by"] == "candidates above the positive"
    part.reset()
    assert not part.extra_candidates(anchors(unit(2)), items([[-1], [-1]])).blocks


def test_known_positives_are_never_mined():
    item_identities = torch.tensor([[0], [0], [1], [1]])
    whole = Whole(unit(4, seed=1), unit(4, seed=1), range(4), item_identities)
    part = mined(whole)
    part.before(0, 20, whole)
    assert [sorted(x for x in row if x >= 0) for row in part.lists.tolist()] == [[2, 3], [2, 3], [0, 1], [0, 1]]


@pytest.mark.parametrize("ratio", [0.0, 0.4, 1.0])
def test_a_share_of_the_hard_negatives_is_random(ratio):
    """Each place is mined with probability hard_ratio; random rows are seen by all but those they belong to."""
    groups = torch.arange(40)[:, None] // 2
    whole = Whole(unit(40, seed=1), unit(40, seed=2), range(40), groups)
    part = mined(whole, hard_ratio=ratio)
    part.before(0, 20, whole)
    mined_places, random_rows = 0, 0
    for step in range(30):
        batch = items(groups[:8], rows=range(8), step=step)
        query = unit(8, seed=step)
        blocks = part.extra_candidates(anchors(query), batch).blocks
        own = Similarity(query, blocks[0])
        mined_places += int(own.mask(own.visible).sum())
        if len(blocks) > 1:
            shared = Similarity(query, blocks[1])
            columns = [int((part.bank == key).all(1).nonzero()[0]) for key in blocks[1].keys]
            random_rows += len(columns)
            expected = [[column // 2 != row // 2 for column in columns] for row in range(8)]
            assert shared.mask(shared.visible).tolist() == expected
    total = 30 * int((part.lists[:8] >= 0).sum())
    assert mined_places + random_rows == total
    assert abs(mined_places / total - ratio) < 0.1


@pytest.mark.parametrize("rows", [info_nce_rows, dcl_rows, hcl_rows, triplet_rows])
def test_every_row_loss_takes_an_own_list(rows):
    whole = Whole(unit(8, seed=1), unit(8, seed=2), range(8), torch.full((8, 1), -1))
    part = mined(whole)
    part.before(0, 20, whole)
    q = unit(4, seed=5).requires_grad_()
    seen = items(torch.full((4, 1), -1))
    loss = one_way(q, unit(4, seed=6), temperature=0.5, extra_candidates=lambda a: part.extra_candidates(a, seen)).loss(
        rows
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(q.grad).all()


def test_only_the_own_cluster_is_seen():
    centres = torch.eye(D, dtype=torch.float64)[:3]
    z = torch.nn.functional.normalize(centres.repeat(4, 1) + 0.05 * unit(12, seed=3), dim=1)
    whole = Whole(z, z, np.arange(12)[::-1].copy(), torch.full((12, 1), -1))
    part = Cluster(clusters=3, start=0.5)
    part.setup(D, 1, 4, 12, 10)
    seen = items(torch.full((5, 1), -1), rows=[11, 10, 9, 8, 50], step=5)
    q = unit(5, seed=4)
    part.before(4, 10, whole)
    s = one_way(q, q, extra_candidates=lambda a: part.extra_candidates(a, seen)).parts[0]
    assert s.mask(s.negative).sum() == 20, "before the start all others are negatives"
    part.before(5, 10, whole)
    s = one_way(q, q, extra_candidates=lambda a: part.extra_candidates(a, seen)).parts[0]
    label = [0, 1, 2, 0, -1]  # row 11 - i is z[i], of centre i mod 3
    expected = [[label[i] == label[j] and i != j and label[i] >= 0 for j in range(5)] for i in range(5)]
    assert s.mask(s.negative).tolist() == expected
    assert part.terms(s)["same_cluster"] == pytest.approx(7 / 25)
    assert torch.isfinite(s.mean(info_nce_rows(s)))


def test_k_means_finds_what_is_there_and_repeats():
    z = np.eye(3)[np.arange(90) % 3] + 0.01 * np.random.default_rng(0).standard_normal((90, 3))
    found = k_means(z, 3, seed=1)
    assert len(set(zip(found.tolist(), (np.arange(90) % 3).tolist(), strict=True))) == 3
    assert np.array_equal(found, k_means(z, 3, seed=1))
    assert k_means(z, 1).tolist() == [0] * 90
    with pytest.raises(InputError, match="number of clusters"):
        k_means(z, 91)


def test_false_negatives_are_the_nearest_to_the_support_view():
    support, keys = unit(4, seed=1), unit(9, seed=2)
    excluded = listed(torch.tensor([0, 1, 2, 3]))
    found = false_negatives(support, keys, 2, threshold=0.2, where=everyone & ~excluded)
    s = (support @ keys.T).masked_fill(torch.eye(4, 9, dtype=torch.bool), -math.inf)
    for i in range(4):
        best = s[i].topk(2)
        expected = [int(j) if v >= 0.2 else -1 for v, j in zip(best.values, best.indices, strict=True)]
        assert found[i].tolist() == expected


def test_cancelled_pairs_leave_the_negatives_or_join_the_positives():
    a, b = unit(5, seed=1), unit(5, seed=2)
    s = a @ b.T / 0.5
    near = false_negatives(b, b, 1, where=~listed(torch.arange(5)), threshold=-2)[:, 0]
    seen = items(torch.full((5, 1), -1), step=50)
    part = FNC(count=1, threshold=-2)
    loss = one_way(a, b, temperature=0.5, extra_candidates=lambda x: part.extra_candidates(x, seen)).loss(info_nce_rows)
    kept = s.clone()
    kept[torch.arange(5), near] = -math.inf
    assert_close(loss, (kept.logsumexp(1) - s.diagonal()).mean())
    assert part.terms(None)["cancelled"] == 1
    part = FNC(count=1, strategy="attract", threshold=-2)
    loss = one_way(a, b, temperature=0.5, extra_candidates=lambda x: part.extra_candidates(x, seen)).loss(info_nce_rows)
    pulled = (s.diagonal() + s[torch.arange(5), near]) / 2
    assert_close(loss, (s.logsumexp(1) - pulled).mean())
    early = items(torch.full((5, 1), -1), step=0)
    untouched = one_way(a, b, extra_candidates=lambda x: part.extra_candidates(x, early)).loss(info_nce_rows)
    assert_close(untouched, one_way(a, b).loss(info_nce_rows))
    assert torch.isfinite(
        all_views([a, b], extra_candidates=lambda x: FNC(threshold=-2).extra_candidates(x, seen)).loss(dcl_rows)
    )


@pytest.mark.parametrize(
    ("part", "options"),
    [
        (Mined, {"count": 0}),
        (Mined, {"margin": -1}),
        (Mined, {"refresh": 0}),
        (Cluster, {"clusters": 0}),
        (Cluster, {"start": 2}),
        (FNC, {"count": 0}),
        (FNC, {"strategy": "hug"}),
    ],
)
def test_wrong_options_are_told(part, options):
    with pytest.raises(InputError):
        part(**options)
