"""Tables as known data sets ship them open without any option."""

import csv
import json

import numpy as np
import pytest

import nearfar
from nearfar import evaluation
from nearfar.errors import InputError


def words(rng, count=6):
    return " ".join("".join(rng.choice(list("aeioubdfglm"), 5)) for _ in range(count))


def csv_of(path, columns, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def jsonl_of(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# -- CodeSearchNet -----------------------------------------------------------------------------------------------------


def original(rng, i, language, partition):
    """A row of the published JSONL files."""
    code = f"def f{i}(x):\n    {words(rng)}\n    return x"
    doc = words(rng)
    return {
        "repo": f"owner/repo{i}", "path": f"src/f{i}.py", "func_name": f"f{i}", "original_string": code,
        "language": language, "code": code, "code_tokens": code.split() * (1 + i % 60),
        "docstring": doc, "docstring_tokens": doc.split(), "sha": f"{i:040x}",
        "url": f"https://example.org/f{i}", "partition": partition,
    }  # fmt: skip


def packed(rng, i, language, partition):
    """A row of the copy that is read with `datasets`."""
    row = original(rng, i, language, partition)
    return {
        "repository_name": row["repo"], "func_path_in_repository": row["path"], "func_name": row["func_name"],
        "whole_func_string": row["original_string"], "language": language, "func_code_string": row["code"],
        "func_code_tokens": row["code_tokens"], "func_documentation_string": row["docstring"],
        "func_documentation_tokens": row["docstring_tokens"], "split_name": partition, "func_code_url": row["url"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("made", "text", "code", "split", "tokens"),
    [
        (original, "docstring", "code", "partition", "code_tokens"),
        (packed, "func_documentation_string", "func_code_string", "split_name", "func_code_tokens"),
    ],
)
def test_code_search_net(made, text, code, split, tokens, tmp_path):
    rng = np.random.default_rng(0)
    parts = ["train"] * 60 + ["valid"] * 20 + ["test"] * 40
    rows = [made(rng, i, ("python", "go")[i % 2], part) for i, part in enumerate(parts)]
    data = nearfar.data(jsonl_of(tmp_path / "code.jsonl", rows))
    assert {role: data.roles[role] for role in ("text", "text_b", "domain", "split")} == {
        "text": text, "text_b": code, "domain": "language", "split": split,
    }  # fmt: skip
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 60, "val": 20, "test": 40}
    assert not [name for name in data.table.column_names if name.startswith(f"{tokens}.")]  # long lists are one text
    assert data.values(tokens, [3])[0] == " ".join(rows[3][tokens])
    task = evaluation.task_for(data, "code-search")
    assert set(task.chance("test").domains) == {"python", "go"}
    assert nearfar.data(tmp_path / "code.jsonl").hash == data.hash


def test_a_text_that_stands_in_its_partner_is_told(tmp_path):
    rng = np.random.default_rng(0)
    rows = [original(rng, i, "python", "train") for i in range(40)]
    for row in rows[:30]:
        row["code"] = row["code"].replace("\n", f'\n    """{row["docstring"]}"""\n', 1)
    data = nearfar.data(jsonl_of(tmp_path / "code.jsonl", rows))
    (note,) = [one for one in data.notes if "word for word" in one]
    assert "75 % of the rows" in note
    plain = nearfar.data(jsonl_of(tmp_path / "plain.jsonl", [original(rng, i, "go", "train") for i in range(40)]))
    assert not any("word for word" in one for one in plain.notes)


def test_short_lists_stay_columns_and_bad_lines_are_told(tmp_path):
    rng = np.random.default_rng(0)
    rows = [{"text": words(rng), "tags": ["a", "b"], "tokens": ["t"] * 100} for _ in range(5)]
    path = jsonl_of(tmp_path / "t.jsonl", rows)
    assert set(nearfar.data(path).table.column_names) == {"text", "tags.0", "tags.1", "tokens", "__line__"}
    path.write_text(path.read_text() + "{broken\n" + json.dumps({"text": "the last one here", "tokens": []}) + "\n")
    with pytest.raises(InputError, match="line 6: this is not JSON"):
        nearfar.data(path)
    data = nearfar.data(path, unreadable="skip")
    assert len(data) == 6
    assert data.values("tokens", [5]) == [None]


# -- semantic textual similarity ---------------------------------------------------------------------------------------


def sts(rng, count=60):
    return [(f"{words(rng)} {i}", f"{words(rng)} {i}", f"{rng.random() * 5:.3f}") for i in range(count)]


def test_sts_benchmark(tmp_path):
    rows = sts(np.random.default_rng(0))
    data = nearfar.data(csv_of(tmp_path / "stsb.csv", ["sentence1", "sentence2", "score"], rows))
    assert {role: data.roles[role] for role in ("text", "text_b", "score")} == {
        "text": "sentence1", "text_b": "sentence2", "score": "score",
    }  # fmt: skip
    assert evaluation.task_for(data).kind == "sts"
    assert data.scores.tolist() == [float(row[2]) for row in rows]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (("one side alone", "", "3.2"), "column 'sentence2': the text is empty"),
        (("", "the other side", "3.2"), "column 'sentence1': the text is empty"),
        (("two sides here", "and no score", ""), "column 'score': the cell is empty"),
        (("two sides here", "and no number", "high"), "column 'score': 'high' is not a finite number"),
        (("two sides here", "beyond the scale", "51"), "column 'score': 51 is not within 0 to 5"),
        (("two sides here", "below the scale", "-1"), "column 'score': -1 is not within 0 to 5"),
    ],
)
def test_what_is_wrong_with_a_pair_is_told_or_counted(row, fault, tmp_path):
    rows = sts(np.random.default_rng(0))
    rows.insert(7, row)
    path = csv_of(tmp_path / "stsb.csv", ["sentence1", "sentence2", "score"], rows)
    with pytest.raises(InputError, match=f"stsb.csv, line 9: {fault}"):
        nearfar.data(path, {"score": "score"}, score_range=(0, 5))
    data = nearfar.data(path, {"score": "score"}, unreadable="skip", score_range="0,5")
    assert len(data) == 60
    assert [str(one).partition(": ")[2] for one in data.problems] == [fault]


