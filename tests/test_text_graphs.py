"""Experts, candidates, edited edges and selectors against loops over the card's equations."""

import pytest
import torch
from torch.autograd import gradcheck

from nearfar import text_graphs as t
from nearfar.errors import InputError

TEXTS = ["red fox runs far", "red fox sleeps", "blue whale sings far", "blue whale sleeps now", "green leaf", ""]
EDGES = torch.tensor([[0, 1, 0, 2, 1, 2, 2, 3], [1, 0, 2, 0, 2, 1, 3, 2]])


def graph(n=24, seed=0, share=0.4):
    make = torch.Generator().manual_seed(seed)
    a = torch.rand(n, n, generator=make) < share / 2
    a = (a | a.T).fill_diagonal_(False)
    a[-1], a[:, -1] = False, False  # the last node is alone
    return a.nonzero().T.contiguous(), torch.randn(n, 5, generator=make, dtype=torch.float64)


def plan(n=24, seed=0):
    edges, z = graph(n, seed)
    apart, like = t.candidates(z, edges)
    make = torch.Generator().manual_seed(seed)
    yes = [torch.rand(lists.shape, generator=make) < 0.5 for lists in (apart, like)]
    return edges, t.EdgePlan(t.base_edges(edges, apart), apart, like, yes[0] & (apart >= 0), yes[1] & (like >= 0))


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def pairs(edges):
    return sorted(map(tuple, edges.T.tolist()))


# -- what experts say


def test_contexts_tell_the_kind_of_text_and_of_node():
    found = t.context_texts("SAS", [5, 6])
    assert "tail node" in found[0]
    assert "5 neighbours" in found[0]
    assert "head node" in found[1]
    assert found[0].startswith(t.EXPERTS["SAS"])
    assert len({t.context_texts(e, [1])[0] for e in t.EXPERTS}) == 4
    assert t.degrees_of(torch.cat([EDGES, EDGES], 1), 6).tolist() == [2, 2, 3, 1, 0, 0]


def test_experts_by_hand():
    found = t.expert_texts(TEXTS, EDGES)
    assert list(found) == list(t.EXPERTS)
    assert found["ORI"] == TEXTS
    assert found["SAS"][4:] == TEXTS[4:]  # nobody is near
    assert found["SAS"][3] == "blue whale sleeps now blue far sings whale"
    assert found["SAR"] == ["red fox far", "red fox", "blue whale far", "blue whale", "", ""]
    assert found["IDR"][0] == "red fox runs far"


def test_names_of_code_are_the_reading_of_a_module():
    text = "Reads files. read_all, ReadAll and readAll; see also __init__ and HTTP"
    assert t.characteristic(text, t.rarity([t.words(text)])) == ["read_all", "ReadAll", "readAll"]
    rare = dict.fromkeys("abcdefghijklmn", 1.0)
    assert t.characteristic("n m l k j i h g f e d c b a a a", rare) == list("jihgfedcba")


def test_frequent_words_are_nobodys():
    texts = ["all one", "all one", "all two", "all three"]
    edges = torch.tensor([[0, 1, 0, 2], [1, 0, 2, 0]])
    assert t.expert_texts(texts, edges)["SAR"] == ["", "", "", ""]  # `all` everywhere, `one` in half, which is not more
    assert t.expert_texts([*texts, "five"], edges)["SAR"][:2] == ["one", "one"]


def test_features_of_texts_are_of_length_one():
    x = t.text_features(TEXTS)
    assert x[:5].norm(dim=1).tolist() == pytest.approx([1] * 5)
    assert not x[5].any()
    assert x[0] @ x[1] > x[0] @ x[2]


# -- who may be a neighbour


def test_smoothing_equals_a_dense_product():
    edges, z = graph()
    a = torch.eye(24, dtype=torch.float64)
    a[edges[0], edges[1]] = 1
    s = a / (a.sum(0) * a.sum(1)[:, None]).sqrt()
    torch.testing.assert_close(t.smoothed(z, torch.cat([edges, edges], 1)), s @ s @ z)


