"""`pairs --shuffle`: parts of items in another order, and what it does to retrieval."""

from collections import Counter

import numpy as np
import pytest

import nearfar
from nearfar.errors import InputError
from nearfar.evaluation import task_for
from nearfar.evaluation.embedding import DataEmbed
from nearfar.evaluation.shuffles import Shuffle, shuffled_cells
from nearfar.word_classes import Rules


@pytest.mark.parametrize(("grid", "size"), [((4, 1), 8), ((1, 4), 9), ((3, 3), 11)])
def test_cells_change_places_whole(grid, size):
    image = np.random.default_rng(0).integers(1, 256, (3, size, size), dtype=np.uint8)
    made = shuffled_cells(image, *grid, np.random.default_rng(2))
    a, b = size // grid[0], size // grid[1]

    def cells(x):
        return Counter(
            x[:, i * a : i * a + a, j * b : j * b + b].tobytes() for i in range(grid[0]) for j in range(grid[1])
        )

    assert cells(made) == cells(image)
    assert not np.array_equal(made, image)
    assert not made[:, a * grid[0] :].any()
    assert not made[:, :, b * grid[1] :].any()


def test_a_image_smaller_than_its_cells_stays():
    image = np.ones((3, 2, 2), np.uint8)
    assert shuffled_cells(image, 3, 3, np.random.default_rng(0)) is image


@pytest.mark.parametrize("how", ["words", "nouns-and-adjectives", "other-words", "within-trigrams", "trigrams"])
def test_words_stay_and_each_row_has_its_order(how):
    text = "a red dog left of a blue cat, near the old tree"
    one = Shuffle(how, Rules())([text] * 6, np.arange(6))
    assert all(Counter(x.split()) == Counter(text.split()) for x in one)
    assert len(set(one)) > 1
    assert one[2:4] == Shuffle(how, Rules())([text] * 2, np.array([2, 3]))


def by_letters(role, items):
    """Texts by where each letter stands, images by where each pixel does: both know order."""
    if role == "image":
        return np.stack([x.reshape(-1) / 255 for x in items])
    made = np.zeros((len(items), 40, 128), np.float32)
    for row, text in enumerate(items):
        for place, letter in enumerate(text[:40].ljust(40)):
            made[row, place, ord(letter) % 128] = 1
    return made.reshape(len(items), -1)


def by_words(role, items):
    made = np.zeros((len(items), 512), np.float32)
    for row, text in enumerate(items):
        for word in text.split():
            made[row, hash(word) % 512] += 1
    return made


@pytest.fixture(scope="module")
def pairs(own_cache, tmp_path_factory):
    rng, rows = np.random.default_rng(0), ["question,answer"]
    names = ["fox", "owl", "oak", "fern", "bear", "rose", "moss", "whale", "crab", "seal"]
    for i in range(60):
        one = f"the {names[i % 10]} of {names[i // 10]} and {names[int(rng.integers(10))]} {i}"
        rows.append(f"{one},{one}!")
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    path.write_text("\n".join(rows) + "\n")
    return nearfar.data(path, roles={"text": "question", "text_b": "answer"})


def test_only_what_reads_order_loses(pairs):
    plain, shuffled = task_for(pairs, "pairs"), task_for(pairs, "pairs --shuffle words")
    for encode, loses in ((by_letters, True), (by_words, False)):
        embed = DataEmbed(pairs, encode)
        before, after = (task.evaluate(embed, "test").metrics["mrr"] for task in (plain, shuffled))
        assert (after < 0.8 * before) if loses else after == pytest.approx(before)
    assert "Of each text the words have changed places." in shuffled.describe()


def test_images_are_cut_and_the_report_shows_them(emoji_few):
    data = emoji_few
    task = task_for(data, "pairs --shuffle patches", modalities=["image", "text"])
    seen = []

    def watched(role, items):
        if role == "image":
            seen.append(np.asarray(items))
        return by_letters(role, items)[:, :3072]

    scores = task.evaluate(DataEmbed(data, watched), "test", examples=2)
    own = {x.tobytes() for x in data.images("image", 32, np.asarray(data.splits["test"]))}
    assert sum(x.tobytes() in own for part in seen for x in part) < 0.2 * sum(map(len, seen))
    assert any(example.changed for example in scores.examples)


def test_a_way_that_fits_no_column(pairs):
    with pytest.raises(InputError, match=r"has no image in its pairs whose rows could change places.*Ways.*trigrams"):
        task_for(pairs, "pairs --shuffle rows")
