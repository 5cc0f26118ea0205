import gzip
import json
import pickle

import datasets
import numpy as np
import pandas as pd
import pytest

from nearfar.errors import InputError
from nearfar.sources import export_beir, open_data


def test_class_folders_become_labels(image_folder):
    data = open_data(image_folder)
    assert len(data) == 20
    assert data.roles == {"image": "file", "label": ["label"], "id": "file"}
    assert data.label_names == {"label": ["cat", "dog"]}
    assert data.labels["label"].tolist() == [0] * 10 + [1] * 10
    assert data.keys[0] == "cat/00.png"
    assert data.images("image", 8).shape == (20, 3, 8, 8)


def test_flat_folder_has_no_labels(tmp_path, image):
    for i in range(4):
        image(tmp_path / "flat" / f"{i}.png", seed=i)
    (tmp_path / "flat" / "notes.pdf").write_text("no image")
    data = open_data(tmp_path / "flat")
    assert data.labels == {}
    assert data.groups is None
    assert "1 .pdf" in data.notes[0]


def test_split_folders(tmp_path, image):
    for i, place in enumerate(["train/a", "train/a", "train/b", "train/b", "valid/a", "valid/b", "test/a", "test/b"]):
        image(tmp_path / "parts" / place / f"{i}.png", seed=i)
    data = open_data(tmp_path / "parts")
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 4, "val": 2, "test": 2}
    assert data.label_names["label"] == ["a", "b"]


def test_pairs_take_paths_from_the_tables_folder(image_folder, written):
    lines = "".join(f"animals/{c}/{i:02d}.png,a {c} of number {i}\n" for c, i in [("cat", 1), ("dog", 11), ("dog", 12)])
    data = written("pairs.csv", "photo,caption\n" + lines)
    assert data.roles == {"image": "photo", "text": "caption"}
    assert data.texts("text") == ["a cat of number 1", "a dog of number 11", "a dog of number 12"]
    assert np.array_equal(data.images("image", 10), open_data(image_folder).images("image", 10, [1, 11, 12]))
    assert data.keys == ["2", "3", "4"]  # lines


def test_two_images_a_row(image_folder, written):
    data = written(
        "two.tsv", "left\tright\nanimals/cat/01.png\tanimals/cat/02.png\nanimals/dog/11.png\tanimals/cat/01.png\n"
    )
    assert data.roles == {"image": "left", "image_b": "right"}
    assert data.content("image")[0] == data.content("image_b")[1]
    assert data.content("image")[0] != data.content("image_b")[0]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_quotes_and_line_breaks(written, separator):
    rows = [["text", "text_b"], ['"a, b; c\td"', '"said ""hello"" there"'], ['"two\nlines"', "plain words"]]
    data = written("t.csv", "\n".join(separator.join(r) for r in rows) + "\n")
    assert data.texts("text") == ["a, b; c\td", "two\nlines"]
    assert data.texts("text_b") == ['said "hello" there', "plain words"]
    assert data.keys == ["2", "3"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_byte_order_marks(written, encoding):
    data = written("t.csv", "text,label\nün café,a\nπ r squared,b\nthird one,a\n".encode(encoding))
    assert data.texts("text") == ["ün café", "π r squared", "third one"]


def test_jsonl_with_lists_of_negatives(written):
    rows = [
        {"query": f"what is {i}", "positive": f"it is {i}", "negatives": ["no", f"never {i}"][: 1 + i % 2]}
        for i in range(6)
    ]
    data = written("t.jsonl", "\n".join(json.dumps(r) for r in rows))
    assert data.roles == {"text": "query", "text_b": "positive", "negative": ["negatives.0", "negatives.1"]}
    assert data.texts("negatives.1", [0, 1]) == ["", "never 1"]
    assert data.content("negatives.0")[0] == data.content("negatives.0")[1]


def test_json_array(written):
    assert written("t.json", '[{"text": "one two"}, {"text": "three four"}]').texts("text") == ["one two", "three four"]


def test_parquet_file_and_shards(tmp_path, image_folder):
    pixels = [(image_folder / "cat" / f"{i:02d}.png").read_bytes() for i in range(6)]
    frame = pd.DataFrame({"image": pixels, "kind": pd.Categorical(["a", "b", "a", "b", "a", "b"]), "number": range(6)})
    frame.to_parquet(tmp_path / "one.parquet")
    (tmp_path / "shards").mkdir()
    frame[:4].to_parquet(tmp_path / "shards" / "0.parquet")
    frame[4:].to_parquet(tmp_path / "shards" / "1.parquet")
    one = open_data(tmp_path / "one.parquet", roles={"label": "kind"})
    many = open_data(tmp_path / "shards", roles={"label": "kind"})
    assert one.labels["kind"].tolist() == many.labels["kind"].tolist() == [0, 1, 0, 1, 0, 1]
    assert np.array_equal(one.images("image", 8), many.images("image", 8))
    assert np.array_equal(one.digests("image"), open_data(image_folder).digests("image")[:6])


def test_lines_of_a_text_file(written):
    data = written("t.txt", "first passage\n\n  second passage \nthird one\n")
    assert data.texts("text") == ["first passage", "second passage", "third one"]
    assert data.keys == ["1", "3", "4"]


def test_folder_of_texts(tmp_path):
    for i in range(6):
        path = tmp_path / "docs" / ("news" if i % 2 else "poems") / f"{i}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of number {i}")
    data = open_data(tmp_path / "docs")
    assert data.roles == {"text": "text", "label": ["label"], "id": "file"}
    assert data.keys[0] == "news/1.md"
    assert data.texts("text", [0]) == ["text of number 1"]