def test_candidates_equal_their_loops():
    edges, z = graph()
    apart, like = t.candidates(z, torch.cat([edges, edges], 1), most=4, least=3)
    joined = set(map(tuple, edges.T.tolist()))
    cosine = lambda a, b: float(a @ b / (a.norm() * b.norm()))  # noqa: E731
    for v in range(24):
        near = [u for u in range(24) if (v, u) in joined]
        far = [u for u in range(24) if (v, u) not in joined and u != v]
        lowest = sorted(near, key=lambda u: cosine(z[v], z[u]))[:4] if len(near) >= 3 else []
        highest = sorted(far, key=lambda u: -cosine(z[v], z[u]))[:4]
        assert [u for u in apart[v].tolist() if u >= 0] == lowest
        assert [u for u in like[v].tolist() if u >= 0] == highest
        assert (apart[v] >= 0).sum() == len(lowest)


def test_few_neighbours_are_not_pruned_and_all_may_be_joined():
    edges = torch.tensor([[0, 0, 0, 0, 0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0, 0, 0, 0, 0]])
    apart, like = t.candidates(torch.eye(6), edges)
    assert (apart[0] >= 0).sum() == 5
    assert (apart[1:] == -1).all()
    assert (like[0] == -1).all()
    assert (like[1] >= 0).sum() == 4
    none, others = t.candidates(torch.zeros(3, 2), torch.zeros(2, 0, dtype=torch.int64))
    assert (none == -1).all()
    assert (others >= 0).sum(1).tolist() == [2, 2, 2]


def test_common_neighbours_and_cosines_of_pairs():
    edges, z = graph()
    asked = torch.tensor([[0, 3, 7, 23], [1, 3, 2, 4]])
    near = [{int(b) for a, b in edges.T if a == v} for v in range(24)]
    assert t.common_neighbours(edges, asked, 24).tolist() == [len(near[a] & near[b]) for a, b in asked.T.tolist()]
    want = [float(z[a] @ z[b] / z[a].norm() / z[b].norm()) for a, b in asked.T.tolist()]
    assert t.pair_cosines(z, asked).tolist() == pytest.approx(want)
    assert not len(t.pair_cosines(z, asked[:, :0]))


def test_a_verdict_needs_both_sides_above_their_medians():
    text, structure = torch.tensor([0.1, 0.9, 0.8, 0.2]), torch.tensor([0, 0, 5, 5])
    assert t.verdicts(text, structure).tolist() == [False, False, True, False]
    assert t.verdicts(text, torch.ones(4)).tolist() == [False] * 4
    rising = torch.tensor([0.0, 1, 3, 9])  # the median of four numbers lies between two
    assert t.verdicts(rising, rising).tolist() == [False, False, True, True]
    assert not len(t.verdicts(text[:0], structure[:0]))


# -- edited edges


def test_the_base_lacks_dissimilar_neighbours_in_one_direction():
    edges, p = plan()
    gone = {(v, u) for v in range(24) for u in p.apart[v].tolist() if u >= 0}
    assert gone
    assert pairs(p.base) == sorted(set(pairs(edges)) - gone)


@pytest.mark.parametrize("official", [False, True])
def test_edited_edges_equal_their_loops(official):
    """Every random draw is the same as that of the function; the loops choose by its keys."""
    _, p = plan()
    found = t.edited_edges(p.base, p.apart, p.apart_yes, p.like, p.like_yes, add=0.3, restore=0.7,
                           generator=drawn(3), official=official)  # fmt: skip
    make = drawn(3)
    keys = [torch.rand(p.apart.shape, generator=make), torch.rand(p.like.shape, generator=make)]
    wanted = pairs(p.base)
    for side, (lists, yes, rate) in enumerate(((p.apart, p.apart_yes, 0.7), (p.like, p.like_yes, 0.3))):
        for v in range(24):
            degree = sum(a == v for a, _ in pairs(p.base))
            many = min(10, round(rate * degree))
            there = [k for k in range(10) if lists[v, k] >= 0]
            chosen = there[:many] if official else sorted(there, key=lambda k: float(keys[side][v, k]))[:many]
            if not (official and side == 1):
                wanted += [(v, int(lists[v, k])) for k in chosen if yes[v, k]]
    assert pairs(found) == sorted(wanted)


