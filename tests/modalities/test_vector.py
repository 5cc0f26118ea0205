"""Rows of numbers: what is read, what is told, how they are encoded, and the whole way from the command line."""

import json
import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import nearfar
from nearfar import cli, modalities
from nearfar.encoders import Features
from nearfar.encoders.numeric import VectorEncoder, moments
from nearfar.errors import InputError
from nearfar.evaluation.references import main_components, standardised
from nearfar.methods.tower import Tower
from nearfar.training.embedding import Embedder
from nearfar.views import build

ROWS = 60


def write(path, header, rows):
    path.write_text("\n".join([",".join(header), *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def two_kinds(rng, n=ROWS):
    """Numbers of two kinds: the first two tell them apart, on scales that differ by a thousand."""
    kind = np.arange(n) % 2
    x = rng.normal(size=(n, 4)) * [1, 1000, 1, 1] + np.stack([4 * kind, 4000 * kind, 0 * kind, 0 * kind], 1)
    return x, np.array(["low", "high"])[kind]


@pytest.fixture
def table(tmp_path):
    x, kind = two_kinds(np.random.default_rng(0))
    rows = [(*(f"{v:.6g}" for v in row), k) for row, k in zip(x, kind, strict=True)]
    return write(tmp_path / "t.csv", ["height", "mass", "noise_a", "noise_b", "label"], rows)


def values(data, role="vector"):
    return modalities.of(role).items(data, role)


def test_columns_of_numbers_are_found_and_classes_are_not_among_them(table):
    data = nearfar.data(table)
    assert data.roles == {"vector": ["height", "mass", "noise_a", "noise_b"], "label": ["label"]}
    assert data.modality("vector").name == "vector"
    assert values(data).shape == (ROWS, 4)
    assert data.describe()["content"]["vector"]["sizes_in_words"] == "4 numbers"


@pytest.mark.parametrize("name", ["target", "y", "label", "class"])
def test_a_numbered_class_is_a_label_and_not_one_of_the_numbers(tmp_path, name):
    rows = [(i * i % 7 + 0.5, i * 3 % 11, i % 2) for i in range(20)]
    data = nearfar.data(write(tmp_path / "t.csv", ["a", "b", name], rows))
    assert data.roles == {"vector": ["a", "b"], "label": [name]}


def test_a_counter_of_rows_is_not_one_of_the_numbers(tmp_path):
    rows = [(i, i * i % 7 + 0.5, i * 3 % 11) for i in range(20)]
    data = nearfar.data(write(tmp_path / "t.csv", ["", "a", "b"], rows))
    assert data.roles["vector"] == ["a", "b"]


def test_named_columns_and_patterns(table):
    assert nearfar.data(table, roles={"vector": ["mass", "noise_*"]}).roles["vector"] == ["mass", "noise_a", "noise_b"]
    with pytest.raises(InputError, match=r"no column 'nois' for the role 'vector'"):
        nearfar.data(table, roles={"vector": "nois"})
    with pytest.raises(InputError, match=r"t\.csv, line 2: column 'label': 'low' is not a finite number"):
        nearfar.data(table, roles={"vector": ["mass", "label"], "label": None})


def test_texts_beside_numbers_stay_texts(tmp_path):
    rows = [(f"a sentence with number {i}", i % 5, i % 3) for i in range(12)]
    assert "vector" not in nearfar.data(write(tmp_path / "t.csv", ["words", "stars", "votes"], rows)).roles


@pytest.mark.parametrize("cell", ["abc", "1;5", "inf", "-inf", "12 kg", "1e999"])
def test_a_cell_that_is_not_a_number_is_told_by_file_line_and_column(tmp_path, cell):
    rows = [[i % 7, i % 5] for i in range(20)]
    rows[11][1] = cell
    path = write(tmp_path / "t.csv", ["a", "b"], rows)
    with pytest.raises(InputError, match=rf"t\.csv, line 13: column 'b': '{cell}' is not a finite number"):
        nearfar.data(path)
    assert len(nearfar.data(path, unreadable="skip")) == 19


@pytest.mark.parametrize("cell", ["0,75", "-6,9950", "1.234,5", "1,234", "1,234,567.8", "2,5e-3"])
@pytest.mark.parametrize("count", [1, 20])
def test_numbers_with_a_comma_are_asked_for_and_no_texts(tmp_path, cell, count):
    rows = [[i % 7, i % 5, "ab"[i % 2]] for i in range(20)]
    for row in rows[-count:]:
        row[0] = row[1] = f'"{cell}"'
    path = write(tmp_path / "t.csv", ["a", "b", "label"], rows)
    line = 22 - count
    with pytest.raises(InputError, match=rf"line {line}: column 'a': '{re.escape(cell)}' .* has a comma: write 1"):
        nearfar.data(path)


@pytest.mark.parametrize("cell", ["NA", "N/A", "#N/A", "null", "None", "?", " na ", "NaN", "<NA>"])
def test_words_for_no_number_are_empty_cells(tmp_path, cell):
    rows = [[i % 7, cell if i % 2 else i % 5] for i in range(30)]
    data = nearfar.data(write(tmp_path / "t.csv", ["a", "b"], rows))
    assert np.isnan(values(data)[1::2, 1]).all()
    assert np.isfinite(values(data)[::2]).all()


def test_empty_cells_count_as_the_mean_and_are_told(tmp_path):
    rows = [[i % 7, i % 5] for i in range(30)]
    for i, word in enumerate(["", "nan", "NA", "?"]):
        rows[5 + i][0] = word
    path = write(tmp_path / "t.csv", ["a", "b"], rows)
    data = nearfar.data(path)
    assert np.isnan(values(data)).sum() == 4
    assert any("4 empty cells ('a' 4) count as the mean of their column" in note for note in data.notes)
    encoder = VectorEncoder(["a", "b"], dim=8).standardise(values(data)[data.splits["train"]])
    mean = float(np.nanmean(values(data)[data.splits["train"]][:, 0].astype(np.float64)))
    same = encoder(torch.tensor([[math.nan, 2.0], [mean, 2.0]]))
    assert torch.allclose(same[0], same[1], atol=1e-5)
    rows[9] = ["nan", "nan"]
    with pytest.raises(InputError, match=r"line 11: column 'a': every number of the row is empty"):
        nearfar.data(write(path, ["a", "b"], rows))


def test_what_never_changes_is_told_and_does_no_harm(tmp_path):
    data = nearfar.data(write(tmp_path / "t.csv", ["a", "still"], [(i % 7, 3.25) for i in range(30)]))
    assert any("1 of 2 numbers are the same in all training rows and tell nothing: 'still'" in n for n in data.notes)
    encoder = VectorEncoder(["a", "still"], dim=8).standardise(values(data))
    assert torch.isfinite(encoder(torch.from_numpy(values(data)))).all()


def test_words_that_were_left_out_are_told(tmp_path):
    rows = [(i % 7 + 0.5, i % 5, "north" if i % 2 else "south") for i in range(20)]
    data = nearfar.data(write(tmp_path / "t.csv", ["a", "b", "region"], rows))
    assert data.roles == {"vector": ["a", "b"]}
    assert any("columns that are not numbers are left out: 'region'" in note for note in data.notes)


def test_a_label_is_taken_away(table):
    assert "label" not in nearfar.data(table, roles={"label": "none"}).roles


def test_lists_in_cells_and_in_parquet(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"v": [row.tolist() for row in x], "w": pa.array(range(0, 40, 2))}), path)
    assert np.array_equal(values(nearfar.data(path, roles={"vector": "v"})), x)
    data = nearfar.data(path, roles={"vector": ["w", "v"]})
    assert modalities.get("vector").names(data, "vector") == ["w", "v[0]", "v[1]", "v[2]"]
    path = tmp_path / "t.csv"
    path.write_text("v\n" + "".join(f'"{row.tolist()}"\n' for row in x))
    assert np.allclose(values(nearfar.data(path)), x)
    path.write_text("v\n" + '"[1, 2]"\n' * 9 + '"[1, 2, 3]"\n')
    with pytest.raises(InputError, match=r"line 11: column 'v': the list has 3 numbers, the others have 2"):
        nearfar.data(path)


def test_matrices(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 5))
    np.save(tmp_path / "x.npy", x)
    assert np.array_equal(values(nearfar.data(tmp_path / "x.npy")), x.astype(np.float32))
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(20) % 3, odd=np.zeros(3))
    data = nearfar.data(tmp_path / "x.npz")
    assert data.label_names == {"y": ["0", "1", "2"]}
    assert any("odd" in note for note in data.notes)
    for name, array, says in (
        ("flat", np.zeros(4), r"holds no matrices of rows and numbers"),
        ("deep", np.zeros((4, 2, 2)), r"holds no matrices of rows and numbers"),
        ("words", np.array([["a", "b"]]), "no numbers"),
        ("objects", np.array([[{}]]), "holds Python objects"),
    ):
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
        with pytest.raises(InputError, match=says):
            nearfar.data(tmp_path / f"{name}.npy")
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(InputError, match=r"broken\.npy cannot be read as arrays"):
        nearfar.data(tmp_path / "broken.npy")
    x[3, 2] = np.inf
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(InputError, match=r"x\.npy, row 3: column 'vector'"):
        nearfar.data(tmp_path / "x.npy")


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, (6, 3), elements=st.floats(-1e6, 1e6, width=32) | st.just(math.nan)))
def test_moments_are_those_of_the_numbers_that_are_there(rows):
    mean, std = moments(rows)
    for i in range(3):
        there = rows[:, i][~np.isnan(rows[:, i])].astype(np.float64)
        assert mean[i] == pytest.approx(there.mean() if len(there) else 0, rel=1e-5, abs=1e-3)
        wanted = there.std() if len(there) else 0
        assert std[i] == pytest.approx(wanted, rel=1e-3, abs=1e-6) or std[i] == 1


