"""Each wrong input gives an error that names file, row or column, and the mend."""

import gzip
import os
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nearfar import modalities
from nearfar.errors import InputError, NearfarError
from nearfar.sources import open_data
from nearfar.sources.storage import cache_dir, whole


def fails(spec, *parts, **options):
    with pytest.raises(InputError) as caught:
        open_data(spec, **options)
    for part in parts:
        assert str(part) in str(caught.value), f"{part!r} not in {caught.value}"


@contextmanager
def nobody():
    """Root may read everything: these tests give that up for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_wrong_path(tmp_path, image_folder):
    fails(tmp_path / "animal", "no file or folder", "Did you mean 'animals'?")
    fails("emojy", "Did you mean 'emoji'?")


def test_unreadable_image_in_the_middle(image_folder):
    whole_file = (image_folder / "cat" / "05.png").read_bytes()
    (image_folder / "cat" / "05.png").write_bytes(b"not an image")
    (image_folder / "dog" / "13.png").write_bytes(whole_file[: len(whole_file) // 2])
    (image_folder / "dog" / "15.png").write_bytes(b"")
    fails(image_folder, image_folder / "cat" / "05.png", "not an image", "2 more", "--unreadable skip")
    data = open_data(image_folder, unreadable="skip")
    assert len(data) == 17
    assert [p.file for p in data.problems] == [
        str(image_folder / f) for f in ("cat/05.png", "dog/13.png", "dog/15.png")
    ]
    assert "cut off" in data.problems[1].message
    assert "empty" in data.problems[2].message
    assert "cat/05.png" not in data.keys
    assert data.images("image", 6).shape == (17, 3, 6, 6)
    fails(image_folder, "not an image")  # still an error after a skip


def test_missing_image_of_a_table(image_folder, written, tmp_path):
    content = "image,text\nanimals/cat/00.png,a cat here\nanimals/cat/77.png,a lost cat\n"
    with pytest.raises(InputError, match=r"t\.csv, line 3: column 'image'.*77\.png.*no such file"):
        written("t.csv", content)
    assert len(open_data(tmp_path / "t.csv", unreadable="skip")) == 1


def test_no_row_left(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.png").write_bytes(b"?")
    fails(tmp_path / "x", "No row of", "a.png", unreadable="skip")


def test_empty_text(written, tmp_path):
    content = "text,label\nsome words,a\n  ,b\nmore words,b\n"
    with pytest.raises(InputError, match=r"t\.csv, line 3: column 'text': the text is empty"):
        written("t.csv", content)
    data = open_data(tmp_path / "t.csv", unreadable="skip")
    assert len(data) == 2
    assert data.problems[0].row == 3


def test_empty_file_in_a_folder_of_texts(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text("words")
    (tmp_path / "d" / "b.txt").write_text(" \n")
    fails(tmp_path / "d", tmp_path / "d" / "b.txt", "the text is empty")


def test_csv_without_the_column(written):
    with pytest.raises(
        InputError,
        match=r"no column 'captoin' for the role 'text'\. Did you mean 'caption'\?.*Columns: image_file, caption",
    ):
        written("t.csv", "image_file,caption\nx,y\n", roles={"text": "captoin"})
    with pytest.raises(InputError, match=rf"no column looks like {modalities.words()} \(columns: label, group\)"):
        written("n.csv", "label,group\nx,2\ny,4\n")


def test_unknown_role(written):
    with pytest.raises(InputError, match=r"no role 'lable'\. Did you mean 'label'\?"):
        written("t.csv", "text\nab cd\n", roles={"lable": "text"})


def test_one_class_only(tmp_path, image, written):
    for i in range(4):
        image(tmp_path / "p" / "only" / f"{i}.png", seed=i)
    data = open_data(tmp_path / "p")
    assert data.labels == {}
    assert "one class only" in data.notes[0]
    with pytest.raises(InputError, match=r"label column 'kind' holds one class only \('a'\)"):
        written("t.csv", "text,kind\none two,a\nthree four,a\n", roles={"label": "kind"})


def test_empty_folder_and_empty_files(tmp_path, written):
    (tmp_path / "void").mkdir()
    fails(tmp_path / "void", tmp_path / "void", "is empty")
    for name in ("t.csv", "t.txt", "t.jsonl"):
        with pytest.raises(InputError, match=name):
            written(name, "")
    with pytest.raises(InputError, match="no rows"):
        written("head.csv", "text,label\n")


def test_folder_of_other_things(tmp_path):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "a.zip").write_bytes(b"PK")
    fails(tmp_path / "o", "nothing that nearfar reads", "1 .zip")
    fails(tmp_path / "o" / "a.zip", "'.zip'")
    for name in ("a.csv", "b.csv"):
        (tmp_path / "o" / name).write_text("text\nab cd\n")
    fails(tmp_path / "o", "2 tables: a.csv, b.csv")


def test_a_single_image(image_folder):
    fails(image_folder / "cat" / "00.png", "Give its folder")


@pytest.fixture
def reachable():
    """A folder that all users may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_permission_denied(reachable, image):
    (reachable / "t.csv").write_text("text\nab cd\n")
    (reachable / "t.csv").chmod(0)
    (reachable / "shut").mkdir(mode=0o700)
    image(reachable / "open" / "a.png").chmod(0)
    (reachable / "cache").mkdir()
    (reachable / "cache").chmod(0o777)
    if os.geteuid() != 0:
        (reachable / "shut").chmod(0)
    with nobody():
        fails(reachable / "t.csv", reachable / "t.csv", "permission denied", cache=reachable / "cache")
        fails(reachable / "shut", reachable / "shut", "permission denied", cache=reachable / "cache")
        fails(reachable / "open", "a.png: permission denied", cache=reachable / "cache")
    (reachable / "shut").chmod(0o700)


