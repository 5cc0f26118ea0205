"""Data in memory: whatever holds the rows, they are those of the csv; what cannot be rows is told with its mend."""

import io
import itertools
import pickle
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, IterableDataset, Sequence, Value
from PIL import Image

import nearfar
from nearfar import workers
from nearfar.errors import InputError
from nearfar.sources import open_data
from nearfar.sources.contents import content_digest
from nearfar.sources.storage import cache_dir
from nearfar.training.settings import DataSettings

ROWS = [{"text": f"what is thing {i}", "text_b": f"a thing of sort {i}", "label": "ab"[i % 2], "n": i, "part": i / 4}
        for i in range(36)]  # fmt: skip


class Capsule:
    """All that a frame of polars shows of itself: its columns over Arrow's C interface, texts as views."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


def views(table):
    return table.set_column(0, "text", table["text"].cast(pa.string_view()))


FORMS = {
    "records": lambda: ROWS,
    "dict": lambda: {name: [row[name] for row in ROWS] for name in ROWS[0]},
    "arrays": lambda: {name: np.array([row[name] for row in ROWS]) for name in ROWS[0]},
    "pandas": lambda: pd.DataFrame(ROWS),
    "objects of pandas": lambda: pd.DataFrame(ROWS, dtype=object),
    "categories": lambda: pd.DataFrame(ROWS).astype({"label": "category"}),
    "pyarrow": lambda: pa.Table.from_pylist(ROWS),
    "chunks": lambda: pa.concat_tables([pa.Table.from_pylist(ROWS[:7]), pa.Table.from_pylist(ROWS[7:])]),
    "capsule": lambda: Capsule(views(pa.Table.from_pylist(ROWS))),
    "Dataset": lambda: Dataset.from_list(ROWS),
    "formatted Dataset": lambda: Dataset.from_list(ROWS).with_format("numpy", columns=["n"]),
    "chosen of a Dataset": lambda: Dataset.from_list(ROWS[::-1]).select(range(35, -1, -1)),
    "stream": lambda: IterableDataset.from_generator(lambda: iter(ROWS)),
    "stream of a Dataset": lambda: Dataset.from_list(ROWS).to_iterable_dataset(num_shards=3),
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The rows by way of a csv, whole and limited to twelve, and as records."""
    path = tmp_path_factory.mktemp("objects") / "rows.csv"
    pd.DataFrame(ROWS).to_csv(path, index=False)
    return open_data(path), open_data(path, limit=12), open_data(ROWS), open_data(ROWS, limit=12)


@pytest.mark.parametrize("form", FORMS)
def test_the_rows_of_a_csv(form, opened):
    theirs, few, records, few_records = opened
    ours = open_data(FORMS[form]())
    assert ours.roles == theirs.roles
    assert ours.texts("text") == theirs.texts("text")
    assert ours.label_names == theirs.label_names
    assert ours.split_hash == theirs.split_hash
    assert all(np.array_equal(ours.digests(role), theirs.digests(role)) for role in ("text", "text_b"))
    assert ours.keys == [str(row) for row in range(36)]
    assert (ours.hash, ours.given["fingerprint"]) == (records.hash, records.given["fingerprint"])
    limited = open_data(FORMS[form](), limit=12)
    if "stream" in form:
        assert limited.texts("text") == theirs.texts("text")[:12]
    else:
        assert limited.texts("text") == few.texts("text")
        assert limited.hash == few_records.hash


def test_another_value_order_name_or_type_are_other_data():
    hashes = {open_data(one).hash for one in (
        ROWS, ROWS[:-1], ROWS[::-1], [ROWS[0] | {"n": -1}, *ROWS[1:]], [row | {"n": float(row["n"])} for row in ROWS],
        [{"m" if name == "n" else name: value for name, value in row.items()} for row in ROWS],
    )}  # fmt: skip
    assert len(hashes) == 6
    names = [Features({"text": Value("string"), "label": ClassLabel(names=n)}) for n in (["a", "b"], ["b", "a"])]
    rows = {"text": [row["text"] for row in ROWS], "label": [row["n"] % 2 for row in ROWS]}
    assert len({open_data(Dataset.from_dict(rows, features=one)).hash for one in names}) == 2


