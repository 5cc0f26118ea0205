"""Streams: read whole or not at all, and anew only where nobody knows that they give the same again."""

import itertools
import os
import tracemalloc

import datasets
import pandas as pd
import pytest
from datasets import Dataset, Features, IterableDataset, Value, load_dataset

from nearfar.errors import InputError, NearfarError
from nearfar.sources import open_data, origins, streams
from nearfar.sources.storage import cache_dir

ROWS = [{"text": f"what is thing {i}", "text_b": f"a thing of sort {i}"} for i in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("streams")
    frame = pd.DataFrame(ROWS)
    frame.to_csv(place / "rows.csv", index=False)
    frame.to_parquet(place / "rows.parquet")
    frame.to_json(place / "rows.jsonl", orient="records", lines=True)
    return place


def stream(path, kind="csv"):
    return load_dataset(kind, data_files={"train": str(path)}, split="train", streaming=True)


@pytest.fixture
def reads(monkeypatch):
    """How many streams were read."""
    seen, read = [], streams._read
    monkeypatch.setattr(streams, "_read", lambda *given: seen.append(given) or read(*given))
    return seen


def entries():
    return set((cache_dir() / "streams").glob("*"))


@pytest.mark.parametrize("make", [
    lambda at: stream(at / "rows.csv"),
    lambda at: stream(at / "rows.parquet", "parquet"),
    lambda at: stream(at / "rows.jsonl", "json"),
    lambda at: load_dataset("csv", data_files={"train": str(at / "rows.csv")}, streaming=True),
    lambda at: stream(at / "rows.csv").skip(3).take(20),
    lambda at: stream(at / "rows.csv").select_columns(["text"]),
    lambda at: stream(at / "rows.csv").shuffle(seed=3, buffer_size=10),
], ids=["csv", "parquet", "json", "dict", "take", "select", "shuffle"])  # fmt: skip
def test_files_that_are_the_same_are_read_once(make, folder, reads, tmp_path):
    first = open_data(make(folder), cache=tmp_path)
    again = open_data(make(folder), cache=tmp_path)
    assert len(reads) == 1
    assert (again.hash, again.keys, again.texts("text")) == (first.hash, first.keys, first.texts("text"))
    assert open_data(make(folder), cache=tmp_path, limit=7).hash != first.hash
    assert len(reads) == 2
    for entry in (tmp_path / "streams").glob("*.arrow"):
        entry.write_bytes(entry.read_bytes()[:-80])  # damaged
    assert open_data(make(folder), cache=tmp_path).hash == first.hash
    assert len(reads) == 3


def test_a_file_that_changed_is_read_anew(tmp_path, reads):
    path = tmp_path / "rows.csv"
    pd.DataFrame(ROWS).to_csv(path, index=False)
    known = stream(path)
    first = open_data(known)
    state = os.stat(path)
    path.write_text(path.read_text().replace("thing 3", "thing x"))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # as long, and of the same time
    assert open_data(known).texts("text")[3] == "what is thing x"
    assert open_data(stream(path)).hash != first.hash
    assert len(reads) == 2


def test_functions_of_the_user_are_asked_each_time(folder, reads):
    said = iter(["one", "two"])
    rows = {"one": ROWS, "two": ROWS[:-1]}
    changing = IterableDataset.from_generator(lambda: iter(rows[next(said)]))
    assert [len(open_data(changing)) for _ in range(2)] == [40, 39]
    for one in (stream(folder / "rows.csv").map(lambda row: row), stream(folder / "rows.csv").filter(lambda row: True),
                Dataset.from_list(ROWS).to_iterable_dataset()):  # fmt: skip
        before = len(reads)
        assert open_data(one).hash == open_data(one).hash
        assert len(reads) == before + 2
    begun = stream(folder / "rows.csv")
    begun.load_state_dict(begun.state_dict())
    assert origins.origin_of({"": begun}, None) is None


def test_a_stream_that_breaks_off_leaves_nothing(tmp_path):
    good = []

    def rows():
        yield from ({"text": f"row {i}", "n": i} for i in range(600))
        if not good:
            raise ConnectionError("the line is dead")

    one, before = IterableDataset.from_generator(rows), entries()
    with pytest.raises(
        NearfarError, match=r"broke off after 512 rows: ConnectionError: the line is dead\. Nothing of it"
    ):
        open_data(one)
    assert entries() == before
    good.append(True)
    assert len(open_data(one)) == 600


def endless():
    for number in itertools.count():
        yield {"text": f"row {number} " * 10}


def test_what_has_no_end_is_told(monkeypatch):
    before = entries()
    with pytest.raises(InputError, match=r"repeated without end\. Say how many rows are wanted: limit="):
        open_data(Dataset.from_list(ROWS).to_iterable_dataset().repeat(None).shuffle(seed=1))
    assert len(open_data(Dataset.from_list(ROWS).to_iterable_dataset().repeat(None).take(50))) == 50
    monkeypatch.setenv("NEARFAR_CACHE_SIZE", "1MB")
    with pytest.raises(InputError, match=r"has given 1 MB \(.* rows\), more than the cache may hold. Say how many"):
        open_data(IterableDataset.from_generator(endless))
    monkeypatch.delenv("NEARFAR_CACHE_SIZE")
    monkeypatch.setattr(streams, "MOST_STREAMED", 1000)
    with pytest.raises(InputError, match=r"has given 1,024 rows and no end\. Say how many"):
        open_data(IterableDataset.from_generator(endless))
    assert len(entries() - before) == 1, "that of the fifty rows"
    asked = []
    counted = IterableDataset.from_generator(lambda: (asked.append(1) or row for row in endless()))
    data = open_data(counted, limit=300)
    assert (len(data), len(asked)) == (300, 301), "no more than the one by which `take` sees that it may end"
    assert data.notes == ["the first 300 rows of the stream (limit)"]


def test_types_grow_and_columns_come_later():
    def rows():
        for i in range(900):
            number = None if i < 300 else i if i < 600 else i + 0.5
            yield {"text": f"row {i}", "n": number} | ({"late": "x"} if i > 700 else {})

    data = open_data(IterableDataset.from_generator(rows))
    assert data.values("n") == [row["n"] for row in rows()]
    assert data.values("late") == [row.get("late") for row in rows()]
    whole = open_data(Dataset.from_list([{"late": None} | row for row in rows()]).select_columns(["text", "n", "late"]))
    assert data.given["fingerprint"] == whole.given["fingerprint"]


def test_memory_stays_flat():
    """Of 24 MB that a stream gives, what Python holds at once is a few blocks."""
    many = IterableDataset.from_generator(lambda: ({"text": f"{i} " + "x" * 12_000} for i in range(2000)))
    tracemalloc.start()
    try:
        table = streams.read_stream(many, cache_dir(), None).table
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(os.path.getsize(one["filename"]) for one in table.cache_files) > 24e6
    assert peak < 12e6


def test_parts_of_unlike_classes():
    names = [Features({"text": Value("string"), "label": datasets.ClassLabel(names=list(n))}) for n in ("ab", "ba")]
    parts = [Dataset.from_list([{"text": f"{k} {i}", "label": i % 2} for i in range(10)], features=names[k])
             for k in range(2)]  # fmt: skip
    both = dict(zip(("train", "test"), (part.to_iterable_dataset() for part in parts), strict=True))
    with pytest.raises(InputError, match="classes of the column 'label' change after 10 rows"):
        open_data(both)
