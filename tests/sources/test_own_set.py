"""A data set from one file of another package is opened by its name, wherever data are named."""

import pytest

import nearfar
from nearfar import cli
from nearfar.errors import InputError
from nearfar.registry import DATA_SETS
from nearfar.sources import sets

OWN = """
from datasets import Dataset

from nearfar.sources.raw import Raw


def open_numerals(seed: int = 0) -> Raw:
    rows = [(f"number {n}", "even" if (n + seed) % 2 == 0 else "odd") for n in range(40)]
    table = Dataset.from_dict({"text": [a for a, _ in rows], "label": [b for _, b in rows]})
    return Raw(name="numerals", path=None, kind="built-in texts", table=table, fingerprint=f"numerals-{seed}",
               roles={"text": "text", "label": ["label"]}, reasons={})
"""


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    """A package with one module and its entry point, as pip leaves it."""
    info = tmp_path / "numerals-1.0.dist-info"
    info.mkdir()
    (tmp_path / "numerals.py").write_text(OWN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numerals\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nearfar.data_sets]\nnumerals = numerals:open_numerals\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def test_it_is_opened_by_name(capsys):
    assert sets.names() == [*DATA_SETS.own(), "numerals"]
    assert nearfar.data("numerals").values("label", [0, 1]) == ["even", "odd"]
    assert len(nearfar.data("numerals", limit=10)) == 10
    assert cli.main(["data", "numerals"]) == 0
    assert "40" in capsys.readouterr().out
    assert cli.main(["--help"]) == 0
    assert ", ".join(sets.names()) in " ".join(capsys.readouterr().out.split())


def test_a_name_that_is_nearly_right():
    with pytest.raises(InputError, match="Did you mean 'numerals'"):
        nearfar.data("numeral")