def test_a_scale_needs_scores_and_two_ends(tmp_path):
    path = csv_of(tmp_path / "stsb.csv", ["sentence1", "sentence2", "score"], sts(np.random.default_rng(0)))
    with pytest.raises(InputError, match="score_range"):
        nearfar.data(path, score_range=(5, 0))
    with pytest.raises(InputError, match="--score COLUMN"):
        nearfar.data(path, {"score": None}, score_range=(0, 5))


# -- pair classification -----------------------------------------------------------------------------------------------


def judged(rng, values):
    return [(f"{words(rng)} {i}", f"{words(rng)} {i}", value) for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        (["question1", "question2", "is_duplicate"], (0, 1)),  # QQP
        (["sentence1", "sentence2", "label"], (0, 1)),  # PAWS
        (["sentence1", "sentence2", "label"], ("not_equivalent", "equivalent")),  # MRPC, read with names
        (["text", "text_b", "label"], ("no", "yes")),
        (["text_a", "text_b", "duplicate"], ("not duplicate", "duplicate")),
    ],
)
def test_pair_classification(columns, names, tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 200)
    data = nearfar.data(csv_of(tmp_path / "t.csv", columns, judged(rng, [names[i] for i in truth])))
    assert data.roles["pair_label"] == columns[2]
    assert data.pair_labels.tolist() == truth.tolist()
    task = evaluation.task_for(data, "pair-labels")
    task.check()
    assert task.chance("test").metrics["ap"] == pytest.approx(truth[data.splits["test"]].mean())


def test_three_labels_are_refused_with_their_counts(tmp_path):
    rng = np.random.default_rng(0)
    path = csv_of(tmp_path / "t.csv", ["text", "text_b", "label"], judged(rng, ["0", "1", "2"] * 20 + ["1"]))
    said = r"line 4: column 'label': '2' is not the label of a pair.*\(it holds '1' 21, '0' 20, '2' 20\) \(19 more"
    with pytest.raises(InputError, match=said):
        nearfar.data(path, {"pair_label": "label"})
    data = nearfar.data(path, {"pair_label": "label"}, unreadable="skip")
    assert len(data) == 41
    with pytest.raises(InputError, match="no row of 'label' is labelled 1"):
        nearfar.data(
            csv_of(tmp_path / "zero.csv", ["text", "text_b", "label"], judged(rng, ["0"] * 30)),
            {"pair_label": "label"},
        )
