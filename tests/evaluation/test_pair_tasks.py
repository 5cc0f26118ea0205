"""Tasks on two columns: pair classification, pools and domains, margins; each against naive loops."""

import dataclasses

import numpy as np
import pytest
import torch

import nearfar
from nearfar.errors import InputError
from nearfar.evaluation.biases import biases, unrelated
from nearfar.evaluation.margin import MarginScorer, Turned, margin_scores, mean_of_nearest
from nearfar.evaluation.neighbours import VectorScorer
from nearfar.evaluation.pairwise import average_precision, blind, bootstrap_pairs, spearman, tell_apart
from nearfar.evaluation.tasks import task_for
from tests.test_surface import naive_distance

from .tiny import Tiny, Vectors


def texts(n, letter):
    return [f"{letter} {i}" for i in range(n)]


def pairs(n=60, seed=0, **more):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 8))
    vectors = {"text": z, "text_b": z + 1.5 * rng.normal(size=(n, 8))}
    third = np.arange(n) * 3 // n
    splits = {name: np.flatnonzero(third == k) for k, name in enumerate(("train", "val", "test"))}
    data = Tiny({"text": texts(n, "a"), "text_b": texts(n, "b")}, splits=splits, **more)
    return data, Vectors(vectors)


def cosines(embed, rows=None):
    a, b = (embed.vectors[role] for role in ("text", "text_b"))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return (a @ b.T) if rows is None else (a * b).sum(1)[rows]


# -- pair classification -----------------------------------------------------------------------------------------------


def labelled(**more):
    rng = np.random.default_rng(1)
    data, embed = pairs(90, pair_labels=(rng.random(90) < 0.5).astype(np.int8), **more)
    data.roles["pair_label"] = "is_duplicate"
    apart = data.pair_labels == 0
    embed.vectors["text_b"][apart] = rng.normal(size=(int(apart.sum()), 8))
    return data, embed


def naive_f1(scores, labels, threshold):
    hits = sum(s >= threshold and y for s, y in zip(scores, labels, strict=True))
    told = sum(s >= threshold for s in scores)
    return 2 * hits / (told + sum(labels)) if told + sum(labels) else 0.0


@pytest.mark.parametrize(("split", "chooses"), [("test", "val"), ("val", "train")])
def test_pairs_are_told_apart_at_the_threshold_of_other_pairs(split, chooses):
    data, embed = labelled()
    found = task_for(data, "pair-labels").evaluate(embed, split)
    rows, ahead = data.splits[split], data.splits[chooses]
    scores, labels = cosines(embed, rows), data.pair_labels[rows]
    order = np.argsort(-scores)
    precisions = [labels[order[: k + 1]].mean() for k in range(len(rows)) if labels[order[k]]]
    assert found.primary == pytest.approx(np.mean(precisions), abs=1e-6)
    cuts = [*np.sort(cosines(embed, ahead)), 2.0]
    known = data.pair_labels[ahead]
    best = max(cuts, key=lambda t: naive_f1(cosines(embed, ahead), known, t))
    assert found.metrics["f1"] == pytest.approx(naive_f1(scores, labels, best), abs=0.05)  # a cut lies between scores
    assert found.metrics["best f1"] == pytest.approx(max(naive_f1(scores, labels, t) for t in scores), abs=1e-9)
    assert found.metrics["best f1"] >= found.metrics["f1"]
    low, high = found.bootstrap().bounds
    assert low < found.primary < high


def test_without_labels_to_choose_a_threshold_there_is_none():
    data, embed = labelled()
    data.pair_labels[data.splits["train"]] = -1
    found = task_for(data, "pair-labels").evaluate(embed, "val")
    assert set(found.metrics) == {"ap", "best f1"}
    assert set(task_for(data, "pair-labels").evaluate(embed, "test").metrics) == {"ap", "accuracy", "f1", "best f1"}


def test_pairs_without_a_label_are_left_out_and_counted():
    data, embed = labelled()
    data.pair_labels[data.splits["test"][:4]] = -1
    found = task_for(data, "pair-labels").evaluate(embed, "test")
    assert found.counts["pairs"] == {"queries": 26, "skipped": 4, "gallery": 26}


