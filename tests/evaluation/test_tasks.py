"""Which task is chosen, and that each asks what it says."""

import json

import numpy as np
import pytest

from nearfar import modalities
from nearfar.errors import InputError
from nearfar.evaluation.embedding import DataEmbed
from nearfar.evaluation.tasks import parsed, task_for
from nearfar.evaluation.tasks.groups import GroupTask

from .tiny import Tiny, Vectors, some_images

TEXTS = ["a red cat", "a blue dog", "one green tree", "some old house"]


def drawings(**changes):
    """Three units of which the first has two groups, in three domains; row = domain * 4 + group."""
    return Tiny(
        {"image": some_images(12)},
        **(
            {
                "groups": np.tile(np.arange(4), 3),
                "units": np.tile([0, 0, 1, 2], 3),
                "domains": np.repeat(np.arange(3), 4),
                "domain_names": ["ink", "colour", "photo"],
                "meta": {"shared_outline": [["colour", "ink"]]},
            }
            | changes
        ),
    )


def test_the_choice():
    labels = {"kind": np.arange(4) % 2}
    assert task_for(Tiny({"text": TEXTS, "text_b": TEXTS}, labels=labels)).kind == "pairs"
    assert task_for(drawings()).kind == "groups"
    assert task_for(Tiny({"text": TEXTS}, labels=labels)).kind == "labels"
    assert task_for(Tiny({"text": TEXTS})).kind == "proxy"
    both = Tiny({"image": some_images(12), "text": TEXTS * 3}, groups=np.arange(12) % 4)
    assert task_for(both).kind == "pairs"
    assert task_for(both, "groups").kind == "groups"
    both.domains, both.domain_names = np.arange(12) // 6, ["a", "b"]
    assert task_for(both).kind == "groups"


def test_a_kind_that_the_data_lack():
    with pytest.raises(InputError, match="Possible here: proxy"):
        task_for(Tiny({"text": TEXTS}), "labels")
    with pytest.raises(InputError, match=f"no column of {modalities.words()}"):
        task_for(Tiny({"group": TEXTS}))


def test_an_empty_split():
    data = Tiny({"text": TEXTS}, splits={"train": np.arange(4), "val": np.arange(0), "test": np.arange(4)})
    with pytest.raises(InputError, match="'val' of tiny is empty"):
        task_for(data).searches("val")


def test_groups_across_domains():
    task = task_for(drawings())
    searches = task.searches("test")
    assert [search.name for search in searches] == [
        "ink → colour",
        "ink → photo",
        "colour → ink",
        "colour → photo",
        "photo → ink",
        "photo → colour",
    ]
    assert searches[1].query.rows.tolist() == [0, 2, 3]  # group 1 shares a unit with group 0: one a unit
    assert searches[1].gallery.rows.tolist() == [8, 10, 11]
    assert task.summary()["hard"] == ["ink → photo", "colour → photo", "photo → ink", "photo → colour"]


def test_chosen_directions():
    data = drawings(meta={"directions": {"test": [["photo", "ink"], ["photo", "colour"]]}})
    assert [search.name for search in task_for(data).searches("test")] == ["photo → ink", "photo → colour"]
    assert len(task_for(data).searches("val")) == 6


def test_directions_hard_mean_and_counts():
    z = np.tile(np.eye(4), (3, 1))
    z[8:] = np.eye(4)[[1, 2, 3, 0]]  # photos are all taken for another group
    embed = Vectors({"image": z})
    scores = task_for(drawings()).evaluate(embed, "test", examples=6)
    assert scores.directions["ink → colour"]["hit@1"] == 1
    assert scores.directions["ink → photo"]["hit@1"] == 0
    assert scores.primary == scores.metrics["hit@1"] == pytest.approx(2 / 6)
    assert scores.metrics["hard/hit@1"] == 0
    assert scores.counts["photo → ink"] == {"queries": 3, "skipped": 0, "gallery": 3}
    assert embed.asked == 9  # each row once, not once a direction
    assert scores.bootstrap().n == 3  # units, not 18 queries
    json.dumps(scores.to_dict())
    assert len(scores.examples) == 6
    for example in scores.examples:
        assert (example.rank == 1) == example.hits[0].relevant
        assert [hit.score for hit in example.hits] == sorted((hit.score for hit in example.hits), reverse=True)


def test_a_group_missing_in_a_domain_is_counted():
    data = drawings(
        groups=np.array([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 9]), units=np.array([0, 0, 1, 2, 0, 0, 1, 2, 0, 0, 1, 3])
    )
    scores = task_for(data).evaluate(Vectors({"image": np.tile(np.eye(4), (3, 1))}), "test")
    assert scores.counts["ink → photo"]["skipped"] == 1
    assert scores.counts["ink → colour"]["skipped"] == 0


def test_groups_without_domains_hide_copies_of_the_query():
    images = some_images(6)
    images[1] = images[0]
    data = Tiny({"image": images}, groups=np.array([0, 0, 0, 1, 1, 2]))
    z = np.eye(6)[[0, 0, 1, 2, 2, 3]] + 0.01
    scores = task_for(data).evaluate(Vectors({"image": z}), "test")
    counts = scores.counts["image → image"]
    assert (counts["queries"], counts["skipped"]) == (5, 1)  # group 2 has one member only
    assert scores.directions["image → image"]["hit@1"] < 1  # row 0 may not find its copy, row 1