def test_equal_rows_have_equal_ids(tmp_path):
    rows = [(i % 5, -0.0 if i % 2 else 0.0) for i in range(20)]
    data = nearfar.data(write(tmp_path / "t.csv", ["a", "b"], rows), roles={"vector": ["a", "b"]})
    assert len(np.unique(data.content("vector"))) == 5
    assert data.leaks() == 0


def test_corrupt_replaces_the_share_that_it_names_by_numbers_of_the_same_column():
    rows = torch.arange(40.0).reshape(8, 5) + torch.arange(5) * 1000
    first, second = build("corrupt", rate=0.6)(rows, torch.Generator().manual_seed(0))
    assert torch.equal(first, rows)
    assert ((second != rows).sum(1) <= 3).all()
    assert (second != rows).any()
    assert all(set(second[:, i].tolist()) <= set(rows[:, i].tolist()) for i in range(5))
    assert torch.equal(build("corrupt", rate=0.0)(rows, torch.Generator())[1], rows)
    both = build("corrupt", both=True)(rows, torch.Generator().manual_seed(1))
    assert not torch.equal(both[0], both[1])


def test_noise_is_in_deviations_and_keeps_one_number():
    encoder = VectorEncoder(["a", "b"])
    encoder.standardise(np.stack([np.linspace(0, 1, 50), np.linspace(0, 1000, 50)], 1))
    rows = torch.zeros(4000, 2)
    plan = build("noise", sigma=0.5, drop=0.0).bind(encoder)
    a, b = plan(rows, torch.Generator().manual_seed(0))
    assert (a.std(0) / encoder.std).tolist() == pytest.approx([0.5, 0.5], rel=0.1)
    assert not torch.equal(a, b)
    gone = build("noise", drop=1.0).bind(encoder)(rows, torch.Generator().manual_seed(0))[0]
    assert (gone.isnan().sum(1) == 1).all()


