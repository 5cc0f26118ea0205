"""Few-shot episodes and transport at inference: against loops, and the invariants of the card."""

import numpy as np
import pytest

from nearfar.errors import InputError
from nearfar.evaluation import episodes, few_shot, opta, soft_k_means, task_for, transport_plan
from nearfar.evaluation.fewshot import classified, logistic, nearest, standardised
from nearfar.evaluation.references import references


@pytest.fixture
def cloud():
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, 6)), rng.normal(size=(20, 6))


def naive_plan(cost, eps, rounds):
    kernel = np.exp(-cost / eps)
    n, m = cost.shape
    v = np.ones(m)
    for _ in range(rounds):
        u = 1 / n / (kernel @ v)
        v = 1 / m / (kernel.T @ u)
    return u[:, None] * kernel * v


def test_plan_equals_the_plain_iteration_and_keeps_its_marginals(cloud):
    cost = ((cloud[0][:, None] - cloud[1][None]) ** 2).sum(-1)
    cost /= cost.max()
    plan = transport_plan(cost, eps=0.1, tolerance=1e-12)
    np.testing.assert_allclose(plan, naive_plan(cost, 0.1, 3000), atol=1e-10)
    np.testing.assert_allclose(plan.sum(0), 1 / 20, atol=1e-9)
    np.testing.assert_allclose(plan.sum(1), 1 / 4, atol=1e-9)
    np.testing.assert_allclose(transport_plan(cost + 3, eps=0.1, tolerance=1e-12), plan, atol=1e-9)


def test_aligned_prototypes_are_means_of_queries(cloud):
    prototypes, queries = cloud
    moved = opta(prototypes, queries, passes=3)
    assert (moved <= queries.max(0) + 1e-9).all()
    assert (moved >= queries.min(0) - 1e-9).all()
    order = np.random.default_rng(1).permutation(20)
    np.testing.assert_allclose(opta(prototypes, queries[order], passes=3), moved, atol=1e-6)
    classes = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(opta(prototypes[classes], queries, passes=3), moved[classes], atol=1e-3)
    np.testing.assert_allclose(opta(7 * prototypes, 7 * queries, passes=3), 7 * moved, atol=1e-6)


def test_much_entropy_moves_every_prototype_to_the_mean(cloud):
    prototypes, queries = cloud
    np.testing.assert_allclose(opta(prototypes, queries, eps=1e4), np.tile(queries.mean(0), (4, 1)), atol=1e-3)


def test_equal_points_are_no_division_by_zero():
    same = np.ones((3, 2))
    np.testing.assert_allclose(opta(same, np.ones((6, 2))), same)


@pytest.mark.parametrize(("shots", "passes"), [(1, 1), (5, 3)])
def test_soft_k_means_in_loops(cloud, shots, passes):
    start, queries = cloud
    now = start.copy()
    for _ in range(passes):
        d = np.array([[((p - q) ** 2).sum() for q in queries] for p in now])
        sums, weight = shots * start, np.full(4, float(shots))
        for j, q in enumerate(queries):
            e = np.exp(-d[:, j] / d.max() / 0.1)
            sums = sums + (e / e.sum())[:, None] * q
            weight += e / e.sum()
        now = sums / weight[:, None]
    np.testing.assert_allclose(soft_k_means(start, queries, shots=shots, eps=0.1, passes=passes), now, atol=1e-10)
    both = soft_k_means(np.stack([start, 2 * start]), np.stack([queries, queries]), shots=shots, eps=0.1, passes=passes)
    np.testing.assert_allclose(both[0], now, atol=1e-10)


def test_soft_k_means_does_not_make_classes_equal():
    """Nine queries of the first class and one of the second: transport gives each half, soft k-means does not."""
    queries = np.array([[0.0, 0.1 * k] for k in range(9)] + [[10.0, 0.0]])
    means = np.array([[0.0, 0.0], [10.0, 0.0]])
    assert soft_k_means(means, queries, eps=0.01)[1, 0] == pytest.approx(10, abs=1e-6)
    assert opta(means, queries, eps=0.01)[1, 0] < 5
    for wrong in ({"shots": 0}, {"passes": 0}, {"eps": 0.0}):
        with pytest.raises(InputError, match="at least 1"):
            soft_k_means(means, queries, **wrong)
    for prototypes, points in ((means, queries[:, :1]), (means[:0], queries), (means, queries[:0])):
        with pytest.raises(InputError, match="do not fit"):
            soft_k_means(prototypes, points)
    with pytest.raises(InputError, match="must be finite"):
        soft_k_means(means, np.where(queries == 0, np.nan, queries))
    far = soft_k_means(means + 1e6, queries + 1e6, eps=0.01)
    np.testing.assert_allclose(far - 1e6, soft_k_means(means, queries, eps=0.01), atol=1e-6)


def test_keep_mixes_in_the_start(cloud):
    prototypes, queries = cloud
    moved = opta(prototypes, queries)
    np.testing.assert_allclose(opta(prototypes, queries, keep=0.3), 0.7 * moved + 0.3 * prototypes)


