"""Columns that say whether, or how far, the two sides of a row belong together."""

import datasets
import numpy as np
import pytest

import nearfar
from nearfar.errors import InputError
from nearfar.sources import judgements


def opened(tmp_path, columns, rows, **more):
    path = tmp_path / "t.jsonl"
    import json

    path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
    return nearfar.data(path, **more)


def pairs(values):
    return [(f"first text {i}", f"second text {i}", value) for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("columns", "values", "wanted"),
    [
        (("question1", "question2", "is_duplicate"), [0, 1] * 6, [0, 1]),
        (("question1", "question2", "is_duplicate"), ["0", "1"] * 6, [0, 1]),
        (("question", "answer", "label"), [1, 0] * 6, [1, 0]),
        (("sentence1", "sentence2", "label"), [1.0, 0.0] * 6, [1, 0]),
        (("text", "text_b", "label"), [True, False] * 6, [1, 0]),
        (("text_a", "text_b", "pair_label"), ["yes", "no"] * 6, [1, 0]),
        (("premise", "hypothesis", "gold_label"), ["entailment", "neutral", "contradiction", "-"] * 3, [1, 0, 0, -1]),
        (("premise", "hypothesis", "label"), ["Entailment", "not_entailment", "non-entailment", ""] * 3, [1, 0, 0, -1]),
        (("premise", "hypothesis", "label"), [0, 1, 2, -1] * 3, [1, 0, 0, -1]),
    ],
)
def test_labels_of_pairs(tmp_path, columns, values, wanted):
    data = opened(tmp_path, columns, pairs(values))
    assert data.roles["pair_label"] == columns[2]
    assert "label" not in data.roles
    assert data.pair_labels.tolist() == (wanted * 12)[:12]
    assert data.positives.tolist() == [value == 1 for value in data.pair_labels]
    assert any(f"'{columns[2]}' is read as the label of the pair" in note for note in data.notes)


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        (("text", "label"), [0, 1] * 6),  # one column of texts: classes
        (("title", "body", "label"), [0, 1] * 6),  # a text and its title: classes more likely
        (("question", "answer", "label"), ["sport", "politics"] * 6),
        (("question", "answer", "label"), [0, 1, 2] * 4),
    ],
)
def test_classes_are_no_labels_of_pairs(tmp_path, columns, values):
    rows = pairs(values) if len(columns) == 3 else [(a, value) for a, _, value in pairs(values)]
    data = opened(tmp_path, columns, rows)
    assert "pair_label" not in data.roles
    assert data.roles["label"] == ["label"]
    asked = any("--pair-label label" in note for note in data.notes)
    assert asked == (columns[0] == "title"), "what is not clear is asked"


def test_a_class_that_the_user_names_stays_one(tmp_path):
    data = opened(tmp_path, ("question", "answer", "label"), pairs([0, 1] * 6), roles={"label": "label"})
    assert "pair_label" not in data.roles
    none = opened(tmp_path, ("question", "answer", "is_duplicate"), pairs([0, 1] * 6), roles={"pair_label": None})
    assert none.pair_labels is None
    assert none.positives is None


def test_names_of_numbers_count(tmp_path):
    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["entailment", "not_entailment"]),
        }
    )
    rows = {
        "question": [f"q {i} is it" for i in range(8)],
        "sentence": [f"s {i} it is" for i in range(8)],
        "label": [0, 1] * 4,
    }
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "qnli"))
    data = nearfar.data(tmp_path / "qnli", roles={"text": "question", "text_b": "sentence", "pair_label": "label"})
    assert data.pair_labels.tolist() == [1, 0] * 4, "0 is called entailment"


@pytest.mark.parametrize(
    ("columns", "values", "role"),
    [
        (("sentence1", "sentence2", "score"), [0.5, 5, 3.2, 1], "score"),
        (("sentence1", "sentence2", "score"), ["0.5", "5.0", "3.2", "1"], "score"),
        (("text", "text_b", "similarity_score"), [10, 40, 99, 3], "score"),
        (("sentence1", "sentence2", "label"), [0.5, 5.0, 3.25, 1.0], "score"),
        (("sentence1", "sentence2", "score"), [120, 4, 7, 3000], None),  # votes
        (("title", "body", "score"), [1, 2, 5, 4], None),  # stars
    ],
)
def test_scores_of_pairs(tmp_path, columns, values, role):
    data = opened(tmp_path, columns, pairs(values * 3))
    assert data.roles.get("score") == (columns[2] if role else None)
    if role:
        assert data.scores.tolist() == [float(v) for v in values * 3]
        assert data.positives.tolist() == (data.scores >= data.scores.min() + 0.8 * np.ptp(data.scores)).tolist()
        assert any("Spearman" in note for note in data.notes)


