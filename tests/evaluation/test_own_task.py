"""A task from one file of another package: everything knows it by its entry point, ranks and shows it rightly."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nearfar
from nearfar import cli
from nearfar.errors import InputError
from nearfar.evaluation import tasks
from nearfar.evaluation.comparison import compare_rows
from nearfar.evaluation.tasks import task_for
from nearfar.reporting.report import render
from nearfar.training.settings import TrainSettings

from .tiny import Vectors

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "uniformity.py"
OWN = '''
"""How long vectors are."""

import numpy as np

from nearfar.evaluation import Metric, Part, Reference, Scores, Table, Task


class MeanLength(Task):
    """Mean length of the vectors in the sum norm.

    Args:
        exponent: of the coordinates.
    """

    primary = "length"
    metrics = {"length": Metric("mean length", "value", higher_is_better=False),
               "long": Metric("share of long ones")}
    beside = "long"
    part = Part("half", "halves")
    chance_words = "all ones"

    def __init__(self, data, *, modalities=None, exponent: float = 1.0):
        super().__init__(data)
        self.roles, self.exponent = ("image",), exponent

    @classmethod
    def possible(cls, data, modalities=None):
        return "image" in data.roles

    def describe(self):
        return "The shortest vectors win."

    def evaluate(self, embed, split="val", *, examples=0):
        rows = self.rows(split)
        return self.scored(embed("image", rows), rows, split)

    def scored(self, z, rows, split):
        lengths = (np.abs(z) ** self.exponent).sum(1)
        value = float(lengths.mean())
        table = Table("Longest", ["row", "length"], [[str(self.data.keys[rows[0]]), f"{lengths[0]:.2f}"]])
        halves = {name: {"length": float(part.mean())} for name, part in zip("ab", np.array_split(lengths, 2))}
        return Scores("length", value, {"length": value, "long": float((lengths > 1).mean())}, halves,
                      {"all": lengths}, {"all": rows}, split=split, tables=[table])

    def references(self, *, size=32):
        def ones(split, examples=0):
            rows = self.rows(split)
            return self.scored(np.full((len(rows), 1), 1234.5), rows, split)

        return [Reference("ones", "ones", "reference", ones)]
'''


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    """A package with one module and its entry point, as pip leaves it."""
    site = tmp_path / "site"
    info = site / "lengths-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "lengths.py").write_text(OWN)
    shutil.copy(EXAMPLE, site)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lengths\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[nearfar.tasks]\nmean-length = lengths:MeanLength\nuniformity = uniformity:Uniformity\n"
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(60):
        path = tmp_path / "photos" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def run(capsys, *words):
    code = cli.main([str(word) for word in words])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return shown.out


def test_it_is_known_by_name(photos):
    data = nearfar.data(photos)
    assert "mean-length" in tasks.names()
    assert task_for(data, "mean-length").summary()["higher_is_better"] is False
    assert task_for(data, "mean-length --exponent 2").exponent == 2
    assert task_for(data).kind == "proxy", "without a priority it is measured only where asked for"
    with pytest.raises(InputError, match="Did you mean 'mean-length'"):
        TrainSettings(task="mean-lenght")
    with pytest.raises(InputError, match=r"has no option 'ways'\. It is one of few-shot"):
        task_for(data, "mean-length", ways=3)


def test_comparison_leaderboard_and_report(photos, tmp_path, capsys):
    out = tmp_path / "out"
    shown = run(
        capsys,
        "compare",
        photos,
        "--task",
        "mean-length",
        "--methods",
        "simclr,dcl",
        "--seeds",
        2,
        "--steps",
        2,
        "--batch-size",
        8,
        "--out",
        out,
    )
    results = json.loads((out / "results.json").read_text())
    means = {row["label"]: row["mean"] for row in results["rows"]}
    ranking = sorted(means, key=lambda label: means[label])
    assert means["ones"] == 1234.5
    assert ranking[-1] == "ones"

    assert "lower is better: mean length" in shown
    board = shown[shown.index("lower is better: mean length") :].partition("\n")[2]
    assert [re.split(" \\*|  ", line)[0] for line in board.splitlines()[1 : len(means) + 1]] == ranking
    assert re.search(r"^ones +1,234 ", board, re.M), "a value is not a percentage"
    assert "share of long ones" in board
    assert "100.0" in board, "the share beside it is one"
    best = min(
        ("simclr", "dcl"),
        key=lambda slug: np.mean(
            [cell["val"] for row in results["rows"] if row["slug"] == slug for cell in row["seeds"]]
        ),
    )
    assert results["best_on_validation"] == best
    for row in results["rows"]:
        if row["holds"] in (True, False):
            assert row["holds"] == (row["difference"]["mean"] < 0)

    html = (out / "report.html").read_text()
    table = html[html.index('<table class="board"') : html.index("</table>")]
    places = [table.index(f">{label}") for label in ranking]
    assert places == sorted(places)
    assert "mean length, lower is better." in html
    assert "1,234" in table
    assert "123450" not in html.replace(",", "")
    assert "By half" in html
    assert "Longest" in html
    assert 'id="tables"' in html


def test_fit_evaluate_and_report_of_a_run(photos, tmp_path, capsys):
    shown = run(
        capsys,
        "fit",
        "simclr",
        photos,
        "--task",
        "mean-length",
        "--steps",
        2,
        "--batch-size",
        8,
        "--out",
        tmp_path / "run",
    )
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())["scores"]["test"]
    assert f"{scores['metrics']['length']:.3g}" in shown
    assert "mean length" in shown
    found = json.loads(
        run(capsys, "evaluate", tmp_path / "run", photos, "--task", "mean-length", "--exponent", 2, "--json")
    )
    assert [row["label"] for row in found["rows"]][1:] == ["ones"]
    assert found["rows"][1]["primary"] == 1234.5**2
    shown = run(capsys, "evaluate", tmp_path / "run", photos, "--task", "mean-length")
    assert "lower is better: mean length" in shown
    assert "halves" in shown
    run(capsys, "report", tmp_path / "run")
    html = (tmp_path / "run" / "report.html").read_text()
    assert f"{scores['metrics']['length']:.3g}" in html
    assert "Longest" in html


def test_the_example_of_the_docs_and_scores_below_zero(photos):
    data = nearfar.data(photos)
    task = task_for(data, "uniformity", t=1.0)
    rng = np.random.default_rng(0)
    z = rng.normal(size=(len(data), 8))
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    rows = data.splits["test"]
    pairs = [np.exp(-((unit[a] - unit[b]) ** 2).sum()) for a in rows for b in rows if a < b]
    scores = task.evaluate(Vectors({"image": z}), "test")
    assert scores.primary == pytest.approx(np.log(np.mean(pairs)))
    assert scores.to_dict()["bootstrap"] is None
    assert task.references()[0].evaluate("test").primary == 0
    cells = {"one place": 0.0, "spread": -1.25, "between": -0.5}
    rows = [
        {
            "slug": name,
            "label": name,
            "kind": "reference",
            "seeds": [{"seed": 0, "primary": value, "status": "done", "metrics": {"uniformity": value}}],
        }
        for name, value in cells.items()
    ]
    decided = compare_rows(rows, "one place", metric=task.metric())
    assert decided["winner"] == "spread"
    assert "-0.750 against between" in decided["reason"]
    html = render({"task": task.summary(), "data": {"name": "photos"}, **decided})
    bars = re.findall(r'class="bar" style="width:([\d.]+)%;left:([\d.]+)%"', html)
    assert [(float(width) + float(left)) for width, left in bars] == pytest.approx([bars_end(bars)] * 3)
    assert [float(width) for width, _ in bars] == sorted((float(width) for width, _ in bars), reverse=True)
    assert "\N{MINUS SIGN}1.25" in html


def bars_end(bars):
    """All bars end at zero, where that of the score 0 lies."""
    return float(bars[-1][0]) + float(bars[-1][1])