@pytest.mark.parametrize("only", [0, 1])
def test_one_label_alone_is_refused_with_counts(only):
    data, _ = labelled()
    data.pair_labels[data.splits["test"]] = only
    task = task_for(data, "pair-labels")
    counts = f"{30 * only} pairs labelled 1 and {30 * (1 - only)} labelled 0"
    with pytest.raises(InputError, match=f"The test split of tiny has {counts}"):
        task.check()


def test_it_is_measured_where_asked_for_and_pairs_as_ever():
    data, embed = labelled()
    assert task_for(data).kind == "pairs"
    one, other = (task_for(data, kind).evaluate(embed, "test").metrics for kind in ("pairs", "pair-labels"))
    assert {name: one[f"pair {name}"] for name in ("ap", "accuracy", "f1")} == {
        name: other[name] for name in ("ap", "accuracy", "f1")
    }
    with pytest.raises(InputError, match=r"cannot be measured by 'pair-labels'.*--pair-label"):
        task_for(pairs()[0], "pair-labels")


def test_chance_of_pairs():
    data, _ = labelled()
    rows = data.splits["test"]
    share = data.pair_labels[rows].mean()
    found = task_for(data, "pair-labels").chance("test")
    assert found.metrics["ap"] == pytest.approx(share)
    assert found.metrics["accuracy"] == pytest.approx(max(share, 1 - share))
    assert found.metrics["f1"] == pytest.approx(2 * share / (1 + share))
    assert found.bootstrap().bounds is None
    assert blind([]) == {"ap": 0.0, "accuracy": 1.0, "f1": 0.0}
    assert tell_apart([0.3], [0], [], []) == {}


def test_the_bootstrap_draws_units_and_leaves_out_what_is_nothing():
    rng = np.random.default_rng(0)
    scores, labels = rng.random(40), rng.random(40) < 0.1
    labels[0] = True
    alone = bootstrap_pairs(average_precision, scores, labels, np.arange(40), draws=300)
    assert np.isfinite(alone.bounds).all()
    twice = bootstrap_pairs(
        spearman, np.tile(scores, 2), np.tile(scores**2 + rng.random(40), 2), np.tile(np.arange(40), 2)
    )
    once = bootstrap_pairs(spearman, np.tile(scores, 2), np.tile(scores**2 + rng.random(40), 2), np.arange(80))
    assert np.ptp(twice.bounds) > np.ptp(once.bounds)
    assert bootstrap_pairs(spearman, scores[:4], scores[:4], np.array([0, 0, 1, 1])).bounds is None


# -- domains -----------------------------------------------------------------------------------------------------------


def by_two(data, names=("de", "fr")):
    data.domains, data.domain_names = np.arange(len(data.keys)) % 2, list(names)
    return data


def test_scores_by_domain_are_those_of_their_rows_alone():
    data, embed = pairs(scores=np.random.default_rng(0).random(60))
    data.roles["score"] = "score"
    assert task_for(data).evaluate(embed, "test").domains == {}
    found = task_for(by_two(data)).evaluate(embed, "test").domains
    for code, name in enumerate(("de", "fr")):
        rows = data.splits["test"][data.domains[data.splits["test"]] == code]
        assert found[name]["rows"] == len(rows) == 10
        assert found[name]["spearman"] == pytest.approx(spearman(cosines(embed, rows), data.scores[rows]))
    alone = by_two(data, ("de",))
    alone.domains = np.where(np.arange(60) % 2, -1, 0)
    assert task_for(alone).evaluate(embed, "test").domains == {}


def test_labels_of_pairs_by_domain_keep_the_common_threshold():
    data, embed = labelled()
    data = by_two(data)
    found = task_for(data, "pair-labels").evaluate(embed, "test")
    sizes = [(data.domains[data.splits["test"]] == code).sum() for code in (0, 1)]
    accuracy = np.average([found.domains[name]["accuracy"] for name in ("de", "fr")], weights=sizes)
    assert accuracy == pytest.approx(found.metrics["accuracy"])