@pytest.mark.parametrize("given", [{"eps": 0}, {"passes": 0}, {"keep": 1.5}])
def test_wrong_options_of_transport(given, cloud):
    with pytest.raises(InputError):
        opta(*cloud, **given)


def test_episodes_are_seeded_disjoint_and_of_one_class_a_row():
    labels = np.repeat(np.arange(8), 12)
    labels[:3] = -1
    first, again = (list(episodes(labels, ways=5, shots=2, queries=4, count=7, seed=3)) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        assert (a.support == b.support).all()
        assert a.support.shape == (5, 2)
        assert a.query.shape == (5, 4)
        drawn = np.concatenate([a.support, a.query], 1)
        assert len(np.unique(drawn)) == drawn.size
        assert (labels[drawn] == labels[drawn[:, :1]]).all()
        assert len(np.unique(labels[drawn[:, 0]])) == 5
    assert any((a.support != first[0].support).any() for a in first[1:])


def test_too_few_items_say_what_is_missing():
    with pytest.raises(InputError, match="5 classes of at least 16 items; 2 of the 3"):
        list(episodes([0] * 20 + [1] * 20 + [2] * 3))


def test_separable_classes_are_told_apart_and_noise_is_not():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 30)
    apart = np.eye(6)[labels] * 5 + rng.normal(size=(180, 6)) * 0.1
    easy = few_shot(apart, labels, count=20)
    assert easy.plain.mean() > 0.99
    assert easy.aligned.mean() > 0.99
    noise = few_shot(rng.normal(size=(180, 16)), labels, count=60)
    assert 0.15 < noise.plain.mean() < 0.25
    low, high = noise.interval.low, noise.interval.high
    assert low is not None
    assert high is not None
    assert low < noise.plain.mean() < high


def test_transport_helps_biased_prototypes():
    """One shot from a wide class misses its centre; the queries show where it is."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 40)
    z = rng.normal(size=(5, 32))[labels] * 0.6 + rng.normal(size=(200, 32))
    found = few_shot(z, labels, count=60)
    assert found.aligned.mean() > found.plain.mean() + 0.05


def test_a_collapsed_encoder_scores_chance():
    assert few_shot(np.ones((100, 4)), np.repeat(np.arange(5), 20), count=3).plain.mean() == pytest.approx(0.2)


def test_standardised_ignores_scale_and_offset():
    z = np.random.default_rng(0).normal(size=(5, 9))
    np.testing.assert_allclose(standardised(3 * z + 2), standardised(z), atol=1e-6)
    assert (standardised(np.ones((2, 4))) == 0).all()


def test_many_tasks_at_once_equal_one_after_the_other():
    rng = np.random.default_rng(0)
    prototypes, queries = rng.normal(size=(6, 4, 5)), rng.normal(size=(6, 30, 5))
    together = opta(prototypes, queries, passes=2)
    for a, b, c in zip(prototypes, queries, together, strict=True):
        np.testing.assert_allclose(opta(a, b, passes=2), c, atol=1e-9)


def test_the_fit_in_the_span_of_the_prototypes_is_the_whole_fit():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    prototypes, queries = rng.normal(size=(5, 40)), rng.normal(size=(60, 40))
    whole = LogisticRegression(C=1.0, max_iter=1000).fit(prototypes, np.arange(5)).predict(queries)
    assert (logistic(prototypes, queries) == whole).mean() > 0.98


def test_told_apart_is_the_nearest_of_two():
    prototypes = np.array([[0.0, 0.0], [2.0, 0.0]])
    assert logistic(prototypes, np.array([[0.4, 5.0], [1.7, -3.0]])).tolist() == [0, 1]


def test_the_nearest_class_mean_of_every_episode():
    """Against loops; distances are of the vectors as they are, whose lengths count."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 12)
    z = rng.normal(size=(6, 4))[labels] + rng.normal(size=(72, 4)) * rng.uniform(0.3, 2, size=(72, 1))
    found = few_shot(z, labels, ways=4, shots=3, queries=5, count=20, classifier="nearest")
    told = []
    for one in episodes(labels, ways=4, shots=3, queries=5, count=20):
        means = [z[rows].mean(0) for rows in one.support]
        right = [min(range(4), key=lambda c: np.linalg.norm(z[row] - means[c])) == c
                 for c, rows in enumerate(one.query) for row in rows]  # fmt: skip
        told.append(np.mean(right))
    np.testing.assert_allclose(found.plain, told)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    assert (few_shot(unit, labels, ways=4, shots=3, queries=5, count=20, classifier="nearest").plain != told).any()
    noise = few_shot(rng.normal(size=(180, 16)), np.repeat(np.arange(6), 30), count=60, classifier="nearest")
    assert 0.15 < noise.plain.mean() < 0.25
    assert 0.15 < noise.aligned.mean() < 0.25
    flat = few_shot(np.ones((100, 4)), np.repeat(np.arange(5), 20), count=3, classifier="nearest")
    assert flat.plain.mean() == pytest.approx(0.2)
    with pytest.raises(InputError, match="'classifier' must be"):
        few_shot(z, labels, classifier="farthest")
    with pytest.raises(InputError, match="'transductive' must be"):
        few_shot(z, labels, transductive="magic")