def test_cache_that_cannot_be_written(reachable):
    closed = reachable / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    with nobody():
        for path in (closed, closed / "inner"):
            with pytest.raises(InputError, match=r"cache folder.*NEARFAR_CACHE"):
                cache_dir(path)
    (reachable / "file").write_text("")
    with pytest.raises(InputError, match="cache folder"):
        cache_dir(reachable / "file")


def test_ragged_line(written, tmp_path):
    with pytest.raises(InputError, match=r"t\.csv, line 3: the row has 3 fields, the header 2"):
        written("t.csv", "text,label\nab cd,a\nef, gh,b\nij kl,b\n")
    for _ in range(2):  # the second time from the cache
        data = open_data(tmp_path / "t.csv", unreadable="skip")
        assert [p.row for p in data.problems] == [3]
        assert data.keys == ["2", "4"]
    fails(tmp_path / "t.csv", "line 3")


def test_quotation_mark_left_open(written):
    with pytest.raises(InputError, match=r"t\.csv, line 3: .*quotation mark"):
        written("t.csv", 'text\nab cd\n"ef gh\nij kl\n')


def test_headers(written, image_folder):
    with pytest.raises(InputError, match=r"line 1: the column 'text' occurs more than once"):
        written("t.csv", "text,text\na b,c d\n")
    with pytest.raises(InputError, match="Add a line like image,text"):
        written("u.csv", "animals/cat/00.png,a cat\nanimals/cat/01.png,another cat\n")


@pytest.mark.parametrize(("content", "parts"), [
    ("text\nab\ncaf\u00e9\n".encode("latin-1"), ["t.csv, line 3", "not valid UTF-8", "iconv -f WINDOWS-1252"]),
    ("text\nab cd\n".encode("utf-16-le"), ["UTF-16"]),
])  # fmt: skip
def test_encodings(tmp_path, content, parts):
    (tmp_path / "t.csv").write_bytes(content)
    fails(tmp_path / "t.csv", *parts)


def test_bad_json(written, tmp_path):
    content = '{"text": "a b"}\n{"text": broken}\n[1]\n{"text": "c d"}\n'
    with pytest.raises(InputError, match=r"t\.jsonl, line 2: this is not JSON"):
        written("t.jsonl", content)
    data = open_data(tmp_path / "t.jsonl", unreadable="skip")
    assert [p.row for p in data.problems] == [2, 3]
    assert data.texts("text") == ["a b", "c d"]


def test_broken_parquet(written):
    with pytest.raises(InputError, match=r"t\.parquet is not a Parquet file"):
        written("t.parquet", b"PAR1 nothing")


def test_numbers_where_texts_should_be(tmp_path):
    datasets.Dataset.from_dict({"a": [1, 2], "text": ["a b", "c d"]}).to_parquet(str(tmp_path / "t.parquet"))
    fails(tmp_path / "t.parquet", "column 'a' holds int, not texts", roles={"text": "a"})


