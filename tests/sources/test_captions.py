"""Images with lists of captions: all are measured, one is drawn at a time, none crosses a split."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import nearfar
from nearfar.errors import InputError
from nearfar.evaluation import task_for
from nearfar.samplers import Permutation
from nearfar.sources import open_data
from nearfar.training.building import sampled_rows
from nearfar.training.settings import TrainSettings


def image(seed):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def lists(n, seed=0):
    rng = np.random.default_rng(seed)
    return [[f"text {k} of thing {i}" for k in range(rng.integers(1, 8))] for i in range(n)]


@pytest.fixture(params=["parquet", "jsonl"])
def table(request, tmp_path):
    texts = lists(60)
    if request.param == "parquet":
        pq.write_table(pa.table({"image": [image(i) for i in range(60)], "caption": texts}), tmp_path / "t.parquet")
        return tmp_path / "t.parquet", texts
    for i in range(60):
        (tmp_path / f"{i}.png").write_bytes(image(i))
    lines = [json.dumps({"image": f"{i}.png", "caption": found}) for i, found in enumerate(texts)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    return tmp_path / "t.jsonl", texts


def test_each_caption_is_a_row_of_its_image(table):
    path, texts = table
    data = open_data(path)
    assert data.texts("text") == [text for found in texts for text in found]
    assert data.alternatives.tolist() == [i for i, found in enumerate(texts) for _ in found]
    assert len(set(data.keys)) == len(data)
    assert data.roles["unit"] == "__item__"
    pixels = data.images("image", 16, np.arange(len(data)))
    for row, item in enumerate(data.alternatives):
        given = np.asarray(Image.open(io.BytesIO(image(item)))).transpose(2, 0, 1)
        np.testing.assert_array_equal(pixels[row], given)


def test_no_image_stands_on_two_sides(table):
    data = open_data(table[0])
    sides = [set(data.alternatives[rows].tolist()) for rows in data.splits.values()]
    assert all(a.isdisjoint(b) for i, a in enumerate(sides) for b in sides[i + 1 :])
    assert min(map(len, sides)) > 3


def test_an_epoch_draws_one_caption_of_every_image(table):
    data = open_data(table[0])
    rows = np.asarray(data.splits["train"])

    class Method:
        def towers(self):
            return {}

    items = np.unique(data.alternatives[rows])
    sampler = Permutation().over(sampled_rows(Method(), data, rows), 7, 0)
    assert sampler.items == len(items)
    seen, drawn = [], set()
    for epoch in range(12):
        chosen = np.concatenate([sampler.rows(epoch * sampler.epoch_steps + k) for k in range(sampler.epoch_steps)])
        counts = np.bincount(data.alternatives[chosen], minlength=60)
        assert counts.max() == 1
        assert set(chosen.tolist()) <= set(rows.tolist())
        seen.append(frozenset(chosen.tolist()))
        drawn |= set(chosen.tolist())
    assert len(set(seen)) > 6
    assert len(drawn) > 0.8 * len(rows)


def test_all_captions_count_as_right(table):
    data = open_data(table[0])
    task = task_for(data, "pairs")
    rows = np.asarray(data.splits["test"])

    class Told:
        """Each image, and all that is said of it, at a place of its own."""

        def __call__(self, role, rows):
            z = np.zeros((len(rows), len(data) + 1), np.float32)
            z[np.arange(len(rows)), data.alternatives[rows]] = 1
            return z

    found = task.evaluate(Told(), "test")
    assert found.primary == 1.0
    counts = found.counts
    assert counts["image → text"]["queries"] == len(np.unique(data.alternatives[rows]))
    assert counts["text → image"]["queries"] == len(rows)


def test_fit_counts_images_not_captions(table, tmp_path):
    data = open_data(table[0])
    images = len(np.unique(data.alternatives[data.splits["train"]]))
    run = nearfar.fit("pairs", table[0], out=tmp_path / "run", settings=TrainSettings(steps=4, val_every=0))
    assert json.loads((run.path / "config.json").read_text())["resolved"]["batch_size"] == max(2, images // 4)


def test_an_empty_list(tmp_path):
    texts = [*lists(20), [], ["", None]]
    pq.write_table(pa.table({"image": [image(i) for i in range(22)], "caption": texts}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"row 20: .*the list holds no text \(1 more like this\)"):
        open_data(tmp_path / "t.parquet")
    data = open_data(tmp_path / "t.parquet", unreadable="skip")
    assert len(np.unique(data.alternatives)) == 20
    assert len(data.problems) == 2


def test_lists_without_images_stay_as_they_are(tmp_path):
    pq.write_table(pa.table({"title": [f"the title {i} of all" for i in range(30)], "captions": lists(30)}),
                   tmp_path / "t.parquet")  # fmt: skip
    data = open_data(tmp_path / "t.parquet")
    assert len(data) == 30
    assert data.alternatives is None


def test_addresses_are_told(tmp_path):
    rows = {
        "URL": [f"https://example.org/{i}.jpg" for i in range(20)],
        "TEXT": [f"a thing {i} here" for i in range(20)],
    }
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="it is an address on the network, and nothing is downloaded"):
        open_data(tmp_path / "t.parquet")
