"""A user's folder of images/ and masks/: trained on, measured, compared, reported."""

import json

import numpy as np
import pytest

from nearfar.cli import main
from nearfar.models import load
from tests.evaluation.test_dense_task import folder_of

QUICK = ("--steps", "3", "--batch-size", "8", "--val-every", "0")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = folder_of(tmp_path_factory.mktemp("user") / "shapes", 24)
    (folder / "few.csv").unlink()
    (folder / "classes.txt").write_text("ground\ndisc\nbar\n")
    return folder


def done(capsys, *words):
    code = main([str(w) for w in words])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return shown


def test_fit_and_evaluate(shapes, tmp_path, capsys):
    assert "Masks 24; 3 classes" in done(capsys, "data", shapes).out
    told = json.loads(done(capsys, "data", shapes, "--json").out)
    classes = {"ground": 24, "disc": 24, "bar": 24}
    assert told["masks"] == {"images": 24, "without": 0, "classes": classes, "ignore": True}
    run = tmp_path / "run"
    done(capsys, "fit", "pixpro", shapes, *QUICK, "--out", run)
    told = json.loads((run / "scores.json").read_text())
    assert told["summary"]["kind"] == "dense"
    found = json.loads(done(capsys, "evaluate", run, shapes, "--task", "dense", "--layer", "2", "--json").out)
    rows = {row["slug"]: row for row in found["rows"]}
    assert list(rows) == ["model", "chance", "pixels", "hog", "both"]
    assert set(rows["model"]["directions"]) == {"ground", "disc", "bar"}
    assert rows["model"]["bootstrap"][0] <= rows["model"]["primary"] <= rows["model"]["bootstrap"][1]
    assert main(["evaluate", str(run), str(shapes), "--layer", "9"]) == 2
    assert "layers 1 to 4" in capsys.readouterr().err
    assert load(run / "model").embed_images([shapes / "images" / "000.png"]).shape == (1, 192)


def test_a_wrong_layer_is_told_before_training(shapes, tmp_path, capsys):
    assert main(["fit", "simclr", str(shapes), *QUICK, "--layer", "5", "--out", str(tmp_path / "run")]) == 2
    assert "layers 1 to 4" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()


def test_compare_and_its_report(shapes, tmp_path, capsys):
    shown = done(capsys, "compare", shapes, "--methods", "simclr,mcl", *QUICK, "--seeds", "1", "--out", tmp_path / "c")
    assert "mIoU" in shown.out
    assert "pixel accuracy" in shown.out
    results = json.loads((tmp_path / "c" / "results.json").read_text())
    assert results["task"]["kind"] == "dense"
    labels = [row["label"] for row in results["rows"]]
    assert labels[:5] == ["majority class", "raw pixels", "HOG", "raw pixels + HOG", "untrained encoder"]
    assert all(np.isfinite(row["mean"]) for row in results["rows"])
    page = (tmp_path / "c" / "report.html").read_text()
    assert "Masks, true and found" in page
    assert 'alt="true mask of images/' in page
    assert "By class" in page
    masks = results["masks"]["simclr"]
    assert len(masks) >= 4
    assert {"key", "image", "truth", "found", "miou"} == set(masks[0])
