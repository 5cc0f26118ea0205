"""What `nearfar explore` shows of an index: the table against data and loops, the page over HTTP and in a browser."""

import base64
import io
import json
import shutil
import socket
import sys
import threading
from contextlib import closing

import numpy as np
import pytest
import torch
from PIL import Image

import nearfar
from nearfar import encoders, heads, indexing
from nearfar.cli import main
from nearfar.errors import InputError
from nearfar.exploring import explore, places
from nearfar.exploring.charts import NEAREST, ROW, X, Y
from nearfar.models import save_model
from nearfar.sources import open_data

from . import browser

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}


def paint(folder, kind, name, seed):
    folder.joinpath(kind).mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-30, 30, (20, 20, 3))
    pixels = np.clip(np.array(COLOURS[kind]) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(folder / kind / f"{name}.png")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of 40 images of two classes, one of them twice and one in the wrong folder, a model, and an index."""
    root = tmp_path_factory.mktemp("explore")
    for kind in COLOURS:
        for k in range(20):
            paint(root / "images", kind, f"{k:02}", seed=100 * len(kind) + k)
    (root / "images" / "red" / "copy.png").write_bytes((root / "images" / "red" / "03.png").read_bytes())
    (root / "images" / "red" / "wrong.png").write_bytes((root / "images" / "blue" / "05.png").read_bytes())
    (root / "images" / "blue" / "05.png").unlink()
    torch.manual_seed(0)
    save_model(root / "model", {"image": (encoders.image(size=16, dim=24), heads.linear(24, 16))}, {"method": "simclr"})
    nearfar.embed(root / "model", root / "images", out=root / "index")
    return root


@pytest.fixture(scope="module")
def atlas(made):
    return explore(made / "index", projection="pca", k=5)


def test_the_table_says_of_each_row_what_the_data_say(made, atlas):
    data = open_data(made / "images")
    rows = {row["key"]: row for row in atlas.table.to_pylist()}
    assert sorted(rows) == sorted(data.keys)
    for name, part in data.splits.items():
        assert {rows[data.keys[row]]["split"] for row in part} <= {name}
    for key, row in rows.items():
        assert row["label"] == key.split("/")[0]
        image = Image.open(io.BytesIO(base64.b64decode(row["thumbnail"].partition(",")[2]))).convert("RGB")
        shown = np.asarray(image).reshape(-1, 3).mean(0)
        true = np.asarray(Image.open(made / "images" / key)).reshape(-1, 3).mean(0)
        assert np.allclose(shown, true, atol=8)


def test_neighbours_and_oddities_are_those_of_loops(made, atlas):
    index, rows = indexing.open_index(made / "index"), atlas.table.to_pylist()
    z = np.stack([index.vector(row["key"]) for row in rows]).astype(np.float64)
    places_of = {row["key"]: k for k, row in enumerate(rows)}
    twins = {places_of["red/03.png"], places_of["red/copy.png"]}
    for k, row in enumerate(rows):
        others = [j for j in range(len(rows)) if j != k and {j, k} != twins]
        gaps = {j: 1 - float(z[k] @ z[j]) for j in others}
        assert np.allclose(row[NEAREST]["distances"], sorted(gaps.values())[:15], atol=1e-5)
        near = row[NEAREST]["ids"][:5]
        assert row[ROW] == k
        assert row["isolation"] == pytest.approx(np.mean([gaps[j] for j in near]), abs=1e-5)
        votes = [rows[j]["label"] for j in near]
        other = "blue" if row["label"] == "red" else "red"
        assert row["label_around"] == (other if votes.count(other) > 2.5 else None)
        assert row["false_negative"] == (None if votes[0] == row["label"] else rows[near[0]]["key"])
    assert rows[places_of["red/wrong.png"]]["label_around"] == "blue"
    assert "unlike label" in rows[places_of["red/wrong.png"]]["issue"]


def test_what_was_computed_is_kept_and_a_damaged_part_is_made_anew(made, atlas):
    folder = made / "index" / "explore"
    kept = sorted(folder.iterdir())
    assert [path.name.split("-")[0] for path in kept] == ["cosines", "nearest", "pca"]
    said, times = [], [path.stat().st_mtime_ns for path in kept]
    again = explore(made / "index", projection="pca", k=5, say=said.append)
    assert said == []
    assert again.table.equals(atlas.table)
    assert [path.stat().st_mtime_ns for path in kept] == times
    kept[2].write_bytes(kept[2].read_bytes()[:-40] + b"x" * 40)
    again = explore(made / "index", projection="pca", k=5, say=said.append)
    assert said == ["projecting 41 vectors (pca)"]
    assert again.table.equals(atlas.table)


def test_an_index_that_has_grown_is_projected_anew(made, tmp_path):
    shutil.copytree(made / "index", tmp_path / "index")
    for k in range(3):  # of names that are taken
        paint(tmp_path / "more", "blue", f"{k:02}", seed=k)
        paint(tmp_path / "more", "red", f"{k:02}", seed=50 + k)
    nearfar.embed(made / "model", tmp_path / "more", out=tmp_path / "index", append=True)
    said = []
    grown = explore(tmp_path / "index", projection="pca", say=said.append)
    assert grown.table.num_rows == 47
    assert any("projecting 47" in one for one in said)
    assert None not in grown.table["thumbnail"].to_pylist()
    assert None not in grown.table["label"].to_pylist()
    (tmp_path / "more").rename(tmp_path / "away")
    said.clear()
    assert explore(tmp_path / "index", projection="pca", say=said.append).table.num_rows == 47
    assert "name the data" in said[0]
    named = explore(tmp_path / "index", tmp_path / "away", projection="pca")
    shown = {row["key"] for row in named.table.to_pylist() if row["thumbnail"] is not None}
    assert shown == {f"more/{kind}/{k:02}.png" for kind in COLOURS for k in range(3)}


def test_rows_that_have_only_numbers_are_known_by_what_they_say(tmp_path):
    """A line that was put in above moves every number."""
    words = ["apple", "pear", "plum", "nut", "fig", "date"]
    rows = [f"the {word} is {k},{'ab'[k % 2]}" for k, word in enumerate(words)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *rows, ""]))
    torch.manual_seed(0)
    tower = encoders.text("small", texts=words, vocabulary=60, dim=16)
    save_model(tmp_path / "model", {"text": tower}, {"method": "simcse"})
    nearfar.embed(tmp_path / "model", tmp_path / "t.csv", out=tmp_path / "index", columns="none")
    (tmp_path / "t.csv").write_text("\n".join(["text,label", "a new line,b", *rows[:4], "the last line,a", ""]))
    said = []
    found = explore(tmp_path / "index", projection="pca", say=said.append)
    assert found.table["label"].to_pylist() == ["a", "b", "a", "b", None, None]
    assert found.table["item"].to_pylist() == [row.split(",")[0] for row in rows[:4]] + [None, None]
    assert "2 of 6 rows of" in said[0]


def test_few_rows_of_many_are_drawn_and_an_index_without_data_is_shown(tmp_path):
    z = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    keys = [f"row {k}" for k in range(50)]
    columns = {"kind": ["a", "b"] * 25, "key_": list(range(50))}
    indexing.build_index(tmp_path / "index", z, keys, columns, model_hash="m")
    said = []
    few = explore(tmp_path / "index", projection="pca", rows=20, label="kind", say=said.append)
    assert (few.table.num_rows, few.of) == (20, 50)
    assert "20 of 50 rows are drawn" in said[0]
    assert set(few.table["kind"].to_pylist()) == {"a", "b"}
    kinds, names = few.table["kind"].to_pylist(), few.table["key"].to_pylist()
    shown = np.stack([z[int(name[4:])] / np.linalg.norm(z[int(name[4:])]) for name in names])
    nearest = (shown @ shown.T - 3 * np.eye(20)).argmax(1)
    expected = [None if kinds[j] == kinds[i] else names[j] for i, j in enumerate(nearest)]
    assert few.table["false_negative"].to_pylist() == expected
    with pytest.raises(InputError, match="no column 'sort' for --label"):
        explore(tmp_path / "index", projection="pca", label="sort")


def test_main_components_are_those_of_the_singular_vectors():
    z = np.random.default_rng(0).normal(size=(40, 6)) * [5, 3, 1, 1, 1, 1]
    found = places.project(z, None, "pca")
    u, s, _ = np.linalg.svd(z - z.mean(0), full_matrices=False)
    expected = u[:, :2] * s[:2]
    expected /= np.abs(expected).max()
    assert np.allclose(np.abs(found), np.abs(expected), atol=1e-4)
    assert not places.project(np.ones((3, 4)), None, "pca").any()


@pytest.mark.parametrize(("words", "says"), [
    (["nothing"], "There is no nearfar index"),
    ([".", "--browser", "none"], "There is no nearfar index"),
    (["index", "--port", "6000"], "Browsers refuse"),
    (["index", "--browser", "lynxx"], "There is no browser 'lynxx'"),
    (["index", "--projection", "tsne"], "projection"),
])  # fmt: skip
def test_what_is_wrong_is_told(made, monkeypatch, capsys, words, says):
    monkeypatch.chdir(made)
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        free = str(one.getsockname()[1])
    assert main(["explore", *words, *([] if "--port" in words else ["--port", free])]) == 2
    assert says in capsys.readouterr().err


def test_what_is_not_installed_is_told_with_the_command(made, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "embedding_atlas.server", raising=False)
    monkeypatch.setitem(sys.modules, "embedding_atlas", None)
    assert main(["explore", str(made / "index")]) == 2
    assert "'embedding_atlas', which is not installed. Run: pip install 'nearfar[explore]'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match=r"UMAP needs the package 'umap'.*--projection pca"):
        explore(made / "index", rows=35)


def test_a_port_in_use_and_a_damaged_index_are_told(made, tmp_path, capsys):
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["explore", str(made / "index"), "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot be used" in capsys.readouterr().err
    shutil.copytree(made / "index", tmp_path / "index")
    (tmp_path / "index" / "vectors.npy").write_bytes(b"nothing")
    with pytest.raises(InputError, match="damaged"):
        explore(tmp_path / "index", projection="pca")


@pytest.fixture(scope="module")
def client(atlas):
    pytest.importorskip("embedding_atlas", reason="pip install 'nearfar[explore]'")
    from starlette.testclient import TestClient

    from nearfar.exploring.page import app_of

    return TestClient(app_of(atlas), base_url="http://127.0.0.1:5055")


def test_the_page_answers_itself_alone(client, atlas):
    props = client.get("/data/metadata.json").json()["props"]
    assert props["data"]["projection"] == {"x": X, "y": Y}
    count = {"type": "json", "sql": "select count(*) as n, count(thumbnail) as p from dataset"}
    assert client.post("/data/query", content=json.dumps(count)).json() == [{"n": 41, "p": 41}]
    assert "<title>Embedding Atlas</title>" in client.get("/").text
    read = {"type": "json", "sql": "select * from read_csv('/etc/passwd')"}
    assert client.post("/data/query", content=json.dumps(read)).status_code == 500
    for headers in ({"Origin": "http://elsewhere.example"}, {"Host": "elsewhere.example"}):
        assert client.post("/data/query", content=json.dumps(count), headers=headers).status_code == 403
    assert client.post("/data/query", content=json.dumps(count), headers={"Origin": "http://127.0.0.1:5055"}).is_success


@pytest.mark.slow
@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_shows_the_rows_and_asks_nobody_else(atlas, tmp_path):
    pytest.importorskip("embedding_atlas", reason="pip install 'nearfar[explore]'")
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    address, up = [], threading.Event()

    def started(where):
        address.append(where)
        up.set()

    threading.Thread(target=atlas.serve, args=(port, started), daemon=True).start()
    assert up.wait(120)
    with browser.opened(address[0], tmp_path) as page:
        cells = set(atlas.table["thumbnail"].to_pylist())
        wanted = {"41 points", "Map without WebGPU", "blue"}
        page.wait(lambda: all(words in str(page.ask("document.body?.innerText")) for words in wanted)
                  and cells & set(page.requests))  # fmt: skip
        away = [one for one in page.requests if not one.startswith((address[0], "data:", "blob:", "about:"))]
        assert away == []
        assert page.errors == []
        (tmp_path / "page.png").write_bytes(page.screenshot())
        assert len(np.unique(np.asarray(Image.open(tmp_path / "page.png")).reshape(-1, 3), axis=0)) > 20


@pytest.mark.slow
def test_umap_keeps_clusters_together(tmp_path):
    pytest.importorskip("umap", reason="pip install 'nearfar[explore]'")
    from nearfar.evaluation import issues

    rng, threads = np.random.default_rng(0), torch.get_num_threads()
    of = np.repeat(np.arange(4), 20)
    z = np.eye(8)[of] + 0.05 * rng.normal(size=(80, 8))
    found = places.project(z / np.linalg.norm(z, axis=1, keepdims=True), issues.neighbours(z, places.NEAR), "umap")
    assert torch.get_num_threads() == threads, "numba would change them, and so the bits of the next training"
    middle = np.stack([found[of == k].mean(0) for k in range(4)])
    assert (np.linalg.norm(found[:, None] - middle[None], axis=2).argmin(1) == of).all()