def test_the_digest_is_that_of_the_values(tmp_path):
    rng = np.random.default_rng(0)
    whole = pa.table({
        "text": ["a", None, "", "ddd"] * 9, "n": pa.array([1, None, 3, 4] * 9), "flag": [True, False, None, True] * 9,
        "lists": [[1.0, 2.0], None, [], [3.0]] * 9, "bytes": [b"x", None, b"", b"\0"] * 9,
        "struct": [{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}, {"a": 2, "b": None}] * 9,
        "day": pa.array([1, 2, None, 4] * 9, pa.date32()),
        "dec": pa.array([1, 2, None, 4] * 9).cast(pa.decimal128(22, 2)),
    })  # fmt: skip
    expected = content_digest(whole.to_batches(), {})
    for _ in range(5):
        ends = np.unique([0, 36, *rng.integers(0, 36, 4)])
        parts = [whole.slice(a, b - a) for a, b in itertools.pairwise(ends)]
        stored = pa.concat_tables([part.set_column(0, "text", part["text"].cast(pa.large_string())) for part in parts])
        stored = stored.set_column(3, "lists", stored["lists"].cast(pa.large_list(pa.float64())))
        assert content_digest(stored.to_batches(), {}) == expected
        assert content_digest(stored.take(list(range(36))).to_batches(), {}) == expected
    seen = {expected}
    for name in whole.column_names:
        for row in (0, 1):
            rolled = whole[name].take([*range(row), row + 2, *range(row + 1, 36)])
            seen.add(content_digest(whole.set_column(whole.column_names.index(name), name, rolled).to_batches(), {}))
    assert len(seen) == 1 + 2 * len(whole.column_names)


