"""The worked example of docs/adding.md: a method in 60 lines, trained end to end, from Python and the command line."""

import importlib.util
import json
import math
import sys

import numpy as np
import pytest
import torch

import nearfar
from nearfar import methods
from nearfar.cli import main
from tests.docs import pages


@pytest.fixture(scope="module")
def example():
    if "align_uniform" in sys.modules:
        return sys.modules["align_uniform"]
    place = pages.ROOT / "docs" / "examples" / "align_uniform.py"
    spec = importlib.util.spec_from_file_location("align_uniform", place)
    module = sys.modules["align_uniform"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_known_and_described_from_its_signature(example):
    found = methods.describe("align-uniform")
    told = {o["name"]: o for o in found["options"]}
    assert found["needs"] == [["image"], ["text"]]
    assert told["t"]["default"] == told["t"]["paper"] == 2.0
    assert all(o["help"] for o in told.values())


def test_it_stays_about_sixty_lines():
    lines = (pages.ROOT / "docs" / "examples" / "align_uniform.py").read_text().splitlines()
    assert len(lines) <= 65


def test_its_loss_is_the_equation(example):
    z = [torch.nn.functional.normalize(torch.randn(6, 5, dtype=torch.float64), dim=1) for _ in range(2)]
    align = float((z[0] - z[1]).pow(2).sum(1).mean())
    spread = []
    for x in z:
        terms = [math.exp(-1.5 * float((x[i] - x[j]).pow(2).sum())) for i in range(6) for j in range(6) if i != j]
        spread.append(math.log(sum(terms) / len(terms)))
    got = example.align_uniform(z[0], z[1], t=1.5, weight=0.7)
    assert float(got) == pytest.approx(align + 0.7 * sum(spread) / 2)


def test_it_trains_from_the_command_line(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [
        "fit",
        "align-uniform",
        "emoji",
        "--limit",
        "400",
        "--steps",
        "30",
        "--batch-size",
        "16",
        "--weight",
        "0.5",
        "--val-every",
        "0",
        "--out",
        "run",
        "--json",
    ]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["plan"]["options"]["weight"] == 0.5
    assert 0 <= told["scores"]["test"]["metrics"]["hit@1"] <= 1
    curve = [json.loads(line) for line in (tmp_path / "run" / "curve.jsonl").read_text().splitlines()]
    assert curve[-1]["step"] == 30
    assert "uniformity" in curve[-1]
    assert np.mean([c["loss"] for c in curve[-5:]]) < np.mean([c["loss"] for c in curve[:5]])
    vectors = nearfar.load(tmp_path / "run" / "model", verify=True).embed_images(
        [np.full((48, 48, 3), v, np.uint8) for v in (0, 255)]
    )
    assert vectors.shape == (2, 256)


def test_it_composes_with_views_and_refuses_a_wrong_option(example, capsys):
    assert (
        main(
            [
                "fit",
                "align-uniform",
                "emoji",
                "--limit",
                "400",
                "--steps",
                "4",
                "--batch-size",
                "8",
                "--views",
                "members",
                "--dry-run",
            ]
        )
        == 0
    )
    assert "4 steps of 8 items" in capsys.readouterr().out
    assert main(["fit", "align-uniform", "emoji", "--wieght", "1"]) == 2
    assert "Did you mean '--weight'?" in capsys.readouterr().err
