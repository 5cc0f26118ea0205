"""The task `order`: its choices, fair ties, and that a model that sees no order gets exactly chance."""

import csv
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

import nearfar
from nearfar.captions import caption_words
from nearfar.errors import InputError
from nearfar.evaluation import references, task_for
from nearfar.evaluation.order import choices, fair_hits, macro_weights, relation_choice
from nearfar.word_classes import Rules

TAG = Rules([caption_words("a red dog left of a blue cat")])


def asked(text):
    return {one.test: one for one in choices(0, text, TAG, np.random.default_rng(0))}


def test_choices_of_a_caption():
    found = asked("A red dog left of a blue cat.")
    assert found["relation"].options == ("A red dog left of a blue cat.", "A blue cat left of a red dog.")
    assert found["relation"].group == "left of"
    assert found["attribution"].options[1] == "A blue dog left of a red cat."
    assert found["attribution"].group == "blue / red"
    order = found["order"]
    assert order.options[0] == "a red dog left of a blue cat"
    assert order.names[0] == "true"
    assert len(set(order.options)) == len(order.options)
    assert all(Counter(x.split()) == Counter(order.options[0].split()) for x in order.options)


@pytest.mark.parametrize("text", ["a dog", "dog", "", "a dog and a cat", "a dog next to a cat", "a dog on a dog"])
def test_no_relation(text):
    assert relation_choice(0, text, TAG) is None


def test_equal_attributes_and_single_words_ask_nothing():
    assert "attribution" not in asked("a red dog left of a red cat")
    assert asked("dog") == {}


def test_a_tie_counts_by_chance():
    assert fair_hits(np.array([1.0, 0.5])) == (1.0, False)
    assert fair_hits(np.array([0.5, 1.0])) == (0.0, False)
    assert fair_hits(np.zeros(5)) == (0.2, True)
    assert fair_hits(np.array([1.0, 1.0, 0.0])) == (0.5, True)
    assert fair_hits(np.array([0.3, 1.0, 1.0])) == (0.0, False)
    assert fair_hits(np.array([1.0, 1 + 1e-8])) == (0.5, True)


def test_a_relation_counts_as_much_as_another():
    weights = macro_weights(["on"] * 3 + ["under"])
    hits = np.array([1, 1, 0, 0])
    assert (weights * hits).mean() == pytest.approx((2 / 3 + 0) / 2)


@pytest.fixture
def scenes(tmp_path):
    rng, rows = np.random.default_rng(0), []
    for i in range(200):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        (a, b), (c, d) = (rng.permutation(x)[:2] for x in (["red", "blue"], ["dog", "cat", "cup", "tree"]))
        rows.append((f"{i}.png", f"a {a} {c} {rng.choice(['left of', 'above'])} a {b} {d}"))
    with open(tmp_path / "scenes.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    return nearfar.data(tmp_path / "scenes.csv")


class Words:
    """Texts by their words, and images that know their caption; with `order` by their pairs of words as well."""

    def __init__(self, data, order):
        self.data, self.order = data, order

    def items(self, role, texts):
        made = np.zeros((len(texts), 2048), np.float32)
        for i, text in enumerate(texts):
            found = text.lower().strip(".").split()
            found += [f"{a} {b}" for a, b in pairwise(found)] if self.order else []
            for word in found:
                made[i, sum(ord(c) * 31**k for k, c in enumerate(word)) % 2048] += 1
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    def __call__(self, role, rows):
        return self.items(role, self.data.texts("text", rows))


def test_a_bag_of_words_gets_exactly_chance_and_order_gets_all(scenes):
    task = task_for(scenes, "order", least=1)
    blind, seeing = task.evaluate(Words(scenes, False), "test"), task.evaluate(Words(scenes, True), "test")
    chance = references(scenes, task)[0].evaluate("test")
    assert blind.metrics["relation"] == pytest.approx(0.5)
    assert blind.metrics["attribution"] == pytest.approx(0.5)
    assert blind.metrics["ties"] == 1
    for name, value in chance.metrics.items():
        assert blind.metrics[name] == pytest.approx(value)
    assert 0.2 <= chance.metrics["order"] < 0.3
    assert seeing.metrics["accuracy"] == 1
    assert seeing.metrics["ties"] == 0
    assert seeing.primary == pytest.approx(np.mean([np.mean(x) for x in seeing.per_query.values()]))
    assert {row[0] for row in seeing.tables[1].rows} <= {"nouns and adjectives", "other words", "within trigrams",
                                                         "trigrams"}  # fmt: skip


def test_rare_attributes_are_left_out(scenes):
    task = task_for(scenes, "order", least=10_000)
    found = task.evaluate(Words(scenes, True), "test")
    assert "attribution" not in found.metrics
    assert found.counts["attribution"]["queries"] == 0


def test_captions_of_one_word_are_refused(tmp_path):
    for i in range(20):
        Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)).save(tmp_path / f"{i}.png")
    lines = [f"{i}.png,{'abcdefghijklmnopqrst'[i]}word" for i in range(20)]
    (tmp_path / "t.csv").write_text("\n".join(["image,caption", *lines]))
    data = nearfar.data(tmp_path / "t.csv", roles={"image": "image", "text": "caption"})
    with pytest.raises(InputError, match="can be put in another order"):
        task_for(data, "order").check()
    with pytest.raises(InputError, match="no folder of word classes"):
        task_for(data, "order", word_classes="nowhere")
