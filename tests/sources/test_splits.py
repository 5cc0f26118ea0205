import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.sources import open_data
from nearfar.sources.splits import SHARES, assign, components, standard_name


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 5), st.data())
def test_nothing_shared_straddles(rows, seed, draw):
    columns = [np.array(draw.draw(st.lists(st.integers(0, 30), min_size=rows, max_size=rows))) for _ in range(2)]
    split = assign(components(columns), columns[0].astype(np.int64), seed, SHARES)
    assert sorted(np.concatenate(list(split.values())).tolist()) == list(range(rows))
    for column in columns:
        parts = [set(column[r].tolist()) for r in split.values()]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]


def naive_components(columns):
    n = len(columns[0])
    group = list(range(n))
    changed = True
    while changed:
        changed = False
        for i in range(n):
            for j in range(n):
                if group[i] != group[j] and any(c[i] == c[j] for c in columns):
                    group[i] = group[j] = min(group[i], group[j])
                    changed = True
    return group


def test_components_against_a_loop():
    rng = np.random.default_rng(3)
    columns = [rng.integers(0, 14, 20), rng.integers(0, 40, 20)]
    found, expected = components(columns), naive_components(columns)
    for i in range(20):
        for j in range(20):
            assert (found[i] == found[j]) == (expected[i] == expected[j])


def test_shares_and_order():
    mark = np.arange(200, dtype=np.int64)
    split = assign(mark, mark, 0, SHARES)
    assert [len(split[n]) for n in SHARES] == [140, 30, 30]
    order = np.random.default_rng(0).permutation(200)
    moved = assign(np.unique(mark[order], return_inverse=True)[1], mark[order], 0, SHARES)
    for name in SHARES:
        assert set(mark[order][moved[name]]) == set(split[name])
    assert not np.array_equal(assign(mark, mark, 1, SHARES)["test"], split["test"])


def test_equal_texts_stay_together(written):
    content = "text,text_b\n" + "".join(
        f"question {i // 3},  Answer {'X' if i % 2 else 'x'} {i // 2} \n" for i in range(60)
    )
    data = written("t.csv", content)
    for role in ("text", "text_b"):
        parts = [set(data.content(role)[r].tolist()) for r in data.splits.values()]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
    assert data.content("text_b")[0] == data.content("text_b")[1]  # case and blanks do not count
    assert data.leaks() == 0


def test_a_caption_that_all_share_does_not_swallow_the_split(tmp_path, image):
    lines = ["image,text"]
    for i in range(20):
        image(tmp_path / "p" / f"{i}.png", seed=i)
        lines.append(f"p/{i}.png,a photo of it")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    data = open_data(tmp_path / "t.csv")
    assert {n: len(r) for n, r in data.splits.items()} == {"train": 14, "val": 3, "test": 3}
    assert "may stand on both sides" in data.notes[-1]


@pytest.mark.parametrize("answer_first", [False, True])
def test_a_few_answers_to_many_questions_do_not_make_the_splits(written, answer_first):
    """20 answers to 400 questions: whole answers held out would leave three of them to be found."""
    rows = [(f"question number {i}", f"answer {'abcdefghijklmnopqrst'[i % 20]}") for i in range(400)]
    content = "text,text_b\n" + "".join(f"{b},{a}\n" if answer_first else f"{a},{b}\n" for a, b in rows)
    data = written("t.csv", content)
    assert {n: len(r) for n, r in data.splits.items()} == {"train": 280, "val": 60, "test": 60}
    answers, questions = (data.content(role) for role in (("text", "text_b") if answer_first else ("text_b", "text")))
    assert len(np.unique(answers[data.splits["test"]])) > 15
    assert not set(questions[data.splits["train"]]) & set(questions[data.splits["test"]])
    assert "may stand on both sides" in data.notes[-1]
    apart = written("t.csv", content, roles={"unit": "text" if answer_first else "text_b"})
    assert len(np.unique(answers[apart.splits["test"]])) == 3
    assert apart.leaks() == 0


def test_copies_of_a_image_stay_together(tmp_path, image):
    for i in range(30):
        image(tmp_path / "p" / f"{i:02d}.{'png' if i % 2 else 'bmp'}", seed=i // 2)
    data = open_data(tmp_path / "p")
    place = np.empty(30, int)
    for number, rows in enumerate(data.splits.values()):
        place[rows] = number
    assert (place[::2] == place[1::2]).all()


def test_split_column(written):
    rows = [f"words number {i},{'training' if i < 14 else 'dev' if i < 17 else 'Test'}" for i in range(20)]
    data = written("t.csv", "text,split\n" + "\n".join(rows) + "\nwords number 0,test\n")
    assert data.splits["val"].tolist() == [14, 15, 16]
    assert data.splits["test"].tolist() == [17, 18, 19, 20]
    assert data.leaks() == 1
    anew = written("t.csv", "text,split\n" + "\n".join(rows), roles={"split": None})
    assert anew.splits["test"].tolist() != [17, 18, 19]


def test_a_named_column_is_the_split(written):
    data = written(
        "t.csv",
        "text,fold\n" + "".join(f"words {i},{'test' if i > 15 else 'train'}\n" for i in range(20)),
        split="fold",
    )
    assert data.splits["test"].tolist() == [16, 17, 18, 19]
    assert len(data.splits["val"]) == 2
    assert set(data.splits["val"]) | set(data.splits["train"]) == set(range(16))


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_few_rows(written, rows):
    data = written("t.csv", "text\n" + "".join(f"words {i}\n" for i in range(rows)))
    sizes = [len(r) for r in data.splits.values()]
    assert sum(sizes) == rows
    assert rows < 3 or min(sizes) >= 1


def test_a_limit_is_spread_over_the_rows(written):
    data = written("t.csv", "text\n" + "".join(f"words {i}\n" for i in range(100)), limit=10)
    assert data.texts("text") == [f"words {i}" for i in range(0, 100, 11)]
    assert data.ids.tolist() == list(range(10))


@pytest.mark.parametrize(("name", "split"), [
    ("trainval", "train"), ("trainset", "train"), ("TestSet", "test"), ("valset", "val"), ("train_val", "train"),
    ("trainer", None), ("testimony", None),
])  # fmt: skip
def test_joined_names_of_splits(name, split):
    assert standard_name(name) == split
