"""Scores of annotation trees and the contrast that they weigh, against loops written from the card of SPACE-2."""

import itertools
import math

import numpy as np
import pytest
import torch

from nearfar.errors import InputError
from nearfar.losses import jaccard, mask_spans, mean_score, nt_xent, sup_con, tree_contrast, tree_scores
from nearfar.sources.trees import VIEWS, paths_of, tree_elements

LEVELS = "DISV"


def tree(rng, full=True, paths=3):
    """A random tree; not `full`: some levels are missing."""
    found = []
    for _ in range(rng.integers(1, paths + 1)):
        path = [f"{level}{rng.integers(3)}" for level in LEVELS]
        if not full:
            path = [None if level < 2 and rng.random() < 0.4 else name for level, name in enumerate(path)]
            path = path[: rng.integers(1, 5)]
        found.append(path)
    return paths_of(found)


def naive_elements(paths):
    """The ten sets of the card, with default names that are taken out again."""
    named = [[name or f"default_{k}" for k, name in enumerate(path)] for path in paths]
    found = []
    for view in VIEWS:
        own = set()
        for path in named:
            own.add(tuple(path[LEVELS.index(letter)] for letter in view))
        found.append({one for one in own if not any(name.startswith("default") for name in one)})
    return found


def naive_score(x, y):
    return 0.0 if not x | y else len(x & y) / len(x | y)


@pytest.fixture
def trees():
    rng = np.random.default_rng(0)
    return [tree(rng, full=k % 2 == 0) for k in range(12)] + [(), paths_of([["D0"]])]


def test_scores_equal_the_loop(trees):
    scores = tree_scores([tree_elements(one) for one in trees])
    naive = [naive_elements(one) for one in trees]
    for k, (i, x), (j, y) in itertools.product(range(10), enumerate(naive), enumerate(naive)):
        assert scores[k, i, j] == pytest.approx(1.0 if i == j else naive_score(x[k], y[k]), abs=1e-6)
    assert torch.equal(scores, scores.transpose(1, 2))
    assert 0 <= float(scores.min()) <= float(scores.max()) <= 1


def test_the_mean_score_is_that_of_views_with_elements(trees):
    found = mean_score([tree_elements(one) for one in trees])
    naive = [naive_elements(one) for one in trees]
    for (i, x), (j, y) in itertools.product(enumerate(naive), enumerate(naive)):
        views = [naive_score(a, b) for a, b in zip(x, y, strict=True) if a | b]
        assert found[i, j] == pytest.approx(1.0 if i == j else sum(views) / len(views) if views else 0.0, abs=1e-6)
    elements = [tree_elements(one) for one in (trees[0], trees[0], trees[1])]
    assert mean_score(elements)[0, 1] == 1


def test_blocks_of_rows_are_the_rows_of_the_whole(trees):
    elements = [tree_elements(one) for one in trees]
    sets = [one[2] for one in elements]
    assert torch.equal(jaccard(sets[3:7], sets), jaccard(sets)[3:7])
    whole = tree_scores(elements, elements)
    assert torch.equal(tree_scores(elements[3:7], elements), whole[:, 3:7])
    assert torch.equal(mean_score(elements[3:7], elements), mean_score(elements, elements)[3:7])


def test_an_own_score_is_one_where_the_view_has_elements(trees):
    elements = [tree_elements(one) for one in trees]
    for k in range(10):
        own = tree_scores(elements, elements)[k].diagonal()
        assert own.tolist() == [float(bool(one[k])) for one in elements]


def test_a_whole_path_in_common_is_one_in_every_view():
    rng = np.random.default_rng(1)
    scores = tree_scores([tree_elements(tree(rng)) for _ in range(60)])
    shared = scores[VIEWS.index("DISV")] > 0
    assert bool((scores > 0)[:, shared].all())
    assert int(shared.sum()) > 60, "some of different trees"


