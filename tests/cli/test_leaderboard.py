"""The leaderboard on terminals of every width: no number and no name is cut."""

import pytest

from nearfar.cli import tables
from tests.reporting.sample import results


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