PAGE = r""".\" a comment
.TH LS 1
.SH NAME
ls \- list directory contents
.SH SYNOPSIS
.B ls
[\fIOPTION\fR]...
.SH DESCRIPTION
List \(lqfiles\(rq in the
.BR current (1)
directory.
.TP
\fB\-a\fR
do not ignore entries
"""


def test_manual_pages(tmp_path):
    (tmp_path / "man1").mkdir()
    (tmp_path / "man1" / "ls.1").write_text(PAGE)
    with gzip.open(tmp_path / "man1" / "cp.1.gz", "wt") as file:
        file.write(PAGE.replace("ls", "cp").replace("list directory contents", "copy files"))
    mdoc = ".Dd today\n.Dt MV 1\n.Sh NAME\n.Nm mv\n.Nd move files\n.Sh DESCRIPTION\nMoves.\n"
    (tmp_path / "man1" / "mv.1").write_text(mdoc)
    (tmp_path / "man1" / "none.1").write_text(".SH OTHER\nno name line\n")
    (tmp_path / "man1" / "link.1").write_text(".so man1/ls.1\n")
    data = open_data(tmp_path / "man1")
    assert data.texts("text") == ["cp - copy files", "ls - list directory contents", "mv - move files"]
    body = data.texts("text_b")[1]
    assert 'List "files" in the current(1) directory.' in body
    assert "-a" in body
    assert "\\" not in body
    assert "list directory contents" not in body
    assert "1 pages without a NAME line and 1 that only point to another" in " ".join(data.notes)