def test_names_do_not_run_together():
    """Joined by hyphens "a-b" + "c" would be "a" + "b-c"; and a name is not left out for what it contains."""
    a, b = (tree_elements(paths_of([path])) for path in (["a-b", "c"], ["a", "b-c"]))
    assert float(tree_scores([a, b])[VIEWS.index("DI"), 0, 1]) == 0
    kept = tree_elements(paths_of([["my default_intent corpus", "x"]]))
    assert kept[VIEWS.index("DI")] == {("my default_intent corpus", "x")}
    gone = tree_elements(paths_of([["DEFAULT_DOMAIN", " Find ", "Area"]]))
    assert [sorted(one) for one in gone[:4]] == [[], [("find",)], [("area",)], []]
    assert gone[VIEWS.index("IS")] == {("find", "area")}


# -- the contrast


def naive_contrast(views, scores, t):
    """One head: views (v, n, d), scores (n, n), in float64 loops."""
    v, n, _ = views.shape
    z = [views[a, i] / views[a, i].norm().clamp(min=1e-12) for a in range(v) for i in range(n)]
    total = 0.0
    for a in range(v * n):
        others = [b for b in range(v * n) if b != a]
        log_sum = torch.logsumexp(torch.stack([z[a] @ z[c] / t for c in others]), 0)
        weights = [scores[a % n, b % n] for b in others]
        pulled = sum(w * (z[a] @ z[b] / t - log_sum) for w, b in zip(weights, others, strict=True))
        total = total + pulled / sum(weights)
    return -(t / 0.07) * total / (v * n)