def test_odd_columns_of_parquet(tmp_path):
    path, texts = tmp_path / "t.parquet", pa.array(["a b", "c d"])
    pq.write_table(pa.table([texts, texts], names=["text", "text"]), path)
    fails(path, path, "the column 'text' occurs more than once")
    pq.write_table(pa.table({"text": texts, "__line__": [1, 2]}), path)
    fails(path, path, "the column name '__line__' is taken by nearfar", "Rename")
    pairs = pa.array([[("a", 1)], [("b", 2)]], pa.map_(pa.string(), pa.int64()))
    pq.write_table(pa.table({"m": pairs}), path)
    fails(path, path, "no column of a kind that is read: m (map")
    pq.write_table(pa.table({"m": pairs, "text": texts}), path)
    assert "left out: m (map" in open_data(path).notes[0]
    for metadata in (b"{", b"[]", b'{"info": {"features": {"text": {"_type": "Nothing"}}}}', b"\xff"):
        pq.write_table(pa.table({"text": texts}).replace_schema_metadata({b"huggingface": metadata}), path)
        data = open_data(path)
        assert data.texts("text") == ["a b", "c d"]
        assert "description of the columns that is stored with it is wrong" in data.notes[0]


def test_names_of_classes_in_parquet_are_used(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    given = datasets.Dataset.from_dict({"text": ["a b", "c d", "e f"], "label": [1, 0, -1]}, features=features)
    given.to_parquet(str(tmp_path / "t.parquet"))
    data = open_data(tmp_path / "t.parquet")
    assert data.label_names == {"label": ["no", "yes"]}
    assert data.labels["label"].tolist() == [1, 0, -1]


def test_nothing_is_fetched(tmp_path):
    """A bad row of a column of images with addresses is told without a connection."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.png"
        features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
        cells = {"image": [{"path": address, "bytes": None}] * 2, "text": ["a b", "c d"]}
        given = datasets.Dataset.from_dict(cells, features=features)
        pq.write_table(given.data.table, tmp_path / "t.parquet")
        (tmp_path / "t.csv").write_text(f"image,text\n{address},a b\n")
        for path in ("t.parquet", "t.csv"):
            fails(tmp_path / path, "nothing is downloaded")
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(("line", "said"), [
    ('{"text": ' + "[" * 50_000 + "]" * 50_000 + "}", "nested too deep"),
    ('{"text": ' + "9" * 5000 + "}", "a number has thousands of digits"),
    ('{"text": "x \\ud83d y"}', "'text' holds half of a character"),
    ('{"\\udc00": "x y"}', "holds half of a character"),
    (
        "{" + ", ".join(f'"tag{i}": "a"' for i in range(5000)) + "}",
        "it has 5000 values; at most 4000 are read",
    ),
])  # fmt: skip
def test_json_without_bounds(written, tmp_path, line, said):
    content = f'{{"text": "a b"}}\n{line}\n{{"text": "c d"}}\n'
    with pytest.raises(InputError, match=r"t\.jsonl, line 2: .*" + said):
        written("t.jsonl", content)
    data = open_data(tmp_path / "t.jsonl", unreadable="skip")
    assert data.texts("text") == ["a b", "c d"]
    assert [p.row for p in data.problems] == [2]
    with pytest.raises(InputError, match=r"t\.json.*" + said.removeprefix("'text' ")):
        written("t.json", f"[{line}]")


def test_no_number_in_json_is_an_empty_cell(written):
    data = written(
        "t.jsonl", '{"text": "a b", "label": NaN}\n{"text": "c d", "label": 1}\n{"text": "e f", "label": 2}\n'
    )
    assert data.labels["label"].tolist() == [-1, 0, 1]


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;\r"])
def test_a_separator_line(written, tmp_path, first):
    data = written("t.csv", f"{first}\ntext;label\na, b c;x\nd e f;y\n")
    assert data.texts("text") == ["a, b c", "d e f"]
    assert data.keys == ["3", "4"]
    with pytest.raises(InputError, match=r"u\.csv, line 4: the row has 1 field, the header 2"):
        written("u.csv", "sep=\t\ntext\tlabel\na\tb\nc\n")
    assert written("v.csv", "sep,text\nx,a b\ny,c d\n").texts("text") == ["a b", "c d"]


def test_names_of_columns_with_dots_and_dashes(written):
    data = written("t.csv", "my.text,--x\na b c,--p\nd e f,--q\n", roles={"text": "my.text", "label": "--x"})
    assert data.label_names == {"--x": ["--p", "--q"]}
    assert data.texts("text", [1]) == ["d e f"]
    assert data.describe()["content"]["text"]["distinct"] == 2


def test_a_packed_page_has_a_bound(tmp_path):
    (tmp_path / "m").mkdir()
    page = b".TH LS 1\n.SH NAME\nls \\- list things\n.SH DESCRIPTION\nMany words.\n"
    (tmp_path / "m" / "a.1").write_bytes(page)
    (tmp_path / "m" / "b.1.gz").write_bytes(gzip.compress(bytes(65 << 20)))
    fails(tmp_path / "m", "b.1.gz: it unpacks to more than 64 MiB")
    assert len(open_data(tmp_path / "m", unreadable="skip")) == 1


def test_a_wide_table_is_not_copied_for_each_column(written, monkeypatch):
    calls = []
    original = datasets.Features.__init__
    monkeypatch.setattr(datasets.Features, "__init__", lambda *a, **k: (calls.append(1), original(*a, **k))[1])
    names = [f"c{i}" for i in range(600)]
    lines = [",".join(["text", *names]), *(",".join([f"words number {r}", *["1"] * 600]) for r in range(3))]
    data = written("t.csv", "\n".join(lines))
    data.describe()
    assert len(data) == 3
    assert len(calls) < 100


QUERY, DOCUMENT = '{"_id": "q", "text": "t"}', '{"_id": "d", "text": "x"}'


@pytest.mark.parametrize(("corpus", "queries", "qrels", "parts"), [
    ('{"_id": "d"}', QUERY, "q\td\t1", ["corpus.jsonl, line 1"]),
    (f"{DOCUMENT}\n{DOCUMENT}", QUERY, "q\td\t1", ["line 2", "'d' occurs a second time"]),
    (DOCUMENT, QUERY, "q\te\t1", ["test.tsv, line 1", "'e' is not in corpus.jsonl"]),
    (DOCUMENT, QUERY, "q d 1", ["test.tsv, line 1", "separated by tabs"]),
    (DOCUMENT, QUERY, None, ["no qrels"]),
])  # fmt: skip
def test_bad_beir(tmp_path, corpus, queries, qrels, parts):
    folder = tmp_path / "b"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(corpus)
    (folder / "queries.jsonl").write_text(queries)
    if qrels:
        (folder / "qrels" / "test.tsv").write_text(qrels)
    fails(folder, *parts)


def test_odd_split_values(written):
    data = written("t.csv", "text,split\none two,train\nthree four,later\n")
    with pytest.raises(InputError, match=r"t\.csv, line 3.*'later' in the split column 'split'.*train, val and test"):
        assert data.splits
    data = written("u.csv", "text,split\none two,test\nthree four,test\n")
    with pytest.raises(InputError, match="no training rows"):
        assert data.splits


def test_odd_options(written):
    with pytest.raises(InputError, match="'error' or 'skip'"):
        written("t.csv", "text\nab cd\n", unreadable="ignore")
    with pytest.raises(InputError, match="'limit' must be a whole number of at least 1"):
        written("t.csv", "text\nab cd\n", limit=0)
    with pytest.raises(InputError, match="no role or column 'imag'"):
        written("t.csv", "text\nab cd\n").images("imag", 8)
    with pytest.raises(InputError, match="holds texts, not images"):
        written("t.csv", "text\nab cd\n").images("text", 8)


def test_a_huge_image(tmp_path, monkeypatch, image):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    image(tmp_path / "big" / "a.png", size=(20, 20))
    fails(tmp_path / "big", "a.png", "million pixels; scale it down")


def test_nothing_half_written(tmp_path):
    def stop_halfway():
        with whole(tmp_path / "out" / "file") as path:
            path.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        stop_halfway()
    assert list((tmp_path / "out").iterdir()) == []
    with whole(tmp_path / "out" / "file") as path:
        path.write_text("all")
    assert (tmp_path / "out" / "file").read_text() == "all"


def test_full_disk_says_so(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with (
        pytest.raises(NearfarError, match="No space left"),
        whole(tmp_path / "f"),
        open("/dev/full", "wb", buffering=0) as file,
    ):
        file.write(b"x")
    assert list(tmp_path.glob("*f*tmp")) == []
