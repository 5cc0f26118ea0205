"""A model knows its training rows again, and says so when it is measured on them or searched among them."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import nearfar
from nearfar import trained
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.sources import open_data

FEW = {"steps": 2, "batch_size": 8, "val_every": 0, "progress": False}


def table(path, numbers):
    path.write_text("text,text_b\n" + "".join(f"a question of {i},an answer to {i}\n" for i in numbers))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return nearfar.fit("pairs", table(folder / "p.csv", range(80)), out=folder / "run", **FEW)


def test_the_model_keeps_hashes_of_data_split_and_rows(run):
    folder = run.path / "model"
    data = open_data(run.path.parent / "p.csv")
    facts = json.loads((folder / "config.json").read_text())["trained_on"]
    assert facts == {"name": "p.csv", "rows": 56, "data_hash": data.hash, "split_hash": data.split_hash}
    assert trained.NAME in json.loads((folder / "verify.json").read_text())["files"]
    stored = load_file(folder / trained.NAME)
    train = data.splits["train"]
    right = np.unique(np.concatenate([data.digests(role, train) for role in ("text", "text_b")]))
    assert np.array_equal(stored["text"], right)


def test_rows_are_known_again_under_another_name_and_order(run, tmp_path):
    data = open_data(run.path.parent / "p.csv")
    known = nearfar.load(run.path / "model").training_rows
    other = open_data(table(tmp_path / "q.csv", [*range(200, 210), *reversed(range(80))]))
    found = trained.seen(known, other, np.arange(len(other)))
    train = {data.texts("text")[row] for row in data.splits["train"]}
    assert found.tolist() == [text in train for text in other.texts("text")]


@pytest.mark.parametrize(("on", "right"), [("train", 56), ("test", 0)])
def test_evaluate_tells(run, on, right):
    said: list[str] = []
    found = nearfar.evaluate(run.path, run.path.parent / "p.csv", on=on, baseline=False, say=said.append)
    assert found["trained_on"]["rows"] == right
    assert any(f"was trained on {right} of the {right} {on} rows" in line for line in said) == bool(right)


def test_compare_tells_of_pretrained_weights(tmp_path, image):
    for i in range(80):
        image(tmp_path / "p" / f"{'ab'[i % 2]}" / f"{i}.png", seed=i)
    first = nearfar.fit("simclr", tmp_path / "p", out=tmp_path / "run", **FEW)
    said: list[str] = []
    options = FEW | {"weights": str(first.path), "split_seed": 5, "report": False, "say": said.append}
    done = nearfar.compare(tmp_path / "p", methods="simclr", seeds=1, out=tmp_path / "cmp", **options)
    a, b = open_data(tmp_path / "p"), open_data(tmp_path / "p", seed=5)
    right = len(np.intersect1d(a.splits["train"], b.splits["test"]))
    assert right > 0
    assert f"trained on {right} of the {len(b.splits['test'])} test rows" in done.results["warnings"][0]
    assert done.results["warnings"][0] in said
    both = nearfar.load(next(iter((tmp_path / "cmp" / "cells").iterdir())) / "model").training_rows
    assert len(both["image"]) == len(np.union1d(a.splits["train"], b.splits["train"]))


def test_search_marks_them(run, capsys):
    index = run.path.parent / "index"
    nearfar.embed(run.path, run.path.parent / "p.csv", out=index)
    hits = nearfar.search(index, "a question of 3", k=80)
    assert sum(h["trained_on"] for h in hits) == 56
    assert main(["search", str(index), "a question of 3", "--k", "80"]) == 0
    assert "the model was trained on 56 of these 80 items" in capsys.readouterr().err


def test_a_model_that_does_not_say_and_a_damaged_file(run, tmp_path):
    assert trained.read(tmp_path) is None
    (tmp_path / trained.NAME).write_bytes(b"nothing")
    with pytest.raises(InputError, match="training-rows"):
        trained.read(tmp_path)


@pytest.fixture
def image():
    from PIL import Image

    def make(path, seed):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)).save(path)

    return make