def test_queries_by_domain_rank_the_whole_split_unless_pools_are_apart():
    data, embed = pairs()
    task = task_for(by_two(data))
    found, rows = task.evaluate(embed, "test"), data.splits["test"]
    similar = cosines(embed)[np.ix_(rows, rows)]
    place = 1 + (similar > np.diag(similar)[:, None]).sum(1)
    assert found.metrics["mrr"] == pytest.approx((1 / place).mean())
    for code, name in enumerate(("de", "fr")):
        assert found.domains[name]["rows"] == 10
        assert found.domains[name]["mrr"] == pytest.approx((1 / place[data.domains[rows] == code]).mean())
    apart = task_for(data, "pairs --pool domain").evaluate(embed, "test")
    expected = []
    for code, name in enumerate(("de", "fr")):
        mine = data.domains[rows] == code
        own = similar[np.ix_(mine, mine)]
        expected.append((1 / (1 + (own > np.diag(own)[:, None]).sum(1))).mean())
        assert apart.domains[name]["mrr"] == pytest.approx(expected[-1])
        assert apart.counts[f"text → text_b, {name}"]["gallery"] == mine.sum()
    assert apart.metrics["mrr"] == pytest.approx(np.mean(expected))


def test_a_pool_of_so_many_candidates_is_the_same_each_time():
    data, embed = pairs()
    one, two = (task_for(data, "pairs --candidates 7").searches("test") for _ in range(2))
    assert one[0].size == 7
    assert one[0].gallery.rows.tolist() == two[0].gallery.rows.tolist()
    assert set(one[0].query.rows) == set(one[0].gallery.rows)
    assert task_for(data, "pairs --candidates 7").evaluate(embed, "test").counts["text → text_b"]["gallery"] == 7


def test_pools_need_domains_and_no_corpus():
    data, _ = pairs()
    with pytest.raises(InputError, match="has no domains to rank within"):
        task_for(data, "pairs --pool domain")
    data.domains, data.domain_names = np.full(60, -1), []
    with pytest.raises(InputError, match="No pair of the test split has a domain"):
        task_for(data, "pairs --pool domain").searches("test")
    corpus = dataclasses.replace(data, corpus={"text_b": texts(60, "b")}, query_keys=None)
    with pytest.raises(InputError, match="has a corpus"):
        task_for(corpus, "pairs --candidates 7")


def test_an_interval_is_that_of_the_mean_over_domains():
    """A small domain that is always right and a large one that is always wrong: half, not the share of all queries."""
    data, embed = pairs(120)
    data.domains, data.domain_names = (np.arange(120) % 10 > 0).astype(int), ["small", "large"]
    embed.vectors["text_b"] = np.where((data.domains == 0)[:, None], embed.vectors["text"], -embed.vectors["text"])
    found = task_for(data, "bitext").evaluate(embed, "test")
    assert found.primary == pytest.approx(0.5)
    interval = found.bootstrap()
    assert interval.mean == pytest.approx(0.5)
    assert interval.bounds[0] < 0.5 < interval.bounds[1]


# -- code search and bitext --------------------------------------------------------------------------------------------


def test_code_search_is_one_way_by_mrr_within_a_language():
    data, embed = pairs()
    assert task_for(data, "code-search").evaluate(embed, "test").primary_name == "mrr"
    task = task_for(by_two(data), "code-search --candidates 6")
    found = task.evaluate(embed, "test")
    assert found.primary == pytest.approx(np.mean([found.domains[name]["mrr"] for name in ("de", "fr")]))
    assert [search.name for search in task.asked(task.searches("test"))] == ["text → text_b, de", "text → text_b, fr"]
    assert {count["gallery"] for count in found.counts.values()} == {6}
    assert 0 < task.chance("test").primary < found.primary
    whole, both = (task_for(by_two(data), name) for name in ("code-search --candidates all", "bitext"))
    whole, both = (task.evaluate(embed, "test") for task in (whole, both))
    assert [one["gallery"] for one in whole.counts.values()] == [one["gallery"] for one in both.counts.values()]
    assert all(count["gallery"] > 6 for count in whole.counts.values())