@pytest.mark.parametrize(
    ("role", "column", "values", "told"),
    [
        (
            "pair_label",
            "is_duplicate",
            [1, 0, 1, 0, 3],
            r"line 5: column 'is_duplicate': '3' is not the label of a pair",
        ),
        ("pair_label", "is_duplicate", ["1", "0", "maybe", "1", "0"], r"line 3: column 'is_duplicate': 'maybe'"),
        ("score", "score", [1.5, 2, "high", 4, 5], r"line 3: column 'score': 'high' is not a finite number"),
        ("score", "score", [1.5, 2, 3, None, 5], r"line 4: column 'score': the cell is empty"),
        ("score", "score", ["1.5", "nan", "3", "inf", "5"], r"line 2: column 'score': 'nan' is not a finite .*1 more"),
    ],
)
def test_bad_values_are_named_or_counted(tmp_path, role, column, values, told):
    columns = ("sentence1", "sentence2", column)
    values = [str(v) if v is not None else None for v in values] if any(isinstance(v, str) for v in values) else values
    with pytest.raises(InputError, match=told):
        opened(tmp_path, columns, pairs(values), roles={role: column})
    data = opened(tmp_path, columns, pairs(values), roles={role: column}, unreadable="skip")
    assert len(data) + len(data.problems) == len(values)
    assert len(data.problems) == (2 if "inf" in values else 1)


def test_a_column_with_few_bad_values_is_not_quietly_ignored(tmp_path):
    """The guess by name stands where most values are labels; the others are told, not trained on as pairs."""
    with pytest.raises(InputError, match="line 12"):
        opened(tmp_path, ("question1", "question2", "is_duplicate"), pairs([0, 1] * 5 + [1, 7]))


def test_what_says_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="needs two columns"):
        opened(tmp_path, ("text", "note"), [(f"text {i}", i) for i in range(6)], roles={"score": "note"})
    with pytest.raises(InputError, match="in every row"):
        opened(tmp_path, ("text", "text_b", "score"), pairs([3.0] * 6), roles={"score": "score"})
    with pytest.raises(InputError, match="labelled 1"):
        opened(tmp_path, ("text", "text_b", "is_duplicate"), pairs([0] * 6))


def test_ids_are_equal_across_columns_and_the_corpus_and_unknown_where_empty(tmp_path):
    rows = [(f"question {i}", f"answer {i % 3}", "answer 1" if i % 2 else "") for i in range(8)]
    rows[5] = ("ANSWER  2", *rows[5][1:])
    data = opened(tmp_path, ("text", "text_b", "negative"), rows)
    a, b, c = (data.content(column) for column in ("text", "text_b", "negative"))
    assert min(a.min(), b.min()) >= 0
    assert a[5] == b[2], "case and blanks do not count"
    assert c.tolist() == [b[1] if i % 2 else -1 for i in range(8)]
    everything = np.unique(np.concatenate([a, b, c[c >= 0]]))
    assert everything.tolist() == sorted(everything.tolist())
    assert everything.max() < 3 * len(data)
    assert (data.digests("text") < 0).any(), "hashes of any sign stay what splits and caches are made of"


@pytest.mark.parametrize("value", [1, "1", 1.0, "1.0", True, "true", "Yes", " duplicate ", "Entailment"])
def test_words_for_one(value):
    assert judgements.pair_label(value) == 1


@pytest.mark.parametrize("value", [None, "", "-", -1, "-1", -1.0, float("nan"), "None"])
def test_words_for_nothing(value):
    assert judgements.pair_label(value) == -1


@pytest.mark.parametrize("value", [2, "2", 0.5, "perhaps", [1], {"a": 1}])
def test_words_for_neither(value):
    assert judgements.pair_label(value) is None


def test_scores_become_cosines():
    assert judgements.scaled(np.array([0.0, 2.5, 5.0])).tolist() == [0, 0.5, 1]
    assert judgements.scaled(np.array([-0.5, 1.0])).tolist() == [-0.5, 1.0], "cosines stay"
