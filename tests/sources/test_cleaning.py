"""ALIGN's cleaning rules: each against a loop, and as a filter of data."""

import csv

import numpy as np
import pytest
from PIL import Image

from nearfar.errors import InputError
from nearfar.sources import open_data
from nearfar.sources.cleaning import AlignRules, dropped, partners, rare, rules_of


def test_each_rule_against_a_loop():
    rng = np.random.default_rng(0)
    n = 300
    sizes = rng.integers(50, 900, (n, 2))
    images = rng.integers(0, 40, n)
    texts = [" ".join(rng.choice(list("abcdefg"), rng.integers(1, 6))) for _ in range(n)]
    rules = AlignRules(texts=6, images=3, shortest=2, longest=4)
    found = list(dropped(rules, sizes, images, texts).values())
    for i in range(n):
        of_image = {texts[j] for j in range(n) if images[j] == images[i]}
        of_text = {images[j] for j in range(n) if texts[j] == texts[i]}
        words, (a, b) = len(texts[i].split()), sorted(sizes[i])
        expected = [a < 200, b > 3 * a, len(of_image) > 6, len(of_text) > 3, words < 2, words > 4, False]
        assert [bool(rule[i]) for rule in found] == expected


def test_texts_are_compared_by_their_words():
    sizes = np.full((3, 2), 300)
    found = dropped(AlignRules(images=2), sizes, np.arange(3), ["A red car!", "a RED car", "a red, car"])
    assert found["texts with more than 2 images"].all()
    assert partners(np.array([1, 1, 2]), np.array([5, 5, 6])).tolist() == [1, 1, 1]


def test_rare_words_and_pairs_of_words():
    texts = [["a", "b"]] * 3 + [["b", "a"], ["a", "z"]]
    assert rare(texts, 3).tolist() == [False] * 3 + [True, True], "a, b and 'a b' are the most frequent"
    assert not rare(texts, 100).any()


@pytest.fixture
def table(tmp_path):
    """Six images of 64 x 48 pixels; one is long, one text is short."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(6):
        side = (200, 48) if i == 5 else (64, 48)
        Image.fromarray(rng.integers(0, 255, (*side[::-1], 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        rows.append({"image": f"{i}.png", "text": "short" if i == 0 else f"an image of thing {i}"})
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "text"])
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "pairs.csv"


def test_rows_are_dropped_and_counted(table):
    whole, data = open_data(table), open_data(table, clean="align --short-side 32")
    assert len(data) == 4
    assert data.texts("text") == [f"an image of thing {i}" for i in range(1, 5)]
    assert any("cleaned: 4 of 6 rows are left" in note and "fewer than 3 words: 1" in note for note in data.notes)
    assert data.hash != whole.hash


def test_what_leaves_nothing_is_told(table):
    with pytest.raises(InputError, match="leave no row"):
        open_data(table, clean="align")
    with pytest.raises(InputError, match="images with texts"):
        open_data("functions", clean="align", limit=50)


@pytest.mark.parametrize("spec", ["alin", "", "align --short-sid 3", "align --aspect 0.5", 'align "'])
def test_wrong_rules(spec):
    with pytest.raises(InputError):
        rules_of(spec)