def test_a_tower_encodes_rows_of_numbers_and_passes_features():
    encoder = VectorEncoder(["a", "b", "c"], dim=3)
    x = torch.randn(5, 3)
    tower = Tower(encoder)
    assert torch.equal(tower(x), encoder(x))
    assert torch.equal(tower(Features(x)), x)


def test_other_data_may_name_the_numbers_in_another_order(table, tmp_path):
    data = nearfar.data(table)
    encoder = modalities.get("vector").encoder(modalities.get("vector").options(), data, 0)
    lines = [line.split(",") for line in table.read_text().splitlines()]
    turned = write(tmp_path / "turned.csv", lines[0][::-1], [line[::-1] for line in lines[1:]])
    embeds = [Embedder({"vector": Tower(encoder)}, nearfar.data(path)) for path in (table, turned)]
    rows = np.arange(ROWS)
    assert np.array_equal(embeds[0]("vector", rows), embeds[1]("vector", rows))
    fewer = write(tmp_path / "fewer.csv", lines[0][1:], [line[1:] for line in lines[1:]])
    with pytest.raises(InputError, match=r"fewer\.csv: there is no column 'height', which the model was trained on"):
        Embedder({"vector": Tower(encoder)}, nearfar.data(fewer))("vector", rows)
    x = values(data)
    np.save(tmp_path / "x.npy", x)
    same = Embedder({"vector": Tower(encoder)}, nearfar.data(tmp_path / "x.npy"))("vector", rows)
    assert np.array_equal(same, embeds[0]("vector", rows))
    np.save(tmp_path / "x.npy", x[:, :3])
    with pytest.raises(InputError, match=r"takes rows of 4 numbers \(height, mass, noise_a, noise_b\)\. Got 3"):
        Embedder({"vector": Tower(encoder)}, nearfar.data(tmp_path / "x.npy"))("vector", rows)