def test_nothing_is_edited_without_shares_or_verdicts():
    _, p = plan()
    none = torch.zeros_like(p.apart_yes)
    for add, restore, yes in ((0, 0, (p.apart_yes, p.like_yes)), (1, 1, (none, none))):
        made = t.edited_edges(p.base, p.apart, yes[0], p.like, yes[1], add=add, restore=restore, generator=drawn())
        assert torch.equal(made, p.base)


def test_all_confirmed_restores_the_graph_beside_additions():
    edges, p = plan()
    all_yes = p.apart >= 0
    made = t.edited_edges(p.base, p.apart, all_yes, p.like, p.like_yes, add=0.5, restore=1e3, generator=drawn())
    with_degree = torch.bincount(p.base[0], minlength=24) > 0
    lost = {(v, u) for v, u in pairs(edges) if not with_degree[v]}
    assert set(pairs(edges)) - lost <= set(pairs(made))
    extra = set(pairs(made)) - set(pairs(edges))
    assert extra
    assert all(p.like_yes[v, p.like[v].tolist().index(u)] for v, u in extra)
    assert not any(v == 23 for v, _ in extra)  # nothing is added to a node without edges


def test_released_edges_never_change_and_intended_ones_do():
    edges, p = plan()
    same = [p.draw(edges, "verdicts", 0.2, 0.2, drawn(s), official=True) for s in range(3)]
    assert torch.equal(same[0], same[1])
    assert torch.equal(same[0], same[2])
    assert not set(pairs(same[0])) - set(pairs(edges))
    others = [pairs(p.draw(edges, "verdicts", 0.2, 0.2, drawn(s))) for s in range(3)]
    assert others[0] != others[1]
    more = [len(p.draw(edges, "verdicts", 0, rate, drawn())[0]) for rate in (0.2, 1.0)]
    assert more[0] < more[1]  # a larger p_del keeps more


def test_random_edges_change_as_many():
    edges, p = plan()
    made = p.draw(edges, "random", 0.5, 0.5, drawn(1))
    changed = sum(t.changed_edges(edges, p.draw(edges, "verdicts", 0.5, 0.5, drawn(1)), 24))
    assert changed == len(set(pairs(p.draw(edges, "verdicts", 0.5, 0.5, drawn(1)))) ^ set(pairs(edges)))
    assert len(made[0]) == len(edges[0]) - changed
    assert set(pairs(made)) < set(pairs(edges))
    assert torch.equal(p.draw(edges, "none", 0.5, 0.5, drawn(1)), edges)


def test_homophily():
    labels = torch.tensor([0, 0, 1, -1, 1, 1])
    assert t.edge_homophily(EDGES, labels) == pytest.approx(2 / 6)
    with pytest.raises(InputError, match="whose class is known"):
        t.edge_homophily(EDGES, torch.full((6,), -1))


# -- selectors


def weights(k=4, d=6, hidden=3, wide=6, seed=0):
    make = torch.Generator().manual_seed(seed)
    shapes = (hidden, wide), (hidden,), (k, k * hidden), (k,)
    w = [torch.randn(s, generator=make, dtype=torch.float64).requires_grad_() for s in shapes]
    sides = [torch.randn(5, k, d, generator=make, dtype=torch.float64).requires_grad_() for _ in range(2)]
    return sides, (w[0], w[1]), (w[2], w[3])


def naive(c, x, first, second, kind):
    rows = []
    for i in range(len(c)):
        u = []
        for k in range(c.shape[1]):
            read = torch.cat([c[i, k], x[i, k]]) if kind == "concat" else c[i, k]
            u += [h if h > 0 else 0.01 * h for h in first[0] @ read + first[1]]
        a = second[0] @ torch.stack(u) + second[1]
        if kind == "similarity":
            a = torch.stack([a[k] + sum(c[i, k, j] * x[i, k, j] for j in range(c.shape[2])) for k in range(4)])
        if kind == "unit":
            a = torch.stack([a[k] + c[i, k] @ x[i, k] / c[i, k].norm() / x[i, k].norm() for k in range(4)])
        rows.append(a)
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["similarity", "unit", "content", "concat"])
def test_logits_and_mixture_equal_their_loops(kind):
    (c, x), first, second = weights(hidden=6 if kind == "concat" else 3, wide=12 if kind == "concat" else 6)

    def logits(c, x):
        if kind == "concat":
            return t.concat_logits(c, x, first, second)
        return t.similarity_logits(c, None if kind == "content" else x, first, second, unit=kind == "unit")

    a = logits(c, x)
    torch.testing.assert_close(a, naive(c, x, first, second, kind))
    alpha = t.expert_shares(a, 0.2)
    want = torch.stack([torch.stack([(a[i, k] / 0.2).exp() for k in range(4)]) for i in range(5)])
    torch.testing.assert_close(alpha, want / want.sum(1, keepdim=True))
    h = t.mixture(alpha, c)
    torch.testing.assert_close(h, torch.stack([sum(alpha[i, k] * c[i, k] for k in range(4)) for i in range(5)]))
    assert gradcheck(lambda c, x: t.mixture(t.expert_shares(logits(c, x), 2.0), c), (c, x))
    back = [side.detach().transpose(1, 2).contiguous().transpose(1, 2) for side in (c, x)]  # not contiguous
    torch.testing.assert_close(logits(*back), a)