def test_pairs_are_relevant_by_content():
    """The same question with two answers, the same answer to two questions, and further documents."""
    data = Tiny(
        {"text": ["q", "q", "r", "s"], "text_b": ["a", "b", "c", "c"]}, corpus={"text_b": ["a", "b", "c", "d", "e"]}
    )
    task = task_for(data)
    forward, back = task.searches("test")
    assert (len(forward.query.rows), forward.size, back.size) == (3, 5, 3)
    assert forward.relevant.counts.tolist() == [2, 1, 1]
    assert back.relevant.counts.tolist() == [1, 1, 2]
    z = {"text": np.eye(5)[[0, 0, 2, 2]], "text_b": np.eye(5)[[0, 0, 2, 2]]}
    scores = task.evaluate(Vectors(z, {"text_b": np.eye(5)[[0, 0, 2, 3, 4]]}), "test", examples=3)
    assert scores.primary_name == "ndcg@10"
    assert scores.primary == pytest.approx(1)
    assert set(scores.directions) == {"text → text_b", "text_b → text"}
    corpus = task.evaluate(Vectors(z, {"text_b": np.eye(5)[[0, 0, 2, 0, 2]]}), "test", examples=3)
    assert corpus.primary < 1  # documents of the corpus tie, and a tie never helps
    assert any(hit.corpus >= 0 and hit.row == -1 for example in corpus.examples for hit in example.hits)


def test_images_and_texts_are_asked_both_ways():
    data = Tiny({"image": some_images(4), "text": TEXTS})
    z = {"image": np.eye(4), "text": np.eye(4)[[0, 1, 3, 2]]}
    scores = task_for(data).evaluate(Vectors(z), "test")
    assert scores.primary_name == "hit@1"
    assert scores.primary == pytest.approx(0.5)
    assert set(scores.per_query) == {"image → text", "text → image"}


def labelled(n=90):
    generator = np.random.default_rng(0)
    labels = np.arange(n) % 3
    z = np.eye(3, 8)[labels] + 0.2 * generator.normal(size=(n, 8))
    rows = generator.permutation(n)
    data = Tiny(
        {"text": [f"text {row}" for row in range(n)]},
        labels={"kind": labels.copy()},
        splits={"train": rows[:50], "val": rows[50:70], "test": rows[70:]},
    )
    return data, z


@pytest.mark.parametrize("split", ["val", "test"])
def test_labels(split):
    data, z = labelled()
    data.labels["kind"][data.splits[split][:5]] = -1
    task = task_for(data)
    scores = task.evaluate(Vectors({"text": z}), split, examples=4)
    assert scores.metrics["knn"] == scores.primary > 0.9
    assert scores.metrics["probe"] > 0.9
    assert scores.metrics["map"] > 0.8
    assert scores.counts["kNN"]["queries"] == 15
    assert len(scores.examples) == 4
    fit, choose, test = task.probe_rows(split)
    assert not set(fit) & set(choose) | set(fit) & set(test) | set(choose) & set(test)


def test_one_class_only():
    data, z = labelled()
    data.labels["kind"][:] = 0
    with pytest.raises(InputError, match="one value only"):
        task_for(data).evaluate(Vectors({"text": z}), "test")


def test_proxy_finds_another_look_of_itself():
    data = Tiny({"image": some_images(20)})
    task = task_for(data)
    assert task.proxy
    assert "PROXY" in task.describe()
    flat = DataEmbed(data, lambda role, items: np.asarray(items, np.float32).reshape(len(items), -1) - 128)
    scores = task.evaluate(flat, "test", examples=2)
    assert 0.3 < scores.primary <= 1
    assert all(example.changed for example in scores.examples)


def test_proxy_of_texts():
    data = Tiny({"text": [f"alpha{i} beta{i} gamma{i} delta{i}" for i in range(10)]})
    letters = DataEmbed(data, lambda role, items: np.array([[text.count(c) for c in "0123456789"] for text in items]))
    assert task_for(data).evaluate(letters, "test").primary == 1


def test_queries_are_capped_the_same_way_each_time():
    data = drawings()
    task = GroupTask(data)
    task.max_queries = 2
    first, again = task.searches("test"), task.searches("test")
    assert [len(search.query.rows) for search in first] == [2] * 6
    assert len(first[0].gallery.rows) == 3
    assert all((a.query.rows == b.query.rows).all() for a, b in zip(first, again))


def test_groups_of_one_domain_each_are_searched_as_a_whole():
    """Documents of one language each, say."""
    data = drawings()
    data.domains, data.domain_names = np.repeat([0, 1], 6), ["de", "en"]
    data.groups = data.units = np.arange(12) // 2
    (search,) = task_for(data, "groups").searches("test")
    assert (len(search.query.rows), len(search.gallery.rows)) == (12, 12)
    assert "same group" in task_for(data, "groups").describe()
    assert GroupTask.priority(data) < GroupTask.priority(drawings())


def test_options_of_a_task_may_be_quoted():
    name, given = parsed("compositions --read prompts --template 'one {attribute} {object}'")
    assert (name, given) == ("compositions", {"read": "prompts", "template": "one {attribute} {object}"})
    with pytest.raises(InputError, match="Close its quotes"):
        parsed("compositions --template 'a {attribute}")
    with pytest.raises(InputError, match="Unknown task ''"):
        parsed(" ")