def test_rows_without_a_label_take_the_nearest_class_mean_with_and_without_transport():
    rng = np.random.default_rng(1)
    z, queries, labels = rng.normal(size=(12, 3)), rng.normal(size=(9, 3)) + 1, np.repeat([4, 7, 9], 4)
    means = np.stack([z[labels == k].mean(0) for k in (4, 7, 9)])
    plain = classified(z, labels, queries, classifier="nearest", transport=False)
    assert plain.tolist() == [(4, 7, 9)[k] for k in nearest(means, queries)]
    moved = opta(means, queries, passes=1, keep=0.3)
    carried = classified(z, labels, queries, classifier="nearest")
    assert carried.tolist() == [(4, 7, 9)[k] for k in nearest(moved, queries)]


def test_the_task_tells_queries_apart_as_it_is_asked_to(emoji_few):
    """nearest takes the vectors as the model gives them."""

    class Long:
        def __init__(self, z):
            self.z = z

        def __call__(self, role, rows):
            return self.z[rows] / np.linalg.norm(self.z[rows], axis=1, keepdims=True)

        def raw(self, role, rows):
            return self.z[rows]

    labels = emoji_few.labels["subcategory"]
    z = np.abs(np.random.default_rng(0).normal(size=(len(labels), 1))) * [[1.0, 1.0]] + 9 * labels[:, None]
    options = {"ways": 3, "shots": (1,), "queries": 4, "episodes": 20}
    by_length = task_for(emoji_few, "few-shot", classifier="nearest", **options)
    assert by_length.evaluate(Long(z), "train").primary > 0.9
    assert "by the nearest class mean" in by_length.describe()
    assert task_for(emoji_few, "few-shot", **options).evaluate(Long(z), "train").primary < 0.6


def test_the_task_on_real_images(emoji_few):
    rival = task_for(emoji_few, "few-shot", ways=3, shots=(1,), queries=4, episodes=20, transductive="soft-k-means")
    assert "soft k-means on the queries" in rival.describe()
    assert set(rival.chance("train").metrics) == {"1-shot", "1-shot+soft-k-means"}
    task = task_for(emoji_few, "few-shot", ways=3, shots=(1,), queries=4, episodes=20)
    rows = {r.slug: r for r in references(emoji_few, task)}
    assert set(rows) == {"chance", "pixels", "hog"}
    assert rows["chance"].evaluate("train").primary == pytest.approx(1 / 3)
    scores = rows["pixels"].evaluate("train")
    assert scores.primary_name == "1-shot"
    assert set(scores.metrics) == {"1-shot", "1-shot+opta"}
    assert scores.primary == rows["pixels"].evaluate("train").primary
    assert scores.to_dict()["bootstrap"][0] < scores.primary < scores.to_dict()["bootstrap"][1]
    assert "classes" in task.describe()
    assert task.summary("test")["label"] == "1-shot accuracy"
    gain = scores.directions["3-way 1-shot, what opta adds"]
    assert gain["gain"] == pytest.approx(scores.metrics["1-shot+opta"] - scores.metrics["1-shot"])
    assert gain["low"] < gain["gain"] < gain["high"]
    five = task_for(emoji_few, "few-shot", ways=3, shots=(5,))
    assert five.summary("test")["label"] == "5-shot accuracy"


class Classes:
    """Splits that hold `sizes` items of each class; train holds further classes."""

    roles = {"image": "image", "label": ["kind"]}
    name, groups, domains, targets, meta = "things", None, None, None, {}

    def __init__(self, val, test):
        sizes = [40, 40, *val, *test]
        self.labels = {"kind": np.repeat(np.arange(len(sizes)), sizes)}
        cuts = np.cumsum([80, sum(val)])
        parts = np.split(np.arange(sum(sizes)), cuts)
        self.splits = dict(zip(("train", "val", "test"), parts, strict=True))

    def content(self, role):
        return np.arange(len(self.labels["kind"]))


def test_ways_are_as_many_as_are_held_out():
    assert task_for(Classes([30] * 7, [30] * 6), "few-shot").ways == 5
    assert task_for(Classes([30] * 7, [30, 30, 30, 19]), "few-shot").ways == 3
    assert task_for(Classes([30] * 7, [30, 30, 30, 19]), "few-shot", shots=(1,)).ways == 4
    assert task_for(Classes([30], [30] * 6), "few-shot", ways=5).ways == 5, "the user's own number stands"


def test_too_few_classes_held_out_are_told_before_anything_is_trained():
    with pytest.raises(InputError, match="1 of the 2 classes of val") as told:
        task_for(Classes([30, 12], [30] * 6), "few-shot")
    assert "--unit" in str(told.value)