def test_invariants_of_the_mixture():
    (c, x), first, second = weights()
    a = t.similarity_logits(c, x, first, second)
    alpha = t.expert_shares(a, 0.2)
    assert (alpha >= 0).all()
    torch.testing.assert_close(alpha.sum(1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(t.expert_shares(a + 3.7, 0.2), alpha)
    same = c[:, :1].expand(-1, 4, -1)
    torch.testing.assert_close(t.mixture(alpha, same), c[:, 0])
    low, high = c.amin(1), c.amax(1)
    h = t.mixture(alpha, c)
    assert ((h >= low - 1e-12) & (h <= high + 1e-12)).all()
    flat = (torch.zeros_like(second[0]), torch.zeros_like(second[1]))
    even = t.expert_shares(t.similarity_logits(same, x[:, :1].expand(-1, 4, -1), first, flat), 0.2)
    torch.testing.assert_close(even, torch.full((5, 4), 0.25, dtype=torch.float64))


def test_small_temperatures_half_precision_and_zero_vectors():
    (c, x), first, second = weights()
    tiny = t.expert_shares(t.similarity_logits(c, x, first, second), 1e-6)
    assert torch.equal(tiny.amax(1), torch.ones(5, dtype=torch.float64))
    for kind in (torch.float16, torch.bfloat16):
        half = [[w.to(kind) for w in pair] for pair in (first, second)]
        alpha = t.expert_shares(t.similarity_logits(c.to(kind), x.to(kind), *half), 0.2)
        assert alpha.dtype == torch.float32
        assert t.mixture(alpha, c.to(kind)).dtype == kind
        torch.testing.assert_close(alpha.sum(1), torch.ones(5))
    zero = t.similarity_logits(c * 0, x * 0, first, second, unit=True)
    assert torch.isfinite(t.expert_shares(zero, 0.2)).all()
    assert t.mixture(t.expert_shares(zero[:1], 0.2), c[:1]).shape == (1, 6)


# -- which neighbours are asked for


def test_a_shortlist_holds_neighbours_and_others():
    edges, _ = graph()
    edges = torch.unique(edges, dim=1)
    near = [{int(b) for a, b in edges.T if a == v} for v in range(24)]
    nodes = torch.tensor([3, 23, 7])
    labels, targets, valid = t.shortlist(edges, 24, nodes, positives=6, negatives=40, generator=drawn())
    assert labels.shape == targets.shape == valid.shape == (3, 46)
    for i, v in enumerate(nodes.tolist()):
        told = {u for u, y, ok in zip(labels[i].tolist(), targets[i], valid[i], strict=True) if ok and y}
        others = {u for u, y, ok in zip(labels[i].tolist(), targets[i], valid[i], strict=True) if ok and not y}
        assert told <= near[v]
        assert len(told) == len(near[v]) if len(near[v]) <= 6 else told
        assert others
        assert not others & (near[v] | {v})
    whole = t.shortlist(edges, 24, nodes, positives=24, negatives=1, generator=drawn())
    assert (whole[1] * whole[2]).sum(1).tolist() == [len(near[v]) for v in nodes.tolist()]
    nobody = t.shortlist(edges[:, :0], 24, nodes, positives=2, negatives=3, generator=drawn())
    assert not nobody[2][:, :2].any()