def beir(path, qrels):
    (path / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{i}", "title": f"Title {i}", "text": f"document number {i}"} for i in range(8)]
    (path / "corpus.jsonl").write_text("\n".join(json.dumps(d) for d in documents))
    (path / "queries.jsonl").write_text("\n".join(json.dumps({"_id": f"q{i}", "text": f"query {i}"}) for i in range(5)))
    for name, pairs in qrels.items():
        lines = "".join(f"{q}\t{d}\t{s}\n" for q, d, s in pairs)
        (path / "qrels" / f"{name}.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    return path


def test_beir(tmp_path):
    qrels = {
        "train": [("q0", "d0", 1), ("q0", "d1", 2), ("q1", "d2", 0)],
        "dev": [("q2", "d3", 1)],
        "test": [("q3", "d4", 1)],
    }
    data = open_data(beir(tmp_path / "b", qrels))
    assert data.texts("text") == ["query 2", "query 3", "query 0", "query 0"]
    assert data.texts("text_b")[2] == "Title 0\ndocument number 0"
    assert {name: data.texts("query_id", rows) for name, rows in data.splits.items()} == {
        "train": ["q0", "q0"], "val": ["q2"], "test": ["q3"],
    }  # fmt: skip
    assert data.corpus_keys == {"text_b": [f"d{i}" for i in range(8)]}
    assert data.corpus["text_b"][2] == "Title 2\ndocument number 2"
    assert data.query_keys == ["q2", "q3", "q0", "q0"]
    assert data.grades.tolist() == [1, 1, 1, 2]
    assert any("1 pairs judged 0 or less left out" in note for note in data.notes)
    assert data.content("text_b")[2] == data.corpus_content("text_b")[0]


def test_beir_round_trip(tmp_path, written):
    pairs = written("t.csv", "text,text_b\n" + "".join(f"query {i // 2},answer number {i}\n" for i in range(12)))
    again = open_data(export_beir(pairs, tmp_path / "out"))
    assert {(q, d) for q, d in zip(again.texts("text"), again.texts("text_b"), strict=True)} == {
        (q, d) for q, d in zip(pairs.texts("text"), pairs.texts("text_b"), strict=True)
    }
    for name, rows in pairs.splits.items():
        assert sorted(again.texts("text_b", again.splits[name])) == sorted(pairs.texts("text_b", rows))
    with pytest.raises(InputError, match="exists"):
        export_beir(pairs, tmp_path / "out")


def test_saved_datasets(tmp_path, image_folder):
    files = sorted(str(p) for p in image_folder.rglob("*.png"))
    features = datasets.Features({"img": datasets.Image(), "kind": datasets.ClassLabel(names=["feline", "canine"])})
    one = datasets.Dataset.from_dict({"img": files, "kind": [0] * 10 + [1] * 10}, features=features)
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": one.select(range(14)), "test": one.select(range(14, 20))}).save_to_disk(
        str(tmp_path / "two")
    )
    data = open_data(tmp_path / "one", roles={"label": "kind"})
    assert data.roles["image"] == "img"
    assert data.label_names["kind"] == ["canine", "feline"]
    assert data.labels["kind"].tolist() == [1] * 10 + [0] * 10
    assert np.array_equal(data.digests("image"), open_data(image_folder).digests("image"))
    parts = open_data(tmp_path / "two").splits
    assert parts["test"].tolist() == list(range(14, 20))
    assert len(parts["val"]) == 2  # 15 % of the training rows: the dict has no validation part


def test_metadata_table_in_a_image_folder(image_folder):
    (image_folder / "metadata.csv").write_text("file_name,caption\ncat/00.png,a small cat\ndog/11.png,a small dog\n")
    data = open_data(image_folder)
    assert len(data) == 2
    assert data.roles == {"image": "file_name", "text": "caption"}


def test_the_users_roles_win_and_guesses_are_told(written):
    content = "title,body,kind\n" + "".join(f"title of {i},the body text of {i},k{i % 2}\n" for i in range(6))
    guessed = written("t.csv", content)
    assert guessed.roles == {"text": "title", "text_b": "body"}
    assert set(guessed.reasons) == {"text", "text_b"}
    told = written("t.csv", content, roles={"text": "body", "text_b": None, "label": "kind"})
    assert told.roles == {"text": "body", "label": ["kind"]}
    assert told.reasons["text"] == "you named it"
    assert told.hash != guessed.hash


def test_a_further_column_of_words_is_no_pair(written):
    rows = "".join(f"words of number {i},k{i % 2},a remark about {i}\n" for i in range(6))
    assert written("t.csv", "text,label,remark\n" + rows).roles == {"text": "text", "label": ["label"]}
    rows = "".join(f"words of number {i},other words {i}\n" for i in range(6))
    assert written("u.csv", "left,right\n" + rows).roles == {"text": "left", "text_b": "right"}


def test_pickled_data_find_their_pixels(image_folder):
    data = open_data(image_folder)
    pixels = data.images("image", 16)
    stored = pickle.dumps(data)
    assert np.array_equal(pickle.loads(stored).images("image", 16), pixels)


def test_tables_are_memory_mapped(written, cache):
    data = written("t.csv", "text\n" + "some words here\n" * 5000)
    assert data.table.cache_files
    assert str(cache) in data.table.cache_files[0]["filename"]


@pytest.mark.parametrize("role", ["unit", "id"])
def test_items_may_be_the_unit_or_the_id_of_their_rows_as_well(written, role):
    rows = "".join(f"query {i // 2},answer {i}\n" for i in range(20))
    column = "text_b" if role == "id" else "text"
    data = written("c.csv", "text,text_b\n" + rows, roles={role: column})
    assert data.roles == {"text": "text", "text_b": "text_b", role: column}


def test_a_column_of_numbers_that_is_a_unit_is_not_one_of_the_numbers(written):
    rows = "".join(f"{i // 4},{i * i % 7},{i % 5}\n" for i in range(40))
    assert written("n.csv", "vector,a,b\n" + rows, roles={"unit": "vector"}).roles["vector"] == ["a", "b"]


def test_groups_units_domains_and_missing_values(written):
    content = "text,group,domain,label\n" + "".join(
        f"words of {i},{'' if i == 5 else i // 2},d{i % 2},{'' if i == 1 else i % 2}\n" for i in range(6)
    )
    data = written("t.csv", content)
    assert data.groups.tolist() == [0, 0, 1, 1, 2, 3]
    assert data.units.tolist() == data.groups.tolist()
    assert data.domain_names == ["d0", "d1"]
    assert data.labels["label"].tolist() == [0, -1, 0, 1, 0, 1]


def test_hash_follows_content_roles_and_order(written):
    base = written("a.csv", "text,note\nfirst words,x\nsecond words,y\nthird words,z\n").hash
    assert written("b.csv", "text,note\nfirst words,x\nsecond words,y\nthird words,z\n").hash == base
    assert written("c.csv", "text,note\nsecond words,y\nfirst words,x\nthird words,z\n").hash != base
    assert written("d.csv", "text,note\nfirst words,x\nsecond words,y\nthird word,z\n").hash != base
    assert written("e.csv", "text,note\nfirst words,x\nsecond words,q\nthird words,z\n").hash != base


def test_a_changed_image_is_noticed(image_folder, image):
    before = open_data(image_folder)
    image(image_folder / "cat" / "03.png", seed=999, size=(13, 9))
    after = open_data(image_folder)
    assert before.hash != after.hash
    assert np.flatnonzero(before.digests("image") != after.digests("image")).tolist() == [3]
    with pytest.raises(InputError, match=r"changed since animals was opened: .*cat/03\.png"):
        before.images("image", 8)
    assert after.images("image", 8).shape == (20, 3, 8, 8)


@pytest.mark.parametrize("nothing", ["", " ", "NaN", "nan", "<NA>", "NaT"])
def test_words_that_programs_write_for_nothing_are_missing(written, nothing):
    rows = [f"words of {i},{nothing if i > 3 else 'ab'[i % 2]},{nothing if i > 3 else i // 2}\n" for i in range(8)]
    data = written("t.csv", "text,label,group\n" + "".join(rows))
    assert data.label_names == {"label": ["a", "b"]}
    assert data.labels["label"].tolist() == [0, 1, 0, 1, -1, -1, -1, -1]
    assert data.groups.tolist() == [0, 0, 1, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("word", ["None", "null", "NA", "N/A"])
def test_words_that_may_be_names_are_asked_about(written, word):
    rows = [f"words of {i},{word if i > 3 else i // 2}\n" for i in range(8)]
    data = written("t.csv", "text,group\n" + "".join(rows))
    assert data.groups[4:].tolist() == [data.groups[4]] * 4
    assert [note for note in data.notes if f"4 rows have '{word}' in the column 'group'" in note]


def test_whole_numbers_are_equal_as_floats_and_integers(tmp_path, written):
    """A column that lacks a value is written as floats: 1.0 of one split is the class 1 of the other."""
    for split, ending in (("train", ""), ("test", ".0")):
        rows = "".join(f"words of {split} {i},{i % 2}{ending}\n" for i in range(6))
        (tmp_path / "both").mkdir(exist_ok=True)
        (tmp_path / "both" / f"{split}.csv").write_text(f"text,label\n{rows}")
    data = open_data(tmp_path / "both")
    assert data.label_names == {"label": ["0", "1"]}
    assert data.labels["label"].tolist() == [0, 1] * 6
    mixed = written("m.jsonl", "".join(f'{{"text": "w of {n}", "group": {n}}}\n' for n in ("1", "1.0", "2")))
    assert mixed.groups.tolist() == [0, 0, 1]
    versions = written("v.csv", "text,label\n" + "".join(f"w of {i},{('1.0', '1', '1.5')[i % 3]}\n" for i in range(6)))
    assert versions.label_names == {"label": ["1", "1.0", "1.5"]}
    padded = written("p.csv", "text,label\n" + "".join(f"w of {i},{('7', '007')[i % 2]}\n" for i in range(6)))
    assert padded.label_names["label"] == ["007", "7"] or padded.label_names["label"] == ["7", "007"]


def test_a_document_may_have_a_title_alone(tmp_path):
    (tmp_path / "qrels").mkdir()
    documents = ['{"_id": 1, "title": "a title", "text": null}', '{"_id": "2", "title": "no text"}',
                 '{"_id": "3", "text": "a text"}', '{"_id": "4", "title": "both", "text": "of them"}']  # fmt: skip
    (tmp_path / "corpus.jsonl").write_text("\n".join(documents))
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "what is it"}')
    judged = "".join(f"q\t{i}\t1\n" for i in "1234")
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    assert open_data(tmp_path).corpus == {"text_b": ["a title", "no text", "a text", "both\nof them"]}
    (tmp_path / "corpus.jsonl").write_text('{"_id": "1", "title": ""}')
    with pytest.raises(InputError, match=r"corpus\.jsonl, line 1: no such object"):
        open_data(tmp_path)


@pytest.mark.parametrize("roles", [
    {"text": "text", "text_b": "text"}, {"text_b": "text_b", "negative": ["text_b"]},
    {"text": "text", "text_b": "text_b", "negative": ["other", "text"]},
])  # fmt: skip
def test_a_column_stands_on_one_side_alone(written, roles):
    with pytest.raises(InputError, match=r"the column '(text|text_b)' is both '"):
        written("t.csv", "text,text_b,other\n" + "".join(f"a {i} x,b {i} y,c {i} z\n" for i in range(6)), roles=roles)


def test_a_column_that_is_named_twice_counts_once(written):
    content = "text,text_b,other,label\n" + "".join(f"a {i} x,b {i} y,c {i} z,{i % 2}\n" for i in range(6))
    data = written("t.csv", content, roles={"negative": ["other", "other"], "label": ["label", "label"]})
    assert (data.roles["negative"], data.roles["label"]) == (["other"], ["label"])
