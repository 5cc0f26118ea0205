"""The leaderboard, and the scores of one model, on terminals of every width: no number and no name is cut."""

import pytest

from nearfar.cli import tables
from tests.reporting.sample import results, two_kinds


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_nothing_is_cut(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    found = results()
    tables.leaderboard(found)
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    together = " ".join(shown.split())
    for row in found["rows"]:
        assert row["label"] in together
        assert f"{100 * row['mean']:.1f}" in together


def test_rows_that_see_labels_are_listed_apart(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    found = two_kinds()
    tables.leaderboard(found)
    lines = capsys.readouterr().out.splitlines()
    heads = [k for k, line in enumerate(lines) if line.strip() in ("without labels", "with labels")]
    assert len(heads) == 2
    label = next(row["label"] for row in found["rows"] if row["slug"] == "pairs")
    own = [k for k, line in enumerate(lines) if line.strip().startswith(f"{label} ")]
    assert own[0] == heads[1] + 1, "the best of all stands with its own kind"
    assert lines[own[0]].strip().startswith(f"{label} *")


LONG = ["knn", "probe", "hit@1", "hit@10", "recall@10", "mrr", "ndcg@10"]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_nothing_of_an_evaluation_is_cut(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    metrics = {name: 0.111 * (k + 1) for k, name in enumerate(LONG)}
    share = {"unit": "share", "higher_is_better": True, "brief": True}
    known = {name: {"label": f"{name} accuracy" if len(name) > 3 else name, **share} for name in LONG}
    task = {"primary": "knn", "label": "kNN accuracy", **share, "description": "d", "metrics": known}
    same = {"metrics": metrics, "directions": {"d": metrics}}
    rows = [
        {"label": "runs/a", "bootstrap": [0.767, 1.0], "primary": 0.9, **same},
        {"label": "chance", "bootstrap": [None, None], "primary": 0.3, **same},
    ]
    tables.evaluation({"task": task, "rows": rows})
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert "-..-" not in shown
    assert max(map(len, shown.splitlines())) <= width
    words = shown.split()
    assert "76.7..100.0" in words
    for name, value in metrics.items():
        assert words.count(f"{100 * value:.1f}") == 2, name


def test_an_evaluation_shows_domains_and_their_mean(capsys):
    task = {"primary": "knn", "label": "kNN", "unit": "share", "higher_is_better": True, "description": "d"}
    domains = {"German": {"rows": 1200, "knn": 0.111}, "French": {"rows": 7, "knn": 0.333}}
    row = {"label": "runs/a", "bootstrap": None, "primary": 0.2, "metrics": {"knn": 0.2}, "directions": {}}
    tables.evaluation({"task": task, "rows": [row | {"domains": domains}]})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["German", "1,200", "11.1"] in lines
    assert ["mean", "over", "domains", "22.2"] in lines
    tables.evaluation({"task": task, "rows": [row]})
    assert "domain" not in capsys.readouterr().out