def test_bitext_is_the_mean_of_both_ways():
    data, embed = pairs()
    found = task_for(by_two(data), "bitext").evaluate(embed, "test")
    ways = [found.directions[f"{a} → {b}, {name}"]["hit@1"] for name in ("de", "fr")
            for a, b in (("text", "text_b"), ("text_b", "text"))]  # fmt: skip
    assert found.primary == pytest.approx(np.mean(ways))
    assert found.domains["de"]["hit@1"] == pytest.approx(np.mean(ways[:2]))


@pytest.mark.parametrize("margin", ["none", "distance", "ratio"])
def test_margins_equal_the_loop_of_the_paper(margin):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 4)), rng.normal(size=(11, 4))
    source = VectorScorer(x, y)
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    expected = np.zeros((9, 11))
    for i in range(9):
        for j in range(11):
            near_x = sorted((float(x[i] @ y[m]) for m in range(11)), reverse=True)[:3]
            near_y = sorted((float(x[m] @ y[j]) for m in range(9)), reverse=True)[:3]
            mean = sum(near_x) / 6 + sum(near_y) / 6
            c = float(x[i] @ y[j])
            expected[i, j] = {"none": c, "distance": c - mean, "ratio": c / max(mean, 1e-6)}[margin]
    found = MarginScorer(source, margin, 3)
    tile = found.tile(slice(2, 9), slice(1, 11))
    assert np.allclose(tile, expected[2:, 1:], atol=1e-5)
    assert torch.equal(Turned(source).tile(slice(0, 4), slice(2, 5)), source.tile(slice(2, 5), slice(0, 4)).T)


def test_margins_at_the_edge():
    one = VectorScorer(np.ones((1, 2)), np.ones((1, 2)))
    assert MarginScorer(one, "ratio", 4).tile(slice(0, 1), slice(0, 1)).item() == pytest.approx(1)
    assert mean_of_nearest(one, 4).tolist() == [1]
    zero = VectorScorer(np.zeros((2, 2)), np.zeros((3, 2)))
    assert MarginScorer(zero, "ratio", 2).tile(slice(0, 2), slice(0, 3)).abs().sum() == 0
    opposite = margin_scores(torch.tensor([[-1.0]]), torch.tensor([-1.0]), torch.tensor([-1.0]), "ratio")
    assert opposite.isfinite().all()
    assert opposite < 0


def test_a_margin_takes_hubs_down():
    """One sentence lies near to all others: the cosine takes it for most translations, the margin for its own alone."""
    rng = np.random.default_rng(0)
    data, embed = pairs(90)
    rows = data.splits["test"]
    z = rng.normal(size=(90, 8))
    noisy = z + 0.9 * rng.normal(size=z.shape)
    hub = rows[0]
    noisy[hub] = z[hub] = z[rows].mean(0)
    embed = Vectors({"text": z, "text_b": noisy + 2 * z[rows].mean(0)})
    plain, ratio = (task_for(data, f"bitext --margin {m}").evaluate(embed, "test").primary for m in ("none", "ratio"))
    assert ratio > plain
    assert "margin (ratio)" in task_for(data, "bitext --margin ratio").describe()


# -- graded pairs ------------------------------------------------------------------------------------------------------


def test_whitened_vectors_are_those_of_the_training_rows_made_white():
    """Mean, covariance and its root number by number; the second side takes those of the first."""
    data, embed = pairs(90, scores=np.random.default_rng(3).normal(size=90))
    data.roles["score"] = "grade"
    train, test = data.splits["train"], data.splits["test"]
    z = embed.vectors["text"][train]
    mean = z.mean(0)
    covariance = sum(np.outer(row - mean, row - mean) for row in z) / len(z)
    values, u = np.linalg.eigh(covariance)
    root = sum(np.outer(u[:, k], u[:, k]) / np.sqrt(values[k]) for k in range(8))
    a, b = ((embed.vectors[role][test] - mean) @ root for role in ("text", "text_b"))
    cosine = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)]
    task = task_for(data, "sts --whiten true")
    found = task.evaluate(embed, "test")
    assert found.metrics["spearman"] == pytest.approx(spearman(np.array(cosine), data.scores[test]))
    assert "whitened by those of the training rows" in task.describe()
    plain = task_for(data, "sts").evaluate(embed, "test")
    assert plain.metrics["spearman"] == pytest.approx(spearman(cosines(embed, test), data.scores[test]))
    assert plain.metrics["spearman"] != found.metrics["spearman"]
    moved = {role: 3 * x + np.arange(8) for role, x in embed.vectors.items()}
    again = task.evaluate(Vectors(moved), "test")
    assert again.metrics["spearman"] == pytest.approx(found.metrics["spearman"]), "no shift or scale counts"