def test_a_mapped_dataset_stays_where_it_is(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    saved = datasets.load_from_disk(tmp_path / "saved")
    kept = set((cache_dir() / "given").glob("*"))
    data = open_data(saved, roles={"label": None})
    assert data.table.cache_files == saved.cache_files
    assert set((cache_dir() / "given").glob("*")) == kept, "nothing was copied"
    assert data.hash == open_data(ROWS, roles={"label": None}).hash
    some = saved.shuffle(seed=1).select(range(20))
    part = open_data(some)
    assert part.table.cache_files[:1] == saved.cache_files
    assert part.texts("text") == some["text"][:]
    assert part.hash == open_data(some.to_list()).hash


def test_the_parts_of_a_dict_are_the_splits():
    whole = Dataset.from_list(ROWS)
    cut = {"train": range(24), "validation": range(24, 30), "test": range(30, 36)}
    parts = {name: whole.select(rows) for name, rows in cut.items()}
    streams = {name: part.to_iterable_dataset() for name, part in parts.items()}
    other = {"notes": Dataset.from_list(ROWS[:3])}
    opened = [open_data(one) for one in (DatasetDict(parts), parts, datasets.IterableDatasetDict(streams), streams,
                                         DatasetDict(parts | other))]  # fmt: skip
    for data in opened:
        assert {name: rows.tolist() for name, rows in data.splits.items()} == {
            "train": list(cut["train"]), "val": list(cut["validation"]), "test": list(cut["test"])}  # fmt: skip
        assert data.texts("text") == [row["text"] for row in ROWS]
    assert len({data.hash for data in opened}) == 1
    assert "not called train, val or test" in " ".join(opened[-1].notes)
    limited = open_data(datasets.IterableDatasetDict(streams), limit=15)
    assert {name: rows.tolist() for name, rows in limited.splits.items()} == {
        "train": list(range(5)), "val": list(range(5, 10)), "test": list(range(10, 15))}  # fmt: skip


def pixels(count=12, shape=(9, 8, 3)):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def test_images_are_their_pixels(tmp_path):
    array = pixels()
    pictures = [Image.fromarray(one) for one in array]
    stored = []
    for place, one in enumerate(pictures):
        one.save(tmp_path / f"{place:02d}.png")
        stored.append({"bytes": (tmp_path / f"{place:02d}.png").read_bytes(), "path": None})
    expected = open_data(tmp_path).digests("image")
    column = Dataset.from_dict({"image": stored}, features=Features({"image": datasets.Image()}))
    forms = [array, torch.from_numpy(array), {"image": array}, pictures, [{"image": one} for one in pictures],
             [{"image": one} for one in array], pd.DataFrame({"image": pictures}), column,
             Dataset.from_dict({"image": pictures}), column.to_iterable_dataset(),
             IterableDataset.from_generator(lambda: ({"image": one} for one in pictures)),
             sorted(tmp_path.glob("*.png")), [str(path) for path in sorted(tmp_path.glob("*.png"))],
             datasets.load_dataset("imagefolder", data_dir=str(tmp_path), split="train", streaming=True)]  # fmt: skip
    for one in forms:
        data = open_data(one, cache=tmp_path / "cache" if one is forms[-1] else None)
        assert data.roles["image"] == "image"
        assert np.array_equal(data.digests("image"), expected), type(one)
    loaded = Image.open(tmp_path / "00.png")
    loaded.thumbnail((4, 4))  # as it is now, not as it lies in its file
    assert open_data([loaded, *pictures[1:]]).facts("sizes", "image")[0].max() == 4
    grey = pixels(shape=(8, 8))
    data = open_data({"image": grey, "label": np.arange(12) % 2})
    assert np.array_equal(data.images("image", 8, [3])[0][0], grey[3])


def test_rows_of_numbers():
    matrix = np.random.default_rng(0).random((30, 6)).astype(np.float32)
    shaped = Features({"x": Array2D((2, 3), "float32")})
    tensor, fixed = torch.from_numpy(matrix), Features({"x": Sequence(Value("float32"), length=6)})
    forms = [matrix, tensor, matrix.tolist(), list(matrix), {"x": matrix}, {"x": tensor},
             {"x": matrix.reshape(30, 2, 3)}, pd.DataFrame(matrix), [{"x": row.reshape(2, 3)} for row in matrix],
             Dataset.from_dict({"x": matrix.reshape(30, 2, 3)}, features=shaped),
             Dataset.from_dict({"x": matrix.reshape(30, 2, 3)}, features=shaped).to_iterable_dataset(),
             Dataset.from_dict({"x": matrix}, features=fixed)]  # fmt: skip
    for one in forms:
        data = open_data(one)
        assert np.array_equal(data.facts("values", "vector"), matrix), type(one)
    assert open_data({"x": matrix, "y": np.arange(30) % 3}).roles["label"] == ["y"]


def test_an_index_that_says_something_is_the_id():
    frame = pd.DataFrame(ROWS)
    assert "id" not in open_data(frame).roles
    assert open_data(frame[frame.n % 2 == 1]).keys == [str(n) for n in range(1, 36, 2)]
    assert open_data(frame.sample(frac=1, random_state=0)).keys == list(
        map(str, frame.sample(frac=1, random_state=0).index)
    )
    named = open_data(frame.assign(id=range(36)).set_index(frame["text_b"].rename("sku")))
    assert (named.roles["id"], named.keys[2]) == ("sku", "a thing of sort 2")
    assert open_data(frame.assign(id=range(50, 86))[4:]).keys[0] == "54", "a column that is called id comes first"
    twice = open_data(pd.concat([frame, frame]))
    assert "id" not in twice.roles
    assert "repeats values" in twice.notes[0]
    levels = open_data(frame.set_index(["n", "part"]))
    assert {"n", "part"} <= set(levels.table.column_names)
    with pytest.raises(InputError, match="index of the DataFrame is called 'text', as one of its columns"):
        open_data(frame.rename_axis("text"))


def png():
    file = io.BytesIO()
    Image.fromarray(pixels(1)[0]).save(file, "PNG")
    return file.getvalue()


class Torch(torch.utils.data.Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, place):
        return place


MIXED = [{"text": 3 if place > 599 else "a"} for place in range(700)]
WRONG = {
    "no rows of Dataset": (lambda: Dataset.from_dict({"text": []}), "The Dataset holds no rows. Is it the right one"),
    "no parts": (DatasetDict, "The DatasetDict holds no rows"),
    "no rows of stream": (lambda: IterableDataset.from_generator(lambda: iter([])), "IterableDataset holds no rows"),
    "no list": (list, "The list holds no rows"),
    "no dict": (dict, "The dict holds no rows"),
    "no frame": (pd.DataFrame, "The DataFrame holds no rows"),
    "unequal": (lambda: {"text": ["a"] * 3, "label": [1, 2]}, "unequal lengths: 'text' 3, 'label' 2"),
    "no column": (lambda: {"text": "abc"}, "The dict has str for the column 'text'. A column is a list"),
    "key": (lambda: {3: ["a"]}, "the key 3; the name of a column is a text"),
    "mixed list": (lambda: ["a", {"text": "b"}], r"texts \(item 0\) and records \(item 1\). Give a list of one kind"),
    "no item": (lambda: ["a", 3], "Item 1 of the list is of the type int, which is no row. Give texts"),
    "tuples": (lambda: [("a", "b")] * 3, "Item 0 of the list is of the type tuple"),
    "mixed column": (lambda: [{"text": "a"}] * 5000 + [{"text": 3}],
                     "'text' holds str in row 4096 and int in row 5000. Give every row"),
    "mixed stream": (lambda: IterableDataset.from_generator(lambda: iter(MIXED)),
                     "'text' holds (string in the first 512 rows and int64|str in row 512 and int in row 600)"),
    "names": (lambda: pd.DataFrame([["a", "b"]], columns=["text", "text"]), "'text' occurs more than once. Rename"),
    "levels": (lambda: pd.DataFrame([["a"]], columns=pd.MultiIndex.from_tuples([("a", "b")])), "several levels. Join"),
    "own name": (lambda: Dataset.from_dict({"__line__": ["a"]}), "the column name '__line__' is taken"),
    "loader": (lambda: torch.utils.data.DataLoader([1, 2]), "A DataLoader gives batches.*Dataset.from_list"),
    "torch": (Torch, r"A torch Dataset \(.*Torch\) gives items of which nothing says.*Dataset.from_list"),
    "generator": (lambda: (row for row in ROWS), "An iterator .generator. can be read once only.*from_generator"),
    "function": (lambda: png, "The function 'png' is no data.*from_generator"),
    "set": (lambda: {"a", "b"}, r"A set has no order. Give a list: sorted"),
    "nothing": (lambda: None, "No data were given. Data are a path"),
    "shape": (lambda: np.zeros((3, 4, 4)), r"type float64 and the shape \(3, 4, 4\).*reshape"),
    "opened": (lambda: open_data(ROWS), "opened already"),
    "images": (lambda: Dataset.from_dict({"image": [{"bytes": one, "path": None} for one in (png(), b"no", png())]},
                                         features=Features({"image": datasets.Image()})),
               "Dataset of 3 rows, row 1: column 'image': it is not an image"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told(name):
    make, message = WRONG[name]
    before = {path for kind in ("given", "streams") for path in (cache_dir() / kind).glob("*")}
    with pytest.raises(InputError, match=message):
        open_data(make())
    left = {path for kind in ("given", "streams") for path in (cache_dir() / kind).glob("*")} - before
    assert all(path.suffix == ".arrow" for path in left), "nothing is left half"


def test_bad_rows_may_be_left_out():
    stored = [{"bytes": png() if place % 5 else b"no", "path": None} for place in range(12)]
    data = open_data(Dataset.from_dict({"image": stored}, features=Features({"image": datasets.Image()})),
                     unreadable="skip")  # fmt: skip
    assert len(data) == 9
    assert [str(one).split(":")[0] for one in data.problems] == [f"Dataset of 12 rows, row {n}" for n in (0, 5, 10)]


def test_other_processes_get_the_file_in_the_cache(tmp_path, monkeypatch):
    rows = [{"text": f"{row['text']} {'long ' * 2000}", "text_b": row["text_b"]} for row in ROWS]
    data = open_data(rows)
    same = workers.SameData(data, rows, DataSettings())
    assert len(pickle.dumps(same)) < 40_000, "no rows travel"
    there = pickle.loads(pickle.dumps(same)).open()
    assert there.hash == data.hash
    assert there.texts("text") == [row["text"] for row in rows]
    file = Path(data.table.cache_files[0]["filename"])
    file.rename(tmp_path / "away.arrow")
    with pytest.raises(InputError, match="Set NEARFAR_CACHE to a folder that all machines reach"):
        same.open()


def test_names_and_facts():
    data = open_data(ROWS)
    assert (data.name, data.kind, data.path, data.short_name) == ("list of 36 rows", "given in memory", None, "list")
    assert data.given["features"]["n"] == "Value('int64')"
    assert data.describe()["path"] is None
    assert open_data(pd.DataFrame(ROWS[:30])["text"]).name == "DataFrame of 30 rows"
    assert open_data(Dataset.from_list(ROWS).with_transform(lambda batch: batch)).notes[0].startswith("its transform")
    assert nearfar.data(ROWS).given["rows"] == 36
