"""The commands end to end on a user's own small data: real training, real files, what is printed."""

import contextlib
import json
import re

import numpy as np
import pytest
from PIL import Image

import nearfar
from nearfar.cli import COMMANDS, main
from nearfar.methods.documentation import parse

SHAPES = ("disc", "square", "cross", "ring")


def drawing(kind, rng, size=40):
    """A shape of random colour, place and size on a noisy ground."""
    y, x = np.mgrid[:size, :size]
    (cx, cy), r = rng.uniform(14, 26, 2), rng.uniform(8, 13)
    d = np.hypot(x - cx, y - cy)
    mask = {
        "disc": d < r,
        "ring": (d < r) & (d > r / 2),
        "square": np.maximum(abs(x - cx), abs(y - cy)) < r * 0.8,
        "cross": (abs(x - cx) < r / 3) | (abs(y - cy) < r / 3),
    }[kind]
    image = rng.integers(180, 255, (size, size, 3))
    image[mask] = rng.integers(0, 160, 3)
    return Image.fromarray(image.astype(np.uint8))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An image folder with classes, a csv of pairs beside its images, a text file."""
    root, rng = tmp_path_factory.mktemp("user"), np.random.default_rng(0)
    lines = ["image,caption"]
    for i in range(120):
        kind = SHAPES[i % 4]
        image = drawing(kind, rng)
        for place in (root / "classes" / kind, root / "pairs" / "img"):
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{i:03}.png")
        lines.append(f"img/{i:03}.png,a {kind} number {i} drawn by hand")
    (root / "pairs" / "pairs.csv").write_text("\n".join(lines) + "\n")
    words = ["river", "stone", "market", "winter", "garden", "letter", "engine", "harbour", "violin", "bread"]
    passages = [" ".join(rng.choice(words, 30)) + f" chapter {i}" for i in range(120)]
    (root / "passages.txt").write_text("\n".join(passages) + "\n")
    return root


def done(capsys, *words):
    code = main([str(w) for w in words])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return shown


QUICK = ("--steps", "4", "--batch-size", "16", "--val-every", "0")


def test_the_help_of_a_task_names_them_all(capsys):
    for command in ("fit", "evaluate"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        said = capsys.readouterr().out.partition("--task")[2].partition("  --")[0]
        assert {"classification", "regression", "separation", "bags", "sts"} <= set(re.split(r"[,;\s]+", said))


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_a_terminal_of_80_columns(command, capsys):
    with contextlib.suppress(SystemExit):
        main([*([command] if command else []), "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    if command == "data":
        whole = " ".join(" ".join(lines).split())
        assert "or by-time --titles" in whole, "a colon within brackets begins no option"
        assert "json: {class: [attributes]})" in whole


def test_the_arguments_of_a_docstring():
    """What it does."""
    found = parse("""Says something.

    Args:
        a: one (of these: x; y: z), [0, 1); b: two and
            more: in detail.
        d: three; e: four.

    Returns: nothing.
    """)
    assert found == {"a": "one (of these: x; y: z), [0, 1)", "b": "two and more: in detail",
                     "d": "three", "e": "four"}  # fmt: skip
    inline = parse("""Says something.

    Args: width: of it; depth: how often
        it is.
    """)
    assert inline == {"width": "of it", "depth": "how often it is"}


def test_help_and_version(capsys):
    assert "compare DATA" in done(capsys, "--help").out
    assert nearfar.__version__ in done(capsys, "--version").out
    with pytest.raises(SystemExit) as stop:
        main(["fit", "swav", "--help"])
    assert stop.value.code == 0
    assert "--prototypes" in capsys.readouterr().out


def test_methods(capsys):
    assert "swav" in done(capsys, "methods").out
    assert "Sinkhorn" in done(capsys, "methods", "swav").out
    found = json.loads(done(capsys, "methods", "--json").out)
    assert {m["slug"] for m in found} >= {"simclr", "dcl", "swav", "pairs", "align", "contriever"}
    swav = next(m for m in found if m["slug"] == "swav")
    assert swav["paper"]["venue"] == "NeurIPS 2020"
    eps = next(o for o in swav["options"] if o["name"] == "eps")
    assert eps["default"] == "auto"
    assert eps["paper"] == 0.05
    assert all(o["help"] for m in found for o in m["options"]), "every option is documented"


def test_images_from_folder_to_search(folders, tmp_path, capsys):
    data, run, index = folders / "classes", tmp_path / "run", tmp_path / "index"
    plan = json.loads(done(capsys, "fit", "simclr", data, *QUICK, "--dry-run", "--json").out)
    assert plan["path"] is None
    assert plan["plan"]["estimated_seconds"] > 0
    shown = done(capsys, "fit", "simclr", data, *QUICK, "--out", run)
    assert "kNN" in shown.out
    assert "nearfar report" in shown.out
    config = json.loads((run / "config.json").read_text())
    scores = json.loads((run / "scores.json").read_text())
    assert config["data_hash"] == scores["data_hash"]
    assert {"split_hash", "seed", "precision", "batch_size", "versions"} <= scores.keys()
    found = json.loads(done(capsys, "evaluate", run, data, "--json").out)
    assert found["rows"][0]["primary"] == pytest.approx(scores["scores"]["test"]["primary"], abs=1e-9)
    assert {"chance", "pixels", "hog"} <= {r["slug"] for r in found["rows"]}
    diagnosis = json.loads(done(capsys, "diagnose", run, data, "--json").out)
    assert all(d["advice"] and d["verdict"] for d in diagnosis)
    done(capsys, "embed", run, data, "--out", index)
    image = next((data / "disc").glob("*.png"))
    hits = json.loads(done(capsys, "search", index, image, "--k", "3", "--json").out)
    assert hits[0]["key"].endswith(image.name)
    assert hits[0]["score"] == pytest.approx(1, abs=1e-5)
    only = json.loads(done(capsys, "search", index, image, "--where", "label = 'ring'", "--json").out)
    assert {h["label"] for h in only} == {"ring"}
    near = json.loads(done(capsys, "search", index, f"key:{hits[0]['key']}", "--k", "2", "--json").out)
    assert [h["key"] for h in near] == [h["key"] for h in hits[1:]], "an item does not find itself"
    both = json.loads(done(capsys, "search", index, image, "--plus", f"key:{hits[1]['key']}", "--json").out)
    assert both[0]["key"] == hits[0]["key"]
    assert hits[1]["key"] not in {h["key"] for h in both}
    assert both[0]["score"] == pytest.approx(((1 + hits[1]["score"]) / 2) ** 0.5, abs=1e-4)
    assert main(["search", str(index), str(image), "--minus", f"key:{hits[0]['key']}"]) == 2
    assert "cancel out" in capsys.readouterr().err
    assert main(["search", str(index), "a disc"]) == 2
    assert "images only" in capsys.readouterr().err


def test_embedding_appends_and_refuses_another_model(folders, tmp_path, capsys):
    data = tmp_path / "grow"
    data.mkdir()
    source = sorted((folders / "classes" / "disc").glob("*.png"))
    for p in source[:20]:
        (data / p.name).write_bytes(p.read_bytes())
    done(capsys, "fit", "simclr", data, "--steps", "2", "--batch-size", "4", "--out", tmp_path / "run")
    done(capsys, "fit", "simclr", data, "--steps", "2", "--batch-size", "4", "--seed", "5", "--out", tmp_path / "other")
    outs = [tmp_path / "v.parquet", tmp_path / "v.npy", tmp_path / "index"]
    for out in outs:
        done(capsys, "embed", tmp_path / "run", data, "--out", out)
        assert main(["embed", str(tmp_path / "run"), str(data), "--out", str(out)]) == 2
        assert "--append" in capsys.readouterr().err
    for p in source[20:25]:
        (data / p.name).write_bytes(p.read_bytes())
    for out in outs:
        done(capsys, "embed", tmp_path / "run", data, "--out", out, "--append")
        assert main(["embed", str(tmp_path / "other"), str(data), "--out", str(out), "--append"]) == 2
        assert "another model" in capsys.readouterr().err
    import pyarrow.parquet as pq

    table = pq.read_table(outs[0])
    vectors, keys = np.load(outs[1]), json.loads(outs[1].with_suffix(".keys.json").read_text())["keys"]
    assert table.num_rows == len(vectors) == len(keys) == 25
    assert table["key"].to_pylist() == keys
    assert np.allclose(np.stack(table["vector"].to_pylist()), vectors)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert not list(tmp_path.glob(".*.parts"))


def test_compare_is_fair_and_resumable(folders, tmp_path, capsys):
    out = tmp_path / "cmp"
    words = [
        "compare",
        folders / "classes",
        "--methods",
        "simclr,dcl --sigma 0.5",
        "--seeds",
        "2",
        *QUICK,
        "--out",
        out,
    ]
    shown = done(capsys, *words)
    assert "raw pixels" in shown.out
    results = json.loads((out / "results.json").read_text())
    assert {r["kind"] for r in results["rows"]} == {"chance", "reference", "untrained", "method"}
    trained = [r for r in results["rows"] if r["kind"] == "method"]
    assert [len(r["seeds"]) for r in trained] == [2, 2]
    assert all(c["samples"] == trained[0]["seeds"][0]["samples"] for r in trained for c in r["seeds"])
    assert results["best_on_validation"] in {r["slug"] for r in trained}
    assert (out / "report.html").stat().st_size > 10_000
    assert nearfar.load(out / "best").modalities == ["image"]
    before = {p: p.stat().st_mtime_ns for p in out.glob("cells/*/scores.json")}
    (out / "cells" / "dcl-sigma-0-5-s1" / "scores.json").unlink()
    again = json.loads(done(capsys, *words, "--json").out)
    assert [r["mean"] for r in again["rows"]] == [r["mean"] for r in results["rows"]]
    after = {p: p.stat().st_mtime_ns for p in out.glob("cells/*/scores.json")}
    assert sum(before[p] != after[p] for p in before) == 1  # finished cells are not run again
    assert main([str(w) for w in ["compare", folders / "passages.txt", "--out", out, "--seeds", "1", *QUICK]]) == 2
    assert "other data" in capsys.readouterr().err


def test_pairs_of_images_and_captions(folders, tmp_path, capsys):
    shown = done(capsys, "fit", folders / "pairs" / "pairs.csv", *QUICK, "--out", tmp_path / "run")
    assert "method: align (each row pairs an image with a text)" in shown.out
    assert "masked" not in json.loads((tmp_path / "run" / "scores.json").read_text())["cost"]  # nothing is doubled here
    model = nearfar.load(tmp_path / "run" / "model", verify=True)
    assert model.modalities == ["image", "text"]
    assert model.embed(["a ring"]).shape == (1, model.dim)
    done(capsys, "embed", tmp_path / "run", folders / "pairs" / "pairs.csv", "--out", tmp_path / "index")
    hits = json.loads(done(capsys, "search", tmp_path / "index", "a ring drawn by hand", "--json").out)
    assert len(hits) == 10
    assert hits[0]["caption"].startswith("a ")


def test_text_file(folders, tmp_path, capsys):
    shown = done(capsys, "fit", folders / "passages.txt", *QUICK, "--out", tmp_path / "run")
    assert "method: contriever" in shown.out
    done(capsys, "embed", tmp_path / "run", folders / "passages.txt", "--out", tmp_path / "index")
    shown = done(capsys, "search", tmp_path / "index", "river stone market", "--k", "2")
    assert len(shown.out.splitlines()) == 2
    assert "text" in shown.out
    assert main(["search", str(tmp_path / "index"), " "]) == 2


def test_report_of_a_single_run(folders, tmp_path, capsys):
    done(capsys, "fit", "dcl", folders / "classes", *QUICK, "--out", tmp_path / "run")
    shown = done(capsys, "report", tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert str(tmp_path / "run" / "report.html") in shown.out
    assert "dcl" in page
    assert "http://" not in page.split("<script")[0]


def test_python_calls_have_the_commands_names(folders, tmp_path):
    run = nearfar.fit(
        "simclr",
        folders / "classes",
        steps=2,
        batch_size=8,
        val_every=0,
        out=tmp_path / "run",
        progress=False,
        views={"name": "multi-crop", "small": 1},
        loss="hcl",
        negatives="queue",
    )
    assert run.scores["test"]["primary"] >= 0
    assert run.plan["options"]["views"]["small"] == 1
    with pytest.raises(nearfar.InputError, match="Did you mean 'temperature'"):
        nearfar.fit("simclr", folders / "classes", temprature=0.1)
    assert {"simclr", "dcl"} <= {m["slug"] for m in nearfar.list_methods()}
    for name in ("data", "fit", "compare", "evaluate", "diagnose", "embed", "search", "report", "load"):
        assert callable(getattr(nearfar, name))