def test_items_that_are_no_rows_of_numbers():
    encoder = VectorEncoder(["a", "b"])
    for items, says in (
        ([[1, 2], [1, 2, 3]], "Item 1 has 3 numbers"),
        ([[1, 2], ["x", 1]], "Item 1 is not a row of numbers"),
        ([1, 2], "rows of numbers"),
        ([[1, 2, 3]], "takes rows of 2 numbers"),
        ([[1, math.inf]], "Item 0 holds a number that is not finite"),
    ):
        with pytest.raises(InputError, match=says):
            encoder.prepare(items)


def test_references_are_those_of_a_naive_computation(table):
    data = nearfar.data(table)
    x, train = values(data).astype(np.float64), data.splits["train"]
    z = (x - x[train].mean(0)) / x[train].std(0)
    found = standardised(data, "vector", values(data))(values(data))
    assert np.allclose(found, z, atol=1e-4)
    axes = np.linalg.svd(z[train] - z[train].mean(0))[2]
    share = np.linalg.svd(z[train] - z[train].mean(0), compute_uv=False) ** 2
    kept = int(np.argmax(np.cumsum(share) / share.sum() >= 0.9)) + 1
    projected = main_components(found[train])(found)
    assert projected.shape[1] == kept
    assert np.allclose(np.abs(projected), np.abs((z - z[train].mean(0)) @ axes[:kept].T), atol=1e-3)


def test_pairs_of_rows(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 3))
    rows = [(*row, *(row + 0.01)) for row in x.round(4)]
    path = write(tmp_path / "t.csv", ["a_0", "a_1", "a_2", "b_0", "b_1", "b_2"], rows)
    run = nearfar.fit("pairs", path, vector="a_*", vector_b="b_*", steps=3, out=tmp_path / "run", progress=False)
    assert run.scores["test"]["primary_name"] == "hit@1"
    with pytest.raises(InputError, match=r"'vector' has 3 numbers and 'vector_b' 2: both sides pass one encoder"):
        nearfar.fit("pairs", path, vector="a_*", vector_b="b_0,b_1", dry_run=True)


@pytest.fixture(scope="module")
def way(tmp_path_factory):
    """The commands in order, in one folder; a model that was trained on a table."""
    folder = tmp_path_factory.mktemp("way")
    x, kind = two_kinds(np.random.default_rng(0), 120)
    rows = [(*(f"{v:.6g}" for v in row), k) for row, k in zip(x, kind, strict=True)]
    path = write(folder / "t.csv", ["height", "mass", "noise_a", "noise_b", "label"], rows)
    words = ["fit", "simclr", str(path), "--steps", "30", "--vector-width", "32", "--out", str(folder / "run")]
    assert cli.main(words) == 0
    return folder, path


def test_the_whole_way(way, tmp_path, capsys):
    folder, path = way

    def told(*words):
        capsys.readouterr()
        assert cli.main([*map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    model = nearfar.load(folder / "run" / "model", verify=True)
    assert model.embed(np.zeros((2, 4))).shape == (2, 32)
    assert "embed([[" in (folder / "run" / "model" / "README.md").read_text()
    found = told("evaluate", folder / "run", path)
    scores = {row["slug"]: row["primary"] for row in found["rows"]}
    assert list(scores) == ["model", "chance", "raw", "pca"]
    assert min(scores["model"], scores["raw"], scores["pca"]) > 0.8 > scores["chance"]
    index = tmp_path / "index"
    assert told("embed", folder / "run", path, "--out", index)["added"] == 120
    row = path.read_text().splitlines()[5].split(",")
    hits = told("search", index, ",".join(row[:4]), "--k", 2)
    assert hits[0]["mass"] == float(row[1])
    assert hits[0]["score"] == pytest.approx(1, abs=1e-4)
    for query, says in (("1,2,x,4", "'x' is not a number"), ("1,2", "takes rows of 4 numbers"), ("a cat", "'a'")):
        assert cli.main(["search", str(index), query]) == 2
        assert says in capsys.readouterr().err
    assert cli.main(["report", str(folder / "run")]) == 0
    assert "data:image/" in (folder / "run" / "report.html").read_text()


def test_compare_and_a_table_without_labels(way, tmp_path, capsys):
    _, path = way
    words = ["compare", str(path), "--methods", "simclr,nnclr", "--seeds", "1", "--steps", "2", "--out",
             str(tmp_path / "c"), "--label", "none", "--vector", "height,mass,noise_*"]  # fmt: skip
    capsys.readouterr()
    assert cli.main([*words, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["task"]["kind"] == "proxy"
    assert {row["slug"] for row in results["rows"]} == {"chance", "raw", "pca", "untrained", "simclr", "nnclr"}