def drawn(n=5, k=3, d=4, v=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    views = torch.randn(v, n, k, d, generator=g, dtype=torch.float64)
    scores = torch.rand(k, n, n, generator=g, dtype=torch.float64)
    scores = (scores + scores.transpose(1, 2)) / 2
    scores.diagonal(dim1=1, dim2=2).fill_(1)
    return views, scores


@pytest.mark.parametrize("t", [0.07, 0.5, 2.0])
@pytest.mark.parametrize("v", [2, 3])
def test_contrast_equals_the_loop(t, v):
    views, scores = drawn(v=v)
    found = tree_contrast(views, scores, temperature=t)
    expected = torch.stack([naive_contrast(views[:, :, k], scores[k], t) for k in range(3)])
    torch.testing.assert_close(found, expected)
    assert bool((found >= 0).all())


def test_gradients():
    views, scores = drawn(n=3, k=2, d=3)
    assert torch.autograd.gradcheck(lambda x: tree_contrast(x, scores, temperature=0.3), views.requires_grad_())


@pytest.mark.parametrize("t", [0.07, 0.3])
def test_blocks_are_supcon_and_an_identity_is_nt_xent(t):
    views, _ = drawn(n=6, k=1)
    y = torch.tensor([0, 1, 0, 2, 1, 0])
    blocks = (y[:, None] == y[None]).double()
    z = views[:, :, 0]
    expected = sup_con(z.flatten(0, 1), y.repeat(2), temperature=t) * t / 0.07
    torch.testing.assert_close(tree_contrast(views, blocks[None], temperature=t)[0], expected)
    expected = nt_xent(z[0], z[1], temperature=t) * t / 0.07
    torch.testing.assert_close(tree_contrast(views, torch.eye(6)[None], temperature=t)[0], expected)
    half = tree_contrast(views, (0.5 * blocks + 0.5 * torch.eye(6))[None], temperature=t)
    assert abs(float(half[0]) - float(tree_contrast(views, blocks[None], temperature=t)[0])) > 1e-3


def test_what_changes_the_loss_and_what_does_not():
    views, scores = drawn()
    loss = tree_contrast(views, scores)
    torch.testing.assert_close(tree_contrast(views, 3 * scores), loss)
    rows = scores.clone()
    rows[:, 2] *= 5
    torch.testing.assert_close(tree_contrast(views, rows), loss)
    off = 0.5 * scores
    off.diagonal(dim1=1, dim2=2).fill_(1)
    assert bool(((tree_contrast(views, off) - loss).abs() > 1e-3).all()), "weights beside the twin's"
    torch.testing.assert_close(tree_contrast(views.flip(0), scores), loss)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(tree_contrast(views[:, order], scores[:, order][:, :, order]), loss)
    strided = views.transpose(2, 3).contiguous().transpose(2, 3)
    torch.testing.assert_close(tree_contrast(strided, scores), loss)


def test_a_head_does_not_react_to_another():
    views, scores = drawn()
    views.requires_grad_()
    (gradient,) = torch.autograd.grad(tree_contrast(views, scores)[1], views)
    assert bool((gradient[:, :, [0, 2]] == 0).all())
    assert bool((gradient[:, :, 1] != 0).any())
    other = scores.clone()
    other[0] = torch.eye(5)
    assert torch.equal(tree_contrast(views, other)[1:], tree_contrast(views, scores)[1:])


def test_edges():
    views, scores = drawn(n=1)
    assert torch.equal(tree_contrast(views, scores), torch.zeros(3, dtype=torch.float64))
    alone = tree_contrast(views[:1].requires_grad_(), scores)
    alone.sum().backward()
    assert torch.equal(alone, torch.zeros(3, dtype=torch.float64))
    views, scores = drawn(n=4)
    equal = tree_contrast(torch.ones_like(views), torch.ones_like(scores))
    assert equal.tolist() == pytest.approx([math.log(7)] * 3), "log(2n - 1) at collapse, all alike"
    for x in (torch.zeros_like(views), views * 1e-30):
        x.requires_grad_()
        loss = tree_contrast(x, scores, temperature=0.01)
        loss.sum().backward()
        assert bool(loss.isfinite().all() and x.grad.isfinite().all())
    assert float(tree_contrast(views, scores, temperature=1e-3).max()) < 1e3
    half = tree_contrast(views.half(), scores.half(), temperature=0.07)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, tree_contrast(views, scores).float(), rtol=0.02, atol=0.02)
    nobody = torch.zeros_like(scores)
    assert torch.equal(tree_contrast(views, nobody), torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("wrong", [lambda v, s: (v[0], s), lambda v, s: (v, s[:2]), lambda v, s: (v, s[:, :, :2]),
                                   lambda v, s: (v, -s), lambda v, s: (v, s * math.nan)])  # fmt: skip
def test_wrong_inputs(wrong):
    with pytest.raises(InputError, match=r"must be|finite number"):
        tree_contrast(*wrong(*drawn()))
    with pytest.raises(InputError, match="temperature"):
        tree_contrast(*drawn(), temperature=0.0)


# -- hidden values


def test_every_token_of_a_value_is_hidden_and_other_utterances_as_usual():
    ids = torch.arange(10, 30).repeat(400, 1)
    spans = torch.zeros_like(ids, dtype=torch.bool)
    spans[:, 3:5] = True
    units = torch.tensor([-1, *[2] * 7, *[1] * 6, *[0] * 6]).expand_as(ids)
    ordinary = torch.ones_like(spans)
    ordinary[:, [1, 8, 14]] = False
    made, targets = mask_spans(ids, ordinary, spans, units, mask_id=0, size=30,
                               generator=torch.Generator().manual_seed(0))  # fmt: skip
    assert bool((made[:, 3:5] == 0).all() and (targets[:, 3:5] == ids[:, 3:5]).all())
    rest = torch.ones_like(spans)
    rest[:, 3:5] = False
    rest[:, 9:14] = rest[:, 15:] = False
    rest[:, 0] = False
    assert bool((made == ids)[rest].all() and (targets[rest] == -100).all()), (
        "other tokens of an utterance with a value"
    )
    free = torch.zeros_like(spans)
    free[:, 9:14] = free[:, 15:] = True
    chosen = targets[free] >= 0
    assert float(chosen.float().mean()) == pytest.approx(0.15, abs=0.02)
    assert float((made[free][chosen] == 0).float().mean()) == pytest.approx(0.8, abs=0.05)


def test_without_spans_it_is_the_usual_masking():
    from nearfar.losses import mask_tokens

    ids, ordinary = torch.randint(1, 50, (6, 9)), torch.rand(6, 9) < 0.8
    none, units = torch.zeros_like(ordinary), torch.zeros_like(ids)
    a = mask_spans(ids, ordinary, none, units, mask_id=0, size=50, generator=torch.Generator().manual_seed(3))
    b = mask_tokens(ids, ordinary, mask_id=0, size=50, generator=torch.Generator().manual_seed(3))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