def test_biases_are_correlations_over_the_pairs_graded_lowest(tmp_path):
    """An encoder that sees the number of words alone, one that sees the first word, and one that sees nothing else."""
    rng, rows = np.random.default_rng(0), []
    for k in range(400):
        a, b = (" ".join(f"w{x}" for x in rng.integers(0, 12, rng.integers(2, 9))) for _ in range(2))
        rows.append((a, b, str(k % 4), "test" if k % 2 else "train"))
    (tmp_path / "pairs.csv").write_text("\n".join(",".join(row) for row in [("a", "b", "score", "split"), *rows]))
    data = nearfar.data(tmp_path / "pairs.csv", roles={"text": "a", "text_b": "b", "score": "score"})
    task = task_for(data, "sts --biases true")
    angle = {role: 0.1 * np.array([len(text.split()) for text in data.texts(role)]) for role in ("text", "text_b")}
    by_length = {role: np.stack([np.cos(x), np.sin(x)], 1) for role, x in angle.items()}
    found = task.evaluate(Vectors(by_length), "test").metrics
    assert found["length bias"] == pytest.approx(1, abs=0.06)
    assert "follows lengths and words" in task.describe()
    test = data.splits["test"]
    low = test[data.scores[test] == data.scores[test].min()]
    a, b = (data.texts(role, low) for role in ("text", "text_b"))
    surface = [1 - naive_distance(x.split(), y.split()) / max(len(x.split()), len(y.split())) for x, y in zip(a, b)]
    cosine = cosines(Vectors(by_length), low)
    assert found["surface bias"] == pytest.approx(abs(spearman(np.array(surface), np.array(cosine))), abs=0.02)
    words = {role: np.array([[sum(word == f"w{k}" for word in text.split()) for k in range(12)]
                             for text in data.texts(role)], float) for role in ("text", "text_b")}  # fmt: skip
    assert task.evaluate(Vectors(words), "test").metrics["surface bias"] > 0.4
    constant = {role: np.ones((len(data), 2)) for role in ("text", "text_b")}
    assert abs(task.evaluate(Vectors(constant), "test").metrics["length bias"]) < 1e-6
    assert "length bias" not in task_for(data, "sts").evaluate(Vectors(words), "test").metrics
    assert unrelated([0, 1, 1.01, 5]).tolist() == [True, True, False, False]
    assert unrelated([]).tolist() == []
    assert biases(["a", "b"], ["c", "d"], [0.1, 0.2], [0, 5]) == {}
    assert biases(["a", "b"], ["c", "d"], [0.1, 0.2], [5, 5]) == {}, "what is graded alike is not unrelated"


def test_directions_without_variance_are_left_out_of_whitening():
    data, embed = pairs(90, scores=np.random.default_rng(3).normal(size=90))
    data.roles["score"] = "grade"
    wide = {role: np.concatenate([x, np.full((90, 2), 4.0), x[:, :1]], 1) for role, x in embed.vectors.items()}
    found = task_for(data, "sts --whiten true").evaluate(Vectors(wide), "test")
    assert np.isfinite(found.metrics["spearman"])
    data.splits["train"] = data.splits["train"][:1]
    with pytest.raises(InputError, match=r"fewer than two training rows\. Leave out --whiten"):
        task_for(data, "sts --whiten true").evaluate(embed, "test")
